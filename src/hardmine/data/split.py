"""Splits on which near-copies of one picture never lie on two sides."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hardmine.data.phash import MAX_DISTANCE, find_near, group_duplicates, hash_images
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord

F64 = NDArray[np.float64]


def split_dataset(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, Dataset]:
    """Split a dataset at random, near-copies together and classes spread evenly.

    The result depends on the images' paths and the seed, not on the order of the records. Every
    split gets at least one group of images; the fractions are met up to the size of a group.

    Args:
        fractions: share of the images by split name; positive, with the sum 1.
        seed: another seed gives another split.

    Raises:
        ValueError: the fractions are not positive or do not sum to 1.
        DataError: there are fewer groups of images than splits.
    """
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)}: wanted positive shares that sum to 1")
    records = dataset.records
    groups = _groups(records, seed)
    if len(groups) < len(fractions):
        raise DataError(
            f"{dataset.root}: {len(records)} images in {len(groups)} groups of near-copies, "
            f"cannot fill {len(fractions)} splits"
        )
    counts = _count(records, len(dataset.categories))  # [images, C + 2]
    of_group = np.stack([counts[group].sum(axis=0) for group in groups])
    places = _assign(of_group, list(fractions.values()))
    members: dict[str, list[int]] = {name: [] for name in fractions}
    names = list(fractions)
    for group, place in zip(groups, places, strict=True):
        members[names[place]] += group
    return {name: dataset.subset(sorted(indices)) for name, indices in members.items()}


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


def _groups(records: Sequence[ImageRecord], seed: int) -> list[list[int]]:
    """Return groups of near-copies, larger ones first, otherwise shuffled."""
    hashes = hash_images([record.path for record in records])
    known = [index for index, value in enumerate(hashes) if value is not None]
    ids = group_duplicates([value for value in hashes if value is not None])
    groups: dict[int, list[int]] = defaultdict(list)
    for index, group in zip(known, ids, strict=True):
        groups[known[group]].append(index)
    groups |= {i: [i] for i, value in enumerate(hashes) if value is None}
    by_path = [sorted(members, key=lambda i: str(records[i].path)) for members in groups.values()]
    ordered = sorted(by_path, key=lambda members: str(records[members[0]].path))
    random.Random(seed).shuffle(ordered)
    return sorted(ordered, key=len, reverse=True)


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
