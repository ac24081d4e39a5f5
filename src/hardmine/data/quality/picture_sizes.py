"""Label sizes against picture sizes: on which picture were the boxes drawn?

A label that says another size than its picture has was drawn on that picture at another scale, or
its width and height are swapped, or it was drawn before the picture was turned upright by its EXIF
orientation. What the sizes alone do not tell is decided by the boxes of the whole set: where one
reading puts boxes outside their pictures and another none, the other one is right. Where both fit,
boxes stay where they are.

`check` reports what is decided here, `check --fix` writes it, and training and measuring use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hardmine.types import F64, I64, Mask

FITS = 0.95
"""Share of boxes that a reading must leave inside their pictures to be chosen over another."""
WORSE = 5.0
"""The other reading must put so many times as many boxes outside."""
LEAST_FIT = 0.5
"""Where the best reading leaves fewer boxes inside, none is right."""
LEAST_SHARE = 0.02
"""And at least this share of them (one box or more)."""
_TOLERANCE = (2.0, 0.01)
"""Pixels, or share of the picture's side, by which a box may pass the edge; the larger counts."""
_SIDEWAYS = 5


class Reading(StrEnum):
    """What a label's numbers mean on the picture as displayed."""

    AS_WRITTEN = "as written"
    """Pixels of the picture, whatever size the label says."""
    SCALED = "scaled"
    """Pixels of the same picture at the size that the label says."""
    UPRIGHT = "upright"
    """Pixels of the upright picture; the label's width and height are swapped."""
    TURNED = "turned"
    """Pixels of the picture as it is stored, before its EXIF orientation turns it."""
    UNKNOWN = "unknown"
    """Pixels of some other picture: the boxes cannot be placed."""


class Relation(StrEnum):
    """How a label's size relates to its picture's."""

    EQUAL = "labels of their size"
    PROPORTIONAL = "labels at another scale"
    SWAPPED = "width and height swapped in the label"
    OTHER = "labels of another shape"


@dataclass(frozen=True, slots=True)
class SizeVerdict:
    """What was decided for the images of a set that have one relation and turn alike."""

    relation: Relation
    turned: bool
    """Whether the EXIF orientation exchanges width and height."""
    reading: Reading
    images: int
    boxes: int
    fits: dict[Reading, int]
    """How many of the boxes lie inside their pictures under each reading."""
    decided: bool
    """False where another reading fits as well: the boxes stay where they are."""

    def __str__(self) -> str:
        shown = ", ".join(
            f"{number} {reading}" for reading, number in self.fits.items() if reading in _TOLD
        )
        how = (
            f"of {self.boxes} boxes fit: {shown}" if shown and self.boxes else f"{self.boxes} boxes"
        )
        done = {
            Reading.AS_WRITTEN: "they are pixels of the pictures as they are",
            Reading.SCALED: "they are scaled to the pictures",
            Reading.UPRIGHT: "they stay where they are",
            Reading.TURNED: "they are turned with the pictures",
            Reading.UNKNOWN: "they cannot be placed",
        }[self.reading]
        doubt = "" if self.decided else "both readings fit, so "
        return f"{self.images} images with {self.relation}; {how}; {doubt}{done}"

    def describe(self, label: tuple[int, int], picture: tuple[int, int]) -> str:
        """Return what is wrong with one image, and what becomes of its boxes."""
        done = {
            Reading.AS_WRITTEN: "its boxes are pixels of the image as they are",
            Reading.SCALED: f"its boxes are scaled by {picture[0] / label[0]:.4g}",
            Reading.UPRIGHT: "width and height are swapped, its boxes stay where they are",
            Reading.TURNED: "its boxes are turned as the image is by its EXIF orientation",
            Reading.UNKNOWN: "its boxes cannot be placed",
        }[self.reading]
        doubt = "" if self.decided else " (drawn on the image as stored they would fit as well)"
        if self.relation is Relation.EQUAL:
            return f"drawn on the image before its EXIF turn: {done}"
        return (
            f"image is {picture[0]} x {picture[1]}, its label says {label[0]} x {label[1]}: "
            f"{done}{doubt}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSizes:
    """The sizes and boxes of a set's images.

    ``labels`` and ``pictures`` i64[M, 2] (width, height; pictures as displayed, (0, 0): not read),
    ``turns`` i64[M] EXIF orientations, ``owner`` i64[N] (index of the image), ``boxes`` f64[N, 4]
    (xyxy, pixels of the label's size).
    """

    labels: I64
    pictures: I64
    turns: I64
    owner: I64
    boxes: F64


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Where the boxes lie on the pictures: ``boxes`` f64[N, 4], ``sizes`` i64[M, 2] of the images,
    ``verdict_of`` i64[M] (index into ``verdicts``; −1 where label and picture agree).
    """

    boxes: F64
    sizes: I64
    verdicts: tuple[SizeVerdict, ...]
    verdict_of: I64

    def of(self, image: int) -> SizeVerdict | None:
        """Return what was decided for an image; None where label and picture agree."""
        index = int(self.verdict_of[image])
        return None if index < 0 else self.verdicts[index]


def place_boxes(sizes: LabelledSizes) -> Placed:
    """Decide for each relation of sizes which reading holds, and put the boxes on the pictures."""
    relation = relations(sizes.labels, sizes.pictures)
    sideways = sizes.turns >= _SIDEWAYS
    known = (sizes.pictures > 0).all(axis=1)
    boxes, out = sizes.boxes.copy(), sizes.labels.copy()
    verdicts: list[SizeVerdict] = []
    verdict_of = np.full(len(relation), -1, np.int64)
    for kind in Relation:
        for turned in (False, True):
            images = known & (relation == kind) & (sideways == turned)
            readings = _READINGS[kind, turned]
            if not images.any() or readings == (Reading.AS_WRITTEN,):
                continue
            rows = np.flatnonzero(images[sizes.owner])
            verdict = _decide(sizes, kind, turned, readings, int(images.sum()), rows)
            if kind is Relation.EQUAL and verdict.reading is Reading.AS_WRITTEN:
                continue
            verdict_of[images] = len(verdicts)
            verdicts.append(verdict)
            out[images] = sizes.pictures[images]
            boxes[rows] = read_boxes(sizes, verdict.reading, rows)
    return Placed(boxes, out, tuple(verdicts), verdict_of)


def relations(labels: I64, pictures: I64) -> np.ndarray:
    """Return the `Relation` of each label's size (i64[M, 2]) to its picture's.

    Sizes are proportional when one factor explains both sides within a pixel.
    """
    found = np.full(len(labels), Relation.OTHER, object)
    found[_proportional(labels, pictures[:, ::-1])] = Relation.SWAPPED
    found[_proportional(labels, pictures)] = Relation.PROPORTIONAL
    found[(labels == pictures).all(axis=1)] = Relation.EQUAL
    return found


def read_boxes(sizes: LabelledSizes, reading: Reading, rows: I64) -> F64:
    """Return boxes, xyxy pixels of the pictures as displayed, under a reading."""
    boxes, image = sizes.boxes[rows], sizes.owner[rows]
    if reading in (Reading.AS_WRITTEN, Reading.UNKNOWN):
        return boxes
    label, picture = sizes.labels[image].astype(np.float64), sizes.pictures[image]
    if reading is Reading.TURNED:
        # The frame of the boxes is the stored picture: the label's size, or the picture's on its side.
        frame = np.where((label == picture).all(axis=1)[:, None], label[:, ::-1], label)
        boxes = turn_boxes(boxes, sizes.turns[image], frame)
        label = frame[:, ::-1]
    elif reading is Reading.UPRIGHT:
        label = label[:, ::-1]
    return boxes * np.tile(picture / np.maximum(label, 1.0), 2)


def turn_boxes(boxes: F64, turns: I64, frames: F64) -> F64:
    """Return boxes of stored pictures on the pictures as displayed.

    Args:
        boxes (f64[N, 4]): xyxy, pixels of the stored pictures.
        turns (i64[N]): EXIF orientations 1 to 8.
        frames (f64[N, 2]): width and height of the stored pictures.
    """
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    width, height = frames[:, :1], frames[:, 1:]
    turn = turns[:, None]
    sideways = turn >= _SIDEWAYS  # rows of the stored picture are columns of the displayed one
    x, y = np.where(sideways, y, x), np.where(sideways, x, y)
    wide, high = np.where(sideways, height, width), np.where(sideways, width, height)
    x = np.where(np.isin(turn, (2, 3, 6, 7)), wide - x, x)
    y = np.where(np.isin(turn, (3, 4, 7, 8)), high - y, y)
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


_READINGS: dict[tuple[Relation, bool], tuple[Reading, ...]] = {
    (Relation.EQUAL, False): (Reading.AS_WRITTEN,),
    (Relation.EQUAL, True): (Reading.AS_WRITTEN, Reading.TURNED),
    (Relation.PROPORTIONAL, False): (Reading.SCALED, Reading.AS_WRITTEN),
    (Relation.PROPORTIONAL, True): (Reading.SCALED, Reading.AS_WRITTEN),
    (Relation.SWAPPED, False): (Reading.UPRIGHT, Reading.UNKNOWN),
    (Relation.SWAPPED, True): (Reading.UPRIGHT, Reading.TURNED),
    (Relation.OTHER, False): (Reading.UNKNOWN,),
    (Relation.OTHER, True): (Reading.UNKNOWN,),
}
"""The readings that a relation allows, first the one that holds where the boxes do not decide."""
_TOLD = frozenset({Reading.AS_WRITTEN, Reading.SCALED, Reading.UPRIGHT, Reading.TURNED})


def _decide(
    sizes: LabelledSizes,
    relation: Relation,
    turned: bool,
    readings: Sequence[Reading],
    images: int,
    rows: I64,
) -> SizeVerdict:
    rows = rows[_is_box(sizes.boxes[rows])]
    fits = {reading: int(_fits(sizes, reading, rows).sum()) for reading in readings}
    total, first = len(rows), readings[0]
    best = next((other for other in readings[1:] if _better(fits, other, first, total)), first)
    if total == 0 and relation is Relation.OTHER:
        best = Reading.AS_WRITTEN  # without boxes there is nothing to misplace
    elif fits[best] < LEAST_FIT * total:
        best = Reading.UNKNOWN
    doubtful = relation is Relation.SWAPPED and turned and best is first
    decided = not doubtful or all(_better(fits, first, other, total) for other in readings[1:])
    return SizeVerdict(relation, turned, best, images, total, fits, decided)


def _better(fits: dict[Reading, int], a: Reading, b: Reading, total: int) -> bool:
    """Return whether the boxes speak for reading ``a`` and against ``b``."""
    out_a, out_b = total - fits[a], total - fits[b]
    least = max(1.0, LEAST_SHARE * total)
    return fits[a] >= FITS * total and out_b >= least and out_b >= WORSE * out_a


def _fits(sizes: LabelledSizes, reading: Reading, rows: I64) -> Mask:
    """Return which boxes lie inside their pictures under a reading; unknown: inside the label's size."""
    boxes = read_boxes(sizes, reading, rows)
    frames = sizes.labels if reading is Reading.UNKNOWN else sizes.pictures
    limit = frames[sizes.owner[rows]].astype(np.float64)
    slack = np.maximum(_TOLERANCE[0], _TOLERANCE[1] * limit)
    inside = (boxes[:, :2] >= -slack) & (boxes[:, 2:] <= limit + slack)
    return np.asarray(inside.all(axis=1))


def _is_box(boxes: F64) -> Mask:
    """Return which boxes are finite and not inside out; others say nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        )


def _proportional(a: I64, b: I64) -> Mask:
    """Return which sizes differ by one factor, each side of ``b`` being known within a pixel."""
    difference = np.abs(b[:, 0] * a[:, 1] - b[:, 1] * a[:, 0])
    return np.asarray((difference <= a.sum(axis=1)) & (a > 0).all(axis=1) & (b > 0).all(axis=1))
