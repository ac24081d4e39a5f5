"""The pictures of a review: thumbnails, and as large as a screen shows them, each read by its source.

A JPEG is decoded at the fraction of its size that the screen needs. Thumbnails are kept in a file of the
run, so that a server that is started again does not decode them again.

Only images of the list are read, by their position in it, and what leaves is always a picture: content
that does not decode as one (a link that leads elsewhere, a text file) is an error, never bytes.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
SCREENS = (1024, 1536, 2048)
"""Longest sides of a picture as it is shown first, pixels; zooming in asks for all of it."""
_ENOUGH = 0.85
"""A JPEG that is read at a fraction of its size has at least this share of what the screen shows; the
page asks for the whole picture when it shows 1.2 times as much as it has."""
_SPARE = 1.4
"""A picture that is decoded up to so many times larger is sent so: to make it smaller takes longer."""
THUMBNAILS = "thumbnails.sqlite"
"""The file beside the store that keeps thumbnails; it may be removed at any time."""
_FILE_BYTES = 256 << 20
_READERS = 2
"""Threads for pictures; thumbnails have one of their own, so that no picture waits behind many."""
_PLAIN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that every browser shows as the detector saw them."""
_PLAIN_MODES = frozenset({"L", "RGB"})
_PLAIN_BYTES = 3_000_000
_CACHE_BYTES = 128 << 20
_GONE = "gone"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture's file; ``width`` and ``height`` of the whole image, to which boxes refer, pixels."""

    data: bytes
    media_type: str
    width: int
    height: int


class ThumbnailFile:
    """Thumbnails on the disk, by what they were made of; the oldest go when there are too many.

    A file that cannot be written or is broken is no error: thumbnails are then made again.

    Args:
        path: an SQLite file, made when absent; a broken one is replaced.
        limit: bytes that it may take.
    """

    def __init__(self, path: Path, limit: int = _FILE_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        try:
            self._file = _open_thumbnails(path)
        except sqlite3.DatabaseError:
            with suppress(OSError, sqlite3.Error):
                for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                    name.unlink(missing_ok=True)
                self._file = _open_thumbnails(path)

    def get(self, key: bytes) -> Encoded | None:
        """Return what was kept under a key."""
        with self._lock, suppress(sqlite3.Error):
            if self._file is not None:
                words = "SELECT data, width, height FROM thumbnails WHERE key = ?"
                row = self._file.execute(words, (key,)).fetchone()
                return None if row is None else Encoded(row[0], "image/jpeg", row[1], row[2])
        return None

    def put(self, key: bytes, made: Encoded) -> None:
        """Keep a thumbnail; in one transaction, so that it is there whole or not at all."""
        row = (key, made.data, made.width, made.height)
        with self._lock, suppress(sqlite3.Error):
            if self._file is not None:
                with self._file:
                    self._file.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?, ?)", row)
                    self._make_room(self._file)

    def _make_room(self, file: sqlite3.Connection) -> None:
        size, pages, free = (
            file.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        if size * (pages - free) > self._limit:
            tenth = "SELECT 1 + COUNT(*) / 10 FROM thumbnails"
            oldest = f"SELECT rowid FROM thumbnails ORDER BY rowid LIMIT ({tenth})"
            file.execute(f"DELETE FROM thumbnails WHERE rowid IN ({oldest})")

    def close(self) -> None:
        """Close the file; nothing is kept any more."""
        with self._lock, suppress(sqlite3.Error):
            if self._file is not None:
                self._file.close()
            self._file = None


def _open_thumbnails(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = OFF")
        file.execute(
            "CREATE TABLE IF NOT EXISTS thumbnails (key BLOB UNIQUE, data BLOB, width INT, height INT)"
        )
    except sqlite3.Error:
        file.close()
        raise
    return file


class ReviewPictures:
    """Encoded pictures by image and size, the most recent ones kept in memory (128 MB).

    Args:
        thumbnails: where thumbnails are kept on the disk.
    """

    def __init__(self, thumbnails: Path) -> None:
        self._kept: OrderedDict[tuple[str, int | None, str], Encoded] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._file = ThumbnailFile(thumbnails)
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="pictures")
        self.thumbnail_readers = ThreadPoolExecutor(1, thread_name_prefix="thumbnails")

    def close(self) -> None:
        """End the threads and close the file of thumbnails."""
        for pool in (self.readers, self.thumbnail_readers):
            pool.shutdown(cancel_futures=True)
        self._file.close()

    def thumbnail(self, item: Item) -> Encoded:
        """Return an image with its longest side at :data:`THUMBNAIL`.

        Raises:
            DataError: it is not there, its storage does not answer, or it is no picture.
        """
        return self._get(item, THUMBNAIL)

    def screen(self, item: Item, side: int = SCREENS[-1]) -> Encoded:
        """Return an image for a screen on which its longest side takes so many pixels.

        The sizes are those of :data:`SCREENS`; errors as for a thumbnail.
        """
        return self._get(item, next((each for each in SCREENS if each >= side), SCREENS[-1]))

    def full(self, item: Item) -> Encoded:
        """Return an image at its own size; errors as for a thumbnail."""
        return self._get(item, None)

    def _get(self, item: Item, side: int | None) -> Encoded:
        version = stamp(item)
        key = (item.path, side, version)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = self._thumbnail(item, version) if side == THUMBNAIL else _encode(item, side)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made.data)
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old.data)
        return made

    def _thumbnail(self, item: Item, version: str) -> Encoded:
        """Return a thumbnail from the disk, or make it; of what is no file here, none is kept there."""
        key = hashlib.sha256(f"{item.path}\0{version}\0{THUMBNAIL}".encode()).digest()
        is_file = version not in ("", _GONE)
        found = self._file.get(key) if is_file else None
        if found is None:
            found = _jpeg(_decode(item, THUMBNAIL), THUMBNAIL, 80)
            if is_file:
                self._file.put(key, found)
        return found


def stamp(item: Item) -> str:
    """Return what changes when the file does; "" for what is no file on this machine."""
    if is_url(item.path):
        return ""
    try:
        stat = Path(file_of(item.path)).stat()
    except OSError:
        return _GONE
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


def _encode(item: Item, side: int | None) -> Encoded:
    """Return an image with about ``side`` as its longest side; ``None``: at its own size."""
    data = read_item(open_image(item.path))
    plain = _as_it_is(data, item.name, is_whole=side is None)
    if plain is not None:
        return plain
    if side is None:
        return _jpeg(decode_image(data, item.name), None, 90)
    least = round(_ENOUGH * side)
    picture = decode_image(data, item.name, lambda width, height: _fit(width, height, least))
    return _jpeg(picture, side, 88, spare=_SPARE)


def _as_it_is(data: bytes, name: str, *, is_whole: bool) -> Encoded | None:
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
    if not is_whole and (max(width, height) > SCREENS[-1] or len(data) > _PLAIN_BYTES):
        return None
    return Encoded(data, media, width, height)


def _jpeg(picture: Picture, side: int | None, quality: int, *, spare: float = 1.0) -> Encoded:
    """Return a picture as a JPEG; nothing is made larger than it was decoded.

    Args:
        spare: it is made smaller from so many times ``side`` on.
    """
    width, height = picture.width, picture.height
    image = picture.pixels
    if side is None and picture.factor > 1:
        image = picture.resize((width, height))
    elif side is not None and max(image.size) > side * spare:
        wide, high = _fit(width, height, side)
        size = max(1, round(wide)), max(1, round(high))
        image = picture.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return Encoded(buffer.getvalue(), "image/jpeg", width, height)
