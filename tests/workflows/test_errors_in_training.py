"""What `check` calls an error, training and measuring refuse or mend, kind by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_files import coco, coco_box, coco_image, put_image, put_text
from hardmine.data.quality.check_dataset import check_dataset
from hardmine.errors import DataError
from hardmine.finding_kinds import (
    ENTRY_NOT_USED,
    IMAGE_LEFT_OUT,
    IMAGE_UNREVIEWED,
    IN_TRAINING,
    OBJECT_LEFT_OUT,
    PLACED,
    POOL_ONLY,
    REFUSED,
    SAID,
    FindingKind,
    Severity,
)
from hardmine.types import Dataset
from hardmine.workflows.image_sets import describe_leaks, drop_unreadable, hash_once, load_train_val
from hardmine.workflows.step_cache import Steps

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


def voc(root: Path, content: bytes) -> Path:
    box = "<xmin>4</xmin><ymin>5</ymin><xmax>20</xmax><ymax>15</ymax>"
    good = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    for i in range(4):
        put_image(root / f"{i}.png", i)
        put_text(root / f"{i}.xml", good)
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
}


def test_every_error_has_its_rule() -> None:
    assert set(IN_TRAINING) == {kind for kind in FindingKind if kind.severity is Severity.ERROR}
    pools = {kind for kind, done in IN_TRAINING.items() if done in (POOL_ONLY, SAID)}
    elsewhere = {
        Kind.IMAGE_UNREADABLE,
        Kind.IMAGE_TOO_LARGE,
        Kind.BOXES_UNTURNED,
        Kind.STATES_BROKEN,
    }
    assert set(CASES) == set(IN_TRAINING) - pools - elsewhere


@pytest.mark.parametrize("kind", CASES)
def test_what_check_calls_an_error_is_refused_or_mended(tmp_path: Path, kind: FindingKind) -> None:
    path = CASES[kind](tmp_path / "data")
    assert kind in [problem.kind for problem in check_dataset(path).problems]
    val = all_boxes(tmp_path / "val", GOOD)
    steps = Steps(tmp_path / "run")
    done = IN_TRAINING[kind]
    if done in (REFUSED, PLACED):  # 50 x 30 against 40 x 30 cannot be placed
        with pytest.raises(DataError, match=r"check|nothing to learn"):
            load_train_val(path, val, steps, seed=0)
        return
    train = load_train_val(path, _with_classes(val, path), steps, seed=0).train
    kept, problems = drop_unreadable(train, hash_once([train], steps))
    assert problems, "it is said"
    first = [record for record in kept.records if record.path.stem == "0"]
    if done == ENTRY_NOT_USED:
        assert len(first) == 1
        return
    assert done in (IMAGE_LEFT_OUT, IMAGE_UNREVIEWED, OBJECT_LEFT_OUT)
    assert not first, "its only object is lost, so that it is neither an example nor a negative"


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
        "8 validation images are trained on as well; they stay in use"
    ]
