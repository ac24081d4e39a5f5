from __future__ import annotations

import numpy as np
import pytest
from eval_worlds import empties, found, one_object_each, random_scored, record, scored
from hypothesis import given
from hypothesis import strategies as st

from hardmine.evaluation.alarms import (
    alarms_allowed,
    collect_alarms,
    count_alarms,
    count_stray_alarms,
    recall_at_alarms,
)
from hardmine.evaluation.detection_matching import match
from hardmine.types import ImageState


def test_counts_shares_and_inclusive_thresholds() -> None:
    alarms = collect_alarms(empties([0.9, 0.5, 0.2], [], [0.5], [0.49]))
    count = count_alarms(alarms, 0.5)
    # .9 and .5 on the first image, .5 on the third: 3 alarms on 2 of 4 images
    assert (count.alarms, count.alarms_per_image, count.share_of_images) == (3, 0.75, 0.5)
    assert count.score_threshold == 0.5
    assert count_alarms(alarms, 0.50001).alarms == 1
    assert count_alarms(alarms, 0.0).alarms == 5
    assert count_alarms(alarms, 1.0).alarms == 0


def test_a_threshold_given_as_decimal_meets_the_same_float32_score() -> None:
    assert count_alarms(collect_alarms(empties([0.1], [0.7])), 0.1).alarms == 2


def test_only_images_known_to_be_empty_count() -> None:
    part = scored(
        [
            record(state=ImageState.VERIFIED_EMPTY),
            record(state=ImageState.ASSUMED_EMPTY),
            record(state=ImageState.UNREVIEWED),
            record(state=ImageState.CONTAINS_OBJECT),
            record((1, 0, 0, 9, 9)),
        ],
        [found((0.9, 1, 0, 0, 9, 9))] * 5,
    )
    count = count_alarms(collect_alarms(part), 0.5)
    assert (count.alarms, count.alarms_per_image) == (2, 1.0)


def test_no_images_and_no_detections() -> None:
    nothing = count_alarms(collect_alarms(empties()), 0.5)
    assert (nothing.alarms, nothing.alarms_per_image, nothing.share_of_images) == (0, None, None)
    quiet = count_alarms(collect_alarms(empties([], [])), 0.5)
    assert (quiet.alarms, quiet.alarms_per_image, quiet.share_of_images) == (0, 0.0, 0.0)


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), max_size=4), max_size=5),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_alarms_never_rise_with_the_threshold(
    scores: list[list[float]], a: float, b: float
) -> None:
    alarms = collect_alarms(empties(*scores))
    low, high = (count_alarms(alarms, threshold) for threshold in sorted((a, b)))
    assert low.alarms >= high.alarms
    assert (low.share_of_images or 0) >= (high.share_of_images or 0)
    slow = sum(np.float32(s) >= np.float32(min(a, b)) for image in scores for s in image)
    assert low.alarms == slow


def test_recall_at_a_rate_of_alarms() -> None:
    matches = match(one_object_each(0.9, 0.7, 0.5, 0.3))
    alarms = collect_alarms(empties([0.8], [0.6], [0.4], [], [], [], [], [], [], []))
    # 10 images: .1 an image allows one alarm (.8); .6 may not fire, so only hits above .6 count
    point = recall_at_alarms(matches, alarms, 0.1)
    assert point.recall == 0.5
    assert point.score_threshold is not None
    assert count_alarms(alarms, point.score_threshold).alarms == 1
    # .01 an image allows none: hits above .8
    assert recall_at_alarms(matches, alarms, 0.01).recall == 0.25
    # 1 an image allows all ten: every hit
    everything = recall_at_alarms(matches, alarms, 1.0)
    assert (everything.recall, everything.score_threshold) == (1.0, 0.0)
    assert (point.alarms_per_image, everything.alarms_per_image) == (0.1, 1.0)


def test_where_all_alarms_may_fire_every_hit_counts() -> None:
    # 10 images and one alarm: a rate of .1 allows just this one, so no threshold is needed; a hit with
    # a score of 0 counts too.
    alarms = collect_alarms(empties([0.6], *([] for _ in range(9))))
    point = recall_at_alarms(match(one_object_each(0.9, 0.0)), alarms, 0.1)
    assert (point.recall, point.score_threshold) == (1.0, 0.0)


def test_a_hit_that_ties_with_the_forbidden_alarm_does_not_count() -> None:
    matches = match(one_object_each(0.9, 0.6))
    assert recall_at_alarms(matches, collect_alarms(empties([0.6])), 0.01).recall == 0.5


def test_recall_at_a_rate_is_undefined_without_images_or_objects() -> None:
    matches = match(one_object_each(0.9))
    undefined = recall_at_alarms(matches, collect_alarms(empties()), 0.1)
    assert (undefined.alarms_per_image, undefined.recall) == (0.1, None)
    assert recall_at_alarms(match(empties([0.5])), collect_alarms(empties([])), 0.1).recall is None


@pytest.mark.parametrize(("images", "rate", "allowed"), [(100, 0.29, 29), (10, 0.1, 1), (7, 1, 7)])
def test_alarms_allowed_is_not_misled_by_rounding(images: int, rate: float, allowed: int) -> None:
    # .29 * 100 is 28.999999999999996
    assert alarms_allowed(images, rate) == allowed


def test_stray_alarms_are_background_on_images_with_objects() -> None:
    box = (10, 10, 50, 50)
    val = scored(
        [record((1, *box)), record(state=ImageState.VERIFIED_EMPTY)],
        [
            found(
                (0.9, 1, *box),
                (0.8, 1, *box),  # second detection of one object: not background
                (0.7, 1, 80, 80, 99, 99),  # stray
                (0.6, 1, 30, 30, 70, 70),  # IoU 400 / 2800 = .14: badly placed
                (0.2, 1, 80, 80, 99, 99),  # below the threshold
            ),
            found((0.9, 1, *box)),  # an alarm, not a stray one
        ],
    )
    stray = count_stray_alarms(match(val), 0.5)
    assert (stray.images, stray.background, stray.others) == (1, 1, 2)
    assert (stray.background_per_image, stray.others_per_image) == (1.0, 2.0)


def test_stray_alarms_are_counted_per_image_with_objects_from_the_threshold_on() -> None:
    box = (10, 10, 50, 50)
    val = scored(
        [record((1, *box)), record((1, *box)), record(state=ImageState.VERIFIED_EMPTY)],
        [
            found((0.9, 1, *box), (0.75, 1, 80, 80, 99, 99), (0.5, 1, *box)),
            found((0.5, 1, 80, 80, 99, 99)),
            found(),
        ],
    )
    stray = count_stray_alarms(match(val), 0.5)
    # 2 on background and 1 second detection, .5 included, on 2 images with objects
    assert (stray.images, stray.background, stray.others) == (2, 2, 1)
    assert (stray.background_per_image, stray.others_per_image) == (1.0, 0.5)


def test_stray_alarms_without_objects() -> None:
    stray = count_stray_alarms(match(random_scored(0, 3, empty=True)), 0.0)
    assert (stray.images, stray.background, stray.background_per_image) == (0, 0, None)
