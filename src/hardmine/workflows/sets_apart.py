"""Sets of images that are apart: nothing that is measured on repeats what is trained on or mined from.

Every image is hashed once; what does not decode is left out before anything is trained. A loop has three
sets of negatives, apart by near-duplicate group: mined from, for stopping, and final.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import relative_name
from hardmine.data.quality.findings import lost_images
from hardmine.errors import NOTICE, DataError
from hardmine.files import file_stamp
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageRecord, ImageState, Problem
from hardmine.workflows.step_cache import Steps

_log = logging.getLogger(__name__)

STOP_SHARE = 0.3
"""Share of the pool that the stop rules look at when the final set is given apart."""
STOP_AND_FINAL_SHARES = (0.2, 0.3)
"""Shares for stopping and for the final figures when the pool is all there is."""

Hashes = Mapping[str, int | None]
"""Perceptual hash by path; ``None`` where the image does not decode."""


def hash_once(parts: Iterable[Dataset], steps: Steps) -> Hashes:
    """Hash all images of the datasets; done again only when a file's size or date changes.

    From then on the steps know the pictures' content (``Steps.identity``).
    """
    from hardmine.data.splits.near_duplicates import hash_contents

    paths = list(dict.fromkeys(record.path for part in parts for record in part.records))
    names = [str(path) for path in paths]
    inputs = {"files": _digest_files(paths), "with": "contents"}
    found = steps.run(
        "prepare/hashes", inputs, lambda _: list(hash_contents(paths)), label="hash images"
    )
    steps.contents.update({name: content for name, (_, content) in zip(names, found, strict=True)})
    return {name: value for name, (value, _) in zip(names, found, strict=True)}


def _digest_files(paths: Sequence[Path]) -> str:
    """Return what changes when one of the files is written anew; none is read."""
    stamps = [file_stamp(path) for path in paths]
    return hashlib.sha256(repr([str(path) for path in paths] + stamps).encode()).hexdigest()


def describe_leaks(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return a line for each pair of near-duplicates; files that are in both sets are counted once."""
    lines = [
        f"{a} (trained on) and {b} (validation) are near-duplicates; both stay in use"
        for a, b in pairs
        if a != b
    ]
    same = len(pairs) - len(lines)
    if same:
        words = counted(same, "validation image is", "validation images are")
        lines.append(f"{words} trained on as well; still in use")
    return lines


def find_train_val_leaks(train: Dataset, val: Dataset, steps: Steps) -> tuple[tuple[str, str], ...]:
    """Return the pairs (training image, validation image) that repeat each other, with a warning."""
    from hardmine.data.splits.split import find_leaks

    def compute(_: Path) -> list[list[str]]:
        """Return the pairs (training image, validation image) that repeat each other."""
        return [
            [str(train.records[i].path), str(val.records[j].path)]
            for i, j in find_leaks(train, val)
        ]

    paths = [record.path for part in (train, val) for record in part.records]
    inputs = {
        "train": train.fingerprint,
        "val": val.fingerprint,
        "files": _digest_files(paths),
    }
    pairs = steps.run("prepare/leaks", inputs, compute)
    same = sum(a == b for a, b in pairs)
    if same:
        _log.warning("%d of %d validation images are trained on as well", same, len(val))
    alike = [pair for pair in pairs if pair[0] != pair[1]]
    if alike:
        first = " and ".join(alike[0])
        _log.warning(
            "%s trained on: %s",
            counted(
                len(alike),
                "near-duplicate of a validation image is",
                "near-duplicates of validation images are",
            ),
            first,
        )
    return tuple((a, b) for a, b in pairs)


def drop_unreadable(part: Dataset, hashes: Hashes) -> tuple[Dataset, tuple[Problem, ...]]:
    """Return the dataset without images that do not decode, and all of its problems."""
    good = [record for record in part.records if hashes[str(record.path)] is not None]
    bad = tuple(
        Problem(FindingKind.IMAGE_UNREADABLE, str(record.path), -1, "the image does not decode")
        for record in part.records
        if hashes[str(record.path)] is None
    )
    return part.with_records(good), (*part.problems, *bad)


def crop_set(val: Dataset, steps: Steps, *, seed: int) -> Dataset:
    """Return object-free crops of the validation images, cut once per run, as a set of negatives.

    It is empty when the objects leave no room for any.
    """
    from hardmine.evaluation.object_free_crops import SOURCE, object_free_crops, write_crops

    def compute(folder: Path) -> list[list[Any]]:
        """Write the crops and return their names and sizes."""
        crops = write_crops(val, object_free_crops(val, seed), folder)
        return [[r.path.name, r.width, r.height] for r in crops.records]

    folder = steps.root / "prepare" / "crops"
    inputs = {"val": steps.identity(val), "seed": seed}
    found = steps.run(
        "prepare/crops/cut",
        inputs,
        compute,
        lambda crops: [name for name, *_ in crops],
        "cut object-free crops",
    )
    records = [
        ImageRecord.empty(folder / name, width, height, ImageState.VERIFIED_EMPTY, SOURCE)
        for name, width, height in found
    ]
    return Dataset(val.categories, tuple(records), folder)


@dataclass(frozen=True, slots=True)
class Leak:
    """A negative that repeats an image of a set that it must be apart from; it was left out."""

    image: str
    repeats: str
    sets: str
    """Such as "pool/val"."""

    def __str__(self) -> str:
        return f"{self.image} repeats {self.repeats} ({self.sets}); it was left out"


@dataclass(frozen=True)
class LoopSets:
    """``train`` and ``val``; ``mine_from`` as the pool came; ``stop`` and ``final`` in a negative
    state. ``group_of`` gives the near-duplicate group of each image that may be mined.
    """

    train: Dataset
    val: Dataset
    mine_from: Dataset
    stop: Dataset
    final: Dataset
    group_of: Mapping[str, int]
    leaks: tuple[Leak, ...]
    problems: tuple[Problem, ...]


def divide_sets(
    train: Dataset, val: Dataset, pool: Dataset, final: Dataset, steps: Steps, *, seed: int
) -> LoopSets:
    """Divide the negatives and leave out what repeats an image of another set.

    Pool images that repeat a training, validation or final image are leaks, and so are final images
    that repeat a training or validation image. Images that do not decode are problems. The division
    goes by a hash of the seed and of names inside the pool: the same wherever the pool lies.

    Args:
        final: held out by the user; an empty dataset when the pool is all there is.

    Raises:
        DataError: nothing is left to train on, to mine from or to measure on.
    """
    good, group_of, problems = read_all(
        {"train": train, "val": val, "final": final, "pool": pool}, steps
    )
    kept_final, final_leaks = set_apart(good, "final", ("train", "val"), group_of)
    kept_pool, pool_leaks = set_apart(good, "pool", ("train", "val", "final"), group_of)
    _say_left_out("held-out negatives", len(good["final"]), final_leaks)
    _say_left_out("images of the pool", len(good["pool"]), pool_leaks)
    shares = (STOP_SHARE, 0.0) if len(final) else STOP_AND_FINAL_SHARES
    mine_from, stop, from_pool = _divide(kept_pool, group_of, shares, pool.root, seed)
    measured = (final, kept_final) if len(final) else (pool, from_pool)
    sizes = {
        "train on": len(good["train"]),
        "validate on": len(good["val"]),
        "mine from": len(mine_from),
        "stop by": len(stop),
        "measure on": len(measured[1]),
    }
    _require(sizes, pool, pool_leaks, {group_of[str(record.path)] for record in kept_pool})
    return LoopSets(
        good["train"],
        good["val"],
        pool.with_records(mine_from),
        _as_empty(pool, stop, train.categories),
        _as_empty(*measured, train.categories),
        {str(record.path): group_of[str(record.path)] for record in mine_from},
        (*final_leaks, *pool_leaks),
        problems,
    )


def read_all(
    parts: Mapping[str, Dataset], steps: Steps
) -> tuple[dict[str, Dataset], dict[str, int], tuple[Problem, ...]]:
    """Return the datasets of images that decode, each image's group, and all problems."""
    from hardmine.data.splits.near_duplicates import group_duplicates

    hashes = hash_once(parts.values(), steps)
    good: dict[str, Dataset] = {}
    problems: list[Problem] = []
    for name, part in parts.items():
        good[name], found = drop_unreadable(part, hashes)
        problems += found
        for problem in found:
            if problem.kind == FindingKind.FILES_PASSED_OVER:
                _log.warning("%s", problem)
        if lost := lost_images(found):
            _log.warning(
                "%s: %d of %d %s cannot be read and are left out (the first: %s)",
                part.root,
                len(lost),
                len(good[name]) + len(lost),
                _SETS.get(name, f"{name.replace('_', '-')} images"),
                lost[0],
            )
    known = {path: value for path, value in hashes.items() if value is not None}
    groups = group_duplicates(list(known.values()))
    return good, dict(zip(known, groups, strict=True)), tuple(problems)


def set_apart(
    good: Mapping[str, Dataset],
    name: str,
    others: Sequence[str],
    group_of: Mapping[str, Hashable],
) -> tuple[list[ImageRecord], list[Leak]]:
    """Return the records of ``name`` that repeat none of the other sets', and the leaks.

    Args:
        group_of: by path, what images that repeat each other have in common.
    """
    owners: dict[Hashable, tuple[str, str]] = {}
    for other in others:
        for record in good[other].records:
            owners.setdefault(group_of[str(record.path)], (str(record.path), other))
    kept, leaks = [], []
    for record in good[name].records:
        owner = owners.get(group_of[str(record.path)])
        if owner is None:
            kept.append(record)
        else:
            leaks.append(Leak(str(record.path), owner[0], f"{name}/{owner[1]}"))
    return kept, leaks


def _say_left_out(what: str, images: int, leaks: Sequence[Leak]) -> None:
    """Say how many of a set's ``images`` are left out because they repeat images of other sets."""
    if not leaks:
        return
    others = sorted({_SETS.get(name, _OTHER) for name in (k.sets.split("/")[1] for k in leaks)})
    _log.log(
        NOTICE,
        "%d of the %d %s %s %s and %s left out (the first: %s repeats %s)",
        len(leaks),
        images,
        what,
        "repeats" if len(leaks) == 1 else "repeat",
        " or ".join(others),
        "is" if len(leaks) == 1 else "are",
        leaks[0].image,
        leaks[0].repeats,
    )


def _divide(
    records: Sequence[ImageRecord],
    group_of: Mapping[str, int],
    shares: tuple[float, float],
    root: Path,
    seed: int,
) -> tuple[list[ImageRecord], list[ImageRecord], list[ImageRecord]]:
    """Return what to mine from, the stopping set and the final set, groups whole."""
    members: dict[int, list[ImageRecord]] = {}
    for record in records:
        members.setdefault(group_of[str(record.path)], []).append(record)
    groups = sorted(members.values(), key=lambda group: _draw(group, root, seed))
    wanted = [round(share * len(records)) for share in shares]
    parts: list[set[str]] = [set(), set()]
    for group in groups:
        for part, size in zip(parts, wanted, strict=True):
            if len(part) < size:
                part.update(str(record.path) for record in group)
                break
    stop, final = ([r for r in records if str(r.path) in part] for part in parts)
    rest = [r for r in records if str(r.path) not in parts[0] | parts[1]]
    return rest, stop, final


def _draw(group: Sequence[ImageRecord], root: Path, seed: int) -> bytes:
    name = min(relative_name(record.path, root) for record in group)
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _as_empty(
    like: Dataset, records: Sequence[ImageRecord], categories: tuple[str, ...]
) -> Dataset:
    empty = [
        record if record.state.is_negative else record.with_state(ImageState.ASSUMED_EMPTY)
        for record in records
    ]
    return Dataset(categories, tuple(empty), like.root)


def _require(
    sizes: Mapping[str, int], pool: Dataset, leaks: Sequence[Leak], groups: Collection[int]
) -> None:
    for purpose, size in sizes.items():
        if size == 0:
            found = ", ".join(f"{number} to {use}" for use, number in sizes.items())
            raise DataError(
                f"{pool.root}: no image is left to {purpose} (there are {found})"
                f"{''.join(_in_both(leaks, len(pool)))}{_alike(groups, len(pool) - len(leaks))}"
            )


def _alike(groups: Collection[int], images: int) -> str:
    """Say that the images of a pool look alike, where there are too few groups to divide them."""
    if len(groups) > 2 or images <= len(groups):
        return ""
    of_one = "of each other" if len(groups) == 1 else "that form 2 groups"
    return (
        f"; the {images} images of the pool are near-duplicates {of_one}, which stay in one part: the "
        "pool needs images that look different"
    )


_SETS = {"train": "training images", "val": "validation images", "final": "held-out negatives"}
_OTHER = "negatives to train on"


def _in_both(leaks: Sequence[Leak], images: int) -> Iterator[str]:
    """Say for each other set how many of the pool's images are in it too."""
    for name, words in _SETS.items():
        shared = [leak for leak in leaks if leak.sets.endswith(f"/{name}")]
        if shared:
            yield (
                f"; {len(shared)} of the pool's {images} images are among the {words} as well, such as "
                f"{shared[0].image}: what is mined must be other images"
            )


@dataclass(frozen=True)
class SeparateSets:
    """Readable images; negatives that repeat a training or validation image are left out.

    ``train_negatives`` are images without objects to train on; of these, only the same pictures are left
    out: a camera that does not move shows one place with an object and without.
    """

    train: Dataset
    train_negatives: Dataset
    val: Dataset
    held_out: Dataset
    problems: tuple[Problem, ...]
    leaks: tuple[Leak, ...]
    train_val_leaks: tuple[tuple[str, str], ...]

    def leak_lines(self) -> tuple[str, ...]:
        """Return a line for each near-duplicate that lay in two sets; files in both are counted."""
        return (*(str(leak) for leak in self.leaks), *describe_leaks(self.train_val_leaks))


def separate_sets(
    parts: Mapping[str, Dataset], steps: Steps, train_val_leaks: tuple[tuple[str, str], ...] = ()
) -> SeparateSets:
    """Read every image once and leave out unreadable ones and negatives that repeat others.

    Args:
        parts: ``train``, ``val``, ``held_out`` and, where there are any, ``train_negatives``.

    Raises:
        DataError: none of the images to train on or to validate on can be read.
    """
    good, group_of, problems = read_all(parts, steps)
    for name, purpose in (("train", "train on"), ("val", "validate on")):
        require_left(good[name], parts[name], purpose, "can be read")
    more, repeated = _new_pictures(good, steps)
    good["train_negatives"] = more
    others = ("train", "train_negatives", "val")
    records, leaks = set_apart(good, "held_out", others, group_of)
    _say_left_out("held-out negatives", len(good["held_out"]), leaks)
    return SeparateSets(
        good["train"],
        more,
        good["val"],
        good["held_out"].with_records(records),
        problems,
        (*repeated, *leaks),
        train_val_leaks,
    )


def _new_pictures(good: Mapping[str, Dataset], steps: Steps) -> tuple[Dataset, list[Leak]]:
    """Return the negatives to train on whose files are not in the labelled sets, byte for byte."""
    name = "train_negatives"
    if name not in good:
        return good["train"].with_records([]), []
    kept, leaks = set_apart(good, name, ("train", "val"), steps.contents)
    if leaks:
        _log.warning(
            "%d of the %s of %s %s in the labelled data too, and left out here (the first: %s)",
            len(leaks),
            counted(len(good[name]), "image"),
            name,
            "is" if len(leaks) == 1 else "are",
            leaks[0].image,
        )
    return good[name].with_records(kept), leaks


def require_left(left: Dataset, before: Dataset, purpose: str, wanted: str) -> None:
    """Refuse a set of which every image was left out; one that was empty before is let be.

    Args:
        purpose: what the images are for, such as "validate on".
        wanted: what none of them is, such as "can be read".

    Raises:
        DataError: no image is left.
    """
    if len(before) and not len(left):
        raise DataError(
            f"{before.root}: no image is left to {purpose}: none of the {len(before)} images {wanted} "
            f"(the first: {before.records[0].path})"
        )
