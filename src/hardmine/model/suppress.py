"""Non-maximum suppression of many groups of boxes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hardmine.boxes import box_iou
from hardmine.model.candidates import Candidates


def suppress(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Return the indices of the boxes that no better one of their group overlaps by more than ``iou``.

    Args:
        boxes (Tensor[M, 4]): xyxy pixels.
        scores (Tensor[M]): higher is better; of equal ones the earlier box is the better.
        group (Tensor[M]): i64, such as a number for each (image, class).
        iou: a box goes when its IoU is above this.

    Returns:
        Tensor[K]: ascending indices.
    """
    if boxes.device.type == "cuda":
        return _suppress_at_once(boxes, scores, group, iou)
    return _suppress_by_group(boxes, scores, group, iou)


def _suppress_at_once(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Move the groups apart so that no two of them overlap, and run once.

    In double precision: in float32, whose step is 1/16 px at 10⁶ px, boxes of the last groups would be
    rounded, and with them their overlaps.
    """
    from torchvision.ops import nms

    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    apart = (boxes.max() - boxes.min() + 1.0).ceil()
    moved = boxes.double() + (group.double() * apart.double())[:, None]
    return torch.sort(nms(moved, scores.double(), iou)).values


def _suppress_by_group(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Run once for each group that has more than one box."""
    from torchvision.ops import nms

    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64)
    order = group.argsort(stable=True)
    _, counts = torch.unique_consecutive(group[order], return_counts=True)
    boxes, scores = boxes[order], scores[order]
    kept, start = [], 0
    for size in counts.tolist():
        if size == 1:
            kept.append(order[start : start + 1])
        else:
            part = slice(start, start + size)
            kept.append(order[part][nms(boxes[part], scores[part], iou)])
        start += size
    return torch.sort(torch.cat(kept)).values


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
