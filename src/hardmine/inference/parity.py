"""Whether a detector gives what a reference says: the largest differences, not an average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.numpy_boxes import box_iou
from hardmine.types import Detections, Mask

SAME_BOX = 0.5
"""IoU from which two boxes of a class may be the same detection."""


@dataclass(frozen=True, slots=True)
class Parity:
    """``matched`` detections, their largest differences, and those that only one side has.

    ``score`` is a probability, ``box`` pixels of the original image.
    """

    images: int
    matched: int
    score: float
    box: float
    missing: int
    extra: int

    def __str__(self) -> str:
        return (
            f"{self.matched} detections on {self.images} images agree; largest difference: score "
            f"{self.score:.2g}, box {self.box:.2g} px; {self.missing} missing, {self.extra} extra"
        )


def compare(
    reference: Sequence[Detections], found: Sequence[Detections], min_score: float
) -> Parity:
    """Match detections of one class by IoU, best score first, and compare them.

    Detections just below ``min_score`` on one side may match those just above on the other; only
    those above count as missing or extra.

    Args:
        reference, found: one entry an image, in the same order.
        min_score: lowest score of a detection that must be there, inclusive.

    Raises:
        ValueError: they differ in length.
    """
    matched, missing, extra = 0, 0, 0
    score, box = 0.0, 0.0
    for wanted, got in zip(map(_with_area, reference), map(_with_area, found), strict=True):
        free = np.ones(len(got), np.bool_)
        for i in np.flatnonzero(wanted.scores >= min_score):
            j = _best(wanted, int(i), got, free)
            if j is None:
                missing += 1
                continue
            free[j] = False
            matched += 1
            score = max(score, abs(float(wanted.scores[i]) - float(got.scores[j])))
            box = max(box, float(np.abs(wanted.boxes[i] - got.boxes[j]).max()))
        extra += int((free & (got.scores >= min_score)).sum()) - _near_floor(
            wanted, got, free, min_score
        )
    return Parity(len(reference), matched, score, box, missing, extra)


def _with_area(found: Detections) -> Detections:
    """Leave out boxes that lay in the padding of a letterbox: on the image they have no area."""
    keep = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def _best(wanted: Detections, i: int, got: Detections, free: Mask) -> int | None:
    same = free & (got.labels == wanted.labels[i])
    if not same.any():
        return None
    overlap = np.where(same, box_iou(wanted.boxes[i : i + 1], got.boxes)[0], -1.0)
    j = int(overlap.argmax())
    return j if overlap[j] >= SAME_BOX else None


def _near_floor(wanted: Detections, got: Detections, free: Mask, min_score: float) -> int:
    """Count found detections that the reference has too, a little below the floor."""
    below = wanted.scores < min_score
    count = 0
    for j in np.flatnonzero(free & (got.scores >= min_score)):
        same = below & (wanted.labels == got.labels[j])
        count += bool((box_iou(got.boxes[j : j + 1], wanted.boxes[same]) >= SAME_BOX).any())
    return count
