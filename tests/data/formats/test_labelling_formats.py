from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import parse

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_dataset, load_splits, read_splits
from hardmine.data.quality.label_coordinates import judge_form
from hardmine.errors import ConfigError, DataError
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
        put_image(tmp_path / name, i, (40, 20))
        for i, name in enumerate(("a.png", "x/a.png", "c d.png"))
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


def test_boxes_of_a_model_in_fiftyones_files_are_remarked_on(
    handed: Handed, tmp_path: Path
) -> None:
    data = load_dataset(handed.write(tmp_path / "out", "fiftyone"))
    assert kinds(data) == ["empty_list", "columns_left_out"]
    assert "an object with a score" in data.problems[1].reason


def test_fiftyone_writes_a_folder_per_split(handed: Handed, tmp_path: Path) -> None:
    splits = {"train": handed.dataset.subset([0]), "val": handed.dataset.subset([1])}
    out = convert(splits, tmp_path / "out", "fiftyone", link=True).out
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
        "image_names.json",
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


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "fiftyone"])
def test_what_a_person_labelled_is_read_back(handed: Handed, tmp_path: Path, to: str) -> None:
    out = convert(handed.dataset.subset([0, 1, 2]), tmp_path / "out", to).out
    after = load_dataset(out)
    assert after.categories == ("cat", "dog")
    np.testing.assert_allclose(
        by_name(after)["a.png"].boxes, [[4, 2, 14, 12], [0, 0, 40, 20]], atol=1e-5
    )
    assert by_name(after)["a.png"].labels.tolist() == [1, 2]
    # CVAT cannot say that a person looked at an image and found nothing.
    empty = ImageState.UNREVIEWED if to == "cvat" else ImageState.VERIFIED_EMPTY
    assert states(after) == {
        "a.png": ImageState.LABELLED,
        "x_a.png": empty,
        "c d.png": ImageState.UNREVIEWED,
    }
    assert [p for p in after.problems if p.kind != "empty_list"] == []


def export(root: Path, *tasks: dict, name: str = "project-1.json") -> Dataset:
    for seed, stem in enumerate("ab"):
        put_image(root / "images" / f"{stem}.png", seed, (40, 20))
    put_text(root / name, json.dumps(tasks))
    return load_dataset(root / name, images=root / "images")


def drawn(kind: str = "rectanglelabels", labels: object = ("cat",), **value: object) -> dict:
    value = value or {"x": 10, "y": 10, "width": 25, "height": 50}
    return {
        "type": kind,
        "original_width": 40,
        "original_height": 20,
        "value": {**value, kind: list(labels)},
    }


def task(name: str, *annotations: dict) -> dict:
    return {"id": 1, "data": {"image": name}, "annotations": list(annotations), "predictions": []}


@pytest.mark.parametrize(
    ("item", "box"),
    [
        (drawn(), [4, 2, 14, 12]),
        ({**drawn(), "image_rotation": 90}, [4, 2, 14, 12]),  # of the picture as it is stored
        (drawn("polygonlabels", points=[[10, 10], [35, 20], [20, 60]]), [4, 2, 14, 12]),
        (drawn("ellipselabels", x=50, y=50, radiusX=25, radiusY=20), [10, 6, 30, 14]),
        (drawn("ellipselabels", x=50, y=50, radiusX=20, radiusY=20, rotation=90), [16, 2, 24, 18]),
        # turned by 90 degrees about its upper left corner (20, 2): 10 x 8 becomes 8 x 10, to its left
        (drawn(x=50, y=10, width=25, height=40, rotation=90), [12, 2, 20, 12]),
    ],
)
def test_label_studios_shapes_by_hand(tmp_path: Path, item: dict, box: list[float]) -> None:
    dataset = export(tmp_path, task("/data/upload/1/0123abcd-a.png", {"result": [item]}))
    np.testing.assert_allclose(dataset.records[0].boxes, [box], atol=1e-5)
    assert [p.kind for p in dataset.problems] == ["image_found_otherwise"]


def test_label_studios_annotations(tmp_path: Path) -> None:
    older = {"result": [drawn(labels=("dog",))]}
    newer = {"result": [drawn()]}
    skipped = {"result": [], "was_cancelled": True}
    dataset = export(tmp_path, task("a.png", older, newer), task("b.png", skipped))
    assert dataset.categories == ("cat",)
    assert states(dataset)["b.png"] is ImageState.UNREVIEWED
    assert [p.kind for p in dataset.problems] == ["label_ambiguous"]
    truth = export(tmp_path, task("a.png", older | {"ground_truth": True}, newer))
    assert truth.categories == ("dog",)


def test_label_studios_tasks_without_annotations_are_not_taken_for_createml(tmp_path: Path) -> None:
    for seed, stem in enumerate("ab"):
        put_image(tmp_path / "images" / f"{stem}.png", seed, (40, 20))
    box = {"x": 10, "y": 10, "width": 25, "height": 50, "rectanglelabels": ["cat"]}
    item = {"type": "rectanglelabels", "original_width": 40, "original_height": 20, "value": box}
    tasks = [
        {"id": 1, "annotations": [], "data": {"image": "images/a.png"}},
        {"id": 2, "annotations": [{"id": 1, "result": [item]}], "data": {"image": "images/b.png"}},
    ]
    put_text(tmp_path / "export.json", json.dumps(tasks))
    assert states(load_dataset(tmp_path)) == {
        "a.png": ImageState.UNREVIEWED,
        "b.png": ImageState.LABELLED,
    }


def test_label_studios_short_form_and_faults(tmp_path: Path) -> None:
    short = {"x": 10, "y": 10, "width": 25, "height": 50, "rectanglelabels": ["cat"]}
    short |= {"original_width": 40, "original_height": 20}
    dataset = export(tmp_path, {"image": "a.png", "label": [short]}, {"image": "b.png"})
    np.testing.assert_allclose(dataset.records[0].boxes, [[4, 2, 14, 12]], atol=1e-5)
    point = drawn("keypointlabels", x=1, y=2, width=1)
    nameless = drawn(labels=())
    dataset = export(tmp_path, task("a.png", {"result": [point, nameless, {"type": "x"}]}))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("class_unknown", 1),
        ("box_malformed", 2),
        ("shapes_left_out", 0),
    ]


def test_cvats_shapes_by_hand(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.png", 0, (40, 20))
    shapes = [
        '<box label="cat" xtl="4" ytl="2" xbr="14" ybr="12" occluded="1"/>',
        '<box label="cat" xtl="10" ytl="6" xbr="20" ybr="10" rotation="90"/>',
        '<polygon label="dog" points="3,4;9,4;5,12"/>',
        '<ellipse label="dog" cx="20" cy="10" rx="5" ry="3"/>',
        '<ellipse label="dog" cx="20" cy="10" rx="5" ry="3" rotation="90"/>',
        '<mask label="dog" rle="1, 2" left="1" top="2" width="3" height="4"/>',
        '<points label="dog" points="3,4"/>',
        '<box label="cat" xtl="4" ytl="2" xbr="14"/>',
        '<box xtl="4" ytl="2" xbr="14" ybr="12"/>',
    ]
    image = f'<image id="0" name="a.png" width="40" height="20">{"".join(shapes)}</image>'
    put_text(
        tmp_path / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>"
    )
    dataset = load_dataset(tmp_path)
    expected = [[4, 2, 14, 12], [13, 3, 17, 13], [3, 4, 9, 12], [15, 7, 25, 13]]
    expected += [[17, 5, 23, 15], [1, 2, 4, 6]]
    np.testing.assert_allclose(dataset.records[0].boxes, expected, atol=1e-5)
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("box_malformed", 7),
        ("class_unknown", 8),
        ("shapes_left_out", 6),
    ]


def test_a_keypoint_alone_makes_no_negative(tmp_path: Path) -> None:
    point = drawn("keypointlabels", x=1, y=2, width=1)
    dataset = export(tmp_path, task("a.png", {"result": [point]}), task("b.png", {"result": []}))
    assert states(dataset) == {"a.png": ImageState.UNREVIEWED, "b.png": ImageState.VERIFIED_EMPTY}


def test_fiftyones_boxes_in_pixels_are_told_of(tmp_path: Path) -> None:
    for seed, stem in enumerate("ab"):
        put_image(tmp_path / "data" / f"{stem}.png", seed, (40, 20))
    box = {"label": "cat", "bounding_box": [4, 2, 10, 8]}
    put_text(
        tmp_path / "labels.json", json.dumps({"classes": None, "labels": {"a": [box], "b": []}})
    )
    verdict = judge_form(read_splits(tmp_path)["all"])
    assert verdict is not None
    assert (verdict.declared, verdict.best) == ("xywh_shares", "xywh")
    assert [str(p.kind) for p in load_dataset(tmp_path).problems if p.index == 1] == ["empty_list"]


def test_tracks_of_a_video_say_what_to_export_instead(tmp_path: Path) -> None:
    put_text(tmp_path / "annotations.xml", '<annotations><track id="0" label="cat"/></annotations>')
    with pytest.raises(DataError, match="export the task as 'CVAT for images"):
        load_dataset(tmp_path)


def test_subsets_of_cvat_are_splits(tmp_path: Path) -> None:
    for name in "ab":
        put_image(tmp_path / "images" / f"{name}.jpg")
    box = '<box label="cat" xtl="1" ytl="2" xbr="20" ybr="10"/>'
    images = "".join(
        f'<image id="0" name="{name}.jpg" subset="{subset}" width="40" height="30">{box}</image>'
        for name, subset in (("a", "Train"), ("b", "Validation"))
    )
    put_text(tmp_path / "annotations.xml", f"<annotations>{images}</annotations>")
    splits = load_splits(tmp_path)
    assert {n: [r.path.name for r in s.records] for n, s in splits.items()} == {
        "train": ["a.jpg"],
        "val": ["b.jpg"],
    }
