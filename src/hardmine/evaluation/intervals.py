"""95 % intervals of one detector's figures: bootstrap over images, exact limits for few alarms.

A draw resamples validation images and negative images with replacement and derives the score threshold
anew, so that the interval holds the uncertainty of the operating point too. It is held as ``counts``
i32[D, N]: how often draw d holds image i. The counts depend only on (seed, which set, N), so that two
arms measured on the same images get the same draws: that is what makes their comparison paired. Limits
are the 2.5 and 97.5 percentiles of the draws, taken outward; None means that the draws do not bound the
value.

Where alarms are few a bootstrap is too narrow: resampling images that hold no alarm can only ever show
none. The exact limits of a Poisson count still say how many alarms per image there may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardmine.evaluation.alarms import (
    AlarmScores,
    collect_alarms,
    count_alarms,
    find_threshold,
    hits_needed,
)
from hardmine.evaluation.detection_matching import Matches, match
from hardmine.evaluation.operating_promise import binomial_at_most
from hardmine.evaluation.scored_images import Scored
from hardmine.types import F64, I64

DRAWS = 1000
FEW_ALARMS = 10
"""Below this number of alarms, the exact limits of their count widen an interval."""
_TAIL = 0.025
"""Probability left out on each side."""
Counts = NDArray[np.int32]

MAX_DETECTIONS = 100
"""COCO's limit per image and class."""
_CELLS = 4_000_000
"""Draws × detections that are held in memory at once."""
_VAL, _NEGATIVES = 1, 2


@dataclass(frozen=True, eq=False)
class ArmScores:
    """The detections of one arm (or round) on the validation images and on one negative set."""

    val: Scored
    negatives: Scored

    @cached_property
    def matches(self) -> Matches:
        """The validation detections, matched at IoU .5."""
        return match(self.val.with_known_truth())

    @cached_property
    def alarms(self) -> AlarmScores:
        """The detections on the negative set."""
        return collect_alarms(self.negatives)

    def beside(self, negatives: Scored) -> ArmScores:
        """Return the same validation results beside another negative set, matched only once."""
        arm = ArmScores(self.val, negatives)
        arm.__dict__["matches"] = self.matches  # where cached_property keeps it
        return arm


@dataclass(frozen=True, eq=False)
class Draws:
    """``val`` i32[D, N] and ``negatives`` i32[D, M]: how often each draw holds each image."""

    val: Counts
    negatives: Counts

    def __len__(self) -> int:
        return len(self.val)


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
        """Return alarms per image of each draw, at the threshold of that draw."""
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


def full_sample(arm: ArmScores) -> Draws:
    """Return the one "draw" that holds every image once: the point estimate."""
    return Draws(
        np.ones((1, arm.matches.num_images), np.int32),
        np.ones((1, arm.alarms.num_images), np.int32),
    )


def draw_images(arm: ArmScores, draws: int, seed: int) -> Draws:
    """Return ``draws`` resamples of the arm's images, validation and negative ones apart."""
    return Draws(
        _resample(arm.matches.num_images, draws, (seed, _VAL)),
        _resample(arm.alarms.num_images, draws, (seed, _NEGATIVES)),
    )


def _resample(size: int, draws: int, key: tuple[int, int]) -> Counts:
    counts = np.zeros((draws, size), np.int32)
    if size:
        generator = np.random.default_rng((*key, size))
        for row in counts:
            row[:] = np.bincount(generator.integers(0, size, size), minlength=size)
    return counts


def threshold_draws(matches: Matches, counts: Counts, recall: float) -> F64:
    """Return the threshold at ``recall`` in each draw, f64[D]; +inf where it is not reachable."""
    order = np.argsort(-matches.score[matches.hit], kind="stable")
    score = matches.score[matches.hit][order].astype(np.float64)
    image = matches.image[matches.hit][order]
    objects = counts @ matches.objects.sum(axis=1)  # [D]
    thresholds = np.full(len(counts), np.inf)
    if not len(score):
        return thresholds
    needed = np.array([hits_needed(int(count), recall) for count in objects])
    for part in _slices(len(counts), len(score)):
        reached = np.cumsum(counts[part][:, image], axis=1) >= needed[part, None]  # [d, T]
        first = reached.argmax(axis=1)
        thresholds[part] = np.where(reached.any(axis=1), score[first], np.inf)
    return thresholds


def alarm_draws(alarms: AlarmScores, counts: Counts, thresholds: F64) -> F64:
    """Return alarms per image at each draw's own threshold, f64[D]; +inf where that is +inf.

    An unreachable recall is the worst outcome, not a draw without alarms.
    """
    above = alarms.count_at(thresholds)  # [D]
    reach = int(above.max(initial=0))
    total = np.zeros(len(counts))
    for part in _slices(len(counts), reach):
        summed = np.cumsum(counts[part][:, alarms.image[:reach]], axis=1, dtype=np.int64)
        last = above[part]
        rows = np.arange(len(last))
        if reach:
            total[part] = np.where(last > 0, summed[rows, np.maximum(last - 1, 0)], 0)
    rate = total / alarms.num_images if alarms.num_images else np.full(len(counts), np.nan)
    return np.where(np.isinf(thresholds), np.inf, rate)


def ap50_draws(matches: Matches, counts: Counts) -> F64:
    """Return AP50 (COCO's 101 points, mean over the classes drawn) in each draw, f64[D].

    NaN where a draw holds no object. Equal to COCO's evaluation on the full sample.
    """
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    kept = _within_limit(matches.image, matches.label) & (matches.hit | matches.false)
    for label in range(1, matches.objects.shape[1] + 1):
        rows = np.flatnonzero(kept & (matches.label == label))
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        objects = counts @ matches.objects[:, label - 1]
        precision = _class_ap(matches.image[rows], matches.hit[rows], counts, objects)
        total += np.where(objects > 0, precision, 0.0)
        classes += objects > 0
    mean = np.full(len(counts), np.nan)
    np.divide(total, classes, out=mean, where=classes > 0)
    return mean


def _class_ap(image: I64, hit: NDArray[np.bool_], counts: Counts, objects: I64) -> F64:
    """Return f64[D] for detections of one class, best first."""
    result = np.zeros(len(counts))
    hit_at = np.flatnonzero(hit)
    if not len(hit_at):
        return result
    image, hit = image[: hit_at[-1] + 1], hit[: hit_at[-1] + 1]
    points = np.linspace(0.0, 1.0, 101)
    for part in _slices(len(counts), len(image)):
        weight = counts[part][:, image]
        seen = np.cumsum(weight, axis=1)[:, hit_at].astype(np.float64)  # [d, T]
        true = np.cumsum(weight[:, hit_at], axis=1).astype(np.float64)
        precision = np.divide(true, seen, out=np.zeros_like(true), where=seen > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / np.maximum(objects[part, None], 1)
        for row in range(len(weight)):
            at = np.searchsorted(recall[row], points, side="left")
            reached = at[at < len(hit_at)]
            result[part.start + row] = envelope[row, reached].sum() / len(points)
    return result


def _within_limit(image: I64, label: I64) -> NDArray[np.bool_]:
    """Return bool[K]: among the 100 best of its image and class; rows go best first."""
    key = image * (int(label.max(initial=0)) + 1) + label
    order = np.argsort(key, kind="stable")
    _, first, inverse = np.unique(key[order], return_index=True, return_inverse=True)
    rank = np.arange(len(key)) - first[inverse] if len(key) else np.zeros(0, np.int64)
    kept = np.zeros(len(key), np.bool_)
    kept[order] = rank < MAX_DETECTIONS
    return kept


def _slices(draws: int, width: int) -> Iterator[slice]:
    step = max(1, _CELLS // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


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
        low = _solve(lambda mean: 1.0 - _poisson_cdf(count - 1, mean), _TAIL, ceiling)
    high = _solve(lambda mean: 1.0 - _poisson_cdf(count, mean), 1.0 - _TAIL, ceiling)
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
        share = _solve(lambda p: 1.0 - binomial_at_most(count_a - 1, total, p), _TAIL, 1.0)
        low = share / (1.0 - share)
    if count_b:
        share = _solve(lambda p: 1.0 - binomial_at_most(count_a, total, p), 1.0 - _TAIL, 1.0)
        high = share / (1.0 - share)
    return low, high


def student_limit(freedom: int) -> float:
    """Return the value that Student's t exceeds on either side with a probability of .025.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4, the distribution as a finite sum; solved by
    bisection.

    Raises:
        ValueError: there is no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"got {freedom} degrees of freedom, wanted one at least")
    angle = _solve(lambda theta: _student_within(theta, freedom), 1.0 - 2 * _TAIL, math.pi / 2)
    return math.sqrt(freedom) * math.tan(angle)


def _student_within(theta: float, freedom: int) -> float:
    """Return the probability that t lies within plus or minus sqrt(freedom) tan(theta)."""
    cosine, odd = math.cos(theta), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (step - 1) / step
    if not odd:
        return math.sin(theta) * total
    return 2.0 / math.pi * (theta + math.sin(theta) * total)


def _solve(rising: Callable[[float], float], wanted: float, high: float) -> float:
    """Return the place between 0 and ``high`` where a rising function reaches a value, by bisection."""
    low = 0.0
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
