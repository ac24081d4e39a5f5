"""Small batches, outputs and the slow per-element oracles of assignment, selection and loss."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.boxes import xyxy_to_cxcywh
from hardmine.losses.negative_mining import RankedPriors
from hardmine.tensors import Assignment, Batch, Priors, RawOutput, ScoreForm

ROW = Priors(
    torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [25, 5, 10, 10], [35, 5, 10, 10]]),
    torch.zeros(4, dtype=torch.int64),
    ((1, 4),),
)
"""Four priors of 10 x 10 px side by side."""


def make_priors(boxes: list[list[float]]) -> Priors:
    """Return priors with the given corners, on one level."""
    cxcywh = xyxy_to_cxcywh(torch.tensor(boxes))
    return Priors(cxcywh, torch.zeros(len(boxes), dtype=torch.int64), ((1, len(boxes)),))


def make_batch(
    boxes: list[list[list[float]]], labels: list[list[int]], ignore: list[list[bool]] | None = None
) -> Batch:
    """Return a padded batch without pixels."""
    slots = max(1, *(len(row) for row in boxes))
    padded = torch.zeros(len(boxes), slots, 4)
    codes = torch.zeros(len(boxes), slots, dtype=torch.int64)
    skip = torch.zeros(len(boxes), slots, dtype=torch.bool)
    for i, row in enumerate(boxes):
        if row:
            padded[i, : len(row)] = torch.tensor(row)
            codes[i, : len(row)] = torch.tensor(labels[i])
            if ignore:
                skip[i, : len(row)] = torch.tensor(ignore[i])
    images = torch.zeros(len(boxes), 3, 1, 1, dtype=torch.uint8)
    return Batch(images, padded, codes, skip, torch.arange(len(boxes)))


def batch_of(boxes: list[list[float]], labels: list[int]) -> Batch:
    """Return one box an image; label 0 is an image without objects."""
    rows = [[box] if label else [] for box, label in zip(boxes, labels, strict=True)]
    return make_batch(rows, [[label] if label else [] for label in labels])


def random_world(
    seed: int,
    images: int = 4,
    priors: int = 60,
    classes: int = 3,
    slots: int = 5,
    form: ScoreForm = ScoreForm.SOFTMAX,
    dtype: torch.dtype = torch.float32,
) -> tuple[Priors, Batch, RawOutput]:
    """Return random priors on three levels, boxes (the last image has none) and outputs."""
    g = torch.Generator().manual_seed(seed)
    cxcywh = torch.cat([torch.rand(priors, 2, generator=g) * 80 + 10,
                        torch.rand(priors, 2, generator=g) * 30 + 10], 1)  # fmt: skip
    level = torch.arange(priors) * 3 // priors
    labels = torch.randint(1, classes + 1, (images, slots), generator=g)
    labels *= torch.rand(images, slots, generator=g) < 0.6
    labels[-1] = 0
    ignore = (torch.rand(images, slots, generator=g) < 0.2) & (labels > 0)
    low = torch.rand(images, slots, 2, generator=g) * 70
    boxes = torch.cat([low, low + torch.rand(images, slots, 2, generator=g) * 35 + 5], -1)
    pixels = torch.zeros(images, 3, 1, 1, dtype=torch.uint8)
    width = classes + (form is ScoreForm.SOFTMAX)
    logits = torch.randn(images, priors, width, generator=g, dtype=dtype) * 2
    deltas = torch.randn(images, priors, 4, generator=g, dtype=dtype)
    shapes = ((1, priors),) * 3
    return (
        Priors(cxcywh, level, shapes),
        Batch(pixels, boxes, labels, ignore, torch.arange(images) + 7),
        RawOutput(logits, deltas, form),
    )


def candidates_of(
    labels: Tensor,
    background: Tensor,
    *,
    rank: Tensor | None = None,
    iou: Tensor | None = None,
    level: Tensor | None = None,
    boxes: Tensor | None = None,
    step: int = 0,
    steps: int = 1,
) -> RankedPriors:
    """Return what a rule sees, with everything that a test does not care about filled in."""
    overlap = torch.zeros(labels.shape) if iou is None else iou
    level = torch.zeros(labels.shape[1], dtype=torch.int64) if level is None else level
    return RankedPriors(
        Assignment(labels, torch.zeros_like(labels), overlap),
        background,
        background if rank is None else rank,
        level,
        int(level.max()) + 1,
        torch.arange(len(labels)),
        boxes,
        step,
        steps,
    )
