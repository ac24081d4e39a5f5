"""Average precision as COCO defines it, computed by faster-coco-eval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.errors import DataError
from hardmine.evaluation.detection_matching import objects_per_image
from hardmine.evaluation.scored_images import Scored, ground_truth, result_rows

_LOGGER = logging.getLogger(__name__)
_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class ClassAP:
    """One class's figures; None when the images hold no object of it."""

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True)
class AveragePrecision:
    """AP over IoU .50:.95, at .50 and .75, and by object size (over all IoUs, and at .50); in [0, 1].

    Sizes are COCO's, in original pixels: small below 32², medium below 96², large. A value is None
    when the images hold no such object. Only the 100 best detections per image and class
    count.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_class: tuple[ClassAP, ...]
    images: int
    small50: float | None = None
    medium50: float | None = None
    large50: float | None = None


def average_precision(val: Scored, negatives: Sequence[Scored] = ()) -> AveragePrecision:
    """Return AP on ``val``, and on ``val`` plus the negative images when some are given.

    Images whose truth is not known (unreviewed, ignored) take no part. Every negative image is
    registered in the ground truth, so that the alarms on it count as false positives.

    Raises:
        DataError: a negative set has another class list.
    """
    whole = merge(val.with_known_truth(), [part.without_objects() for part in negatives])
    truth = ground_truth(whole.dataset)
    if not truth["annotations"]:
        return _nothing(whole)
    results = [row for i, found in enumerate(whole.detections) for row in result_rows(i, found)]
    precision = _evaluate(truth, results)
    counts = objects_per_image(whole.dataset).sum(axis=0).tolist()
    per_class = tuple(
        ClassAP(
            name,
            counts[index],
            _mean(precision[:, :, index, 0]),
            _mean(precision[0, :, index, 0]),
            _mean(precision[5, :, index, 0]),
        )
        for index, name in enumerate(whole.dataset.categories)
    )
    by_area = [_mean(precision[:, :, :, area]) for area in range(len(_AREAS))]
    ap50, ap75 = _mean(precision[0, :, :, 0]), _mean(precision[5, :, :, 0])
    at_50 = [_mean(precision[0, :, :, area]) for area in range(1, len(_AREAS))]
    return AveragePrecision(
        by_area[0], ap50, ap75, by_area[1], by_area[2], by_area[3], per_class, len(whole), *at_50
    )


def merge(first: Scored, others: Sequence[Scored]) -> Scored:
    """Return all images one after the other; the class lists must be equal.

    Raises:
        DataError: the class lists differ.
    """
    wanted = first.dataset.categories
    for other in others:
        if other.dataset.categories != wanted:
            raise DataError(
                f"classes {list(other.dataset.categories)} in {other.dataset.root}, wanted "
                f"{list(wanted)} as in {first.dataset.root}"
            )
    parts = [first, *others]
    records = tuple(record for part in parts for record in part.dataset.records)
    detections = tuple(found for part in parts for found in part.detections)
    return Scored(replace(first.dataset, records=records), detections)


def _evaluate(truth: dict[str, Any], results: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return precision [T=10 IoUs, R=101 recalls, C classes, 4 areas]; −1 where undefined."""
    from faster_coco_eval import COCO, COCOeval_faster

    say = _LOGGER.debug
    reference = COCO(truth, print_function=say)
    evaluation = COCOeval_faster(
        reference, reference.loadRes(results), iouType="bbox", print_function=say
    )
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., -1]
    return precision


def _mean(precision: NDArray[np.float64]) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _nothing(scored: Scored) -> AveragePrecision:
    classes = tuple(ClassAP(name, 0, None, None, None) for name in scored.dataset.categories)
    return AveragePrecision(None, None, None, None, None, None, classes, len(scored))
