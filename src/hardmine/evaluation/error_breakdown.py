"""What kind of mistake each wrong detection is, which objects are missed, and what each costs: TIDE.

At one score threshold, detections that hit nothing are divided by how they overlap the objects (IoU
of a detection with the objects of its own class and of the others; 0.5 is a hit, 0.1 is
background):

==============  ==========================================================================
localisation    IoU from 0.1 to 0.5 with an object of its class: the box is badly placed
classification  otherwise, IoU of 0.5 or more with an object of another class
duplicate       otherwise, IoU of 0.5 or more with an object of its class that is found already
both            otherwise, IoU above 0.1 with some object: wrong class and badly placed
background      IoU of at most 0.1 with every object
missed          an object without a hit that no localisation or classification error points at
==============  ==========================================================================

What a kind costs is the AP50 that would be gained if no such mistake were made. All detections
count for this, whatever their score. A kind is put right as follows, and AP50 is taken again:

==============  ==========================================================================
localisation    the best detection that points at an object not found gets a right box; others go
classification  the same with the right class
duplicate       the detection goes; so it does for ``both`` and ``background``
missed          the object goes, since no detection is there to be put right
==============  ==========================================================================

Two more gains bound them: ``false_positive`` (no false detection is above a true one) and
``false_negative`` (every object that is not found goes). The gains of several kinds do not add up.

Source: Bolya, Foley, Hays and Hoffman 2020, "TIDE: a general toolbox for identifying object
detection errors", sections 3 to 3.3; the order of the questions is that of their program. AP is
interpolated as in COCO. Detections in ignored regions are no errors here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.detections import Detections
from hardmine.evaluation.detection_matching import (
    BACKGROUND_IOU,
    Outcome,
    join_arrays,
    match_image,
    match_objects,
    overlaps,
)
from hardmine.evaluation.scored_images import Scored
from hardmine.numpy_boxes import box_area
from hardmine.types import F64, I64, ImageRecord, Mask

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
                values.append(ranked_precision(mine, int(fixed.objects[at])))
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


def ranked_precision(right: Mask, objects: int) -> float:
    """Return the average precision of detections, best first, at 101 recalls; 0 without objects.

    Args:
        right (bool[K]): which of them find an object.
        objects: how many objects there are.
    """
    if not objects or not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision: NDArray[np.float64] = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / objects, _POINTS, side="left")
    return float(envelope[place[place < len(right)]].sum() / len(_POINTS))


HIT_IOU = 0.5
SMALL, LARGE = 32.0**2, 96.0**2
"""Areas in square pixels at which COCO's sizes change: small below the first, large from the second."""
SIZES = ("small", "medium", "large")


class ErrorKind(StrEnum):
    """A class of mistakes; the members are in the order in which they are shown."""

    BACKGROUND = "background"
    LOCALISATION = "localisation"
    CLASSIFICATION = "classification"
    BOTH = "both"
    DUPLICATE = "duplicate"
    MISSED = "missed"


_REPAIRS = {
    ErrorKind.LOCALISATION: Repair.BECOMES_RIGHT,
    ErrorKind.CLASSIFICATION: Repair.BECOMES_RIGHT,
    ErrorKind.MISSED: Repair.OBJECT_GOES,
}


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One class, one size or all: how many objects there are, how many are found, and the mistakes.

    A wrong detection counts for its own class and the size of its box, a missed object for the object's.
    ``gains`` says what AP50 would gain without each kind (see ``error_gains``): of a class its own AP50,
    of all and of a size the mean over the classes.
    """

    name: str
    objects: int
    found: int
    errors: dict[str, int]
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """The share of the objects that is found; None without objects."""
        return self.found / self.objects if self.objects else None


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """The mistakes at one score threshold: of all, per class and per size of the box."""

    score_threshold: float
    total: ErrorRow
    classes: tuple[ErrorRow, ...]
    sizes: tuple[ErrorRow, ...]
    ap50: float | None = None
    """AP50 of all detections, from which the gains are counted."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""

        def plain(row: ErrorRow) -> dict[str, Any]:
            """Return a row as JSON knows it."""
            return {
                "name": row.name,
                "objects": row.objects,
                "found": row.found,
                "recall": row.recall,
                "errors": row.errors,
                "AP50_gained": dict(row.gains),
            }

        return {
            "score_threshold": self.score_threshold,
            "AP50": self.ap50,
            "total": plain(self.total),
            "classes": [plain(row) for row in self.classes],
            "sizes": [plain(row) for row in self.sizes],
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Flat:
    """Mistakes or objects, flat: ``label`` i64[E], ``area`` f64[E], and what they are.

    ``target`` holds for each false detection the object that it would have been right for, -1 for none.
    """

    label: I64
    area: F64
    kind: list[ErrorKind]
    target: list[int]


def error_breakdown(scored: Scored, score_threshold: float) -> ErrorBreakdown:
    """Divide the mistakes at a score threshold (inclusive), and say what each kind costs at any score.

    Args:
        scored: images whose labels are known.
    """
    gains = _gains(scored)
    wrong, objects, found = [], [], []
    for record, detections in zip(scored.dataset.records, scored.detections, strict=True):
        kept = detections.at_least(score_threshold)
        ordered = kept[np.argsort(-kept.scores, kind="stable")]
        mistakes, hit = image_errors(record, ordered)
        wrong.append(mistakes)
        real = ~record.ignore
        objects.append((record.labels[real], box_area(record.boxes[real])))
        found.append(hit)
    label = join_arrays([part[0] for part in objects], np.int64)
    area = join_arrays([part[1] for part in objects], np.float64)
    is_found = join_arrays(found, np.bool_)
    error_label = join_arrays([part.label for part in wrong], np.int64)
    error_area = join_arrays([part.area for part in wrong], np.float64)
    kinds = [kind for part in wrong for kind in part.kind]

    def row(name: str, of_objects: Mask, of_errors: Mask, gained: Mapping[str, float]) -> ErrorRow:
        """Return the row of some objects and errors."""
        mine = [kinds[index] for index in np.flatnonzero(of_errors)]
        counts = {kind.value: mine.count(kind) for kind in ErrorKind}
        num_found = int((of_objects & is_found).sum())
        return ErrorRow(name, int(of_objects.sum()), num_found, counts, gained)

    size, error_size = _size(area), _size(error_area)
    names = scored.dataset.categories
    return ErrorBreakdown(
        score_threshold,
        row("all", np.ones(len(label), np.bool_), np.ones(len(kinds), np.bool_), gains.total),
        tuple(
            row(name, label == i, error_label == i, gains.classes[i - 1])
            for i, name in enumerate(names, start=1)
        ),
        tuple(row(name, size == i, error_size == i, gains.rows[i]) for i, name in enumerate(SIZES)),
        gains.ap50,
    )


def _gains(scored: Scored) -> ErrorGains:
    """Return what each kind of mistakes costs, over all detections."""
    numbers = {kind: number for number, kind in enumerate(ErrorKind)}
    parts: dict[str, list[Any]] = {name: [] for name in JudgedDetections.__slots__}
    objects_before = 0
    for record, detections in zip(scored.dataset.records, scored.detections, strict=True):
        ordered = detections[np.argsort(-detections.scores, kind="stable")]
        mistakes, hit = image_errors(record, ordered)
        outcome, _ = match_image(record, ordered, HIT_IOU)
        counted = outcome != Outcome.IGNORED
        false = np.flatnonzero(outcome == Outcome.FALSE)
        kind, target = np.full((2, len(ordered)), -1, np.int64)
        kind[false] = [numbers[each] for each in mistakes.kind[: len(false)]]
        found_target = np.array(mistakes.target, np.int64).reshape(-1)
        target[false] = np.where(found_target < 0, -1, found_target + objects_before)
        real = ~record.ignore
        pointed_at = np.isin(np.arange(real.sum()), found_target)
        parts["label"].append(ordered.labels[counted])
        parts["score"].append(ordered.scores[counted].astype(np.float64))
        parts["kind"].append(kind[counted])
        parts["target"].append(target[counted])
        parts["row"].append(_size(box_area(ordered.boxes[counted])))
        parts["object_label"].append(record.labels[real])
        parts["is_found"].append(hit)
        parts["is_missed"].append(~hit & ~pointed_at)
        parts["object_row"].append(_size(box_area(record.boxes[real])))
        objects_before += int(real.sum())
    kinds_of = {"score": np.float64, "is_found": np.bool_, "is_missed": np.bool_}
    judged = JudgedDetections(
        **{
            name: join_arrays(values, kinds_of.get(name, np.int64))
            for name, values in parts.items()
        }
    )
    return error_gains(
        judged,
        {kind.value: _REPAIRS.get(kind, Repair.GOES) for kind in ErrorKind},
        num_classes=len(scored.dataset.categories),
        num_rows=len(SIZES),
    )


def image_errors(record: ImageRecord, found: Detections) -> tuple[_Flat, Mask]:
    """Return the mistakes on one image, and which of its objects (ignored ones left out) are found.

    Args:
        found: those that count, best first.
    """
    real = ~record.ignore
    boxes, labels = record.boxes[real], record.labels[real]
    iou = overlaps(found.boxes, boxes, np.zeros(len(boxes), np.bool_))  # [K, G]
    own = found.labels[:, None] == labels[None, :]
    hit = _found_objects(iou, own)
    outcome, _ = match_image(record, found, HIT_IOU)
    pointed_at = np.zeros(len(boxes), np.bool_)
    kinds: list[ErrorKind] = []
    targets: list[int] = []
    rows = np.flatnonzero(outcome == Outcome.FALSE)
    for row in rows:
        kind, target = _kind(iou[row], own[row])
        kinds.append(kind)
        targets.append(-1 if target is None else target)
        if target is not None:
            pointed_at[target] = True
    missed = ~hit & ~pointed_at
    kinds += [ErrorKind.MISSED] * int(missed.sum())
    return (
        _Flat(
            np.concatenate([found.labels[rows], labels[missed]]),
            np.concatenate([box_area(found.boxes[rows]), box_area(boxes[missed])]),
            kinds,
            targets,
        ),
        hit,
    )


def _found_objects(iou: F64, own: Mask) -> Mask:
    """Return bool[G]: the objects that a detection of their class hits, best detections first."""
    hit = np.zeros(iou.shape[1], np.bool_)
    matched = match_objects(np.where(own, iou, -1.0), HIT_IOU)
    hit[matched[matched >= 0]] = True
    return hit


def _kind(iou: F64, own: Mask) -> tuple[ErrorKind, int | None]:
    """Return what a detection that hits nothing is, and the object that it would have been right for.

    Args:
        iou: f64[G] with every object; ``own`` bool[G], those of its class.
    """
    if not len(iou):
        return ErrorKind.BACKGROUND, None
    of_class, of_others = np.where(own, iou, 0.0), np.where(own, 0.0, iou)
    if BACKGROUND_IOU <= of_class.max() < HIT_IOU:
        return ErrorKind.LOCALISATION, int(of_class.argmax())
    if of_others.max() >= HIT_IOU:
        return ErrorKind.CLASSIFICATION, int(of_others.argmax())
    if of_class.max() >= HIT_IOU:
        return ErrorKind.DUPLICATE, None
    return (ErrorKind.BACKGROUND if iou.max() <= BACKGROUND_IOU else ErrorKind.BOTH), None


def _size(area: F64) -> I64:
    """Return the position of each area's size in :data:`SIZES`."""
    return (area >= SMALL).astype(np.int64) + (area >= LARGE)
