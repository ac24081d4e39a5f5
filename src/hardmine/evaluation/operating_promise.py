"""Score thresholds with a promise: at confidence 1 − δ, new images keep to a limit given in advance.

Two promises can be asked for:

- at most a share α of new images without objects fires (or: at most α alarms per image, each image
  counted up to a cap): the *lowest* score that promises it;
- at least a share R of new objects (or of images that hold one) is found: the *highest* such score.

**Why the promise holds for the score that was chosen by the same images.** Every threshold is one
hypothesis "here the limit is broken", with a test of level δ. The tests are taken in a fixed sequence
(from the score at which nothing fires downwards; from the score at which most is found upwards) and stop
at the first that does not reject: learn then test. What is tested never grows again on the way (a lower
threshold never silences an alarm), so that a wrong choice implies that the test failed at one threshold
that does not depend on the sample, the last one that breaks the limit. This has a probability of δ or
less, and nothing is paid for trying all thresholds. The images are taken as independent draws from the
source that the new images come from; within an image, detections may depend on each other in any way.

**Which tests.** An image fires or not, is found or not: the exact binomial distribution (Clopper and
Pearson 1934). Counts per image are no binomials, since alarms come together and objects of one image are
missed together; a normal interval, a Poisson interval and a bootstrap are all too narrow there when
events are few. For these a bet is used that is fair or unfavourable when the limit is broken: its wealth
over all images has a mean of at most 1, so that by Markov's inequality it exceeds 1/δ with a probability
of at most δ, whatever the distribution within the image. This needs a largest possible value per image:
no method can bound the mean of counts without one, since a rare image with a thousand alarms may hide
from any sample. For alarms it is the cap; for objects the fullest image that was seen stands for it.

Sources: Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then test"; Bates, Angelopoulos, Lei,
Malik and Jordan 2021, "Distribution-free, risk-controlling prediction sets" (theorem 1);
Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.detection_matching import Matches
from hardmine.types import F32, F64, I64

AlarmUnit = Literal["images", "alarms"]
"""What is promised of empty images: how many of them fire, or how many alarms they have."""
RecallUnit = Literal["object", "image"]

_STEPS = 1000
"""Limits of ratios are found to one part in so many, rounded outward."""


def images_needed(limit: float, confidence: float) -> int:
    """Return on how many images nothing may happen before ``limit`` can be promised.

    Example:
        0 of 299 images promise 1 % with a confidence of 95 %, since .99 ** 299 = .0495.
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-limit) - 1e-9)


def promised_by_none(images: int, confidence: float) -> float:
    """Return the smallest share that ``images`` images can promise: when nothing happens on them."""
    return 1.0 if not images else -math.expm1(math.log1p(-confidence) / images)


def most_allowed(images: int, limit: float, confidence: float) -> int | None:
    """Return the largest count of events on ``images`` images that still promises ``limit``.

    It is the largest k for which k or fewer events have a probability of at most 1 − ``confidence``
    where the share is ``limit``; None where even no event is not enough.
    """
    allowed, total = None, 0.0
    for count in range(images + 1):
        total += _binomial_probability(count, images, limit)
        if total > (1.0 - confidence) * (1 + 1e-12):
            break
        allowed = count
    return allowed


def share_limits(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Return the exact two-sided limits of a share of which ``count`` of ``total`` was seen.

    Source: Clopper and Pearson 1934. (0, 1) when there is nothing to count.
    """
    if not total:
        return 0.0, 1.0
    tail = (1.0 - confidence) / 2.0
    low, high = 0.0, 1.0
    if count:
        low = _bisect(lambda share: 1.0 - binomial_at_most(count - 1, total, share) < tail)
    if count < total:
        high = _bisect(lambda share: binomial_at_most(count, total, share) > tail)
    return low, high


def _binomial_probability(count: int, total: int, share: float) -> float:
    if share <= 0.0 or share >= 1.0:
        return float(count == (0 if share <= 0.0 else total))
    whole = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return math.exp(whole + count * math.log(share) + (total - count) * math.log1p(-share))


def binomial_at_most(count: int, total: int, share: float) -> float:
    """Return the probability of at most ``count`` events in ``total`` draws of probability ``share``."""
    return math.fsum(_binomial_probability(k, total, share) for k in range(count + 1))


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2.0


def wealth(part: F64, whole: F64, most: float, ratio: float, confidence: float) -> float:
    """Return what a bet against "E[part] / E[whole] is ``ratio`` or less" has become, from 1.

    With u in [0, 1], each image multiplies the wealth by 1 + u (part / ratio − whole) / most, which is
    never negative and has a mean of at most 1 when the hypothesis is true. The mean over several fixed
    u, chosen from the number of images and the ratio alone, is such a bet again, and does not depend on
    the order of the images.

    Args:
        part, whole: f64[N], per image, 0 <= part <= whole <= most.
        most: the largest value that ``whole`` can have.
        ratio: in (0, 1).

    Returns:
        The hypothesis is rejected at the confidence wanted when this is at least 1 / (1 − confidence).
    """
    if not len(part):
        return 1.0
    gain = (part / ratio - whole) / most
    stakes = _stakes(len(part), ratio, confidence)
    with np.errstate(divide="ignore"):
        logs = np.log1p(stakes[:, None] * gain[None, :]).sum(axis=1)  # [K]
    highest = float(logs.max())
    if highest == -math.inf:
        return 0.0
    return math.exp(min(highest, 700.0)) * float(np.exp(logs - highest).mean())


def _stakes(images: int, ratio: float, confidence: float) -> F64:
    """Return the u of the bet: from what is best for a binomial of this size up to 1, doubling.

    A share p that lies above the ratio r is shown best by u = (p − r) / (1 − r), and the p that can
    just be shown lies sqrt(2 log(1 / δ) r (1 − r) / N) above r. Smaller variances want larger stakes.
    """
    odds = ratio / (1.0 - ratio)
    least = math.sqrt(2.0 * -math.log1p(-confidence) * odds / images)
    stakes = [1.0]
    while stakes[-1] > least and len(stakes) < 12:
        stakes.append(stakes[-1] / 2.0)
    return np.array(stakes)


def ratio_limits(part: F64, whole: F64, most: float, confidence: float) -> tuple[float, float]:
    """Return two-sided limits of E[part] / E[whole] that hold however events cluster in an image.

    Args:
        part, whole, most: as for :func:`wealth`.

    Returns:
        (0, 1) when there is nothing to count.
    """
    if not whole.sum():
        return 0.0, 1.0
    once = (1.0 + confidence) / 2.0
    low = _lower_limit(part, whole, most, once)
    return low, 1.0 - _lower_limit(whole - part, whole, most, once)


def _lower_limit(part: F64, whole: F64, most: float, confidence: float) -> float:
    """Return the largest multiple of 1 / _STEPS below which every ratio is rejected, less one step."""
    enough = 1.0 / (1.0 - confidence)
    for step in range(1, _STEPS):
        if wealth(part, whole, most, step / _STEPS, confidence) < enough:
            return (step - 1) / _STEPS
    return (_STEPS - 1) / _STEPS


@dataclass(frozen=True)
class AlarmPromise:
    """What a threshold promises of new images without objects.

    ``score_threshold`` (inclusive) is None where the images are too few for the promise; then
    ``further_images`` says how many more are needed at least, all of them without an alarm.
    """

    limit: float
    confidence: float
    unit: AlarmUnit
    images: int
    score_threshold: float | None
    sample_threshold: float | None
    """The threshold at which the sample itself just keeps the limit, without any promise."""
    further_images: int
    firing: int | None
    """How many of these images fire at the threshold."""
    alarms: int | None
    cap: int | None = None
    """With the unit "alarms", how many alarms of one image count."""


def promise_alarms(
    alarms: AlarmScores,
    limit: float,
    *,
    confidence: float = 0.95,
    unit: AlarmUnit = "images",
    cap: int = 5,
) -> AlarmPromise:
    """Return the lowest score at which new empty images keep to a limit, at the confidence wanted.

    Args:
        alarms: the detections on images without objects; images independent of each other.
        limit: the share of images that may fire; or alarms per image, each counted up to ``cap``.
        cap: with the unit "alarms", how many alarms of one image count.

    Raises:
        ValueError: ``limit`` is outside (0, 1), or for alarms outside (0, ``cap``); ``confidence`` is
            outside (0, 1); or ``cap`` is below 1.
    """
    most = 1 if unit == "images" else cap
    if cap < 1 or not 0 < limit < most or not 0 < confidence < 1:
        raise ValueError(
            f"got limit {limit}, confidence {confidence}, cap {cap}; wanted a limit between 0 "
            f"and {most}, a confidence between 0 and 1, a cap of 1 or more"
        )
    images = alarms.num_images
    share = limit if unit == "images" else limit / cap
    needed = images_needed(share, confidence)
    if unit == "images":
        threshold = _lowest_for_images(alarms, most_allowed(images, limit, confidence))
        sample = _lowest_for_images(alarms, math.floor(limit * images + 1e-9))
    else:
        threshold = _lowest_for_counts(alarms, limit, confidence, cap)
        sample = _lowest(alarms, lambda count: _capped(alarms, count, cap).sum() <= limit * images)
    count = None if threshold is None else int(alarms.count_at(threshold))
    firing = None if count is None else len(np.unique(alarms.image[:count]))
    return AlarmPromise(
        limit,
        confidence,
        unit,
        images,
        threshold,
        sample if images else None,
        max(0, needed - images) if threshold is None else 0,
        firing,
        count,
        None if unit == "images" else cap,
    )


def _above(score: np.float32 | float) -> float:
    """Return the next float32 above a score: the lowest threshold that leaves it out."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _lowest_for_images(alarms: AlarmScores, allowed: int | None) -> float | None:
    """Return the lowest threshold at which at most ``allowed`` images fire."""
    if allowed is None:
        return None
    _, first = np.unique(alarms.image, return_index=True)  # the best detection of each image
    best = np.sort(alarms.score[first])[::-1]
    return 0.0 if len(best) <= allowed else _above(best[allowed])


def _lowest_for_counts(
    alarms: AlarmScores, limit: float, confidence: float, cap: int
) -> float | None:
    enough, share = 1.0 / (1.0 - confidence), limit / cap
    whole = np.ones(alarms.num_images)

    def promised(count: int) -> bool:
        """Return whether the promise holds where the ``count`` best detections fire."""
        quiet = 1.0 - _capped(alarms, count, cap) / cap
        return wealth(quiet, whole, 1.0, 1.0 - share, confidence) >= enough * (1 - 1e-9)

    return _lowest(alarms, promised) if promised(0) else None


def _capped(alarms: AlarmScores, count: int, cap: int) -> F64:
    """Return f64[N]: how many of the ``count`` best detections each image has, at most ``cap``."""
    found = np.bincount(alarms.image[:count], minlength=alarms.num_images)
    return np.minimum(found, cap).astype(np.float64)


def _lowest(alarms: AlarmScores, holds: Callable[[int], bool]) -> float:
    """Return the lowest threshold at which ``holds(number of detections there)``.

    It must hold for none, and once it fails for every larger number.
    """
    values = np.unique(alarms.score)[::-1]  # falling: thresholds are tried between them
    ends = alarms.count_at(values.astype(np.float64))  # detections down to and with each value
    low, high = 0, len(values)  # holds with the `low` highest values, fails beyond `high`
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(int(ends[middle - 1])) else (low, middle - 1)
    return 0.0 if low == len(values) else _above(values[low])


@dataclass(frozen=True, eq=False)
class Hits:
    """Hits on labelled images: ``score`` f32[T], ``image`` i64[T]; ``objects`` i64[N] per image."""

    score: F32
    image: I64
    objects: I64

    def found_at(self, score_threshold: float | None) -> I64:
        """Return i64[N]: how many objects of each image are found with ``score >= score_threshold``."""
        if score_threshold is None:
            return np.zeros(len(self.objects), np.int64)
        kept = self.image[self.score >= np.float32(score_threshold)]
        return np.bincount(kept, minlength=len(self.objects))


def collect_hits(matches: Matches, label: int | None = None) -> Hits:
    """Return the hits of one class, or of all; images that hold no such object are left out."""
    kept = matches.hit if label is None else matches.hit & (matches.label == label)
    objects = matches.objects.sum(axis=1) if label is None else matches.objects[:, label - 1]
    holds = objects > 0
    position = np.cumsum(holds) - 1
    return Hits(matches.score[kept], position[matches.image[kept]], objects[holds])


@dataclass(frozen=True)
class RecallPromise:
    """What a threshold promises of new images with objects.

    ``score_threshold`` (inclusive) is None where the promise cannot be given: because too few images
    hold an object (``further_images``), or because the detector finds too few at any score.
    """

    limit: float
    confidence: float
    unit: RecallUnit
    images: int
    objects: int
    score_threshold: float | None
    sample_threshold: float | None
    further_images: int
    highest: float | None
    """What share is found when every detection counts."""


def promise_recall(
    hits: Hits, limit: float, *, confidence: float = 0.95, unit: RecallUnit = "object"
) -> RecallPromise:
    """Return the highest score at which new objects are found at least at a rate.

    Args:
        hits: what is found on labelled images; images independent of each other.
        limit: the share of objects, or of images with one object found at least, that must be found.

    Raises:
        ValueError: ``limit`` or ``confidence`` is outside (0, 1).
    """
    if not 0 < limit < 1 or not 0 < confidence < 1:
        raise ValueError(f"got limit {limit}, confidence {confidence}, wanted both between 0 and 1")
    images, objects = len(hits.objects), int(hits.objects.sum())
    threshold = _highest(hits, lambda found: _is_promised(hits, found, limit, confidence, unit))
    sample = _highest(hits, lambda found: _share(hits, found, unit) >= limit - 1e-12)
    fewest = _images_for_recall(hits, limit, confidence, unit)
    return RecallPromise(
        limit,
        confidence,
        unit,
        images,
        objects,
        threshold,
        sample,
        max(0, fewest - images) if threshold is None else 0,
        _share(hits, hits.found_at(0.0), unit) if images else None,
    )


def _is_promised(hits: Hits, found: I64, limit: float, confidence: float, unit: RecallUnit) -> bool:
    images = len(hits.objects)
    if unit == "image":
        allowed = most_allowed(images, 1.0 - limit, confidence)
        return allowed is not None and images - int(np.count_nonzero(found)) <= allowed
    part, whole = found.astype(np.float64), hits.objects.astype(np.float64)
    grown = wealth(part, whole, float(whole.max(initial=1.0)), limit, confidence)
    return grown >= (1 - 1e-9) / (1.0 - confidence)


def _share(hits: Hits, found: I64, unit: RecallUnit) -> float:
    if unit == "image":
        return int(np.count_nonzero(found)) / len(hits.objects)
    return int(found.sum()) / int(hits.objects.sum())


def _images_for_recall(hits: Hits, limit: float, confidence: float, unit: RecallUnit) -> int:
    """Return how many images with objects as here are needed at least, when all is found.

    Where the images that are there are enough, they are the number.
    """
    if unit == "image" or not len(hits.objects):
        return images_needed(1.0 - limit, confidence)
    gain = hits.objects / hits.objects.max() * (1.0 / limit - 1.0)

    def promised(images: int) -> bool:
        """Return whether so many images promise the limit; as :func:`wealth`."""
        logs = images * np.log1p(_stakes(images, limit, confidence)[:, None] * gain).mean(axis=1)
        return float(np.logaddexp.reduce(logs)) - math.log(len(logs)) >= -math.log1p(-confidence)

    low = high = len(hits.objects)
    while not promised(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if promised(middle) else (middle, high)
    return high


def _highest(hits: Hits, holds: Callable[[I64], bool]) -> float | None:
    """Return the highest score at which ``holds(objects found per image)``; None where it never does."""
    values = np.unique(hits.score)
    low, high = -1, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        found = hits.found_at(float(values[middle]))
        low, high = (middle, high) if holds(found) else (low, middle - 1)
    return None if low < 0 else float(values[low])


@dataclass(frozen=True)
class RecallFigures:
    """Recall at one score with exact limits, per object and per image that holds one."""

    objects: int
    found: int
    recall: float | None
    limits: tuple[float, float]
    images: int
    images_found: int
    image_limits: tuple[float, float]


def recall_figures(hits: Hits, score_threshold: float | None, confidence: float) -> RecallFigures:
    """Return recall at a score. The limits hold when objects of one image are missed together.

    They are two-sided, and valid for a score that was chosen on other images.
    """
    found = hits.found_at(score_threshold)
    part, whole = found.astype(np.float64), hits.objects.astype(np.float64)
    objects, images = int(whole.sum()), len(whole)
    images_found = int(np.count_nonzero(found))
    return RecallFigures(
        objects,
        int(found.sum()),
        int(found.sum()) / objects if objects else None,
        ratio_limits(part, whole, float(whole.max(initial=1.0)), confidence),
        images,
        images_found,
        share_limits(images_found, images, confidence),
    )
