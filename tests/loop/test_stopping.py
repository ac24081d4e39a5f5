from __future__ import annotations

import pytest

from hardmine.loop.stopping import GuardConfig, RoundPoint, guarded_rule, recipe_rule


def point(
    alarms: float | None,
    high: float | None = None,
    *,
    ap: float | None = 0.7,
    ap50: float | None = 0.95,
    recall: float | None = 0.8,
) -> RoundPoint:
    """A round whose interval reaches up to ``high`` (half as far above as the alarms themselves)."""
    if alarms is None:
        return RoundPoint(ap, ap50, recall, None, None)
    return RoundPoint(ap, ap50, recall, alarms, (0.0, alarms * 1.5 if high is None else high))


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


def test_the_recipe_says_nothing_of_what_cannot_be_measured() -> None:
    assert recipe_rule([point(0.4), point(None)]) is None
    assert recipe_rule([point(0.4), point(0.5, ap=None)]) is None


def test_the_guard_waits_for_two_quiet_rounds() -> None:
    start = point(0.4)
    quiet = point(0.35, high=0.5)  # falls, but .5 >= .4: within its interval
    assert guarded_rule([start, quiet]) is None
    reason = guarded_rule([start, quiet, point(0.33, high=0.36)])  # .36 >= .35: quiet again
    assert reason == "alarms fell only within their interval for 2 rounds"


def test_a_real_fall_starts_the_count_anew() -> None:
    quiet, fell = point(0.38, high=0.5), point(0.1, high=0.2)
    assert guarded_rule([point(0.4), quiet, fell]) is None
    assert guarded_rule([point(0.4), quiet, fell, point(0.1, high=0.2)]) is None
    more = [point(0.4), quiet, fell, point(0.1, high=0.2), point(0.1, high=0.2)]
    assert guarded_rule(more) is not None


def test_an_unbounded_interval_shows_no_fall() -> None:
    open_end = RoundPoint(0.7, 0.95, 0.8, 0.1, None)
    assert guarded_rule([point(0.4), open_end, open_end]) is not None


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (point(0.1, ap50=0.93), None),  # .02 lost: tolerated, inclusive
        (point(0.1, ap50=0.9299), "AP50 fell from 0.9500 to 0.9299, more than 0.02"),
        (point(0.1, recall=0.75), None),
        (point(0.1, recall=0.74), "recall at any score fell from 0.8000 to 0.7400"),
        (point(None), "the reference recall is no longer reached"),
        (point(0.1, ap50=None), None),
    ],
)
def test_the_guard_watches_detection(last: RoundPoint, reason: str | None) -> None:
    said = guarded_rule([point(0.4), last])
    assert (said is None) if reason is None else (said is not None and reason in said)


def test_harm_is_measured_from_round_zero_not_from_the_round_before() -> None:
    # .015 a round, .03 in all
    history = [point(0.4), point(0.2, high=0.3, ap50=0.935), point(0.1, high=0.15, ap50=0.92)]
    assert guarded_rule(history[:2]) is None
    assert guarded_rule(history) is not None


def test_tolerances_can_be_set() -> None:
    history = [point(0.4), point(0.1, ap50=0.90)]
    assert guarded_rule(history, GuardConfig(ap50_tolerance=0.1)) is None
    quiet = [point(0.4), point(0.4)]
    assert guarded_rule(quiet, GuardConfig(quiet_rounds=1)) is not None


def test_reaching_the_recall_for_the_first_time_is_a_gain() -> None:
    history = [point(None), point(0.3), point(0.3)]
    assert guarded_rule(history) is None
