from __future__ import annotations

import pytest
from benchmarks.stopping import Setting, shares_stopped

from hardmine.evaluation.paired import AlarmChange
from hardmine.loop.stopping import GuardConfig, RoundPoint, guarded_rule, recipe_rule, undecided


def point(
    alarms: float | None,
    ratio: float | None = None,
    longer: float | None = None,
    *,
    ap: float | None = 0.7,
    ap50: float | None = 0.95,
    recall: float | None = 0.8,
    deviation: float = 0.1,
) -> RoundPoint:
    """A round whose alarms are ``ratio`` times those of two rounds before, ``longer`` times of three."""
    changes = (
        None if each is None else AlarmChange(each, each / 2, each * 2, (0.8, 0.9), deviation)
        for each in (ratio, longer)
    )
    return RoundPoint(ap, ap50, recall, alarms, 0.31, *changes)


def test_the_recipe_stops_only_when_both_stand_still() -> None:
    start = point(0.4, ap=0.70)
    assert recipe_rule([start]) is None
    assert recipe_rule([start, point(0.3, ap=0.69)]) is None  # alarms fall
    assert recipe_rule([start, point(0.5, ap=0.71)]) is None  # AP improves
    reason = recipe_rule([start, point(0.4, ap=0.70)])
    assert reason is not None
    assert "AP no longer improves (0.7000, best before 0.7000)" in reason
    assert "fall (0.4000 per image, least before 0.4000)" in reason


def test_the_recipe_compares_with_the_best_round_before_not_the_last() -> None:
    history = [point(0.4, ap=0.75), point(0.1, ap=0.70), point(0.2, ap=0.72)]
    # .72 > .70 and .2 < .4, but neither beats .75 nor .1
    assert recipe_rule(history) is not None


def test_the_recipe_goes_on_when_the_last_of_several_rounds_is_better() -> None:
    worse = [point(0.4, ap=0.70), point(0.5, ap=0.69)]
    assert recipe_rule([*worse, point(0.3, ap=0.69)]) is None  # alarms fall
    assert recipe_rule([*worse, point(0.5, ap=0.71)]) is None  # AP improves
    reason = recipe_rule([*worse, point(0.4, ap=0.70)])
    assert reason is not None
    assert "(0.7000, best before 0.7000)" in reason
    assert "(0.4000 per image, least before 0.4000)" in reason
    better = [point(0.4, ap=0.70), point(0.3, ap=0.71)]
    assert recipe_rule([*better, point(0.3, ap=0.71)]) is not None


def test_the_recipe_says_nothing_of_what_cannot_be_measured() -> None:
    assert recipe_rule([point(0.4), point(None)]) is None
    assert recipe_rule([point(0.4), point(0.5, ap=None)]) is None


def test_the_guard_stops_when_two_rounds_brought_too_little() -> None:
    start, fell = point(0.4), point(0.35)
    assert guarded_rule([start, fell]) is None
    assert guarded_rule([start, fell, point(0.32, 0.8)]) is None  # .8 is just enough
    reason = guarded_rule([start, fell, point(0.33, 0.81)])
    assert reason == (
        "alarms at recall 0.8 to 0.9 changed over the last 2 rounds by a factor of 0.81 (95 % 0.41 to "
        "1.62), and a fall to 0.8 or less was wanted; 31% of the images still fire"
    )


def test_a_round_that_stands_still_after_a_large_fall_goes_on_once() -> None:
    history = [point(0.9), point(0.1), point(0.1, 0.11)]
    assert guarded_rule(history) is None
    assert guarded_rule([*history, point(0.1, 1.0)]) is not None


def test_from_the_third_round_on_both_spans_must_have_brought_too_little() -> None:
    history = [point(0.4), point(0.2), point(0.15, 0.38)]
    assert (
        guarded_rule([*history, point(0.19, 0.95, 0.48)]) is None
    )  # since round 0 it fell by half
    assert guarded_rule([*history, point(0.1, 0.5, 0.9)]) is None
    reason = guarded_rule([*history, point(0.19, 0.95, 0.9)])
    assert reason is not None
    assert "last 2 rounds by a factor of 0.95" in reason
    assert "and over the last 3 rounds by a factor of 0.90 (95 % 0.45 to 1.80)" in reason


def test_few_alarms_that_may_still_be_falling_do_not_stop() -> None:
    # ln(1 / .7²) = .713: more than 1.5 deviations of .47, less than 1.5 of .48
    history = [point(0.4), point(0.4), point(0.4, 1.0, deviation=0.47)]
    assert guarded_rule(history) is not None
    assert undecided(history) is None
    history = [*history[:2], point(0.4, 1.0, deviation=0.48)]
    assert guarded_rule(history) is None
    said = undecided(history)
    assert said is not None
    assert "changed by a factor of 1.00 (95 % 0.50 to 2.00): too few alarms" in said
    assert undecided([*history[:2], point(0.4, 0.7, deviation=2.0)]) is None  # fell by enough


def test_of_both_spans_the_one_that_is_in_doubt_is_named() -> None:
    """2 rounds: ln 1.2 + .713 = .896; 3 rounds: ln .81 + 1.070 = .859; 1.5 deviations of .585: .878."""
    history = [point(0.4), point(0.4), point(0.4), point(0.4, 1.2, 0.81, deviation=0.585)]
    assert guarded_rule(history) is None
    said = undecided(history)
    assert said is not None
    assert said.startswith("over the last 3 rounds alarms changed by a factor of 0.81")
    # Over three rounds alarms fell by enough, so that the loop goes on without a doubt.
    assert undecided([*history[:-1], point(0.4, 1.2, 0.8, deviation=0.585)]) is None


def test_what_counts_as_a_doubt_can_be_set() -> None:
    # against 3 deviations of .3 the .713 from above are too little, and a usual fall by half is 1.386
    history = [point(0.4), point(0.4), point(0.4, 1.0, deviation=0.3)]
    assert undecided(history) is None
    assert "fall by 30% in each round" in (undecided(history, GuardConfig(surety=3)) or "")
    assert undecided(history, GuardConfig(surety=3, usual_fall=0.5)) is None


def test_what_cannot_be_compared_does_not_stop() -> None:
    unknown = RoundPoint(0.7, 0.95, 0.8, 0.1, None, AlarmChange(None, None, None, ()))
    assert guarded_rule([point(0.4), point(0.4), unknown]) is None
    unbounded = RoundPoint(0.7, 0.95, 0.8, 0.1, None, AlarmChange(1.0, None, None, (0.8,)))
    assert guarded_rule([point(0.4), point(0.4), unbounded]) is None  # no draws say how sure it is
    assert "(95 % unknown to unknown)" in (undecided([unbounded]) or "")


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (point(0.1, ap50=0.93), None),  # .02 lost: tolerated, inclusive
        (point(0.1, ap50=0.9299), "AP50 fell from 0.9500 to 0.9299, more than 0.02"),
        (point(0.1, recall=0.75), None),
        (point(0.1, recall=0.74), "recall at any score fell from 0.8000 to 0.7400"),
        (point(None), "the reference recall is no longer reached"),
        (point(0.1, ap50=None), None),
        (point(0.1, ap50=None, recall=0.7), "recall at any score fell from 0.8000 to 0.7000"),
    ],
)
def test_the_guard_watches_detection(last: RoundPoint, reason: str | None) -> None:
    said = guarded_rule([point(0.4), last])
    assert (said is None) if reason is None else (said is not None and reason in said)


def test_what_is_not_known_is_not_said() -> None:
    start, fell = point(0.4), point(0.35)
    change = AlarmChange(0.9, None, None, (0.8,), 0.1)
    reason = guarded_rule([start, fell, RoundPoint(0.7, 0.95, 0.8, 0.3, None, change)])
    assert reason is not None
    assert "alarms at recall 0.8 changed over the last 2 rounds" in reason
    assert "(95 % unknown to unknown)" in reason
    assert reason.endswith("a fall to 0.8 or less was wanted")
    several = AlarmChange(0.9, None, None, (0.5, 0.8, 0.9), 0.1)
    reason = guarded_rule([start, fell, RoundPoint(0.7, 0.95, 0.8, 0.3, None, several)])
    assert "alarms at recall 0.5 to 0.9 changed" in (reason or "")
    # A recall that round 0 did not reach either is no harm.
    assert guarded_rule([point(None), point(None)]) is None
    # Nor is what round 0 could not measure.
    assert guarded_rule([point(0.4, ap50=None, recall=None), point(0.1)]) is None


def test_harm_is_measured_from_round_zero_not_from_the_round_before() -> None:
    # .015 a round, .03 in all
    history = [point(0.4), point(0.2, ap50=0.935), point(0.1, 0.25, ap50=0.92)]
    assert guarded_rule(history[:2]) is None
    assert guarded_rule(history) is not None


def test_tolerances_can_be_set() -> None:
    history = [point(0.4), point(0.1, ap50=0.90)]
    assert guarded_rule(history, GuardConfig(ap50_tolerance=0.1)) is None
    quiet = [point(0.4), point(0.3), point(0.2, 0.5)]
    assert guarded_rule(quiet, GuardConfig(least_fall=0.6, usual_fall=0.5)) is not None


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_simulated_loops_stop_when_they_stand_still_and_only_then(rate: float) -> None:
    setting = Setting(60, 300, rate)
    assert shares_stopped(setting, 0.3, [4], 30)[0] <= 0.1
    assert shares_stopped(setting, 0.0, [2], 30)[0] >= 0.8
