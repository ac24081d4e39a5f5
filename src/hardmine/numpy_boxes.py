"""Box arithmetic on numpy arrays; ``boxes.py`` has the same on tensors. Boxes are xyxy float pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def box_area(boxes: F32 | F64) -> F64:
    """Return the area of each box (f[N, 4]) in square pixels, f64[N]; inverted boxes give 0."""
    size = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0.0)
    area: F64 = size[:, 0] * size[:, 1]
    return area


def box_intersection(a: F32 | F64, b: F32 | F64) -> F64:
    """Return the shared area of every pair of ``a`` (f[N, 4]) and ``b`` (f[M, 4]), f64[N, M]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    size = np.maximum(size, 0.0)  # [N, M, 2]
    shared: F64 = size[..., 0] * size[..., 1]
    return shared


def box_iou(a: F32 | F64, b: F32 | F64) -> F64:
    """Return the intersection over union of every pair.

    Args:
        a (f[N, 4]): xyxy.
        b (f[M, 4]): xyxy.

    Returns:
        f64[N, M] in [0, 1]; two boxes without area have IoU 0, never NaN.
    """
    shared = box_intersection(a, b)
    return divide_area(shared, box_area(a)[:, None] + box_area(b)[None, :] - shared)


def divide_area(part: F64, whole: F64) -> F64:
    """Return ``part / whole``, 0 where ``whole`` is no area."""
    share: F64 = np.zeros(part.shape)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def nms(boxes: F32, scores: F32, iou_threshold: float, groups: I64 | None = None) -> I64:
    """Return the positions of the boxes that remain after non-maximum suppression, best first.

    A box is removed when its IoU with a better one *exceeds* the threshold, as in torchvision. Of
    equal scores the earlier box is the better one.

    Args:
        boxes (f32[K, 4]): xyxy.
        scores (f32[K]): any order.
        groups (i64[K]): boxes of different groups (classes) do not suppress each other.
    """
    alive = np.ones(len(scores), np.bool_)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if not alive[index]:
            continue
        kept.append(index)
        rivals = box_iou(boxes[index : index + 1], boxes)[0] > iou_threshold
        alive &= ~(rivals if groups is None else rivals & (groups == groups[index]))
    return np.array(kept, np.int64)
