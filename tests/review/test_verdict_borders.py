"""Files of labelling programs at the border between "empty", "not looked at" and "holds an object"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_files import put_image
from hardmine.cli.main import run as run_command
from hardmine.data.convert import NAMES_FILE
from hardmine.errors import DataError
from hardmine.review.verdicts import Said, read_verdicts
from hardmine.types import Verdict
from review_world import mined

BOX = (10.0, 20.0, 40.0, 60.0)
SIZE = (100, 80)
EMPTY, HOLDS, UNSURE = Verdict.EMPTY, Verdict.CONTAINS_OBJECT, Verdict.UNSURE


def read(
    folder: Path, content: Any, *images: str, suffix: str = ".json"
) -> dict[str, tuple[Verdict, tuple[Any, ...]]]:
    """Return verdict and boxes by the image's name."""
    paths = [str(put_image(folder / "pool" / name, i, SIZE)) for i, name in enumerate(images)]
    file = folder / f"said{suffix}"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    found: dict[str, Said] = read_verdicts(file, {path: path for path in paths})
    return {
        Path(path).name: (said.verdict, tuple(each.box for each in said.boxes))
        for path, said in found.items()
    }


def rectangle(**more: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 25, "width": 30, "height": 50, "rotation": 0}
    return {
        "type": "rectanglelabels",
        "original_width": 100,
        "original_height": 80,
        "value": {**place, "rectanglelabels": ["cat"]},
        **more,
    }


def choices(*words: str) -> dict[str, Any]:
    return {"type": "choices", "value": {"choices": list(words)}}


def task(image: str, *results: list[Any], **data: str) -> dict[str, Any]:
    annotations = [{"result": result, "was_cancelled": False} for result in results]
    return {"id": 1, "data": {**data, "image": image}, "annotations": annotations}


def cvat(inside: str, size: tuple[int, int] = SIZE) -> str:
    wide, high = size
    image = f'<image id="0" name="a.png" width="{wide}" height="{high}">{inside}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>"


def shape(source: str) -> str:
    return f'<box label="cat" source="{source}" xtl="10" ytl="20" xbr="40" ybr="60"/>'


def coco(name: str, objects: list[Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": name, "width": 100, "height": 80, **image}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": objects,
    }


OBJECT = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0}
TAG = '<tag label="empty" source="{}"></tag>'


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ([task("a.png", [choices("Empty"), rectangle(origin="manual")])], ".json"),
        (cvat(TAG.format("manual") + shape("manual")), ".xml"),
        (coco("a.png", [OBJECT], hardmine_state="verified_empty"), ".json"),
        (
            {
                "samples": [
                    {
                        "filepath": "a.png",
                        "tags": ["empty"],
                        "objects": {
                            "detections": [{"label": "cat", "bounding_box": [0.1, 0.25, 0.3, 0.5]}]
                        },
                    }
                ]
            },
            ".json",
        ),
    ],
)
def test_an_image_that_is_called_empty_and_has_a_person_s_box_is_unsure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any, suffix: str
) -> None:
    assert read(tmp_path, content, "a.png", suffix=suffix) == {"a.png": (UNSURE, ())}
    assert "1 image is called empty, though a person drew objects" in caplog.text


@pytest.mark.parametrize(
    ("inside", "wanted"),
    [
        (shape("file"), {}),
        (shape("consensus"), {"a.png": (HOLDS, (BOX,))}),
        (shape("semi-auto"), {"a.png": (HOLDS, (BOX,))}),
        (TAG.format("auto"), {}),
        (TAG.format("manual") + shape("auto"), {"a.png": (EMPTY, ())}),
    ],
)
def test_cvat_s_sources_say_what_a_person_did(
    tmp_path: Path, inside: str, wanted: dict[str, Any]
) -> None:
    assert read(tmp_path, cvat(inside), "a.png", suffix=".xml") == wanted


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ([task("a.png", [choices("empty", "ignore")])], ".json", "got empty, ignore, wanted one"),
        (
            cvat(TAG.format("manual") + '<tag label="ignore" source="manual"/>'),
            ".xml",
            "got empty, ignore, wanted one",
        ),
        (coco("a.png", [{**OBJECT, "image_id": 9}]), ".json", "the image_id 9, which no image has"),
        (coco("a.png", [], hardmine_state="clean"), ".json", "hardmine_state 'clean', wanted one"),
        (
            {"classes": ["cat"], "labels": {"a": [{"label": -1, "bounding_box": [0, 0, 1, 1]}]}},
            ".json",
            "label -1, wanted 0 to 0",
        ),
        ({"version": "5", "shapes": [], "imagePath": "a.png"}, ".json", "labels of LabelMe.*coco"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, ".json", r"\(VIA\).*--to coco"),
        ([{"image": "a.png", "annotations": []}], ".json", "labels of CreateML.*--to coco"),
    ],
)
def test_what_leaves_a_choice_or_is_of_another_program_is_refused(
    tmp_path: Path, content: Any, suffix: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, "a.png", suffix=suffix)


@pytest.mark.parametrize(
    ("objects", "boxes"),
    [
        ([{**OBJECT, "image_id": "1"}], (BOX,)),
        ([{**OBJECT, "category_id": "1"}], (BOX,)),
        ([{**OBJECT, "iscrowd": "0"}], (BOX,)),
        ([{**OBJECT, "iscrowd": 1}], ()),
        ([{**OBJECT, "bbox": []}], ()),
    ],
)
def test_ids_as_text_and_flags_in_coco_are_read(
    tmp_path: Path, objects: list[Any], boxes: tuple[Any, ...]
) -> None:
    assert read(tmp_path, coco("a.png", objects), "a.png") == {"a.png": (HOLDS, boxes)}


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((100, 80), (BOX,)),
        ((200, 160), ((5.0, 10.0, 20.0, 30.0),)),
        ((80, 100), (BOX,)),
        ((640, 640), ()),
        ((0, 0), (BOX,)),
    ],
)
def test_boxes_of_an_image_of_another_size_are_scaled_or_left_out(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    size: tuple[int, int],
    boxes: tuple[Any, ...],
) -> None:
    found = read(tmp_path, cvat(shape("manual"), size), "a.png", suffix=".xml")
    assert found == {"a.png": (HOLDS, boxes)}
    assert ("the boxes of 1 image are left out" in caplog.text) is (not boxes)


@pytest.mark.parametrize(
    ("written", "images", "wanted"),
    [
        ("/data/upload/1/1a2b3c4d-my_a.png", ["my a.png", "b.png"], "my a.png"),
        ("/data/upload/1/1a2b3c4d-a_1.png", ["a (1).png"], "a (1).png"),
        ("https://host/x/a.png?X-Signature=ab%2Fcd.png", ["a.png"], "a.png"),
        ("s3://bucket/dir/my%20a.png", ["my a.png"], "my a.png"),
    ],
)
def test_images_are_found_by_what_an_upload_made_of_their_names(
    tmp_path: Path, written: str, images: list[str], wanted: str
) -> None:
    assert read(tmp_path, [task(written, [])], *images) == {wanted: (EMPTY, ())}


def test_two_names_of_which_an_upload_makes_one_are_refused(tmp_path: Path) -> None:
    """Label Studio keeps both as `my_a.png`, with other characters before them."""
    names = ("my a.png", "my_a.png")
    assert read(tmp_path, [task("my_a.png", [])], *names) == {"my_a.png": (EMPTY, ())}
    with pytest.raises(DataError, match=r"may be .*my a.png, .*my_a.png, wanted a name of one"):
        read(tmp_path, [task("/data/upload/1/1a2b3c4d-my_a.png", [])], *names)


def test_an_upload_of_what_was_written_for_the_program_is_found_by_its_list(tmp_path: Path) -> None:
    """Two images of one name: the second was given as `cam2_my a.png`."""
    first, second = (str(put_image(tmp_path / cam / "my a.png")) for cam in ("cam1", "cam2"))
    copies = {"my a.png": first, "cam2_my a.png": second}
    (tmp_path / NAMES_FILE).write_text(json.dumps({"copies": copies}), encoding="utf-8")
    names = ("1a2b3c4d-my_a.png", "2b3c4d5e-cam2_my_a.png")
    tasks = [task(f"/data/upload/1/{name}", []) for name in names]
    file = tmp_path / "said.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    found = read_verdicts(file, {first: first, second: second})
    assert [each.where for each in found.values()] == [f"{file}[0]", f"{file}[1]"]
    assert list(found) == [first, second]


@pytest.mark.parametrize("written", ["my_a.png", "mya.png", "1a2b3c4d-mya.png"])
def test_a_name_that_no_upload_makes_is_another_image(tmp_path: Path, written: str) -> None:
    with pytest.raises(DataError, match="was never handed out"):
        read(tmp_path, [task(written, [])], "my a.png")


@pytest.mark.parametrize(
    ("written", "image", "boxes"),
    [
        ("my-a_png.rf.0123abc.jpg", "my a.png", ()),
        ("a-1-_jpeg.rf.Ab-_9.jpg", "a (1).jpeg", ()),
        ("a_png.rf.0123abc.jpg", "a_png.rf.0123abc.jpg", (BOX,)),
    ],
)
def test_roboflow_s_names_are_those_of_its_pictures_or_of_the_pool(
    tmp_path: Path, written: str, image: str, boxes: tuple[Any, ...]
) -> None:
    assert read(tmp_path, coco(written, [OBJECT]), image) == {image: (HOLDS, boxes)}


def test_the_image_of_a_task_is_what_looks_like_a_picture(tmp_path: Path) -> None:
    entry = task("", [])
    entry["data"] = {"text": "See ticket 3.5", "pic": "/data/upload/1/1a2b3c4d-a.png"}
    assert read(tmp_path, [entry], "a.png") == {"a.png": (EMPTY, ())}


@pytest.mark.parametrize("name", ["said.json", "said.xml"])
def test_labels_of_another_program_are_called_so_by_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    texts = {"said.json": '{"shapes": [], "imagePath": "a.png"}', "said.xml": "<annotation/>"}
    run = mined(tmp_path, 2)
    (run / name).write_text(texts[name])
    put_image(tmp_path / "a.png", 0, SIZE)
    (tmp_path / "data.json").write_text(json.dumps(coco("a.png", [OBJECT])))
    assert run_command(["apply", str(run / name), str(tmp_path / "data.json")]) != 0
    whose = {"said.json": "LabelMe", "said.xml": "Pascal VOC"}[name]
    assert f"holds labels of {whose}" in " ".join(capsys.readouterr().err.split())


def test_a_column_of_json_min_is_no_verdict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"id": 1, "annotator": 1, "annotation_id": 1}
    tasks = [{"image": "a.png", "shelf": "empty", **more}, {"image": "b.png", "choice": "empty"}]
    assert read(tmp_path, tasks, "a.png", "b.png") == {"b.png": (EMPTY, ())}
    assert "'shelf' may be a choice or a column of the tasks" in caplog.text
