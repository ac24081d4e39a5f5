"""Labelled images whose boxes a model contradicts: an object without a box, a box that nothing is in."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.detections import Detections
from hardmine.evaluation.detection_matching import overlaps
from hardmine.evaluation.scored_images import Scored
from hardmine.types import F64, ImageRecord, ImageState, Mask

STRAY_IOU = 0.1
"""Below this overlap with every label a detection lies where no label is."""
FOUND_IOU = 0.3
"""The least IoU at which a detection, however weak, belongs to a label."""
SAME_IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class DoubtfulLabels:
    """A labelled image and the detections that contradict its labels, best first.

    Attributes:
        score: how strong the contradiction is, in [0, 1]: the highest score of such a detection; for a
            label that nothing is found in, one less the highest score of a detection that touches it.
        unseen: the labels on which nothing is found, bool[N].
    """

    record: ImageRecord
    detections: Detections
    score: float
    unseen: Mask


def find_doubtful_labels(
    scored: Scored, threshold: float | None, *, limit: int = 200
) -> list[DoubtfulLabels]:
    """Return the labelled images whose boxes a model contradicts, the strongest contradiction first.

    A detection at or above the threshold contradicts the labels where it overlaps none of them (an
    object without a box?), or where it says another class of an object than its label. A label on which
    there is no detection at all contradicts the model. What lies inside a region to be ignored overlaps
    it, however small it is.

    Args:
        scored: the images with their detections.
        threshold: the lowest score of a detection that counts; .5 where it is lower or ``None``.
        limit: return at most so many images.
    """
    lowest = max(0.5, threshold or 0.0)
    found = []
    for record, detections in zip(scored.dataset.records, scored.detections, strict=True):
        if record.state is not ImageState.LABELLED:
            continue
        overlap = overlaps(detections.boxes, record.boxes, record.ignore)  # [K, N]
        against = _contradicts(record, detections, overlap, lowest)
        unseen = _unseen(record, overlap)
        best = float(detections.scores[against].max(initial=0.0))
        if unseen.any():
            touching = detections.scores[(overlap[:, unseen] > 0).any(axis=1)]
            best = max(best, 1.0 - float(touching.max(initial=0.0)))
        if best > 0:
            found.append(DoubtfulLabels(record, detections[against], best, unseen))
    found.sort(key=lambda each: (-each.score, str(each.record.path)))
    return found[:limit]


def _contradicts(record: ImageRecord, detections: Detections, overlap: F64, lowest: float) -> Mask:
    """Return which detections contradict the labels, bool[K]."""
    strong = detections.scores >= lowest
    stray = overlap.max(axis=1, initial=0.0) < STRAY_IOU
    here = (overlap >= SAME_IOU) & ~record.ignore[None, :]  # [K, N]
    agrees = here & (detections.labels[:, None] == record.labels[None, :])
    found = (agrees & strong[:, None]).any(axis=0)  # [N]: labels that the model confirms
    other = (here & ~agrees & ~found[None, :]).any(axis=1) & ~agrees.any(axis=1)
    against: Mask = strong & (stray | other)
    return against


def _unseen(record: ImageRecord, overlap: F64) -> Mask:
    """Return which labels have no detection on them, bool[N]."""
    unseen: Mask = (overlap.max(axis=0, initial=0.0) < FOUND_IOU) & ~record.ignore
    return unseen
