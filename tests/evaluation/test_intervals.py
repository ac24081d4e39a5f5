from __future__ import annotations

import math

import numpy as np
import pytest
from eval_worlds import empties, one_object_each, random_scored
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.errors import DataError
from hardmine.evaluation.intervals import (
    ArmScores,
    Draws,
    Interval,
    alarm_interval,
    ap50_statistic,
    bootstrap_interval,
    percentile_limits,
    poisson_limits,
    student_limit,
)
from hardmine.evaluation.paired import (
    alarm_change,
    change_of_counts,
    paired_difference,
    paired_difference_over_seeds,
    paired_ratio,
    paired_ratio_over_seeds,
    seed_spread,
)


def arm_with(
    alarms: int, images: int, *, val_hits: tuple[float | None, ...] = (0.5,) * 5
) -> ArmScores:
    """Return an arm with so many alarms above its threshold of .5, spread over the images."""
    scores: list[list[float]] = [[] for _ in range(images)]
    for k in range(alarms):
        scores[k % images].append(0.9)
    return ArmScores(one_object_each(*val_hits), empties(*scores))


def random_arm(seed: int) -> ArmScores:
    return ArmScores(random_scored(seed, 20), random_scored(seed + 1, 30, empty=True))


def test_percentiles_are_taken_outward() -> None:
    values = np.arange(41, dtype=np.float64)
    # positions .025 * 40 = 1 and .975 * 40 = 39
    assert percentile_limits(values) == (1.0, 39.0)
    # 42 values: 1.025 and 39.975, rounded down and up
    assert percentile_limits(np.arange(42, dtype=np.float64)) == (1.0, 40.0)


def test_undefined_draws_open_the_ends() -> None:
    values = np.concatenate([np.arange(90.0), np.full(10, np.nan)])
    assert percentile_limits(values) == (None, None)
    values = np.concatenate([np.arange(90.0), np.full(10, np.inf)])
    assert percentile_limits(values) == (2.0, None)
    assert percentile_limits(np.zeros(0)) == (None, None)


def test_no_alarm_is_not_a_certainty_of_none() -> None:
    interval = alarm_interval(arm_with(0, 100), draws=50)
    # Garwood: 0 events leave a mean of up to 3.689, here over 100 images
    assert interval == Interval(0.0, pytest.approx(0.036889, abs=1e-5), "poisson")


def test_one_image_does_not_show_a_difference() -> None:
    # 40 alarms against 20 on one image: every draw holds this image once, so all ratios are 2.
    found = paired_ratio(arm_with(40, 1), arm_with(20, 1), draws=20)
    assert (found.per_image_a, found.per_image_b) == (40.0, 20.0)
    assert (found.ratio, found.low, found.high) == (None, None, None)
    assert found.note == "one negative image does not show how much images differ"
    one = arm_with(40, 8, val_hits=(0.5,))
    # One object, found by one arm and missed by the other: AP50 1 and 0.
    gap = paired_difference(one, arm_with(40, 8, val_hits=(None,)), ap50_statistic, draws=20)
    assert (gap.difference, gap.low, gap.high) == (1.0, None, None)
    two = paired_ratio(arm_with(40, 2), arm_with(20, 2), draws=20)
    assert (two.ratio, two.note) == (2.0, "")


@pytest.mark.parametrize(("alarms", "method"), [(9, "poisson"), (10, "bootstrap")])
def test_poisson_below_ten_alarms(alarms: int, method: str) -> None:
    interval = alarm_interval(arm_with(alarms, 40), draws=200)
    assert interval is not None
    assert interval.method == method
    low, high = poisson_limits(alarms)
    assert interval.low is not None
    assert interval.high is not None
    if method == "poisson":
        assert interval.low <= low / 40
        assert interval.high >= high / 40
    assert interval.low < alarms / 40 < interval.high


def test_interval_is_none_where_recall_is_not_reached_or_no_images() -> None:
    assert alarm_interval(arm_with(20, 40, val_hits=(0.5, None))) is None
    assert alarm_interval(ArmScores(one_object_each(0.5), empties())) is None


def test_draws_that_miss_the_recall_leave_the_upper_end_open() -> None:
    # 4 of 5 objects are found: recall .8 is just reached, and missed in every draw that holds the
    # fifth one more than once.
    interval = alarm_interval(arm_with(20, 40, val_hits=(0.5, 0.5, 0.5, 0.5, None)), draws=200)
    assert interval is not None
    assert interval.low is not None
    assert interval.high is None


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_an_arm_against_itself_is_exactly_one(seed: int) -> None:
    one = random_arm(seed)
    ratio = paired_ratio(one, one, draws=60, seed=seed)
    if ratio.alarms_a is not None and ratio.alarms_a >= 10:
        assert (ratio.ratio, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    difference = paired_difference(one, one, ap50_statistic, draws=60)
    assert (difference.difference, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_an_arm_against_itself_with_few_alarms_is_one_as_well() -> None:
    few = arm_with(5, 20)  # 5 alarms, but .25 an image: a ratio is allowed
    ratio = paired_ratio(few, few, draws=100)
    assert (ratio.ratio, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_draws_without_an_alarm_in_either_arm_show_no_difference() -> None:
    # All 12 alarms on one image of 20: (19/20)^20 = 36 % of the draws hold none.
    one = ArmScores(one_object_each(0.5), empties([0.9] * 12, *([] for _ in range(19))))
    ratio = paired_ratio(one, one, draws=100)
    assert (ratio.ratio, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_ratio_by_hand() -> None:
    ratio = paired_ratio(arm_with(20, 40), arm_with(40, 40), draws=300)
    assert (ratio.alarms_a, ratio.alarms_b) == (20, 40)
    assert (ratio.per_image_a, ratio.per_image_b) == (0.5, 1.0)
    assert ratio.ratio == 0.5
    assert ratio.low is not None
    assert ratio.high is not None
    assert 0.25 < ratio.low < 0.5 < ratio.high < 0.75
    assert ratio.note == ""


def test_pairing_removes_what_the_arms_share() -> None:
    # Both arms fire on the same images, arm b once more on each: alarms 40 and 80 whatever is
    # drawn, although 20 of the 40 images are silent and the counts themselves vary.
    a = ArmScores(one_object_each(0.5), empties(*([[0.9, 0.8]] * 20 + [[]] * 20)))
    b = ArmScores(one_object_each(0.5), empties(*([[0.9, 0.8, 0.7, 0.6]] * 20 + [[]] * 20)))
    ratio = paired_ratio(a, b, draws=200)
    assert (ratio.ratio, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    alone = alarm_interval(a, draws=200)
    assert alone is not None
    assert alone.low != alone.high


@pytest.mark.parametrize(
    ("alarms", "images", "claimed"),
    [(9, 200, False), (10, 300, True), (9, 180, True), (0, 10, False)],
    ids=["9, .045 an image", "10, .033 an image", "9, .05 an image", "none"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_no_ratio_from_few_rare_alarms(
    alarms: int, images: int, claimed: bool, turned: bool
) -> None:
    pair = (arm_with(alarms, images), arm_with(images, images))
    ratio = paired_ratio(*(reversed(pair) if turned else pair), draws=50)
    assert (ratio.ratio is not None) is claimed
    assert ("fewer than 10 alarms" in ratio.note) is (alarms < 10)
    if not claimed:
        assert {ratio.alarms_a, ratio.alarms_b} == {alarms, images}
        # Few can still be told from many: the limits stand, but for one that would divide by nothing.
        assert (ratio.high is None) is (turned and alarms == 0)
        if turned:
            assert ratio.low is not None
            assert ratio.low > 1
        else:
            assert ratio.high is not None
            assert ratio.high < 1


def test_many_alarms_against_none_are_more_though_no_ratio_exists() -> None:
    ratio = paired_ratio(arm_with(60, 100), arm_with(0, 100), draws=50)
    # 60 of 60 alarms are arm a's: the share s with s^60 = .025 is .9404, as a ratio 15.77
    assert (ratio.ratio, ratio.high) == (None, None)
    assert ratio.low == pytest.approx(15.77, abs=0.01)
    assert "Poisson" in ratio.note
    # One alarm against none is no more than chance: the share .025, as a ratio .0256.
    one = paired_ratio(arm_with(1, 100), arm_with(0, 100), draws=50)
    assert (one.ratio, one.high) == (None, None)
    assert one.low == pytest.approx(0.0256, abs=1e-4)


def test_none_against_none_has_no_limits() -> None:
    ratio = paired_ratio(arm_with(0, 100), arm_with(0, 100), draws=50)
    assert (ratio.ratio, ratio.low, ratio.high) == (None, None, None)
    assert ratio.note == "with fewer than 10 alarms no ratio is given"


def test_few_alarms_widen_the_ratio() -> None:
    ratio = paired_ratio(arm_with(5, 20), arm_with(20, 20), draws=200)
    # 5 of 25: the exact limits of the share are .0683 and .4070, as ratios .0733 and .6864
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low <= 0.0734
    assert ratio.high >= 0.6863
    assert "Poisson" in ratio.note


def test_unreachable_recall_gives_no_ratio() -> None:
    ratio = paired_ratio(arm_with(20, 40, val_hits=(0.5,) * 3 + (None,) * 2), arm_with(40, 40))
    assert ratio.ratio is None
    assert "different" not in ratio.note
    assert ratio.note == "recall 0.8 is not reached"
    assert (ratio.alarms_a, ratio.per_image_a, ratio.alarms_b) == (None, None, 40)


def test_without_negative_images_no_ratio() -> None:
    one = ArmScores(one_object_each(0.5), empties())
    assert paired_ratio(one, one).note == "there are no negative images"


def test_different_images_cannot_be_paired() -> None:
    with pytest.raises(DataError, match=r"different negative images \(40 in set, 41 in set\)"):
        paired_ratio(arm_with(20, 40), arm_with(20, 41))
    with pytest.raises(DataError, match="different validation images"):
        paired_ratio(arm_with(20, 40), arm_with(20, 40, val_hits=(0.5,) * 4))


def test_over_seeds_the_ratio_is_that_of_the_means() -> None:
    pairs = [(arm_with(20, 40), arm_with(40, 40)), (arm_with(10, 40), arm_with(80, 40))]
    ratio = paired_ratio_over_seeds(pairs, draws=300)
    # (20 + 10) / (40 + 80), not the mean of .5 and .125
    assert ratio.ratio == 0.25
    assert (ratio.alarms_a, ratio.alarms_b) == (15, 60)
    assert [seed.ratio for seed in ratio.seeds] == [0.5, 0.125]


def test_seeds_widen_the_limits_by_what_the_images_do_not_explain() -> None:
    # Each of 30 images has one object of score .5, and alarms alike: no draw of images changes anything,
    # so all that is known of chance is the spread of the seeds.
    pairs = [(arm_with(count, 30), arm_with(60, 30)) for count in (30, 60, 90)]
    ratio = paired_ratio_over_seeds(pairs, draws=50)
    assert ratio.ratio == 1.0
    # a / mean a - b / mean b is -.5, 0, .5: variance .25; t with 2 degrees of freedom is 4.3027
    width = 4.3027 * math.sqrt(0.25 / 3)
    assert ratio.low == pytest.approx(math.exp(-width), rel=1e-4)
    assert ratio.high == pytest.approx(math.exp(width), rel=1e-4)
    two = paired_ratio_over_seeds(pairs[::2], draws=50)
    assert (two.ratio, two.low, two.high) == (1.0, 1.0, 1.0)


def test_spread_of_the_seeds_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0])
    error = math.sqrt(1 / 3)
    # All chance lies in the seeds: two degrees of freedom.
    assert seed_spread(values, np.full(4, 2.0)) == pytest.approx(4.30265 * error, rel=1e-5)
    # Half of it lies in the images (variance 1/3): 2 * (2/3 / 1/3)^2 = 8 degrees.
    half = 2.0 + error * np.array([1.0, -1.0])
    assert seed_spread(values, np.append(half, np.inf)) == pytest.approx(2.30600 * error, rel=1e-5)
    # Nearly all: as with a normal distribution.
    assert seed_spread(values, 1000 * half) == pytest.approx(1.96 * error, rel=2e-3)
    # Seeds that agree, or too few to say anything: nothing is added.
    assert seed_spread(np.full(3, 2.0), half) == 0.0
    assert seed_spread(values[:2], half) == 0.0


def test_a_difference_is_widened_by_the_spread_of_the_seeds() -> None:
    def of_scores(arm: ArmScores, draws: Draws) -> np.ndarray:
        return np.full(len(draws), float(arm.matches.score[0]))

    pairs = [
        (
            ArmScores(one_object_each(score, score), empties([])),
            ArmScores(one_object_each(0.25, 0.25), empties([])),
        )
        for score in (0.25, 0.5, 0.75)
    ]
    found = paired_difference_over_seeds(pairs, of_scores, draws=20)
    width = 4.30265 * math.sqrt(0.0625 / 3)
    assert found.difference == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25 - width, rel=1e-5)
    assert found.high == pytest.approx(0.25 + width, rel=1e-5)


def test_limits_of_student() -> None:
    # From the table in Abramowitz and Stegun, 26.10
    wanted = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980}
    assert {n: round(student_limit(n), 3) for n in wanted} == wanted
    with pytest.raises(ValueError, match="got 0 degrees of freedom"):
        student_limit(0)


def test_one_seed_that_misses_the_recall_spoils_the_mean() -> None:
    missing = arm_with(20, 40, val_hits=(0.5,) * 3 + (None,) * 2)
    ratio = paired_ratio_over_seeds([(arm_with(20, 40), arm_with(40, 40)), (missing, missing)])
    assert ratio.ratio is None
    assert ratio.alarms_a is None
    assert ratio.seeds[0].ratio == 0.5


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pair"):
        paired_ratio_over_seeds([])


def recall(arm: ArmScores, draws: Draws) -> np.ndarray:
    """Return the share of the objects that are hit in each draw; every image holds one."""
    hits = np.bincount(arm.matches.image[arm.matches.hit], minlength=arm.matches.num_images)
    return (draws.val @ hits) / draws.val.sum(axis=1)


def test_difference_by_hand() -> None:
    a = ArmScores(one_object_each(*[0.9] * 20), empties([]))
    b = ArmScores(one_object_each(*[0.9] * 15, *[None] * 5), empties([]))
    difference = paired_difference(a, b, recall, draws=400)
    assert (difference.value_a, difference.value_b, difference.difference) == (1.0, 0.75, 0.25)
    assert difference.low is not None
    assert difference.high is not None
    # Binomial: .25 +- about 1.96 * sqrt(.25 * .75 / 20) = .19
    assert 0.02 <= difference.low <= 0.15
    assert 0.35 <= difference.high <= 0.5


def test_undefined_difference() -> None:
    nothing = ArmScores(empties([]), empties([]))
    difference = paired_difference(nothing, nothing, ap50_statistic, draws=20)
    assert (difference.value_a, difference.difference, difference.low) == (None, None, None)


def test_difference_over_seeds_is_the_mean() -> None:
    pairs = [(random_arm(0), random_arm(2)), (random_arm(4), random_arm(6))]
    parts = [paired_difference(*pair, ap50_statistic, draws=100).difference for pair in pairs]
    whole = paired_difference_over_seeds(pairs, ap50_statistic, draws=100)
    assert whole.difference == pytest.approx(sum(part or 0 for part in parts) / 2)


def test_bootstrap_interval_holds_the_point() -> None:
    one = random_arm(0)
    value = paired_difference(one, one, ap50_statistic, draws=5).value_a
    interval = bootstrap_interval(ap50_statistic, one, draws=300)
    assert interval.low is not None
    assert interval.high is not None
    assert value is not None
    assert interval.low < value < interval.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 40 samples of 60 images from a world with Poisson(.5) alarms an image: 95 % of the intervals
    # should hold .5. Bounds of .85 and 1 leave room for chance and for the bootstrap's bias.
    generator = np.random.default_rng(0)
    covered = 0
    for sample in range(40):
        counts = generator.poisson(0.5, 60)
        one = ArmScores(one_object_each(0.5), empties(*([0.9] * int(n) for n in counts)))
        interval = alarm_interval(one, draws=200, seed=sample)
        assert interval is not None
        covered += (interval.low or 0) <= 0.5 <= (interval.high or 99)
    assert covered >= 0.85 * 40


def test_alarms_that_changed_are_counted_at_each_recall() -> None:
    """Four objects with scores .9, .8, .7, .6: recall .5 is reached at .8, recall .75 and .7 at .7.

    Before, 3 alarms reach .8 and 7 reach .7; after, 1 and 3. Weights are √(1.5 + 3.5) and √(3.5 + 7.5).
    """
    val = one_object_each(0.9, 0.8, 0.7, 0.6)
    before = ArmScores(val, empties(*[[0.85]] * 3, *[[0.75]] * 4))
    after = ArmScores(val, empties([0.85], [0.75], [0.75], *[[0.1]] * 4))
    found = alarm_change(after, before, recalls=(0.5, 0.7), draws=0)
    a, b = 5**0.5, 11**0.5
    expected = (a * math.log(1.5 / 3.5) + b * math.log(3.5 / 7.5)) / (a + b)
    assert found.ratio == pytest.approx(math.exp(expected))
    assert (found.recalls, found.deviation) == ((0.5, 0.7), None)
    same = alarm_change(before, before, recalls=(0.5, 0.7), draws=50)
    assert (same.ratio, same.low, same.high, same.deviation) == (1.0, 1.0, 1.0, 0.0)


def test_a_recall_that_a_draw_does_not_reach_is_left_out() -> None:
    """1 alarm for 3 at recall .5 in each of 4 draws; recall .9 is missed in the last draw."""
    after = np.array([[1.0] * 5, [2.0, 2.0, 2.0, 2.0, np.inf]])
    before = np.array([[3.0] * 5, [4.0] * 5])
    found = change_of_counts(after, before, (0.5, 0.9))
    assert found.recalls == (0.5,)
    assert found.ratio == pytest.approx(1.5 / 3.5)
    assert found.deviation == pytest.approx(0.0)


def test_draws_that_reach_no_recall_in_one_round_bound_nothing() -> None:
    """Each round reaches recall .5 in only half of the draws."""
    after = np.array([[1.0, 1.0, np.inf, 1.0, np.inf]])
    before = np.array([[3.0, np.inf, 3.0, np.inf, 3.0]])
    found = change_of_counts(after, before, (0.5,))
    assert found.ratio == pytest.approx(1.5 / 3.5)
    assert (found.low, found.high, found.deviation) == (None, None, None)
