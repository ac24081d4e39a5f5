"""Whatever a file holds, a reader returns or refuses it in words; and boxes survive their own writer.

A short run is part of the tests; ``make fuzz`` gives every reader 100,000 inputs.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import shutil
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
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
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def fuzz(test: Any) -> Any:
    """Give a test many generators of random numbers; Hypothesis chooses, and reports, their seeds.

    Inputs are made by plain functions of a generator, about twice as quick as Hypothesis' strategies.
    """
    return SETTINGS(given(draw=st.randoms(use_true_random=True))(test))


WORDS = ["0.png", "1.png", "../x.png", "\\", "\ufeff", "nan", "inf", "0.5", "cat", "", "\0", "no"]
EXTREMES = [
    0,
    1,
    -0.0,
    1e308,
    -1e308,
    1e-300,
    10**400,
    math.nan,
    math.inf,
    -math.inf,
    2**63,
    5e-324,
]
LETTERS = "ab01 .,-/\\\t\r\n\"'<>&{}[]:;#%=\0\u00e9e\u0301\u4e2d\U0001f600\ud800\u2028\x85"


def number(draw: Random) -> float:
    kind = draw.randrange(6)
    if kind == 0:
        return struct.unpack("d", draw.randbytes(8))[0]
    if kind == 1:
        return draw.uniform(-1, 2)
    if kind == 2:
        return draw.randint(-5, 50)
    if kind == 3:
        return draw.getrandbits(draw.choice([3, 16, 33, 66])) * draw.choice([1, -1])
    return draw.choice(EXTREMES) if kind == 4 else draw.uniform(-200, 200)


def word(draw: Random) -> str:
    if draw.random() < 0.5:
        return draw.choice(WORDS)
    return "".join(draw.choice(LETTERS) for _ in range(draw.randrange(9)))


def token(draw: Random) -> str:
    return str(number(draw)) if draw.random() < 0.5 else word(draw)


def anything(draw: Random, depth: int = 3) -> Any:
    """Return a value that JSON can hold."""
    kind = draw.randrange(8 if depth else 6)
    if kind < 2:
        return draw.choice([None, True, False])
    if kind < 4:
        return number(draw)
    if kind < 6:
        return word(draw)
    values = [anything(draw, depth - 1) for _ in range(draw.randrange(5))]
    return values if kind == 6 else {word(draw): value for value in values}


def mostly(draw: Random, usual: Any) -> Any:
    """Mostly what belongs there, sometimes anything."""
    return usual if draw.random() < 0.75 else anything(draw)


def entry(draw: Random, needed: dict[str, Any], maybe: dict[str, Any]) -> Any:
    """Return an object with its usual keys, of which values may be anything; sometimes no object."""
    if draw.random() < 0.15:
        return anything(draw)
    found = {key: mostly(draw, value) for key, value in needed.items()}
    return found | {key: mostly(draw, v) for key, v in maybe.items() if draw.random() < 0.5}


def several(draw: Random, most: int, make: Callable[[], Any]) -> Any:
    """Return a list of up to so many; sometimes anything."""
    if draw.random() < 0.08:
        return anything(draw)
    return [make() for _ in range(draw.randint(0, most))]


def box(draw: Random) -> Any:
    kind = draw.randrange(4)
    if kind == 0:
        return [number(draw) for _ in range(4)]
    if kind == 1:
        return anything(draw)
    x, y = draw.randint(0, 30), draw.randint(0, 20)
    return [x, y, draw.randint(1, 12), draw.uniform(1, 12)]


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


@fuzz
def test_coco(world: Path, draw: Random) -> None:
    def image() -> Any:
        return entry(draw, {}, {"id": 0, "file_name": "0.png", "width": 40, "height": 30})

    def annotation() -> Any:
        maybe = {"iscrowd": draw.choice([0, 1, "0", "no"]), "score": 0.5, "ignore": False}
        needed = {"bbox": box(draw), "image_id": 0, "category_id": 1}
        found = entry(draw, needed, maybe if draw.random() < 0.3 else {})
        if isinstance(found, dict) and draw.random() < 0.1:
            found["segmentation"] = anything(draw)
        return found

    tree = {
        "images": several(draw, 3, image),
        "annotations": several(draw, 4, annotation),
        "categories": several(draw, 2, lambda: entry(draw, {}, {"id": 1, "name": "cat"})),
    }
    if draw.random() < 0.5:  # so that boxes reach the writer
        tree["images"] = [{"id": 0, "file_name": "0.png", "width": 40, "height": 30}]
        tree["categories"] = [{"id": 1, "name": "cat"}]
    path = world / "data" / "images" / "fuzz.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    try:
        holds(world, path, "coco")
    finally:
        path.unlink()


def line(draw: Random) -> str:
    kind = draw.randrange(3)
    if kind:
        shares = (
            f"{draw.uniform(0.05, 0.95):.6f}" for _ in range(draw.choice([4, 4, 4, 5, 6, 8, 9]))
        )
        return " ".join([draw.choice(["0", "1"]), *shares])
    return " ".join(token(draw) for _ in range(draw.randrange(9)))


@fuzz
def test_yolo(world: Path, draw: Random) -> None:
    text = "\n".join(line(draw) for _ in range(draw.randrange(6)))
    folder = world / "data" / "labels"
    folder.mkdir(exist_ok=True)
    (world / "data" / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (folder / "0.txt").write_text(text, encoding="utf-8", errors="replace")
    try:
        holds(world, world / "data" / "data.yaml", "yolo")
    finally:
        shutil.rmtree(folder)
        (world / "data" / "data.yaml").unlink()


@fuzz
def test_voc(world: Path, draw: Random) -> None:
    low, high = (
        (draw.randint(0, 15), draw.randint(0, 12)),
        (draw.randint(16, 45), draw.randint(13, 35)),
    )
    corners = list(map(str, (*low, *high)))
    if draw.random() < 0.3:
        corners = [token(draw) for _ in range(4)]
    name, size = (draw.choice(["cat", "40"]) if draw.random() < 0.6 else token(draw) for _ in "12")
    rest = draw.randbytes(draw.randrange(7)) if draw.random() < 0.4 else b""
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


def spoiled(draw: Random) -> tuple[str, Any]:
    """Return a file of a program in which up to three places hold something else, or nothing."""
    name = draw.choice(sorted(EXAMPLES_OF))
    tree = copy.deepcopy(EXAMPLES_OF[name])
    for _ in range(draw.randrange(4)):
        places = list(places_in(tree))
        if not places:
            break
        inside, key = draw.choice(places)
        if draw.random() < 0.6:
            inside[key] = anything(draw)
        else:
            del inside[key]
    return name, tree


@fuzz
def test_files_of_labelling_programs(world: Path, draw: Random) -> None:
    name, tree = spoiled(draw)
    folder = world / "data" / "images"
    path = folder / ("0.json" if name == "labelme" else "fuzz.json")
    path.write_text(json.dumps(tree), encoding="utf-8")
    try:
        holds(world, folder if name == "labelme" else path, "coco")
    finally:
        path.unlink()


ODD = [10**400, math.inf, -1, 0.5, "x" * 5000, "a\0/b.png", "", None, True, [], [[]], {}]


@pytest.mark.parametrize("name", EXAMPLES_OF)
def test_no_value_in_any_place_of_a_programs_file_is_a_fault(world: Path, name: str) -> None:
    folder = world / "data" / "images"
    path = folder / ("0.json" if name == "labelme" else "fuzz.json")
    try:
        for number in range(len(list(places_in(EXAMPLES_OF[name])))):
            for value in ODD:
                tree = copy.deepcopy(EXAMPLES_OF[name])
                inside, key = list(places_in(tree))[number]
                inside[key] = value
                path.write_text(json.dumps(tree), encoding="utf-8")
                holds(world, folder if name == "labelme" else path, "coco")
    finally:
        path.unlink()


def cells(draw: Random, most: int) -> str:
    return ",".join(token(draw) for _ in range(draw.randint(0, most)))


@fuzz
def test_csv(world: Path, draw: Random) -> None:
    lines = [cells(draw, 7) for _ in range(draw.randrange(5))]
    path = world / "data" / "images" / "fuzz.csv"
    text = "\n".join(["image,xmin,ymin,xmax,ymax,label", "0.png,1,2,20,10,cat", *lines])
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        holds(world, path, "coco")
    finally:
        path.unlink()


@fuzz
def test_predictions(world: Path, draw: Random) -> None:
    def row() -> Any:
        usual = {"image_id": 0, "category_id": 1, "score": 0.5}
        maybe = {"file_name": "0.png", "category": "cat"} if draw.random() < 0.3 else {}
        return entry(draw, {"bbox": box(draw), **usual}, maybe)

    tree = several(draw, 3, row)
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


@fuzz
def test_yaml_and_class_lists(world: Path, draw: Random) -> None:
    tree, junk = anything(draw), draw.randbytes(draw.randrange(21))
    path = world / "data" / "data.yaml"
    config = {"train": "images", "names": tree} if len(junk) % 2 else tree
    text = yaml.safe_dump(config).encode("utf-8", "replace")
    path.write_bytes(text + (junk if len(junk) > 15 else b""))
    try:
        for read in (load_splits, read_classes):
            try:
                read(path)
            except HardmineError as error:
                assert str(error)
    finally:
        path.unlink()


@fuzz
def test_verdicts(world: Path, draw: Random) -> None:
    lines = [cells(draw, 3) for _ in range(draw.randrange(5))]
    junk = draw.randbytes(draw.randrange(9)) if draw.random() < 0.3 else b""
    path = world / "verdicts.csv"
    text = "\n".join(["image,verdict", "a.jpg,empty", *lines]).encode("utf-8", "replace")
    path.write_bytes(text + junk)
    try:
        read_verdicts(path, {"a.jpg": "/p/a.jpg"})
    except DataError as error:
        assert str(error)


@fuzz
def test_archives(world: Path, draw: Random) -> None:
    kind = draw.choice(["zip", "tar", "tar.gz"])
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
    size = len(whole.getvalue())
    content = bytearray(whole.getvalue()[: size if draw.random() < 0.7 else draw.randint(0, size)])
    for _ in range(draw.randrange(5)):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    path = world / f"{draw.getrandbits(60)}.{kind}"
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
