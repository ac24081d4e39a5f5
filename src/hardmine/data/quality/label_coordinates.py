"""What the numbers of the boxes mean: which form they have, and on which picture they were drawn.

**Form.** The four numbers of every box are read under each hypothesis. A reading is *sound* when
the box has an extent of two pixels or more and lies inside its image. The right form leaves nearly
all boxes sound; a wrong one turns boxes inside out, shrinks them to nothing or pushes them over the
edge.

Pixels and shares of the image can be distinguished with one box, since they differ by hundreds
of times: one box that makes sense only in the other unit is enough. The order of the numbers needs
more. Where some boxes of a set are in pixels and others are shares, each box is read in the only
unit that makes sense for it. Where several readings fit (pixels and percent of the image look
alike), that is said and nothing is changed.

**Picture.** A label that says another size than its picture has was drawn on that picture at
another scale, or its width and height are swapped, or it was drawn before the picture was turned
upright by its EXIF orientation. What the sizes alone leave open is decided by the boxes of the
whole set: where one reading puts boxes outside their pictures and another none, the other one is
right. Where both fit, boxes stay where they are.

`check` reports what is decided here, `check --fix` writes it, and training and measuring use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hardmine.data.formats.label_validation import RawSplit, object_table
from hardmine.plurals import counted
from hardmine.types import F64, I64, Mask

MIN_BOXES = 8
"""With fewer boxes nothing is claimed but that shares were taken for pixels, or pixels for shares."""
SOUND_ENOUGH = 0.95
"""Share of sound boxes that a form must reach to be named in place of the declared one."""
WORSE = 5.0
"""The declared form must leave this many times as many unsound boxes as the named one."""
_LEAST_MIXED = 0.001
"""Share of the boxes that must be in the other unit before a set counts as mixed; fewer are specks."""
_LEAST_UNSOUND = (3, 0.02)
_MIN_EXTENT = 2.0
_CROWDED = (200.0, 60.0)
"""Boxes that all lie in the first 100 pixels may be percent where half of the images are larger than
the first number, and some boxes begin beyond the second one both ways.
"""
_TOLERANCE = (2.0, 0.01)
"""Pixels, or share of the image's side: how far a box may pass the edge; the larger counts."""


def _corners(n: F64) -> F64:
    return n


def _swapped(n: F64) -> F64:
    return n[:, [2, 3, 0, 1]]


def _yx(n: F64) -> F64:
    return n[:, [1, 0, 3, 2]]


def _pairs(n: F64) -> F64:
    return n[:, [0, 2, 1, 3]]


def _xywh(n: F64) -> F64:
    return np.concatenate([n[:, :2], n[:, :2] + n[:, 2:]], axis=1)


def _yxhw(n: F64) -> F64:
    return _xywh(_yx(n))


def _cxcywh(n: F64) -> F64:
    return np.concatenate([n[:, :2] - n[:, 2:] / 2, n[:, :2] + n[:, 2:] / 2], axis=1)


_PLAIN: tuple[tuple[str, str, Callable[[F64], F64]], ...] = (
    ("xyxy", "xmin ymin xmax ymax", _corners),
    ("xywh", "xmin ymin width height", _xywh),
    ("cxcywh", "centre x, centre y, width, height", _cxcywh),
    ("yxyx", "ymin xmin ymax xmax (x and y swapped)", _yx),
    ("yxhw", "ymin xmin height width (x and y swapped)", _yxhw),
    ("xxyy", "xmin xmax ymin ymax", _pairs),
    ("x1y1x0y0", "xmax ymax xmin ymin (corners swapped)", _swapped),
)
FORMS: dict[str, tuple[str, Callable[[F64], F64], bool]] = {
    name + suffix: (words + unit, convert, bool(suffix))
    for suffix, unit in (("", ", in pixels"), ("_shares", ", as shares of the image (0 to 1)"))
    for name, words, convert in _PLAIN
    if not (suffix and name in ("yxyx", "yxhw"))
}
"""By name: in words, the function to xyxy, and whether the numbers are shares of the image.

Shares with x and y swapped are not among them: they lie inside the image either way.
"""


@dataclass(frozen=True, slots=True)
class FormVerdict:
    """How well the declared form and the best one explain a split's boxes."""

    declared: str
    best: str
    boxes: int
    sound: dict[str, float]
    """Share of sound boxes under each form."""
    rivals: tuple[str, ...] = ()
    """Further readings, in words, that explain the boxes as well as the best one."""

    @property
    def doubtful(self) -> bool:
        """True when another form than the declared one explains the boxes."""
        return self.best != self.declared or bool(self.rivals)

    @property
    def decided(self) -> bool:
        """True when one other form than the declared one explains the boxes, and no further one."""
        return self.best != self.declared and not self.rivals

    def __str__(self) -> str:
        was, now = self.sound[self.declared], self.sound[self.best]
        text = (
            f"read as {FORMS[self.declared][0]}, {was:.0%} of {self.boxes} boxes lie whole inside "
            "their image"
        )
        if self.best != self.declared:
            text += f"; read as {FORMS[self.best][0]}, {now:.0%} do"
        if self.rivals:
            more = " or ".join(self.rivals)
            text += (
                f"; read as {more}, as many do: several readings fit, so that nothing is changed"
            )
        return text


def judge_form(raw: RawSplit) -> FormVerdict | None:
    """Compare all forms on a split's boxes as they were written; None where nothing can be said."""
    return judge_numbers(*written_numbers(raw), raw.form)


def judge_numbers(numbers: F64, sizes: F64, declared: str) -> FormVerdict | None:
    """Compare all forms on the numbers of boxes.

    Args:
        numbers (f64[N, 4]): as they were written.
        sizes (f64[N, 2]): width and height of each box's image.
        declared: the form (of `FORMS`) that they should have.
    """
    finite = np.isfinite(numbers).all(axis=1)
    numbers, sizes = numbers[finite], sizes[finite]
    if not len(numbers):
        return None
    sound = {name: float(is_sound(to_xyxy(name, numbers, sizes), sizes).mean()) for name in FORMS}
    other = other_unit(declared)
    percent = _as_percent(numbers, sizes, declared)
    if sound[declared] == 0.0 and sound[other] == 1.0:
        return FormVerdict(declared, other, len(numbers), sound, percent)
    if len(numbers) < MIN_BOXES:
        return None
    best = max(sound, key=lambda name: (sound[name], name == declared, name == other))
    unsound, left = 1 - sound[declared], 1 - sound[best]
    least = max(_LEAST_UNSOUND[0], _LEAST_UNSOUND[1] * len(numbers)) / len(numbers)
    if sound[best] < SOUND_ENOUGH or unsound < least or unsound < WORSE * left - 1e-9:
        return FormVerdict(
            declared, declared, len(numbers), sound, _crowded(percent, numbers, sizes)
        )
    alike = [n for n in FORMS if n not in (declared, best) and sound[n] >= sound[best]]
    rivals = () if best == other else tuple(n for n in alike if _differ(n, best, numbers, sizes))
    return FormVerdict(
        declared, best, len(numbers), sound, (*(FORMS[n][0] for n in rivals), *percent)
    )


def _as_percent(numbers: F64, sizes: F64, declared: str) -> tuple[str, ...]:
    """Return the declared order of numbers in percent, in words, where nearly all boxes fit it."""
    order = declared.removesuffix("_shares")
    boxes = FORMS[order][1](numbers) * np.tile(sizes, 2) / 100
    fits = bool(is_sound(boxes, sizes).mean() >= SOUND_ENOUGH) and numbers.max(initial=0.0) > 1
    words = FORMS[order][0].removesuffix(", in pixels")
    return (f"{words}, in percent of the image",) if fits else ()


def _crowded(percent: tuple[str, ...], numbers: F64, sizes: F64) -> tuple[str, ...]:
    """Return the reading in percent where all boxes lie in one corner of much larger images."""
    wide, far = _CROWDED
    large = bool(np.median(sizes.min(axis=1)) >= wide)
    reach = bool((numbers.max(axis=0)[:2] >= far).all()) if len(numbers) else False
    return percent if percent and large and reach else ()


def _differ(one: str, other: str, numbers: F64, sizes: F64) -> bool:
    """Return whether two readings give other boxes for more than a few of the numbers."""
    apart = np.abs(to_xyxy(one, numbers, sizes) - to_xyxy(other, numbers, sizes)).max(axis=1)
    return bool((apart > _TOLERANCE[0]).mean() > 1 - SOUND_ENOUGH)


@dataclass(frozen=True, slots=True, eq=False)
class MixedUnits:
    """A split in which some boxes are in pixels and others are shares of the image."""

    declared: str
    rows: NDArray[np.int64]
    """The boxes that make sense only in the other unit than the declared one."""
    boxes: int

    @property
    def other(self) -> str:
        """The form of these boxes."""
        return other_unit(self.declared)

    def __str__(self) -> str:
        return (
            f"{len(self.rows)} of {self.boxes} boxes make sense only as {FORMS[self.other][0]}; the "
            f"others are {FORMS[self.declared][0]}"
        )


def judge_units(raw: RawSplit) -> MixedUnits | None:
    """Find boxes in the other unit than the rest of a split; None where there are none.

    A box is taken to be in the other unit when it is sound in that one alone. One such box is enough
    where it is all that its image has; beside sound boxes of its image it may be a speck, and two are
    needed. Numbers that are all 0 or 1 say nothing: a corner pixel, or the whole image.
    """
    numbers, sizes = written_numbers(raw)
    sound = is_sound(to_xyxy(raw.form, numbers, sizes), sizes)
    other = is_sound(to_xyxy(other_unit(raw.form), numbers, sizes), sizes)
    other &= ~sound & ~np.isin(numbers, (0.0, 1.0)).all(axis=1)
    rows = np.flatnonzero(other)
    if not sound.any() or len(rows) < max(1.0, _LEAST_MIXED * len(numbers)):
        return None
    owner = object_table(raw).owner
    speck = len(rows) == 1 and bool(sound[owner == owner[rows[0]]].any())
    return None if speck else MixedUnits(raw.form, rows, len(numbers))


def other_unit(form: str) -> str:
    """Return the form with the same order of numbers in the other unit: pixels, or shares."""
    plain = form.removesuffix("_shares")
    return f"{form}_shares" if form == plain else plain


def written_numbers(raw: RawSplit) -> tuple[F64, F64]:
    """Return the four numbers of each box as its label file has them [N, 4], and image sizes [N, 2]."""
    table = object_table(raw)
    xyxy = table.boxes
    sizes = np.array([(i.width, i.height) for i in raw.images], np.float64)
    sizes = sizes.reshape(-1, 2)[table.owner]
    with np.errstate(invalid="ignore", over="ignore"):
        if raw.form == "xyxy":
            return xyxy, sizes
        extent = xyxy[:, 2:] - xyxy[:, :2]
        near = xyxy[:, :2] if raw.form.startswith("xywh") else (xyxy[:, :2] + xyxy[:, 2:]) / 2
        written = np.concatenate([near, extent], axis=1)
        return written / np.tile(sizes, 2) if raw.form.endswith("_shares") else written, sizes


def to_xyxy(form: str, numbers: F64, sizes: F64) -> F64:
    """Return the boxes, xyxy pixels [N, 4], that the numbers mean under a form."""
    _, convert, shares = FORMS[form]
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = convert(numbers)
        return boxes * np.tile(sizes, 2) if shares else boxes


def is_sound(boxes: F64, sizes: F64) -> NDArray[np.bool_]:
    """Return which boxes (xyxy [N, 4]) have an extent and lie inside their images ([N, 2])."""
    slack = np.maximum(_TOLERANCE[0], _TOLERANCE[1] * sizes)
    extended = boxes[:, 2:] - boxes[:, :2] >= _MIN_EXTENT
    inside = (boxes[:, :2] >= -slack) & (boxes[:, 2:] <= sizes + slack)
    sound: NDArray[np.bool_] = np.all(extended & inside, axis=1)
    return sound


FITS = 0.95
"""Share of boxes that a reading must leave inside their pictures to be chosen over another."""
FEWER_OUTSIDE = 5.0
"""The other reading must put so many times as many boxes outside."""
LEAST_FIT = 0.5
"""The least share of boxes that the right reading puts inside; below it no reading is right."""
LEAST_SHARE = 0.02
"""The least share of boxes (at least one) that the other reading must put outside."""
_PAST_EDGE = (2.0, 0.01)
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
            f"of {self.boxes} boxes fit: {shown}"
            if shown and self.boxes
            else counted(self.boxes, "box", "boxes")
        )
        done = {
            Reading.AS_WRITTEN: "they are pixels of the pictures as they are",
            Reading.SCALED: "they are scaled to the pictures",
            Reading.UPRIGHT: "they stay where they are",
            Reading.TURNED: "they are turned with the pictures",
            Reading.UNKNOWN: "they cannot be placed",
        }[self.reading]
        doubt = "" if self.decided else "both readings fit, so "
        return f"{counted(self.images, 'image')} with {self.relation}; {how}; {doubt}{done}"

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
    return fits[a] >= FITS * total and out_b >= least and out_b >= FEWER_OUTSIDE * out_a


def _fits(sizes: LabelledSizes, reading: Reading, rows: I64) -> Mask:
    """Return which boxes lie inside their pictures under a reading; unknown: inside the label's size."""
    boxes = read_boxes(sizes, reading, rows)
    frames = sizes.labels if reading is Reading.UNKNOWN else sizes.pictures
    limit = frames[sizes.owner[rows]].astype(np.float64)
    slack = np.maximum(_PAST_EDGE[0], _PAST_EDGE[1] * limit)
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
