from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import kinds, picture, put_image, put_text, states
from hardmine.data.convert import convert, unique_names
from hardmine.data.formats.format_table import READ, WRITTEN
from hardmine.data.load_dataset import load_dataset, load_splits
from hardmine.errors import ConfigError, DataError
from hardmine.types import Dataset, ImageRecord, ImageState

WIDTH, HEIGHT = 40, 30
FORMATS = [row.name for row in WRITTEN if row in READ and not row.for_labelling] + ["rfdetr"]
"""Formats whose reading gives back all that was written."""
PAIRS = list(zip(FORMATS, [*FORMATS[1:], FORMATS[0]], strict=True))
"""Each format before another one: whatever is lost on the way is lost by one of the two."""
INEXACT = ("yolo", "createml")
"""Formats that write a box as its centre and size."""
CATEGORIES = ("zebra", "cat & dog", "ä")


def record(
    path: Path, state: ImageState, objects: list[tuple[list[float], int, bool]], source: str = ""
) -> ImageRecord:
    return ImageRecord(
        path,
        WIDTH,
        HEIGHT,
        np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in objects], np.int64),
        np.array([ignore for _, _, ignore in objects], np.bool_),
        state,
        source,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for seed in range(8):
        put_image(root / f"im {seed}.png", seed, (WIDTH, HEIGHT))
    return root


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    def span(limit: int) -> tuple[float, float]:
        low = draw(st.floats(0, limit - 0.5, width=32))
        return low, draw(st.floats(float(np.float32(low + 0.25)), limit, width=32))

    (x0, x1), (y0, y1) = span(WIDTH), span(HEIGHT)
    return [x0, y0, x1, y1]


OBJECTS = st.lists(
    st.tuples(boxes(), st.integers(1, 3), st.booleans()),
    max_size=3,
    unique_by=lambda o: tuple(round(v, 1) for v in o[0]),
)


@st.composite
def records(draw: st.DrawFn) -> list[tuple[ImageState, list, str]]:
    """Draw images in every state; only a negative cannot hold objects."""
    out = []
    for _ in range(draw(st.integers(1, 8))):
        state = draw(st.sampled_from(ImageState))
        objects = [] if state.is_negative else draw(OBJECTS)
        out.append((state, objects, draw(st.sampled_from(["", "yard"]))))
    return out


def assert_same(before: Dataset, after: Dataset, exact: bool) -> None:
    assert after.problems == ()
    assert after.categories == before.categories
    old = {r.path.name: r for r in before.records}
    new = {r.path.name: r for r in after.records}
    assert old.keys() == new.keys()
    for name, a in old.items():
        b = new[name]
        assert (a.state, a.source, a.width, a.height) == (b.state, b.source, b.width, b.height)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.ignore, b.ignore)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0 if exact else 1e-4)
        assert a.path.read_bytes() == b.path.read_bytes()


@pytest.mark.parametrize(("first", "second"), PAIRS)
@settings(max_examples=8, deadline=None)
@given(data=records())
def test_every_state_and_box_survives_every_pair_of_formats(
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    first: str,
    second: str,
    data: list[tuple[ImageState, list, str]],
) -> None:
    rows = [record(pictures / f"im {i}.png", *row) for i, row in enumerate(data)]
    before = Dataset(CATEGORIES, tuple(rows), pictures)
    out = tmp_path_factory.mktemp("out")
    convert(before, out / "one", first)
    middle = load_dataset(out / "one")
    assert_same(before, middle, exact=first not in INEXACT)
    convert({"all": middle}, out / "two", second)
    exact = first not in INEXACT and second not in INEXACT
    assert_same(before, load_dataset(out / "two"), exact)
    shutil.rmtree(out)


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("to", FORMATS)
def test_each_state_survives(pictures: Path, tmp_path: Path, state: ImageState, to: str) -> None:
    dataset = Dataset(("cat",), (record(pictures / "im 0.png", state, []),), pictures)
    convert(dataset, tmp_path / "out", to)
    assert states(load_dataset(tmp_path / "out")) == {"im 0.png": state}


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("to", ["cvat", "labelstudio", "fiftyone"])
def test_a_labelling_program_is_told_only_what_a_person_said(
    pictures: Path, tmp_path: Path, state: ImageState, to: str
) -> None:
    objects = [([1.0, 1.0, 9.0, 9.0], 1, False)] if state is ImageState.LABELLED else []
    dataset = Dataset(("cat",), (record(pictures / "im 0.png", state, objects),), pictures)
    done = convert(dataset, tmp_path / "out", to)
    kept = (
        {ImageState.LABELLED} if to == "cvat" else {ImageState.LABELLED, ImageState.VERIFIED_EMPTY}
    )
    back = state if state in kept else ImageState.UNREVIEWED
    assert states(load_dataset(tmp_path / "out")) == {"im 0.png": back}
    said = [line for line in done.remarks if "no place for the state" in line]
    assert len(said) == (back is not state)
    assert all(f"1 '{state}'" in line for line in said)


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("to", ["cvat", "labelstudio", "fiftyone"])
def test_a_labelling_program_gets_the_boxes_of_labelled_images_alone(
    pictures: Path, tmp_path: Path, state: ImageState, to: str
) -> None:
    objects = [] if state.is_negative else [([1.0, 1.0, 9.0, 9.0], 1, False)]
    dataset = Dataset(("cat",), (record(pictures / "im 0.png", state, objects),), pictures)
    done = convert(dataset, tmp_path / "out", to)
    (after,) = load_dataset(tmp_path / "out").records
    labelled = state is ImageState.LABELLED
    assert (len(after.labels), done.annotated_boxes) == (labelled, labelled)
    assert (after.state is ImageState.LABELLED) == labelled
    said = [line for line in done.remarks if "boxes of images that are not 'labelled'" in line]
    assert len(said) == (len(objects) > labelled)


@pytest.mark.parametrize("to", ["cvat", "labelstudio", "fiftyone"])
def test_an_image_of_nothing_but_boxes_to_ignore_does_not_become_empty(
    pictures: Path, tmp_path: Path, to: str
) -> None:
    crowd, cat = ([1.0, 1.0, 9.0, 9.0], 1, True), ([5.0, 5.0, 20.0, 20.0], 1, False)
    rows = [
        record(pictures / f"im {i}.png", ImageState.LABELLED, objects)
        for i, objects in enumerate(([crowd], [crowd, cat]))
    ]
    done = convert(Dataset(("cat",), tuple(rows), pictures), tmp_path / "out", to)
    assert states(load_dataset(tmp_path / "out")) == {
        "im 0.png": ImageState.UNREVIEWED,
        "im 1.png": ImageState.LABELLED,
    }
    assert done.annotated_boxes == 1
    said = next(line for line in done.remarks if "to be ignored" in line)
    assert "2 left out" in said
    assert "1 image with no other box is 'unreviewed'" in said


def test_images_that_ultralytics_does_not_read_are_counted(tmp_path: Path) -> None:
    names = ("a.gif", "b.jfif", "c.jpg", "d.gif")
    records = tuple(record(put_image(tmp_path / n), ImageState.VERIFIED_EMPTY, []) for n in names)
    remarks = convert(Dataset(("cat",), records, tmp_path), tmp_path / "out", "yolo").remarks
    (said,) = (line for line in remarks if "passes over" in line)
    assert said.startswith("Ultralytics passes over 3 images ending in .gif, .jfif")


@pytest.mark.parametrize("to", ["yolo", "voc", "labelme", "kitti"])
def test_other_programs_see_negatives_only_where_somebody_said_so(
    pictures: Path, tmp_path: Path, to: str
) -> None:
    rows = [record(pictures / f"im {i}.png", s, []) for i, s in enumerate(ImageState)]
    convert(Dataset(("cat",), tuple(rows), pictures), tmp_path / "out", to)
    folders = {"yolo": "labels", "voc": "Annotations", "labelme": "", "kitti": "label_2"}
    folder = tmp_path / "out" / folders[to]
    suffix = {"voc": ".xml", "labelme": ".json"}.get(to, ".txt")
    labels = {p.stem for p in folder.iterdir() if p.suffix == suffix}
    labels -= {"hardmine", "labels"}
    trusted = {r.path.stem for r in rows if r.state.is_trainable}
    assert labels == trusted


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("to", ["yolo", "coco", "rfdetr", "voc"])
def test_images_that_other_programs_would_take_for_empty_are_named(
    pictures: Path, tmp_path: Path, state: ImageState, to: str
) -> None:
    dataset = Dataset(("cat",), (record(pictures / "im 0.png", state, []),), pictures)
    done = convert(dataset, tmp_path / "out", to)
    said = [line for line in done.remarks if "or as empty ones" in line]
    assert len(said) == (to != "voc" and not state.is_trainable)  # VOC: only images with XML
    assert all(f"1 '{state}'" in line for line in said)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_splits_survive(pictures: Path, tmp_path: Path, first: str, second: str) -> None:
    rows = [
        record(pictures / f"im {i}.png", ImageState.LABELLED, [([1, 2, 3, 4], 1 + i % 2, False)])
        for i in range(6)
    ]
    splits = {
        name: Dataset(CATEGORIES, tuple(rows[2 * i : 2 * i + 2]), pictures)
        for i, name in enumerate(("train", "val", "test"))
    }
    convert(splits, tmp_path / "one", first)
    done = convert(tmp_path / "one", tmp_path / "two", second)
    assert done.images == {"train": 2, "val": 2, "test": 2}
    assert (done.boxes, done.ignored_boxes, done.renamed) == (6, 0, 0)
    after = load_splits(tmp_path / "two")
    assert list(after) == list(splits)
    for name, dataset in splits.items():
        assert_same(dataset, after[name], exact=False)


@pytest.mark.parametrize("to", FORMATS)
def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path, to: str) -> None:
    names = ["cam1/a.png", "cam2/a.png", "cam2/A.jpg", "other/cam2/a.png", "b.png"]
    rows = []
    for i, name in enumerate(names):
        path = put_image(tmp_path / name, i, (WIDTH, HEIGHT))
        rows.append(record(path, ImageState.LABELLED, [([1, 2, 10 + i, 20], 1, False)]))
    done = convert(Dataset(("cat",), tuple(rows), tmp_path), tmp_path / "out", to)
    assert done.renamed == 3
    after = load_dataset(tmp_path / "out")
    assert after.problems == ()
    written = {r.path.read_bytes(): r.boxes[0, 2] for r in after.records}
    expected = {r.path.read_bytes(): r.boxes[0, 2] for r in rows}
    assert written == pytest.approx(expected, abs=1e-4)


def test_unique_names() -> None:
    paths = [Path(p) for p in ("x/a.jpg", "y/a.jpg", "y/A.png", "z/y/a.jpg", "x/b.jpg")]
    assert unique_names(paths) == ["a.jpg", "y_a.jpg", "y_A_2.png", "y_a_3.jpg", "b.jpg"]


def test_links_share_the_bytes_and_copies_do_not(pictures: Path, tmp_path: Path) -> None:
    dataset = Dataset((), (record(pictures / "im 0.png", ImageState.UNREVIEWED, []),), pictures)
    convert(dataset, tmp_path / "linked", "coco", link=True)
    convert(dataset, tmp_path / "copied", "coco")
    original = (pictures / "im 0.png").stat().st_ino
    assert (tmp_path / "linked/images/im 0.png").stat().st_ino == original
    assert (tmp_path / "copied/images/im 0.png").stat().st_ino != original


def test_a_hard_link_is_made_to_the_picture_and_not_to_a_symbolic_link(tmp_path: Path) -> None:
    put_image(tmp_path / "store" / "a.png", 0, (WIDTH, HEIGHT))
    linked = tmp_path / "data" / "a.png"
    linked.parent.mkdir()
    linked.symlink_to("../store/a.png")
    dataset = Dataset((), (record(linked, ImageState.UNREVIEWED, []),), linked.parent)
    convert(dataset, tmp_path / "far" / "out", "coco", link=True)
    written = tmp_path / "far" / "out" / "images" / "a.png"
    assert not written.is_symlink()
    assert written.read_bytes() == linked.read_bytes()


def test_a_folder_that_holds_something_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    put_text(tmp_path / "out" / "mine.txt", "x")
    dataset = Dataset((), (record(pictures / "im 0.png", ImageState.UNREVIEWED, []),), pictures)
    with pytest.raises(DataError, match="not empty"):
        convert(dataset, tmp_path / "out", "coco")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_unknown_formats_and_splits_without_a_name(pictures: Path, tmp_path: Path) -> None:
    dataset = Dataset((), (record(pictures / "im 0.png", ImageState.UNREVIEWED, []),), pictures)
    with pytest.raises(ConfigError, match="format: got 'tfrecord', wanted one of voc, yolo, coco"):
        convert(dataset, tmp_path / "out", "tfrecord")
    with pytest.raises(ConfigError, match="splits batch1: yolo has names for train, val, test"):
        convert({"batch1": dataset}, tmp_path / "out", "yolo")
    with pytest.raises(ConfigError, match="differ in their categories"):
        other = Dataset(("cat",), (), pictures)
        convert({"train": dataset, "val": other}, tmp_path / "out", "coco")


@pytest.mark.parametrize("to", FORMATS)
def test_a_failure_half_way_leaves_nothing(
    pictures: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [record(pictures / f"im {i}.png", ImageState.UNREVIEWED, []) for i in range(3)]
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source.name == "im 2.png":
            raise OSError(28, "No space left on device", str(target))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DataError, match=r"out: no space left on the disk"):
        convert(Dataset((), tuple(rows), pictures), tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_gone_is_one_clear_line(pictures: Path, tmp_path: Path) -> None:
    dataset = Dataset((), (record(pictures / "gone.png", ImageState.UNREVIEWED, []),), pictures)
    with pytest.raises(DataError, match=r"gone\.png"):
        convert(dataset, tmp_path / "out", "coco")


def test_yolo_numbers_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(1, (WIDTH, HEIGHT)).save(path)
    row = record(path, ImageState.LABELLED, [([10, 6, 30, 12], 2, True)])
    convert(Dataset(("cat", "dog"), (row,), tmp_path), tmp_path / "out", "yolo")
    # centre (20, 9) of 40 x 30 is .5 .3; size 20 x 6 is .5 .2
    assert (tmp_path / "out/labels/a.txt").read_text() == "1 0.5 0.3 0.5 0.2\n"


def test_written_marks_can_be_edited_away(pictures: Path, tmp_path: Path) -> None:
    row = record(pictures / "im 0.png", ImageState.ASSUMED_EMPTY, [])
    convert(Dataset(("cat",), (row,), pictures), tmp_path / "out", "voc")
    (tmp_path / "out/Annotations/hardmine.json").unlink()
    after = load_dataset(tmp_path / "out")
    assert states(after) == {"im 0.png": ImageState.VERIFIED_EMPTY}
    assert kinds(after) == []
