"""Exact 95 % limits for small counts, where a bootstrap is too sure of itself.

Resampling images that hold no alarm can only ever show none; the exact limits still say how many
alarms an image there may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable

TAIL = 0.025
"""Probability left out on each side."""


def poisson_limits(count: int) -> tuple[float, float]:
    """Return the limits of a Poisson mean of which ``count`` events were seen.

    Source: Garwood 1936: the mean at which ``count`` or more events (below) or fewer (above) have a
    probability of .025. Found by bisection on the distribution function.
    """
    if count < 0:
        raise ValueError(f"a count cannot be {count}")
    ceiling = count + 10.0 * math.sqrt(count + 1.0) + 10.0
    low = 0.0
    if count:
        low = _solve(lambda mean: 1.0 - _poisson_cdf(count - 1, mean), TAIL, 0.0, ceiling)
    high = _solve(lambda mean: 1.0 - _poisson_cdf(count, mean), 1.0 - TAIL, 0.0, ceiling)
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
        share = _solve(lambda p: 1.0 - _binomial_cdf(count_a - 1, total, p), TAIL, 0.0, 1.0)
        low = share / (1.0 - share)
    if count_b:
        share = _solve(lambda p: 1.0 - _binomial_cdf(count_a, total, p), 1.0 - TAIL, 0.0, 1.0)
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
