"""Box arithmetic on tensors. Boxes are xyxy float pixels unless the name says otherwise."""

from __future__ import annotations

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Return centre, width and height of ``boxes`` (Tensor[..., 4], xyxy)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return _cat((low + high) * 0.5, high - low)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Return the corners of ``boxes_cxcywh`` (Tensor[..., 4])."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] * 0.5
    return _cat(centre - half, centre + half)


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of ``boxes`` (Tensor[..., 4], xyxy) in square pixels; inverted boxes give 0."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every pair.

    Args:
        a (Tensor[..., N, 4]): xyxy.
        b (Tensor[..., M, 4]): xyxy, same leading dimensions (or broadcastable).

    Returns:
        Tensor[..., N, M] in [0, 1]; two boxes without area have IoU 0, never NaN.
    """
    intersection = _intersection(a, b)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection
    return intersection / union.clamp(min=1e-9)


def box_share(a: Tensor, b: Tensor) -> Tensor:
    """Return which share of each box of ``b`` lies inside each box of ``a``.

    Args:
        a (Tensor[..., N, 4]): xyxy.
        b (Tensor[..., M, 4]): xyxy, same leading dimensions (or broadcastable).

    Returns:
        Tensor[..., N, M] in [0, 1]; 0 for a box without area.
    """
    return _intersection(a, b) / box_area(b)[..., None, :].clamp(min=1e-9)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    low = a[..., :, None, :2].maximum(b[..., None, :, :2])
    high = a[..., :, None, 2:].minimum(b[..., None, :, 2:])
    size = (high - low).clamp(min=0)  # [..., N, M, 2]
    return size[..., 0] * size[..., 1]


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """Return ``boxes`` (Tensor[..., 4], xyxy) limited to a canvas of ``height`` × ``width`` pixels."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return _cat(x[..., :1], y[..., :1], x[..., 1:], y[..., 1:])


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=-1)
