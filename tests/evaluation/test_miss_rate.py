from __future__ import annotations

import numpy as np
import pytest
from eval_worlds import empties, one_object_each, random_scored

from hardmine.evaluation.alarms import (
    REFERENCE_FPPI,
    MissRateCurve,
    collect_alarms,
    count_alarms,
    log_average_miss_rate,
    negatives_curve,
    recall_at,
    thin,
    whole_curve,
)
from hardmine.evaluation.detection_matching import match


def test_nine_reference_points() -> None:
    # 10 to the −2, −1.75, … 0
    wanted = [0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0]
    np.testing.assert_allclose(REFERENCE_FPPI, wanted, atol=1e-4)


def test_worked_curve() -> None:
    matches = match(one_object_each(0.9, 0.5))
    # 100 images with 10 alarms: one at .8, one at .7, eight at .6
    alarms = collect_alarms(empties([0.8], [0.7], [0.6] * 8, *([] for _ in range(97))))
    curve = negatives_curve(matches, alarms)
    assert curve is not None
    np.testing.assert_allclose(curve.score, [0.9, 0.8, 0.7, 0.6, 0.5], rtol=1e-6)
    np.testing.assert_allclose(curve.fppi, [0, 0.01, 0.02, 0.1, 0.1])
    np.testing.assert_allclose(curve.miss_rate, [0.5, 0.5, 0.5, 0.5, 0])
    # Four points (.01 … .0562) at a miss rate of .5; five at 0, which counts as 1e-10
    wanted = (0.5**4 * 1e-10**5) ** (1 / 9)
    assert log_average_miss_rate(curve) == pytest.approx(wanted)


def test_a_curve_that_ends_early_keeps_its_lowest_miss_rate() -> None:
    curve = negatives_curve(match(one_object_each(0.9, None)), collect_alarms(empties([])))
    assert log_average_miss_rate(curve) == pytest.approx(0.5)


def test_a_curve_that_begins_late_misses_all_before() -> None:
    # One image, one alarm above the only hit of two objects: 1 a image at once. Eight points miss
    # everything, the last one half.
    curve = negatives_curve(match(one_object_each(0.5, None)), collect_alarms(empties([0.9])))
    assert log_average_miss_rate(curve) == pytest.approx(0.5 ** (1 / 9))


def test_no_detections_at_all_misses_everything() -> None:
    curve = negatives_curve(match(one_object_each(None)), collect_alarms(empties([])))
    assert curve is not None
    assert len(curve.score) == 0
    assert log_average_miss_rate(curve) == 1.0
    assert len(thin(curve).score) == 0


def test_undefined_without_objects_or_negatives() -> None:
    objects, alarms = match(one_object_each(0.9)), collect_alarms(empties([0.5]))
    assert negatives_curve(objects, collect_alarms(empties())) is None
    assert negatives_curve(match(empties([0.5])), alarms) is None
    assert log_average_miss_rate(None) is None


def test_the_whole_curve_counts_false_positives_everywhere() -> None:
    box_hits = one_object_each(0.9)
    curve = whole_curve(match(random_scored(0, 4)), collect_alarms(empties([0.5], [])))
    assert curve is not None
    false = match(random_scored(0, 4)).false.sum() + 1
    assert curve.fppi[-1] == pytest.approx(false / 6)
    quiet = whole_curve(match(box_hits), collect_alarms(empties([])))
    assert quiet is not None
    assert quiet.fppi.tolist() == [0.0]


def test_every_point_agrees_with_counting_at_its_score() -> None:
    val, negatives = random_scored(3, 15), random_scored(4, 20, empty=True)
    matches, alarms = match(val), collect_alarms(negatives)
    curve = negatives_curve(matches, alarms)
    assert curve is not None
    for score, fppi, miss_rate in zip(curve.score, curve.fppi, curve.miss_rate, strict=True):
        assert count_alarms(alarms, float(score)).alarms_per_image == pytest.approx(fppi)
        assert recall_at(matches, float(score)) == pytest.approx(1 - miss_rate)


def test_thinning_keeps_ends_and_the_staircase() -> None:
    val, negatives = random_scored(3, 30), random_scored(4, 40, empty=True)
    curve = negatives_curve(match(val), collect_alarms(negatives))
    assert curve is not None
    few = thin(curve, points=20)
    assert len(few.score) <= 20
    assert (few.fppi[0], few.fppi[-1]) == (curve.fppi[0], curve.fppi[-1])
    corners = thin(curve, points=10_000)
    assert len(corners.score) < len(curve.score)
    assert log_average_miss_rate(corners) == pytest.approx(log_average_miss_rate(curve))


def test_thinning_drops_what_lies_inside_a_horizontal_run() -> None:
    # The miss rate falls at the 1st and the 5th point; the 2nd to 4th and the 6th to 8th stay level. The
    # point before a fall is a corner too.
    score, fppi = np.linspace(0.9, 0.2, 8), np.arange(8.0)
    curve = MissRateCurve(score, fppi, np.array([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4]))
    assert thin(curve).fppi.tolist() == [0, 3, 4, 7]
    falling = MissRateCurve(score, fppi, np.linspace(0.9, 0.2, 8))
    assert thin(falling, points=8).fppi.tolist() == fppi.tolist()
    assert thin(falling, points=3).fppi.tolist() == [0, 4, 7]
