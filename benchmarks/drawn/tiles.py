"""Photographs side by side, each cut off by the edges of its tile: one class, several objects an image.

Unlike a crowd of cut-outs, an object here lies in the photograph that it was taken in, so that its
outline is a real one; a part of many objects is hidden beyond the edge of their tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.types import ImageRecord

WIDTH, HEIGHT = 640, 480
WITH_OBJECTS = 0.8
"""Share of the tiles that show a photograph with objects."""
VISIBLE = 0.4
"""An object counts where so much of its area is visible; no tile shows less of one."""
TRIES = 20


def draw_tiles(
    rng: np.random.Generator, labelled: Sequence[ImageRecord], empty: Sequence[Path]
) -> tuple[Image.Image, list[list[float]], list[int]]:
    """Return four photographs around a random point, with the boxes that are left and their labels.

    Args:
        labelled: photographs with objects; without any, all tiles show empty ones.
        empty: photographs without objects.
    """
    canvas = Image.new("RGB", (WIDTH, HEIGHT))
    boxes: list[list[float]] = []
    x, y = (round(side * rng.uniform(0.35, 0.65)) for side in (WIDTH, HEIGHT))
    for left, right in ((0, x), (x, WIDTH)):
        for top, bottom in ((0, y), (y, HEIGHT)):
            size = (right - left, bottom - top)
            tile, inside = _tile(rng, labelled, empty, size)
            canvas.paste(tile, (left, top))
            boxes += (inside + np.array([left, top, left, top])).tolist()
    return canvas, boxes, [1] * len(boxes)


def _tile(
    rng: np.random.Generator,
    labelled: Sequence[ImageRecord],
    empty: Sequence[Path],
    size: tuple[int, int],
) -> tuple[Image.Image, np.ndarray]:
    """Return a part of a photograph, and the objects in it; none of them is seen too little."""
    for _ in range(TRIES):
        if not labelled or rng.random() >= WITH_OBJECTS:
            break
        record = labelled[rng.integers(len(labelled))]
        tile, scale, corner = _part(rng, record.path, size)
        whole = record.boxes * scale - np.tile(corner, 2)
        seen = np.clip(whole, 0, np.tile(size, 2))
        share = _area(seen) / np.maximum(_area(whole), 1e-9)
        if not record.ignore.any() and ((share >= VISIBLE) | (share == 0)).all():
            return tile, seen[share >= VISIBLE]
    tile, _, _ = _part(rng, empty[rng.integers(len(empty))], size)
    return tile, np.zeros((0, 4))


def _part(
    rng: np.random.Generator, path: Path, size: tuple[int, int]
) -> tuple[Image.Image, float, np.ndarray]:
    """Return a part of a photograph in that size, its scale, and its corner in scaled pixels."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        cover = max(size[0] / image.width, size[1] / image.height)
        scale = cover * rng.uniform(1.0, 1.6)
        width, height = (max(s, round(n * scale)) for s, n in zip(size, image.size, strict=True))
        left, top = (
            int(rng.integers(0, n - s + 1)) for n, s in zip((width, height), size, strict=True)
        )
        scaled = image.resize((width, height), Image.Resampling.LANCZOS)
        return scaled.crop((left, top, left + size[0], top + size[1])), scale, np.array([left, top])


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
