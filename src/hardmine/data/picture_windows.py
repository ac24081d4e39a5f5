"""Large pictures in windows: parts of a file are decoded when they are asked for.

A picture of 20,000 x 20,000 pixels takes 1.6 GB when Pillow decodes it whole. Where its format
allows it, it is read in windows, row by row, without holding all of its pixels at once
(`open_windows`):

- a TIFF in tiles or strips is decoded tile by tile: each is handed to Pillow as a small TIFF of its
own, so that every compression that Pillow reads works. Only the tiles of the present row are held;
- a PNG is decompressed as a stream, and a band of rows at a time is handed to Pillow as a small PNG;
- a JPEG must be decoded whole (its rows depend on each other), but into three bytes per pixel,
without the second copy that a whole picture needs.

All others, interlaced PNGs, pictures that EXIF turns, planes stored one after the other and grey of
more than 8 bits are read whole.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

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
                if image.width * image.height < least:
                    return None
                if image.format == "PNG":  # Pillow would decode all of it to look for EXIF
                    return _png(file)
                if orientation(image) != 1:
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


_PNG_START = 8
"""Bytes before the first chunk."""
_PNG_BAND = 128
"""Rows of a PNG that are decoded at once."""
_PNG_KEPT = (b"PLTE", b"tRNS")
"""Chunks that say what the pixels mean."""
_PNG_TEXTS = (b"zTXt", b"tEXt", b"iTXt")
_PNG_TURNS = (b"Raw profile type", b"XML:com.adobe.xmp")
"""Texts that hold EXIF or XMP, which may turn the picture."""
_FEED = 1 << 16
"""Bytes that are read from the file at once."""


def _png(file: Path | bytes) -> WindowedPicture | None:
    """Return a PNG in bands of rows; None for one that must be read whole."""
    with _opened(file) as stream:
        chunks = list(_chunks(stream))
    turned = any(
        kind == b"eXIf" or (kind in _PNG_TEXTS and _read(file, at, 20).startswith(_PNG_TURNS))
        for kind, at, _ in chunks
    )
    header = _read(file, chunks[0][1], chunks[0][2])
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlaced or turned:
        return None
    kept = [(kind, _read(file, at, size)) for kind, at, size in chunks if kind in _PNG_KEPT]
    data = [(at, size) for kind, at, size in chunks if kind == b"IDAT"]
    rows = _PngRows(file, data, header, kept, width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color])

    def part(column: int, row: int) -> Image.Image:
        del column
        return rows.band(row)

    return WindowedPicture((width, height), (width, _PNG_BAND), part)


def _opened(file: Path | bytes) -> BinaryIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file.open("rb")


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the data of each chunk, without reading it."""
    place = _PNG_START
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, place + 8, length
        place += 12 + length


class _PngRows:
    """The bands of a PNG. A row is coded by its difference from the row before, so they are decoded in
    order; an earlier band than the last one begins the file again.

    Args:
        data: place and length of the compressed parts.
        header: the content of IHDR.
        kept: kind and content of the chunks that say what the pixels mean.
        row_bytes: bytes of a row, without the one that says how it is coded.
    """

    def __init__(
        self,
        file: Path | bytes,
        data: list[tuple[int, int]],
        header: bytes,
        kept: list[tuple[bytes, bytes]],
        row_bytes: int,
    ) -> None:
        self._file, self._data, self._header, self._kept = file, data, header, kept
        self._row_bytes = row_bytes
        self._height = int.from_bytes(header[4:8], "big")
        self._restart()

    def _restart(self) -> None:
        self._next = 0
        self._last_row = b""
        self._inflated = _inflate(self._file, self._data)
        self._rest = b""

    def band(self, index: int) -> Image.Image:
        """Return the pixels of band ``index``, RGB.

        Raises:
            OSError: the file is damaged or ends too early.
        """
        if index < self._next:
            self._restart()
        while True:
            decoded = self._decode(min(_PNG_BAND, self._height - self._next * _PNG_BAND))
            self._next += 1
            if self._next > index:
                return decoded()

    def _decode(self, rows: int) -> Callable[[], Image.Image]:
        """Decode the next rows; return how to get their pixels as RGB."""
        wanted = rows * (self._row_bytes + 1)
        parts = [self._rest]
        have = len(self._rest)
        while have < wanted:
            piece = next(self._inflated, b"")
            if not piece:
                raise OSError("PNG ends too early")
            parts.append(piece)
            have += len(piece)
        coded = b"".join(parts)
        coded, self._rest = coded[:wanted], coded[wanted:]
        above = b"\0" + self._last_row if self._last_row else b""
        tall = rows + bool(above)
        header = self._header[:4] + tall.to_bytes(4, "big") + self._header[8:]
        body = zlib.compress(above + coded, 0)
        small = [(b"IHDR", header), *self._kept, (b"IDAT", body), (b"IEND", b"")]
        image = pillow_open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, small))))
        image.load()
        self._last_row = image.tobytes()[-self._row_bytes :]
        return lambda: as_picture(image.crop((0, tall - rows, image.width, tall))).pixels


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _inflate(file: Path | bytes, data: list[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the decompressed content of a PNG's IDAT chunks piece by piece.

    Raises:
        OSError: the content is damaged.
    """
    inflate = zlib.decompressobj()
    with _opened(file) as stream:
        for place, length in data:
            stream.seek(place)
            check = zlib.crc32(b"IDAT")
            while length:
                coded = stream.read(min(length, _FEED))
                if not coded:
                    raise OSError("PNG ends too early")
                length -= len(coded)
                check = zlib.crc32(coded, check)
                try:
                    while coded:
                        if piece := inflate.decompress(coded, 16 * _FEED):
                            yield piece
                        coded = inflate.unconsumed_tail
                except zlib.error as error:
                    raise OSError(f"PNG is damaged ({error})") from error
            if stream.read(4) != check.to_bytes(4, "big"):
                raise OSError("PNG is damaged (its checksum is wrong)")


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
