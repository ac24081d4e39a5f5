from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from eval_worlds import empties, found, one_object_each, random_scored, record, scored

from hardmine.errors import DataError
from hardmine.evaluation.average_precision import AveragePrecision, average_precision, merge
from hardmine.evaluation.scored_images import Scored, ground_truth, result_rows
from hardmine.types import ImageState


def oracle(world: Scored) -> np.ndarray:
    """Return pycocotools' precision array [10, 101, C, 4] at 100 detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **ground_truth(world.dataset)}
        truth.createIndex()
        rows: list[dict[str, Any]] = [
            row for i, found in enumerate(world.detections) for row in result_rows(i, found)
        ]
        run = COCOeval(truth, truth.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
    precision: np.ndarray = run.eval["precision"][..., -1]
    return precision


def mean(values: np.ndarray) -> float:
    return float(values[values > -1].mean())


def assert_equal(got: AveragePrecision, wanted: np.ndarray) -> None:
    pairs = [
        (got.ap, wanted[:, :, :, 0]),
        (got.ap50, wanted[0, :, :, 0]),
        (got.ap75, wanted[5, :, :, 0]),
        (got.small, wanted[:, :, :, 1]),
        (got.medium, wanted[:, :, :, 2]),
        (got.small50, wanted[0, :, :, 1]),
        (got.medium50, wanted[0, :, :, 2]),
        *((part.ap, wanted[:, :, c, 0]) for c, part in enumerate(got.per_class)),
        *((part.ap50, wanted[0, :, c, 0]) for c, part in enumerate(got.per_class)),
        *((part.ap75, wanted[5, :, c, 0]) for c, part in enumerate(got.per_class)),
    ]
    for value, precision in pairs:
        assert value == pytest.approx(mean(precision), abs=1e-6)
    # no object of 96 x 96 on a 100 x 100 image of small ones
    assert (got.large, got.large50) == (None, None)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    world = random_scored(seed, images=25, num_classes=3)
    assert_equal(average_precision(world), oracle(world))


def test_equals_pycocotools_with_negatives_and_over_100_detections() -> None:
    val = random_scored(0, images=10, num_classes=2, clutter=260)
    negatives = random_scored(1, images=15, num_classes=2, empty=True)
    assert max(len(part) for part in val.detections) > 200
    assert_equal(average_precision(val, [negatives]), oracle(merge(val, [negatives])))


def test_false_alarms_on_negatives_lower_ap_with_negatives_only() -> None:
    val = one_object_each(0.9, 0.5)
    loud, quiet = empties([0.7], [0.6]), empties([], [])
    assert average_precision(val).ap50 == pytest.approx(1.0)
    assert average_precision(val, [quiet]).ap50 == pytest.approx(1.0)
    # Falling: hit .9, false .7, false .6, hit .5. Precision is 1 up to recall .5 (51 of COCO's 101
    # points) and 2 / 4 beyond (50 points): (51 + 50 * .5) / 101
    with_loud = average_precision(val, [loud])
    assert with_loud.ap50 == pytest.approx((51 + 25) / 101)
    assert with_loud.images == 4


def test_a_duplicate_is_a_false_positive() -> None:
    box = (10, 10, 50, 50)
    val = scored(
        [record((1, *box)), record((1, *box))],
        [found((0.9, 1, *box), (0.8, 1, *box)), found((0.7, 1, *box))],
    )
    # hit .9, false .8, hit .7: precision 1 to recall .5, then 2 / 3
    assert average_precision(val).ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_no_detections_is_zero_no_objects_is_none() -> None:
    assert average_precision(one_object_each(None, None)).ap == 0.0
    nothing = average_precision(empties([0.9]))
    assert (nothing.ap, nothing.ap50, nothing.per_class[0].ap) == (None, None, None)
    assert nothing.per_class[0].objects == 0
    assert nothing.images == 1


def test_a_class_without_objects_is_left_out_of_the_mean() -> None:
    val = scored([record((1, 10, 10, 50, 50))], [found((0.9, 1, 10, 10, 50, 50))], num_classes=2)
    result = average_precision(val)
    assert result.ap50 == pytest.approx(1.0)
    assert [(part.objects, part.ap50) for part in result.per_class] == [(1, 1.0), (0, None)]


def test_images_of_unknown_truth_take_no_part() -> None:
    box = (10, 10, 50, 50)
    val = scored(
        [record((1, *box)), record(state=ImageState.UNREVIEWED)],
        [found((0.5, 1, *box)), found((0.9, 1, *box))],
    )
    assert average_precision(val).ap50 == pytest.approx(1.0)
    assert average_precision(val).images == 1


def test_says_nothing_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    average_precision(random_scored(0, images=3))
    assert capfd.readouterr() == ("", "")


def test_other_classes_are_an_error() -> None:
    with pytest.raises(DataError, match=r"classes \['class 1', 'class 2'\] .* wanted"):
        average_precision(one_object_each(0.9), [empties([0.5], num_classes=2)])
