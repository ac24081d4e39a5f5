"""Greedy non-maximum suppression inside the miner: one false alarm counts once."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.boxes import box_iou


def suppress_negatives(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    """Return which of the ``candidates`` best-scored eligible priors survive greedy NMS.

    A prior falls when its box overlaps that of a better survivor by more than ``nms_iou``; of equal
    scores the lower index counts as better. Shapes are fixed: the loop runs over the candidates, for
    all images at once.

    Args:
        boxes (Tensor[B, A, 4]): xyxy pixels.
        score (Tensor[B, A]): any float.
        eligible (Tensor[B, A]): bool.
        nms_iou, candidates: limits.

    Returns:
        Tensor[B, A]: bool.
    """
    if torch.compiler.is_compiling():
        kept: Tensor = _suppress_op(boxes, score, eligible, nms_iou, candidates)
        return kept
    return _suppress(boxes, score, eligible, nms_iou, candidates)


def _suppress(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    ranked = score.nan_to_num(torch.inf).masked_fill(~eligible, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)[:, :candidates]  # [B, K]
    kept = eligible.gather(1, order)
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    falls = box_iou(chosen, chosen) > nms_iou  # [B, K, K]: row overlaps column
    for row in range(order.shape[1]):
        kept[:, row + 1 :] &= ~(falls[:, row, row + 1 :] & kept[:, row, None])
    return torch.zeros_like(eligible).scatter_(1, order, kept)


@torch.library.custom_op("hardmine::suppress", mutates_args=())
def _suppress_op(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    """One node of a compiled graph, so that the loop over candidates is not unrolled."""
    return _suppress(boxes, score, eligible, nms_iou, candidates)


@_suppress_op.register_fake
def _(boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int) -> Tensor:
    return torch.empty_like(eligible)
