"""Box arithmetic on numpy: by hand, and against torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import ops

from hardmine.numpy_boxes import box_area, box_intersection, box_iou, nms


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_iou_by_hand() -> None:
    # 10 x 10 against 10 x 10 shifted by 5: 50 shared of 150; against itself 1; far away 0.
    a = boxes_of((0, 0, 10, 10))
    b = boxes_of((5, 0, 15, 10), (0, 0, 10, 10), (20, 20, 30, 30))
    assert box_iou(a, b)[0].tolist() == [50 / 150, 1.0, 0.0]
    assert box_intersection(a, b)[0].tolist() == [50.0, 100.0, 0.0]


def test_boxes_without_area_overlap_nothing() -> None:
    flat, inverted = (3.0, 3.0, 3.0, 9.0), (9.0, 9.0, 3.0, 3.0)
    boxes = boxes_of(flat, inverted, (0, 0, 10, 10))
    assert box_area(boxes).tolist() == [0.0, 0.0, 100.0]
    assert box_iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_no_boxes() -> None:
    none = boxes_of()
    assert box_iou(none, boxes_of((0, 0, 1, 1))).shape == (0, 1)
    assert nms(none, np.zeros(0, np.float32), 0.5).tolist() == []


def test_nms_by_hand() -> None:
    # IoU of the first two is 90 / 110 = .82; of the first and third 50 / 150 = .33.
    boxes = boxes_of((0, 0, 10, 10), (1, 0, 11, 10), (5, 0, 15, 10))
    scores = np.array([0.5, 0.9, 0.7], np.float32)
    # second and third: 60 / 140 = .43
    assert nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert nms(boxes, scores, 0.4).tolist() == [1]
    assert nms(boxes, scores, 0.4, np.array([1, 1, 2])).tolist() == [1, 2]


def test_nms_keeps_what_meets_the_threshold_and_the_earlier_of_equals() -> None:
    twice = boxes_of((0, 0, 10, 10), (0, 0, 10, 5))  # IoU exactly .5
    equal = np.array([0.5, 0.5], np.float32)
    assert nms(twice, equal, 0.5).tolist() == [0, 1]
    assert nms(twice, equal, 0.49).tolist() == [0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([0.2, 0.5, 0.75]))
def test_agrees_with_torchvision(seed: int, count: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(1, 40, (count, 2))], axis=1)
    boxes, scores = boxes.astype(np.float32), generator.permutation(count).astype(np.float32)
    groups = generator.integers(1, 4, count)
    wanted_iou = ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    assert box_iou(boxes, boxes) == pytest.approx(wanted_iou, abs=1e-5)
    wanted = ops.batched_nms(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        torch.from_numpy(groups),
        threshold,
    )
    assert nms(boxes, scores, threshold, groups).tolist() == wanted.tolist()
