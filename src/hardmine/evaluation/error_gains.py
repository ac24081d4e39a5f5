"""What each kind of mistakes costs: the AP50 that would be gained if no such mistake were made.

All detections count here, whatever their score. A kind is put right as follows, and AP50 is taken again:

==============  ==========================================================================
localisation    the best detection that points at an object not found gets a right box; others go
classification  the same with the right class
duplicate       the detection goes; so it does for ``both`` and ``background``
missed          the object goes, since no detection is there to be put right
==============  ==========================================================================

Two more gains bound them: ``false_positive`` (no false detection is above a true one) and
``false_negative`` (every object that is not found goes). The gains of several kinds do not add up.

Source: Bolya, Foley, Hays and Hoffman 2020, "TIDE", sections 3.2 and 3.3; AP is interpolated as in COCO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hardmine.types import F64, I64, Mask

FALSE_POSITIVE, FALSE_NEGATIVE = "false_positive", "false_negative"
_POINTS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO looks up the precision."""


class Repair(Enum):
    """How a kind of mistakes is put right."""

    GOES = "the detection goes"
    BECOMES_RIGHT = "the detection becomes right"
    OBJECT_GOES = "the object goes"


@dataclass(frozen=True, slots=True, eq=False)
class JudgedDetections:
    """All detections that count and all objects, flat.

    Detections: ``label`` i64[K], ``score`` f64[K], ``kind`` i64[K] (-1: it hits an object, else which
    mistake it is), ``target`` i64[K] (the object that it would be right for, -1 for none). Objects:
    ``object_label`` i64[G], ``is_found`` bool[G], ``is_missed`` bool[G] (no detection points at it).
    ``row`` i64[K] and ``object_row`` i64[G] say in which of several tables they are counted.
    """

    label: I64
    score: F64
    kind: I64
    target: I64
    row: I64
    object_label: I64
    is_found: Mask
    is_missed: Mask
    object_row: I64


@dataclass(slots=True)
class _Fixed:
    """What is left when a kind was put right: classes of detections, which are right, which count."""

    label: I64
    right: Mask
    counts: Mask
    objects: I64


@dataclass(frozen=True, slots=True, eq=False)
class ErrorGains:
    """AP50 and what would be gained, each of all classes (mean) and of each class.

    A class without objects has no AP50, and takes no part in the mean.
    """

    ap50: float | None
    total: dict[str, float]
    classes: tuple[dict[str, float], ...]
    rows: tuple[dict[str, float], ...] = field(default=())


def error_gains(
    judged: JudgedDetections,
    kinds: Mapping[str, Repair],
    *,
    num_classes: int,
    num_rows: int = 0,
) -> ErrorGains:
    """Return what putting each kind of mistakes right would bring.

    Args:
        kinds: their names, in the order of the numbers in ``judged.kind``, and how they are put right.
        num_rows: for so many tables also what the mistakes counted in each bring, of the mean AP50.
    """
    whole = _Ap50(judged, num_classes)
    total: dict[str, float] = {}
    of_class: list[dict[str, float]] = [{} for _ in range(num_classes)]
    rows: list[dict[str, float]] = [{} for _ in range(num_rows)]

    def note(name: str, after: _Fixed) -> None:
        """Keep what AP50 gains without one kind of error, in all and by class."""
        values = whole.of(after)
        total[name] = whole.gain(values)
        for each, now, before in zip(of_class, values, whole.values, strict=True):
            if before is not None:
                each[name] = 0.0 if now is None else max(now - before, 0.0)

    for number, (name, repair) in enumerate(kinds.items()):
        mistakes, missed = judged.kind == number, judged.is_missed
        note(name, _put_right(whole, repair, mistakes, missed))
        for at, row in enumerate(rows):
            in_row, objects = mistakes & (judged.row == at), missed & (judged.object_row == at)
            row[name] = whole.gain(whole.of(_put_right(whole, repair, in_row, objects)))
    note(FALSE_POSITIVE, _sorted_out(whole))
    note(FALSE_NEGATIVE, _put_right(whole, Repair.OBJECT_GOES, judged.kind < 0, ~judged.is_found))
    return ErrorGains(whole.mean(whole.values), total, tuple(of_class), tuple(rows))


class _Ap50:
    """AP50 per class of the detections, and of what becomes of them."""

    def __init__(self, judged: JudgedDetections, num_classes: int) -> None:
        self.judged, self.num_classes = judged, num_classes
        self.order = np.argsort(-judged.score, kind="stable")
        self.best_of_target = self._best_of_target()
        objects = self.count(np.ones(len(judged.object_label), np.bool_))
        self.has_objects = objects > 0
        every = np.ones(len(judged.label), np.bool_)
        self.start = _Fixed(judged.label, judged.kind < 0, every, objects)
        self.values = self.of(self.start)

    def count(self, objects: Mask) -> I64:
        """Return i64[C], how many of these objects there are of each class."""
        labels = self.judged.object_label[objects] - 1
        return np.bincount(labels, minlength=self.num_classes).astype(np.int64)

    def _best_of_target(self) -> Mask:
        """Return bool[K]: the best of the detections that point at an object that is not found."""
        target = self.judged.target[self.order]
        open_ = target >= 0
        open_[open_] &= ~self.judged.is_found[target[open_]]
        rows = np.flatnonzero(open_)
        _, first = np.unique(target[rows], return_index=True)
        best = np.zeros(len(target), np.bool_)
        best[self.order[rows[first]]] = True
        return best

    def of(self, fixed: _Fixed) -> list[float | None]:
        """Return AP50 of each class; None without objects, or where nothing is left of it."""
        order = self.order[fixed.counts[self.order]]
        label, right = fixed.label[order], fixed.right[order]
        values: list[float | None] = []
        for at in range(self.num_classes):
            mine = right[label == at + 1]
            if not self.has_objects[at] or (not fixed.objects[at] and not len(mine)):
                values.append(None)
            else:
                values.append(_average_precision(mine, int(fixed.objects[at])))
        return values

    @staticmethod
    def mean(values: list[float | None]) -> float | None:
        """Return the mean of the classes that have a value, None where none has."""
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if defined else None

    def gain(self, values: list[float | None]) -> float:
        """Return what the mean gained; less than nothing comes of the interpolation alone."""
        now, before = self.mean(values), self.mean(self.values)
        return 0.0 if now is None or before is None else max(now - before, 0.0)


def _put_right(whole: _Ap50, repair: Repair, mistakes: Mask, objects: Mask) -> _Fixed:
    """Put mistakes right, or take objects away; of the mistakes at one object the best becomes right."""
    start, judged = whole.start, whole.judged
    if repair is Repair.OBJECT_GOES:
        return _Fixed(start.label, start.right, start.counts, start.objects - whole.count(objects))
    better = mistakes & whole.best_of_target & (repair is Repair.BECOMES_RIGHT)
    label = start.label.copy()
    label[better] = judged.object_label[judged.target[better]]
    return _Fixed(label, start.right | better, ~mistakes | better, start.objects)


def _sorted_out(whole: _Ap50) -> _Fixed:
    """Take every false detection away: recall stays, precision is 1."""
    start = whole.start
    return _Fixed(start.label, start.right, start.right, start.objects)


def _average_precision(right: Mask, objects: int) -> float:
    """Return AP of detections of one class, best first, at 101 recalls."""
    if not objects or not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision: NDArray[np.float64] = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / objects, _POINTS, side="left")
    return float(envelope[place[place < len(right)]].sum() / len(_POINTS))
