"""Where a pool's images come from: folders, globs, file lists, archives, anything fsspec or Arrow reads.

Images are listed lazily, so memory does not grow with the pool, and carry names that stay the same
from run to run: an absolute path, a URL, or ``shard.tar!/member.jpg`` inside an archive.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from hardmine.data.file_walk import PassedOver, walk_pictures
from hardmine.data.images import has_picture_name
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.inference.image_loading import ImageItem
from hardmine.mining.sources.archives import INSIDE, is_archive, iter_members, read_member
from hardmine.mining.sources.remote import is_url, list_remote, read_remote
from hardmine.types import Dataset, ImageState, Problem

_GLOB = frozenset("*?[")


class Source(Protocol):
    """A pool that can be listed any number of times.

    ``name`` is what people call it, ``root`` what names are shown relative to.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def root(self) -> Path: ...  # noqa: D102

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images, and what kept some from being listed."""
        ...

    def count(self) -> int | None:
        """Return how many images there are, or ``None`` where only reading all of it would tell."""
        ...

    def holds(self, image: str) -> bool:
        """Say whether an image of this name belongs to the pool and is still there."""
        ...


def open_source(pool: Dataset | Path | str) -> Source:
    """Return the source that a pool's description stands for.

    Args:
        pool: a folder, a glob with ``*``, a ``.txt`` list of any of these (a line each), a tar or zip
            archive, a URL that fsspec or Arrow reads, or a dataset.

    Raises:
        DataError: no such file or folder, or a URL that cannot be reached.
    """
    if isinstance(pool, Dataset):
        return DatasetSource(pool)
    text = str(pool)
    if is_url(text):
        return RemoteSource(text)
    path = Path(os.path.abspath(text))  # noqa: PTH100  (links stay as the user wrote them)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file() and path.suffix.lower() == ".txt":
        return ListSource(path)
    if path.is_file() and is_archive(path.name):
        return ArchiveSource(str(path))
    if _GLOB & set(text):
        return GlobSource(str(path))
    wanted = "a folder, a glob, a .txt list, a tar or zip archive, or a URL"
    raise DataError(f"{text}: {'not a pool' if path.exists() else 'no such pool'}, wanted {wanted}")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """All images below a folder, sorted within each, linked folders last; hidden ones left out."""

    root: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.root)

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield an item per file with an image's suffix, then what looks like one and is passed over."""
        passed = PassedOver()
        yield from (ImageItem(path) for path in walk_pictures(self.root, passed))
        yield from passed.problems()

    def count(self) -> int | None:
        """Count the files; some microseconds each."""
        return sum(1 for _ in walk_pictures(self.root, PassedOver()))

    def holds(self, image: str) -> bool:
        """Say whether the image is below the folder."""
        return image.startswith(f"{self.root}{os.sep}") and Path(image).exists()


@dataclass(frozen=True, slots=True)
class GlobSource:
    """All images that a pattern meets, and the members of archives that it meets."""

    pattern: str

    @property
    def name(self) -> str:
        """The pattern."""
        return self.pattern

    @property
    def root(self) -> Path:
        """The deepest folder that the pattern names."""
        parts = Path(self.pattern).parts
        fixed = next(i for i, part in enumerate(parts) if _GLOB & set(part))
        return Path(*parts[:fixed])

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images in the order of the file system."""
        found = glob.iglob(self.pattern, recursive=True)  # noqa: PTH207  (lazy, absolute)
        return _expand(found)

    def count(self) -> int | None:
        """Unknown: an archive may be among the files."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the pattern meets the image or the archive that it is in."""
        path = Path(image.split(INSIDE, maxsplit=1)[0])
        return path.exists() and str(path) in set(glob.iglob(self._narrowed(path), recursive=True))  # noqa: PTH207

    def _narrowed(self, path: Path) -> str:
        """Return the pattern with its last part replaced by the file's name where that matches."""
        folder, last = os.path.split(self.pattern)
        return os.path.join(folder, path.name) if path.match(last) else self.pattern  # noqa: PTH118


@dataclass(frozen=True)
class ListSource:
    """The images that a text file names, a line each; relative ones are beside the file.

    A line may name an archive, or an image in one or behind a URL; ``#`` begins a comment.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images in the order of the file."""
        return _expand(self._lines())

    def count(self) -> int | None:
        """Count the lines; ``None`` when one of them is an archive."""
        total = 0
        for line in self._lines():
            if is_archive(line):
                return None
            total += 1
        return total

    def holds(self, image: str) -> bool:
        """Say whether the list names the image or the archive that it is in."""
        return image in self._names or image.split(INSIDE, maxsplit=1)[0] in self._names

    @property
    def _names(self) -> frozenset[str]:
        known: frozenset[str] | None = self.__dict__.get("_known")
        if known is None:
            known = frozenset(self._lines())
            self.__dict__["_known"] = known
        return known

    def _lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.strip()
                if "\0" in text:
                    raise DataError(f"{self.path}:{number}: not a list of files")
                if text and not text.startswith("#"):
                    yield text if is_url(text) else self._found(text)

    def _found(self, text: str) -> str:
        """Return the file that a line names; ``\\`` is read as ``/`` where that alone finds it."""
        path = os.path.abspath(self.root / text)  # noqa: PTH100
        if "\\" in text and not os.path.lexists(path):
            other = os.path.abspath(self.root / text.replace("\\", "/"))  # noqa: PTH100
            return other if os.path.lexists(other.split(INSIDE, maxsplit=1)[0]) else path
        return path


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """The images in one tar or zip archive."""

    name: str

    @property
    def root(self) -> Path:
        """The archive's folder."""
        return Path(self.name).parent

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the members with an image's suffix."""
        return iter_members(self.name)

    def count(self) -> int | None:
        """Unknown."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image is a member (or the archive itself, as what is broken)."""
        return image == self.name or image.startswith(f"{self.name}{INSIDE}")


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """What a URL names: a folder, a glob, an archive or one image, on fsspec's or Arrow's systems."""

    name: str

    @property
    def root(self) -> Path:
        """Nothing on this machine."""
        return Path("/")

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the images."""
        return _expand(list_remote(self.name), strict=False)

    def count(self) -> int | None:
        """Unknown."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image begins with the URL up to its first wildcard."""
        fixed = next((i for i, c in enumerate(self.name) if c in _GLOB), len(self.name))
        return image.startswith(self.name[:fixed].rstrip("/"))


class DatasetSource:
    """The images of a dataset that is in memory already."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._names = frozenset(str(record.path) for record in dataset.records)
        self.name = str(dataset.root)
        self.root = dataset.root

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
    if INSIDE in name:
        return ImageItem(name, partial(read_member, name))
    return ImageItem(name, partial(read_remote, name)) if is_url(name) else ImageItem(name)


def _expand(names: Iterable[str], *, strict: bool = True) -> Iterator[ImageItem | Problem]:
    """Yield the images of names and of archives among them; ``strict``: other names are problems."""
    for name in names:
        if INSIDE not in name and is_archive(name):
            yield from iter_members(name)
        elif has_picture_name(name):
            yield open_image(name)
        elif strict and not os.path.isdir(name):  # noqa: PTH112
            yield Problem(
                FindingKind.IMAGE_NOT_IMAGE, name, -1, "no suffix of an image or an archive"
            )


# Pools and excluded images as datasets in memory.


def load_pool(pool: Dataset | Path | str) -> Dataset:
    """Return the pool's images by absolute path.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    from hardmine.data.formats.image_folder import load_images

    if isinstance(pool, Dataset):
        images = pool
    else:
        root = Path(pool).resolve()
        images = load_images(root, state=ImageState.UNREVIEWED, source="pool")
    if not images.records:
        seen = f" ({len(images.problems)} unreadable files)" if images.problems else ""
        raise DataError(f"{images.root}: no readable image in the pool{seen}")
    return images


def load_excluded(data: Dataset | Path | str) -> Dataset:
    """Return images that must not be mined: a folder's, or those of a labelled dataset's file.

    Raises:
        DataError: there is no image.
    """
    from hardmine.data.load_dataset import load_splits

    if isinstance(data, Dataset) or Path(data).is_dir():
        return load_pool(data)
    parts = list(load_splits(Path(data).resolve()).values())
    return parts[0].with_records([record for part in parts for record in part.records])
