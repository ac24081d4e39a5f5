"""Two arms (or rounds) compared on the same images: the ratio of their alarms, the difference of AP50.

Arms that are compared get the same draws, so what is hard about an image cancels out.

Over several seeds there are two sources of chance. The images are the same for all seeds: the draws of
images give the limits of the mean over the seeds as they are. The trainings differ: from three seeds on,
the spread of their values widens the limits, with Student's t, whose degrees of freedom are fewer the
more of the chance lies in the seeds (Satterthwaite 1946). The two widths are added as squares, each side
for itself (the method "MOVER", Zou and Donner 2008). The spread of the seeds holds a part of the images'
chance too, which is so counted twice: rather too wide than too narrow. ``benchmarks.intervals`` measures
how often the limits hold the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.errors import DataError
from hardmine.evaluation.alarms import count_alarms, find_threshold
from hardmine.evaluation.class_alarms import alarms_at_class_recall, class_alarms_statistic
from hardmine.evaluation.intervals import (
    DRAWS,
    FEW_ALARMS,
    ArmScores,
    Draws,
    Statistic,
    alarms_statistic,
    draw_images,
    finite,
    full_sample,
    percentile_limits,
    poisson_ratio_limits,
    student_limit,
)
from hardmine.types import F64

LOW_RATE = 0.05
"""Alarms per image below which a ratio needs at least ten alarms."""
ENOUGH_SEEDS = 3
"""Trainings of a recipe from which their spread is estimated; fewer say nothing of it."""
_MANY = 1000
"""Degrees of freedom from which Student's t is as good as normal."""


@dataclass(frozen=True)
class SeedRatio:
    """One seed's part in a ratio: alarms of either arm at its own threshold."""

    ratio: float | None
    alarms_a: int | None
    alarms_b: int | None


@dataclass(frozen=True)
class RatioInterval:
    """Alarms per image of arm a over those of arm b at one recall, paired.

    ``ratio`` is None where none may be claimed, and ``note`` says why. The limits are given all the
    same unless a rate is undefined or neither arm has an alarm, so that few alarms can still be
    distinguished from many; against an arm without any alarm there is a lower limit only. Counts and
    rates are means over the seeds; ``seeds`` holds each of them.
    """

    ratio: float | None
    low: float | None
    high: float | None
    alarms_a: float | None
    alarms_b: float | None
    per_image_a: float | None
    per_image_b: float | None
    note: str
    seeds: tuple[SeedRatio, ...]


@dataclass(frozen=True)
class DifferenceInterval:
    """A statistic of arm a minus that of arm b, paired; None where a value is undefined."""

    value_a: float | None
    value_b: float | None
    difference: float | None
    low: float | None
    high: float | None


def paired_ratio(
    a: ArmScores, b: ArmScores, *, recall: float = 0.8, draws: int = DRAWS, seed: int = 0
) -> RatioInterval:
    """Return alarms of ``a`` over alarms of ``b`` at ``recall`` with the paired interval.

    Raises:
        DataError: the arms were measured on different images.
    """
    return paired_ratio_over_seeds([(a, b)], recall=recall, draws=draws, seed=seed)


def paired_ratio_over_seeds(
    pairs: Sequence[tuple[ArmScores, ArmScores]],
    *,
    recall: float = 0.8,
    each_class: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> RatioInterval:
    """Return the mean alarms of the first arms over those of the second, a pair per seed.

    The limits hold the chance of the images and, with three seeds or more, that of the trainings; the
    result holds each seed's ratio too. The rule against ratios of few alarms looks at the mean count per
    seed, since the seeds share their images.

    Args:
        each_class: count each class from the score of its own recall, not from that of all objects.

    Raises:
        DataError: the arms of a pair were measured on different images.
        ValueError: there is no pair.
    """
    statistic = class_alarms_statistic(recall) if each_class else alarms_statistic(recall)
    count = _count_each_class if each_class else _count
    rates = _paired_values(statistic, pairs, draws, seed)
    counts = [(count(a, recall), count(b, recall)) for a, b in pairs]
    seeds = tuple(
        SeedRatio(_ratio_of_counts(count_a, count_b), count_a, count_b)
        for count_a, count_b in counts
    )
    alarms_a, alarms_b = (_mean([pair[side] for pair in counts]) for side in (0, 1))
    value_a, value_b = (finite(float(values.mean())) for values in rates.point)
    note = _why_undefined(alarms_a, alarms_b, value_a, value_b, recall)
    if not note and pairs[0][0].alarms.num_images == 1:  # all draws are the same
        note = "one negative image does not show how much images differ"
    if note or alarms_a is None or alarms_b is None or value_a is None or value_b is None:
        return RatioInterval(None, None, None, alarms_a, alarms_b, value_a, value_b, note, seeds)
    ratio = value_a / value_b if value_b else None
    low, high = percentile_limits(_ratios(rates.mean_drawn[0], rates.mean_drawn[1]))
    means = (value_a, value_b)
    spread = seed_spread(_relative(rates.point, means), _relative(rates.mean_drawn, means))
    low, high = _widen_ratio(ratio, low, high, spread)
    differ = bool((rates.drawn[0] != rates.drawn[1]).any())
    if differ and min(alarms_a, alarms_b) < FEW_ALARMS:
        low, high, note = _widen(low, high, alarms_a, alarms_b)
    if _too_few(alarms_a, value_a) or _too_few(alarms_b, value_b):
        ratio = None
        note = (
            f"with fewer than {FEW_ALARMS} alarms, below {LOW_RATE:g} per image, no ratio is given; "
            "the limits are the wider ones of the bootstrap and of the Poisson distribution"
        )
    return RatioInterval(ratio, low, high, alarms_a, alarms_b, value_a, value_b, note, seeds)


def paired_difference(
    a: ArmScores, b: ArmScores, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0
) -> DifferenceInterval:
    """Return ``statistic`` of ``a`` minus that of ``b`` with the paired interval.

    Raises:
        DataError: the arms were measured on different images.
    """
    return paired_difference_over_seeds([(a, b)], statistic, draws=draws, seed=seed)


def paired_difference_over_seeds(
    pairs: Sequence[tuple[ArmScores, ArmScores]],
    statistic: Statistic,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> DifferenceInterval:
    """Return the mean difference over the pairs, one per seed; limits as in the ratio's."""
    values = _paired_values(statistic, pairs, draws, seed)
    value_a, value_b = (finite(float(side.mean())) for side in values.point)
    if value_a is None or value_b is None:
        return DifferenceInterval(value_a, value_b, None, None, None)
    if len(pairs[0][0].val.dataset) == 1:  # all draws are the same
        return DifferenceInterval(value_a, value_b, value_a - value_b, None, None)
    with np.errstate(invalid="ignore"):
        moved = values.mean_drawn[0] - values.mean_drawn[1]
    low, high = percentile_limits(moved)
    spread = seed_spread(values.point[0] - values.point[1], moved)
    difference = value_a - value_b
    low = None if low is None else difference - math.hypot(max(0.0, difference - low), spread)
    high = None if high is None else difference + math.hypot(max(0.0, high - difference), spread)
    return DifferenceInterval(value_a, value_b, difference, low, high)


def seed_spread(values: F64, drawn: F64) -> float:
    """Return half the width that the choice of seeds adds to 95 % limits of a mean over them.

    That is the standard error of the mean times Student's t. 0 with fewer than three seeds: with two, t
    is up to 12.7, and no limits could be told from none.

    Args:
        values: f64[S], the value of each seed.
        drawn: f64[D], their mean in each draw of images; draws where it is undefined are left out.
    """
    seeds = len(values)
    if seeds < ENOUGH_SEEDS:
        return 0.0
    of_seeds, known = float(values.var(ddof=1)) / seeds, drawn[np.isfinite(drawn)]
    if not of_seeds:
        return 0.0
    whole = of_seeds + (float(known.var()) if len(known) else 0.0)
    freedom = (seeds - 1) * (whole / of_seeds) ** 2
    return student_limit(int(min(freedom, _MANY))) * math.sqrt(of_seeds)


CHANGE_RECALLS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
"""Recalls at which two rounds are compared."""
_NEARLY_ALL = 0.99
"""Share of the draws in which a recall must be reached, or no interval is known there."""


@dataclass(frozen=True)
class AlarmChange:
    """Alarms of one round over those of an earlier one: a geometric mean over several recalls.

    Attributes:
        ratio: ``None`` when no recall is reached by both, or there are no negative images.
        low, high: the paired 95 % interval; ``None`` where the draws do not bound it.
        recalls: those that both rounds reach, in nearly every draw too.
        deviation: standard deviation of the logarithm of the ratio over the draws; ``None`` where it is
            not finite, or there are no draws.
    """

    ratio: float | None
    low: float | None
    high: float | None
    recalls: tuple[float, ...]
    deviation: float | None = None


def alarm_change(
    after: ArmScores,
    before: ArmScores,
    *,
    recalls: Sequence[float] = CHANGE_RECALLS,
    draws: int = DRAWS,
    seed: int = 0,
) -> AlarmChange:
    """Return how alarms changed from one round to a later one, measured on the same images.

    The ratio at one recall is (alarms after + ½) / (alarms before + ½), which is defined without any
    alarm and does not overrate a change among few. Several recalls say more than one, since the
    threshold of each depends on other objects. In their geometric mean the weight of a recall is the
    square root of the alarms that were seen there.

    Raises:
        DataError: the rounds were measured on different images.
    """
    _check_same_images(after, before)
    thresholds = {
        recall: (find_threshold(after.matches, recall), find_threshold(before.matches, recall))
        for recall in recalls
    }
    reached = tuple(recall for recall, pair in thresholds.items() if None not in pair)
    if not reached or not after.alarms.num_images:
        return AlarmChange(None, None, None, ())
    whole, sample = full_sample(after), draw_images(after, draws, seed)
    now, then = (
        np.concatenate([_alarms_at(arm, part, reached) for part in (whole, sample)], axis=1)
        for arm in (after, before)
    )
    return change_of_counts(now, then, reached)


def change_of_counts(after: F64, before: F64, recalls: Sequence[float]) -> AlarmChange:
    """Return the change between two rounds whose alarms are counted.

    Args:
        after, before: f64[R, 1 + D], alarms at each recall on the whole sample and in each draw, paired;
            +inf where a draw does not reach the recall.
        recalls: the R recalls.
    """
    sure = np.minimum(*(np.isfinite(side).mean(1) for side in (after, before))) >= _NEARLY_ALL
    sure = sure if sure.any() else np.arange(len(recalls)) == 0
    now, then = after[sure] + 0.5, before[sure] + 0.5
    weights = np.sqrt(now[:, 0] + then[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):  # recalls that a draw does not reach
        logs: F64 = np.average(np.log(_ratios(now, then)), axis=0, weights=weights)
    low, high = percentile_limits(logs[1:])
    with np.errstate(invalid="ignore"):
        deviation = finite(float(logs[1:].std())) if len(logs) > 1 else None
    return AlarmChange(
        math.exp(logs[0]),
        None if low is None else math.exp(low),
        None if high is None else math.exp(high),
        tuple(recall for recall, is_sure in zip(recalls, sure, strict=True) if is_sure),
        deviation,
    )


def _alarms_at(arm: ArmScores, sample: Draws, recalls: Sequence[float]) -> F64:
    """Return the alarms at each recall in each draw, f64[R, D]; +inf where it is not reached."""
    rates = [alarms_statistic(recall)(arm, sample) for recall in recalls]
    return np.stack(rates) * arm.alarms.num_images


@dataclass(frozen=True, eq=False)
class _Values:
    """The seeds' values for arm a and arm b: ``point`` f64[S] each, ``drawn`` f64[S, D] each."""

    point: tuple[F64, F64]
    drawn: tuple[F64, F64]

    @property
    def mean_drawn(self) -> tuple[F64, F64]:
        """Mean over the seeds in each draw, f64[D] for either arm."""
        return self.drawn[0].mean(axis=0), self.drawn[1].mean(axis=0)


def _paired_values(
    statistic: Statistic, pairs: Sequence[tuple[ArmScores, ArmScores]], draws: int, seed: int
) -> _Values:
    if not pairs:
        raise ValueError("got no pair of arms, wanted at least one")
    for a, b in pairs:
        _check_same_images(a, b)
    point, drawn = [], []
    for side in (0, 1):
        arms = [pair[side] for pair in pairs]
        point.append(np.concatenate([statistic(arm, full_sample(arm)) for arm in arms]))
        drawn.append(np.stack([statistic(arm, draw_images(arm, draws, seed)) for arm in arms]))
    return _Values((point[0], point[1]), (drawn[0], drawn[1]))


def _check_same_images(a: ArmScores, b: ArmScores) -> None:
    for name, one, other in (
        ("validation", a.val.dataset, b.val.dataset),
        ("negative", a.negatives.dataset, b.negatives.dataset),
    ):
        if one.fingerprint != other.fingerprint:
            raise DataError(
                f"the arms were measured on different {name} images "
                f"({len(one)} in {one.root}, {len(other)} in {other.root}): they cannot be paired"
            )


def _count(arm: ArmScores, recall: float) -> int | None:
    threshold = find_threshold(arm.matches, recall)
    return None if threshold is None else count_alarms(arm.alarms, threshold).alarms


def _count_each_class(arm: ArmScores, recall: float) -> int | None:
    return alarms_at_class_recall(arm, recall).alarms


def _ratio_of_counts(count_a: int | None, count_b: int | None) -> float | None:
    return None if count_a is None or not count_b else count_a / count_b


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _ratios(a: F64, b: F64) -> F64:
    """Return a / b in each draw; 1 where both are equal, two zeros or infinities too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == b, 1.0, a / b)


def _relative(sides: tuple[F64, F64], means: tuple[float, float]) -> F64:
    """Return how far the logarithm of a / b lies from that of the means, to first order.

    So it is defined without alarms too: a / mean a - b / mean b, where a side without any counts as 0.
    """
    a, b = (
        side / mean if mean else np.zeros_like(side)
        for side, mean in zip(sides, means, strict=True)
    )
    with np.errstate(invalid="ignore"):  # a recall that neither side reaches in a draw
        return np.asarray(a - b, np.float64)


def _widen_ratio(
    ratio: float | None, low: float | None, high: float | None, spread: float
) -> tuple[float | None, float | None]:
    """Add the spread of the seeds to the limits of a ratio, on the logarithmic scale."""
    if not ratio or not spread:
        return low, high
    if low is not None and low > 0.0:
        low = ratio * math.exp(-math.hypot(max(0.0, math.log(ratio / low)), spread))
    if high is not None:
        high = ratio * math.exp(math.hypot(max(0.0, math.log(high / ratio)), spread))
    return low, high


def _too_few(count: float, rate: float) -> bool:
    return count < FEW_ALARMS and rate < LOW_RATE


def _why_undefined(
    alarms_a: float | None,
    alarms_b: float | None,
    rate_a: float | None,
    rate_b: float | None,
    recall: float,
) -> str:
    if alarms_a is None or alarms_b is None:
        return f"recall {recall:g} is not reached"
    if rate_a is None or rate_b is None:
        return "there are no negative images"
    return "" if rate_a or rate_b else f"with fewer than {FEW_ALARMS} alarms no ratio is given"


def _widen(
    low: float | None, high: float | None, alarms_a: float, alarms_b: float
) -> tuple[float | None, float | None, str]:
    exact_low, _ = poisson_ratio_limits(math.floor(alarms_a), math.ceil(alarms_b))
    _, exact_high = poisson_ratio_limits(math.ceil(alarms_a), math.floor(alarms_b))
    upper = None if high is None else finite(max(high, exact_high))
    note = (
        f"with fewer than {FEW_ALARMS} alarms, the limits are the wider ones of the bootstrap and of "
        "the Poisson distribution"
    )
    # Where nearly all draws hold no alarm of b, theirs is infinite.
    return exact_low if low is None else min(low, exact_low), upper, note
