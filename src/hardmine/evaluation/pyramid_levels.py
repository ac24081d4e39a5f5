"""What each level of a detector's priors finds, and where it fires wrongly.

Large objects belong to coarse levels and small ones to fine levels. A level that finds little and fires
often shows where priors, taps or the selection of negatives should be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardmine.detections import Detections
from hardmine.evaluation.detection_matching import Outcome, match_image
from hardmine.evaluation.scored_images import Scored
from hardmine.types import I64


@dataclass(frozen=True, slots=True)
class LevelRow:
    """One level, the finest is 0: objects that its detections find, and its wrong detections.

    ``wrong`` counts those on the validation images, ``alarms`` those on each set of images without
    objects.
    """

    level: int
    found: int
    wrong: int
    alarms: Mapping[str, int]


def level_rows(
    val: Scored, negatives: Mapping[str, Scored], score_threshold: float, level_of_prior: I64
) -> tuple[LevelRow, ...]:
    """Count by the level of the prior that gave each detection of ``score >= score_threshold``.

    Args:
        val: images whose labels are known.
        level_of_prior: i64[A].

    Returns:
        A row per level; none where a detection does not know its prior.
    """
    sets = (val, *negatives.values())
    if not all(len(d.prior) == len(d) for part in sets for d in part.detections):
        return ()
    count = int(level_of_prior.max(initial=-1)) + 1
    found, wrong = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for record, detections in zip(val.dataset.records, val.detections, strict=True):
        kept = detections.at_least(score_threshold)
        ordered = kept[np.argsort(-kept.scores, kind="stable")]
        outcome, _ = match_image(record, ordered, 0.5)
        level = level_of_prior[ordered.prior]
        found += np.bincount(level[outcome == Outcome.HIT], minlength=count)
        wrong += np.bincount(level[outcome == Outcome.FALSE], minlength=count)
    alarms = {
        name: _count(part.without_objects().detections, score_threshold, level_of_prior, count)
        for name, part in negatives.items()
    }
    return tuple(
        LevelRow(
            level,
            int(found[level]),
            int(wrong[level]),
            {name: int(counts[level]) for name, counts in alarms.items()},
        )
        for level in range(count)
    )


def _count(
    detections: tuple[Detections, ...], score_threshold: float, level_of_prior: I64, count: int
) -> I64:
    priors = [found.at_least(score_threshold).prior for found in detections]
    joined = np.concatenate([np.zeros(0, np.int64), *priors])
    return np.bincount(level_of_prior[joined], minlength=count)
