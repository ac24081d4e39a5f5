"""Opening every image once: does it decode, what is odd about it, what does it look like."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.data.formats.image_files import image_problem, relative_name
from hardmine.data.images import (
    declared_white,
    is_deep_grey,
    open_picture,
    read_image,
    white_of_set,
)
from hardmine.data.quality.findings import Finding
from hardmine.data.splits.near_duplicates import group_duplicates, perceptual_hash
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageRecord

_THREADS = 4
_ORIENTATION = 0x0112
_WHOLE = 3
"""A split of fewer images is not said to repeat another as a whole."""
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
    turn: int
    """EXIF orientation, 1 to 8."""
    grey: bool
    findings: tuple[Finding, ...]

    @property
    def file(self) -> str:
        """The file, links resolved: what two splits share."""
        return os.path.realpath(self.record.path)


@dataclass(frozen=True, slots=True)
class CopyGroup:
    """Images that are near-copies of each other, as positions in the list that was searched."""

    members: tuple[int, ...]
    files: int
    """Number of different files among them: a file may be in several splits."""

    @property
    def pairs(self) -> int:
        """Number of pairs of different files in the group."""
        return self.files * (self.files - 1) // 2


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
    return [
        CopyGroup(tuple(members), len({seen[index].file for index in members}))
        for members in groups.values()
        if len(members) > 1
    ]


def describe_copies(
    seen: Sequence[Inspected], groups: Sequence[CopyGroup], only_compared: Iterable[str] = ()
) -> list[Finding]:
    """Say which splits share files or pictures, and of each group of near-copies what it repeats.

    A file that is in two splits is counted once for the pair of splits, and a split that repeats
    every picture of another is one finding.

    Args:
        only_compared: splits that are only compared with; repeats within these are not reported.
    """
    silent = frozenset(only_compared)
    splits = list(dict.fromkeys(image.split for image in seen))
    pairs = [(a, b) for a, b in combinations(splits, 2) if not silent.issuperset({a, b})]
    repeated: set[frozenset[str]] = set()
    found: list[Finding] = []
    for a, b in pairs:
        same = _same_files(seen, a, b) or _repeated_split(seen, groups, a, b)
        if same is not None:
            finding, whole = same
            found.append(finding)
            if whole:
                repeated.add(frozenset({a, b}))
    for group in groups:
        if group.files < 2 or silent.issuperset({seen[index].split for index in group.members}):
            continue
        described = _describe_group([seen[index] for index in group.members], repeated)
        if described is not None:
            found.append(described)
    return found


def shared_files(
    seen: Sequence[Inspected], groups: Sequence[CopyGroup], only_compared: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Return of each set that is only compared with how many files decode, and how many are shared.

    A file is shared when a split of the data holds it or a near-copy of it.
    """
    silent = frozenset(only_compared)
    own = {image.file for image in seen if image.split not in silent}
    for group in groups:
        files = {seen[index].file for index in group.members}
        if any(seen[index].split not in silent for index in group.members):
            own |= files
    found = {}
    for name in dict.fromkeys(image.split for image in seen if image.split in silent):
        files = {image.file for image in seen if image.split == name and image.hash is not None}
        found[name] = (len(files), len(files & own))
    return found


def _same_files(seen: Sequence[Inspected], a: str, b: str) -> tuple[Finding, bool] | None:
    """Return a finding for the files that two splits share; True: all files of one of them."""
    files = [{image.file: image for image in seen if image.split == name} for name in (a, b)]
    shared = [image for file, image in files[0].items() if file in files[1]]
    if not shared:
        return None
    number, (in_a, in_b) = len(shared), (len(files[0]), len(files[1]))
    whole = number in (in_a, in_b)
    first = shared[0]
    if in_a == in_b == number > 1:
        reason = f"{a} and {b} are the same {number} files"
    elif number == 1:
        reason = f"{first.name} is in both {a} and {b}"
    elif whole:
        part, other = (b, a) if number == in_b else (a, b)
        reason = f"all {number} files of {part} are in {other} too"
    else:
        reason = f"{number} files are in both {a} and {b}, the first: {first.name}"
    return Finding(FindingKind.SPLIT_SAME_FILES, a, -1, reason, a, first.record.path), whole


def _repeated_split(
    seen: Sequence[Inspected], groups: Sequence[CopyGroup], a: str, b: str
) -> tuple[Finding, bool] | None:
    """Return a finding where every picture of one split has a near-copy in the other."""
    alike: dict[str, set[str]] = {a: set(), b: set()}
    for group in groups:
        members = [seen[index] for index in group.members]
        if {a, b} <= {image.split for image in members}:
            for image in members:
                if image.split in alike:
                    alike[image.split].add(image.file)
    for one, other in ((b, a), (a, b)):
        images = [image for image in seen if image.split == one]
        if len(images) >= _WHOLE and len(alike[one]) == len({image.file for image in images}):
            reason = f"each of the {len(images)} pictures of {one} has a near-copy in {other}"
            path = images[0].record.path
            return Finding(FindingKind.SPLIT_SAME_FILES, one, -1, reason, one, path), True
    return None


def _describe_group(
    members: Sequence[Inspected], repeated: Container[frozenset[str]]
) -> Finding | None:
    """Return what a group of near-copies is; None where its splits repeat each other anyway."""
    files: dict[str, list[Inspected]] = defaultdict(list)
    for image in members:
        files[image.file].append(image)
    across = {
        frozenset({x.split, y.split})
        for one, other in combinations(files.values(), 2)
        for x, y in product(one, other)
        if x.split != y.split
    }
    leaks = {pair for pair in across if pair not in repeated}
    within = any(
        {x.split for x in one} & {y.split for y in other}
        for one, other in combinations(files.values(), 2)
    )
    if not leaks and not within:
        return None
    (first, *_), *rest = files.values()
    names = ", ".join(
        f"{f[0].name} ({', '.join(image.split for image in f)})" if leaks else f[0].name
        for f in rest
    )
    kind = FindingKind.SPLIT_LEAK if leaks else FindingKind.DUPLICATE_IMAGES
    reason = f"near-copy{f' in {first.split}' if leaks else ''} of {names}"
    others = tuple(f[0].record.path for f in rest)
    return Finding(kind, first.name, -1, reason, first.split, first.record.path, (), others)


def is_grey(picture: Image.Image) -> bool:
    """Return whether an RGB picture holds no colour."""
    small = np.asarray(picture.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX), np.int16)
    return int((small.max(axis=2) - small.min(axis=2)).max()) <= _GREY_LEVELS


def _inspect(split: str, root: Path, record: ImageRecord) -> Inspected:
    name = relative_name(record.path, root)

    def finding(kind: FindingKind, reason: str) -> Finding:
        """Return a finding about the whole image."""
        return Finding(kind, name, -1, reason, split, record.path)

    try:
        picture = read_image(record.path)
    except DataError as error:
        problem = image_problem(record.path, root, error)
        broken = (finding(problem.kind, problem.reason),)
        return Inspected(split, name, record, None, (0, 0), 1, False, broken)
    turn, odd = _peculiarities(record.path)
    found = [finding(kind, reason) for kind, reason in odd]
    grey = is_grey(picture)
    if grey:
        found.append(finding(FindingKind.IMAGE_GREY, "holds no colour"))
    look = perceptual_hash(picture)
    return Inspected(split, name, record, look, picture.size, turn, grey, tuple(found))


def _peculiarities(path: Path) -> tuple[int, list[tuple[FindingKind, str]]]:
    """Return an image's EXIF orientation, and what other programs may stumble over in it."""
    with open_picture(path) as image:
        found: list[tuple[FindingKind, str]] = []
        if image.mode == "CMYK":
            found.append((FindingKind.IMAGE_CMYK, "CMYK colours, read as RGB"))
        if is_deep_grey(image):
            white = declared_white(image) or white_of_set(str(path))
            found.append((FindingKind.IMAGE_16BIT, f"read as 8 bits, {white:g} is white"))
        if getattr(image, "is_animated", False):
            found.append((FindingKind.IMAGE_ANIMATED, "animated, only the first frame is used"))
        turn = int(image.getexif().get(_ORIENTATION, 1) or 1)
        if turn != 1:
            found.append((FindingKind.IMAGE_TURNED, f"EXIF orientation {turn}, turned upright"))
    return turn, found
