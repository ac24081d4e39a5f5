from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from eval_worlds import found, one_object_each, record, scored, small_worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.evaluation.alarms import find_threshold, hits_needed, recall_at
from hardmine.evaluation.detection_matching import match
from hardmine.evaluation.scored_images import Scored
from hardmine.types import ImageState


def threshold_at_recall(val: Scored, recall: float) -> float | None:
    return find_threshold(match(val.with_known_truth()), recall)


def test_the_score_of_the_hit_that_reaches_the_recall() -> None:
    val = one_object_each(0.9, 0.8, 0.7, 0.6, 0.5)
    # recall .8 of 5 objects: 4 hits, the fourth best has .6
    assert threshold_at_recall(val, 0.8) == pytest.approx(0.6)
    assert threshold_at_recall(val, 0.81) == pytest.approx(0.5)
    assert threshold_at_recall(val, 0.01) == pytest.approx(0.9)


def test_threshold_is_the_score_itself_not_rounded() -> None:
    score = float(np.float32(0.123456))
    threshold = threshold_at_recall(one_object_each(0.9, score), 1.0)
    assert threshold == score
    assert isinstance(threshold, float)


def test_ties_come_along() -> None:
    val = one_object_each(0.9, 0.5, 0.5, 0.5)
    threshold = threshold_at_recall(val, 0.5)
    assert threshold == 0.5
    assert recall_at(match(val), 0.5) == 1.0


def test_not_reachable_is_none() -> None:
    val = one_object_each(0.9, None, None)
    assert threshold_at_recall(val, 0.34) is None
    assert threshold_at_recall(val, 1 / 3) == pytest.approx(0.9)
    assert threshold_at_recall(one_object_each(None), 0.8) is None


def test_without_objects_none() -> None:
    empty = scored([record(state=ImageState.VERIFIED_EMPTY)], [found((0.9, 1, 0, 0, 5, 5))])
    assert threshold_at_recall(empty, 0.5) is None
    assert recall_at(match(empty), 0.5) is None


def test_ignored_and_unreviewed_objects_do_not_count() -> None:
    box = (10, 10, 50, 50)
    val = scored(
        [
            record((1, *box)),
            record((1, *box), ignore=[True]),
            record((1, *box), state=ImageState.UNREVIEWED),
        ],
        [found((0.4, 1, *box)), found((0.9, 1, *box)), found((0.8, 1, *box))],
    )
    assert threshold_at_recall(val, 1.0) == pytest.approx(0.4)


def test_classes_are_pooled() -> None:
    val = scored(
        [record((1, 0, 0, 9, 9), (2, 20, 20, 40, 40))],
        [found((0.9, 1, 0, 0, 9, 9), (0.3, 2, 20, 20, 40, 40))],
        num_classes=2,
    )
    # One half of all objects, although class 2 is not found at all at .9.
    assert threshold_at_recall(val, 0.5) == pytest.approx(0.9)


@pytest.mark.parametrize("recall", [0.0, -0.1, 1.01, float("nan")])
def test_recall_outside_its_range(recall: float) -> None:
    with pytest.raises(ValueError, match="recall must be in"):
        threshold_at_recall(one_object_each(0.9), recall)


@settings(max_examples=40)
@given(st.integers(1, 1000), st.data())
def test_hits_needed_is_the_smallest_that_suffices(objects: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(1, objects))
    for recall in (hits / objects, np.nextafter(hits / objects, 0), data.draw(st.floats(0.01, 1))):
        needed = hits_needed(objects, recall)
        assert needed / objects >= recall
        assert needed == 1 or (needed - 1) / objects < recall


def test_without_objects_one_hit_is_needed() -> None:
    assert hits_needed(0, 0.8) == 1


def test_hits_needed_is_not_misled_by_rounding() -> None:
    assert 0.07 * 100 > 7
    assert hits_needed(100, 0.07) == 7


def slow_threshold(val: Scored, recall: float) -> float | None:
    """Cut the detections at every score that occurs, match anew, and keep the largest that does."""
    scores = sorted({float(s) for found in val.detections for s in found.scores}, reverse=True)
    for score in scores:
        cut = replace(val, detections=tuple(found.at_least(score) for found in val.detections))
        matches = match(cut)
        if matches.num_objects and matches.hit.sum() / matches.num_objects >= recall:
            return score
    return None


@settings(deadline=None, max_examples=60)
@given(small_worlds(), st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.8, 1.0]))
def test_equals_the_slow_search(world: Scored, recall: float) -> None:
    assert threshold_at_recall(world, recall) == slow_threshold(world, recall)


@settings(deadline=None, max_examples=30)
@given(small_worlds(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_more_recall_never_needs_a_higher_threshold(world: Scored, a: float, b: float) -> None:
    low, high = sorted((a, b))
    for_low, for_high = threshold_at_recall(world, low), threshold_at_recall(world, high)
    if for_high is not None:
        assert for_low is not None
        assert for_low >= for_high
