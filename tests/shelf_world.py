"""A folder of drawn data on which the examples of docstrings and of docs/python.md run.

``shelf``: twelve pictures of 64 × 48 pixels, eight with bottles and cans and four empty ones, as a
COCO dataset, with a small table of boxes and a predictions file. ``pool`` and ``held_out``: six
pictures each without objects. ``tiny.yaml``: a recipe that trains in a second.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from hardmine.data.formats.coco_writing import write_coco
from hardmine.recipes.recipe import BatchConfig, OptimConfig, recipe_to_dict
from hardmine.types import Dataset, ImageRecord, ImageState
from tiny_models import tiny_recipe

CLASSES = ("bottle", "can")
BOTTLE, CAN = (40.0, 10.0, 52.0, 42.0), (8.0, 20.0, 24.0, 40.0)
PLACES = {"bottle": BOTTLE, "can": CAN}
COLOURS = {"bottle": (40, 160, 60), "can": (200, 60, 50)}
SIZE = (64, 48)


def make_world(root: Path) -> None:
    """Write everything below ``root``."""
    images = root / "shelf" / "images"
    images.mkdir(parents=True)
    records = []
    for index in range(12):
        names = [("bottle",), ("can",)][index % 2] if index < 4 else CLASSES if index < 8 else ()
        path = images / f"{index:02}.png"
        _draw(index, names).save(path)
        boxes = np.array([PLACES[name] for name in names], np.float32).reshape(-1, 4)
        labels = np.array([CLASSES.index(name) + 1 for name in names], np.int64)
        state = ImageState.LABELLED if names else ImageState.VERIFIED_EMPTY
        records.append(ImageRecord(path, *SIZE, boxes, labels, np.zeros(len(names), bool), state))
    shelf = root / "shelf"
    dataset = Dataset(CLASSES, tuple(records), shelf)
    write_coco(dataset, shelf / "annotations" / "instances_all.json", images_root=images)
    rows = [(records[i].path.name, *records[i].boxes[0], CLASSES[i % 2]) for i in (0, 1)]
    lines = ["image,xmin,ymin,xmax,ymax,label", *(",".join(map(str, row)) for row in rows)]
    (shelf / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_predictions(shelf / "predictions.json")
    for folder, seed in (("pool", 100), ("held_out", 200)):
        (root / folder).mkdir()
        for index in range(6):
            _draw(seed + index, ()).save(root / folder / f"{folder[0]}{index}.png")
    recipe = replace(
        tiny_recipe(),
        epochs=2,
        batch=BatchConfig(size=4),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, ema_decay=0.9),
        precision="fp32",
    )
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe)), encoding="utf-8")


def _draw(seed: int, names: tuple[str, ...]) -> Image.Image:
    """Return a picture of its own pattern, so that no two are near-duplicates, with the objects."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    image = coarse.resize(SIZE, Image.Resampling.BICUBIC)
    for name in names:
        left, top, right, bottom = (int(value) for value in PLACES[name])
        image.paste(COLOURS[name], (left, top, right, bottom))
    return image


def _write_predictions(path: Path) -> None:
    found = [
        ("00.png", "bottle", BOTTLE, 0.9),
        ("00.png", "can", CAN, 0.4),
        ("02.png", "bottle", BOTTLE, 0.8),
        ("08.png", "can", CAN, 0.6),
        ("p1.png", "can", CAN, 0.7),
        ("p3.png", "bottle", BOTTLE, 0.95),
        ("p4.png", "can", CAN, 0.5),
    ]
    rows = [
        {
            "file_name": name,
            "category": category,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for name, category, box, score in found
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
