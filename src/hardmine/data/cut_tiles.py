"""Large images with small objects as tiles: where the tiles lie, and a dataset cut into them.

An object of 30 px in an image of 4000 x 3000 has 3 px on a canvas of 320, where nothing can be learnt.
On a tile of 416 px it has 23. Training on tiles and detection on tiles (``--tile``) use the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.data.images import READ_ERRORS, read_picture
from hardmine.data.picture_windows import Window, open_windows
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_atomic
from hardmine.types import F32, Dataset, ImageRecord, ImageState

DEFAULT_OVERLAP = 0.2
LEAST_VISIBLE = 0.5
"""Share of a box's area that must lie in a tile for it to be an object there; less is to be ignored."""
LEAST_SIDE = 1.0
"""Parts of boxes that are narrower, px, are left out."""
QUALITY = 95
"""JPEG quality of the tiles of a JPEG; the tiles of other images are PNG."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Squares of ``size`` pixels that share ``overlap`` of their side with the next ones.

    An object of up to ``overlap`` times ``size`` pixels lies whole in at least one of them.
    """

    size: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ConfigError(f"tile: got {self.size}, wanted 16 pixels or more")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap: got {self.overlap}, wanted a share from 0 to below 1")

    def windows(self, width: int, height: int) -> list[Window]:
        """Return xyxy windows, row by row; the last ones end at the image's edge."""
        return [
            (x, y, min(x + self.size, width), min(y + self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(1, int(self.size * (1 - self.overlap)))
        return [*range(0, length - self.size, step), length - self.size]


def cut_into_tiles(
    splits: Mapping[str, Dataset], tiles: Tiles, folder: Path
) -> tuple[dict[str, Dataset], int]:
    """Write the tiles of every image into ``folder``.

    A box belongs to each tile that holds at least half of its area, cut at the tile's edge; of other
    tiles that it touches it is to be ignored, so that no detection of it counts as false there. A tile
    of a labelled image that no box touches is verified to be empty. An image of at most a tile's size
    is taken as it is.

    Returns:
        The tiles as splits of the same names, and how many boxes of objects are too large: no tile holds
        half of them.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    cut: dict[str, Dataset] = {}
    too_large = 0
    for name, data in splits.items():
        parts: list[ImageRecord] = []
        for number, record in enumerate(data.records):
            parts += _cut(record, tiles, folder / name / f"{number:06d}")
            windows = tiles.windows(record.width, record.height)
            most = np.max([_shown(record.boxes, window) for window in windows], axis=0)
            too_large += int(((most < LEAST_VISIBLE) & ~record.ignore).sum())
        cut[name] = data.with_records(parts)
    return cut, too_large


def _cut(record: ImageRecord, tiles: Tiles, folder: Path) -> list[ImageRecord]:
    if max(record.width, record.height) <= tiles.size:
        return [record]
    picture = open_windows(record.path, str(record.path)) or read_picture(record.path).pixels
    cut = []
    for window in tiles.windows(*picture.size):
        path = folder / f"{record.path.stem}_{window[0]}_{window[1]}{_suffix(record.path)}"
        try:
            tile = picture.crop(window)
        except READ_ERRORS as error:  # a part of a large picture
            raise DataError(f"{record.path}: broken image ({error})") from None
        _save(tile, path)
        cut.append(_record(record, window, path))
    return cut


def _suffix(path: Path) -> str:
    return ".jpg" if path.suffix.lower() in {".jpg", ".jpeg", ".jfif"} else ".png"


def _save(tile: Image.Image, path: Path) -> None:
    if path.suffix == ".jpg":
        write_atomic(path, partial(tile.save, format="JPEG", quality=QUALITY, subsampling=0))
    else:
        write_atomic(path, partial(tile.save, format="PNG"))


def _clipped(boxes: F32, window: Window) -> F32:
    """Return the parts of boxes (xyxy, px of the image) in a window, in px of the window."""
    left, top, right, bottom = window
    corner = np.array([left, top, left, top], np.float32)
    edge = np.array([right - left, bottom - top] * 2, np.float32)
    inside: F32 = np.clip(boxes - corner, 0, edge)
    return inside


def _shown(boxes: F32, window: Window) -> F32:
    """Return the share of each box's area that lies in a window."""
    parts = _clipped(boxes, window)
    area = (parts[:, 2:] - parts[:, :2]).prod(axis=1)
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    share: F32 = np.divide(area, whole, out=np.zeros_like(whole), where=whole > 0)
    return share


def _record(record: ImageRecord, window: Window, path: Path) -> ImageRecord:
    """Return what is known of one tile."""
    left, top, right, bottom = window
    boxes = _clipped(record.boxes, window)
    kept = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(axis=1)
    cut_off = _shown(record.boxes, window) < LEAST_VISIBLE
    empty = record.state is ImageState.LABELLED and not kept.any()
    return replace(
        record,
        path=path,
        width=right - left,
        height=bottom - top,
        boxes=boxes[kept],
        labels=record.labels[kept],
        ignore=(record.ignore | cut_off)[kept],
        state=ImageState.VERIFIED_EMPTY if empty else record.state,
    )
