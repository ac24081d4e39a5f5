"""Detections as tables: one box of class dog, x 10..40 and y 20..60, in images of 100 x 80."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hardmine
from data_files import put_image
from hardmine.errors import DataError
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predictions_file import Predictions, load_predictions

BOX = [10.0, 20.0, 40.0, 60.0]
SIZE = (100, 80)
CLASSES = ["cat", "dog"]
TABLE = {
    "images": [{"id": 41, "file_name": "cam/a.png"}, {"id": 42, "file_name": "cam/b.png"}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
}


def load(path: Path, text: str, classes: Any = None) -> Predictions:
    path.write_bytes(text.encode())
    if isinstance(classes, dict):
        given = path.with_name("data.json")
        given.write_text(json.dumps(classes))
        classes = given
    found = load_detector(path, classes=classes)
    assert isinstance(found, Predictions)
    return found


def seen(found: Predictions, image: str = "cam/a.png") -> list[tuple[str, float, list[float]]]:
    one = found.look(Path("/here/pool") / image)
    return [
        (found.categories[int(label) - 1], round(float(score), 4), box.tolist())
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
    ]


RIGHT = [("dog", 0.5, BOX)]
CORNERS = "cam/a.png,10,20,40,60,0.5,dog"
CSV = {
    "bars": ("image|x1|y1|x2|y2|score|class\ncam/a.png|10|20|40|60|0.5|dog\n", None),
    "what Excel writes in front": (
        "sep=;\nimage;x1;y1;x2;y2;score;class\ncam/a.png;10;20;40;60;0,5;dog\n",
        None,
    ),
    "a comment and an empty line": (f"\n# by me\nimage,x1,y1,x2,y2,score,class\n{CORNERS}\n", None),
    "other names": (f"img,xmin,ymin,xmax,ymax,prob,category_name\n{CORNERS}\n", None),
    "corners from 0": (f"file_name,x0,y0,x1,y1,conf,cls\n{CORNERS}\n", None),
    "sizes": ("image,x,y,w,h,score,class\ncam/a.png,10,20,30,40,0.5,dog\n", None),
    "the number of the class and its name": (
        "image,xmin,ymin,xmax,ymax,confidence,class,name\ncam/a.png,10,20,40,60,0.5,1,dog\n",
        None,
    ),
    "NaN where nothing was found": (
        f"image,x1,y1,x2,y2,score,class\n{CORNERS}\ncam/b.png,nan,nan,nan,nan,nan,nan\n",
        None,
    ),
    "ids of the data": (
        "image_id,x1,y1,x2,y2,score,category\n41.0,10,20,40,60,0.5,7.0\n",
        TABLE,
    ),
    "classes from 0": (
        f"image,x1,y1,x2,y2,score,class\n{CORNERS.replace('dog', '1')}\ncam/b.png,1,2,30,40,0.5,0\n",
        CLASSES,
    ),
}


@pytest.mark.parametrize("name", CSV)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_every_table_gives_the_same_box(tmp_path: Path, name: str, suffix: str) -> None:
    text, classes = CSV[name]
    assert seen(load(tmp_path / f"found{suffix}", text, classes)) == RIGHT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,x1,y1,x2,y2,score,class\na.png,1,2,3,4,.5,\n",
            r"csv:2: a detection without a class",
        ),
        ("# x\nimage,x1,y1,x2,y2,score,class\na.png,1,2,3,4,.5\n", r"csv:3: a detection without a"),
        ("image,x1,y1,x2,y2,class\n", "no column 'score'"),
        ("image,x1,y1,x2,y2,score,class\n", "has no detection to show its classes"),
    ],
)
def test_a_fault_of_a_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "found.csv", text)


def row(**fields: Any) -> dict[str, Any]:
    made = {"image_id": 41, "category_id": 7, "bbox": [10, 20, 30, 40], "score": 0.5, **fields}
    return {key: value for key, value in made.items() if value is not None}


LISTS = {
    "ids as numbers with a point": [row(image_id="41.0", category_id="7.0")],
    "other keys": [
        row(image_id=None, image="cam/a.png", category_id=None, label="dog", score=None, conf=0.5)
    ],
    "corners of their own": [
        row(bbox=None, **dict(zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True)))
    ],
    "corners in box": [row(bbox=None, box={"xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60})],
    "corners of detectron2": [row(bbox=BOX, bbox_mode=0)],
    "lists of one image": [
        {"image_id": 41, "boxes": [BOX], "scores": [0.5], "labels": [7]},
        {"image_id": 42, "boxes": [], "scores": [], "labels": []},
    ],
}


@pytest.mark.parametrize("name", LISTS)
def test_every_list_gives_the_same_box(tmp_path: Path, name: str) -> None:
    assert seen(load(tmp_path / "found.json", json.dumps(LISTS[name]), TABLE)) == RIGHT


def test_numbers_of_mmdetection_are_places_and_not_ids(tmp_path: Path) -> None:
    """With ids 1 and 2 for rabbit and dog, mmdetection's label 1 is the second class."""
    table = {**TABLE, "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}
    tree = {"a": {"bboxes": [BOX], "scores": [0.5], "labels": [1]}}
    assert seen(load(tmp_path / "found.json", json.dumps(tree), table)) == RIGHT


def test_labels_of_torchvision_count_from_1(tmp_path: Path) -> None:
    tree = {"a.png": {"boxes": [BOX], "scores": [0.5], "labels": [2]}}
    assert seen(load(tmp_path / "found.json", json.dumps(tree), CLASSES)) == RIGHT


def test_a_bbox_mode_of_shares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[0\]: .*bbox_mode 2, wanted 0"):
        load(tmp_path / "found.json", json.dumps([row(bbox_mode=2)]), TABLE)


def test_numbers_with_a_0_count_from_0_where_only_that_fits(tmp_path: Path) -> None:
    rows = [row(image_id="a", category_id=1), row(image_id="b", category_id=0)]
    assert seen(load(tmp_path / "found.json", json.dumps(rows), CLASSES)) == RIGHT


def test_data_may_be_a_part_of_what_the_predictions_are_of(tmp_path: Path) -> None:
    """Ids are ids, also where most of the file is about images that the data lack."""
    rows = [row(), *(row(image_id=900 + i) for i in range(20))]
    assert seen(load(tmp_path / "found.json", json.dumps(rows), TABLE)) == RIGHT


def test_stems_that_fit_better_than_ids_are_stems(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i + 1:04d}.png"} for i in range(4)]
    rows = [row(image_id=i + 1, score=0.5 + i / 10) for i in range(4)]
    found = load(tmp_path / "found.json", json.dumps(rows), {**TABLE, "images": images})
    assert [score for _, score, _ in seen(found, "0002.png")] == [0.6]


@pytest.mark.parametrize("name", ["my%20cam/a%20b.png", "cam%2Fa%20b.png"])
def test_names_as_urls_write_them(tmp_path: Path, name: str) -> None:
    found = load(tmp_path / "found.json", json.dumps([row(image_id=name)]), ["x"] * 6 + ["dog"])
    assert len(found.look(Path("/here/cam/a b.png"))) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("found.json.gz", b"\x1f\x8b\x08", "packed by gzip: unpack it"),
        ("found.json", b"\x1f\x8b\x08", "packed by gzip: unpack it"),
        ("found.jsonl", b'{"a": 1}\n{"a": ', r"found.jsonl:2: cannot be read as JSON"),
        (
            "found.json",
            b'{"info": {}, "outputs": [1]}',
            "an object with info, outputs, which is no",
        ),
        ("found.weights.txt", b"nothing of this kind", "a text that begins 'nothing of"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(hardmine.HardmineError, match=message):
        load_detector(tmp_path / name, classes=CLASSES)


def pool(folder: Path, number: int = 10) -> list[Path]:
    return [put_image(folder / f"{index}.png", index, SIZE) for index in range(number)]


def results(folder: Path, boxes: list[list[float]]) -> Predictions:
    path = folder / "found.json"
    rows = [row(image_id=str(i), category_id=1, bbox=box) for i, box in enumerate(boxes)]
    path.write_text(json.dumps(rows))
    return load_predictions(path, CLASSES)


def test_boxes_outside_their_images_are_refused_or_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, inside, outside = pool(tmp_path), [10, 20, 30, 40], [120, 20, 30, 40]
    with pytest.raises(
        DataError, match="10 of 10 boxes lie wholly outside their image, such as 120"
    ):
        results(tmp_path, [outside] * 10).bound_to(images)
    results(tmp_path, [outside, *([inside] * 9)]).bound_to(images)
    assert "1 of 10 boxes lie wholly outside" in caplog.text


def test_repeated_detections_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = pool(tmp_path, 1)
    path = tmp_path / "found.json"
    path.write_text(json.dumps([row(image_id="0", category_id=1)] * 3))
    with caplog.at_level(logging.WARNING):
        load_predictions(path, CLASSES).bound_to(images)
    assert "2 detections are repeated" in caplog.text


def test_the_form_of_boxes_is_judged_over_an_archive_too(tmp_path: Path) -> None:
    """Corners where width and height belong: in an archive the pictures have no path of their own."""
    boxes = [[30.0 + i, 20, 60 + i, 75] for i in range(10)]
    detector = results(tmp_path, boxes)
    with zipfile.ZipFile(tmp_path / "pool.zip", "w") as into:
        for image in pool(tmp_path / "pictures"):
            into.write(image, image.name)
    with pytest.raises(DataError, match="boxes in another form"):
        hardmine.mine(detector, tmp_path / "pool.zip")
