"""The pictures of a review: thumbnails, and as large as a screen shows them, each read by its source.

Only images of the list are read, by their position in it, and what leaves is always a picture: content
that does not decode as one (a link that leads elsewhere, a text file) is an error, never bytes.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hardmine.data.images import Picture, decode_image, open_picture
from hardmine.data.splits.near_duplicates import MAX_DISTANCE, perceptual_hash
from hardmine.errors import DataError
from hardmine.inference.image_loading import read_item
from hardmine.mining.sources.pool_source import file_of, open_image
from hardmine.mining.sources.remote import is_url
from hardmine.review.candidate_list import Item

THUMBNAIL = 200
"""Longest side of a thumbnail, pixels."""
SCREEN = 2048
"""Longest side of a picture as it is shown first, pixels; zooming in asks for all of it."""
_ENOUGH = 1400
"""A JPEG that is read at a fraction of its size is not made smaller than this for the screen, pixels."""
_PLAIN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that every browser shows as the detector saw them."""
_PLAIN_MODES = frozenset({"L", "RGB"})
_PLAIN_BYTES = 3_000_000
_CACHE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture's file; ``width`` and ``height`` of the whole image, to which boxes refer, pixels."""

    data: bytes
    media_type: str
    width: int
    height: int


class ReviewPictures:
    """Encoded pictures by image and size, the most recent ones kept in memory (128 MB)."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Encoded] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def thumbnail(self, item: Item) -> Encoded:
        """Return an image with its longest side at :data:`THUMBNAIL`.

        Raises:
            DataError: it is not there, its storage does not answer, or it is no picture.
        """
        return self._get(item, "thumbnail")

    def screen(self, item: Item) -> Encoded:
        """Return an image with its longest side at most :data:`SCREEN`; errors as for a thumbnail."""
        return self._get(item, "screen")

    def full(self, item: Item) -> Encoded:
        """Return an image at its own size; errors as for a thumbnail."""
        return self._get(item, "full")

    def _get(self, item: Item, size: str) -> Encoded:
        key = (item.path, size, stamp(item))
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = _encode(item, size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made.data)
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old.data)
        return made


def stamp(item: Item) -> str:
    """Return what changes when the file does; "" for what is no file on this machine."""
    if is_url(item.path):
        return ""
    try:
        stat = Path(file_of(item.path)).stat()
    except OSError:
        return "gone"
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def what_is_wrong(item: Item, phash: int) -> str:
    """Return what a person must know of an image's file; "" when nothing is wrong with it.

    Args:
        phash: the perceptual hash that mining stored; 0 for none.
    """
    if is_url(item.path):
        return ""
    archive = file_of(item.path)
    try:
        changed_at = Path(archive).stat().st_mtime
    except OSError:
        return "This file is not there any more. Decisions on it are kept."
    if not item.mined_at or changed_at <= item.mined_at or not phash:
        return ""
    try:
        now = perceptual_hash(_decode(item, None).pixels)
    except DataError:
        return ""  # showing it says what is wrong
    if bin((now ^ phash) & (2**64 - 1)).count("1") <= MAX_DISTANCE:
        return ""
    return "This file has changed since it was mined: the boxes may belong to another picture."


def _decode(item: Item, side: int | None) -> Picture:
    cover = None if side is None else lambda width, height: _fit(width, height, side)
    return decode_image(read_item(open_image(item.path)), item.name, cover)


def _fit(width: int, height: int, side: int) -> tuple[float, float]:
    scale = min(1.0, side / max(width, height))
    return width * scale, height * scale


def _encode(item: Item, size: str) -> Encoded:
    if size == "thumbnail":
        return _jpeg(_decode(item, THUMBNAIL), THUMBNAIL, 80)
    data = read_item(open_image(item.path))
    plain = _as_it_is(data, item.name, size)
    if plain is not None:
        return plain
    if size == "full":
        return _jpeg(decode_image(data, item.name), None, 90)
    picture = decode_image(data, item.name, lambda width, height: _fit(width, height, _ENOUGH))
    return _jpeg(picture, SCREEN, 88)


def _as_it_is(data: bytes, name: str, size: str) -> Encoded | None:
    """Return the file itself where a browser shows it as the detector saw it and it is small enough."""
    try:
        with open_picture(io.BytesIO(data), name) as image:
            media, mode, (width, height) = _PLAIN.get(image.format or ""), image.mode, image.size
            turned = image.getexif().get(0x0112, 1) not in (0, 1)
            several = getattr(image, "n_frames", 1) > 1
    except Exception:  # noqa: BLE001  decoders raise anything; decoding says what is wrong
        return None
    if media is None or mode not in _PLAIN_MODES or turned or several:
        return None
    if size == "screen" and (max(width, height) > SCREEN or len(data) > _PLAIN_BYTES):
        return None
    return Encoded(data, media, width, height)


def _jpeg(picture: Picture, side: int | None, quality: int) -> Encoded:
    width, height = picture.width, picture.height
    if side is not None and max(width, height) > side:
        wide, high = _fit(width, height, side)
        image = picture.resize(
            (max(1, round(wide)), max(1, round(high))), Image.Resampling.BILINEAR
        )
    else:
        image = picture.resize((width, height)) if picture.factor > 1 else picture.pixels
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return Encoded(buffer.getvalue(), "image/jpeg", width, height)
