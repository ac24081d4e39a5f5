"""LabelMe and X-AnyLabeling files as their documentation and source show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_dataset
from hardmine.types import ImageState


def shape(label: object, points: list[Any], kind: str = "rectangle", **more: Any) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "shape_type": kind,
        "flags": {},
        "group_id": None,
        **more,
    }


def labelme(*shapes: Any, name: str = "", **more: Any) -> str:
    data = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": name}
    return json.dumps({**data, "imageData": None, "imageHeight": 30, "imageWidth": 40, **more})


def beside(root: Path, **files: str | None) -> None:
    for seed, (stem, text) in enumerate(files.items()):
        put_image(root / f"{stem}.jpg", seed)
        if text is not None:
            put_text(root / f"{stem}.json", text)


CAT = shape("cat", [[1, 2], [11, 12]])


@pytest.mark.parametrize(
    ("given", "box"),
    [
        (shape("cat", [[11, 12], [1, 2]]), [1, 2, 11, 12]),
        (shape("cat", [[1, 12], [11, 2]]), [1, 2, 11, 12]),
        (shape("cat", [[1, 2], [11, 2], [11, 12], [1, 12]]), [1, 2, 11, 12]),  # X-AnyLabeling
        (shape("cat", [[5, 3], [9, 20], [2, 8]], "polygon"), [2, 3, 9, 20]),
        (shape("cat", [[10, 10], [13, 14]], "circle"), [5, 5, 15, 15]),  # radius 5: 3, 4, 5
        (shape("cat", [[8, 2], [14, 8], [8, 14], [2, 8]], "rotation"), [2, 2, 14, 14]),
        (shape("cat", [[1, 2], [11, 12]], "mask", mask="iVBOR"), [1, 2, 11, 12]),
        ({"label": "cat", "points": [[5, 3], [9, 20], [2, 8]]}, [2, 3, 9, 20]),  # before version 3
    ],
)
def test_every_shape_with_an_extent_gives_the_box_around_it(
    tmp_path: Path, given: dict[str, Any], box: list[float]
) -> None:
    beside(tmp_path, a=labelme(given))
    dataset = load_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.records[0].boxes, [box])
    assert dataset.problems == ()


def test_states_and_sizes(tmp_path: Path) -> None:
    beside(tmp_path, a=labelme(CAT), b=labelme(), c=None)
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {
        "a.jpg": ImageState.LABELLED,
        "b.jpg": ImageState.VERIFIED_EMPTY,
        "c.jpg": ImageState.UNREVIEWED,
    }
    assert (dataset.records[0].width, dataset.records[0].height) == (40, 30)


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        (shape("cat", [[1, 2]], "point"), "shapes_left_out", "type point has no box"),
        (shape("cat", [[1, 2], [3, 4]], "line"), "shapes_left_out", "type line has no box"),
        (shape("cat", [[1, 2]]), "box_malformed", "with 1 points"),
        (shape("cat", [[1, 2], [3, 4]], "polygon"), "box_malformed", "with 2 points"),
        (shape("cat", [[1, 2], [3, 4]], "star"), "box_malformed", "type 'star'"),
        (shape("cat", [["x", 2], [3, 4]]), "box_malformed", "wanted a label and points"),
        (shape(None, [[1, 2], [3, 4]]), "class_unknown", "label None"),
        (shape(" ", [[1, 2], [3, 4]]), "class_unknown", "label ' '"),
        ("shape", "box_malformed", "wanted a label and points"),
    ],
)
def test_a_shape_without_a_box_is_named(tmp_path: Path, given: Any, kind: str, reason: str) -> None:
    beside(tmp_path, a=labelme(CAT, given))
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file, p.index) for p in dataset.problems] == [(kind, "a.json", 1)]
    assert reason in dataset.problems[0].reason
    assert len(dataset.records[0].boxes) == 1


@pytest.mark.parametrize("kind", ["point", "line", "linestrip"])
def test_an_image_with_nothing_but_points_and_lines_is_no_negative(
    tmp_path: Path, kind: str
) -> None:
    beside(tmp_path, a=labelme(shape("cat", [[1, 2], [3, 4]], kind)), b=labelme())
    assert states(load_dataset(tmp_path)) == {
        "a.jpg": ImageState.UNREVIEWED,
        "b.jpg": ImageState.VERIFIED_EMPTY,
    }


def test_a_number_is_a_class_name_and_true_is_none(tmp_path: Path) -> None:
    beside(tmp_path, a=labelme(shape(5, [[1, 2], [3, 4]]), shape(True, [[1, 2], [3, 4]])))
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("5",)
    assert [(p.kind, p.index) for p in dataset.problems] == [("class_unknown", 1)]


def test_an_image_all_of_whose_shapes_are_at_fault_is_no_negative(tmp_path: Path) -> None:
    beside(tmp_path, a=labelme(shape("cat", [[1, 2]])), b=labelme(CAT), c="{", d='{"shapes": 3}')
    dataset = load_dataset(tmp_path)
    assert [name for name, state in states(dataset).items() if state.is_trainable] == ["b.jpg"]
    assert kinds(dataset) == ["box_malformed"]  # c and d do not look like LabelMe's


@pytest.mark.parametrize(
    ("more", "ignored"),
    [
        ({"difficult": True}, True),
        ({"difficult": False}, False),
        ({"flags": {"difficult": True}}, True),
        ({"difficult": None}, False),
        ({"difficult": "no"}, False),
    ],
)
def test_difficult_shapes_are_ignored(tmp_path: Path, more: dict[str, Any], ignored: bool) -> None:
    beside(tmp_path, a=labelme({**CAT, **more}))
    assert load_dataset(tmp_path).records[0].ignore.tolist() == [ignored]


def test_the_picture_inside_the_file_and_a_mark_do_not_hide_it(tmp_path: Path) -> None:
    beside(tmp_path, a=None)
    data = json.loads(labelme(CAT))
    text = json.dumps(
        {"imageData": "A" * 200_000, **{k: v for k, v in data.items() if k != "imageData"}}
    )
    (tmp_path / "a.JSON").write_bytes(text.encode("utf-8-sig"))
    assert len(load_dataset(tmp_path).records[0].boxes) == 1


def test_files_in_a_folder_of_their_own_and_images_elsewhere(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.jpg")
    put_image(tmp_path / "images" / "photo.jpg", 1)
    put_text(tmp_path / "json" / "a.json", labelme(CAT, name="..\\images\\a.jpg"))
    put_text(tmp_path / "json" / "0001.json", labelme(CAT, CAT, name="..\\images\\photo.jpg"))
    put_text(tmp_path / "json" / "notes.json", '{"imagePath": "a.jpg"}')
    for dataset in (
        load_dataset(tmp_path / "json", images=tmp_path / "images"),
        load_dataset(tmp_path),
    ):
        assert by_name(dataset)["a.jpg"].state is ImageState.LABELLED
    # By its own name the second file fits no image; its imagePath leads there only from --images.
    assert states(load_dataset(tmp_path / "json", images=tmp_path / "images"))["photo.jpg"] is (
        ImageState.LABELLED
    )


def test_what_is_written_is_what_labelme_loads(tmp_path: Path) -> None:
    beside(tmp_path / "in", a=labelme(CAT, {**CAT, "label": "dög", "difficult": True}), b=labelme())
    out = convert(tmp_path / "in", tmp_path / "out", "labelme").out
    data = json.loads((out / "a.json").read_text(encoding="utf-8"))
    # labelme/label_file.py: what load() asks for, and the keys of a shape
    assert {
        "version",
        "imageData",
        "imagePath",
        "shapes",
        "flags",
        "imageHeight",
        "imageWidth",
    } == set(data)
    assert (data["imagePath"], data["imageData"]) == ("a.jpg", None)
    first, second = data["shapes"]
    assert {"label", "points", "shape_type", "flags", "description", "group_id", "mask"} == set(
        first
    )
    assert (first["label"], first["points"]) == ("cat", [[1, 2], [11, 12]])
    assert (second["label"], second["flags"]) == ("dög", {"difficult": True})
    assert json.loads((out / "b.json").read_text())["shapes"] == []
    assert (out / "labels.txt").read_text(encoding="utf-8").split() == [
        "__ignore__",
        "_background_",
        "cat",
        "dög",
    ]


def test_sizes_as_text_count_and_scores_are_told_of(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    shapes = [shape("cat", [[1, 2], [20, 10]], score=0.8)]
    data = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": "80", "imageHeight": "60"}
    put_text(tmp_path / "a.json", json.dumps(data))
    found = load_dataset(tmp_path)
    assert (found.records[0].width, found.records[0].height) == (80, 60)
    assert kinds(found) == ["columns_left_out"]


def test_a_region_to_ignore_counts_for_every_class_and_background_is_no_object(
    tmp_path: Path,
) -> None:
    region = shape("__ignore__", [[20, 2], [30, 12]])
    nothing = shape("_background_", [[0, 0], [40, 30]])
    beside(tmp_path, a=labelme(CAT, region, nothing), b=labelme(shape("dog", [[1, 2], [11, 12]])))
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("cat", "dog")
    first = by_name(dataset)["a.jpg"]
    assert first.labels.tolist() == [1, 1, 2]
    assert first.ignore.tolist() == [False, True, True]
    assert first.boxes[1:].tolist() == [[20, 2, 30, 12]] * 2
    assert [problem.reason for problem in dataset.problems] == [
        "a shape that is labelled _background_ is no object, left out"
    ]
