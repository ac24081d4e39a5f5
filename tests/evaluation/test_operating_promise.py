"""Promises of thresholds: exact limits by hand, and how often a promise is broken over many draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from eval_worlds import empties, found, one_object_each, record, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.evaluation.alarms import AlarmScores, collect_alarms
from hardmine.evaluation.detection_matching import match
from hardmine.evaluation.operating_promise import (
    AlarmPromise,
    Hits,
    RecallUnit,
    collect_hits,
    images_needed,
    most_allowed,
    promise_alarms,
    promise_recall,
    promised_by_none,
    ratio_limits,
    recall_figures,
    share_limits,
    wealth,
)
from hardmine.types import F64

DRAWS = 2000


def test_how_many_images_without_an_alarm_a_promise_needs() -> None:
    # .99 ** 298 = .0500 (.05003) and .99 ** 299 = .0495
    assert (images_needed(0.01, 0.95), images_needed(0.05, 0.95)) == (299, 59)
    assert (most_allowed(298, 0.01, 0.95), most_allowed(299, 0.01, 0.95)) == (None, 0)
    # Of 500 images with a share of .01: P(0) = .0066, P(0 or 1) = .0398, P(2 or fewer) = .1234
    assert most_allowed(500, 0.01, 0.95) == 1
    assert most_allowed(0, 0.5, 0.95) is None
    # 0 of 300 promise .0099, not .001: 1 - .05 ** (1 / 300)
    assert promised_by_none(300, 0.95) == pytest.approx(0.009936, abs=1e-6)
    assert promised_by_none(0, 0.95) == 1.0


def test_limits_of_a_share() -> None:
    # Clopper and Pearson; 0 of n has the upper limit 1 - (δ / 2) ** (1 / n).
    assert share_limits(0, 300, 0.95) == pytest.approx((0.0, 1 - 0.025 ** (1 / 300)), abs=1e-9)
    assert share_limits(300, 300, 0.95) == pytest.approx((0.025 ** (1 / 300), 1.0), abs=1e-9)
    # 5 of 100: the published limits are .0164 and .1128
    assert share_limits(5, 100, 0.95) == pytest.approx((0.01643, 0.11283), abs=1e-5)
    assert share_limits(0, 0, 0.95) == (0.0, 1.0)


def test_the_bet_by_hand() -> None:
    # 10 images with ratio .5 at confidence .95: the least stake is sqrt(2 * 2.9957 * 1 / 10) = .774,
    # so the stakes are 1 and .5. All found: (1 + 1) ** 10 and (1 + .5) ** 10, the mean of the two.
    all_found = np.ones(10)
    by_hand = (2.0**10 + 1.5**10) / 2
    assert wealth(all_found, np.ones(10), 1.0, 0.5, 0.95) == pytest.approx(by_hand)
    # One of two missed, at most 2 objects per image: factors 1 + u (1 / .5 - 2) / 2 = 1.
    assert wealth(np.ones(10), np.full(10, 2.0), 2.0, 0.5, 0.95) == pytest.approx(1.0)
    assert wealth(np.zeros(0), np.zeros(0), 1.0, 0.5, 0.95) == 1.0


def test_without_an_alarm_a_bet_is_as_sharp_as_the_exact_distribution() -> None:
    def needs(cap: int) -> int:
        def promised(images: int) -> bool:
            quiet = AlarmScores(np.zeros(0, np.float32), np.zeros(0, np.int64), images)
            found = promise_alarms(quiet, 0.05, unit="alarms", cap=cap)
            return found.score_threshold is not None

        return next(n for n in range(20, 2000) if promised(n))

    assert needs(1) == 59
    assert needs(5) == images_needed(0.01, 0.95)  # an image may hide five alarms


def test_the_lowest_score_that_promises() -> None:
    # 100 images, the best alarms .90, .89, … .81 on ten of them. A share of .08 with 95 %:
    # P(0..3) = .0367, P(0..4) = .0903 (binomial, 100, .08), so 3 may fire: just above the fourth.
    scores = [[0.9 - 0.01 * i] for i in range(10)] + [[] for _ in range(90)]
    promise = promise_alarms(collect_alarms(empties(*scores)), 0.08)
    assert promise.score_threshold == float(np.nextafter(np.float32(0.87), np.float32(1)))
    assert (promise.firing, promise.alarms, promise.further_images) == (3, 3, 0)
    # The sample's own 8 %: eight images fire above the ninth.
    assert promise.sample_threshold == float(np.nextafter(np.float32(0.82), np.float32(1)))


def test_many_alarms_of_one_image_count_once_for_the_share() -> None:
    scores = [[0.9, 0.8, 0.7, 0.6]] + [[] for _ in range(99)]
    alarms = collect_alarms(empties(*scores))
    assert promise_alarms(alarms, 0.05).score_threshold == 0.0
    several = promise_alarms(alarms, 0.25, unit="alarms", cap=4)
    assert several.score_threshold is not None
    assert several.score_threshold > 0.0


def test_what_cannot_be_promised_says_how_many_images_are_missing() -> None:
    quiet = collect_alarms(empties(*([] for _ in range(300))))
    promise = promise_alarms(quiet, 0.001)
    assert promise.score_threshold is None
    assert promise.further_images == 2995 - 300  # log(.05) / log(.999) = 2994.2
    assert promise_alarms(quiet, 0.01).score_threshold == 0.0
    none_at_all = promise_alarms(collect_alarms(empties()), 0.01)
    assert (none_at_all.score_threshold, none_at_all.further_images) == (None, 299)
    assert none_at_all.sample_threshold is None


def test_the_highest_score_that_finds_enough() -> None:
    # 100 images with one object, hit at .01, .02 … 1.00. 60 of 100: most that may be missed so that
    # .5 is promised: P(Bin(100, .5) <= 41) = .0443, <= 42 = .0666, so 59 must be found: score .42.
    val = one_object_each(*((i + 1) / 100 for i in range(100)))
    promise = promise_recall(collect_hits(match(val)), 0.5, unit="image")
    assert promise.score_threshold == pytest.approx(0.42)
    assert promise.sample_threshold == pytest.approx(0.51)
    assert (promise.images, promise.objects, promise.highest) == (100, 100, 1.0)


def test_a_recall_that_is_never_reached_is_told_apart_from_too_few_images() -> None:
    few = promise_recall(collect_hits(match(one_object_each(0.9, 0.8))), 0.95, unit="image")
    assert (few.score_threshold, few.further_images) == (None, 57)  # .95 ** 59 = .0485
    per_object = promise_recall(collect_hits(match(one_object_each(0.9, 0.8))), 0.95)
    assert (per_object.score_threshold, per_object.further_images) == (None, 57)
    # Images of one and of two objects: 2.9957 / log(1 + .75 (1 / .95 - 1)) = 77.4.
    uneven = promise_recall(
        Hits(np.zeros(0, np.float32), np.zeros(0, np.int64), np.array([1, 2])), 0.95
    )
    assert uneven.further_images == 78 - 2
    half = one_object_each(*[0.9] * 100, *[None] * 100)
    never = promise_recall(collect_hits(match(half)), 0.8)
    assert (never.score_threshold, never.further_images, never.highest) == (None, 0, 0.5)


def all_found(*objects: int) -> Hits:
    counts = np.array(objects)
    image = np.repeat(np.arange(len(counts)), counts)
    return Hits(np.full(len(image), 0.9, np.float32), image, counts)


@pytest.mark.parametrize("objects", [(1,) * 57 + (2,) * 4, (1, 3) * 20, (2,) * 28, (1,) * 28])
def test_images_that_are_too_few_are_not_blamed_on_the_detector(objects: tuple[int, ...]) -> None:
    """All is found, so that more images of this kind are all that is missing."""
    promise = promise_recall(all_found(*objects), 0.9)
    assert (promise.score_threshold, promise.highest) == (None, 1.0)
    assert promise.further_images > 0
    more = objects + (objects[0], objects[-1]) * math.ceil(promise.further_images / 2)
    assert promise_recall(all_found(*more), 0.9).score_threshold is not None


def test_an_image_is_found_when_one_of_its_objects_is() -> None:
    boxes = [(10, 10, 30, 30), (60, 60, 90, 90)]
    two = record(*((1, *box) for box in boxes))
    val = scored([two] * 80, [found((0.9, 1, *boxes[0]))] * 80)
    hits = collect_hits(match(val))
    assert promise_recall(hits, 0.9, unit="image").score_threshold == pytest.approx(0.9)
    assert promise_recall(hits, 0.9).score_threshold is None  # half of the objects are missed
    figures = recall_figures(hits, 0.9, 0.95)
    assert (figures.found, figures.objects, figures.images_found) == (80, 160, 80)
    assert figures.limits[0] < 0.5 < figures.limits[1]


def test_hits_of_one_class_leave_out_images_without_it() -> None:
    box = (10, 10, 50, 50)
    records = [record((1, *box)), record((2, *box)), record((2, *box), (1, 60, 60, 90, 90))]
    val = scored(records, [found((0.9, 1, *box)), found((0.8, 2, *box)), found()], 2)
    second = collect_hits(match(val), 2)
    assert second.objects.tolist() == [1, 1]
    assert second.found_at(0.5).tolist() == [1, 0]
    assert collect_hits(match(val)).objects.tolist() == [1, 1, 2]


def test_more_than_one_alarm_per_image_can_be_promised() -> None:
    # Of 100 images each has two alarms at .4, half of them three more at .6.
    scores = [[0.6] * 3 * (i % 2) + [0.4] * 2 for i in range(100)]
    alarms = collect_alarms(empties(*scores))
    found = promise_alarms(alarms, 2.0, unit="alarms", cap=5)
    assert found.score_threshold == float(np.nextafter(np.float32(0.4), np.float32(1)))
    assert found.sample_threshold == found.score_threshold  # 3.5 alarms per image at .4, 1.5 above
    assert promise_alarms(alarms, 4.5, unit="alarms", cap=5).score_threshold == 0.0
    with pytest.raises(ValueError, match="between 0 and 5"):
        promise_alarms(alarms, 5.0, unit="alarms", cap=5)


def test_wrong_limits_are_refused() -> None:
    alarms = collect_alarms(empties([0.5]))
    for limit, confidence in ((0.0, 0.95), (1.0, 0.95), (0.1, 1.0), (0.1, 0.0)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            promise_alarms(alarms, limit, confidence=confidence)
        with pytest.raises(ValueError, match="between 0 and 1"):
            promise_recall(collect_hits(match(one_object_each(0.9))), limit, confidence=confidence)
    with pytest.raises(ValueError, match="a cap of 1 or more"):
        promise_alarms(alarms, 0.1, unit="alarms", cap=0)


SCORES = st.sampled_from([float(np.float32(tenths / 10)) for tenths in range(1, 8)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(SCORES, max_size=4), min_size=1, max_size=9),
    st.floats(0.05, 0.95),
    st.integers(1, 3),
)
def test_a_samples_own_score_is_that_of_a_slow_search(
    scores: list[list[float]], share: float, cap: int
) -> None:
    """The lowest of all scores at which a limit is kept, and the highest at which enough is found."""
    images, values = len(scores), {score for image in scores for score in image}
    alarms = collect_alarms(empties(*scores))
    steps = [0.0, *(float(np.nextafter(np.float32(v), np.float32(1))) for v in values)]

    def lowest(most: float, cap: int) -> float:
        def count(at: float) -> int:
            return sum(min(cap, sum(score >= at for score in image)) for image in scores)

        return min(at for at in steps if count(at) <= most + 1e-9)

    several = promise_alarms(alarms, share * cap, unit="alarms", cap=cap)
    assert several.sample_threshold == lowest(share * cap * images, cap)
    assert promise_alarms(alarms, share).sample_threshold == lowest(share * images, 1)
    # The same scores as hits: each image holds four objects, of which some are found.
    hit = [(score, i) for i, image in enumerate(scores) for score in image]
    hits = Hits(
        np.array([score for score, _ in hit], np.float32),
        np.array([i for _, i in hit], np.int64),
        np.full(images, 4),
    )

    def highest(unit: RecallUnit) -> float | None:
        def found(at: float) -> float:
            above = [sum(score >= at for score in image) for image in scores]
            if unit == "image":
                return sum(map(bool, above)) / images
            return sum(above) / (4 * images)

        return max((v for v in values if found(v) >= share - 1e-12), default=None)

    units: tuple[RecallUnit, ...] = ("object", "image")
    for unit in units:
        assert promise_recall(hits, share, unit=unit).sample_threshold == highest(unit)


# Over many draws from a source that is known, a promise is broken in 5 % of them at most.

FIRES = 0.3
"""Share of the source's images that have any detection at all."""


def draw_alarms(generator: np.random.Generator, images: int, more: float) -> AlarmScores:
    """Return a draw: of the images 30 % have 1 + geometric detections of uniform scores.

    ``more`` is the chance of each further detection: 0 gives one each, .8 five on average.
    """
    number = np.where(generator.random(images) < FIRES, generator.geometric(1.0 - more, images), 0)
    image = np.repeat(np.arange(images), number)
    score = generator.random(len(image)).astype(np.float32)
    order = np.argsort(-score, kind="stable")
    return AlarmScores(score[order], image[order], images)


def true_rate(score: float, more: float, cap: int) -> float:
    """Return E[min(detections above a score, cap)] of an image of that source.

    A geometric number of which each is kept with x = 1 - score: none is kept with probability
    p s / (1 - q s); given one, further ones follow with chance q x / (p + q x). Here q = ``more``.
    """
    s, p, q = min(score, 1.0), 1.0 - more, more
    some = FIRES * (1.0 - p * s / (1.0 - q * s)) if s < 1 else 0.0
    again = q * (1.0 - s) / (p + q * (1.0 - s))
    return some * sum(again**k for k in range(cap))


def test_the_true_rate_of_the_drawn_source() -> None:
    alarms = draw_alarms(np.random.default_rng(1), 400_000, 0.6)
    counts = np.bincount(alarms.image[alarms.score >= 0.7], minlength=alarms.num_images)
    for cap in (1, 3):
        seen = float(np.minimum(counts, cap).mean())
        assert true_rate(0.7, 0.6, cap) == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize(
    ("images", "limit", "more"), [(300, 0.01, 0.0), (300, 0.01, 0.8), (200, 0.1, 0.8)]
)
def test_a_promised_share_of_images_is_broken_in_at_most_5_percent(
    images: int, limit: float, more: float
) -> None:
    def broken(promise: AlarmPromise) -> bool:
        assert promise.score_threshold is not None
        return true_rate(promise.score_threshold, more, 1) > limit

    generator = np.random.default_rng(7)
    found = [promise_alarms(draw_alarms(generator, images, more), limit) for _ in range(DRAWS)]
    share = sum(map(broken, found)) / DRAWS
    assert share <= 0.05 + three_errors(0.05)
    # It is exact, hence not far below either: the largest count allowed has its binomial probability.
    allowed = most_allowed(images, limit, 0.95)
    assert allowed is not None
    exact = sum(
        math.comb(images, k) * limit**k * (1 - limit) ** (images - k) for k in range(allowed + 1)
    )
    assert abs(share - exact) <= three_errors(exact)
    naive = sum(true_rate(p.sample_threshold or 0.0, more, 1) > limit for p in found) / DRAWS
    assert naive > 0.3  # the sample's own score breaks it about every second time


@pytest.mark.parametrize(("cap", "limit"), [(1, 0.05), (5, 0.1)])
@pytest.mark.parametrize("more", [0.0, 0.8])
def test_a_promised_number_of_alarms_is_broken_in_at_most_5_percent(
    cap: int, limit: float, more: float
) -> None:
    generator = np.random.default_rng(11)
    broken = given = 0
    for _ in range(DRAWS):
        alarms = draw_alarms(generator, 250, more)
        promise = promise_alarms(alarms, limit, unit="alarms", cap=cap)
        assert promise.score_threshold is not None
        broken += true_rate(promise.score_threshold, more, cap) > limit
        given += promise.score_threshold < 0.999
    assert broken / DRAWS <= 0.05
    assert given > 0.9 * DRAWS  # it does not hold merely because nothing is let through


def draw_hits(generator: np.random.Generator, images: int, *, clustered: bool) -> Hits:
    """Return a draw: 1 to 4 objects per image; in a hard image all are found with low scores.

    A score is uniform in (0, 1) for an easy image and in (0, .5) for a hard one; clustered, an image
    with four objects is hard with probability .5, others with .05, and its objects share one score.
    """
    objects = generator.integers(1, 5, images)
    hard = generator.random(images) < np.where(objects == 4, 0.5, 0.05)
    image = np.repeat(np.arange(images), objects)
    score = generator.random(images)[image] if clustered else generator.random(len(image))
    top = np.where(hard, 0.5, 1.0) if clustered else np.ones(images)
    return Hits((score * top[image]).astype(np.float32), image, objects)


def true_recall(score: float, *, clustered: bool) -> float:
    """Return E[found] / E[objects] of that source: 4 of the 10 objects are in images of four."""
    easy, hard = 1.0 - score, max(0.0, 1.0 - 2.0 * score)
    if not clustered:
        return easy
    return 0.6 * (0.95 * easy + 0.05 * hard) + 0.4 * (0.5 * easy + 0.5 * hard)


def true_images_found(score: float) -> float:
    """Return the share of images of the clustered source in which an object, hence each, is found."""
    easy, hard = 1.0 - score, max(0.0, 1.0 - 2.0 * score)
    return 0.75 * (0.95 * easy + 0.05 * hard) + 0.25 * (0.5 * easy + 0.5 * hard)


@pytest.mark.parametrize("clustered", [False, True])
def test_a_promised_recall_is_broken_in_at_most_5_percent(*, clustered: bool) -> None:
    generator = np.random.default_rng(3)
    broken = of_images = outside = 0
    for number in range(DRAWS):
        hits = draw_hits(generator, 120, clustered=clustered)
        promise = promise_recall(hits, 0.7)
        assert promise.score_threshold is not None
        broken += true_recall(promise.score_threshold, clustered=clustered) < 0.7
        if clustered:
            whole = promise_recall(hits, 0.7, unit="image")
            assert whole.score_threshold is not None
            of_images += true_images_found(whole.score_threshold) < 0.7
        if number % 40 == 0:  # the interval at a score that was chosen elsewhere
            low, high = recall_figures(hits, 0.3, 0.95).limits
            outside += not low <= true_recall(0.3, clustered=clustered) <= high
    assert broken / DRAWS <= 0.05
    assert of_images / DRAWS <= 0.05 + three_errors(0.05)
    assert outside <= 0.05 * DRAWS / 40


def test_limits_that_take_objects_as_independent_would_be_broken() -> None:
    # The same clustered draws with the exact binomial over objects: far more than 5 %.
    generator = np.random.default_rng(3)
    broken = 0
    for _ in range(400):
        hits = draw_hits(generator, 120, clustered=True)
        number = int(hits.objects.sum())
        allowed = most_allowed(number, 0.3, 0.95)
        assert allowed is not None
        score = float(np.sort(hits.score)[::-1][number - allowed - 1])
        broken += true_recall(score, clustered=True) < 0.7
    assert broken / 400 > 0.1


def test_limits_of_a_ratio_hold_both_ways() -> None:
    part, whole = np.array([1.0, 0.0] * 100), np.ones(200)
    low, high = ratio_limits(part, whole, 1.0, 0.95)
    assert low < 0.5 < high
    # An exact binomial has .4287 and .5713; the bet may be a little wider and no narrower.
    assert 0.38 < low < 0.4287
    assert 0.5713 < high < 0.62
    # The lower one is the last of the thousandths that the bet rejects at 97.5 %: it grows 40 times.
    assert wealth(part, whole, 1.0, low, 0.975) >= 40 > wealth(part, whole, 1.0, low + 0.001, 0.975)
    assert high == pytest.approx(1 - low)  # as many are found as missed
    nothing: F64 = np.zeros(0)
    assert ratio_limits(nothing, nothing, 1.0, 0.95) == (0.0, 1.0)


def three_errors(share: float) -> float:
    """Return three standard errors of a share that is estimated from the draws."""
    return 3.0 * math.sqrt(share * (1.0 - share) / DRAWS)
