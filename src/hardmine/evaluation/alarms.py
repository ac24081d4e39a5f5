"""False alarms on images that hold no object, and false positives on background in images that do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardmine.evaluation.detection_matching import Matches
from hardmine.evaluation.scored_images import Scored
from hardmine.types import F32, F64, I64

FIXED_SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
ALARM_RATES = (0.01, 0.1, 1.0)


@dataclass(frozen=True, eq=False)
class AlarmScores:
    """Every detection on the images without objects: ``score`` f32[K] falling, ``image`` i64[K]."""

    score: F32
    image: I64
    num_images: int

    def count_at(self, score_threshold: float | F64) -> I64:
        """Return how many detections are alarms: those of ``score >= score_threshold``.

        All counts of alarms come from here. As in :meth:`hardmine.Detections.at_least`, score and
        threshold are compared as float32.

        Args:
            score_threshold: one threshold, or f64[D].

        Returns:
            i64[] or i64[D]; the alarms are the first ones of ``score`` and ``image``.
        """
        wanted = np.asarray(score_threshold, np.float32)
        return np.asarray(np.searchsorted(-self.score, -wanted, side="right"), np.int64)


@dataclass(frozen=True)
class AlarmCount:
    """Alarms at one score. The shares are None when there are no images."""

    score_threshold: float
    alarms: int
    alarms_per_image: float | None
    share_of_images: float | None
    """Share of the images on which at least one alarm fires."""


@dataclass(frozen=True)
class RecallAtAlarms:
    """Recall at the lowest threshold that gives at most ``alarms_per_image``."""

    alarms_per_image: float
    recall: float | None
    score_threshold: float | None


@dataclass(frozen=True)
class StrayAlarms:
    """False positives on images that *do* hold objects, at one score.

    ``background`` of them lie on background: IoU below .1 with every object. The others are second
    detections of one object, wrong classes and badly placed boxes.
    """

    images: int
    background: int
    others: int
    background_per_image: float | None
    others_per_image: float | None


def collect_alarms(negatives: Scored) -> AlarmScores:
    """Gather the detections on the images that hold no object (see ``without_objects``)."""
    empty = negatives.without_objects()
    scores = [np.zeros(0, np.float32), *(found.scores for found in empty.detections)]
    images = [np.zeros(0, np.int64)] + [
        np.full(len(found), position, np.int64) for position, found in enumerate(empty.detections)
    ]
    score, image = np.concatenate(scores), np.concatenate(images)
    order = np.argsort(-score, kind="stable")
    return AlarmScores(score[order], image[order], len(empty))


def count_alarms(alarms: AlarmScores, score_threshold: float) -> AlarmCount:
    """Count alarms of ``score >= score_threshold``."""
    count = int(alarms.count_at(score_threshold))
    firing = len(np.unique(alarms.image[:count]))
    total = alarms.num_images
    return AlarmCount(
        score_threshold,
        count,
        count / total if total else None,
        firing / total if total else None,
    )


def recall_at_alarms(
    matches: Matches, alarms: AlarmScores, alarms_per_image: float
) -> RecallAtAlarms:
    """Return the highest recall at no more than ``alarms_per_image``.

    On n images the rate means at most ``floor(rate * n)`` alarms, so on few images a small rate
    means none at all, which errs on the strict side.
    """
    if not alarms.num_images or not matches.num_objects:
        return RecallAtAlarms(alarms_per_image, None, None)
    allowed = alarms_allowed(alarms.num_images, alarms_per_image)
    threshold = 0.0
    if len(alarms.score) > allowed:
        # The next float above the first alarm that may not fire: alarms that tie with it stay out.
        threshold = float(np.nextafter(alarms.score[allowed], np.float32(np.inf)))
    hits = int(np.count_nonzero(matches.score[matches.hit] >= threshold))
    return RecallAtAlarms(alarms_per_image, hits / matches.num_objects, threshold)


def alarms_allowed(num_images: int, alarms_per_image: float) -> int:
    """Return the largest count of alarms on ``num_images`` images that keeps to the rate."""
    allowed = math.floor(alarms_per_image * num_images)
    return allowed + 1 if (allowed + 1) / num_images <= alarms_per_image else allowed


def count_stray_alarms(matches: Matches, score_threshold: float) -> StrayAlarms:
    """Count the false positives of ``score >= score_threshold`` on images that hold objects."""
    holds_object = matches.objects.sum(axis=1) > 0
    images = int(holds_object.sum())
    counted = matches.false & (matches.score >= score_threshold) & holds_object[matches.image]
    background = int(np.count_nonzero(counted & matches.background))
    others = int(np.count_nonzero(counted)) - background
    return StrayAlarms(
        images,
        background,
        others,
        background / images if images else None,
        others / images if images else None,
    )
