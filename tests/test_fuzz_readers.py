"""Whatever a file holds, a reader returns or refuses it in words; and boxes survive their own writer.

A short run is part of the tests; ``make fuzz`` gives every reader 100,000 inputs.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_files import put_image
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_splits
from hardmine.errors import DataError, HardmineError
from hardmine.inference.class_names import read_classes
from hardmine.inference.predictions_file import load_predictions
from hardmine.mining.sources.pool_source import open_source
from hardmine.review.verdicts import read_verdicts
from hardmine.types import Dataset, Problem

EXAMPLES = int(os.environ.get("HARDMINE_FUZZ", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = st.one_of(
    st.floats(),
    st.floats(-1, 2),
    st.integers(-5, 50),
    st.integers(),
    st.sampled_from([0, 1, 1e308, -1e308, 1e-300, 10**400]),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["0.png", "1.png", "../x.png", "\\", "\ufeff", "nan", "inf", "0.5", "cat", "", "\0"]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
TOKENS = st.one_of(NUMBERS.map(str), TEXTS)


def one_of_or(usual: Any) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, sometimes anything."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), JSON)


def entry(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={k: one_of_or(v) for k, v in fields.items()})


BOX = st.one_of(st.lists(NUMBERS, min_size=4, max_size=4), st.just([1, 2, 20, 10]), JSON)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for index in range(2):
        put_image(folder / "data" / "images" / f"{index}.png", index)
    return folder


@pytest.fixture(autouse=True, scope="module")
def quiet_warnings() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def holds(world: Path, path: Path, to: str) -> None:
    """Read; what is read must come back from the format's own writer."""
    try:
        splits = load_splits(path)
    except HardmineError as error:
        assert str(error)
        return
    merged = next(iter(splits.values()))
    if not any(len(record.boxes) for record in merged):
        return
    REACHED[to] += 1
    out = world / "out"
    shutil.rmtree(out, ignore_errors=True)
    convert(merged, out, to, link=True)
    again = next(iter(load_splits(out).values()))
    assert boxes_of(again) == pytest.approx(boxes_of(merged), rel=1e-4, abs=1e-2)


REACHED: Counter[str] = Counter()
"""How many inputs gave boxes that went through the writer of a format."""


def boxes_of(data: Dataset) -> list[float]:
    rows = [
        (record.path.name, *box)
        for record in data
        for box in record.boxes.astype(np.float64).tolist()
    ]
    rows.sort(key=lambda row: (row[0], *(round(value) for value in row[1:]), *row[1:]))
    return [value for _, *box in rows for value in box]


@given(
    st.fixed_dictionaries(
        {
            "images": st.lists(
                entry(id=0, file_name="0.png", width=40, height=30) | JSON, max_size=3
            )
            | JSON,
            "annotations": st.lists(
                st.fixed_dictionaries(
                    {"bbox": BOX, "image_id": one_of_or(0), "category_id": one_of_or(1)},
                    optional={"iscrowd": JSON},
                )
                | JSON,
                max_size=4,
            )
            | JSON,
            "categories": st.lists(entry(id=1, name="cat") | JSON, max_size=2) | JSON,
        }
    )
)
@fuzz
def test_coco(world: Path, tree: dict[str, Any]) -> None:
    path = world / "data" / "images" / "fuzz.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    try:
        holds(world, path, "coco")
    finally:
        path.unlink()


SHARE = st.floats(0.05, 0.95).map(lambda value: f"{value:.6f}")
LINE = st.tuples(st.sampled_from(["0", "1"]), SHARE, SHARE, SHARE, SHARE).map(" ".join)


@given(
    st.lists(LINE | LINE | st.lists(TOKENS, max_size=7).map(" ".join), max_size=5).map("\n".join)
)
@fuzz
def test_yolo(world: Path, text: str) -> None:
    folder = world / "data" / "labels"
    folder.mkdir(exist_ok=True)
    (world / "data" / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (folder / "0.txt").write_text(text, encoding="utf-8", errors="replace")
    try:
        holds(world, world / "data" / "data.yaml", "yolo")
    finally:
        shutil.rmtree(folder)
        (world / "data" / "data.yaml").unlink()


CORNERS = st.tuples(
    st.integers(0, 15), st.integers(0, 12), st.integers(16, 45), st.integers(13, 35)
).map(lambda box: [str(value) for value in box])
USUAL = st.sampled_from(["cat", "40"])


@given(
    CORNERS | CORNERS | st.lists(TOKENS, min_size=4, max_size=4),
    USUAL | TOKENS,
    USUAL | TOKENS,
    st.just(b"") | st.binary(max_size=6),
)
@fuzz
def test_voc(world: Path, corners: list[str], name: str, size: str, rest: bytes) -> None:
    folder = world / "data" / "annotations"
    folder.mkdir(exist_ok=True)
    keys = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in keys)
    text = (
        f"<annotation><size><width>{size}</width><height>30</height></size><object><name>{name}"
        f"</name><bndbox>{box}</bndbox></object></annotation>"
    )
    (folder / "0.xml").write_bytes(text.encode("utf-8", "replace") + rest)
    try:
        holds(world, world / "data", "voc")
    finally:
        shutil.rmtree(folder)


EXAMPLES_OF: dict[str, Any] = {
    "labelme": {
        "version": "5.5.0",
        "shapes": [{"label": "cat", "points": [[1, 2], [20, 12]], "shape_type": "rectangle"}],
        "imagePath": "0.png",
        "imageHeight": 30,
        "imageWidth": 40,
    },
    "via 2": {
        "0.png9": {
            "filename": "0.png",
            "regions": [
                {
                    "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 9, "height": 8},
                    "region_attributes": {"class": "cat"},
                }
            ],
        }
    },
    "via 3": {
        "project": {"data_format_version": "3.1.1"},
        "attribute": {"1": {"aname": "class", "options": {"0": "cat"}}},
        "file": {"1": {"fname": "0.png"}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {"a": {"vid": "1", "xy": [2, 1, 2, 9, 8], "av": {"1": "0"}}},
    },
    "createml": [
        {
            "image": "0.png",
            "annotations": [
                {"label": "cat", "coordinates": {"x": 9, "y": 9, "width": 6, "height": 4}}
            ],
        }
    ],
    "label studio": [
        {
            "data": {"image": "0.png"},
            "annotations": [
                {
                    "result": [
                        {
                            "type": "rectanglelabels",
                            "original_width": 40,
                            "original_height": 30,
                            "value": {
                                "x": 10,
                                "y": 10,
                                "width": 30,
                                "height": 40,
                                "rectanglelabels": ["cat"],
                            },
                        }
                    ]
                }
            ],
        }
    ],
    "fiftyone": {
        "classes": ["cat"],
        "labels": {"0": [{"label": 0, "bounding_box": [0.1, 0.1, 0.5, 0.5]}]},
    },
    "coco": {
        "images": [{"id": 0, "file_name": "0.png", "width": "40", "height": 30.0}],
        "annotations": [
            {
                "image_id": 0,
                "category_id": 1,
                "segmentation": {"size": [30, 40], "counts": [40, 9, 21, 9, 1121]},
                "attributes": {"rotation": 0},
            }
        ],
        "categories": [{"id": 1, "name": "cat"}],
    },
}


def places_in(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (list or mapping, key) of everything in a tree."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places_in(tree[key])


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, Any]:
    """Return a file of a program in which up to three places hold something else, or nothing."""
    name = draw(st.sampled_from(sorted(EXAMPLES_OF)))
    tree = copy.deepcopy(EXAMPLES_OF[name])
    for _ in range(draw(st.integers(0, 3))):
        places = list(places_in(tree))
        if not places:
            break
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.booleans()):
            inside[key] = draw(JSON)
        else:
            del inside[key]
    return name, tree


@given(spoiled())
@fuzz
def test_files_of_labelling_programs(world: Path, drawn: tuple[str, Any]) -> None:
    name, tree = drawn
    folder = world / "data" / "images"
    path = folder / ("0.json" if name == "labelme" else "fuzz.json")
    path.write_text(json.dumps(tree), encoding="utf-8")
    try:
        holds(world, folder if name == "labelme" else path, "coco")
    finally:
        path.unlink()


@given(st.lists(st.lists(TOKENS, max_size=7).map(",".join), max_size=4))
@fuzz
def test_csv(world: Path, lines: list[str]) -> None:
    path = world / "data" / "images" / "fuzz.csv"
    text = "\n".join(["image,xmin,ymin,xmax,ymax,label", "0.png,1,2,20,10,cat", *lines])
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        holds(world, path, "coco")
    finally:
        path.unlink()


@given(
    st.lists(
        st.fixed_dictionaries(
            {"bbox": BOX},
            optional={
                "image_id": one_of_or(0),
                "category_id": one_of_or(1),
                "score": one_of_or(0.5),
                "file_name": JSON,
                "category": JSON,
            },
        ),
        max_size=3,
    )
    | JSON
)
@fuzz
def test_predictions(world: Path, tree: Any) -> None:
    path = world / "found.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    try:
        found = load_predictions(path, ["cat"])
    except HardmineError as error:
        assert str(error)
        return
    for detections in found.by_name.values():
        assert np.isfinite(detections.boxes).all()
        assert ((detections.scores >= 0) & (detections.scores <= 1)).all()
    found.match([Path("/p/0.png"), Path("/p/1.png")])


@given(JSON, st.binary(max_size=20))
@fuzz
def test_yaml_and_class_lists(world: Path, tree: Any, junk: bytes) -> None:
    path = world / "data" / "data.yaml"
    config = {"train": "images", "names": tree} if len(junk) % 2 else tree
    try:
        text = yaml.safe_dump(config).encode("utf-8", "replace")
    except (yaml.YAMLError, ValueError):
        assume(False)
        return
    path.write_bytes(text + (junk if len(junk) > 15 else b""))
    try:
        for read in (load_splits, read_classes):
            try:
                read(path)
            except HardmineError as error:
                assert str(error)
    finally:
        path.unlink()


@given(st.lists(st.lists(TOKENS, max_size=3).map(",".join), max_size=4), st.binary(max_size=8))
@fuzz
def test_verdicts(world: Path, lines: list[str], junk: bytes) -> None:
    path = world / "verdicts.csv"
    text = "\n".join(["image,verdict", "a.jpg,empty", *lines]).encode("utf-8", "replace")
    path.write_bytes(text + junk)
    try:
        read_verdicts(path, {"a.jpg": "/p/a.jpg"})
    except DataError as error:
        assert str(error)


@given(st.sampled_from(["zip", "tar", "tar.gz"]), st.data())
@fuzz
def test_archives(world: Path, kind: str, data: st.DataObject) -> None:
    whole = io.BytesIO()
    picture = (world / "data" / "images" / "0.png").read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(whole, "w") as packed:
            packed.writestr("a.png", picture)
    else:
        with tarfile.open(fileobj=whole, mode="w:gz" if kind == "tar.gz" else "w") as packed:
            info = tarfile.TarInfo("a.png")
            info.size = len(picture)
            packed.addfile(info, io.BytesIO(picture))
    content = bytearray(whole.getvalue()[: data.draw(st.integers(0, len(whole.getvalue())))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
    path = world / f"{data.draw(st.integers(0, 10**9))}.{kind}"
    path.write_bytes(content)
    try:
        for item in open_source(path).items():
            if not isinstance(item, Problem) and item.read is not None:
                item.read()
    except HardmineError as error:
        assert str(error)
    finally:
        path.unlink()


def test_inputs_with_boxes_went_through_every_writer() -> None:
    """The tests above prove little where no input has a box."""
    if "PYTEST_XDIST_WORKER" in os.environ and len(REACHED) < 3:
        pytest.skip("the tests above ran in other processes")
    assert all(REACHED[to] > 0 for to in ("coco", "yolo", "voc")), REACHED
