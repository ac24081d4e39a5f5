from __future__ import annotations

import json
from typing import Any

import pytest
from eval_worlds import empties, found, one_object_each, random_scored, record, scored

from hardmine.errors import DataError
from hardmine.evaluation.measurement import Measurement, measure, training_sample
from hardmine.types import ImageState

KEY = "alarms_per_image_at_recall_0.8"


def plain(measurement: Measurement) -> dict[str, Any]:
    """Return what a reader of metrics.json gets; NaN would raise."""
    values: dict[str, Any] = json.loads(json.dumps(measurement.to_dict(), allow_nan=False))
    return values


def test_worked_example() -> None:
    val = one_object_each(0.9, 0.8, 0.7, 0.6, 0.3)
    held_out = empties([0.95, 0.65], [0.6], [0.2], [])
    values = plain(measure(val, {"held_out": held_out, "stop": empties([0.1])}, draws=50))
    assert values["score_threshold"] == pytest.approx(0.6)
    assert (values["recall"], values["max_recall"]) == (0.8, 1.0)
    # .95, .65 and .6 on four images
    assert values[KEY] == 0.75
    assert values["AP50"] == pytest.approx(1.0)
    part = values["negatives"]["held_out"]
    assert (part["images"], part["alarms"], part["share_of_images_that_fire"]) == (4, 3, 0.5)
    assert part["interval_method"] == "poisson"
    assert [row["alarms"] for row in part["alarms_at_scores"]] == [4, 3, 3, 1, 1]
    # .01 and .1 an image allow no alarm of four images: nothing scores above .95
    assert [row["recall"] for row in part["recall_at_alarms"]] == [0.0, 0.0, 1.0]
    assert values["negatives"]["stop"]["alarms"] == 0
    assert values["AP50_with_negatives"] < values["AP50"]
    assert part["AP50_with_negatives"] == values["AP50_with_negatives"]
    assert values["stray_alarms"]["background"] == 0
    assert values["bootstrap"] == {"draws": 50, "seed": 0}


def test_the_main_figures_are_those_of_the_held_out_set() -> None:
    val, loud, quiet = one_object_each(0.5), empties([0.9]), empties([])
    assert measure(val, {"stop": loud, "held_out": quiet}, draws=5).to_dict()[KEY] == 0.0
    assert measure(val, {"mine": loud, "stop": quiet}, draws=5).to_dict()[KEY] == 1.0


def test_what_is_found_in_training_images_stands_beside() -> None:
    val = one_object_each(0.9)
    # One of two objects is found: precision 1 up to recall .5, which is 51 of 101 points.
    half = scored(
        [record((1, 5, 5, 40, 40), name="a.jpg"), record((1, 5, 5, 40, 40), name="b.jpg")],
        [found((0.9, 1, 5, 5, 40, 40)), found()],
    )
    assert plain(measure(val, {}, draws=5, training=half))["training"] == {
        "images": 2,
        "AP50": pytest.approx(51 / 101),
    }
    assert plain(measure(val, {}, draws=5))["training"] is None
    nothing = half.subset([])
    assert plain(measure(val, {}, draws=5, training=nothing))["training"] is None


def test_the_sample_of_training_images_holds_objects_and_is_the_same_again() -> None:
    few = [record((1, 5, 5, 40, 40), name=f"{i}.jpg") for i in range(3)]
    others = [
        record(name=f"{state}.jpg", state=state)
        for state in (ImageState.VERIFIED_EMPTY, ImageState.UNREVIEWED)
    ]
    small = scored([*others, *few], [found()] * 5).dataset
    assert [r.path.name for r in training_sample(small).records] == ["0.jpg", "1.jpg", "2.jpg"]
    many = [record((1, 5, 5, 40, 40), name=f"{i:03}.jpg") for i in range(130)]
    large = scored(many, [found()] * 130).dataset
    names = [r.path.name for r in training_sample(large, seed=1).records]
    assert len(set(names)) == 100
    assert names == sorted(names) == [r.path.name for r in training_sample(large, seed=1).records]
    assert names != [r.path.name for r in training_sample(large, seed=2).records]


def test_no_detections_at_all() -> None:
    values = plain(measure(one_object_each(None, None), {"held_out": empties([], [])}, draws=20))
    assert (values["AP"], values["AP50"], values["max_recall"]) == (0.0, 0.0, 0.0)
    assert values["score_threshold"] is None
    assert (values[KEY], values["interval"], values["stray_alarms"]) == (None, None, None)
    part = values["negatives"]["held_out"]
    assert (part["alarms"], part["share_of_images_that_fire"]) == (None, None)
    assert [row["alarms"] for row in part["alarms_at_scores"]] == [0] * 5
    assert part["log_average_miss_rate"] == 1.0


def test_no_negatives() -> None:
    values = plain(measure(one_object_each(0.9), {}, draws=20))
    assert values["score_threshold"] == pytest.approx(0.9)
    assert (values[KEY], values["interval"], values["negatives"]) == (None, None, {})
    assert values["AP_with_negatives"] is None


def test_an_empty_negative_set() -> None:
    part = plain(measure(one_object_each(0.9), {"held_out": empties()}, draws=20))["negatives"]
    assert part["held_out"]["images"] == 0
    assert part["held_out"][KEY] is None
    assert part["held_out"]["interval"] is None


def test_unreachable_recall_is_null_and_the_rest_stands() -> None:
    val = one_object_each(0.9, 0.8, None)
    measurement = measure(val, {"held_out": empties([0.85])}, draws=20)
    values = plain(measurement)
    assert values["score_threshold"] is None
    assert values["recall"] is None
    assert values["max_recall"] == pytest.approx(2 / 3)
    assert values[KEY] is None
    assert values["negatives"]["held_out"]["alarms_at_scores"][2]["alarms"] == 1
    assert values["negatives"]["held_out"]["recall_at_alarms"][0]["recall"] == pytest.approx(1 / 3)


def test_images_left_out_are_counted() -> None:
    val = scored([record((1, 0, 0, 9, 9)), record(state=ImageState.UNREVIEWED)], [found(), found()])
    held_out = scored(
        [record(state=ImageState.VERIFIED_EMPTY), record(state=ImageState.UNREVIEWED)],
        [found(), found((0.9, 1, 0, 0, 9, 9))],
    )
    measurement = measure(val, {"held_out": held_out}, draws=5)
    assert (measurement.images, measurement.images_excluded) == (1, 1)
    part = measurement.negatives["held_out"]
    assert (part.images, part.images_excluded, part.at_scores[0].alarms) == (1, 1, 0)


def test_another_recall_has_another_key() -> None:
    values = measure(one_object_each(0.9), {"held_out": empties([])}, recall=0.9, draws=5).to_dict()
    assert "alarms_per_image_at_recall_0.9" in values
    assert "alarms_per_image_at_recall_0.9" in values["negatives"]["held_out"]


def test_the_same_seed_gives_the_same_figures() -> None:
    val, negatives = random_scored(0), {"held_out": random_scored(1, empty=True)}
    first = measure(val, negatives, draws=100, seed=7).to_dict()
    assert first == measure(val, negatives, draws=100, seed=7).to_dict()
    other = measure(val, negatives, draws=100, seed=8).to_dict()
    assert first["AP50_interval"] != other["AP50_interval"]


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="recall must be in"):
        measure(one_object_each(0.9), {}, recall=0)
    with pytest.raises(DataError, match="classes"):
        measure(one_object_each(0.9), {"held_out": empties([0.5], num_classes=2)}, draws=5)
