"""95 % intervals of one detector's figures: bootstrap over images, exact limits for few alarms.

Each draw of the bootstrap resamples validation images and negative images and derives the score
threshold anew, so that the interval holds the uncertainty of the operating point too. Limits are the
2.5 and 97.5 percentiles of the draws, taken outward; None means that the draws do not bound the value.

Where alarms are few a bootstrap is too narrow: resampling images that hold no alarm can only ever show
none. The exact limits of a Poisson count still say how many alarms per image there may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardmine.evaluation.alarms import count_alarms
from hardmine.evaluation.bootstrap import (
    ArmScores,
    Draws,
    alarm_draws,
    ap50_draws,
    draw_images,
    threshold_draws,
)
from hardmine.evaluation.operating_point import find_threshold
from hardmine.types import F64

DRAWS = 1000
FEW_ALARMS = 10
"""With fewer alarms the exact limits of their count widen an interval."""
_TAIL = 0.025
"""Probability left out on each side."""

Statistic = Callable[[ArmScores, Draws], F64]
"""Gives one value per draw, f64[D], from a detector's scores."""


@dataclass(frozen=True)
class Interval:
    """95 % limits; ``poisson`` means the wider of the bootstrap's and the exact limits."""

    low: float | None
    high: float | None
    method: Literal["bootstrap", "poisson"]


def alarms_statistic(recall: float) -> Statistic:
    """Return the statistic "alarms per image at ``recall``" (+inf where recall is not reached)."""

    def compute(arm: ArmScores, draws: Draws) -> F64:
        thresholds = threshold_draws(arm.matches, draws.val, recall)
        return alarm_draws(arm.alarms, draws.negatives, thresholds)

    return compute


def ap50_statistic(arm: ArmScores, draws: Draws) -> F64:
    """Return AP50 on the validation images in each draw."""
    return ap50_draws(arm.matches, draws.val)


def bootstrap_interval(
    statistic: Statistic, arm: ArmScores, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the percentile interval of any statistic of one detector."""
    return Interval(
        *percentile_limits(statistic(arm, draw_images(arm, draws, seed))), method="bootstrap"
    )


def alarm_interval(
    arm: ArmScores, *, recall: float = 0.8, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Return the interval of alarms per image at ``recall``; None if that is not reached.

    With fewer than ten alarms the exact Poisson limits of their count widen it.
    """
    threshold = find_threshold(arm.matches, recall)
    if threshold is None or not arm.alarms.num_images:
        return None
    drawn = bootstrap_interval(alarms_statistic(recall), arm, draws=draws, seed=seed)
    count = count_alarms(arm.alarms, threshold).alarms
    if count >= FEW_ALARMS:
        return drawn
    low, high = (limit / arm.alarms.num_images for limit in poisson_limits(count))
    widest = None if drawn.high is None else max(drawn.high, high)
    return Interval(min(drawn.low or 0.0, low), widest, "poisson")


def percentile_limits(values: F64) -> tuple[float | None, float | None]:
    """Return the 2.5 and 97.5 percentiles, each taken from the draw next outside.

    An undefined draw (NaN) counts as the lowest for the lower limit and the highest for the upper.
    """
    if not len(values):
        return None, None
    undefined = np.isnan(values)
    low = np.quantile(np.where(undefined, -np.inf, values), _TAIL, method="lower")
    high = np.quantile(np.where(undefined, np.inf, values), 1.0 - _TAIL, method="higher")
    return finite(float(low)), finite(float(high))


def finite(value: float) -> float | None:
    """Return the value, None for NaN and the infinities."""
    return value if math.isfinite(value) else None


def poisson_limits(count: int) -> tuple[float, float]:
    """Return the limits of a Poisson mean of which ``count`` events were seen.

    Source: Garwood 1936: the mean at which ``count`` or more events (below) or fewer (above) have a
    probability of .025. Found by bisection on the distribution function.

    Raises:
        ValueError: ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"a count cannot be {count}")
    ceiling = count + 10.0 * math.sqrt(count + 1.0) + 10.0
    low = 0.0
    if count:
        low = _solve(lambda mean: 1.0 - _poisson_cdf(count - 1, mean), _TAIL, 0.0, ceiling)
    high = _solve(lambda mean: 1.0 - _poisson_cdf(count, mean), 1.0 - _TAIL, 0.0, ceiling)
    return low, high


def poisson_ratio_limits(count_a: int, count_b: int) -> tuple[float, float]:
    """Return the limits of mean a / mean b for two Poisson counts over equal exposures.

    Given the sum, ``count_a`` is binomial with share p = ratio / (1 + ratio); its exact limits
    (Clopper and Pearson 1934) give the ratio's. The upper one is infinite when b is 0. Source:
    Przyborowski and Wilenski 1940.
    """
    total = count_a + count_b
    low, high = 0.0, math.inf
    if count_a:
        share = _solve(lambda p: 1.0 - _binomial_cdf(count_a - 1, total, p), _TAIL, 0.0, 1.0)
        low = share / (1.0 - share)
    if count_b:
        share = _solve(lambda p: 1.0 - _binomial_cdf(count_a, total, p), 1.0 - _TAIL, 0.0, 1.0)
        high = share / (1.0 - share)
    return low, high


def _solve(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2.0
        if rising(middle) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _poisson_cdf(count: int, mean: float) -> float:
    if mean <= 0.0:
        return 1.0
    terms = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count + 1))
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _binomial_cdf(count: int, total: int, share: float) -> float:
    if share <= 0.0 or count >= total:
        return 1.0
    if share >= 1.0:
        return 0.0
    whole = math.lgamma(total + 1)
    terms = (
        whole
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(count + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))
