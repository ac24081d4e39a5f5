"""Non-maximum suppression of many groups of boxes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hardmine.boxes import box_iou
from hardmine.models.postprocess import Candidates

_PACK = 512
"""Boxes that are compared with each other in one call on the CPU; see ``benchmarks.decode``."""


def batched_nms(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Return the indices of the boxes that no better one of their group overlaps by more than ``iou``.

    Args:
        boxes (Tensor[M, 4]): xyxy pixels.
        scores (Tensor[M]): higher is better; of equal ones the earlier box is the better.
        group (Tensor[M]): i64, such as a number for each (image, class).
        iou: a box goes when its IoU is above this.

    Returns:
        Tensor[K]: ascending indices.
    """
    from torchvision.ops import nms

    if not len(boxes):
        return group
    order = group.argsort(stable=True)
    group = group[order]
    boxes, scores = _move_apart(boxes[order], group), scores[order].double()
    parts = [slice(None)] if boxes.is_cuda else _pack(group)
    return torch.sort(torch.cat([order[p][nms(boxes[p], scores[p], iou)] for p in parts])).values


def _move_apart(boxes: Tensor, group: Tensor) -> Tensor:
    """Return f64[M, 4] where boxes of different groups cannot overlap.

    In float32, whose step is 1/16 px at 10⁶ px, boxes of the last groups would be rounded, and with
    them their overlaps.
    """
    side = (boxes.max() - boxes.min() + 1.0).ceil()
    return boxes.double() + (group.double() * side.double())[:, None]


def _pack(group: Tensor) -> list[slice]:
    """Return runs of whole groups (i64[M], sorted) of about ``_PACK`` boxes.

    One call for each group costs more than its boxes do; one for all compares each box with every other.
    """
    _, counts = torch.unique_consecutive(group, return_counts=True)
    parts, start, end = [], 0, 0
    for count in counts.tolist():
        if end > start and end - start + count > _PACK:
            parts.append(slice(start, end))
            start = end
        end += count
    return [*parts, slice(start, end)]


@dataclass(frozen=True, slots=True)
class SoftNms:
    """How overlap lowers a score; ``score_threshold`` is inclusive."""

    method: Literal["linear", "gaussian"]
    sigma: float
    iou: float
    score_threshold: float

    def decay(self, overlap: Tensor) -> Tensor:
        """Return the factor of each score for its IoU with the box just taken."""
        if self.method == "gaussian":
            return torch.exp(-overlap.square() / self.sigma)
        return torch.where(overlap >= self.iou, 1.0 - overlap, 1.0)


def suppress_softly(found: Candidates, how: SoftNms, count: int) -> Candidates:
    """Take the best box of each group in turn, ``count`` times at most, and lower the others' scores.

    All groups go together, one step for all of them.

    Returns:
        Candidates: with their lowered scores, in their old order.
    """
    if not len(found.scores):
        return found
    order = found.group.argsort(stable=True)
    _, counts = torch.unique_consecutive(found.group[order], return_counts=True)
    inside = torch.arange(int(counts.max()), device=order.device) < counts[:, None]  # [G, K]
    boxes = found.boxes.new_zeros((*inside.shape, 4))
    waiting = torch.full(inside.shape, -1.0, device=order.device)
    boxes[inside], waiting[inside] = found.boxes[order], found.scores[order]
    final = torch.full_like(waiting, -1.0)
    for _ in range(min(count, inside.shape[1])):
        score, best = waiting.max(1, keepdim=True)  # [G, 1]
        takes = score >= how.score_threshold  # false in a group that has nothing left
        if not bool(takes.any()):
            break
        final.scatter_(1, best, torch.where(takes, score, final.gather(1, best)))
        taken = boxes.gather(1, best[..., None].expand(-1, -1, 4))  # [G, 1, 4]
        lowered = waiting * how.decay(box_iou(taken, boxes)[:, 0])
        waiting = torch.where(waiting >= 0, lowered, waiting)
        waiting.scatter_(1, best, -1.0)
    scores = torch.empty_like(found.scores)
    scores[order] = final[inside]
    kept = (scores >= how.score_threshold).nonzero()[:, 0]
    return replace(found, scores=scores).take(kept)
