"""Which form the numbers of the boxes have, judged by what each reading of them would mean.

The four numbers of every box are read under each hypothesis. A reading is *sound* when the box has
an extent of two pixels or more and lies inside its image. The right form leaves nearly all boxes
sound; a wrong one turns boxes inside out, shrinks them to nothing or pushes them over the edge.

Pixels and shares of the image are told apart by any number of boxes, since they differ by hundreds of
times: one box that makes sense only in the other unit is enough. The order of the numbers needs more.
Where some boxes of a set are in pixels and others are shares, each box is read in the only unit that
makes sense for it. Where several readings fit (pixels and percent of the image look alike), that is said
and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardmine.data.formats.label_validation import RawSplit, object_table
from hardmine.types import F64

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
        if raw.form == "xywh":
            return np.concatenate([xyxy[:, :2], extent], axis=1), sizes
        centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
        written = np.concatenate([centre, extent], axis=1)
        return written if raw.form == "cxcywh" else written / np.tile(sizes, 2), sizes


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
