from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import parse

import numpy as np
import pytest

from data_files import put_image
from hardmine.data.convert import convert
from hardmine.errors import ConfigError
from hardmine.types import Dataset, ImageRecord, ImageState


def record(path: Path, boxes: list[list[float]], state: ImageState) -> ImageRecord:
    return ImageRecord(
        path,
        40,
        20,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(1, len(boxes) + 1, dtype=np.int64),
        np.zeros(len(boxes), np.bool_),
        state,
    )


@dataclass(frozen=True)
class Handed:
    """Images to hand over; the last one's boxes are a model's."""

    dataset: Dataset
    scores: dict[Path, np.ndarray]

    def write(self, out: Path, to: str) -> Path:
        return convert({"train": self.dataset}, out, to, scores=self.scores, model="m1").out


@pytest.fixture
def handed(tmp_path: Path) -> Handed:
    """A labelled image, an empty one and an unreviewed one, and a model's suggestion."""
    paths = [
        put_image(tmp_path / name, i) for i, name in enumerate(("a.png", "x/a.png", "c d.png"))
    ]
    records = (
        record(paths[0], [[4, 2, 14, 12], [0, 0, 40, 20]], ImageState.LABELLED),
        record(paths[1], [], ImageState.VERIFIED_EMPTY),
        record(paths[2], [], ImageState.UNREVIEWED),
        record(put_image(tmp_path / "s.png", 7), [[10, 5, 20, 10]], ImageState.UNREVIEWED),
    )
    scores = {records[3].path: np.array([0.75], np.float32)}
    return Handed(Dataset(("cat", "dog"), records, tmp_path), scores)


def test_label_studio(handed: Handed, tmp_path: Path) -> None:
    out = handed.write(tmp_path / "out", "labelstudio")
    entries = json.loads((out / "tasks.json").read_text())
    assert [e["data"]["image"] for e in entries] == [
        "/data/local-files/?d=images/a.png",
        "/data/local-files/?d=images/x_a.png",
        "/data/local-files/?d=images/c%20d.png",
        "/data/local-files/?d=images/s.png",
    ]
    assert sorted(p.name for p in (out / "images").iterdir()) == [
        "a.png",
        "c d.png",
        "s.png",
        "x_a.png",
    ]
    first, second = entries[0]["annotations"][0]["result"]
    # 4 of 40 px are 10 %, 2 of 20 px are 10 %; 10 px are 25 % across and 50 % down
    assert first["value"] == {
        "x": 10,
        "y": 10,
        "width": 25,
        "height": 50,
        "rotation": 0,
        "rectanglelabels": ["cat"],
    }
    assert (first["type"], first["original_width"]) == ("rectanglelabels", 40)
    assert second["value"]["rectanglelabels"] == ["dog"]
    assert entries[1]["annotations"] == [{"result": []}]  # a person looked: nothing there
    assert "annotations" not in entries[2]  # nobody looked
    (prediction,) = entries[3]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("m1", 0.75)
    assert prediction["result"][0]["score"] == 0.75
    view = parse(out / "labels.xml").getroot()
    control = view.find("RectangleLabels")
    assert control is not None
    assert {first["from_name"], first["to_name"]} == {control.get("name"), control.get("toName")}
    assert [label.get("value") for label in control] == ["cat", "dog"]


def test_cvat(handed: Handed, tmp_path: Path) -> None:
    out = handed.write(tmp_path / "out", "cvat")
    root = parse(out / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [n.text for n in root.findall("meta/task/labels/label/name")] == ["cat", "dog"]
    images = root.findall("image")
    assert [image.get("name") for image in images] == ["a.png", "x_a.png", "c d.png", "s.png"]
    assert (images[0].get("width"), images[0].get("subset")) == ("40", "train")
    box = images[0].findall("box")[0].attrib
    corners = [float(box[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
    assert (corners, box["label"], box["source"]) == ([4, 2, 14, 12], "cat", "manual")
    assert images[3].findall("box")[0].get("source") == "auto"
    assert [len(image) for image in images] == [2, 0, 0, 1]


def test_fiftyone(handed: Handed, tmp_path: Path) -> None:
    out = handed.write(tmp_path / "out", "fiftyone")
    data = json.loads((out / "labels.json").read_text())
    assert data["classes"] == ["cat", "dog"]
    assert set(data["labels"]) == {p.stem for p in (out / "data").iterdir()}
    assert data["labels"]["a"][0] == {"label": 0, "bounding_box": [0.1, 0.1, 0.25, 0.5]}
    assert data["labels"]["x_a"] == []
    assert data["labels"]["c d"] is None
    assert data["labels"]["s"][0]["confidence"] == 0.75


def test_fiftyone_writes_a_folder_per_split(handed: Handed, tmp_path: Path) -> None:
    splits = {"train": handed.dataset.subset([0]), "val": handed.dataset.subset([1])}
    out = convert(splits, tmp_path / "out", "fiftyone", link=True).out
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
        "train/data/a.png",
        "train/labels.json",
        "val/data/x_a.png",
        "val/labels.json",
    ]


def test_ignored_boxes_are_not_shown(tmp_path: Path) -> None:
    one = record(put_image(tmp_path / "a.png"), [[4, 2, 14, 12]], ImageState.LABELLED)
    one.ignore[:] = True
    out = convert(Dataset(("cat",), (one,), tmp_path), tmp_path / "out", "cvat").out
    assert parse(out / "annotations.xml").findall("image/box") == []


def test_scores_have_a_place_in_labelling_formats_only(handed: Handed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'coco': has no place for a model's boxes"):
        handed.write(tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


def test_predictions_are_counted_apart(handed: Handed, tmp_path: Path) -> None:
    done = convert(handed.dataset, tmp_path / "out", "cvat", scores=handed.scores)
    assert (done.boxes, done.predicted_boxes) == (3, 1)
