"""What may be trained and measured on: mended where the set says how, refused with the way on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_files import coco, coco_box, coco_image, put_image, put_text
from hardmine.data.load_dataset import load_dataset
from hardmine.data.quality.check_dataset import check_dataset
from hardmine.data.quality.usable_data import load_usable, usable, why_nothing_to_learn
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord, ImageState


def write(folder: Path, *images: tuple[tuple[int, int], tuple[int, int], list[float]]) -> Path:
    """Each image: (picture's size, label's size, box x y width height)."""
    entries, annotations = [], []
    for index, (picture, label, box) in enumerate(images):
        put_image(folder / f"{index}.png", index, picture)
        entry = coco_image(index, f"{index}.png") | {"width": label[0], "height": label[1]}
        entries.append(entry)
        annotations.append(coco_box(index, box))
    return put_text(folder / "c.json", coco(entries, annotations))


def test_boxes_are_scaled_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path, ((40, 30), (40, 30), [1, 2, 3, 4]), ((40, 30), (80, 60), [20, 20, 40, 30])
    )
    with caplog.at_level(logging.WARNING):
        data = load_usable(path)["all"]
    assert [record.boxes.tolist() for record in data.records] == [
        [[1, 2, 4, 6]],
        [[10, 10, 30, 25]],
    ]
    assert [(record.width, record.height) for record in data.records] == [(40, 30)] * 2
    assert "labels and pictures differ in size: 1 image with labels at another scale" in caplog.text


def test_what_cannot_be_placed_is_refused_and_named(tmp_path: Path) -> None:
    shapes = [((40, 30), (40, 30), [1, 2, 3, 4])] + [((50, 30), (40, 30), [1, 2, 3, 4])] * 4
    path = write(tmp_path, *shapes)  # type: ignore[arg-type]
    message = (
        r"c.json: 4 images have another shape .*: 1.png, 2.png, 3.png …; 'hardmine check .*--fix"
    )
    with pytest.raises(DataError, match=message):
        load_usable(path)
    with pytest.raises(DataError, match="4 images have another shape"):
        usable(load_dataset(path))
    assert not check_dataset(path).ok


def test_boxes_in_another_form_are_refused(tmp_path: Path) -> None:
    corners = [[float(5 + i), 10, 30 + i % 10, 29] for i in range(12)]
    path = write(tmp_path, *(((40, 30), (40, 30), box) for box in corners))
    with pytest.raises(DataError, match=r"c.json \(all\): boxes in another form: .*xmin ymin xmax"):
        load_usable(path)
    assert {str(p.kind) for p in check_dataset(path).problems} >= {"box_form"}


def test_a_dataset_in_memory_goes_by_the_same_rule(tmp_path: Path) -> None:
    path = write(tmp_path, ((40, 30), (80, 60), [20, 20, 40, 30]))
    whole = load_dataset(path)
    assert whole[0].boxes.tolist() == [[20, 20, 60, 50]]
    mended = usable(whole)
    assert mended[0].boxes.tolist() == [[10, 10, 30, 25]]
    assert (mended[0].state, mended[0].labels.tolist()) == (ImageState.LABELLED, [1])
    assert usable(mended) is mended


def test_what_check_calls_an_error_is_what_is_mended_or_refused(tmp_path: Path) -> None:
    """Of sizes: whatever is noted as `size_differs` is either placed or refused, and nothing else."""
    for name, picture, label in (
        ("same", (40, 30), (40, 30)),
        ("scaled", (40, 30), (80, 60)),
        ("swapped", (30, 40), (40, 30)),
        ("shape", (50, 30), (40, 30)),
    ):
        path = write(tmp_path / name, (picture, label, [5, 5, 10, 10]))
        noted = [p for p in check_dataset(path).problems if p.kind == "size_differs"]
        assert len(noted) == (name != "same")
        if name == "shape":
            with pytest.raises(DataError):
                load_usable(path)
        else:
            record = load_usable(path)["all"][0]
            assert (record.width, record.height) == picture


def record(boxes: int, ignored: int, state: ImageState = ImageState.LABELLED) -> ImageRecord:
    empty = ImageRecord.empty(Path("a.jpg"), 9, 9, state)
    return replace(
        empty,
        boxes=np.tile(np.float32([1, 1, 5, 5]), (boxes, 1)).reshape(-1, 4),
        labels=np.ones(boxes, np.int64),
        ignore=np.arange(boxes) < ignored,
    )


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record(2, 1)], None),
        ([record(2, 2), record(1, 0)], None),
        ([record(2, 2), record(1, 1)], "all 3 boxes are to be ignored"),
        ([record(0, 0)], "no box in 1 labelled image"),
        ([record(1, 0, ImageState.UNREVIEWED)], "no labelled image among 1"),
        ([], "no labelled image among 0"),
    ],
)
def test_a_set_in_which_nothing_can_be_learnt(
    records: list[ImageRecord], reason: str | None
) -> None:
    found = why_nothing_to_learn(Dataset(("cat",), tuple(records), Path()))
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_ignored_boxes_are_counted_where_data_are_loaded_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_image(tmp_path / "a.png", 1)
    boxes = [coco_box(0, [1, 2, 3, 4]), coco_box(0, [9, 9, 5, 5], iscrowd=1)]
    path = put_text(tmp_path / "c.json", coco([coco_image(0, "a.png")], boxes))
    with caplog.at_level(logging.WARNING):
        data = load_usable(path)["all"]
    assert "c.json (all): 1 of 2 boxes are to be ignored" in caplog.text
    assert repr(data).endswith("1 object (cat 1, dog 0), 1 box to be ignored)")
