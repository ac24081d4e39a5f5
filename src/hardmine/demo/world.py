"""The drawn "fridge" world: one picture of a fridge, and the sets of pictures, all from a seed.

A picture holds walls, shelves, items with shadows, and the boxes of what stays visible. The sets are
the labelled splits, a pool to mine and held-out negatives. An image depends on (seed, split, index)
alone, so the same seed gives the same files in any order and with any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.formats.coco_writing import write_coco
from hardmine.demo.items import (
    CATEGORIES,
    CLUTTER,
    HELD_OUT_ONLY,
    LOOK_ALIKES,
    TARGETS,
    Canvas,
    Color,
    Family,
)
from hardmine.errors import ConfigError
from hardmine.files import write_atomic, write_json
from hardmine.types import F32, I64, Dataset, ImageRecord, ImageState

MIN_VISIBLE = 0.6
"""The least share of an object that must stay visible (inside the picture and not covered)."""

WALLS: tuple[Color, ...] = (
    (0.86, 0.89, 0.92),
    (0.78, 0.84, 0.90),
    (0.90, 0.88, 0.83),
    (0.72, 0.75, 0.76),
    (0.60, 0.66, 0.72),
    (0.80, 0.86, 0.82),
)


@dataclass(frozen=True, slots=True)
class SceneKind:
    """What a scene is made of: the families and the chance of each on a free place (the rest of
    the chance leaves a gap). ``objects`` says whether one of the four classes must be there.
    """

    chances: tuple[tuple[Sequence[Family], float], ...]
    objects: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """``image`` u8[H, W, 3]; ``boxes`` f32[N, 4] xyxy pixels of the visible parts; ``labels``
    i64[N] in 1..4; ``families`` names every item that was drawn.
    """

    image: NDArray[np.uint8]
    boxes: F32
    labels: I64
    families: tuple[str, ...]


@dataclass(eq=False)
class _Picture:
    """A scene in the making: colours f32[H, W, 3], and for each pixel the item that shows there
    (index into the lists below, -1 for none).
    """

    rgb: F32
    owner: I64
    light: float
    families: list[Family] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A board's middle row, the clear height above it and its depth on the picture, pixels."""

    base: float
    clear: float
    depth: float


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item is to stand: base centre and size in pixels, tilt in radians."""

    family: Family
    center: float
    base: float
    width: float
    height: float
    tilt: float


def draw_scene(rng: np.random.Generator, kind: SceneKind) -> Scene:
    """Draw one scene; the generator's state alone decides what comes out.

    Returns:
        Scene: 144 to 192 pixels a side; with ``kind.objects`` it holds at least one object.
    """
    while True:
        picture = _draw(rng, kind)
        boxes, labels = _visible_objects(picture)
        if len(labels) or not kind.objects:
            break
    image = _expose(rng, picture)
    return Scene(image, boxes, labels, tuple(family.name for family in picture.families))


def _draw(rng: np.random.Generator, kind: SceneKind) -> _Picture:
    height, width = (int(side) for side in rng.integers(144, 193, 2))
    light = float(rng.uniform(-0.8, 0.8))
    rgb = _paint_wall(rng, height, width, light)
    picture = _Picture(rgb, np.full((height, width), -1, np.int64), light)
    num_shelves = int(rng.choice(3, p=(0.35, 0.45, 0.2))) + 1
    depth = float(rng.uniform(0.05, 0.1)) * height
    pitch = height * float(rng.uniform(0.96, 1.06)) / num_shelves
    for shelf in range(num_shelves):
        base = pitch * (shelf + 1) - depth * float(rng.uniform(0.5, 1.0))
        _paint_shelf(rng, picture.rgb, base, depth)
        board = _Shelf(base, min(0.9 * pitch, base), depth)
        places = _plan_shelf(rng, kind, board, width)
        for place in sorted(places, key=lambda place: place.base):
            _put(rng, picture, place)
    return picture


def _paint_wall(rng: np.random.Generator, height: int, width: int, light: float) -> F32:
    """Return the back wall f32[H, W, 3]: a light falling off from one spot, ribs or panels."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    fall = np.hypot(columns - light, (rows - float(rng.uniform(-0.1, 0.6))) * 1.2)
    shade = float(rng.uniform(1.0, 1.1)) - float(rng.uniform(0.12, 0.36)) * fall
    period = float(rng.uniform(8, 40))
    ribs = np.sin(np.arange(width) * (2 * np.pi / period) + rng.uniform(0, 6))
    shade = shade + float(rng.uniform(0, 0.035)) * np.sign(ribs)[None]
    blotches = np.kron(rng.normal(0, 1, (13, 13)), np.ones((16, 16)))[:height, :width]
    shade = shade + float(rng.uniform(0, 0.012)) * blotches
    base = np.asarray(WALLS[int(rng.integers(len(WALLS)))]) + rng.normal(0, 0.03, 3)
    return np.asarray(shade[..., None] * base, np.float32)


def _paint_shelf(rng: np.random.Generator, rgb: F32, base: float, depth: float) -> None:
    """Paint a glass or wire shelf: a pale board, a bright front edge, the shadow under it."""
    height = len(rgb)
    front = base + 0.6 * depth
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    board = np.clip(rows - (base - 0.6 * depth), 0, 1) * np.clip(front - rows, 0, 1)
    tone = float(rng.uniform(0.72, 1.0))
    tint = np.asarray((tone * 0.96, tone, tone * 1.02), np.float32)
    rgb += board * float(rng.uniform(0.35, 0.8)) * (tint - rgb)
    edge = np.exp(-(((rows - front) / float(rng.uniform(0.8, 2.0))) ** 2))
    rgb += 0.8 * edge * (np.float32(rng.uniform(0.55, 1.0)) - rgb)
    below = np.clip((rows - front) / (0.25 * height), 0, 1)
    under = (rows > front) * np.exp(-6 * below)
    rgb *= 1 - float(rng.uniform(0.1, 0.35)) * under


def _plan_shelf(
    rng: np.random.Generator, kind: SceneKind, shelf: _Shelf, width: int
) -> list[_Place]:
    """Choose what stands on one shelf, from left to right, now and then overlapping."""
    places = []
    cursor = -0.15 * shelf.clear
    scale = float(rng.uniform(0.78, 1.0)) * shelf.clear
    while cursor < width:
        family = _choose(rng, kind)
        if family is None:
            cursor += float(rng.uniform(0.15, 0.5)) * shelf.clear
            continue
        high = scale * float(rng.uniform(*family.height))
        wide = high * float(rng.uniform(*family.aspect))
        tilt = float(np.clip(rng.normal(0, 0.025), -0.08, 0.08))
        foot = shelf.base + float(rng.uniform(-0.3, 0.35)) * shelf.depth
        places.append(_Place(family, cursor + wide / 2, foot, wide, high, tilt))
        cursor += wide * float(rng.uniform(0.72, 1.0)) + shelf.clear * float(rng.exponential(0.09))
    return places


def _choose(rng: np.random.Generator, kind: SceneKind) -> Family | None:
    """Return a family by the kind's chances, or None for a gap."""
    draw = float(rng.random())
    for families, chance in kind.chances:
        if draw < chance:
            return families[int(rng.integers(len(families)))]
        draw -= chance
    return None


def _put(rng: np.random.Generator, picture: _Picture, place: _Place) -> None:
    """Paint an item with its shadow, unless it or an object behind it would be hidden too much."""
    canvas = Canvas.for_item(
        center=place.center,
        base=place.base,
        width=place.width,
        height=place.height,
        tilt=place.tilt,
        light=picture.light,
    )
    place.family.paint(canvas, rng)
    height, width = picture.owner.shape
    bottom, right = canvas.top + canvas.alpha.shape[0], canvas.left + canvas.alpha.shape[1]
    rows = slice(max(canvas.top, 0), min(bottom, height))
    columns = slice(max(canvas.left, 0), min(right, width))
    inside = (
        slice(rows.start - canvas.top, max(rows.stop - canvas.top, 0)),
        slice(columns.start - canvas.left, max(columns.stop - canvas.left, 0)),
    )
    solid = canvas.alpha > 0.4
    shown = solid[inside]
    if shown.sum() < MIN_VISIBLE * solid.sum() or _hides(picture, rows, columns, shown):
        return
    _paint_shadow(picture, place)
    alpha = canvas.alpha[inside][..., None]
    picture.rgb[rows, columns] *= 1 - alpha
    picture.rgb[rows, columns] += canvas.rgb[inside]
    picture.owner[rows, columns][shown] = len(picture.families)
    picture.families.append(place.family)
    picture.areas.append(int(solid.sum()))


def _hides(picture: _Picture, rows: slice, columns: slice, cover: NDArray[np.bool_]) -> bool:
    """Say whether covering these pixels leaves too little of an object that is there already."""
    behind = picture.owner[rows, columns][cover]
    for index in np.unique(behind[behind >= 0]):
        left = np.count_nonzero(picture.owner == index) - np.count_nonzero(behind == index)
        is_object = picture.families[index].name in CATEGORIES
        if is_object and left < MIN_VISIBLE * picture.areas[index]:
            return True
    return False


def _paint_shadow(picture: _Picture, place: _Place) -> None:
    """Darken the shelf at the item's foot and the wall on the side away from the light."""
    height, width = picture.owner.shape
    reach = 0.9 * place.width
    left, right = max(int(place.center - 2 * reach), 0), min(int(place.center + 2 * reach), width)
    top, bottom = (
        max(int(place.base - place.height), 0),
        min(int(place.base + 0.3 * reach) + 1, height),
    )
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] - place.base
    columns = np.arange(left, right, dtype=np.float32)[None] - place.center
    foot = np.exp(-((columns / (0.62 * place.width)) ** 2) - (rows / (0.12 * reach)) ** 2)
    away = (columns + picture.light * 0.35 * place.width) / (0.6 * place.width)
    cast = np.exp(-(away**4)) * np.clip((rows + 0.92 * place.height) / (0.2 * place.height), 0, 1)
    cast = cast * (rows < 0)
    picture.rgb[top:bottom, left:right] *= (1 - 0.45 * foot - 0.13 * cast)[..., None]


def _visible_objects(picture: _Picture) -> tuple[F32, I64]:
    """Return the tight boxes f32[N, 4] and labels i64[N] of the objects' visible pixels."""
    boxes, labels = [], []
    for index, family in enumerate(picture.families):
        if family.name not in CATEGORIES:
            continue
        rows, columns = np.nonzero(picture.owner == index)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes.append(box)
        labels.append(CATEGORIES.index(family.name) + 1)
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    return found, np.asarray(labels, np.int64)


def _expose(rng: np.random.Generator, picture: _Picture) -> NDArray[np.uint8]:
    """Return the picture as a camera gives it: exposure, white balance, a little blur, noise."""
    rgb = picture.rgb
    if rng.random() < 0.4:
        soft = float(rng.uniform(0.1, 0.3))
        rgb[1:-1] = (1 - soft) * rgb[1:-1] + soft / 2 * (rgb[:-2] + rgb[2:])
        rgb[:, 1:-1] = (1 - soft) * rgb[:, 1:-1] + soft / 2 * (rgb[:, :-2] + rgb[:, 2:])
    gain = float(rng.uniform(0.78, 1.08)) * (1 + rng.normal(0, 0.03, 3))
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(0.004, 0.025))
    value = np.clip(rgb * gain.astype(np.float32) + noise, 0, 1)
    return (value * 255 + 0.5).astype(np.uint8)


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
