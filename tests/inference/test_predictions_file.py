"""Predictions files of several frameworks, read into the same detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_files import put_image
from hardmine.errors import ConfigError, DataError
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import ScoredImage, detect_images, score_images
from hardmine.inference.predictions_file import (
    Predictions,
    load_predictions,
    looks_like_predictions,
)
from hardmine.types import Problem

A, B = [10.0, 20.0, 40.0, 60.0], [1.0, 2.0, 3.0, 4.0]  # xyxy; as xywh 10 20 30 40 and 1 2 2 2
CAT, DOG = 0.75, 0.5


def coco(image_id: object, number: int, score: float, **more: object) -> dict[str, object]:
    box = [10, 20, 30, 40] if number == 1 else [1, 2, 2, 2]
    return {"image_id": image_id, "category_id": number, "bbox": box, "score": score, **more}


def ultralytics(name: str, kind: int, score: float, box: list[float]) -> dict[str, object]:
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    return {"name": name, "class": kind, "confidence": score, "box": corners}


TABLE = {
    "images": [{"id": 7, "file_name": "sub/a.jpg"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
FORMS: dict[str, tuple[Any, Any]] = {
    "COCO results, names from the annotations": ([coco(7, 2, DOG), coco(7, 1, CAT)], TABLE),
    "a COCO file with scores": ({**TABLE, "annotations": [coco(7, 2, DOG), coco(7, 1, CAT)]}, None),
    "Ultralytics val: the stem as id": ([coco("a", 1, CAT), coco("a", 2, DOG)], ["cat", "dog"]),
    "Ultralytics val: with file names": (
        [coco(0, 1, CAT, file_name="a.jpg"), coco(0, 2, DOG, file_name="a.jpg")],
        ["cat", "dog"],
    ),
    "hardmine predict --json": (
        [
            coco(None, 1, CAT, file_name="/there/pool/sub/a.jpg", category="cat"),
            coco(None, 2, DOG, file_name="/there/pool/sub/a.jpg", category="dog"),
        ],
        None,
    ),
    "COCO results under a key, classes by name": (
        {"predictions": [coco("a.jpg", 2, DOG), coco("a.jpg", 1, CAT) | {"category_id": "cat"}]},
        ["cat", "dog"],
    ),
    "Ultralytics to_json by image": (
        {"sub/a.jpg": [ultralytics("cat", 0, CAT, A), ultralytics("dog", 1, DOG, B)]},
        None,
    ),
    "mmdetection by image": (
        {"a": {"labels": [1, 0], "scores": [DOG, CAT], "bboxes": [B, A]}},
        ["cat", "dog"],
    ),
}


@pytest.mark.parametrize("name", ["found.jsonl", "found.json"])
def test_one_detection_per_line(tmp_path: Path, name: str) -> None:
    rows = [coco("a.jpg", 1, CAT), coco("a.jpg", 2, DOG)]
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    found = load_detector(path, classes=["cat", "dog"])
    assert isinstance(found, Predictions)
    assert found.look(Path("a.jpg")).boxes.tolist() == [A, B]
    path.write_text(json.dumps(rows[0]) + "\n{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load_predictions(path, ["cat", "dog"])
    path.write_text("")
    with pytest.raises(DataError, match="is empty, wanted a predictions file"):
        load_predictions(path, ["cat", "dog"])


def write(folder: Path, tree: Any, classes: Any) -> tuple[Path, Path | list[str] | None]:
    path = folder / "found.json"
    path.write_text(json.dumps(tree))
    if not isinstance(classes, dict):
        return path, classes
    (folder / "truth.json").write_text(json.dumps(classes))
    return path, folder / "truth.json"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_detections(tmp_path: Path, form: str) -> None:
    path, classes = write(tmp_path, *FORMS[form])
    found = load_predictions(path, classes)
    assert found.categories == ("cat", "dog")
    seen = found.look(Path("/here/pool/sub/a.jpg"))
    np.testing.assert_allclose(seen.boxes, [A, B])
    assert seen.scores.tolist() == [CAT, DOG]
    assert seen.labels.tolist() == [1, 2]
    assert len(found.look(Path("/here/pool/sub/other.jpg"))) == 0
    assert not found.names(Path("/here/pool/sub/other.jpg"))


def test_a_folder_of_one_file_per_image(tmp_path: Path) -> None:
    """mmdetection's inferencer writes preds/NAME.json."""
    for name, score in (("a", CAT), ("b", DOG)):
        entry = {"labels": [0], "scores": [score], "bboxes": [A]}
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))
    found = load_detector(tmp_path, classes=["cat"])
    assert isinstance(found, Predictions)
    assert [float(found.look(Path(f"{n}.png")).scores[0]) for n in "ab"] == [CAT, DOG]


def test_a_numeric_stem_is_found_with_its_zeros(tmp_path: Path) -> None:
    path, classes = write(tmp_path, [coco(42, 1, CAT)], ["cat"])
    assert len(load_predictions(path, classes).look(Path("000042.jpg"))) == 1


def test_equal_names_in_two_folders_are_not_confused(tmp_path: Path) -> None:
    rows = [coco(None, 1, s, file_name=f"{f}/a.jpg") for f, s in (("one", 0.9), ("two", 0.2))]
    path, classes = write(tmp_path, rows, ["cat", "dog"])
    found = load_predictions(path, classes)
    assert float(found.look(Path("/x/one/a.jpg")).scores[0]) == pytest.approx(0.9)
    assert float(found.look(Path("/x/two/a.jpg")).scores[0]) == pytest.approx(0.2)
    assert len(found.look(Path("/x/three/a.jpg"))) == 0


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([coco(1, 1, CAT), {"image_id": 1}], r"found\.json\[1\]: wanted category_id"),
        ([coco(1, 1, 1.5)], r"\[0\]: score 1\.5, wanted a probability"),
        ([coco(1, 1, float("nan"))], "not finite"),
        (
            [{**coco(1, 1, 0.5), "bbox": [0, 0, 0, 3.41e38]}],
            "not finite",
        ),  # float32 ends at 3.403e38
        ([{**coco(1, 1, CAT), "bbox": [1, 2, 3]}], r"\[0\]: wanted"),
        ([coco(None, 1, CAT)], "no image_id and no file_name"),
        (
            [coco(1, 3, CAT)],
            r"has detections of class 3; the classes are 'cat' \(number 1\), 'dog' \(number 2\)",
        ),
        ([3], "got int, wanted a detection"),
        ({"a": {"labels": [0], "scores": [], "bboxes": []}}, r"\[a\]: wanted bboxes"),
        ({"a": [{"name": "cat"}]}, r"\[a\]: wanted .* list of name, confidence and box"),
        ("text", "got str, wanted detections"),
        ({"annotations": [], "images": [{}]}, r"found.json: wanted images with id and file_name"),
        ([{**coco(1, 1, CAT), "bbox": [1, 2, 3, 10**400]}], r"\[0\]: wanted category_id"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, tree: Any, message: str) -> None:
    path, _ = write(tmp_path, tree, None)
    with pytest.raises(DataError, match=message):
        load_predictions(path, ["cat", "dog"])


def test_classes_by_number_need_names(tmp_path: Path) -> None:
    path, _ = write(tmp_path, [coco(1, 1, CAT)], None)
    with pytest.raises(DataError, match="by number only; give --classes"):
        load_predictions(path)


def test_pictures_are_looked_up_and_the_unreadable_are_problems(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    path, classes = write(tmp_path, [coco("a", 1, CAT)], ["cat"])
    found = load_detector(path, classes=classes)
    first, second = score_images(found, [tmp_path / "a.png", tmp_path / "b.png"])
    assert isinstance(first, ScoredImage)
    assert (first.score, first.label, len(first.detections)) == (CAT, 1, 1)
    assert isinstance(second, Problem)
    assert [len(d) for d in detect_images(found, [tmp_path / "a.png"])] == [1]
    with pytest.raises(ConfigError, match="cannot be run on pictures"):
        found.score(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "doubtful"), [([1], True), ([1, 2], True), ([1, 3], False), ([3], False)]
)
def test_ids_that_may_count_from_0_are_said_to_be_taken_from_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids: list[int], doubtful: bool
) -> None:
    """Of three classes, id 3 exists only where they count from 1."""
    path = tmp_path / "found.json"
    rows = [{"image_id": "a", "category_id": i, "bbox": [0, 0, 5, 5], "score": 0.9} for i in ids]
    path.write_text(json.dumps(rows))
    load_predictions(path, ["x", "y", "z"])
    assert ("assumed to count from 1" in caplog.text) is doubtful


def test_a_form_that_counts_from_0_is_not_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """mmdetection's labels always count from 0."""
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"a": {"bboxes": [A], "scores": [0.9], "labels": [0]}}))
    load_predictions(path, ["x", "y", "z"])
    assert "assumed" not in caplog.text


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[0.1, 0.1, 0.5, 0.4]], "shares of the image"),
        ([[20, 15, 38, 28]] * 8, "xmin ymin xmax ymax"),
        ([[20, 15, 10, 8]] * 8, ""),
        ([[-30, -20, 45, 30]] * 8, ""),
    ],
)
def test_boxes_in_another_form_are_refused(
    tmp_path: Path, boxes: list[list[float]], said: str
) -> None:
    image = put_image(tmp_path / "a.jpg")  # 40 x 30
    rows = [{"image_id": "a", "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]
    found = load_predictions(write(tmp_path, rows, ["cat"])[0], ["cat"])
    if not said:
        assert len(found.bound_to([image]).look(image)) == len(boxes)
        return
    with pytest.raises(DataError, match=f"boxes in another form: .*{said}"):
        found.bound_to([image])


def test_scores_may_pass_one_by_rounding_and_boxes_may_not_turn_over(tmp_path: Path) -> None:
    path, _ = write(tmp_path, [coco("a", 1, 1.0000001)], ["cat"])
    assert load_predictions(path, ["cat"]).by_name["a"].scores.tolist() == [1.0]
    write(tmp_path, [coco("a", 1, 90)], ["cat"])
    with pytest.raises(DataError, match="is it in percent"):
        load_predictions(path, ["cat"])
    write(tmp_path, [{**coco("a", 1, 0.5), "bbox": [9, 9, -3, 4]}], ["cat"])
    with pytest.raises(DataError, match="a side below 0"):
        load_predictions(path, ["cat"])


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({"version": "5.5.0", "shapes": [], "imagePath": "a.jpg"}, "labels of LabelMe"),
        ([{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}], "labels of COCO"),
        ({**TABLE, "annotations": [{"image_id": 7, "category_id": 1, "bbox": A}]}, "of COCO"),
    ],
)
def test_labels_are_no_predictions(tmp_path: Path, tree: Any, kind: str) -> None:
    path, _ = write(tmp_path, tree, None)
    with pytest.raises(DataError, match=f"{kind}, without scores; wanted a predictions file"):
        load_predictions(path, ["cat", "dog"])


def test_weights_whose_first_bytes_read_like_json_are_no_predictions(tmp_path: Path) -> None:
    """Safetensors begin with the length of their header: 0x7b20 reads as a space and a brace."""
    weights = tmp_path / "last.safetensors"
    weights.write_bytes((0x7B20).to_bytes(8, "little") + b'{"__metadata__":{}}'.ljust(0x7B20))
    assert not looks_like_predictions(weights)
    text = tmp_path / "found"
    text.write_text(' {"a.jpg": []}')
    assert looks_like_predictions(text)


def test_images_of_one_name_in_two_folders_count_where_they_have_detections(tmp_path: Path) -> None:
    """The pictures may lie in another folder than the file says, where only the name is left."""
    images = [{"id": 1, "file_name": "train/a.png"}, {"id": 2, "file_name": "val/a.png"}]
    images.append({"id": 3, "file_name": "val/b.png"})
    tree = {"images": images, "categories": TABLE["categories"], "annotations": [coco(2, 1, CAT)]}
    (tmp_path / "found.json").write_text(json.dumps(tree))
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (100, 100)).save(tmp_path / "images" / name)
    detector = load_predictions(tmp_path / "found.json")
    paths = [tmp_path / "images" / name for name in ("a.png", "b.png")]
    assert [len(found) for found in detector.detect_images(paths)] == [1, 0]
