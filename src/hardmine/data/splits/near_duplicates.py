"""Perceptual hashes: 64 bits that near-copies of a picture share, and groups of such copies.

Source: the DCT hash of C. Zauner, "Implementation and benchmarking of perceptual image hash
functions" (2010): 32 x 32 grey, the 8 x 8 lowest frequencies, each compared with their median.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hardmine.data.images import decode_image, open_picture
from hardmine.errors import DataError
from hardmine.types import F64

U64 = NDArray[np.uint64]

MAX_DISTANCE = 6
"""Bits of 64 by which the hashes of near-copies may differ (inclusive).

Measured on 563 photographs with 14 known pairs of near-copies: those pairs are at 0 to 6 bits, the
nearest pair of different pictures (two playing cards on one carpet) at 8.
"""

_SIDE = 32
_FREQUENCIES = 8
_FLAT = 1.0
"""Grey levels: a picture is uniform when no frequency but the mean has a larger amplitude."""
_ROWS = 1024
"""Hashes compared with their bucket at once: bounds the memory."""
_DECODE = 256
"""A JPEG may be decoded at a fraction of its size, but not smaller than this."""
_THREADS = 4


def perceptual_hash(image: Image.Image) -> int:
    """Return the hash of a picture as a signed 64-bit integer; 0 for a uniform picture.

    It survives scaling, re-encoding, small changes of brightness, contrast and content, not
    cropping, mirroring or turning. Distances between hashes of non-uniform pictures are even, since
    half of the bits are set.
    """
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    basis = _dct_basis()
    spectrum = (basis @ np.asarray(small, np.float64) @ basis.T).ravel()
    if np.abs(spectrum[1:]).max() < _FLAT:
        return 0
    bits = np.packbits(spectrum > np.median(spectrum))
    return int(bits.view(">i8")[0])


def hash_images(paths: Sequence[Path]) -> list[int | None]:
    """Return each image's hash, None where it cannot be read."""
    return [value for value, _ in hash_contents(paths)]


def hash_contents(paths: Sequence[Path]) -> list[tuple[int | None, str]]:
    """Return what :func:`hash_images` does, each with 16 hex digits of the SHA-256 of its file."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_hash_file, paths))


def group_duplicates(hashes: Sequence[int], max_distance: int = MAX_DISTANCE) -> list[int]:
    """Group hashes that are linked by a chain of near-copies.

    Args:
        hashes: signed 64-bit integers.
        max_distance: differing bits that still count as a copy, inclusive.

    Returns:
        A group id for each hash: the index of the group's first member.
    """
    values, first, inverse = np.unique(_as_bits(hashes), return_index=True, return_inverse=True)
    parent = list(range(len(values)))
    for row, near in near_pairs(values, max_distance):
        root = _find(parent, row)
        for other in near.tolist():
            other_root = _find(parent, other)
            parent[other_root] = root
    roots = np.array([_find(parent, i) for i in range(len(values))], np.int64)
    leader = np.full(len(values), len(hashes), np.int64)
    np.minimum.at(leader, roots, first)
    return [int(group) for group in leader[roots[inverse]]]


def find_near(
    a: Sequence[int | None], b: Sequence[int | None], max_distance: int = MAX_DISTANCE
) -> dict[int, int]:
    """Return, for each index of ``b`` that has a near-copy in ``a``, the index of the nearest one.

    Of equally near ones the first; None (an image that cannot be read) has no copies.
    """
    entries = [(0, i, h) for i, h in enumerate(a) if h is not None]
    entries += [(1, i, h) for i, h in enumerate(b) if h is not None]
    values, inverse = np.unique(_as_bits([h for _, _, h in entries]), return_inverse=True)
    first_a: dict[int, int] = {}
    members_b: dict[int, list[int]] = defaultdict(list)
    for (side, index, _), value in zip(entries, inverse.tolist(), strict=True):
        if side == 0:
            first_a.setdefault(value, index)
        else:
            members_b[value].append(index)
    best = {value: (0, first_a[value]) for value in members_b if value in first_a}
    for row, near in near_pairs(values, max_distance):
        for x, y in ((row, other) for other in near.tolist()):
            distance = int(np.bitwise_count(values[x] ^ values[y]))
            for from_a, to_b in ((x, y), (y, x)):
                if from_a in first_a and to_b in members_b:
                    found = (distance, first_a[from_a])
                    best[to_b] = min(best.get(to_b, found), found)
    return {index: best[value][1] for value in best for index in members_b[value]}


def near_pairs(values: U64, max_distance: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield rows with the later-sorted rows that are within ``max_distance`` bits of them.

    A pair may come more than once, and in either order. Of ``max_distance`` + 1 bands of bits, two
    hashes that differ in no more than ``max_distance`` bits agree in at least one whole band, so
    only hashes that share a band are compared.
    """
    edges = np.linspace(0, 64, max_distance + 2).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        band = values & mask
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, cuts):
            for start in range(0, len(bucket) - 1, _ROWS):
                rows = bucket[start : start + _ROWS]
                rest = bucket[start:]
                distance = np.bitwise_count(values[rows, None] ^ values[None, rest])  # [R, rest]
                near = np.triu(distance <= max_distance, 1)
                for row in np.flatnonzero(near.any(axis=1)).tolist():
                    yield int(rows[row]), rest[near[row]]


def _find(parent: list[int], item: int) -> int:
    """Return the root of an item's tree, shortening the path on the way."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


def _as_bits(hashes: Sequence[int]) -> U64:
    return np.array(hashes, np.int64).view(np.uint64)


def hash_encoded(data: bytes, name: str) -> int:
    """Return the hash of an image file's content, wherever it came from.

    Args:
        name: what an error calls it.

    Raises:
        DataError: the content is no image, or a broken one.
    """
    try:
        with open_picture(io.BytesIO(data), name) as image:
            if image.format == "JPEG":
                image.draft("L", (_DECODE, _DECODE))
                return perceptual_hash(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # decoding it in full says what is wrong
    return perceptual_hash(decode_image(data, name).pixels)


def _hash_file(path: Path) -> tuple[int | None, str]:
    digest = ""
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
        return hash_encoded(data, str(path)), digest
    except (DataError, OSError):
        return None, digest


@cache
def _dct_basis() -> F64:
    """Return the lowest DCT-II basis vectors, orthonormal, [8, 32]."""
    k, x = np.arange(_FREQUENCIES)[:, None], np.arange(_SIDE)
    basis: F64 = np.cos(np.pi * (2 * x + 1) * k / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return basis
