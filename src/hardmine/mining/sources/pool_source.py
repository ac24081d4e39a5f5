"""Where a pool's images come from: folders, lists, archives, URLs, datasets, parts of labelled images.

Images are listed lazily, so memory does not grow with the pool, and carry names that stay the same
from run to run: an absolute path, a URL, or ``shard.tar!/member.jpg`` inside an archive. A name is
enough to read the image again (:func:`open_image`), wherever it lies.

For those who have no images without any object, parts of labelled images that hold none are a pool
(`LabelledCrops`). They are the rectangles of ``evaluation/object_free_crops.py``. A name says where
one comes from, ``images/00.png#xywh=64,0,320,240``, and gives the same pixels again wherever it is
read; a file is made of it when it is handed out.
"""

from __future__ import annotations

import glob
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Protocol
from urllib.parse import quote, unquote

from hardmine.data.formats.image_files import PassedOver, refuse_run, walk_files, walk_pictures
from hardmine.data.images import crop_name, has_picture_name, read_crop, split_crop
from hardmine.data.video import ONE_A_SECOND, Sampling, is_video, split_frame
from hardmine.errors import DataError
from hardmine.evaluation.object_free_crops import object_free_crops
from hardmine.files import TextError, iter_lines
from hardmine.finding_kinds import FindingKind
from hardmine.inference.image_loading import ImageItem
from hardmine.mining.sources.archives_and_videos import (
    INSIDE,
    VideoSource,
    has_random_access,
    is_archive,
    iter_members,
    iter_video,
    open_frame,
    read_member,
    split_member,
    split_sampling,
)
from hardmine.mining.sources.remote import is_url, list_remote, read_remote, url_as_listed
from hardmine.plurals import counted
from hardmine.types import Dataset, Problem

_log = logging.getLogger("hardmine")
WANTED = "a folder, a glob, a .txt list, a video, a tar or zip archive, or a URL"
_GLOB = frozenset("*?[")


class Source(Protocol):
    """A pool that can be listed any number of times."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def prefix(self) -> str:
        """What the names of all its images begin with, such as a folder."""
        ...

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images, and what kept some from being listed."""
        ...

    def count(self) -> int | None:
        """Return how many images there are, or ``None`` where only reading all of it would show that."""
        ...

    def holds(self, image: str) -> bool:
        """Say whether an image of this name belongs to the pool and is still there."""
        ...


def name_inside(source: Source, image: str) -> str:
    """Return an image's name as people see it: its path below the pool's folder, archive or URL."""
    inside = image.removeprefix(source.prefix)
    if is_url(image):
        return inside if split_member(image) else unquote(inside)
    return inside.replace(os.sep, "/")


def find_image(source: Source, text: str) -> str:
    """Return the name of the image that a person means: by its path, its URL or its name inside.

    Raises:
        DataError: there is no such image in the pool.
    """
    served = is_url(source.prefix) and not source.prefix.endswith(INSIDE)
    inside = quote(text) if served else text
    for name in (text, os.path.abspath(text), source.prefix + inside):  # noqa: PTH100
        if source.holds(name):
            return name
    raise DataError(f"{text}: not in the pool {source.name}")


def open_source(pool: Dataset | Path | str, every: str | None = None) -> Source:
    """Return the source that a pool's description stands for.

    Args:
        pool: a folder, a glob with ``*``, a ``.txt`` list of any of these (a line each), a video or a
            folder of videos (with ``#every=2s`` at its end: which frames are taken), a tar or zip
            archive, a URL that fsspec or Arrow reads, or a dataset.
        every: which frames of videos are taken (``1s``, ``25``, ``key``), where the pool does not say.

    Raises:
        ConfigError: ``every`` is none of these.
        DataError: no such file or folder, the folder of a run, or a URL that cannot be reached.
    """
    if isinstance(pool, Dataset):
        return DatasetSource(pool)
    if not isinstance(pool, str | os.PathLike):
        got = f"got {type(pool).__name__} {pool!r:.60}"
        raise DataError(f"pool: {got}, wanted {WANTED}; a .txt list names images, a line each")
    text = str(pool)
    if is_url(text):
        return RemoteSource(url_as_listed(text if text.endswith("://") else text.rstrip("/")))
    text, sampling = split_sampling(text, ONE_A_SECOND if every is None else every)
    path = Path(os.path.abspath(text))  # noqa: PTH100  (links stay as the user wrote them)
    if path.is_dir():
        refuse_run(path)
        return FolderSource(str(path), sampling)
    if path.is_file() and is_video(path):
        return VideoSource(str(path), sampling)
    if path.is_file() and path.suffix.lower() == ".txt":
        return ListSource(path, sampling)
    if path.is_file() and is_archive(path.name):
        return ArchiveSource(str(path))
    if _GLOB & set(text) and not path.exists():
        return GlobSource(str(path), sampling)
    raise DataError(f"{text}: {'not a pool' if path.exists() else 'no such pool'}, wanted {WANTED}")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """All images below a folder, sorted within each, linked folders last; hidden ones left out.

    Frames of videos come after the images. Archives are named as passed over: they may hold what the
    folder holds as files.
    """

    name: str
    sampling: Sampling = ONE_A_SECOND

    @property
    def prefix(self) -> str:
        """The folder with a separator."""
        return _folder_prefix(self.name)

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield an item per file with an image's suffix, then what looks like one and is passed over."""
        passed = PassedOver()
        yield from (ImageItem(path) for path in walk_pictures(self.name, passed))
        yield from (problem for problem in passed.problems() if not is_video(problem.file))
        for path in walk_files(self.name):
            if is_video(path):
                yield from iter_video(path, self.sampling)
        yield from passed.packed()

    def count(self) -> int | None:
        """Count the files; some microseconds each. Unknown where a video is among them."""
        count = 0
        for path in walk_files(self.name):
            if is_video(path):
                return None
            count += has_picture_name(path)
        return count

    def holds(self, image: str) -> bool:
        """Say whether the image is below the folder."""
        return image.startswith(self.prefix) and Path(file_of(image)).exists()


@dataclass(frozen=True, slots=True)
class GlobSource:
    """All images that a pattern meets, members of archives and frames of videos among them."""

    name: str
    sampling: Sampling = ONE_A_SECOND

    @property
    def prefix(self) -> str:
        """The deepest folder that the pattern names, with a separator."""
        parts = Path(self.name).parts
        fixed = next(i for i, part in enumerate(parts) if _GLOB & set(part))
        return _folder_prefix(str(Path(*parts[:fixed])))

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images in the order of the file system, then the folders that are passed over."""
        folders: list[str] = []
        yield from _expand(self._files(folders), self.sampling)
        if folders:
            reason = (
                f"{counted(len(folders), 'folder')} with pictures or videos passed over: a glob reads "
                "files alone; end it with /** to read what is in folders too, or name the folder"
            )
            yield Problem(FindingKind.FILES_PASSED_OVER, folders[0], -1, reason)

    def _files(self, folders: list[str]) -> Iterator[str]:
        """Yield what the pattern meets; ``folders`` gets those whose images it does not meet."""
        for path in glob.iglob(self.name, recursive=True):  # noqa: PTH207  (lazy, absolute)
            if os.path.isdir(path) and "**" not in Path(self.name).parts:  # noqa: PTH112
                if any(has_picture_name(file) or is_video(file) for file in walk_files(path)):
                    folders.append(path)
            else:
                yield path

    def count(self) -> int | None:
        """Unknown: an archive may be among the files."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the pattern meets the image, or the archive, video or picture that it is in."""
        path = Path(file_of(image))
        return path.exists() and str(path) in set(glob.iglob(self._narrowed(path), recursive=True))  # noqa: PTH207

    def _narrowed(self, path: Path) -> str:
        """Return the pattern with the path's own folders for ``**``, and its own name where that fits.

        Otherwise the whole tree would be listed for every image. ``**`` meets no hidden folder.
        """
        parts, own = Path(self.name).parts, path.parts
        if parts.count("**") == 1 and len(own) >= len(parts) - 1:
            at = parts.index("**")
            inner = own[at : len(own) - (len(parts) - at - 1)]
            if not any(part.startswith(".") for part in inner):
                parts = (*parts[:at], *map(glob.escape, inner), *parts[at + 1 :])
        if parts[-1] != "**" and path.match(parts[-1]):
            parts = (*parts[:-1], glob.escape(path.name))
        return os.path.join(*parts)  # noqa: PTH118


@dataclass(frozen=True)
class ListSource:
    """The images that a text file names, a line each; relative names are beside the file.

    They are in the working folder where the first of them are there and not beside the file. A line may
    also name a folder, a glob, an archive, or an image in an archive or behind a URL; ``#`` begins a
    comment, unless a file is called so. An image that several lines name is one image.
    """

    path: Path
    sampling: Sampling = ONE_A_SECOND

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def prefix(self) -> str:
        """The file's folder with a separator."""
        return _folder_prefix(str(self.path.parent))

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images in the order of the file."""
        seen: set[str] = set()
        for line in self._lines():
            part = self._part_of(line)
            for item in _expand([line]) if part is None else _any_of(part):
                name = str(item) if isinstance(item, Problem) else item.name
                if name not in seen:
                    seen.add(name)
                    yield item

    def count(self) -> int | None:
        """Count the images; ``None`` when a line names an archive, a glob or a folder behind a URL."""
        total = 0
        for line in dict.fromkeys(self._lines()):
            part = self._part_of(line)
            more = 1 if part is None else part.count()
            if more is None:
                return None
            total += more
        return total

    def holds(self, image: str) -> bool:
        """Say whether a line names the image, or the folder, glob or archive that it is in."""
        return image in self._images or any(part.holds(image) for part in self._parts)

    @cached_property
    def _images(self) -> frozenset[str]:
        return frozenset(line for line in self._lines() if self._part_of(line) is None)

    @cached_property
    def _parts(self) -> tuple[Source, ...]:
        parts = (self._part_of(line) for line in self._lines())
        return tuple(part for part in parts if part is not None)

    @cached_property
    def _base(self) -> Path:
        """Return the folder that relative names begin at: the file's, or the working folder."""
        names = (_without_quotes(text) for text in self._texts())
        relative = [name for name in islice(names, _LOOKED_AT) if not _is_whole(name)]
        beside, working = (
            any(os.path.lexists(folder / _slashes(name)) for name in relative)
            for folder in (self.path.parent, Path.cwd())
        )
        if beside or not working:
            return self.path.parent
        _log.warning("%s: names are relative to the working folder %s", self.path, Path.cwd())
        return Path.cwd()

    def _part_of(self, line: str) -> Source | None:
        return _part_of(line, self.sampling)

    def _lines(self) -> Iterator[str]:
        return (self._full(text) for text in self._texts())

    def _texts(self) -> Iterator[str]:
        try:
            for line in iter_lines(self.path):
                text = line.strip()
                if text and not (text.startswith("#") and self._is_comment(text)):
                    yield text
        except TextError as error:
            raise DataError(f"{self.path}: not a list of files: {error}") from None

    def _is_comment(self, text: str) -> bool:
        """Return whether no file is called as a line that begins with ``#``."""
        return not any(os.path.lexists(folder / text) for folder in (self.path.parent, Path.cwd()))

    def _full(self, line: str) -> str:
        """Return the name that a line stands for.

        Quotes around it, ``\\`` for ``/``, ``%20`` for a space and an accent in its other spelling are
        read so where that alone fits.
        """
        if is_url(line):
            return line
        full = os.path.abspath(self._base / line)  # noqa: PTH100
        if (line.isascii() and not _ODD & set(line)) or os.path.lexists(full):
            return full
        bare = _without_quotes(line)
        plain = _slashes(bare)
        forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
        for spelling in (bare, plain, *forms, unquote(plain)):
            other = os.path.abspath(self._base / spelling)  # noqa: PTH100
            place = (split_member(other) or (other, ""))[0]
            if os.path.lexists(place) or _is_glob(other):
                return other
        return os.path.abspath(self._base / bare)  # noqa: PTH100


_ODD = frozenset("\\%\"'")
"""Signs in a line of a list that may stand for others."""
_LOOKED_AT = 50
"""Lines of a list that show where its relative names begin."""


def _without_quotes(line: str) -> str:
    quoted = len(line) > 2 and line[0] == line[-1] and line[0] in "\"'"
    return line[1:-1] if quoted else line


def _slashes(line: str) -> str:
    return line.replace("\\", "/")


def _is_whole(name: str) -> bool:
    """Return whether a name says where it begins (``/data``, ``C:\\data``, a URL)."""
    return is_url(name) or Path(name).is_absolute() or PureWindowsPath(name).is_absolute()


def _any_of(part: Source) -> Iterator[ImageItem | Problem]:
    """Yield what a line of a list stands for, and a problem where that is nothing."""
    nothing = True
    for item in part.items():
        nothing = False
        yield item
    if nothing:
        yield Problem(FindingKind.IMAGE_MISSING, part.name, -1, "gives no image")


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """The images in one tar or zip archive."""

    name: str

    @property
    def prefix(self) -> str:
        """The archive with what stands before its members."""
        return f"{self.name}{INSIDE}"

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the members with an image's suffix."""
        return iter_members(self.name)

    def count(self) -> int | None:
        """Unknown."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image is a member (or the archive itself, as what is broken)."""
        return image == self.name or image.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """What a URL names: a folder, a glob, an archive or one image, on fsspec's or Arrow's systems."""

    name: str

    @property
    def prefix(self) -> str:
        """The URL of the archive, or of the deepest folder that the URL names."""
        if is_archive(self.name):
            return f"{self.name}{INSIDE}"
        if has_picture_name(self.name) or _GLOB & set(self.name):
            return self._fixed.rpartition("/")[0] + "/"
        return self._fixed.rstrip("/") + "/"

    @property
    def _fixed(self) -> str:
        """The URL up to its first wildcard."""
        end = next((i for i, c in enumerate(self.name) if c in _GLOB), len(self.name))
        return self.name[:end]

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images."""
        return _expand(list_remote(self.name), strict=False)

    def count(self) -> int | None:
        """Unknown."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image begins with the URL up to its first wildcard."""
        if image == self.name or image.startswith(self.prefix):
            return image.startswith(self._fixed.rstrip("/"))
        return False


class DatasetSource:
    """The images of a dataset that is in memory already."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._names = frozenset(str(record.path) for record in dataset.records)
        self.name = str(dataset.root)
        self.prefix = _folder_prefix(self.name)

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the problems that reading the dataset met, then its images."""
        yield from self._dataset.problems
        yield from (ImageItem(str(record.path)) for record in self._dataset.records)

    def count(self) -> int | None:
        """Count the records."""
        return len(self._dataset.records)

    def holds(self, image: str) -> bool:
        """Say whether the dataset has the image."""
        return image in self._names


def open_image(name: str) -> ImageItem:
    """Return an image by the name that a source gave it.

    Reading it raises ``DataError`` when it is not there any more.
    """
    if split_member(name):
        return ImageItem(name, partial(read_member, name))
    if split_frame(name):
        return open_frame(name)
    if split_crop(name):
        return ImageItem(name, partial(read_crop, name))
    return ImageItem(name, partial(read_remote, name)) if is_url(name) else ImageItem(name)


def open_images(names: Iterable[str]) -> Iterator[ImageItem]:
    """Yield images by their names, in any order.

    An archive that can only be read from front to back (a compressed or remote tar) is read once for
    all of its images.
    """
    waiting: dict[str, set[str]] = {}
    for name in names:
        found = split_member(name)
        if found and not has_random_access(found[0]):
            waiting.setdefault(found[0], set()).add(name)
        else:
            yield open_image(name)
    for archive, wanted in waiting.items():
        for item in iter_members(archive):
            if isinstance(item, ImageItem) and item.name in wanted:
                wanted.remove(item.name)
                yield item
            if not wanted:
                break
        yield from (open_image(name) for name in sorted(wanted))  # reading them says what is wrong


def file_of(name: str) -> str:
    """Return the file that holds an image: an archive, a video, a larger image, or the image's own."""
    return (split_member(name) or split_frame(name) or split_crop(name) or (name, ""))[0]


def _folder_prefix(folder: str) -> str:
    return os.path.join(folder, "")  # noqa: PTH118  (Path drops the separator)


def _part_of(line: str, sampling: Sampling) -> Source | None:
    """Return the source that a line of a list names; ``None`` for one image (or what is none).

    Args:
        sampling: which frames of videos are taken, where the line does not say.
    """
    if split_frame(line) or split_crop(line) or split_member(line):
        return None
    place, sampling = split_sampling(line, sampling)
    if _is_glob(place):
        return GlobSource(place, sampling)
    if is_video(place):
        return VideoSource(place, sampling)
    if has_picture_name(line):
        return None
    if is_url(line):
        return open_source(line)
    if os.path.isdir(place):  # noqa: PTH112 (a name may be too long)
        return FolderSource(place, sampling)
    return ArchiveSource(line) if is_archive(line) else None


def _is_glob(line: str) -> bool:
    return bool(_GLOB & set(line)) and not is_url(line) and not os.path.exists(line)  # noqa: PTH110


def _expand(
    names: Iterable[str], sampling: Sampling = ONE_A_SECOND, *, strict: bool = True
) -> Iterator[ImageItem | Problem]:
    """Yield the images of names and of archives among them; ``strict``: other names are problems."""
    for name in names:
        if is_archive(name):
            yield from iter_members(name)
        elif is_video(name) and not is_url(name):
            yield from iter_video(name, sampling)
        elif has_picture_name(name) or split_frame(name) or split_crop(name):
            yield open_image(name)
        elif strict and not os.path.isdir(name):  # noqa: PTH112
            reason = "no suffix of an image or an archive"
            yield Problem(FindingKind.IMAGE_NOT_IMAGE, name, -1, reason)


_PER_IMAGE = 4
"""At most so many parts per image, none of them smaller than this share of its shorter side:"""
_MIN_SIDE = 0.3


class LabelledCrops:
    """The object-free parts of the labelled images of a dataset; the same for the same seed."""

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        """Choose the rectangles; no picture is read.

        Raises:
            DataError: the objects leave no room for any.
        """
        windows = object_free_crops(dataset, seed, per_image=_PER_IMAGE, min_side=_MIN_SIDE)
        paths = [dataset.records[window.position].path.absolute() for window in windows]
        self._names = [
            crop_name(path, (window.left, window.top, window.right, window.bottom))
            for path, window in zip(paths, windows, strict=True)
        ]
        self.name = str(dataset.root)
        if not self._names:
            raise DataError(f"{self.name}: no labelled image has a part without an object")
        self.prefix = os.path.join(os.path.commonpath([path.parent for path in paths]), "")  # noqa: PTH118
        self._known = frozenset(self._names)

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the parts in the order of the images."""
        yield from (ImageItem(name, partial(read_crop, name)) for name in self._names)

    def count(self) -> int:
        """Count the parts."""
        return len(self._names)

    def holds(self, image: str) -> bool:
        """Say whether a name is that of a part."""
        return image in self._known


def open_labelled(
    data: Dataset | Path | str, seed: int = 0, images: Path | None = None
) -> LabelledCrops:
    """Return the object-free parts of the training images of a dataset, or of what names one.

    Args:
        images: the folder of the images, where it is not beside the labels.

    Raises:
        DataError: unreadable data, or the objects leave no room for any.
    """
    from hardmine.data.quality.usable_data import load_usable, usable

    if isinstance(data, Dataset):
        return LabelledCrops(usable(data), seed)
    parts = load_usable(Path(data).resolve(), images=images)
    return LabelledCrops(parts.get("train") or parts.get("all") or next(iter(parts.values())), seed)
