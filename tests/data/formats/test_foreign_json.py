"""JSON files that are no labels, as their programs write them: each is called what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_files import put_image, put_text
from hardmine.data.formats.foreign_json import whose_json
from hardmine.data.load_dataset import load_dataset
from hardmine.errors import DataError

BOX = [0.1, 0.1, 0.2, 0.2]
CAMERA_TRAP = {"category": "1", "conf": 0.9, "bbox": BOX}
FOUND = {
    "MegaDetector": {
        "images": [{"file": "a.jpg", "detections": [CAMERA_TRAP]}],
        "detection_categories": {"1": "animal"},
    },
    "SpeciesNet": {"predictions": [{"filepath": "a.jpg", "detections": [CAMERA_TRAP]}]},
    "a list of detections": [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}],
    "detections by image": {"a.jpg": {"bboxes": [BOX], "scores": [0.5], "labels": [0]}},
    "the candidates of a run of mine": {"pool": "pool", "candidates": []},
    "Datumaro": {"info": {}, "categories": {}, "items": [{"id": "a", "annotations": []}]},
    "Supervisely": {"description": "", "tags": [], "size": {}, "objects": []},
    "FiftyOne": {"samples": [{"filepath": "a.jpg"}]},
    "Labelbox": [{"data_row": {"external_id": "a.jpg"}, "projects": {}}],
    "BDD100K": [{"name": "a.jpg", "labels": [{"category": "cat", "box2d": {}}]}],
    "V7 Darwin": {"version": "2.0", "item": {"name": "a.jpg"}, "annotations": []},
    "LabelMe": {"version": "5.5.0", "shapes": [], "imagePath": "a.jpg"},
    "GeoJSON": {"type": "FeatureCollection", "features": []},
}


@pytest.mark.parametrize("whose", FOUND)
def test_a_file_of_another_program_is_called_what_it_is(tmp_path: Path, whose: str) -> None:
    file = put_text(tmp_path / "a.json", json.dumps(FOUND[whose]))
    if whose != "LabelMe":  # with its picture it is read
        put_image(tmp_path / "a.jpg")
    for data in (file, tmp_path):
        with pytest.raises(DataError, match=f"a.json: not a COCO file: it looks like {whose}"):
            load_dataset(data)


@pytest.mark.parametrize("content", [None, 3, [], {}, [3], {"a": 3}, {"cells": []}, "text"])
def test_of_what_nobody_knows_nothing_is_said(content: Any) -> None:
    assert whose_json(content) == ""
