"""What kind of mistake each wrong detection is, and which objects are missed: the classes of TIDE.

At one score threshold, detections that hit nothing are divided by how they overlap the objects (IoU of a
detection with the objects of its own class and of the others; 0.5 is a hit, 0.1 is background):

==============  ==========================================================================
localisation    IoU from 0.1 to 0.5 with an object of its class: the box is badly placed
classification  otherwise, IoU of 0.5 or more with an object of another class
duplicate       otherwise, IoU of 0.5 or more with an object of its class that is found already
both            otherwise, IoU above 0.1 with some object: wrong class and badly placed
background      IoU of at most 0.1 with every object
missed          an object without a hit that no localisation or classification error points at
==============  ==========================================================================

Source: Bolya, Foley, Hays and Hoffman 2020, "TIDE: a general toolbox for identifying object detection
errors", section 3; the order of the questions is that of their program. Detections in ignored regions
are no errors here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.evaluation.detection_matching import (
    BACKGROUND_IOU,
    Outcome,
    match_image,
    match_objects,
    overlaps,
)
from hardmine.evaluation.error_gains import ErrorGains, JudgedDetections, Repair, error_gains
from hardmine.evaluation.scored_images import Scored
from hardmine.numpy_boxes import box_area
from hardmine.types import F64, I64, ImageRecord, Mask

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
    """Of all detections, from which the gains are counted."""

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
    label = _join([part[0] for part in objects], np.int64)
    area = _join([part[1] for part in objects], np.float64)
    is_found = _join(found, np.bool_)
    error_label = _join([part.label for part in wrong], np.int64)
    error_area = _join([part.area for part in wrong], np.float64)
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
        **{name: _join(values, kinds_of.get(name, np.int64)) for name, values in parts.items()}
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


def _join(parts: list[Any], dtype: type) -> Any:
    return np.concatenate([np.zeros(0, dtype), *parts])
