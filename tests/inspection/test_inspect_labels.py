"""Conventions by hand, EXIF turns, choice of images, and mixed-up forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardmine.errors import DataError
from hardmine.inspection.image_with_labels import choose_images, find_image, open_image, read_labels
from hardmine.inspection.inspect_stages import as_read, conventions, readings

Blocks = Callable[[str, Callable[[list[float]], Sequence[float]]], Path]


def right(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def mixed_up(box: list[float]) -> list[float]:
    return box  # xyxy where COCO wants xywh


def test_every_convention_by_hand() -> None:
    coded = conventions(np.array([[20.0, 10, 60, 40]]), 200, 100)
    assert {name: values[0].tolist() for name, values in coded.items()} == {
        "xyxy px": [20, 10, 60, 40],
        "xywh px (COCO)": [20, 10, 40, 30],
        "cxcywh px": [40, 25, 40, 30],
        "xyxy shares": [0.1, 0.1, 0.3, 0.4],
        "cxcywh shares (YOLO)": [0.2, 0.25, 0.2, 0.3],
    }


def test_right_labels_fit_best(blocks: Blocks) -> None:
    labels = read_labels(blocks("right", right))
    subject = open_image(labels, 3)
    stage = readings(subject)
    assert stage is not None
    assert stage.warning == ""
    assert stage.figures[0].mark == "good"
    assert stage.figures[0].caption.startswith("as declared: xmin ymin width height")
    assert "1 of 1 here, 100% of the split · fits best" in stage.figures[0].caption


def test_mixed_up_labels_are_named_and_drawn(blocks: Blocks) -> None:
    """xyxy in the place of xywh: the boxes reach beyond the image; xyxy fits all of them."""
    labels = read_labels(blocks("mixed", mixed_up))
    subject = open_image(labels, 3)
    stage = readings(subject)
    assert stage is not None
    assert stage.warning.startswith("the labels look mixed up: read as xmin ymin width height")
    declared, best = stage.figures[:2]
    assert (declared.mark, best.mark) == ("bad", "good")
    assert best.caption.startswith("as if xmin ymin xmax ymax, in pixels · 1 of 1 here, 100%")
    x0, y0, x1, y1 = subject.numbers[0].tolist()
    assert subject.read_as("xyxy").tolist() == [[x0, y0, x1, y1]]
    assert subject.read_as("xywh").tolist() == [[x0, y0, x0 + x1, y0 + y1]]


def test_rejected_boxes_are_still_shown(blocks: Blocks) -> None:
    """Inside out: the record loses the box, the page keeps its numbers and says why it is out."""
    labels = read_labels(blocks("inverted", lambda b: [b[0], b[1], b[0] - b[2], 9.0]))
    subject = open_image(labels, 0)
    assert len(subject.record.boxes) == 0
    assert subject.fate == ("left out: box_inverted",)
    stage = as_read(subject)
    assert "it is not trained on" in stage.warning
    assert stage.tables[0].rows[0][2] == "left out: box_inverted"


def test_an_image_without_a_class_that_the_model_knows_says_so(blocks: Blocks) -> None:
    labels = read_labels(blocks("right", right), categories=("raccoon",))
    warning = as_read(open_image(labels, 0)).warning
    assert warning.startswith("the image is unreviewed: it is not trained on (class '")
    assert "wanted one of raccoon" in warning


def test_the_table_has_the_line_of_a_yolo_file(blocks: Blocks) -> None:
    subject = open_image(read_labels(blocks("right", right)), 0)
    x0, y0, x1, y1 = subject.record.boxes[0].tolist()
    row = as_read(subject).tables[0].rows[0]
    wanted = [(x0 + x1) / 2 / 120, (y0 + y1) / 2 / 90, (x1 - x0) / 120, (y1 - y0) / 90]
    assert row[-1] == "0 " + " ".join(f"{v:.6f}" for v in wanted)


def test_images_are_found_by_name_or_path(blocks: Blocks) -> None:
    folder = blocks("right", right)
    dataset = read_labels(folder).dataset
    for name in ("b05.png", "b05", "right/b05.png", str(folder / "b05.png")):
        assert dataset.records[find_image(dataset, name)].path.name == "b05.png"
    with pytest.raises(DataError, match=r"no image 'x.png' among 12 \(the first is b00.png\)"):
        find_image(dataset, "x.png")
    twice = dataset.with_records([*dataset.records, replace(dataset.records[5])])
    with pytest.raises(DataError, match="2 images are called 'b05'"):
        find_image(twice, "b05")


def test_chosen_images_are_informative(blocks: Blocks) -> None:
    labels = read_labels(blocks("right", right))
    area = [float((r.boxes[0, 2:] - r.boxes[0, :2]).prod()) for r in labels.dataset.records]
    chosen = {reason: index for index, reason in choose_images(labels)}
    assert area[chosen["the smallest box"]] == min(area)
    assert len({index for index, _ in choose_images(labels)}) == len(choose_images(labels))
    first = choose_images(read_labels(blocks("mixed", mixed_up)))[0]
    assert first[1] == "a box that does not fit its image"


def test_only_objects_that_are_left_out_are_called_so(blocks: Blocks) -> None:
    folder = blocks("remarks", right)
    (folder / "b01.png").unlink()  # images[1] is missing, not annotations[1]
    tree = json.loads((folder / "labels.json").read_text())
    tree["annotations"][0]["iscrowd"] = "maybe"  # taken as no, and said
    tree["annotations"][1]["image_id"] = 0
    (folder / "labels.json").write_text(json.dumps(tree))
    subject = open_image(read_labels(folder), 0)
    assert subject.fate == ("used", "used")
    assert len(subject.record.boxes) == 2
    assert [str(problem.kind) for problem in subject.problems] == ["flag_unknown"]
