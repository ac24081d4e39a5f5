"""Folders of images without labels, and the sizes of many images at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hardmine.data.file_walk import PassedOver, walk_files, walk_pictures
from hardmine.data.formats.image_paths import plain_path, relative_name
from hardmine.data.formats.label_validation import RawImage
from hardmine.data.images import image_size
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.text import same_text
from hardmine.types import Dataset, ImageRecord, ImageState, Problem

THREADS = 8
"""Reading headers waits for the disk more than for the processor."""


_FAULTS = (
    ("zero bytes", FindingKind.IMAGE_ZERO_BYTES),
    ("no such file", FindingKind.IMAGE_MISSING),
    ("truncated", FindingKind.IMAGE_TRUNCATED),
    ("not an image", FindingKind.IMAGE_NOT_IMAGE),
    ("too many pixels", FindingKind.IMAGE_TOO_LARGE),
)
"""What `hardmine.data.images` says of a file, and the kind of problem that it is."""


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files below a folder with one of the suffixes (any case), sorted, hidden ones not.

    Linked folders are entered once each, so a link in a circle does no harm.
    """
    wanted = frozenset(suffixes)
    files = walk_files(folder) if folder.is_dir() else ()
    return sorted(Path(file) for file in files if os.path.splitext(file)[1].lower() in wanted)  # noqa: PTH122


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files right in a folder with one of the suffixes (any case), sorted, not hidden."""
    wanted = frozenset(suffixes)
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in wanted and not path.name.startswith(".") and path.is_file()
    )


def list_images(folder: Path, passed: PassedOver | None = None) -> list[Path]:
    """Return the image files below a folder, sorted; ``passed`` gets what looks like one and is none."""
    return sorted(Path(file) for file in walk_pictures(folder, passed or PassedOver()))


def stem_name(path: Path, folder: Path) -> str:
    """Return the path below ``folder`` without its suffix: what pairs an image with its label."""
    return relative_name(path.with_suffix(""), folder)


def pair_name(path: Path, folder: Path) -> str:
    """Return `stem_name` with accents in one spelling, so that names that look the same pair."""
    return same_text(stem_name(path, folder))


def read_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | DataError]:
    """Return (width, height) as displayed of each image, or why its header cannot be read."""

    def size(path: Path) -> tuple[int, int] | DataError:
        try:
            return image_size(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(size, paths))


def image_problem(path: Path, root: Path, error: Exception) -> Problem:
    """Return the problem of an image that cannot be read."""
    reason = str(error).removeprefix(f"{path}: ")
    kind = next((k for words, k in _FAULTS if words in reason), FindingKind.IMAGE_UNREADABLE)
    return Problem(kind, relative_name(path, root), -1, reason)


def measure(images: Iterable[RawImage], root: Path, problems: list[Problem]) -> list[RawImage]:
    """Fill in the sizes that the labels do not give; leave out images that have no readable header.

    What is left out is added to ``problems``.
    """
    images = list(images)
    unknown = [image for image in images if image.width <= 0 or image.height <= 0]
    for image, size in zip(unknown, read_sizes([i.path for i in unknown]), strict=True):
        if isinstance(size, DataError):
            problems.append(image_problem(image.path, root, size))
            image.width = 0
        else:
            image.width, image.height = size
    return [image for image in images if image.width > 0 and image.height > 0]


def load_images(
    folder: Path | str,
    *,
    state: ImageState | str = ImageState.UNREVIEWED,
    source: str = "",
    categories: Sequence[str] = (),
) -> Dataset:
    """Return the images below a folder as records without boxes.

    Args:
        state: what is known of them all: ``unreviewed`` for a pool to mine, ``verified_empty``
            for negatives that a person looked through, ``assumed_empty`` on a user's word.
        source: kept in each record; the folder's name when empty.

    Returns:
        Dataset: unreadable images are not in it but among its ``problems``.

    Raises:
        DataError: the folder is missing, or holds no image file.
    """
    root = plain_path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder, wanted a folder of images")
    passed = PassedOver()
    paths = list_images(root, passed)
    problems = passed.problems()
    if not paths:
        others = f" ({problems[0]})" if problems else ""
        raise DataError(f"{root}: no image in it or below it{others}")
    records: list[ImageRecord] = []
    for path, size in zip(paths, read_sizes(paths), strict=True):
        if isinstance(size, DataError):
            problems.append(image_problem(path, root, size))
        else:
            name = source or root.name
            records.append(ImageRecord.empty(path, *size, ImageState(state), name))
    return Dataset(tuple(categories), tuple(records), root, tuple(problems))
