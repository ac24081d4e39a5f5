"""Splits on which near-copies, one camera's images or neighbours in time never lie on two sides.

`group_by_pattern` and `moments` say which images belong together: those of one camera or site, and
neighbours in time. `split_dataset`, `split_by_group` and `split_by_time` split records in memory;
`split` reads labelled data and writes each part as files that other programs read.
"""

from __future__ import annotations

import math
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.data.convert import convert
from hardmine.data.data_options import SplitOptions
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.formats.image_files import plain_path, relative_name
from hardmine.data.images import open_picture
from hardmine.data.quality.usable_data import load_usable
from hardmine.data.splits.near_duplicates import (
    MAX_DISTANCE,
    find_near,
    group_duplicates,
    hash_images,
)
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_text
from hardmine.option_fields import takes_options
from hardmine.plurals import counted
from hardmine.types import F64, Dataset, ImageRecord

LONGEST_CLIP = 0.5
"""A stretch of time longer than this share of the smallest split may be cut."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The splits, the images left out between neighbours in time, and how groups were made."""

    splits: dict[str, Dataset]
    left_out: tuple[ImageRecord, ...]
    num_groups: int
    how: str
    straddling: int
    """Pairs of near-copies in different splits; not 0 only where time alone makes the groups."""


def split_dataset(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0, *, group: str | None = None
) -> dict[str, Dataset]:
    """Split a dataset at random, near-copies together and classes spread evenly.

    The result depends on the images' paths and the seed, not on the order of the records. Every
    split gets at least one group of images; the fractions are met up to the size of a group.

    Args:
        fractions: share of the images by split name; positive, with the sum 1.
        seed: another seed gives another split.
        group: regular expression; images on whose path below the root its groups match the same
            (a camera, a site) stay together too.

    Raises:
        ValueError: the fractions are not positive or do not sum to 1.
        ConfigError: ``group`` is no pattern with a group.
        DataError: there are fewer groups of images than splits.
    """
    return split_by_group(dataset, fractions, seed, group=group).splits


def split_by_group(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0, *, group: str | None = None
) -> SplitResult:
    """Split as `split_dataset` does, and also return how; same arguments and errors."""
    _require_shares(fractions)
    named = [] if group is None else group_by_pattern(dataset.records, dataset.root, group)
    keys = _copy_keys(dataset.records)
    groups = _ordered(_linked(keys, named), dataset.records, seed)
    members = _divide(dataset, groups, fractions)
    splits = {name: dataset.subset(sorted(indices)) for name, indices in members.items()}
    how = "near-copies" if group is None else f"near-copies and {group!r}"
    return SplitResult(splits, (), len(groups), how, 0)


def split_by_time(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0, *, gap: float | None = None
) -> SplitResult:
    """Split so that images within ``gap`` of each other are never in different splits.

    The order in time comes from `moments`; stretches without a pause longer than ``gap`` stay
    together, unless one is longer than half of the smallest split: then it is cut, and where the
    pieces fall into different splits the images of the larger split that are within ``gap`` of the
    cut are left out. Near-copies further apart in time than that may straddle (a camera that does
    not move makes nothing else); they are counted.

    Args:
        gap: seconds where images have times, else frame numbers; default 60 and 30.

    Raises:
        ValueError, DataError: as `split_dataset`; no image order in time; nothing is left of a split.
    """
    _require_shares(fractions)
    records = dataset.records
    found, what = moments(records)
    wanted = gap if gap is not None else (FRAMES if what.startswith("numbers") else SECONDS)
    longest = max(1, round(min(fractions.values()) * len(records) * LONGEST_CLIP))
    clips, close = cut_in_time(found, wanted, longest)
    groups = _ordered(_linked(clips), records, seed)
    members = _divide(dataset, groups, fractions)
    side = {index: name for name, indices in members.items() for index in indices}
    out: set[int] = set()
    for a, b in close:
        if side[a] != side[b] and not {a, b} & out:
            out.add(a if fractions[side[a]] >= fractions[side[b]] else b)
    splits = {n: dataset.subset(sorted(set(i) - out)) for n, i in members.items()}
    keys = [(key, side[i]) for i, key in enumerate(_copy_keys(records)) if i not in out]
    left = tuple(records[index] for index in sorted(out))
    how = f"{what}, {wanted:g} {'frames' if what.startswith('numbers') else 's'} apart"
    _require_filled(splits, dataset.root, how, len(left))
    return SplitResult(splits, left, len(groups), how, _straddling(keys))


def _require_filled(splits: Mapping[str, Dataset], root: Path, how: str, left_out: int) -> None:
    for name, part in splits.items():
        if not len(part):
            raise DataError(
                f"{root}: {name!r} would be empty: {counted(left_out, 'image is', 'images are')} "
                f"too near in time to another part ({how}); give a smaller gap (--gap)"
            )


def find_leaks(a: Dataset, b: Dataset, max_distance: int = MAX_DISTANCE) -> list[tuple[int, int]]:
    """Find the images of ``b`` that are near-copies of images of ``a``.

    Returns:
        Pairs of record indices (in ``a``, in ``b``), ordered by the second, at most one for each
        image of ``b``: its nearest one in ``a``. Unreadable images are compared by path alone.
    """
    same = {record.path.resolve(): index for index, record in enumerate(a.records)}
    hashes = hash_images([record.path for record in (*a.records, *b.records)])
    nearest = find_near(hashes[: len(a)], hashes[len(a) :], max_distance)
    pairs: list[tuple[int, int]] = []
    for index, record in enumerate(b.records):
        match = same.get(record.path.resolve(), nearest.get(index))
        if match is not None:
            pairs.append((match, index))
    return pairs


def parse_fractions(text: str) -> dict[str, float]:
    """Read ``train=0.8,val=0.2``.

    Raises:
        ConfigError: not names with positive shares that sum to 1, each name once.
    """
    wanted = "wanted NAME=SHARE with commas between, the shares positive with the sum 1"
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        name = name.strip()
        try:
            value = float(share)
        except ValueError:
            raise ConfigError(f"fractions {text!r}: {wanted}") from None
        if not name.replace("-", "").replace("_", "").isalnum() or name in found or value <= 0:
            raise ConfigError(f"fractions {text!r}: {wanted}")
        found[name] = value
    if abs(sum(found.values()) - 1) > 1e-6:
        raise ConfigError(f"fractions {text!r}: sum {sum(found.values()):g}, {wanted}")
    return found


@takes_options(SplitOptions)
def split(
    data: Path | str,
    out: Path | str,
    fractions: dict[str, float],
    *,
    images: Path | str | None = None,
    empty_is_verified: bool = False,
    options: SplitOptions | None = None,
) -> SplitResult:
    """Split labelled data and write the parts.

    Splits that the data have are put together first. Without pictures, ``OUT/NAME.json`` (COCO) and
    ``OUT/NAME.txt`` name images by their path below the data's root; with them, ``OUT`` is a whole
    COCO dataset. ``left_out.txt`` lists the images between neighbours in time.

    Args:
        fractions: share of the images by part; positive, with the sum 1.
        images: the folder with the images of a COCO file, if they are not beside it.
        empty_is_verified: images without annotations hold no object, and count as negatives.
        options: which images stay together and what is written; each of its fields is also a keyword.

    Raises:
        ConfigError: contradictory options, or a pattern without a group.
        DataError: nothing recognised, ``out`` holds something, or too few groups.

    Example:
        >>> result = hardmine.split("shelf", "parts", {"train": 0.75, "val": 0.25})
        >>> {name: len(part) for name, part in result.splits.items()}
        {'train': 9, 'val': 3}
        >>> sorted(path.name for path in Path("parts").iterdir())
        ['train.json', 'train.txt', 'val.json', 'val.txt']
    """
    how = options or SplitOptions()
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is not empty, wanted a new folder")
    splits = load_usable(data, images=images, empty_is_verified=empty_is_verified)
    merged = _merged(splits, plain_path(data), None if images is None else plain_path(images))
    if how.by_time:
        result = split_by_time(merged, fractions, how.seed, gap=how.gap)
    else:
        result = split_by_group(merged, fractions, how.seed, group=how.group)
    if how.pictures != "none":
        convert(result.splits, target, "coco", link=how.pictures == "link")
    for name, dataset in result.splits.items():
        if how.pictures == "none":
            write_coco(dataset, target / f"{name}.json", images_root=merged.root)
        _list(target / f"{name}.txt", dataset)
    if result.left_out:
        _list(target / "left_out.txt", merged.with_records(result.left_out))
    return result


def _require_shares(fractions: Mapping[str, float]) -> None:
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)}: wanted positive shares that sum to 1")


def _copy_keys(records: Sequence[ImageRecord]) -> list[int]:
    """Return a number for each image that it shares with its near-copies."""
    hashes = hash_images([record.path for record in records])
    known = [index for index, value in enumerate(hashes) if value is not None]
    ids = group_duplicates([value for value in hashes if value is not None])
    keys = list(range(len(records)))
    for index, group in zip(known, ids, strict=True):
        keys[index] = known[group]
    return keys


def _linked(keys: Sequence[int], names: Sequence[str | None] = ()) -> list[list[int]]:
    """Return groups of images that share a key or a name, or are linked by a chain of these."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        """Return the item that stands for the group of this one."""
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[int | str, int] = {}
    for index, key in enumerate(keys):
        parent[root(index)] = root(first.setdefault(key, index))
    for index, name in enumerate(names):
        if name is not None:
            parent[root(index)] = root(first.setdefault(name, index))
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(keys)):
        groups[root(index)].append(index)
    return list(groups.values())


def _ordered(
    groups: Sequence[Sequence[int]], records: Sequence[ImageRecord], seed: int
) -> list[list[int]]:
    """Return the groups, larger ones first, otherwise shuffled."""
    by_path = [sorted(members, key=lambda i: str(records[i].path)) for members in groups]
    ordered = sorted(by_path, key=lambda members: str(records[members[0]].path))
    random.Random(seed).shuffle(ordered)
    return sorted(ordered, key=len, reverse=True)


def _divide(
    dataset: Dataset, groups: Sequence[Sequence[int]], fractions: Mapping[str, float]
) -> dict[str, list[int]]:
    """Give each split its images, by index."""
    if len(groups) < len(fractions):
        raise DataError(
            f"{dataset.root}: {counted(len(dataset), 'image')} in {counted(len(groups), 'group')} of "
            "near-copies, "
            f"cannot fill {len(fractions)} splits"
        )
    counts = _count(dataset.records, len(dataset.categories))  # [images, C + 2]
    of_group = np.stack([counts[list(group)].sum(axis=0) for group in groups])
    names = list(fractions)
    members: dict[str, list[int]] = {name: [] for name in names}
    for group, place in zip(groups, _assign(of_group, list(fractions.values())), strict=True):
        members[names[place]] += group
    return members


def _straddling(keys: Sequence[tuple[int, str]]) -> int:
    """Count the pairs of near-copies in different splits, given (copy group, split) of each image."""
    sides: dict[int, Counter[str]] = defaultdict(Counter)
    for key, side in keys:
        sides[key][side] += 1
    total = 0
    for counts in sides.values():
        number = sum(counts.values())
        total += (number**2 - sum(count**2 for count in counts.values())) // 2
    return total


def _count(records: Sequence[ImageRecord], num_classes: int) -> F64:
    """Return for each image: 1, whether it has no box, and its boxes of each class; [N, C + 2]."""
    counts = np.zeros((len(records), num_classes + 2))
    for row, record in zip(counts, records, strict=True):
        row[0] = 1
        row[1] = len(record.labels) == 0
        row[2:] = np.bincount(record.labels, minlength=num_classes + 1)[1 : num_classes + 1]
    return counts


def _assign(counts: F64, shares: Sequence[float]) -> list[int]:
    """Give each group to the split that lacks most of what is in it.

    Args:
        counts (f64[G, K]): what each group holds.
        shares: share of each split.
    """
    total = np.maximum(counts.sum(axis=0), 1)
    missing = np.outer(shares, np.ones(counts.shape[1]))  # share of all K still due to each split
    filled = [0] * len(shares)
    places: list[int] = []
    for index, group in enumerate(counts):
        part = group / total
        empty = [place for place, number in enumerate(filled) if number == 0]
        if empty and len(counts) - index <= len(empty):
            place = empty[0]
        else:
            need = missing @ (part / max(math.fsum(part), 1e-12))
            place = int(np.argmax(need))
        missing[place] -= part
        filled[place] += 1
        places.append(place)
    return places


def _merged(splits: dict[str, Dataset], path: Path, images: Path | None) -> Dataset:
    """Return all images of all splits as one dataset, each file once, with the common root.

    Raises:
        DataError: two splits say different things of one file, so that one would be lost.
    """
    first = next(iter(splits.values()))
    roots = {dataset.root for dataset in splits.values()}
    root = first.root if len(roots) == 1 else images or path
    seen: dict[Path, ImageRecord] = {}
    split_of: dict[Path, str] = {}
    for name, dataset in splits.items():
        for record in dataset.records:
            other = seen.setdefault(record.path, record)
            if not _says_the_same(other, record):
                where = f"{split_of[record.path]} and {name}"
                raise DataError(
                    f"{relative_name(record.path, root)}: labelled differently in {where}; name the "
                    "file whose labels count"
                )
            split_of.setdefault(record.path, name)
    problems = tuple(problem for dataset in splits.values() for problem in dataset.problems)
    return Dataset(first.categories, tuple(seen.values()), root, problems)


def _says_the_same(one: ImageRecord, other: ImageRecord) -> bool:
    """Return whether two records of a file have the same state and the same objects."""

    def said(record: ImageRecord) -> list[tuple[list[float], int, bool]]:
        """Return the objects, sorted."""
        columns = record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist()
        return sorted(zip(*columns, strict=True))

    return one is other or (one.state is other.state and said(one) == said(other))


def _list(path: Path, dataset: Dataset) -> None:
    names = [relative_name(record.path, dataset.root) for record in dataset.records]
    write_text(path, "".join(f"{name}\n" for name in names))


_STAMP = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[T_ \-.]?(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)"
    r"(?:[.,](\d{1,6}))?(?!\d)"
)
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)$")
_EXIF_IFD, _EXIF_TAKEN, _EXIF_FORMAT = 0x8769, 0x9003, "%Y:%m:%d %H:%M:%S"

SECONDS, FRAMES = 60.0, 30.0
"""Default gap between neighbours: seconds where images have times, else frame numbers."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an image lies: the sequence that it belongs to, and its place in it."""

    sequence: str
    place: float
    """Seconds since 1970, or the number in the file's name."""


def group_by_pattern(records: Sequence[ImageRecord], root: Path, pattern: str) -> list[str | None]:
    """Return what the pattern's groups match in each image's path below ``root``.

    None where it does not match: such an image is bound to no other.

    Raises:
        ConfigError: no regular expression, or one without a group.
        DataError: it matches no image.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group pattern {pattern!r}: {error}") from None
    if not compiled.groups:
        raise ConfigError(f"group pattern {pattern!r}: wanted a group in round brackets")
    found: list[str | None] = []
    for record in records:
        match = compiled.search(relative_name(record.path, root))
        found.append(None if match is None else "\0".join(part or "" for part in match.groups()))
    if not any(name is not None for name in found):
        first = relative_name(records[0].path, root) if records else "(no images)"
        raise DataError(f"group pattern {pattern!r}: fits no image, such as {first}")
    return found


def moments(records: Sequence[ImageRecord]) -> tuple[list[Moment], str]:
    """Return each image's moment and what it was read from.

    The first of these that every image has: a time in its EXIF data, a time in its name
    (``20240131_235959`` and the like), a number at the end of its name. Times make one sequence;
    numbers one for each folder and beginning of the name.

    Raises:
        DataError: none of these.
    """
    sources: tuple[tuple[str, Callable[[Path], Moment | None]], ...] = (
        ("EXIF times", _exif_time),
        ("times in names", _name_time),
        ("numbers in names", _name_number),
    )
    missing = ""
    for what, read in sources:
        found: list[Moment] = []
        for record in records:
            moment = read(record.path)
            if moment is None:
                missing = record.path.name
                break
            found.append(moment)
        else:
            return found, what
    raise DataError(f"no order in time: {missing} has neither an EXIF time nor a time or number")


def cut_in_time(
    found: Sequence[Moment], gap: float, longest: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Cut sequences into clips, between which lies more than ``gap``.

    A clip of more than ``longest`` images is cut further, into even pieces.

    Returns:
        A clip number for each image, and the pairs of images that are within ``gap`` of each other
        but in different clips (made by such further cuts).
    """
    by_sequence: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(found)), key=lambda i: (found[i].place, i)):
        by_sequence[found[index].sequence].append(index)
    clips = [0] * len(found)
    number = 0
    for members in by_sequence.values():
        for run in _runs(members, found, gap):
            pieces = -(-len(run) // max(1, longest))
            for piece in range(pieces):
                start, end = piece * len(run) // pieces, (piece + 1) * len(run) // pieces
                for index in run[start:end]:
                    clips[index] = number
                number += 1
    return clips, _close(by_sequence, found, clips, gap)


def _runs(members: Sequence[int], found: Sequence[Moment], gap: float) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in members:
        if runs and found[index].place - found[runs[-1][-1]].place <= gap:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _close(
    by_sequence: dict[str, list[int]], found: Sequence[Moment], clips: Sequence[int], gap: float
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for members in by_sequence.values():
        first = 0
        for at, index in enumerate(members):
            while found[index].place - found[members[first]].place > gap:
                first += 1
            pairs += [(m, index) for m in members[first:at] if clips[m] != clips[index]]
    return pairs


def _exif_time(path: Path) -> Moment | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(path) as image:
                text = str(image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_TAKEN, ""))
        taken = datetime.strptime(text.strip("\0 "), _EXIF_FORMAT).replace(tzinfo=UTC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Moment("", taken.timestamp())


def _name_time(path: Path) -> Moment | None:
    match = _STAMP.search(path.stem)
    if match is None:
        return None
    *parts, fraction = match.groups()
    try:
        taken = datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return Moment("", taken.timestamp() + (float(f"0.{fraction}") if fraction else 0.0))


def _name_number(path: Path) -> Moment | None:
    match = _NUMBER.match(path.stem)
    if match is None:
        return None
    before, number, after = match.groups()
    return Moment(f"{path.parent}\0{before}\0{after}", float(number))


"""What `split` does with the images."""
