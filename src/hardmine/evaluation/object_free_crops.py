"""Crops of validation images that hold no object: the same camera, light and encoding.

A detector that learned "pictures from elsewhere are empty" instead of what the object looks like
fires less on foreign negatives and as much as before on these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hardmine.data.images import read_image
from hardmine.errors import DataError
from hardmine.files import write_atomic
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageRecord, ImageState, Problem

SOURCE = "object_free_crops"
_LOGGER = logging.getLogger(__name__)

Rectangle = tuple[int, int, int, int]
"""left, top, right, bottom in whole pixels; right and bottom are exclusive."""


@dataclass(frozen=True)
class CropWindow:
    """A window of ``dataset.records[position]``: whole pixels, right and bottom exclusive."""

    position: int
    left: int
    top: int
    right: int
    bottom: int


def object_free_crops(
    dataset: Dataset,
    seed: int,
    *,
    per_image: int = 2,
    min_side: float = 0.3,
    max_aspect: float = 2.0,
    margin: int = 2,
) -> tuple[CropWindow, ...]:
    """Choose windows of the labelled images that hold no pixel of any box, ignored ones included.

    The largest empty rectangles of an image are found exactly; a window is one of them, cut to
    ``max_aspect`` at a place that the seed chooses. Windows of one image do not overlap. Images
    filled by their objects give none.

    Args:
        per_image: at most so many windows per image.
        min_side: the shorter side of a window is at least this share of the image's shorter side,
            since small crops, enlarged to the input size, would be recognised by their blur.
        max_aspect: longest over shortest side.
        margin: pixels kept free around each box.

    Returns:
        In the order of the images, and of one image the largest first; the same for the same seed.
    """
    windows: list[CropWindow] = []
    for position, record in enumerate(dataset.records):
        if record.state is not ImageState.LABELLED or not len(record.boxes):
            continue
        blocked = _blocked(record, margin)
        least = max(1, round(min_side * min(record.width, record.height)))
        generator = np.random.default_rng((seed, position))
        for _ in range(per_image):
            free = largest_empty_rectangle(record.width, record.height, blocked, least)
            if free is None:
                break
            window = _cut(free, max_aspect, generator)
            windows.append(CropWindow(position, *window))
            blocked = [*blocked, window]
    return tuple(windows)


def largest_empty_rectangle(
    width: int, height: int, blocked: Sequence[Rectangle], least: int
) -> Rectangle | None:
    """Return the largest rectangle with sides of at least ``least`` that meets no blocked one.

    Each side of a largest rectangle touches the image's border or a blocked rectangle, so it is
    enough to try every pair of such left and right sides, and the gaps between what lies between
    them. Gaps too low are dropped at once, so that few are left however many rectangles there are.
    Of equal ones the first, by left, right and top, is taken.
    """
    best: Rectangle | None = None
    best_area = 0
    for left in sorted({0, *(right for _, _, right, _ in blocked)}):
        between = sorted(block for block in blocked if block[2] > left)
        gaps, met = [(0, height)], 0
        for right in sorted({*(block[0] for block in between), width}):
            while met < len(between) and between[met][0] < right:
                gaps = list(_cut_out(gaps, between[met], least))
                met += 1
            highest = max((bottom - top for top, bottom in gaps), default=0)
            if highest * (width - left) <= best_area:
                break  # what lies further to the right only takes away
            for top, bottom in gaps if right - left >= least else ():
                area = (right - left) * (bottom - top)
                if bottom - top >= least and area > best_area:
                    best, best_area = (left, top, right, bottom), area
    return best


def write_crops(dataset: Dataset, windows: Sequence[CropWindow], folder: Path) -> Dataset:
    """Cut the windows out, write them into ``folder`` and return them as a dataset without objects.

    The files are PNG: the pixels carry the camera's and the encoder's traces already, and a second
    JPEG encoding would add traces that the validation images do not have. Images that cannot be
    read become problems of the dataset. Files that are there already are written again.
    """
    records: list[ImageRecord] = []
    problems: list[Problem] = []
    for window in windows:
        record = dataset.records[window.position]
        box = (window.left, window.top, window.right, window.bottom)
        name = f"{window.position:06d}_{'_'.join(str(value) for value in box)}.png"
        try:
            crop = read_image(record.path).crop(box)
        except DataError as error:
            problems.append(Problem(FindingKind.IMAGE_UNREADABLE, str(record.path), -1, str(error)))
            continue
        write_atomic(folder / name, partial(crop.save, format="PNG"))
        state = ImageState.VERIFIED_EMPTY
        records.append(ImageRecord.empty(folder / name, crop.width, crop.height, state, SOURCE))
    _LOGGER.info("%d object-free crops of %d images", len(records), len(dataset))
    return Dataset(dataset.categories, tuple(records), folder, tuple(problems))


def _blocked(record: ImageRecord, margin: int) -> list[Rectangle]:
    lowest = np.floor(record.boxes[:, :2].astype(np.float64)).astype(np.int64) - margin
    highest = np.ceil(record.boxes[:, 2:].astype(np.float64)).astype(np.int64) + margin
    size = np.array([record.width, record.height])
    clipped = np.concatenate([lowest.clip(0, size), highest.clip(0, size)], axis=1)
    return [(left, top, right, bottom) for left, top, right, bottom in clipped.tolist()]


def _cut_out(
    gaps: Iterable[tuple[int, int]], block: Rectangle, least: int
) -> Iterator[tuple[int, int]]:
    """Yield what a rectangle leaves of vertical stretches, without parts below ``least``."""
    _, upper, _, lower = block
    for top, bottom in gaps:
        if lower <= top or bottom <= upper:
            yield top, bottom
            continue
        for part in ((top, upper), (lower, bottom)):
            if part[1] - part[0] >= max(1, least):
                yield part


def _cut(free: Rectangle, max_aspect: float, generator: np.random.Generator) -> Rectangle:
    """Shorten the longer side to ``max_aspect`` times the shorter one, at a random place."""
    left, top, right, bottom = free
    width, height = right - left, bottom - top
    place = float(generator.random())
    if width > max_aspect * height:
        kept = int(max_aspect * height)
        left += round(place * (width - kept))
        right = left + kept
    elif height > max_aspect * width:
        kept = int(max_aspect * width)
        top += round(place * (height - kept))
        bottom = top + kept
    return left, top, right, bottom
