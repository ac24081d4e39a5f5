"""Mosaic: four images on one canvas, each through a window of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardmine.augment.sample import Donors, Sample, Source
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError
from hardmine.types import F64

_SMALLEST = 2.0
"""Canvas pixels: what is left of a box below this is no box."""


@dataclass(frozen=True, slots=True)
class MosaicConfig:
    """Four images about a centre. Images with objects are joined by such, others by others."""

    probability: float = 0.0
    centre: float = 0.3
    """The centre lies between this share of the canvas and one minus it."""
    max_zoom: float = 1.0
    """Largest scale relative to the size at which an image alone would be shown."""
    min_visible: float = 0.3
    """A box of which a smaller share is left (inclusive) is marked as to be ignored."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"augment.mosaic.probability: got {self.probability}, wanted 0..1")
        if not 0.0 < self.centre <= 0.5 or self.max_zoom <= 0:
            raise ConfigError(
                f"augment.mosaic: got centre {self.centre}, max_zoom {self.max_zoom}, wanted "
                "0 < centre <= .5, max_zoom > 0"
            )
        if not 0.0 <= self.min_visible <= 1.0:
            raise ConfigError(f"augment.mosaic.min_visible: got {self.min_visible}, wanted 0..1")


def mosaic(
    first: Source, config: MosaicConfig, resize: Resize, rng: np.random.Generator, donors: Donors
) -> Sample:
    """Return a canvas of four images, the first of them given."""
    objects = len(first.boxes) > 0
    sources = [first]
    sources += [donors.draw(rng, objects=objects, cover=resize.cover) for _ in range(3)]
    low, high = config.centre, 1.0 - config.centre
    column = round(resize.width * rng.uniform(low, high))
    row = round(resize.height * rng.uniform(low, high))
    tiles = [
        (x0, y0, x1, y1)
        for y0, y1 in ((0, row), (row, resize.height))
        for x0, x1 in ((0, column), (column, resize.width))
    ]
    canvas = np.empty((resize.height, resize.width, 3), np.uint8)
    parts: list[Source] = []
    for place, source in zip(rng.permutation(4).tolist(), sources, strict=True):
        x0, y0, x1, y1 = tiles[place]
        if x1 > x0 and y1 > y0:
            window, scale = _draw_window(source, (x1 - x0, y1 - y0), resize, config, rng)
            wx0, wy0, wx1, wy1 = window.tolist()
            shown = source.picture.resize((x1 - x0, y1 - y0), window=(wx0, wy0, wx1, wy1))
            canvas[y0:y1, x0:x1] = np.asarray(shown)
            parts.append(_move(source, window, scale, (x0, y0), config.min_visible))
    return Sample(
        canvas,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )


def _draw_window(
    source: Source,
    tile: tuple[int, int],
    resize: Resize,
    config: MosaicConfig,
    rng: np.random.Generator,
) -> tuple[F64, F64]:
    """Return the part of an image f64[4] that a tile shows, and its scale f64[2].

    The aspect ratio is that of the resize; when the image holds objects, one of them is centred in
    the window or as near to that as the image's border lets it, before the window is shaken.
    """
    picture = source.picture
    whole = np.array([picture.width, picture.height], np.float64)
    placement = resize.place(picture.width, picture.height)
    scale = np.array([placement.scale_x, placement.scale_y])
    smallest = float((np.array(tile) / (scale * whole)).max())  # the image just fills the tile
    scale = scale * rng.uniform(smallest, max(smallest, config.max_zoom))
    size = np.minimum(np.array(tile) / scale, whole)
    low = rng.random(2) * (whole - size)
    shown = np.flatnonzero(~source.ignore)
    if len(shown):
        box = source.boxes[shown[int(rng.integers(len(shown)))]].astype(np.float64)
        low = (box[:2] + box[2:]) / 2 - size * rng.uniform(0.3, 0.7, 2)
    low = low.clip(0, whole - size)
    return np.concatenate([low, low + size]), scale


def _move(
    source: Source, window: F64, scale: F64, corner: tuple[int, int], min_visible: float
) -> Source:
    """Cut the boxes at the window and move them onto the canvas."""
    pairs = source.boxes.astype(np.float64).reshape(-1, 2, 2)
    cut = pairs.clip(window[:2], window[2:])
    visible = (cut[:, 1] - cut[:, 0]).prod(1) / np.maximum(
        (pairs[:, 1] - pairs[:, 0]).prod(1), 1e-9
    )
    boxes = ((cut - window[:2]) * scale + np.array(corner)).reshape(-1, 4).astype(np.float32)
    keep = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= _SMALLEST
    ignore = source.ignore | (visible <= min_visible)
    return Source(source.picture, boxes[keep], source.labels[keep], ignore[keep])
