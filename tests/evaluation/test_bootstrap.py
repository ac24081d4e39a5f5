"""The vectorised draws against literal resamples, measured one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from eval_worlds import empties, one_object_each, random_scored, record, scored

from hardmine.evaluation.alarms import collect_alarms, count_alarms, find_threshold
from hardmine.evaluation.average_precision import average_precision
from hardmine.evaluation.detection_matching import match
from hardmine.evaluation.intervals import (
    ArmScores,
    alarm_draws,
    ap50_draws,
    draw_images,
    full_sample,
    threshold_draws,
)
from hardmine.evaluation.scored_images import Scored

DRAWS = 25


def arm(seed: int = 0, num_classes: int = 2) -> ArmScores:
    return ArmScores(
        random_scored(seed, 12, num_classes),
        random_scored(seed + 1, 15, num_classes, empty=True),
    )


def resample(whole: Scored, counts: np.ndarray) -> Scored:
    return whole.subset([i for i, count in enumerate(counts) for _ in range(count)])


def test_thresholds_and_alarms_are_derived_anew_in_each_draw() -> None:
    one = arm()
    draws = draw_images(one, DRAWS, seed=3)
    thresholds = threshold_draws(one.matches, draws.val, 0.8)
    rates = alarm_draws(one.alarms, draws.negatives, thresholds)
    assert len(set(thresholds.tolist())) > 3
    for d in range(DRAWS):
        wanted = find_threshold(match(resample(one.val, draws.val[d])), 0.8)
        assert thresholds[d] == (math.inf if wanted is None else wanted)
        if wanted is not None:
            alarms = collect_alarms(resample(one.negatives, draws.negatives[d]))
            assert rates[d] == pytest.approx(count_alarms(alarms, wanted).alarms_per_image)


def test_an_alarm_at_the_threshold_counts_in_a_draw() -> None:
    one = ArmScores(one_object_each(0.5), empties([0.5, 0.5, 0.4], [0.6]))
    rates = alarm_draws(one.alarms, full_sample(one).negatives, np.array([0.5]))
    assert rates.tolist() == [1.5]


def test_ap50_equals_coco_in_each_draw() -> None:
    one = arm(num_classes=3)
    draws = draw_images(one, DRAWS, seed=4)
    got = ap50_draws(one.matches, draws.val)
    for d in range(DRAWS):
        wanted = average_precision(resample(one.val, draws.val[d])).ap50
        assert got[d] == pytest.approx(wanted, abs=1e-9)


def test_ap50_equals_coco_beyond_the_limit_of_detections() -> None:
    one = ArmScores(random_scored(0, 6, 1, clutter=220), empties())
    got = ap50_draws(one.matches, full_sample(one).val)
    assert got[0] == pytest.approx(average_precision(one.val).ap50, abs=1e-9)


def test_the_same_images_and_seed_give_the_same_draws() -> None:
    a, b = draw_images(arm(0), DRAWS, seed=1), draw_images(arm(9), DRAWS, seed=1)
    np.testing.assert_array_equal(a.val, b.val)
    np.testing.assert_array_equal(a.negatives, b.negatives)
    other = draw_images(arm(0), DRAWS, seed=2)
    assert (a.val != other.val).any()
    assert (a.val.sum(axis=1) == 12).all()
    assert (a.negatives.sum(axis=1) == 15).all()


def test_more_draws_begin_with_the_same_ones() -> None:
    few, many = draw_images(arm(), 5, seed=1), draw_images(arm(), 50, seed=1)
    np.testing.assert_array_equal(few.val, many.val[:5])


def test_unreachable_recall_is_the_worst_outcome() -> None:
    one = ArmScores(one_object_each(None, None), empties([0.5]))
    thresholds = threshold_draws(one.matches, full_sample(one).val, 0.8)
    assert np.isposinf(thresholds).all()
    assert np.isposinf(alarm_draws(one.alarms, full_sample(one).negatives, thresholds)).all()


def test_nothing_to_draw_from() -> None:
    nothing = ArmScores(scored([], []), empties())
    draws = draw_images(nothing, 3, seed=0)
    assert draws.val.shape == (3, 0)
    assert np.isnan(ap50_draws(nothing.matches, draws.val)).all()
    quiet = ArmScores(one_object_each(0.9), empties([], []))
    draws = draw_images(quiet, 3, seed=0)
    thresholds = threshold_draws(quiet.matches, draws.val, 0.8)
    assert alarm_draws(quiet.alarms, draws.negatives, thresholds).tolist() == [0, 0, 0]


def test_another_negative_set_beside_the_same_validation_images() -> None:
    one = arm()
    other = one.beside(empties([0.5]))
    assert other.matches is one.matches
    assert other.alarms.num_images == 1


def test_only_ignored_objects() -> None:
    one = ArmScores(
        scored([record((1, 0, 0, 9, 9), ignore=[True])], [one_object_each(0.9).detections[0]]),
        empties([]),
    )
    assert np.isnan(ap50_draws(one.matches, full_sample(one).val)).all()
