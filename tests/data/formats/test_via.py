"""Files of the VGG Image Annotator, as its export writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.load_dataset import load_dataset
from hardmine.errors import DataError
from hardmine.types import ImageState

RECT = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 10}


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes or {"type": "cat"}}


def entries(**regions: Any) -> dict[str, Any]:
    return {
        f"{stem}.png1234": {
            "filename": f"{stem}.png",
            "size": 1234,
            "regions": found,
            "file_attributes": {},
        }
        for stem, found in regions.items()
    }


def load(root: Path, data: Any, name: str = "via_region_data.json") -> Any:
    for seed, stem in enumerate("ab"):
        put_image(root / f"{stem}.png", seed)
    put_text(root / name, data if isinstance(data, str) else json.dumps(data))
    return load_dataset(root)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (RECT, [1, 2, 11, 12]),
        ({"name": "circle", "cx": 10, "cy": 12, "r": 5}, [5, 7, 15, 17]),
        ({"name": "ellipse", "cx": 10, "cy": 12, "rx": 5, "ry": 3}, [5, 9, 15, 15]),
        # turned by 90 degrees, width and height change places
        (
            {"name": "ellipse", "cx": 10, "cy": 12, "rx": 5, "ry": 3, "theta": 1.5707963267948966},
            [7, 7, 13, 17],
        ),
        (
            {"name": "polygon", "all_points_x": [3, 9, 5], "all_points_y": [20, 4, 8]},
            [3, 4, 9, 20],
        ),
    ],
)
def test_shapes_give_the_box_around_them(
    tmp_path: Path, shape: dict[str, Any], box: list[float]
) -> None:
    dataset = load(tmp_path, entries(a=[region(shape)], b=[]))
    np.testing.assert_allclose(by_name(dataset)["a.png"].boxes, [box], atol=1e-5)
    assert states(dataset)["b.png"] is ImageState.UNREVIEWED  # loaded, and maybe never looked at
    assert dataset.problems == ()


def test_a_project_and_regions_by_number(tmp_path: Path) -> None:
    images = entries(a={"0": region(RECT), "1": region(RECT, type="dog")}, b=[])
    dataset = load(tmp_path, {"_via_settings": {}, "_via_img_metadata": images}, "project.json")
    assert dataset.categories == ("cat", "dog")


@pytest.mark.parametrize("mark", ["", "#"])  # version 1 wrote #filename
def test_csv(tmp_path: Path, mark: str) -> None:
    lines = [
        f"{mark}filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        'a.png,12,"{}",2,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":10,""height"":10}",'
        '"{""type"":""cat""}"',
        'a.png,12,"{}",2,1,"{""name"":""point"",""cx"":1,""cy"":2}","{""type"":""cat""}"',
        'b.png,12,"{}",0,0,"{}","{}"',
    ]
    dataset = load(tmp_path, "\r\n".join(lines), "via_region_data.csv")
    np.testing.assert_array_equal(by_name(dataset)["a.png"].boxes, [[1, 2, 11, 12]])
    assert kinds(dataset) == ["shapes_left_out"]
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"type": "cat", "age": "old"}, "cat"),
        ({"age": "old", "class": "cat", "type": "x"}, "cat"),
        ({"what": {"cat": True, "dog": False}}, "cat"),
        ({"class": "", "what": "cat"}, "cat"),
    ],
)
def test_the_class_among_the_attributes(
    tmp_path: Path, attributes: dict[str, Any], name: str
) -> None:
    assert load(tmp_path, entries(a=[region(RECT, **attributes)])).categories == (name,)


def test_regions_without_a_class(tmp_path: Path) -> None:
    nothing = {"shape_attributes": RECT, "region_attributes": {}}
    assert load(tmp_path / "x", entries(a=[nothing])).categories == ("object",)
    dataset = load(tmp_path / "y", entries(a=[nothing, region(RECT)]))
    assert [(p.kind, p.index) for p in dataset.problems] == [("class_unknown", 0)]
    assert dataset.categories == ("cat",)


@pytest.mark.parametrize(
    "shape",
    [
        {"name": "rect", "x": 1, "y": 2},
        {"name": "rect", "x": "?", "y": 2, "width": 1, "height": 1},
        {"name": "cloud"},
        {},
    ],
)
def test_a_broken_region_is_named(tmp_path: Path, shape: dict[str, Any]) -> None:
    dataset = load(tmp_path, entries(a=[region(RECT), region(shape)]))
    assert [(p.kind, p.index) for p in dataset.problems] == [("box_malformed", 1)]
    assert states(dataset)["a.png"] is ImageState.LABELLED


def test_images_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 image .*--images"):
        load(tmp_path, entries(gone=[region(RECT)]))


def test_a_project_of_version_3(tmp_path: Path) -> None:
    shapes = {
        "1_a": {"vid": "1", "xy": [2, 4, 5, 16, 10], "av": {"1": "0"}},
        "1_b": {"vid": "1", "xy": [7, 10, 12, 30, 14, 20, 25], "av": {"1": "1"}},
        "1_c": {"vid": "1", "xy": [3, 20, 15, 5], "av": {"1": "1"}},
        "1_d": {"vid": "1", "xy": [1, 20, 15], "av": {"1": "1"}},
        "1_e": {"vid": "1", "xy": [2, 4], "av": {"1": "0"}},
        "1_f": {"vid": "1", "xy": [], "av": {"2": "sunny"}},
    }
    data = {
        "project": {"data_format_version": "3.1.1"},
        "attribute": {"1": {"aname": "class", "options": {"0": "cat", "1": "dog"}}},
        "file": {"1": {"fname": "a.jpg"}, "2": {"fname": "b.jpg"}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": shapes,
    }
    for name in "ab":
        put_image(tmp_path / f"{name}.jpg")
    put_text(tmp_path / "via.json", json.dumps(data))
    found = load_dataset(tmp_path)
    first = by_name(found)["a.jpg"]
    assert [found.categories[label - 1] for label in first.labels] == ["cat", "dog", "dog"]
    assert first.boxes.tolist() == [[4, 5, 20, 15], [10, 12, 30, 25], [15, 10, 25, 20]]
    assert sorted(kinds(found)) == ["box_malformed", "shapes_left_out"]
    assert states(found)["b.jpg"] is ImageState.UNREVIEWED
