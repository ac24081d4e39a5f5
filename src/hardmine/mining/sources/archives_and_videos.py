"""Images inside other files: members of tar and zip archives (also WebDataset shards), frames of videos.

A frame is an image whose name says file and time.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import IO, cast

from hardmine.data.formats.image_files import NOT_THEIRS, PACKED_PICTURES, PassedOver
from hardmine.data.images import SAMPLE, Picture, add_set_reader, has_picture_name
from hardmine.data.video import (
    AT,
    ONE_A_SECOND,
    Sampling,
    frame_name,
    iter_frames,
    read_frame,
    split_frame,
)
from hardmine.errors import DataError, MissingExtraError
from hardmine.finding_kinds import FindingKind
from hardmine.inference.image_loading import ImageItem
from hardmine.mining.sources.remote import (
    fetch_remote,
    is_url,
    list_remote,
    open_remote,
    read_remote,
)
from hardmine.plurals import counted
from hardmine.types import Problem

INSIDE = "!/"
"""Stands between an archive's name and a member's."""
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    # What the standard library raises for a damaged header, an unknown compression, a password.
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
    OverflowError,
)
_KEPT_OPEN = 8
_FROM_NETWORK = 16
"""Pictures of a folder on a network that are read to find out how bright deep grey is there."""


def is_archive(name: str) -> bool:
    """Say whether a name is that of a tar or zip archive."""
    return name.lower().endswith(PACKED_PICTURES)


def split_member(name: str) -> tuple[str, str] | None:
    """Return the archive and the member of ``archive!/member``; ``None`` for any other name."""
    end = name.find(INSIDE)
    while end >= 0 and not is_archive(name[:end]):  # a folder's name may end in "!" too
        end = name.find(INSIDE, end + 1)
    return None if end < 0 else (name[:end], name[end + len(INSIDE) :])


@dataclass(frozen=True)
class Archive:
    """One archive; ``random`` when members can be read in any order without reading the rest."""

    name: str
    random: bool
    _offsets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of an uncompressed tar archive, member to (first byte, length); filled as it is listed."""
    passed: PassedOver = field(default_factory=partial(PassedOver, why="not read from an archive"))
    """Films, raw pictures, archives and links among its members, filled as they are listed."""

    @staticmethod
    def of(name: str) -> Archive:
        """Return the archive of a name, the same object again as long as the file is the same."""
        return _archive(name, _version(name))

    @property
    def is_zip(self) -> bool:
        """Say whether it is a zip archive."""
        return self.name.lower().endswith(".zip")

    def members(self) -> Iterator[ImageItem]:
        """Yield the images, in the archive's order; of members of one name the one that counts.

        That is the last one, as for tar and unzip themselves, or where the archive can only be read from
        front to back the first one.

        Raises:
            tarfile.TarError, zipfile.BadZipFile, OSError: it ends early, or is none.
        """
        self.passed.found.clear()
        if self.is_zip:
            yield from self._zip_members()
        elif self.random:
            yield from self._tar_members()
        else:
            yield from self._stream_members()

    def read(self, member: str) -> bytes:
        """Return a member's bytes.

        Raises:
            DataError: no such member, or the archive is broken.
        """
        try:
            if self.is_zip:
                return _zip(self.name).read(member)
            if self.random:
                if member not in self._offsets:
                    self._find_members()
                return self._read_at(*self._offsets[member])
            wanted = f"{self.name}{INSIDE}{member}"
            return next(_bytes(item) for item in self._stream_members() if item.name == wanted)
        except (KeyError, StopIteration):
            raise DataError(f"{self.name}{INSIDE}{member}: no such member") from None
        except _BROKEN as error:
            raise DataError(f"{self.name}{INSIDE}{member}: broken archive ({error})") from None

    def _zip_members(self) -> Iterator[ImageItem]:
        for member in dict.fromkeys(_zip(self.name).namelist()):
            if not member.endswith("/") and self._is_image(member):
                yield self._item(member)

    def _tar_members(self) -> Iterator[ImageItem]:
        broken: Exception | None = None
        try:
            self._find_members()
        except _BROKEN as error:  # of one that ends early those before its end are images
            broken = error
        yield from (self._item(member) for member in self._offsets)
        if broken is not None:
            raise broken

    def _find_members(self) -> None:
        with tarfile.open(self.name, "r:") as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else every header is kept
                if self._holds_image(entry):
                    self._offsets[entry.name] = (entry.offset_data, entry.size)

    def _stream_members(self) -> Iterator[ImageItem]:
        seen: set[str] = set()
        with _open(self.name) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                if self._holds_image(entry) and entry.name not in seen:
                    seen.add(entry.name)
                    data = cast(IO[bytes], archive.extractfile(entry)).read()
                    if len(data) < entry.size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield ImageItem(
                        f"{self.name}{INSIDE}{entry.name}", partial(_same, data), held=True
                    )

    def _holds_image(self, entry: tarfile.TarInfo) -> bool:
        """Return whether a member of a tar archive is read; a link to one is remembered."""
        is_link = entry.islnk() or entry.issym()
        if not (entry.isreg() or is_link) or not self._is_image(entry.name):
            return False
        if is_link:
            self.passed.add_link(f"{self.name}{INSIDE}{entry.name}")
        return not is_link

    def _is_image(self, member: str) -> bool:
        """Return whether a member is read; one that is passed over is remembered."""
        *folders, base = member.split("/")
        if base.startswith(".") or not NOT_THEIRS.isdisjoint(folders):
            return False
        named = has_picture_name(base)
        if not named:
            self.passed.look_at_name(f"{self.name}{INSIDE}{member}")
        return named

    def _item(self, member: str) -> ImageItem:
        return ImageItem(f"{self.name}{INSIDE}{member}", partial(self.read, member))

    def _read_at(self, first: int, length: int) -> bytes:
        with open(self.name, "rb") as stream:  # noqa: PTH123
            data = os.pread(stream.fileno(), length, first)
        if len(data) < length:
            raise EOFError("it ends early")
        return data


def iter_members(name: str) -> Iterator[ImageItem | Problem]:
    """Yield the images of an archive, and at its end what is wrong with it, if anything is."""
    count = 0
    try:
        for item in Archive.of(name).members():
            count += 1
            yield item
        yield from Archive.of(name).passed.problems()
    except FileNotFoundError:
        yield Problem(FindingKind.ARCHIVE_MISSING, name, -1, "no such file")
    except _BROKEN as error:
        reason = f"broken or ends early, after {counted(count, 'image')} ({error})"
        yield Problem(FindingKind.ARCHIVE_BROKEN, name, -1, reason)


def has_random_access(archive: str) -> bool:
    """Say whether members of an archive can be read in any order without reading the rest."""
    return Archive.of(archive).random


def read_member(name: str) -> bytes:
    """Return the bytes of ``archive!/member``.

    Raises:
        DataError: it cannot be read.
    """
    found = split_member(name)
    if found is None:
        raise DataError(f"{name}: not an image inside an archive")
    archive, member = found
    return Archive.of(archive).read(member)


def _version(name: str) -> tuple[int, int] | None:
    """Return what changes when an archive on this machine is written anew."""
    try:
        stat = os.stat(name)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


@lru_cache(_KEPT_OPEN)
def _archive(name: str, version: tuple[int, int] | None) -> Archive:
    plain = name.lower().endswith((".tar", ".zip"))
    return Archive(name, plain and (not is_url(name) or name.lower().endswith(".zip")))


def _zip(name: str) -> zipfile.ZipFile:
    return _open_zip(name, _version(name))


@lru_cache(_KEPT_OPEN)
def _open_zip(name: str, version: tuple[int, int] | None) -> zipfile.ZipFile:
    if not is_url(name):
        return zipfile.ZipFile(name)
    try:
        return zipfile.ZipFile(open_remote(name))
    except (ValueError, OSError):  # a server that sends whole files only; a zip begins at its end
        copy = fetch_remote(name)
        archive = zipfile.ZipFile(copy)
        weakref.finalize(archive, copy.close)
        return archive


@contextmanager
def _open(name: str) -> Iterator[IO[bytes]]:
    with open_remote(name) if is_url(name) else open(name, "rb") as stream:  # noqa: PTH123
        yield stream


def _set_of(name: str) -> str | None:
    """Return the archive of a member, or the folder of a URL: pictures of one set, for `images`."""
    found = split_member(name)
    if found is not None:
        return found[0]
    return name.rpartition("/")[0] if is_url(name) else None


def _first_pictures(place: str, suffix: str) -> Iterator[bytes]:
    """Yield the first pictures of a set that have a suffix, as far as they can be read."""
    try:
        if is_archive(place):
            alike = (m for m in Archive.of(place).members() if m.name.lower().endswith(suffix))
            yield from (_bytes(item) for item in islice(alike, SAMPLE))
        else:
            urls = (url for url in list_remote(place) if url.lower().endswith(suffix))
            yield from (read_remote(url) for url in islice(urls, _FROM_NETWORK))
    except (*_BROKEN, DataError, MissingExtraError):
        return


add_set_reader(_set_of, _first_pictures)


def _same(data: bytes) -> bytes:
    return data


def _bytes(item: ImageItem) -> bytes:
    assert item.read is not None
    return item.read()


_MARK = "#every="


def split_sampling(pool: str, every: str | Sampling = ONE_A_SECOND) -> tuple[str, Sampling]:
    """Return the pool and which frames of its videos are taken: ``cam3.mp4#every=2s``, else ``every``.

    Raises:
        ConfigError: what stands after ``#every=`` is not understood.
    """
    place, mark, own = pool.rpartition(_MARK)
    said = own if mark else every
    return (place if mark else pool), Sampling.parse(said) if isinstance(said, str) else said


def iter_video(path: str, sampling: Sampling) -> Iterator[ImageItem | Problem]:
    """Yield the frames of a video, and last what is wrong with it."""
    try:
        for frame in iter_frames(path, sampling):
            picture = frame.picture
            yield ImageItem(frame_name(path, frame.time), partial(_as_png, picture), True, picture)
    except (DataError, MissingExtraError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        yield Problem(FindingKind.IMAGE_UNREADABLE, path, -1, reason)


def open_frame(name: str) -> ImageItem:
    """Return a frame by its name."""
    return ImageItem(name, partial(read_frame_file, name))


def read_frame_file(name: str) -> bytes:
    """Return a frame as a PNG file, which loses nothing.

    Raises:
        DataError: the video is gone or broken, or has no such frame.
    """
    found = split_frame(name)
    if found is None:
        raise DataError(f"{name}: not the name of a frame")
    return _as_png(read_frame(*found))


def _as_png(picture: Picture) -> bytes:
    file = io.BytesIO()
    picture.pixels.save(file, format="PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class VideoSource:
    """The frames of one video."""

    name: str
    sampling: Sampling

    @property
    def prefix(self) -> str:
        """The video's folder with a separator: people call a frame by file and time."""
        return str(Path(self.name).parent).rstrip("/") + "/"

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the frames in the order of time."""
        return iter_video(self.name, self.sampling)

    def count(self) -> int | None:
        """Unknown: which frames look alike is seen on the way."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image is a frame of the video (or the video itself, as what is broken)."""
        mine = image == self.name or image.startswith(self.name + AT)
        return mine and Path(self.name).exists()
