"""Decisions go into data sets of four formats, and out of them again; killed, they can be repeated."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardmine.cli import loop_commands
from hardmine.cli.main import run
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_splits
from hardmine.data.quality.usable_data import load_usable
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.mining.pool_store import PoolStore
from hardmine.review import apply_decisions as module
from hardmine.review import apply_journal as journals
from hardmine.review.apply_decisions import ApplyResult, apply_decisions
from hardmine.review.apply_journal import undo_apply
from hardmine.types import Dataset, Decision, ImageRecord, ImageState, NamedBox, Verdict
from review_world import decided, mined

CLASSES = ("bottle", "can")
BOX = NamedBox((8.0, 6.0, 40.0, 30.0), "can")


def draw(path: Path, seed: int) -> Path:
    """Write a picture of its own pattern, 64 × 48 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


def record(path: Path, *labels: int) -> ImageRecord:
    boxes = np.array([[4, 4, 20, 20]] * len(labels), np.float32).reshape(-1, 4)
    empty = ImageRecord.empty(path, 64, 48, ImageState.VERIFIED_EMPTY)
    state = ImageState.LABELLED if labels else ImageState.VERIFIED_EMPTY
    return replace(
        empty,
        boxes=boxes,
        labels=np.array(labels, np.int64),
        ignore=np.zeros(len(labels), bool),
        state=state,
    )


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, Dataset]:
    folder = tmp_path / "source"
    train = [record(draw(folder / f"t{i}.png", i), 1 + i % 2) for i in range(4)]
    val = [record(draw(folder / f"v{i}.png", 10 + i), 1) for i in range(2)]
    return {
        "train": Dataset(CLASSES, tuple(train), folder),
        "val": Dataset(CLASSES, tuple(val), folder),
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Decisions: two empty pictures, one with a can, one that repeats a validation image, one unsure."""
    pool = tmp_path / "pool"
    names = {name: draw(pool / f"{name}.png", 100 + i) for i, name in enumerate("abcd")}
    copy = draw(pool / "copy of v0.png", 10)
    twin = pool / "twin of a.png"
    shutil.copy(names["a"], twin)
    path = tmp_path / "mined" / "pool.sqlite"
    with PoolStore(path) as opened:
        opened.add_decisions(
            [
                said(names["a"], Verdict.EMPTY),
                said(names["b"], Verdict.EMPTY),
                replace(said(names["c"], Verdict.CONTAINS_OBJECT), boxes=(BOX,)),
                said(copy, Verdict.EMPTY),
                said(twin, Verdict.EMPTY),
                said(names["d"], Verdict.UNSURE),
            ]
        )
    return path


def said(path: Path | str, verdict: Verdict) -> Decision:
    return Decision(str(path), verdict, "me", "2026-01-01T00:00:00+00:00", "model")


def write_yolo(splits: dict[str, Dataset], out: Path) -> Path:
    return convert(splits, out, "yolo").out / "data.yaml"


def write_yolo_lists(splits: dict[str, Dataset], out: Path) -> Path:
    """YOLO with list files in place of folders."""
    convert(splits, out, "yolo")
    for name in splits:
        images = sorted((out / "images" / name).iterdir())
        lines = "\n".join(f"./images/{name}/{image.name}" for image in images)
        (out / f"{name}.txt").write_text(lines, encoding="utf-8")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    text = f"train: train.txt\nval: val.txt\nnames:\n{names}"
    (out / "data.yaml").write_text(text, encoding="utf-8")
    return out / "data.yaml"


def write_voc(splits: dict[str, Dataset], out: Path) -> Path:
    return convert(splits, out, "voc").out


def write_coco(splits: dict[str, Dataset], out: Path) -> Path:
    return convert(splits, out, "coco").out


def write_csv(splits: dict[str, Dataset], out: Path) -> Path:
    """A table of the training images alone, with Windows' line ends and a column of its own."""
    lines = ["photographer;filename;xmin;ymin;xmax;ymax;class;width;height"]
    for each in splits["train"].records:
        target = out / "img" / each.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each.path, target)
        label = CLASSES[each.labels[0] - 1]
        lines.append(f"ann;img/{target.name};4;4;20;20;{label};64;48")
    (out / "boxes.csv").write_bytes("\r\n".join(lines).encode())
    return out / "boxes.csv"


WRITERS = {
    "yolo": write_yolo,
    "yolo lists": write_yolo_lists,
    "voc": write_voc,
    "coco": write_coco,
    "csv": write_csv,
}


@pytest.fixture(params=list(WRITERS))
def data(request: pytest.FixtureRequest, splits: dict[str, Dataset], tmp_path: Path) -> Path:
    return WRITERS[request.param](splits, tmp_path / "data")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def root_of(data: Path) -> Path:
    return data if data.is_dir() else data.parent


def train_part(data: Path) -> Dataset:
    found = load_splits(data)
    return found.get("train") or found["all"]


def test_decisions_are_read_back_from_the_data_set(data: Path, store: Path) -> None:
    before = {name: part.fingerprint for name, part in load_splits(data).items()}
    known = len(train_part(data))
    result = apply_decisions(store, data)
    assert (len(result.empty), len(result.labelled)) == (
        (3, 1) if "all" in before else (2, 1)  # the CSV has no validation part to repeat
    )
    part = train_part(data)
    assert not part.problems
    added = {r.path.name: r for r in part.records if r.path.name.startswith("hardmine_")}
    assert len(part) == known + len(added)
    for name in result.empty:
        assert added[name].state is ImageState.VERIFIED_EMPTY
    (labelled,) = result.labelled
    assert added[labelled].state is ImageState.LABELLED
    assert added[labelled].boxes.tolist() == [pytest.approx(list(BOX.box), abs=1e-3)]
    assert part.categories[added[labelled].labels[0] - 1] == "can"
    assert "hardmine_c_" in labelled
    if "val" in before:
        assert load_splits(data)["val"].fingerprint == before["val"]
        assert any("near-copy of an image of val" in each.reason for each in result.skipped)
    assert any("near-copy of one that is added" in each.reason for each in result.skipped)
    assert [(Path(each.image).stem, each.reason) for each in result.undecided] == [
        ("d", "the verdict is unsure")
    ]


def test_pycocotools_reads_what_was_added(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    data = write_coco(splits, tmp_path / "data")
    (file,) = data.rglob("*train.json")
    before = coco.COCO(str(file))
    result = apply_decisions(store, data)
    after = coco.COCO(str(file))
    assert len(after.imgs) == len(before.imgs) + 3
    (image,) = [i for i in after.imgs.values() if i["file_name"] == result.labelled[0]]
    (annotation,) = after.loadAnns(after.getAnnIds(imgIds=[image["id"]]))
    assert annotation["bbox"] == [8.0, 6.0, 32.0, 24.0]
    assert after.cats[annotation["category_id"]]["name"] == "can"
    assert {a: before.anns[a] for a in before.anns} == {a: after.anns[a] for a in before.anns}
    assert set(after.anns) - set(before.anns) == {annotation["id"]}


def test_undo_restores_every_byte(data: Path, store: Path) -> None:
    before = contents(root_of(data))
    apply_decisions(store, data)
    assert contents(root_of(data)) != before
    assert undo_apply(data) >= 4
    assert contents(root_of(data)) == before
    with pytest.raises(DataError, match="nothing was applied here"):
        undo_apply(data)


def test_a_copy_of_the_data_is_undone_alone(data: Path, store: Path, tmp_path: Path) -> None:
    root = root_of(data)
    before = contents(root)
    apply_decisions(store, data)
    after = contents(root)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    undo_apply(copy / data.name if data.is_file() else copy)
    assert contents(copy) == before
    assert contents(root) == after


def test_a_copy_that_lacks_what_was_changed_is_not_undone(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "data.yaml").write_text(f"path: {data.parent}\n{data.read_text()}")
    apply_decisions(store, folder / "data.yaml")
    after = contents(data.parent)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(DataError, match=r"copy: was copied or moved from .*nothing is undone"):
        undo_apply(copy / "data.yaml")
    assert contents(data.parent) == after


def test_undo_names_the_path_under_which_something_was_applied(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco(splits, tmp_path / "data")
    (file,) = data.rglob("*train.json")
    apply_decisions(store, data)
    with pytest.raises(DataError, match=rf"nothing was applied here.*applied to {data}: name that"):
        undo_apply(file)
    undo_apply(data)
    apply_decisions(store, file)
    with pytest.raises(DataError, match=rf"nothing was applied here.*applied to {file}: name that"):
        undo_apply(data)
    undo_apply(file)


def test_links_to_label_files_and_their_permissions_stay(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_yolo_lists(splits, tmp_path / "data")
    listed, real = data.parent / "train.txt", data.parent / "lists" / "train.txt"
    real.parent.mkdir()
    listed.rename(real)
    listed.symlink_to(real)
    real.chmod(0o660)
    before = real.read_bytes()
    apply_decisions(store, data)
    assert (listed.is_symlink(), real.stat().st_mode & 0o777) == (True, 0o660)
    assert real.read_bytes() != before
    undo_apply(data)
    assert (listed.is_symlink(), real.stat().st_mode & 0o777) == (True, 0o660)
    assert real.read_bytes() == before


def test_what_cannot_be_written_to_its_end_is_taken_back(
    data: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = contents(root_of(data)), module.write_bytes

    def fails(path: Path, content: bytes) -> None:
        if path.name.startswith("hardmine_b_"):
            raise PermissionError(13, "Permission denied", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_bytes", fails)
        with pytest.raises(DataError, match=r"nothing was added: .*Permission denied"):
            apply_decisions(store, data)
    assert contents(root_of(data)) == before


def test_the_last_apply_is_undone_first(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    before = contents(data.parent)
    apply_decisions(store, data)
    between = contents(data.parent)
    with PoolStore(store) as opened:
        opened.add_decisions([said(draw(tmp_path / "pool" / "late.png", 200), Verdict.EMPTY)])
    assert len(apply_decisions(store, data).empty) == 1
    undo_apply(data)
    assert contents(data.parent) == between
    undo_apply(data)
    assert contents(data.parent) == before


def test_a_dry_run_writes_nothing_and_says_the_same(data: Path, store: Path) -> None:
    before = contents(root_of(data))
    planned = apply_decisions(store, data, dry_run=True)
    assert contents(root_of(data)) == before
    done = apply_decisions(store, data)
    assert (planned.empty, planned.labelled) == (done.empty, done.labelled)
    assert "would be added" in str(planned)
    assert f"\nhardmine apply {store} {done.data} --undo takes this back" in str(done)


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """A run whose list has three images: the first is typed in as empty, the second as unsure."""
    run = mined(tmp_path, 3).rename(tmp_path / "my run")
    lines = (run / "candidates.csv").read_text().splitlines()
    text = "\n".join([lines[0], lines[1] + "empty", lines[2] + "unsure", lines[3]])
    (run / "candidates.csv").write_text(text)
    return run


@pytest.mark.parametrize("name", ["", "candidates.csv"])
def test_verdicts_of_the_list_count_and_those_that_lack_are_said(
    splits: dict[str, Dataset], typed: Path, tmp_path: Path, name: str
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    result = apply_decisions(typed / name, data)
    assert (len(result.empty), result.open) == (1, 1)
    assert f"1 without a decision: hardmine review '{typed / name}'" in str(result)
    with PoolStore(typed / "pool.sqlite") as store:
        assert len(store.decisions()) == 2
        store.add_decisions([said(tmp_path / "pool" / "pic-002.jpg", Verdict.IGNORE)])
    assert "without a decision" not in str(apply_decisions(typed / name, data))


@pytest.mark.parametrize("name", ["", "candidates.csv"])
def test_a_dry_run_keeps_no_verdict_of_the_list(
    splits: dict[str, Dataset], typed: Path, tmp_path: Path, name: str
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    result = apply_decisions(typed / name, data, dry_run=True)
    assert (len(result.empty), result.open) == (1, 1)
    assert decided(typed) == {}


def test_a_dry_run_with_a_list_makes_no_store(
    splits: dict[str, Dataset], typed: Path, tmp_path: Path
) -> None:
    (typed / "pool.sqlite").unlink()
    data = write_yolo(splits, tmp_path / "data")
    result = apply_decisions(typed / "candidates.csv", data, dry_run=True)
    assert (len(result.empty), result.open) == (1, 1)
    assert not (typed / "pool.sqlite").exists()


def test_applying_again_adds_nothing_twice(data: Path, store: Path) -> None:
    apply_decisions(store, data)
    after = contents(root_of(data))
    again = apply_decisions(store, data)
    assert (again.empty, again.labelled, again.journal) == ((), (), None)
    assert sum(each.reason == "was added before" for each in again.skipped) >= 3
    assert contents(root_of(data)) == after


@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "copy") for kind in WRITERS), ("csv", "reference")]
)
def test_a_decision_that_changed_after_it_was_applied_is_named(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, kind: str, how: Any
) -> None:
    data = WRITERS[kind](splits, tmp_path / "data")
    apply_decisions(store, data, how=how)
    images = [tmp_path / "pool" / f"{name}.png" for name in "abc"]
    with PoolStore(store) as opened:
        opened.add_decisions(
            [
                replace(said(images[0], Verdict.CONTAINS_OBJECT), boxes=(BOX,)),
                said(images[1], Verdict.UNSURE),
                said(images[2], Verdict.EMPTY),
            ]
        )
    result = apply_decisions(store, data, how=how)
    assert (result.empty, result.labelled) == ((), ())
    told = {each.image: each.reason for each in result.not_added}
    assert len(told) == len(result.not_added)
    for image, now, before in zip(
        map(str, images),
        ("labelled", "unreviewed", "verified_empty"),
        ("verified_empty", "verified_empty", "labelled"),
        strict=True,
    ):
        assert f"another one now: {now}, and {before} in the data; remove /" in told[image]
    assert "not added, 3: was added before, and the decision is another one now" in str(result)
    if kind == "yolo":  # what the message says to do
        for path in [*root_of(data).rglob("hardmine_a_*")]:
            path.unlink()
        (name,) = apply_decisions(store, data, how=how).labelled
        assert name.startswith("hardmine_a_")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survives", range(8))
def test_killed_half_way_it_can_be_undone_or_repeated(
    splits: dict[str, Dataset],
    store: Path,
    tmp_path: Path,
    survives: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = {"write_bytes": journals.write_bytes, "write_json": journals.write_json}
    places = [(module, "write_bytes"), (journals, "write_bytes"), (journals, "write_json")]
    whole = write_yolo_lists(splits, tmp_path / "whole")
    apply_decisions(store, whole)
    wanted = contents(whole.parent)

    def dying(name: str) -> Callable[..., None]:
        def write(*args: object) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            writes[name](*args)  # type: ignore[arg-type]

        return write

    for repeat in (True, False):
        data = write_yolo_lists(splits, tmp_path / f"data{repeat}")
        before = contents(data.parent)
        left = survives
        for place, name in places:
            monkeypatch.setattr(place, name, dying(name))
        with pytest.raises(Killed):
            apply_decisions(store, data)
        for place, name in places:
            monkeypatch.setattr(place, name, writes[name])
        if repeat:
            apply_decisions(store, data)
            found = {n: c for n, c in contents(data.parent).items() if journals.JOURNALS not in n}
            assert found == {n: c for n, c in wanted.items() if journals.JOURNALS not in n}
        elif survives >= 2:  # the backup and the journal are written: there is something to undo
            undo_apply(data)
            assert contents(data.parent) == before


def test_two_applies_at_once_do_not_take_each_other_back(
    data: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = module._place
    tried: list[int] = []

    def meanwhile(*args: Any) -> None:
        for other in (lambda: apply_decisions(store, data), lambda: undo_apply(data)):
            with pytest.raises(DataError, match="another apply is changing this data set"):
                other()
            tried.append(1)
        place(*args)

    monkeypatch.setattr(module, "_place", meanwhile)
    known = len(train_part(data))
    result = apply_decisions(store, data)
    added = len(result.empty) + len(result.labelled)
    assert len(tried) == 2 * added
    assert len(train_part(data)) == known + added


def test_nothing_is_undone_over_a_label_file_that_was_changed(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_csv(splits, tmp_path / "data")
    apply_decisions(store, data)
    data.write_bytes(data.read_bytes() + b"\r\n")
    after = contents(data.parent)
    with pytest.raises(DataError, match="changed since it was written; nothing is undone"):
        undo_apply(data)
    assert contents(data.parent) == after


def test_a_label_that_a_person_improved_stays(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    result = apply_decisions(store, data)
    label = data.parent / "labels" / "train" / f"{Path(result.labelled[0]).stem}.txt"
    label.write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    undo_apply(data)
    assert label.is_file()
    assert "has been changed since it was written, and stays" in caplog.text


@pytest.mark.parametrize("how", ["link", "reference"])
def test_links_take_no_space(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, how: str
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    result = apply_decisions(store, data, how=how)  # type: ignore[arg-type]
    added = data.parent / "images" / "train" / result.empty[0]
    original = tmp_path / "pool" / "a.png"
    assert added.samefile(original)
    assert added.is_symlink() is (how == "reference")
    assert len(train_part(data)) == 7
    undo_apply(data)
    assert original.is_file()


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_label_files_name_images_where_they_stay(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, kind: str
) -> None:
    data = WRITERS[kind](splits, tmp_path / "data")
    inside = draw(root_of(data) / "more" / "own.png", 400)
    with PoolStore(store) as opened:
        opened.add_decisions([said(inside, Verdict.EMPTY)])
    before, known = contents(root_of(data)), len(train_part(data))
    planned = apply_decisions(store, data, how="reference", dry_run=True)
    assert contents(root_of(data)) == before
    result = apply_decisions(store, data, how="reference")
    assert (planned.empty, planned.labelled) == (result.empty, result.labelled)
    pool = tmp_path / "pool"
    assert {str(pool / "a.png"), str(pool / "b.png"), str(inside)} <= set(result.empty)
    assert result.labelled == (str(pool / "c.png"),)
    part = train_part(data)
    assert not part.problems
    assert len(part) == known + len(result.empty) + 1
    added = {str(record.path): record for record in part.records}
    assert all(added[name].state is ImageState.VERIFIED_EMPTY for name in result.empty)
    assert added[str(pool / "c.png")].boxes.tolist() == [pytest.approx(list(BOX.box), abs=1e-3)]
    assert not list(root_of(data).rglob("hardmine_*"))
    text = "".join(path.read_text() for path in root_of(data).rglob("*train.json"))
    text += (root_of(data) / "boxes.csv").read_text() if kind == "csv" else ""
    # Names of COCO start from images/train, those of the table from its own folder.
    assert {"coco": '"../../more/own.png"', "csv": ";more/own.png;"}[kind] in text
    assert str(inside) not in text
    again = apply_decisions(store, data, how="reference")
    assert not again.empty
    assert Counter(each.reason for each in again.skipped)["was added before"] == len(added) - known
    undo_apply(data)
    assert contents(root_of(data)) == before
    assert (pool / "a.png").is_file()


def test_references_of_data_from_elsewhere_are_not_followed(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco(splits, tmp_path / "data")
    apply_decisions(store, data, how="reference")
    moved = data.rename(tmp_path / "moved")
    part = train_part(moved)
    assert len(part) == 4
    assert {problem.kind for problem in part.problems} == {FindingKind.PATH_OUTSIDE}


def test_images_of_archives_are_read_through_their_source(
    splits: dict[str, Dataset], tmp_path: Path
) -> None:
    archive = tmp_path / "shard.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(draw(tmp_path / "x.png", 300), "cam1/x.png")
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([said(f"{archive}!/cam1/x.png", Verdict.EMPTY)])
    data = write_voc(splits, tmp_path / "data")
    result = apply_decisions(tmp_path / "pool.sqlite", data, how="link")
    (name,) = result.empty
    assert (data / "JPEGImages" / name).read_bytes() == (tmp_path / "x.png").read_bytes()


def test_images_that_are_gone_or_have_no_class_are_named(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    (tmp_path / "pool" / "b.png").unlink()
    result = apply_decisions(store, data)
    assert [s.image for s in result.skipped if s.reason.startswith("cannot be read")] == [
        str(tmp_path / "pool" / "b.png")
    ]
    undo_apply(data)
    before = contents(data.parent)
    with PoolStore(store) as opened:
        unknown = replace(BOX, category="dog")
        said_dog = said(tmp_path / "pool" / "d.png", Verdict.CONTAINS_OBJECT)
        opened.add_decisions([replace(said_dog, boxes=(unknown,))])
    with pytest.raises(DataError, match=r"no class 'dog', wanted bottle, can"):
        apply_decisions(store, data)
    assert contents(data.parent) == before


def test_what_is_measured_on_is_never_added_to(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco({"val": splits["val"], "test": splits["train"]}, tmp_path / "data")
    with pytest.raises(DataError, match="no part to train on"):
        apply_decisions(store, data)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("val", ["images/train", "images"])
def test_where_the_validation_part_holds_the_training_part_it_is_said(
    splits: dict[str, Dataset],
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    val: str,
    dry_run: bool,
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    apply_decisions(store, data, dry_run=True)
    assert caplog.messages == []
    data.write_text(data.read_text().replace("val: images/val", f"val: {val}"))
    result = apply_decisions(store, data, dry_run=dry_run)
    assert result.empty
    assert caplog.messages == [
        f"{data}: val holds every image of train, so that what is added there is measured on too; "
        "'hardmine split' makes a validation part of its own"
    ]
    if not dry_run:
        added = {record.path.name for record in load_splits(data)["val"].records}
        assert set(result.empty) <= added


def test_other_formats_are_named_with_the_way_on(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = convert({"all": splits["train"]}, tmp_path / "data", "labelme").out
    with pytest.raises(DataError, match=r"labelme data, only to voc, yolo, coco, csv"):
        apply_decisions(store, data)


def test_the_command(
    splits: dict[str, Dataset],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_yolo(splits, tmp_path / "data")
    assert run(["apply", str(store.parent), str(data), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "2 verified negatives and 1 labelled image would be added" in out
    assert "near-copy of an image of val" in err
    assert run(["apply", str(store), str(data), "--how", "link"]) == 0
    capsys.readouterr()
    assert run(["apply", str(store), str(data)]) == 0
    out, err = capsys.readouterr()
    assert "not added, 3: was added before" in out
    assert "near-copy of an image of val" in err
    assert "was added before" not in err  # one line for each only when asked for
    counted = sum(int(number) for number in re.findall(r"not added, (\d+):", out))
    assert counted == 6  # three that were added, two near-copies, an unsure one
    assert "--verbose names all 6 that were not added" in " ".join(err.split())
    assert run(["apply", str(store), str(data), "--verbose"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("was added before") == 3
    assert err.count("d.png: the verdict is unsure") == 1
    assert err.count(".png: ") >= counted
    assert "--verbose" not in err
    monkeypatch.setattr(loop_commands, "MAX_NAMED", 0)
    assert run(["apply", str(store), str(data)]) == 0
    assert "near-copy of" not in capsys.readouterr().err
    assert run(["apply", str(store), str(data), "--undo", "--dry-run"]) == 0
    going = re.findall(r"(\d+) files would be removed or restored", capsys.readouterr().out)
    shutil.rmtree(store.parent)
    assert run(["apply", str(store), str(data)]) == 2
    assert f"path '{store}' does not exist" in " ".join(capsys.readouterr().err.split())
    assert run(["apply", str(store), str(data), "--undo"]) == 0
    assert f"{going[0]} files removed or restored" in capsys.readouterr().out
    assert run(["apply", str(store), str(data), "--undo"]) == 1


def test_a_long_name_of_letters_of_several_bytes_is_shortened(
    splits: dict[str, Dataset], tmp_path: Path
) -> None:
    long = draw(tmp_path / "pool" / f"{'鳥' * 80}.png", 300)  # 240 bytes and the suffix
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([said(long, Verdict.EMPTY)])
    (name,) = apply_decisions(tmp_path / "pool.sqlite", write_yolo(splits, tmp_path / "data")).empty
    assert name.startswith(f"hardmine_{'鳥' * 60}_")


def test_images_get_names_that_other_programs_read(
    splits: dict[str, Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, suffix in enumerate((".jfif", ".ppm")):
        picture = Image.open(draw(tmp_path / "drawn.png", 300 + number))
        picture.save(pool / f"x{suffix}")
    with PoolStore(tmp_path / "pool.sqlite") as store:
        found = [said(path, Verdict.EMPTY) for path in sorted(pool.iterdir())]
        store.add_decisions(found)
    result = apply_decisions(tmp_path / "pool.sqlite", write_yolo(splits, tmp_path / "data"))
    assert [Path(name).suffix for name in result.empty] == [".jpg", ".ppm"]
    assert "Ultralytics passes over 1 image ending in .ppm" in caplog.text


def added_lines(data: Path, result: ApplyResult) -> list[str]:
    (label,) = data.parent.rglob(f"{Path(result.labelled[0]).stem}.txt")
    return label.read_text(encoding="utf-8").splitlines()


def with_lines(data: Path, line: str, **config: object) -> Path:
    """Write this line into all label files of YOLO data, and more into its data.yaml."""
    for label in (data.parent / "labels").rglob("*.txt"):
        label.write_text(f"{line}\n", encoding="utf-8")
    more = "".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items())
    data.write_text(data.read_text(encoding="utf-8") + more, encoding="utf-8")
    return data


def test_boxes_among_outlines_are_outlines(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    """One line that is a box would cost the data set all outlines in Ultralytics."""
    data = with_lines(write_yolo(splits, tmp_path / "data"), "0 .1 .1 .5 .1 .6 .5 .2 .6 .1 .3")
    # Corners 8, 6, 40, 30 of 64 x 48 pixels.
    assert added_lines(data, apply_decisions(store, data)) == [
        "1 0.125 0.125 0.625 0.125 0.625 0.625 0.125 0.625"
    ]


def test_boxes_among_keypoints_have_unlabelled_ones(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    line = "0 .5 .5 .2 .2 .4 .4 2 .6 .6 2"
    data = with_lines(write_yolo(splits, tmp_path / "data"), line, kpt_shape=[2, 3])
    assert added_lines(data, apply_decisions(store, data)) == ["1 0.375 0.375 0.5 0.5 0 0 0 0 0 0"]
    undo_apply(data)
    without = "0 .5 .5 .2 .2 .4 .4 .6 .6"
    bare = with_lines(write_yolo(splits, tmp_path / "bare"), without, kpt_shape=[2, 2])
    with pytest.raises(DataError, match=r"kpt_shape \[2, 2\] wants the keypoints of each object"):
        apply_decisions(store, bare)


@pytest.mark.parametrize(("side", "wanted"), [("20", "40"), ("20.5", "40.25")])
def test_boxes_of_voc_are_whole_pixels_where_all_others_are(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, side: str, wanted: str
) -> None:
    data = write_voc(splits, tmp_path / "data")
    for file in (data / "Annotations").glob("t*.xml"):
        file.write_text(file.read_text().replace("<xmax>20</xmax>", f"<xmax>{side}</xmax>"))
    with PoolStore(store) as opened:
        drawn = said(tmp_path / "pool" / "c.png", Verdict.CONTAINS_OBJECT)
        opened.add_decisions([replace(drawn, boxes=(NamedBox((8.0, 6.0, 40.25, 30.0), "can"),))])
    result = apply_decisions(store, data)
    text = (data / "Annotations" / f"{Path(result.labelled[0]).stem}.xml").read_text()
    assert f"<xmax>{wanted}</xmax>" in text


def test_what_is_added_to_train_of_voc_is_in_trainval_too(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_voc(splits, tmp_path / "data")
    train, val, both = (
        data / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val", "trainval")
    )
    both.write_text(train.read_text() + val.read_text())
    before, old_val = both.read_text(), val.read_text()
    result = apply_decisions(store, data)
    added = [Path(name).stem for name in (*result.empty, *result.labelled)]
    assert both.read_text() == before + "".join(f"{stem}\n" for stem in added)
    assert val.read_text() == old_val
    undo_apply(data)
    assert both.read_text() == before


def test_boxes_among_masks_of_coco_have_one(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco(splits, tmp_path / "data")

    def add_masks(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[4, 4, 20, 4, 12, 20]]

    file = coco_with(data, add_masks)
    apply_decisions(store, data)
    masks = [e["segmentation"] for e in json.loads(file.read_text())["annotations"]]
    assert masks[-1] == [[8, 6, 40, 6, 40, 30, 8, 30]]


def test_a_result_counts_its_reasons() -> None:
    skipped = (module.Skipped("a", "is gone: x"), module.Skipped("b", "is gone: y"))
    undecided = (module.Skipped("c", "unsure"), module.Skipped("d", "unsure"))
    result = ApplyResult(Path("d"), "train", ("a",), (), skipped, undecided, dry_run=True)
    assert "not added, 2: is gone" in str(result)
    assert "not added, 2: unsure" in str(result)


def coco_with(data: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the entries of the training part's label file."""
    (file,) = data.rglob("*train.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def in_shares(content: dict[str, Any]) -> None:
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x / 64, y / 48, width / 64, height / 48]


def at_twice_the_size(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["width"], image["height"] = 128, 96
    for entry in content["annotations"]:
        entry["bbox"] = [2 * side for side in entry["bbox"]]


def test_nothing_is_added_to_boxes_that_training_refuses(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco(splits, tmp_path / "data")
    coco_with(data, in_shares)
    before = contents(data)
    with pytest.raises(DataError, match=r"boxes in another form: .*--fix OUT"):
        apply_decisions(store, data)
    assert contents(data) == before


def test_boxes_are_read_back_beside_labels_of_another_size(
    splits: dict[str, Dataset], store: Path, tmp_path: Path
) -> None:
    data = write_coco(splits, tmp_path / "data")
    file = coco_with(data, at_twice_the_size)
    (name,) = apply_decisions(store, data).labelled
    part = load_usable(data)["train"]
    found = {record.path.name: record.boxes.tolist() for record in part.records}
    assert found[name] == [list(BOX.box)]
    assert found["t0.png"] == [[4, 4, 20, 20]]
    content = json.loads(file.read_text(encoding="utf-8"))
    (entry,) = (e for e in content["images"] if e["file_name"] == name)
    assert (entry["width"], entry["height"]) == (64, 48)


@pytest.mark.parametrize(("size", "refused"), [((64, 48), False), ((48, 64), True)])
def test_what_would_be_read_back_otherwise_is_taken_back(
    tmp_path: Path, size: tuple[int, int], refused: bool
) -> None:
    """All boxes are of pictures as stored; where labels say so, an upright one stays."""
    source, turned = tmp_path / "source", Image.Exif()
    turned[0x0112] = 6

    def upright(path: Path, seed: int) -> Path:
        """Write a picture that is stored at 64 × 48 and displayed at 48 × 64."""
        draw(path, seed)
        Image.open(path).save(path.with_suffix(".jpg"), exif=turned, quality=95)
        path.unlink()
        return path.with_suffix(".jpg")

    images = [upright(source / f"t{i}.png", i) for i in range(8)]
    entries = {
        "images": [
            {"id": i, "file_name": p.name, "width": size[0], "height": size[1]}
            for i, p in enumerate(images)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [50, 2 + i, 12, 10]}
            for i in range(len(images))
        ],
        "categories": [{"id": 1, "name": "can"}],
    }
    (source / "train.json").write_text(json.dumps(entries))
    picture = upright(tmp_path / "pool" / "a.png", 100)
    with PoolStore(tmp_path / "mined" / "pool.sqlite") as opened:
        box = NamedBox((30.0, 50.0, 40.0, 62.0), "can")
        opened.add_decisions([replace(said(picture, Verdict.CONTAINS_OBJECT), boxes=(box,))])
    before = contents(source)
    if refused:
        with pytest.raises(DataError, match=r"nothing was added: .*cannot be placed"):
            apply_decisions(tmp_path / "mined", source)
        assert contents(source) == before
        return
    (name,) = apply_decisions(tmp_path / "mined", source).labelled
    found = {r.path.name: r.boxes.tolist() for r in load_usable(source)["train"].records}
    assert found[name] == [list(box.box)]


def test_a_box_that_is_read_back_elsewhere_is_taken_back(
    splits: dict[str, Dataset], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_coco(splits, tmp_path / "data")
    before = contents(data)

    def moved(*given: Any, **named: Any) -> dict[str, Dataset]:
        """Read the data with every box moved by a pixel."""
        return {
            name: replace(part, records=tuple(replace(r, boxes=r.boxes + 1) for r in part.records))
            for name, part in load_usable(*given, **named).items()
        }

    monkeypatch.setattr(module, "load_usable", moved)
    with pytest.raises(DataError, match=r"nothing was added: hardmine_c.*read back as boxes"):
        apply_decisions(store, data)
    assert contents(data) == before
