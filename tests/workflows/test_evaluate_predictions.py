"""Measuring a predictions file: it must speak of the images, and labels must lie on the pictures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data_files import coco, coco_box, coco_image, put_image, put_text
from hardmine.errors import DataError
from hardmine.workflows.choose_threshold import threshold
from hardmine.workflows.train_and_evaluate import evaluate

SIZE = (40, 30)
BOX = [5.0, 6.0, 20.0, 15.0]


def write(folder: Path, factor: float = 1.0, number: int = 10, **fields: object) -> Path:
    """Labels at ``factor`` times the pictures' size, of pictures of 40 × 30."""
    images, annotations = [], []
    for index in range(number):
        put_image(folder / f"{index}.png", index, SIZE)
        entry = coco_image(100 + index, f"{index}.png")
        images.append(entry | {"width": int(40 * factor), "height": int(30 * factor)})
        annotations.append(coco_box(100 + index, [v * factor for v in BOX], **fields))
    return put_text(folder / "c.json", coco(images, annotations, [{"id": 1, "name": "cat"}]))


def predict(folder: Path, *ids: int) -> Path:
    rows = [{"image_id": i, "category_id": 1, "bbox": BOX, "score": 0.9} for i in ids]
    return put_text(folder / "found.json", json.dumps(rows))


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.5])
def test_exact_predictions_have_an_ap_of_one_whatever_scale_the_labels_have(
    tmp_path: Path, factor: float
) -> None:
    """The classes and the ids come from the data: nothing else needs to be given."""
    data, found = write(tmp_path, factor), predict(tmp_path, *range(100, 110))
    measured = evaluate(found, data, out=tmp_path / "out", draws=10)
    assert measured.ap.ap == pytest.approx(1.0)
    assert measured.negatives == {}  # a file says nothing of crops of the images


def test_predictions_for_other_images_are_refused(tmp_path: Path) -> None:
    data, found = write(tmp_path), predict(tmp_path, 900, 901, 902)
    with pytest.raises(
        DataError, match=r"0 of 3 detections .* names 900, 901, 902, .* 0.png, 1.png"
    ):
        evaluate(found, data, out=tmp_path / "out", draws=10)
    with pytest.raises(DataError, match="is about other images"):
        evaluate(found, data, classes=data, out=tmp_path / "out", draws=10)


def test_a_part_that_matches_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, found = write(tmp_path), predict(tmp_path, *range(100, 105), 900, 901)
    with caplog.at_level(logging.WARNING):
        measured = evaluate(found, data, out=tmp_path / "out", draws=10)
    assert "5 of 7 detections belong to the images, 5 of 10 images are named" in caplog.text
    assert 0.4 < measured.ap.ap < 0.6  # type: ignore[operator]


def test_nothing_is_measured_where_all_is_ignored(tmp_path: Path) -> None:
    data, found = write(tmp_path, iscrowd=1), predict(tmp_path, 100)
    with pytest.raises(DataError, match="validation images: all 10 boxes are to be ignored"):
        evaluate(found, data, out=tmp_path / "out", draws=10)


def test_an_image_that_failed_is_neither_missed_nor_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of ten labelled images and one of two empty ones failed; the rest is found, and fires."""
    data = write(tmp_path)
    for index in range(2):
        put_image(tmp_path / "empty" / f"e{index}.png", 50 + index, SIZE)
    row = {"category": "1", "conf": 0.9, "bbox": [5 / 40, 6 / 30, 20 / 40, 15 / 30]}
    entries = [{"file": f"{i}.png", "detections": [row]} for i in range(9)]
    entries += [{"file": "9.png", "detections": None, "failure": "access"}]
    entries += [{"file": "empty/e0.png", "detections": [row]}]
    entries += [{"file": "empty/e1.png", "failure": "access"}]
    found = {"detection_categories": {"1": "cat"}, "images": entries}
    file = put_text(tmp_path / "md.json", json.dumps(found))
    empty, out = tmp_path / "empty", tmp_path / "out"
    measured = evaluate(file, data, negatives=empty, out=out, draws=10)
    assert measured.ap.ap == pytest.approx(1.0)
    assert measured.to_dict()["images"] == 9
    assert measured.to_dict()["negatives"]["held_out"]["images"] == 1
    assert "2 of the images failed when they were predicted" in caplog.text
    assert len(json.loads((out / "metrics.json").read_text())["problems"]) == 2
    result = threshold(file, data, negatives=empty, out=tmp_path / "t", max_alarms=0.99)
    assert any("2 images are left out" in note for note in result.notes)
    assert result.tables[0][0].to_dict()["firing"]["images"] == 1


def test_images_that_all_failed_measure_nothing(tmp_path: Path) -> None:
    data = write(tmp_path)
    entries = [{"file": f"{i}.png", "failure": "access"} for i in range(10)]
    found = {"detection_categories": {"1": "cat"}, "images": entries}
    file = put_text(tmp_path / "md.json", json.dumps(found))
    with pytest.raises(DataError, match=r"validate on: none of the 10 images was predicted"):
        evaluate(file, data, out=tmp_path / "out", draws=10)
