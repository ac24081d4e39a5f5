"""Which detections hit an object, which are false, and which are neither.

The rules are those of COCO's evaluation at one IoU: per image and class, detections in the order of
their scores take the best object that is still free; a second detection of the same object is
false. An ignored box (difficult, crowd) is a region: a detection of its class counts as neither hit nor
false when the region covers at least the IoU threshold's share of *the detection's own area*, however
many such detections there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.detections import Detections
from hardmine.evaluation.scored_images import Scored
from hardmine.numpy_boxes import box_area, box_intersection, divide_area
from hardmine.types import F32, F64, I64, Dataset, ImageRecord, Mask

BACKGROUND_IOU = 0.1
"""Below this IoU with every object a detection lies on background (Bolya et al. 2020, TIDE)."""


class Outcome(IntEnum):
    """What became of a detection."""

    FALSE = 0
    HIT = 1
    IGNORED = 2


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of a dataset, flat, by image and best first within an image.

    ``image`` i64[K] position of the image, ``label`` i64[K], ``score`` f32[K], ``outcome`` i8[K]
    (see :class:`Outcome`), ``background`` bool[K]: the detection overlaps every box, of whatever class,
    by less than :data:`BACKGROUND_IOU`. ``objects`` i64[N, C]: how many objects, ignored ones left out,
    each image holds of each class.
    """

    image: I64
    label: I64
    score: F32
    outcome: NDArray[np.int8]
    background: Mask
    objects: I64

    @property
    def num_images(self) -> int:
        """Number of images, those without detections too."""
        return len(self.objects)

    @property
    def num_objects(self) -> int:
        """Number of objects that can be hit, classes pooled."""
        return int(self.objects.sum())

    @property
    def hit(self) -> Mask:
        """bool[K], true where a detection hits an object."""
        return np.equal(self.outcome, Outcome.HIT)

    @property
    def false(self) -> Mask:
        """bool[K], true where a detection is a false positive."""
        return np.equal(self.outcome, Outcome.FALSE)

    def of_class(self, label: int) -> Matches:
        """Return the detections of one class and its objects alone, on the same images."""
        kept = self.label == label
        return Matches(
            self.image[kept],
            self.label[kept],
            self.score[kept],
            self.outcome[kept],
            self.background[kept],
            self.objects[:, label - 1 : label],
        )


def match(scored: Scored, iou_threshold: float = 0.5) -> Matches:
    """Match every detection to the ground truth at one IoU, inclusive.

    Of equal scores the earlier detection chooses first, and of equal overlaps it takes the last object.

    Source: the matching of COCO's evaluation (Lin et al. 2014); the tests compare every outcome with
    pycocotools.
    """
    records = scored.dataset.records
    ordered = [found[np.argsort(-found.scores, kind="stable")] for found in scored.detections]
    parts = [
        match_image(record, found, iou_threshold)
        for record, found in zip(records, ordered, strict=True)
    ]
    return Matches(
        image=np.repeat(np.arange(len(scored)), [len(found) for found in ordered]),
        label=join_arrays([found.labels for found in ordered], np.int64),
        score=join_arrays([found.scores for found in ordered], np.float32),
        outcome=join_arrays([outcome for outcome, _ in parts], np.int8),
        background=join_arrays([background for _, background in parts], np.bool_),
        objects=objects_per_image(scored.dataset),
    )


def objects_per_image(dataset: Dataset) -> I64:
    """Return i64[N, C]: how many objects each image holds of each class, ignored ones left out."""
    num_classes = len(dataset.categories)
    real = [record.labels[~record.ignore] - 1 for record in dataset.records]
    counts = [np.bincount(labels, minlength=num_classes) for labels in real]
    return np.array(counts, np.int64).reshape(len(dataset), num_classes)


def join_arrays(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    """Return arrays one after the other; an empty one of ``dtype`` where there are none."""
    return np.concatenate([np.zeros(0, dtype), *parts])


def match_image(
    record: ImageRecord, found: Detections, iou_threshold: float
) -> tuple[NDArray[np.int8], Mask]:
    """Return ``outcome`` i8[K] and ``background`` bool[K] of one image's detections, best first."""
    outcome = np.full(len(found), Outcome.FALSE, np.int8)
    if not len(record.boxes):
        return outcome, np.ones(len(found), np.bool_)
    overlap = overlaps(found.boxes, record.boxes, record.ignore)  # [K, G]
    for label in np.unique(found.labels):
        rows = np.flatnonzero(found.labels == label)
        columns = np.flatnonzero(record.labels == label)
        if len(columns):
            part = overlap[np.ix_(rows, columns)]
            outcome[rows] = _match_greedily(part, record.ignore[columns], iou_threshold)
    return outcome, overlap.max(axis=1) < BACKGROUND_IOU


def overlaps(boxes: F32, objects: F32, ignore: Mask) -> F64:
    """Return [K, G]: IoU with an object, or the share of the box inside an ignored region.

    Boxes without area overlap nothing.
    """
    shared = box_intersection(boxes, objects)  # [K, G]
    union = box_area(boxes)[:, None] + box_area(objects)[None, :] - shared
    return divide_area(shared, np.where(ignore[None, :], box_area(boxes)[:, None], union))


def _match_greedily(overlap: F64, ignore: Mask, threshold: float) -> NDArray[np.int8]:
    """Return i8[K] for one class: rows are detections, best first, columns its boxes."""
    outcome = np.full(len(overlap), Outcome.FALSE, np.int8)
    on_region = (overlap[:, ignore] >= threshold).any(axis=1)
    outcome[match_objects(overlap[:, ~ignore], threshold) >= 0] = Outcome.HIT
    outcome[(outcome == Outcome.FALSE) & on_region] = Outcome.IGNORED
    return outcome


def match_objects(overlap: F64, threshold: float) -> I64:
    """Return i64[K]: the object that each detection takes, best detections first; -1 for none.

    Args:
        overlap: [K, G], of detections with objects that they may take.
    """
    matched = np.full(len(overlap), -1, np.int64)
    free = overlap.copy()
    for row in np.flatnonzero((free >= threshold).any(axis=1)):
        # Of equal overlaps COCO takes the last object.
        best = free.shape[1] - 1 - int(free[row, ::-1].argmax())
        if free[row, best] >= threshold:
            matched[row] = best
            free[:, best] = -1.0
    return matched
