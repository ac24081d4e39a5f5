"""How many priors the training's own assignment gives each box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.numpy_boxes import box_iou
from hardmine.prior_design.canvas_boxes import CanvasBoxes
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.prior_design.prior_overlap import BestPrior
from hardmine.types import F64, I64, Batch, Mask

LEAST_OVERLAP = 1e-6
"""IoU below which the bipartite match gives a box nothing."""

_PAIRS_AT_ONCE = 1_000_000
_ABOUT = 1.0 + 1e-6


def count_assigned(
    boxes: CanvasBoxes, layout: PriorLayout, best: BestPrior, reaching: I64, threshold: float
) -> I64:
    """Return i64[N]: the positives of each box after the assignment.

    A box that competes with no other gets all priors that reach it, or else its best one. Only boxes
    that do compete go through ``assign_priors``, with those that they compete with.

    Args:
        boxes: of all images.
        best: of each box.
        reaching: i64[N], priors that reach the threshold with each box.
        threshold: IoU, inclusive.
    """
    counts = np.where(reaching > 0, reaching, (best.iou > LEAST_OVERLAP).astype(np.int64))
    centres = layout.to_priors().cxcywh.double().numpy()[best.index]
    corners = np.concatenate(
        [centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2], axis=1
    )
    rivals: list[I64] = []
    for rows in _groups(boxes.image):
        if len(rows) < 2:
            continue
        if threshold < 0.5 or len(np.unique(best.index[rows])) < len(rows):
            rivals.append(rows)  # several want one prior: who loses it may take it from any other
        else:
            edges = _compete(boxes.boxes[rows], corners[rows], reaching[rows] > 0, threshold)
            rivals += [rows[part] for part in _components(edges)]
    _assign(boxes, rivals, layout, threshold, counts)
    return counts


def _compete(boxes: F64, best_priors: F64, reached: Mask, threshold: float) -> Mask:
    """Return bool[G, G]: which boxes of an image may want the same prior.

    Two boxes that both reach .5 with one prior touch, and differ in area by a factor of 4 at most.
    Any other prior wanted by two is the best one of a box that none reaches, taken from a box that
    reaches it.
    """
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alike = area[:, None] <= 4.0 * _ABOUT * area
    edges = (high >= low).all(axis=-1) & alike & alike.T & reached & reached[:, None]
    if not reached.all():
        lost = ~reached[:, None] & (box_iou(best_priors, boxes) * _ABOUT >= threshold)
        edges |= lost | lost.T
    np.fill_diagonal(edges, False)
    return np.asarray(edges)


def _components(edges: Mask) -> list[I64]:
    """Return the connected parts of a graph that have more than one member."""
    waiting = set(np.flatnonzero(edges.any(axis=1)).tolist())
    parts = []
    while waiting:
        part, front = set(), {min(waiting)}
        while front:
            part |= front
            front = set(np.flatnonzero(edges[list(front)].any(axis=0)).tolist()) - part
        waiting -= part
        parts.append(np.array(sorted(part), np.int64))
    return parts


def _groups(image: I64) -> list[I64]:
    """Return the rows of each image; ``image`` is ascending."""
    starts = np.flatnonzero(np.diff(image, prepend=-1))
    return np.split(np.arange(len(image)), starts[1:]) if len(image) else []


def _assign(
    boxes: CanvasBoxes, groups: list[I64], layout: PriorLayout, threshold: float, counts: I64
) -> None:
    """Run the training's assignment over groups of rows, and write each row's positives."""
    priors, config = layout.to_priors(), AssignerConfig(iou_threshold=threshold)
    groups = sorted(groups, key=len)
    while groups:
        slots = len(groups[-1])
        together = max(1, _PAIRS_AT_ONCE // (slots * layout.count))
        chosen, groups = groups[-together:], groups[:-together]
        found = assign_priors(as_batch(boxes, chosen, slots), priors, config)
        for row, members in enumerate(chosen):
            positive = found.box_index[row][found.labels[row] > 0].numpy()
            counts[members] = np.bincount(positive, minlength=slots)[: len(members)]


def as_batch(boxes: CanvasBoxes, groups: Sequence[I64], slots: int) -> Batch:
    """Return boxes as a batch of images without pixels: group k is image k, padded to ``slots``."""
    batch = Batch(
        torch.zeros(len(groups), 3, 1, 1, dtype=torch.uint8),
        torch.zeros(len(groups), slots, 4),
        torch.zeros(len(groups), slots, dtype=torch.int64),
        torch.zeros(len(groups), slots, dtype=torch.bool),
        torch.arange(len(groups)),
    )
    for row, members in enumerate(groups):
        batch.boxes[row, : len(members)] = torch.from_numpy(boxes.boxes[members]).float()
        batch.labels[row, : len(members)] = torch.from_numpy(boxes.labels[members])
    return batch
