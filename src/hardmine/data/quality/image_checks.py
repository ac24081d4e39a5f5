"""Opening every image once: does it decode, what is odd about it, what does it look like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.data.formats.image_folder import image_problem
from hardmine.data.formats.image_paths import relative_name
from hardmine.data.grey_depth import declared_white, is_deep_grey, white_of_set
from hardmine.data.images import open_picture, read_image
from hardmine.data.quality.findings import Finding
from hardmine.data.splits.near_duplicates import group_duplicates, perceptual_hash
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageRecord

_THREADS = 4
_ORIENTATION = 0x0112
_GREY_SIDE = 64
_GREY_LEVELS = 6
"""Most that red, green and blue may differ in a picture that holds no colour (JPEG rounds)."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image that was opened: its hash (None where it does not decode) and what is odd."""

    split: str
    name: str
    record: ImageRecord
    hash: int | None
    size: tuple[int, int]
    """Width and height as displayed; (0, 0) where it does not decode."""
    grey: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class CopyGroup:
    """Images that are near-copies of each other, as positions in the list that was searched."""

    members: tuple[int, ...]

    @property
    def pairs(self) -> int:
        """Number of pairs in the group."""
        return len(self.members) * (len(self.members) - 1) // 2


def inspect_images(
    splits: Mapping[str, Dataset], progress: Callable[[int, int], None] | None = None
) -> list[Inspected]:
    """Decode every image of every split, in order; ``progress`` gets the numbers done and of all."""
    work = [(name, ds.root, record) for name, ds in splits.items() for record in ds.records]
    seen: list[Inspected] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for image in pool.map(lambda item: _inspect(*item), work):
            seen.append(image)
            if progress is not None:
                progress(len(seen), len(work))
    return seen


def group_copies(seen: Sequence[Inspected]) -> list[CopyGroup]:
    """Return the groups of near-copies with two members or more, by their first member."""
    known = [index for index, image in enumerate(seen) if image.hash is not None]
    hashes = [value for image in seen if (value := image.hash) is not None]
    groups: dict[int, list[int]] = defaultdict(list)
    for index, group in zip(known, group_duplicates(hashes), strict=True):
        groups[group].append(index)
    return [CopyGroup(tuple(members)) for members in groups.values() if len(members) > 1]


def describe_copies(
    seen: Sequence[Inspected], groups: Iterable[CopyGroup], aside: Iterable[str] = ()
) -> list[Finding]:
    """Say of each group what it repeats; an error when it lies in more than one split.

    Args:
        aside: splits that are only compared with: groups within these are passed over.
    """
    silent = frozenset(aside)
    found: list[Finding] = []
    for group in groups:
        first, *rest = (seen[index] for index in group.members)
        if silent.issuperset({first.split, *(image.split for image in rest)}):
            continue
        leaks = any(image.split != first.split for image in rest)
        names = ", ".join(
            f"{image.name} ({image.split})" if leaks else image.name for image in rest
        )
        kind = FindingKind.SPLIT_LEAK if leaks else FindingKind.DUPLICATE_IMAGES
        reason = f"near-copy{f' in {first.split}' if leaks else ''} of {names}"
        others = tuple(image.record.path for image in rest)
        path = first.record.path
        found.append(Finding(kind, first.name, -1, reason, first.split, path, (), others))
    return found


def is_grey(picture: Image.Image) -> bool:
    """Return whether an RGB picture holds no colour."""
    small = np.asarray(picture.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX), np.int16)
    return int((small.max(axis=2) - small.min(axis=2)).max()) <= _GREY_LEVELS


def _inspect(split: str, root: Path, record: ImageRecord) -> Inspected:
    name = relative_name(record.path, root)

    def finding(kind: FindingKind, reason: str) -> Finding:
        return Finding(kind, name, -1, reason, split, record.path)

    try:
        picture = read_image(record.path)
    except DataError as error:
        problem = image_problem(record.path, root, error)
        broken = (finding(problem.kind, problem.reason),)
        return Inspected(split, name, record, None, (0, 0), False, broken)
    found = [finding(kind, reason) for kind, reason in _peculiarities(record.path)]
    if picture.size != (record.width, record.height):
        width, height = picture.size
        reason = f"image is {width} x {height}, its label says {record.width} x {record.height}"
        found.append(finding(FindingKind.SIZE_DIFFERS, reason))
    grey = is_grey(picture)
    if grey:
        found.append(finding(FindingKind.IMAGE_GREY, "holds no colour"))
    look = perceptual_hash(picture)
    return Inspected(split, name, record, look, picture.size, grey, tuple(found))


def _peculiarities(path: Path) -> list[tuple[FindingKind, str]]:
    """Return what other programs may stumble over in an image that can be read."""
    with open_picture(path) as image:
        found: list[tuple[FindingKind, str]] = []
        if image.mode == "CMYK":
            found.append((FindingKind.IMAGE_CMYK, "CMYK colours, read as RGB"))
        if is_deep_grey(image):
            white = declared_white(image) or white_of_set(str(path))
            found.append((FindingKind.IMAGE_16BIT, f"read as 8 bits, {white:g} is white"))
        if getattr(image, "is_animated", False):
            found.append((FindingKind.IMAGE_ANIMATED, "animated, only the first frame is used"))
        turn = image.getexif().get(_ORIENTATION, 1)
        if turn != 1:
            found.append((FindingKind.IMAGE_TURNED, f"EXIF orientation {turn}, turned upright"))
    return found
