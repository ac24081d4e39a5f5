"""The drawn "fridge" world: labelled splits, a pool to mine, held-out negatives; all from a seed.

An image depends on (seed, split, index) alone, so the same seed gives the same files in any order
and with any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.data.formats.coco import write_coco
from hardmine.demo.items import CATEGORIES, CLUTTER, HELD_OUT_ONLY, LOOK_ALIKES, TARGETS
from hardmine.demo.scene import Scene, SceneKind, draw_scene
from hardmine.errors import ConfigError
from hardmine.files import write_atomic, write_json
from hardmine.types import Dataset, ImageRecord, ImageState

WORLD_VERSION = 1
"""Raised whenever the same seed draws other pixels, so that an old world is drawn anew."""

JPEG_QUALITY = 90

LABELLED = SceneKind(((TARGETS, 0.45), (CLUTTER, 0.25)), objects=True)
PLAIN = SceneKind(((CLUTTER, 0.6),), objects=False)
CROWDED = SceneKind(((LOOK_ALIKES, 0.5), (CLUTTER, 0.2)), objects=False)
HELD_OUT = SceneKind(((LOOK_ALIKES, 0.39), (HELD_OUT_ONLY, 0.11), (CLUTTER, 0.2)), objects=False)

PLAIN_SHARE = 0.4
"""The share of negatives that hold clutter alone."""

LABELLED_SPLITS = ("train", "val")
SPLITS = (*LABELLED_SPLITS, "pool", "negatives")


def draw_image(seed: int, split: str, index: int) -> Scene:
    """Draw image number ``index`` of a split.

    Raises:
        ValueError: the split is none of ``SPLITS``.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    if split in LABELLED_SPLITS:
        return draw_scene(rng, LABELLED)
    if rng.random() < PLAIN_SHARE:
        return draw_scene(rng, PLAIN)
    return draw_scene(rng, CROWDED if split == "pool" else HELD_OUT)


@dataclass(frozen=True, slots=True)
class WorldSizes:
    """How many images each split holds."""

    train: int = 300
    val: int = 400
    pool: int = 400
    negatives: int = 400

    def __post_init__(self) -> None:
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ValueError(f"{split} images: got {getattr(self, split)}, wanted 1 or more")


@dataclass(frozen=True, slots=True)
class WorldPaths:
    """Where a drawn world lies: two COCO files and two folders of images without objects."""

    train_json: Path
    val_json: Path
    pool_dir: Path
    negatives_dir: Path


def draw_world(
    out: Path,
    seed: int,
    *,
    sizes: WorldSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WorldPaths:
    """Draw the four splits into a folder; a world that is there already is left as it is.

    Args:
        out: the folder, made if missing.
        seed: what every image is derived from, 0 or more.
        sizes: images per split.
        progress: called with (images drawn, images in all).

    Raises:
        ConfigError: the seed is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed: got {seed}, wanted 0 or more")
    sizes = sizes or WorldSizes()
    paths = WorldPaths(
        out / "train" / "train.coco.json",
        out / "val" / "val.coco.json",
        out / "pool",
        out / "negatives",
    )
    marker = out / "world.json"
    identity = {"seed": seed, "version": WORLD_VERSION, **asdict(sizes)}
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == identity:
        return paths
    total, drawn = sum(asdict(sizes).values()), 0
    for split in SPLITS:
        records = []
        for index in range(getattr(sizes, split)):
            records.append(_write_image(out / split, seed, split, index))
            drawn += 1
            if progress is not None:
                progress(drawn, total)
        if split in LABELLED_SPLITS:
            dataset = Dataset(CATEGORIES, tuple(records), out / split)
            write_coco(dataset, out / split / f"{split}.coco.json")
    write_json(marker, identity)
    return paths


def _write_image(folder: Path, seed: int, split: str, index: int) -> ImageRecord:
    scene = draw_image(seed, split, index)
    path = folder / f"{split}-{index:04d}.jpg"
    write_atomic(path, lambda part: _save_jpeg(part, scene))
    height, width = scene.image.shape[:2]
    state = ImageState.LABELLED if len(scene.labels) else ImageState.VERIFIED_EMPTY
    ignore = np.zeros(len(scene.labels), np.bool_)
    return ImageRecord(path, width, height, scene.boxes, scene.labels, ignore, state, "demo")


def _save_jpeg(path: Path, scene: Scene) -> None:
    Image.fromarray(scene.image).save(path, format="JPEG", quality=JPEG_QUALITY)
