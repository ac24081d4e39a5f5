"""Assigning ground-truth boxes to priors: bipartite first, then by threshold.

Source: the Caffe SSD release (``MatchBBox``): the largest remaining IoU over all boxes and priors is
matched again and again until every box has a prior of its own; then every other prior takes its best
box if their IoU reaches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.losses.matcher import match
from hardmine.types import Assignment, Batch, Priors


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
    corners = cxcywh_to_xyxy(priors.cxcywh)
    real = (batch.labels > 0) & ~batch.ignore  # [B, G]
    found = match(batch.boxes, real, batch.ignore, corners)
    best, box_index, forced, ignorable = found  # [B, A] each
    taken = forced >= 0
    box_index = torch.where(taken, forced, box_index)
    positive = taken | (best >= config.iou_threshold)
    labels = batch.labels.gather(1, box_index) * positive
    ignored = ignorable >= config.iou_threshold
    if config.ignore_above is not None:
        ignored = ignored | (best >= config.ignore_above)
    labels = labels.masked_fill(ignored & ~positive, -1)
    return Assignment(labels, box_index, best)
