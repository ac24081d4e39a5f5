"""Coverage: figures by hand, and the training's assignment over whole images as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.models.priors import LinearPriors, make_priors
from hardmine.prior_design.coverage import CanvasBoxes, as_batch, boxes_on_canvas, measure_coverage
from hardmine.prior_design.prior_layout import LevelGrid, PriorLayout, layout_from_priors
from hardmine.types import Dataset, ImageRecord, ImageState


def canvas_boxes(boxes: list[list[float]], image: list[int] | None = None) -> CanvasBoxes:
    array = np.array(boxes, np.float64)
    where = np.array(image if image is not None else range(len(array)), np.int64)
    return CanvasBoxes(array, np.ones(len(array), np.int64), where, ("thing",))


def one_level(rows: int, step: float, *shapes: tuple[float, float]) -> PriorLayout:
    side = int(rows * step)
    grid = LevelGrid(rows, rows, step / 2, step / 2, step, step, np.array(shapes, np.float64))
    return PriorLayout((grid,), side, side)


def test_coverage_by_hand() -> None:
    """2 × 2 cells of 100 px with priors of 100 × 100 at centres 50 and 150.

    Box 0, 0..100 × 0..100, is a prior: IoU 1, 1 match (the neighbours share an edge only).
    Box 1, 50..150 × 0..100, lies between two cells: each overlaps 50 × 100, 5000 / 15000 = 1/3. Its
    shape fits, so it is on a level; what it gets is forced.
    Box 2, 40..60 × 40..60, has a shape IoU of 400 / 10000 = .04: on no level, forced.
    """
    layout = one_level(2, 100, (100, 100))
    boxes = canvas_boxes([[0, 0, 100, 100], [50, 0, 150, 100], [40, 40, 60, 60]])
    found = measure_coverage(boxes, layout)
    assert found.best.iou.tolist() == pytest.approx([1, 1 / 3, 0.04])
    assert found.assigned.tolist() == [1, 1, 1]
    assert found.forced_only.tolist() == [False, True, True]
    assert found.no_level.tolist() == [False, False, True]
    rows = {(row.category, row.size): row for row in found.rows()}
    assert set(rows) == {("all", "small"), ("all", "large"), ("all", "all")}
    total = rows["all", "all"]
    assert (total.boxes, total.forced_only, total.no_level, total.unmatched) == (3, 2, 1, 0)
    assert total.reach == pytest.approx(1 / 3)
    assert total.mean_iou == pytest.approx((1 + 1 / 3 + 0.04) / 3)
    assert total.median == pytest.approx(1 / 3)
    assert total.matches == 1.0
    level = found.level_rows()[0]
    assert (level.priors, level.best_for, level.matches) == (4, 3, 1)


def test_a_box_that_overlaps_no_prior_is_unmatched() -> None:
    # One prior of 10 × 10 in the middle of 100 px; the box lies in the corner.
    found = measure_coverage(canvas_boxes([[0, 0, 8, 8]]), one_level(1, 100, (10, 10)))
    assert found.total().unmatched == 1
    assert found.total().forced_only == 0


def test_two_boxes_share_one_prior() -> None:
    # Both boxes of the image reach the one prior: the better keeps it, the other goes without.
    layout = one_level(1, 100, (50, 50))
    boxes = canvas_boxes([[25, 25, 75, 75], [30, 25, 80, 75]], [0, 0])
    assert measure_coverage(boxes, layout).assigned.tolist() == [1, 0]
    apart = canvas_boxes([[25, 25, 75, 75], [30, 25, 80, 75]], [0, 1])
    assert measure_coverage(apart, layout).assigned.tolist() == [1, 1]


def test_of_two_boxes_that_no_prior_reaches_the_better_gets_it() -> None:
    # The prior is 25..75 × 25..75: IoU 20/50 with the first box, 15/50 with the second.
    layout = one_level(1, 100, (50, 50))
    boxes = canvas_boxes([[25, 25, 45, 75], [25, 25, 40, 75]], [0, 0])
    found = measure_coverage(boxes, layout)
    assert found.assigned.tolist() == [1, 0]
    assert (found.total().forced_only, found.total().unmatched) == (1, 1)


def test_a_box_that_no_prior_reaches_takes_its_best_one_from_another() -> None:
    """The priors are 25..75 × 35..65 and 25..75 × 20..80.

    The first box is 50 × 58: IoU 58/60 with the second prior and 30/58 with the first, which reach .5.
    The second box is 20 × 30 inside the first prior: IoU 20/50, so that all it has is that one.
    """
    layout = one_level(1, 100, (50, 30), (50, 60))
    boxes = canvas_boxes([[25, 21, 75, 79], [25, 35, 45, 65]], [0, 0])
    assert measure_coverage(boxes, layout).assigned.tolist() == [1, 1]
    apart = canvas_boxes([[25, 21, 75, 79], [25, 35, 45, 65]], [0, 1])
    assert measure_coverage(apart, layout).assigned.tolist() == [2, 1]
    assert measure_coverage(apart, layout, max_positives=1).assigned.tolist() == [1, 1]


def test_below_a_half_boxes_that_do_not_touch_compete_for_one_prior() -> None:
    """Two priors of 40 × 100, the boxes nearly; and one of 100 × 100 over both: IoU .41 and .4."""
    sides = LevelGrid(1, 2, 20.0, 50.0, 60.0, 100.0, np.array([[40.0, 100.0]]))
    over = LevelGrid(1, 1, 50.0, 50.0, 100.0, 100.0, np.array([[100.0, 100.0]]))
    layout = PriorLayout((sides, over), 100, 100)
    corners: list[list[float]] = [[0, 0, 41, 100], [60, 0, 100, 100]]
    found = measure_coverage(canvas_boxes(corners, [0, 0]), layout, 0.35)
    assert found.assigned.tolist() == [2, 1]
    assert measure_coverage(canvas_boxes(corners, [0, 1]), layout, 0.35).assigned.tolist() == [2, 2]
    assert found.total().matches == 1.5
    # Each level: its priors, the boxes whose best prior it holds, and what reaches .405 there.
    found = measure_coverage(canvas_boxes(corners[::-1]), layout, 0.405)
    levels = [(row.level, row.priors, row.best_for, row.matches) for row in found.level_rows()]
    assert levels == [(0, 2, 2, 2), (1, 1, 0, 1)]


def test_rows_of_two_classes_by_hand() -> None:
    """One prior of 100 × 100; boxes of its width inside it, so that the IoU is their height / 100.

    The cats are 20, 40, 60 and 100 px high, the dog 50: areas of 2,000 to 10,000 px, and 96² is 9,216.
    """
    heights = [20, 40, 60, 100, 50]
    array = np.array([[0, 0, 100, height] for height in heights], np.float64)
    labels = np.array([1, 1, 1, 1, 2])
    boxes = CanvasBoxes(array, labels, np.arange(5), ("cat", "dog"))
    found = measure_coverage(boxes, one_level(1, 100, (100, 100)))
    rows = {(row.category, row.size): row for row in found.rows()}
    assert {name: row.boxes for name, row in rows.items()} == {
        ("cat", "medium"): 3,
        ("cat", "large"): 1,
        ("cat", "all"): 4,
        ("dog", "medium"): 1,
        ("dog", "all"): 1,
        ("all", "medium"): 4,
        ("all", "large"): 1,
        ("all", "all"): 5,
    }
    cats = rows["cat", "all"]
    # Of .2, .4, .6 and 1 a quarter lies three quarters of the way from .2 to .4.
    assert (cats.q25, cats.median, cats.q75) == pytest.approx((0.35, 0.5, 0.7))
    assert (cats.mean_iou, cats.reach) == pytest.approx((0.55, 0.5))
    assert rows["dog", "all"].reach == 1  # .5 is inclusive
    medium = rows["all", "medium"]
    assert (medium.mean_iou, medium.reach) == pytest.approx((0.425, 0.5))


def test_a_shape_that_reaches_the_threshold_exactly_is_on_a_level() -> None:
    """The first shape is twice the box, which lies apart from both priors; the second is far larger."""
    layout = one_level(1, 400, (20, 10), (300, 300))
    found = measure_coverage(canvas_boxes([[0, 0, 10, 10], [0, 0, 9, 10]]), layout)
    assert found.no_level.tolist() == [False, True]  # 100 / 200 and 90 / 200


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
def test_assigned_priors_equal_those_of_the_training(threshold: float) -> None:
    """Images of 1 to 6 boxes, many of them overlapping, each through ``assign_priors`` alone."""
    rng = np.random.default_rng(7)
    priors = make_priors(LinearPriors(), [(10, 10), (5, 5), (3, 3)], 160, 160)
    layout = layout_from_priors(priors, 160, 160)
    image = np.repeat(np.arange(120), rng.integers(1, 7, 120))
    size = np.exp(rng.normal(3.9, 0.5, (len(image), 2))).clip(28, 150)
    low = rng.random((len(image), 2)) * (160 - size)
    boxes = CanvasBoxes(
        np.concatenate([low, low + size], 1), np.ones(len(image), np.int64), image, ("thing",)
    )
    found = measure_coverage(boxes, layout, threshold).assigned
    corners, compared = cxcywh_to_xyxy(priors.cxcywh).double(), 0
    for index in range(120):
        rows = np.flatnonzero(image == index)
        iou = box_iou(torch.from_numpy(boxes.boxes[rows]), corners)
        first, second = iou.topk(2, dim=1).values.unbind(1)
        if (first - second).min() < 1e-6:
            continue  # equally good priors: which one is taken is rounding
        batch = as_batch(boxes, [rows], len(rows))
        result = assign_priors(batch, priors, AssignerConfig(iou_threshold=threshold))
        given = result.box_index[0][result.labels[0] > 0].bincount(minlength=len(rows))
        assert found[rows].tolist() == given.tolist(), index
        compared += 1
    assert compared > 40


def test_boxes_go_through_the_resize_and_ignored_ones_stay_out(tmp_path: Path) -> None:
    record = ImageRecord(
        tmp_path / "a.jpg",
        200,
        100,
        np.array([[20, 10, 60, 30], [0, 0, 10, 10]], np.float32),
        np.array([1, 1]),
        np.array([False, True]),
        ImageState.LABELLED,
    )
    empty = ImageRecord.empty(tmp_path / "b.jpg", 10, 10, ImageState.VERIFIED_EMPTY)
    dataset = Dataset(("thing",), (empty, record), tmp_path)
    boxes = boxes_on_canvas(dataset, Resize(100, 100))
    assert boxes.boxes.tolist() == [[10, 10, 30, 30]]  # x · 100/200, y · 100/100
    assert (boxes.image.tolist(), boxes.size_class.tolist()) == ([1], [0])
    with pytest.raises(DataError, match="no labelled box in 1 image"):
        boxes_on_canvas(dataset.subset([0]), Resize(100, 100))


def test_sizes_change_at_32_and_96_squared() -> None:
    sides = [31.9, 32, 95.9, 96]
    boxes = canvas_boxes([[0, 0, side, side] for side in sides])
    assert boxes.size_class.tolist() == [0, 1, 1, 2]
