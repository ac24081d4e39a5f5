"""What `check` calls an error, training and measuring refuse or mend, kind by kind."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_files import coco, coco_box, coco_image, picture, put_image, put_text
from hardmine.cli.options import one_split
from hardmine.data.convert import convert
from hardmine.data.data_options import SplitChoice
from hardmine.data.formats.image_states import STATES_FILE
from hardmine.data.load_dataset import load_splits
from hardmine.data.quality.check_dataset import check_dataset
from hardmine.data.splits.split import split as split_data
from hardmine.errors import DataError
from hardmine.finding_kinds import (
    ENTRY_NOT_USED,
    IMAGE_LEFT_OUT,
    IMAGE_UNREVIEWED,
    IN_TRAINING,
    OBJECT_LEFT_OUT,
    POOL_ONLY,
    REFUSED,
    SAID,
    FindingKind,
    Severity,
)
from hardmine.loop.loop import run_loop
from hardmine.mining.candidates_file import hand_over
from hardmine.types import Dataset
from hardmine.workflows.cached_models import TrainingRequest, own_backend
from hardmine.workflows.check_data import check
from hardmine.workflows.image_sets import load_train_val
from hardmine.workflows.sets_apart import SeparateSets, describe_leaks
from hardmine.workflows.step_cache import Steps
from hardmine.workflows.train_and_evaluate import Measuring, evaluate, train

GOOD = [10, 8, 12, 10]
Kind = FindingKind


def write(root: Path, **more: Any) -> Path:
    """Eight images of 40 x 30 with a box each, of which the first is at fault, and one more picture."""
    images = [coco_image(i, f"{i}.png") for i in range(8)]
    boxes = [coco_box(i, [*GOOD[:2], GOOD[2] + i, GOOD[3]]) for i in range(8)]
    for i in range(9):
        put_image(root / f"{i}.png", i)
    images[0] |= more.get("image", {})
    boxes[0] |= more.get("box", {})
    images += more.get("images", [])
    boxes += more.get("boxes", [])
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, *more.get("categories", [])]
    return put_text(root / "c.json", coco(images, boxes, categories))


def spoil(root: Path, content: Callable[[bytes], bytes]) -> Path:
    path = write(root)
    (root / "0.png").write_bytes(content((root / "0.png").read_bytes()))
    return path


def all_boxes(root: Path, box: list[float]) -> Path:
    images = [coco_image(i, f"{i}.png") for i in range(8)]
    for i in range(8):
        put_image(root / f"{i}.png", i)
    return put_text(root / "c.json", coco(images, [coco_box(i, box) for i in range(8)]))


def claims_to_be_large() -> bytes:
    """Return a PNG that says it has 60,000 x 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13)
    return start + head + struct.pack(">I", zlib.crc32(head)) + struct.pack(">I", 99) + b"IDAT"


def put_turned(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = Image.Exif()
    turn[0x0112] = 6
    picture(seed).save(path, exif=turn)


def unturned(root: Path) -> Path:
    """Eight pictures stored as 40 x 30 and seen as 30 x 40, with boxes on the stored picture."""
    for i in range(8):
        put_turned(root / f"{i}.jpg", i)
    images = [coco_image(i, f"{i}.jpg", width=30, height=40) for i in range(8)]
    return put_text(
        root / "c.json", coco(images, [coco_box(i, [31, 4 + i, 8, 10]) for i in range(8)])
    )


def voc(root: Path, content: bytes = b"") -> Path:
    box = "<xmin>4</xmin><ymin>5</ymin><xmax>20</xmax><ymax>15</ymax>"
    good = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    for i in range(4):
        put_image(root / f"{i}.png", i)
        put_text(root / f"{i}.xml", good)
    if content:
        (root / "0.xml").write_bytes(content)
    return root


ENTITIES = b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
CASES: dict[FindingKind, Callable[[Path], Path]] = {
    Kind.IMAGE_MISSING: lambda r: write(r, image={"file_name": "gone.png"}),
    Kind.IMAGE_ZERO_BYTES: lambda r: spoil(r, lambda data: b""),
    Kind.IMAGE_TRUNCATED: lambda r: spoil(r, lambda data: data[: len(data) // 2]),
    Kind.IMAGE_NOT_IMAGE: lambda r: spoil(r, lambda data: b"<html>404</html>"),
    Kind.IMAGE_MALFORMED: lambda r: write(r, image={"id": None}),
    Kind.PATH_OUTSIDE: lambda r: write(r, image={"file_name": "../x.png"}),
    Kind.SIZE_DIFFERS: lambda r: write(r, image={"width": 50}),
    Kind.BOX_NAN: lambda r: write(r, box={"bbox": [float("nan"), 1, 2, 3]}),
    Kind.BOX_INFINITE: lambda r: write(r, box={"bbox": [float("inf"), 1, 2, 3]}),
    Kind.BOX_INVERTED: lambda r: write(r, box={"bbox": [20, 20, -5, 6]}),
    Kind.BOX_EMPTY: lambda r: write(r, box={"bbox": [20, 20, 0, 6]}),
    Kind.BOX_OUTSIDE: lambda r: write(r, box={"bbox": [90, 90, 5, 6]}),
    Kind.BOX_MALFORMED: lambda r: write(r, box={"bbox": [1, 2, 3]}),
    Kind.CLASS_UNKNOWN: lambda r: write(r, box={"category_id": 77}),
    Kind.IMAGE_ID_UNKNOWN: lambda r: write(r, boxes=[coco_box(99, GOOD)]),
    Kind.CATEGORY_MALFORMED: lambda r: write(r, categories=[{"id": 3}]),
    Kind.STATE_UNKNOWN: lambda r: write(r, image={"hardmine_state": "?"}),
    Kind.BOX_FORM: lambda r: all_boxes(r, [0.2, 0.2, 0.5, 0.5]),
    Kind.BOX_UNITS_MIXED: lambda r: write(r, box={"bbox": [0.2, 0.2, 0.5, 0.5]}),
    Kind.NO_OBJECTS: lambda r: all_boxes(r, [90, 90, 5, 5]),
    Kind.LABEL_BROKEN: lambda r: voc(r, b"<annotation>"),
    Kind.LABEL_ENTITIES: lambda r: voc(r, ENTITIES),
    Kind.LABEL_ENCODING: lambda r: voc(r, b"<annotation><filename>\xe9</filename></annotation>"),
    Kind.IMAGE_ID_REPEATED: lambda r: write(r, images=[coco_image(0, "8.png")]),
    Kind.STATE_CONTRADICTED: lambda r: write(r, image={"hardmine_state": "verified_empty"}),
    Kind.IMAGE_UNREADABLE: lambda r: spoil(r, lambda data: data[:45] + bytes(60) + data[105:]),
    Kind.IMAGE_TOO_LARGE: lambda r: spoil(r, lambda data: claims_to_be_large()),
    Kind.STATES_BROKEN: lambda r: put_text(voc(r) / STATES_FILE, "{").parent,
    Kind.BOXES_UNTURNED: unturned,
}


def test_every_error_has_its_rule() -> None:
    assert set(IN_TRAINING) == {kind for kind in FindingKind if kind.severity is Severity.ERROR}
    pools = {kind for kind, done in IN_TRAINING.items() if done in (POOL_ONLY, SAID)}
    assert set(CASES) == set(IN_TRAINING) - pools


class Reached(Exception):  # noqa: N818 (it says that an entry point got as far as its data)
    """A training or a measurement would begin now, with these images."""

    def __init__(self, data: Dataset) -> None:
        super().__init__("the data were taken")
        self.data = data


def begin(request: TrainingRequest) -> Path:
    raise Reached(request.dataset)


def measure(self: Measuring, detector: Any, sets: SeparateSets, recipe: Any) -> Any:
    raise Reached(sets.val)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pools")
    for i in range(12):
        put_image(root / "pool" / f"{i}.png", 300 + i)
        put_image(root / "held" / f"{i}.png", 400 + i)
    return root


def start_train(data: Path, val: Path, tmp: Path, pools: Path) -> None:
    train(data, val=val, out=tmp / "run", weights="none")


def start_val(data: Path, val: Path, tmp: Path, pools: Path) -> None:
    classes = ("cat",) if data.is_dir() else ("cat", "dog")
    detector = SimpleNamespace(
        categories=classes, model_id="m", resize=None, score=None, detect=None
    )
    evaluate(detector, data, out=tmp / "run")


def start_loop(data: Path, val: Path, tmp: Path, pools: Path) -> None:
    run_loop(
        data,
        val=val,
        pool=pools / "pool",
        negatives=pools / "held",
        out=tmp / "run",
        weights="none",
    )


Start = Callable[[Path, Path, Path, Path], None]


def starts() -> Iterator[Any]:
    """Yield every kind with `train` and with `val`, and with `loop` the first kind of each rule."""
    of_loop = {IN_TRAINING[kind]: kind for kind in reversed(CASES)}
    for kind in CASES:
        yield pytest.param(kind, start_train, id=f"{kind}-train")
        yield pytest.param(kind, start_val, id=f"{kind}-val")
        if of_loop[IN_TRAINING[kind]] is kind:
            yield pytest.param(kind, start_loop, id=f"{kind}-loop")


@pytest.mark.parametrize(("kind", "start"), list(starts()))
def test_what_check_calls_an_error_is_refused_or_mended(
    tmp_path: Path,
    pools: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: FindingKind,
    start: Start,
) -> None:
    own = replace(own_backend(), fit=begin)
    for place in ("hardmine.loop.loop", "hardmine.workflows.train_and_evaluate"):
        monkeypatch.setattr(f"{place}.own_backend", lambda: own)
    monkeypatch.setattr(Measuring, "measure", measure)
    path = CASES[kind](tmp_path / "data")
    if start is start_train:  # once is enough
        assert kind in [problem.kind for problem in check_dataset(path).problems]
    val = _with_classes(all_boxes(tmp_path / "val", GOOD), path)
    done = IN_TRAINING[kind]
    caplog.clear()
    if done == REFUSED or kind is Kind.SIZE_DIFFERS:  # 50 x 30 against 40 x 30 cannot be placed
        with pytest.raises(DataError, match=r"check|nothing to learn"):
            start(path, val, tmp_path, pools)
        return
    with pytest.raises(Reached) as reached:
        start(path, val, tmp_path, pools)
    data = reached.value.data
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    words = ("the first: ", "cannot be read and are left out", "differ in size")
    assert any(part in line for part in words for line in said)
    first = [record for record in data.records if record.path.stem == "0"]
    if kind is Kind.BOXES_UNTURNED:
        assert np.allclose(first[0].boxes, [[30 - 14, 31, 30 - 4, 39]]), "turned to the right"
    elif done == ENTRY_NOT_USED:
        assert len(first) == 1
    else:
        assert done in (IMAGE_LEFT_OUT, IMAGE_UNREVIEWED, OBJECT_LEFT_OUT)
        assert not first, "its only object is lost, so that it is neither an example nor a negative"
        assert len(data.records) > 1


def _with_classes(val: Path, like: Path) -> Path:
    """Give validation data the classes of the training data."""
    if like.is_dir():
        tree = json.loads(val.read_text())
        tree["categories"] = tree["categories"][:1]
        val.write_text(json.dumps(tree))
    return val


def test_the_same_files_and_near_copies_are_said(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = load_train_val(path, path, Steps(tmp_path / "run"), seed=0)
    assert isinstance(found.val, Dataset)
    assert describe_leaks(found.leaks) == [
        "8 validation images are trained on as well; still in use"
    ]


def shares(root: Path) -> Path:
    return all_boxes(root, [0.2, 0.2, 0.5, 0.5])


def drawn_twice_as_large(root: Path) -> Path:
    path = write(root)
    tree = json.loads(path.read_text())
    for image in tree["images"]:
        image |= {"width": 80, "height": 60}
    path.write_text(json.dumps(tree))
    return path


def converted(data: Path, out: Path) -> float:
    return first_width(convert(data, out, "coco").out)


def handed_over(data: Path, out: Path) -> float:
    return first_width(hand_over(data, out, "cvat").out)


def divided(data: Path, out: Path) -> float:
    parts = split_data(data, out, {"train": 0.5, "val": 0.5}).splits.values()
    records = [record for part in parts for record in part.records if len(record.boxes)]
    return min(float(record.boxes[0, 2] - record.boxes[0, 0]) for record in records)


def for_priors(data: Path, out: Path) -> float:
    first = one_split(data, SplitChoice()).records[0]
    return float(first.boxes[0, 2] - first.boxes[0, 0])


def first_width(data: Path) -> float:
    first = next(iter(load_splits(data).values())).records[0]
    return float(first.boxes[0, 2] - first.boxes[0, 0])


@pytest.mark.parametrize("use", [converted, handed_over, divided, for_priors])
def test_what_else_takes_labels_goes_by_the_same_rule(
    tmp_path: Path, use: Callable[[Path, Path], float]
) -> None:
    with pytest.raises(DataError, match=r"boxes in another form.*--fix OUT"):
        use(shares(tmp_path / "shares"), tmp_path / "a")
    twice = use(drawn_twice_as_large(tmp_path / "large"), tmp_path / "b")
    assert twice == pytest.approx(GOOD[2] / 2), "scaled to the picture"


def test_check_judges_the_validation_data_too(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    for val, kind in ((shares, Kind.BOX_FORM), (drawn_twice_as_large, Kind.SIZE_DIFFERS)):
        report = check(data, val=val(tmp_path / val.__name__)).report
        assert (kind, "val") in [(problem.kind, problem.split) for problem in report.problems]


def test_boxes_on_turned_pictures_are_not_taken_for_swapped_ones(tmp_path: Path) -> None:
    """Where EXIF turns all pictures, boxes on the stored ones look as if x and y were swapped."""
    done = repair_with_check(unturned(tmp_path / "data"), tmp_path / "fixed")
    first = next(r for r in done.records if r.path.stem == "0")
    assert np.allclose(first.boxes, [[30 - 14, 31, 30 - 4, 39]])


def repair_with_check(data: Path, out: Path) -> Dataset:
    report = check(data, fix=out).report
    assert Kind.BOXES_UNTURNED in [problem.kind for problem in report.problems]
    assert not {Kind.BOX_FORM, Kind.BOX_FORM_DOUBTFUL} & {p.kind for p in report.problems}
    return next(iter(load_splits(out).values()))
