"""Assigning ground-truth boxes to priors: bipartite first, then by threshold.

Source: the Caffe SSD release (``MatchBBox``): the largest remaining IoU over all boxes and priors is
matched again and again until every box has a prior of its own; then every other prior takes its best
box if their IoU reaches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.types import Assignment, Batch, Priors

_LEAST_OVERLAP = 1e-6


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """A prior is positive at IoU >= ``iou_threshold``, ignored from ``ignore_above`` up to it."""

    iou_threshold: float = 0.5
    ignore_above: float | None = None

    def __post_init__(self) -> None:
        low = self.iou_threshold if self.ignore_above is None else self.ignore_above
        if not 0.0 < low <= self.iou_threshold <= 1.0:
            raise ConfigError(
                f"assigner: got iou_threshold {self.iou_threshold}, ignore_above "
                f"{self.ignore_above}, wanted 0 < ignore_above <= iou_threshold <= 1"
            )


@torch.no_grad()
def assign_priors(batch: Batch, priors: Priors, config: AssignerConfig) -> Assignment:
    """Give every prior of every image a class, background or "ignored".

    Two boxes with the same best prior both get one; a box that overlaps no prior gets none (never
    prior 0). A background prior that overlaps an ``ignore`` box by the threshold is ignored.

    Args:
        batch: ``boxes`` [B, G, 4], ``labels`` [B, G] (0 pads), ``ignore`` [B, G].
        priors: [A].
        config: thresholds, inclusive.

    Returns:
        Assignment: labels [B, A], box_index [B, A], iou [B, A] with the best box (0 without boxes).
    """
    iou = box_iou(batch.boxes, cxcywh_to_xyxy(priors.cxcywh))  # [B, G, A]
    real = (batch.labels > 0) & ~batch.ignore  # [B, G]
    overlap = iou * real[..., None]
    best, box_index = overlap.max(1)  # [B, A]
    forced = _bipartite(overlap, real)  # [B, A]: slot of the box, or -1
    taken = forced >= 0
    box_index = torch.where(taken, forced, box_index)
    positive = taken | (best >= config.iou_threshold)
    labels = batch.labels.gather(1, box_index) * positive
    ignored = (iou * batch.ignore[..., None]).amax(1) >= config.iou_threshold
    if config.ignore_above is not None:
        ignored = ignored | (best >= config.ignore_above)
    labels = labels.masked_fill(ignored & ~positive, -1)
    return Assignment(labels, box_index, best)


def _bipartite(overlap: Tensor, real: Tensor) -> Tensor:
    """Return i64[B, A]: the box slot that each prior was given in the greedy matching, or −1."""
    num_images, slots, num_priors = overlap.shape
    rows = torch.arange(num_images, device=overlap.device)
    given = overlap.new_full((num_images, num_priors), -1, dtype=torch.int64)
    left = overlap.masked_fill(~real[..., None], 0.0).clone()
    for _ in range(slots):
        top, flat = left.view(num_images, -1).max(1)  # [B]
        box, prior = flat // num_priors, flat % num_priors
        found = top > _LEAST_OVERLAP
        given[rows, prior] = torch.where(found, box, given[rows, prior])
        left[rows, box] = torch.where(found[:, None], 0.0, left[rows, box])
        left[rows, :, prior] = torch.where(found[:, None], 0.0, left[rows, :, prior])
    return given
