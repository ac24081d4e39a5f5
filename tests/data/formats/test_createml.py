"""CreateML's JSON as Apple's page shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_dataset, load_splits, read_splits
from hardmine.data.quality.label_coordinates import judge_form
from hardmine.errors import DataError
from hardmine.types import ImageState


def item(label: str, x: object, y: float, width: float, height: float) -> dict[str, Any]:
    at = {"x": x, "y": y, "width": width, "height": height}
    return {"label": label, "coordinates": at}


def put(root: Path, entries: Any, name: str = "_annotations.createml.json") -> Path:
    for seed, stem in enumerate("abc"):
        put_image(root / f"{stem}.png", seed)
    return put_text(root / name, json.dumps(entries))


def test_centres_and_sizes_in_pixels(tmp_path: Path) -> None:
    entries = [
        {"image": "a.png", "annotations": [item("cat", 10, 12, 8, 6), item("dog", 20, 10, 4, 4)]},
        {"image": "b.png", "annotations": []},
    ]
    put(tmp_path, entries)
    dataset = load_dataset(tmp_path)
    # centre 10 12, size 8 x 6: 6 9 to 14 15
    np.testing.assert_array_equal(
        by_name(dataset)["a.png"].boxes, [[6, 9, 14, 15], [18, 8, 22, 12]]
    )
    assert states(dataset) == {
        "a.png": ImageState.LABELLED,
        "b.png": ImageState.VERIFIED_EMPTY,
        "c.png": ImageState.UNREVIEWED,  # the file does not name it
    }
    assert dataset.problems == ()


def test_the_older_names_and_any_file_name(tmp_path: Path) -> None:
    put(tmp_path, [{"imagefilename": "a.png", "annotation": [item("cat", 10, 12, 8, 6)]}], "x.json")
    assert len(by_name(load_dataset(tmp_path))["a.png"].boxes) == 1


def test_faults_are_named_by_their_place(tmp_path: Path) -> None:
    entries = [
        {"image": "a.png", "annotations": [item("cat", 10, 12, 8, 6), item("cat", "x", 1, 2, 3)]},
        {"image": "gone.png", "annotations": [item("cat", 10, 12, 8, 6)]},
        {"image": "b.png", "annotations": [{"label": "cat"}]},
        {"image": "../x.png", "annotations": []},
        {"image": "a.png", "annotations": [item("cat", 20, 12, 8, 6)]},
    ]
    put(tmp_path / "in", entries)
    dataset = load_dataset(tmp_path / "in")
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("box_malformed", 1),
        ("image_missing", 1),
        ("box_malformed", 3),
        ("path_outside", 3),
        ("file_repeated", 4),
    ]
    assert len(by_name(dataset)["a.png"].boxes) == 2
    assert states(dataset)["b.png"] is ImageState.UNREVIEWED


def test_what_is_no_list_of_entries(tmp_path: Path) -> None:
    put(tmp_path, {"image": "a.png"})
    with pytest.raises(DataError, match="got dict, wanted a list with an entry per image"):
        load_dataset(tmp_path)


def test_create_ml_gets_folders_of_images_and_one_json(tmp_path: Path) -> None:
    put(tmp_path / "in", [{"image": "a.png", "annotations": [item("cat", 10, 12, 8, 6)]}])
    splits = {"train": load_dataset(tmp_path / "in")}
    splits["val"] = splits["train"].subset([0])
    out = convert(splits, tmp_path / "out", "createml").out
    assert sorted(p.name for p in (out / "train").iterdir()) == [
        "_annotations.createml.json",
        "a.png",
        "b.png",
        "c.png",
    ]
    entries = json.loads((out / "train" / "_annotations.createml.json").read_text())
    assert entries == [{"image": "a.png", "annotations": [item("cat", 10, 12, 8, 6)]}]
    after = load_splits(out)
    assert {name: len(dataset) for name, dataset in after.items()} == {"train": 3, "val": 1}
    assert kinds(after["train"]) == []


def test_boxes_from_their_corner_are_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [item("cat", *rng.uniform(0, 4, 2), *rng.uniform(20, 26, 2)) for _ in range(12)]
    put_image(tmp_path / "0.jpg")
    path = put_text(tmp_path / "a.json", json.dumps([{"filename": "0.jpg", "annotations": boxes}]))
    form = judge_form(read_splits(path)["all"])
    assert form is not None
    assert form.declared == "cxcywh"
    assert form.doubtful
    assert form.sound["xywh"] == 1


def test_a_label_that_is_null_is_no_class(tmp_path: Path) -> None:
    put_image(tmp_path / "0.jpg")
    entry = item("cat", 10, 10, 4, 4) | {"label": None}
    put_text(tmp_path / "a.json", json.dumps([{"image": "0.jpg", "annotations": [entry]}]))
    data = load_dataset(tmp_path)
    assert data.categories == ()
    assert kinds(data) == ["class_unknown"]
