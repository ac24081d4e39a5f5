"""Alarms with each class at its own recall."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from eval_worlds import empties, found, one_object_each, random_scored, record, scored

from hardmine.detections import Detections
from hardmine.evaluation.class_alarms import (
    alarms_at_class_recall,
    class_alarms_statistic,
    has_several_classes,
)
from hardmine.evaluation.intervals import ArmScores, draw_images, full_sample
from hardmine.evaluation.measurement import measure
from hardmine.evaluation.paired import paired_ratio, paired_ratio_over_seeds
from hardmine.evaluation.scored_images import Scored
from hardmine.types import ImageState

BOX = (10, 10, 50, 50)


def objects(*rows: tuple[int, float | None]) -> Scored:
    """Return images with one object of a class each, hit at the given score, or missed (None)."""
    records = [record((label, *BOX), name=f"object{i}.jpg") for i, (label, _) in enumerate(rows)]
    hits = [found() if s is None else found((s, label, *BOX)) for label, s in rows]
    return scored(records, hits, num_classes=3)


def silent_but(*images: Sequence[tuple[float, int]]) -> Scored:
    """Return images without objects; each argument holds one image's alarms (score, class)."""
    names = [f"empty{i}.jpg" for i in range(len(images))]
    records = [record(name=name, state=ImageState.VERIFIED_EMPTY) for name in names]
    alarms: list[Detections] = [found(*((s, label, *BOX) for s, label in rows)) for rows in images]
    return scored(records, alarms, num_classes=3)


# Eight of the first class at .90 to .97, two of the second at .4 and .3.
MIXED = objects(*((1, 0.9 + i / 100) for i in range(8)), (2, 0.4), (2, 0.3))
EMPTY = silent_but([(0.95, 1), (0.35, 2)], [(0.32, 2), (0.2, 2)], [(0.8, 1), (0.99, 3)], [])


def test_each_class_is_counted_from_the_score_of_its_own_recall() -> None:
    """Pooled, recall .8 is the eighth best of ten, .90. Of the first class alone it is the seventh of
    eight, .91; of the second both, .30. The third has no object: nothing is asked of it."""
    arm = ArmScores(MIXED, EMPTY)
    at = alarms_at_class_recall(arm, 0.8)
    by_name = {row.name: row for row in at.classes}
    assert list(by_name) == ["class 1", "class 2"]
    assert by_name["class 1"].score_threshold == pytest.approx(0.91)
    assert by_name["class 2"].score_threshold == pytest.approx(0.3)
    assert (by_name["class 1"].alarms, by_name["class 2"].alarms) == (1, 2)
    assert by_name["class 2"].alarms_per_image == 2 / 4
    assert (at.recall, at.alarms, at.alarms_per_image) == (0.8, 3, 3 / 4)
    half = alarms_at_class_recall(arm, 0.5)  # from .94 and .4 on
    assert [row.alarms for row in half.classes] == [1, 0]


def test_a_class_that_does_not_reach_the_recall_leaves_the_sum_unknown() -> None:
    arm = ArmScores(objects((1, 0.9), (2, None)), EMPTY)
    at = alarms_at_class_recall(arm, 0.8)
    assert (at.alarms, at.alarms_per_image) == (None, None)
    assert [row.alarms for row in at.classes] == [1, None]
    assert class_alarms_statistic(0.8)(arm, full_sample(arm)).tolist() == [math.inf]
    assert (
        paired_ratio_over_seeds([(arm, arm)], each_class=True).note == "recall 0.8 is not reached"
    )


def test_with_one_class_it_is_the_usual_figure() -> None:
    arm = ArmScores(one_object_each(0.9, 0.7, 0.5, 0.3), empties([0.6, 0.2], [0.4], []))
    assert not has_several_classes(arm)
    assert has_several_classes(ArmScores(MIXED, EMPTY))
    assert alarms_at_class_recall(arm, 0.8).alarms == 2
    assert paired_ratio_over_seeds([(arm, arm)], each_class=True) == paired_ratio(arm, arm)


def test_draws_equal_a_count_of_the_drawn_images() -> None:
    """The slow way: repeat the images of a draw and measure them."""
    val, empty = random_scored(3, images=12), random_scored(4, images=9, empty=True)
    arm = ArmScores(val, empty)
    sample = draw_images(arm, 6, seed=1)
    fast = class_alarms_statistic(0.5)(arm, sample)
    for row in range(6):
        drawn = ArmScores(
            val.subset(np.repeat(np.arange(12), sample.val[row]).tolist()),
            empty.subset(np.repeat(np.arange(9), sample.negatives[row]).tolist()),
        )
        slow = alarms_at_class_recall(drawn, 0.5).alarms_per_image
        assert fast[row] == pytest.approx(math.inf if slow is None else slow)


def test_a_class_that_a_draw_does_not_hold_adds_nothing_there() -> None:
    arm = ArmScores(objects((1, 0.9), (2, 0.3)), silent_but([(0.95, 1), (0.5, 2)]))
    sample = draw_images(arm, 60, seed=0)
    found = class_alarms_statistic(0.8)(arm, sample)
    held = (sample.val > 0).sum(axis=1)
    assert set(held.tolist()) == {1, 2}
    assert found.tolist() == held.tolist()


def test_the_ratio_counts_each_class() -> None:
    """The arms differ in the alarms of the rare class alone, which lie below the common threshold."""
    busy = ArmScores(MIXED, silent_but(*[[(0.95, 1), (0.35, 2), (0.33, 2)]] * 30))
    calm = ArmScores(MIXED, silent_but(*[[(0.95, 1)]] * 30))
    assert paired_ratio(busy, calm).ratio == 1.0
    each = paired_ratio_over_seeds([(busy, calm)] * 3, each_class=True)
    assert (each.ratio, each.per_image_a, each.per_image_b) == (3.0, 3.0, 1.0)
    assert [seed.alarms_a for seed in each.seeds] == [90, 90, 90]


def test_a_measurement_has_it_where_several_classes_have_objects() -> None:
    at = measure(MIXED, {"held_out": EMPTY}, draws=5).to_dict()["negatives"]["held_out"]
    assert [row["recall"] for row in at["alarms_at_class_recalls"]] == [0.5, 0.8, 0.9]
    assert at["alarms_at_class_recalls"][1]["alarms"] == 3
    whole = measure(MIXED, {}, draws=5).to_dict()
    assert whole["class_thresholds"] == pytest.approx({"class 1": 0.91, "class 2": 0.3})
    assert measure(objects((1, None)), {}, draws=5).class_thresholds == {"class 1": None}
    assert at["alarms"] == 2  # from .90 on, of the first class and of the third
    one = measure(one_object_each(0.9), {"held_out": empties([0.6])}, draws=5).to_dict()
    assert one["negatives"]["held_out"]["alarms_at_class_recalls"] == []
    none = measure(MIXED, {"held_out": silent_but()}, draws=5).to_dict()
    assert none["negatives"]["held_out"]["alarms_at_class_recalls"] == []
