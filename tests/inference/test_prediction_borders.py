"""Predictions that two forms fit: the right one is taken, or both are named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from data_files import put_image
from hardmine.errors import DataError, HardmineError
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predictions_file import Predictions

CORNERS = [10.0, 20.0, 40.0, 60.0]
SIZE = (100, 80)
TEXT = "1 0.25 0.5 0.3 0.5 0.5\n"  # the second class at CORNERS in an image of 100 x 80
HEAD = "image,x1,y1,x2,y2,score,class\n"
MEGADETECTOR = {
    "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
    "images": [
        {
            "file": "a.png",
            "detections": [{"category": "1", "conf": 0.5, "bbox": [0.1, 0.25, 0.3, 0.5]}],
        }
    ],
}


def row(**fields: Any) -> dict[str, Any]:
    made = {"image_id": "a", "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5, **fields}
    return {key: value for key, value in made.items() if value is not None}


def put(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def seen(
    folder: Path, spec: str, classes: Any = None, images: tuple[str, ...] = ("a.png",)
) -> list[list[tuple[str, float, list[float]]]]:
    """Return what ``spec`` says of each of the images: class, score and box."""
    paths = [put_image(folder / "images" / name, i, SIZE) for i, name in enumerate(images)]
    found = load_detector(folder / spec, classes=classes)
    assert isinstance(found, Predictions)
    bound = found.bound_to(paths)
    return [
        [
            (bound.categories[int(label) - 1], round(float(score), 3), [round(x, 2) for x in box])
            for box, score, label in zip(one.boxes.tolist(), one.scores, one.labels, strict=True)
        ]
        for one in (bound.look(path) for path in paths)
    ]


def right(name: str, score: float = 0.5, box: list[float] = CORNERS) -> list[Any]:
    return [(name, score, box)]


@pytest.mark.parametrize(
    ("name", "text", "number", "kind"),
    [
        ("gaps.csv", "id,name\n2,cat\n3,dog\n", 2, "cat"),
        ("gaps.pbtxt", "item { id: 2 name: 'cat' }\nitem { id: 5 name: 'dog' }\n", 5, "dog"),
        ("gaps.yaml", "names: {0: cat, 3: dog}\n", 3, "dog"),
        ("from_0.csv", "id,name\n0,cat\n1,dog\n2,owl\n", 1, "dog"),
        ("from_0.json", '{"id2label": {"0": "cat", "1": "dog", "2": "owl"}}', 1, "dog"),
        ("objects.json", '[{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]', 1, "dog"),
        ("from_1.csv", "id,name\n1,cat\n2,dog\n3,owl\n", 1, "cat"),
        ("lines.txt", "0 cat\n1 dog\n2 owl\n", 1, "dog"),
    ],
)
def test_numbers_that_a_list_of_classes_gives_are_the_numbers(
    tmp_path: Path, name: str, text: str, number: int, kind: str
) -> None:
    put(tmp_path, "found.json", [row(category_id=number)])
    assert seen(tmp_path, "found.json", put(tmp_path, name, text)) == [right(kind)]


def test_numbers_of_a_data_yaml_are_those_of_its_texts_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "found.json", [row()])
    classes = put(tmp_path, "data.yaml", "names: {0: cat, 1: dog, 2: owl}\n")
    assert seen(tmp_path, "found.json", classes) == [right("cat")]
    assert "may count from 0 or from 1" in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        [row(category_id=None, label="1")],
        {"a.png": {"bboxes": [CORNERS], "scores": [0.5], "labels": ["1"]}},
        {
            "a.png": [
                {
                    "label": "1",
                    "score": 0.5,
                    "box": dict(zip(("x1", "y1", "x2", "y2"), CORNERS, strict=True)),
                }
            ]
        },
    ],
)
def test_a_name_that_is_a_number_stays_a_name(tmp_path: Path, value: Any) -> None:
    put(tmp_path, "found.json", value)
    assert seen(tmp_path, "found.json", ["2", "1"]) == [right("1")]


@pytest.mark.parametrize("name", [" k\u00e4se ", "ka\u0308se"])
def test_names_are_compared_as_those_of_the_list(tmp_path: Path, name: str) -> None:
    put(tmp_path, "found.json", [row(category_id=None, category=name)])
    assert seen(tmp_path, "found.json", ["k\u00e4se"]) == [right("k\u00e4se")]


def test_labels_in_lists_count_from_0_where_a_0_occurs(tmp_path: Path) -> None:
    """Hugging Face's count from 0, torchvision's from 1; 1 of 3 may be either, which is said."""
    entry = {"boxes": [CORNERS], "scores": [0.5]}
    tree = {"a.png": {**entry, "labels": [1]}, "b.png": {**entry, "labels": [0]}}
    put(tmp_path, "found.json", tree)
    found = seen(tmp_path, "found.json", ["cat", "dog"], ("a.png", "b.png"))
    assert found == [right("dog"), right("cat")]


def test_ids_that_are_names_of_other_files_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [{"id": i, "file_name": f"{i + 1}.png"} for i in range(3)]
    table = {"images": images, "categories": [{"id": 1, "name": "cat"}]}
    put(tmp_path, "found.json", [row(image_id=1), row(image_id=2, score=0.6)])
    names = ("1.png", "2.png", "3.png")
    found = seen(tmp_path, "found.json", put(tmp_path, "data.json", table), names)
    assert found == [[], right("cat"), right("cat", 0.6)]
    assert "image_id 1 is the id of 2.png and the name of another image's file" in caplog.text


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["boar", "deer", "fox"], "'animal' is 'boar', 'person' is 'deer', 'vehicle' is 'fox'"),
        (["person", "animal", "car"], ""),
        ({"categories": [{"id": i, "name": f"c{i}"} for i in range(3)]}, ""),
        (["boar", "deer"], ""),
    ],
)
def test_classes_of_a_program_are_renamed_by_place_only_where_that_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: Any, said: str
) -> None:
    """Names of labelled data, or those of which one is in another place, are no new names."""
    put(tmp_path, "found.json", MEGADETECTOR)
    if isinstance(classes, dict):
        classes["images"] = [{"id": 1, "file_name": "a.png"}]
        classes = put(tmp_path, "data.json", classes)
    if said:
        assert seen(tmp_path, "found.json", classes) == [right("boar")]
        assert said in caplog.text
        return
    with pytest.raises(DataError, match="has classes animal, person, vehicle, --classes gives"):
        seen(tmp_path, "found.json", classes)


@pytest.mark.parametrize(
    "rows",
    [
        [row(score=True)],
        [row(bbox=[True, 20, 30, 40])],
        [row(image_id=True)],
        {"a.png": {"bboxes": [CORNERS], "scores": [True], "labels": [0]}},
    ],
)
def test_true_is_no_number(tmp_path: Path, rows: Any) -> None:
    put(tmp_path, "found.json", rows)
    with pytest.raises(DataError, match=r"found\.json\[.*[Tt]rue"):
        seen(tmp_path, "found.json", ["cat"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,x1,y1,x2,y2,x3,y3,x4,y4,score,class\na.png,20,20,40,30,30,50,10,40,.5,cat\n",
            "no column 'xmin'",
        ),
        (f"{HEAD},10,20,40,60,.5,cat\n", "csv:2: a line without an image"),
        (f"{HEAD}a.png,10,20,40,60,.5,cat, small\n", "csv:2: 8 cells, wanted 7"),
        (
            "image,x1,y1,x2,y2,confidence,score,class\na.png,10,20,40,60,.5,.9,cat\n",
            "the columns confidence, score may all be the score",
        ),
    ],
)
def test_lines_that_leave_a_choice_are_refused(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "found.csv", text)
    with pytest.raises(DataError, match=message):
        seen(tmp_path, "found.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(bbox=[10, 20, 0, 4]), row()], "1 of 2 boxes have no area"),
        ([row(bbox=[60, 40, 95, 75])], "1 of 1 boxes reach beyond their image"),
        ([row(bbox=[0, 0, 1, 1])], "all boxes are made of 0 and 1"),
        ([row(bbox=[i, 2, 20, 30], score=1) for i in range(8)], "all 8 scores are 1"),
        ([row(), row(), row(bbox=[0.1, 0.2, 0.5, 0.5])], "1 of 3 boxes make sense only as"),
    ],
)
def test_what_may_be_another_form_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: list[Any], said: str
) -> None:
    put(tmp_path, "found.json", rows)
    (found,) = seen(tmp_path, "found.json", ["cat"])
    assert len(found) == len(rows)
    assert said in caplog.text


def test_boxes_of_which_half_are_shares_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "found.json", [row(), row(bbox=[0.1, 0.2, 0.5, 0.5])])
    with pytest.raises(DataError, match=r"1 of 2 boxes make sense only as .* shares"):
        seen(tmp_path, "found.json", ["cat"])


@pytest.mark.parametrize(
    "box", [[0, 0, 100, 80], [10, 20, 30, 40], [98, 78, 2, 2], [60, 40, 45, 41]]
)
def test_ordinary_boxes_are_not_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, box: list[float]
) -> None:
    put(tmp_path, "found.json", [row(bbox=box)])
    assert len(seen(tmp_path, "found.json", ["cat"])[0]) == 1
    assert not caplog.records


def test_texts_with_few_lines_say_where_the_confidence_may_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "found/a.txt", "1 0.9 0.25 0.5 0.3 0.5\n")
    assert seen(tmp_path, "found", ["cat", "dog"]) == [right("dog", 0.5, [65, 8, 115, 32])]
    assert "with the confidence behind the class all would lie inside" in caplog.text


def test_texts_have_the_numbers_of_a_data_yaml_with_gaps(tmp_path: Path) -> None:
    put(tmp_path, "found/a.txt", TEXT.replace("1 ", "2 ", 1))
    classes = put(tmp_path, "data.yaml", "names: {0: cat, 2: dog, 3: owl}\n")
    assert seen(tmp_path, "found", classes) == [right("dog")]


def test_the_number_of_a_track_is_no_confidence(tmp_path: Path) -> None:
    put(tmp_path, "found/a.txt", "1 0.25 0.5 0.3 0.5 7\n")
    with pytest.raises(DataError, match=r"a\.txt:1: ends with 7, .* the number of a track"):
        seen(tmp_path, "found", ["cat", "dog"])


def test_texts_of_images_called_like_files_of_voc_are_yolo_s(tmp_path: Path) -> None:
    put(tmp_path, "found/det_cam_1.txt", TEXT)
    assert seen(tmp_path, "found", ["cat", "dog"], ("det_cam_1.png",)) == [right("dog")]


def test_comments_in_a_list_of_classes_are_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "found/a.txt", TEXT)
    put(tmp_path, "found/classes.txt", "# by me\ncat\ndog\n")
    assert seen(tmp_path, "found") == [right("dog")]
    assert "lines that begin with # are comments and no classes, such as '# by me'" in caplog.text


def test_images_called_like_a_key_of_the_file_are_images(tmp_path: Path) -> None:
    box = dict(zip(("x1", "y1", "x2", "y2"), CORNERS, strict=True))
    tree = {"annotations": [], "b": [{"name": "cat", "confidence": 0.5, "box": box}]}
    put(tmp_path, "found.json", tree)
    assert seen(tmp_path, "found.json", None, ("annotations.png", "b.png")) == [[], right("cat")]


def test_one_line_of_jsonl_and_one_file_of_a_folder_are_lists(tmp_path: Path) -> None:
    put(tmp_path, "found.jsonl", row())
    put(tmp_path, "folder/of_coco.json", [row()])
    assert seen(tmp_path, "found.jsonl", ["cat"]) == [right("cat")]
    assert seen(tmp_path, "folder", ["cat"]) == [right("cat")]


def test_a_class_called_like_the_background_stays_where_a_detection_is_called_so(
    tmp_path: Path,
) -> None:
    put(tmp_path, "found.json", [row(category_id=None, category="bg")])
    assert seen(tmp_path, "found.json", ["bg", "cat"]) == [right("bg")]


def test_another_folder_of_the_same_file_names_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "found.csv", f"{HEAD}cam1/a.png,10,20,40,60,.5,cat\n")
    with caplog.at_level(logging.INFO):
        assert seen(tmp_path, "found.csv", None, ("cam2/a.png",)) == [right("cat")]
    assert "in a folder of another name, such as cam1/a.png for cam2/a.png" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<annotation><object/></annotation>", "a label of Pascal VOC"),
        ("a.xml", "<?xml version='1.0'?>\n<annotations/>", "labels of CVAT"),
        ("a.xml", "<html/>", "a text that begins '<html/>'"),
        ("a.json", '[{"id": 1, "data": {"image": "a.png"}, "annotations": []}]', "Label Studio"),
        ("a.json", '{"_via_settings": {}, "_via_img_metadata": {}}', "VGG Image Annotator"),
    ],
)
def test_a_label_file_is_called_one(tmp_path: Path, name: str, text: str, message: str) -> None:
    put(tmp_path, name, text)
    with pytest.raises(HardmineError, match=message):
        load_detector(tmp_path / name, classes=["cat"])


@pytest.mark.parametrize(
    ("tensor", "whose"),
    [("roi_heads.box.weight", "detectron2"), ("bbox_head.fc.weight", "mmdetection")],
)
def test_weights_of_a_framework_that_is_not_run_are_called_so(
    tmp_path: Path, tensor: str, whose: str
) -> None:
    torch.save({"model": {tensor: torch.zeros(2)}, "iteration": 5}, tmp_path / "final.pth")
    with pytest.raises(HardmineError, match=f"looks like weights of {whose}"):
        load_detector(tmp_path / "final.pth", classes=["cat"])
