"""Pictures that are looked at in windows, without holding all of their pixels at once.

A picture of 20,000 × 20,000 pixels takes 1.6 GB when Pillow decodes it whole. Read in windows, row by
row:

- a TIFF in tiles or strips is decoded tile by tile: each is handed to Pillow as a small TIFF of its own,
  so that every compression that Pillow reads works. Only the tiles of the present row are held;
- a JPEG must be decoded whole (its rows depend on each other), but into three bytes per pixel, without
  the second copy that a whole picture needs.

All others, pictures that EXIF turns, planes stored one after the other and grey of more than 8 bits are
read whole.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from hardmine.data.images import (
    READ_ERRORS,
    as_picture,
    is_deep_grey,
    open_picture,
    orientation,
    pillow_open,
)

try:
    import simplejpeg
except ImportError:  # then JPEGs are read whole, by Pillow
    simplejpeg = None

LARGE = 30_000_000
"""Pixels from which a picture is read in windows where it can be; smaller ones are read whole."""
_REDUCED = 1024
"""Side of the small picture that stands for the whole, at most."""

_WIDTH, _HEIGHT, _PLANAR = 256, 257, 284
_STRIPS = (273, 279)
"""Tags of the places and the lengths of strips."""
_ROWS_PER_STRIP = 278
_TILES = (324, 325)
_TILE_SIDES = (322, 323)
_KEPT = (258, 259, 262, 266, 277, 284, 317, 320, 332, 338, 339, 347, 529, 530, 531, 532)
"""Tags that say how the pixels of a strip or tile are coded."""

Window = tuple[int, int, int, int]
"""xyxy, whole pixels."""


@dataclass(slots=True)
class WindowedPicture:
    """A picture of ``size`` (width, height) whose parts are decoded when they are asked for.

    ``part`` decodes the part of an index (column, row), RGB; parts are ``sides`` (width, height) large.
    """

    size: tuple[int, int]
    sides: tuple[int, int]
    part: Callable[[int, int], Image.Image]
    _held: dict[tuple[int, int], Image.Image] = field(default_factory=dict)

    def crop(self, window: Window) -> Image.Image:
        """Return the pixels of a window, RGB. Parts above it are forgotten: ask row by row.

        Raises:
            OSError, SyntaxError …: the part of the file is damaged (`READ_ERRORS`).
        """
        x0, y0, x1, y1 = window
        wide, high = self.sides
        for key in [key for key in self._held if (key[1] + 1) * high <= y0]:
            del self._held[key]
        out = Image.new("RGB", (x1 - x0, y1 - y0))
        for row in range(y0 // high, -(-y1 // high)):
            for column in range(x0 // wide, -(-x1 // wide)):
                key = (column, row)
                if key not in self._held:
                    self._held[key] = self.part(column, row)
                out.paste(self._held[key], (column * wide - x0, row * high - y0))
        return out

    def reduced(self) -> Image.Image:
        """Return the whole picture made small, by the mean of the pixels that each new one covers."""
        width, height = self.size
        factor = max(1, -(-max(width, height) // _REDUCED))
        rows = max(1, self.sides[1] // factor) * factor
        out = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for y in range(0, height, rows):
            band = self.crop((0, y, width, min(y + rows, height)))
            out.paste(band.reduce(factor), (0, y // factor))
        self._held.clear()
        return out


def open_windows(file: Path | bytes, name: str, least: int = LARGE) -> WindowedPicture | None:
    """Return a large picture that can be read in windows; None where it is to be read whole.

    Args:
        file: a path, or the content of a file.
        name: what the content is called.
        least: pixels from which a picture is large.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(opened, name) as image:
                if image.width * image.height < least or orientation(image) != 1:
                    return None
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    return _tiff(image, file)
                plain = image.format == "JPEG" and image.mode in {"RGB", "L"}
        return _jpeg(file) if plain else None
    except READ_ERRORS:
        return None  # reading it whole says what is wrong


def _jpeg(file: Path | bytes) -> WindowedPicture | None:
    if simplejpeg is None:
        return None
    data = file if isinstance(file, bytes) else file.read_bytes()
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    height, width = pixels.shape[:2]
    side = 256

    def part(column: int, row: int) -> Image.Image:
        x, y = column * side, row * side
        return Image.fromarray(pixels[y : y + side, x : x + side])

    return WindowedPicture((width, height), (side, side), part)


def _tiff(image: TiffImagePlugin.TiffImageFile, file: Path | bytes) -> WindowedPicture | None:
    tags = image.tag_v2
    width, height = image.size
    tiled = _TILES[0] in tags
    places, lengths = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    sides = tuple(int(tags[tag]) for tag in _TILE_SIDES) if tiled else ()
    wide, high = sides or (width, min(height, int(tags.get(_ROWS_PER_STRIP, height))))
    columns, rows = -(-width // wide), -(-height // high)
    whole = tags.get(_PLANAR, 1) != 1 or is_deep_grey(image) or rows == columns == 1
    if whole or not len(places) == len(lengths) == columns * rows:
        return None
    kept = {tag: (tags[tag], tags.tagtype.get(tag)) for tag in _KEPT if tag in tags}
    order = tags.prefix

    def part(column: int, row: int) -> Image.Image:
        """Return the pixels of one tile or strip, cut at the picture's edge."""
        index = row * columns + column
        coded = _read(file, int(places[index]), int(lengths[index]))
        tall = high if tiled else min(high, height - row * high)
        with pillow_open(_small_tiff(coded, (wide, tall), kept, order, tiled)) as small:
            pixels = as_picture(small).pixels
        edge = (min(wide, width - column * wide), min(high, height - row * high))
        return pixels if pixels.size == edge else pixels.crop((0, 0, *edge))

    return WindowedPicture((width, height), (wide, high), part)


def _read(file: Path | bytes, place: int, length: int) -> bytes:
    if isinstance(file, bytes):
        return file[place : place + length]
    with file.open("rb") as opened:
        opened.seek(place)
        return opened.read(length)


def _small_tiff(
    coded: bytes,
    sides: tuple[int, int],
    kept: dict[int, tuple[object, int | None]],
    order: bytes,
    tiled: bool,
) -> io.BytesIO:
    """Return a TIFF that holds one tile or strip of another one."""
    head = order + (b"*\0" if order == b"II" else b"\0*") + b"\0" * 4
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    for tag, (value, kind) in kept.items():
        if kind is not None:
            directory.tagtype[tag] = kind
        directory[tag] = value
    directory[_WIDTH], directory[_HEIGHT] = sides
    if tiled:
        directory[_TILE_SIDES[0]], directory[_TILE_SIDES[1]] = sides
    else:
        directory[_ROWS_PER_STRIP] = sides[1]
    place_tag, length_tag = _TILES if tiled else _STRIPS
    directory.tagtype[place_tag] = directory.tagtype[length_tag] = 4  # LONG
    directory[place_tag], directory[length_tag] = 0, len(coded)
    if tiled:  # Pillow itself adds the length of the directory to the places of strips
        directory[place_tag] = len(head) + len(directory.tobytes(len(head)))
    first = len(head).to_bytes(4, "little" if order == b"II" else "big")
    return io.BytesIO(head[:4] + first + directory.tobytes(len(head)) + coded)
