"""Miss rate against false positives per image, and its log-average.

Source: Dollár et al. 2012, "Pedestrian detection: an evaluation of the state of the art", section
3.1. The log-average miss rate is the geometric mean of the miss rates at nine rates of false
positives per image, evenly spaced in log space from 10⁻² to 10⁰. Where a curve ends before a rate,
its lowest miss rate stands for it; where it begins after a rate, the miss rate there is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.detection_matching import Matches
from hardmine.types import F32, F64

REFERENCE_FPPI = tuple(float(rate) for rate in np.logspace(-2.0, 0.0, 9))
SMALLEST_MISS_RATE = 1e-10
"""Stands for a miss rate of 0, whose logarithm does not exist (as in Dollár's toolbox)."""


@dataclass(frozen=True, eq=False)
class MissRateCurve:
    """One point per distinct score, falling: ``fppi`` f64[P] rises, ``miss_rate`` f64[P] falls."""

    score: F64
    fppi: F64
    miss_rate: F64


def negatives_curve(matches: Matches, alarms: AlarmScores) -> MissRateCurve | None:
    """Return misses on the validation images against alarms per *negative* image.

    None when there are no objects to miss or no negative images.
    """
    return _curve(matches.score[matches.hit], matches.num_objects, alarms.score, alarms.num_images)


def whole_curve(matches: Matches, alarms: AlarmScores) -> MissRateCurve | None:
    """Return misses against false positives per image over validation and negative images.

    Here second detections, wrong classes and badly placed boxes count as well.
    """
    false = np.concatenate([matches.score[matches.false], alarms.score])
    images = matches.num_images + alarms.num_images
    return _curve(matches.score[matches.hit], matches.num_objects, false, images)


def log_average_miss_rate(curve: MissRateCurve | None) -> float | None:
    """Return the geometric mean of the miss rates at :data:`REFERENCE_FPPI`; in (0, 1]."""
    if curve is None:
        return None
    rates = [max(_miss_rate_at(curve, fppi), SMALLEST_MISS_RATE) for fppi in REFERENCE_FPPI]
    return math.exp(sum(math.log(rate) for rate in rates) / len(rates))


def thin(curve: MissRateCurve, points: int = 200) -> MissRateCurve:
    """Return at most about ``points`` of the curve's corners, first and last among them."""
    corner = np.ones(len(curve.score), np.bool_)
    # A point in the middle of a horizontal run adds nothing to a staircase.
    corner[1:-1] = (np.diff(curve.miss_rate)[:-1] != 0) | (np.diff(curve.miss_rate)[1:] != 0)
    kept = np.flatnonzero(corner)
    if len(kept) > points:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, points).round().astype(np.int64))]
    return MissRateCurve(curve.score[kept], curve.fppi[kept], curve.miss_rate[kept])


def _curve(hits: F32, num_objects: int, false: F32, num_images: int) -> MissRateCurve | None:
    if not num_objects or not num_images:
        return None
    score = np.unique(np.concatenate([hits, false]))[::-1]
    num_hits = len(hits) - np.searchsorted(np.sort(hits), score, side="left")
    num_false = len(false) - np.searchsorted(np.sort(false), score, side="left")
    return MissRateCurve(
        score.astype(np.float64), num_false / num_images, 1.0 - num_hits / num_objects
    )


def _miss_rate_at(curve: MissRateCurve, fppi: float) -> float:
    # The tolerance lets 1 / 100 count as the rate 10⁻², whatever the last bit of either.
    reached = int(np.searchsorted(curve.fppi, fppi * (1 + 1e-9), side="right"))
    return float(curve.miss_rate[reached - 1]) if reached else 1.0
