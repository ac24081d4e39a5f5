"""Grey pictures of more than 8 bits: one rule for how bright they become.

A file of 16 bits per pixel often holds 10, 12 or 14: its own numbers do not say which, and stretching
each picture to its own maximum would make a dark one bright. So all pictures of a set share one white:

- what the file declares, where its format scales pictures to it (PGM, JPEG 2000) or says how many
  bits there are (TIFF's BitsPerSample below 16, MaxSampleValue);
- else the largest number of 8, 10, 12, 14 or 16 bits that holds every pixel of the set. The set are
  the files of the same folder or archive with the same suffix: of a folder an even sample of 64, of
  an archive or a folder on a network the first ones.

White becomes 255 and 0 stays 0. Numbers of floating point have the white 1.0 where none in the set is
larger. A picture that is brighter than the sample showed takes the white that holds it.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from hardmine.data.pillow_open import pillow_open
from hardmine.types import F64

BITS = (8, 10, 12, 14, 16)
SAMPLE = 64
"""Pictures of a set that are looked at."""

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_SCALED = frozenset({"PPM", "JPEG2000"})
"""Formats whose whole pictures Pillow scales to 16 bits."""
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)

SetOf = Callable[[str], str | None]
Contents = Callable[[str, str], Iterable[bytes]]
_readers: list[tuple[SetOf, Contents]] = []


def add_set_reader(set_of: SetOf, contents: Contents) -> None:
    """Let pictures that are no files of their own have a set, such as the members of an archive.

    Args:
        set_of: returns the name of a picture's set, None where the picture is not of this kind.
        contents: returns the first ``SAMPLE`` pictures of a set, given its name and their suffix.
    """
    _readers.append((set_of, contents))


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether a picture is grey with more than 8 bits per pixel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def declared_white(image: Image.Image) -> float | None:
    """Return the number that stands for white, where the file says so."""
    if image.format in _SCALED and image.mode != "F":
        return float(2**16 - 1)
    tags = getattr(image, "tag_v2", {})
    largest = tags.get(_MAX_SAMPLE_VALUE)
    if isinstance(largest, tuple):
        largest = largest[0]
    if isinstance(largest, int) and largest > 255:
        return float(largest)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    return float(2**bits - 1) if 8 < bits < 16 else None


def white_of_set(name: str) -> float:
    """Return the number that stands for white in the set of a picture, by the rule above."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    for index, (set_of, _) in enumerate(_readers):
        found = set_of(name)
        if found is not None:
            return _white_of(index, found, suffix)
    return _white_of(-1, os.path.dirname(name) or ".", suffix)  # noqa: PTH120


def white_of(contents: Iterable[str | bytes]) -> float:
    """Return the white of a set, given the paths or the contents of its pictures.

    What is not deep grey or cannot be read is passed over; without any picture it is that of 16 bits.
    """
    largest, whole = -1.0, False
    for content in contents:
        found = _largest(content)
        if found is not None:
            largest, whole = max(largest, found[0]), whole or found[1]
    return float(2**16 - 1) if largest < 0 else _white(largest, whole)


def to_eight_bits(image: Image.Image, white: float | None) -> Image.Image:
    """Return a deep grey picture as one of 8 bits: ``white`` becomes 255, 0 stays 0.

    None: the picture is a set of its own.
    """
    values = _values(image)
    largest = float(values.max(initial=0.0))
    if white is None or largest > white:
        white = _white(largest, image.mode != "F")
    return Image.fromarray((values * (255.0 / white)).clip(0, 255).round().astype(np.uint8))


@lru_cache(4096)
def _white_of(reader: int, name: str, suffix: str) -> float:
    """Return the white of a set: a folder's, or one that a reader knows."""
    return white_of(_sample(name, suffix) if reader < 0 else _readers[reader][1](name, suffix))


def _sample(folder: str, suffix: str) -> Iterator[str]:
    """Yield up to ``SAMPLE`` files of a folder that have the suffix, evenly over their names."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.lower().endswith(suffix))
    except OSError:
        return
    step = max(1, -(-len(names) // SAMPLE))
    yield from (os.path.join(folder, name) for name in names[::step])  # noqa: PTH118


def _largest(content: str | bytes) -> tuple[float, bool] | None:
    """Return a deep grey picture's largest number, and whether its numbers are whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow_open(content) as image:
                if not is_deep_grey(image):
                    return None
                values = _values(image)
                return float(values.max(initial=0.0)), image.mode != "F"
    except (*_BROKEN, Image.DecompressionBombError, MemoryError):
        return None


def _values(image: Image.Image) -> F64:
    values = np.asarray(image, np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _white(largest: float, whole: bool) -> float:
    if not whole and largest <= 1.0:
        return 1.0
    bits = next((bits for bits in BITS if largest <= 2**bits - 1), None)
    return largest if bits is None else float(2**bits - 1)
