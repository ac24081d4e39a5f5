"""From raw output to sums of losses, by two ways that give the same.

On the CPU what enters the loss is gathered first: gradients are computed for the few selected priors
alone, and the hardness of all the others without a graph, in pieces that fit the cache. On an
accelerator and inside a compiled graph everything has the shape of all priors and is masked, so that
no value is read by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.losses import kernels as gathered_ops
from hardmine.losses.kernels import background_op, box_sums_op, sums_op
from hardmine.losses.loss_functions import (
    ClassificationConfig,
    FocalConfig,
    LocalisationConfig,
    SmoothL1Config,
    SoftmaxConfig,
    background_loss,
    box_loss,
    class_loss,
    exact,
)
from hardmine.losses.negative_mining import HardExamplesConfig, RatioConfig, SelectionConfig
from hardmine.losses.normalizers import Sums
from hardmine.losses.rules import RankedPriors
from hardmine.models.box_coder import decode_boxes
from hardmine.types import Assignment, Batch, Priors, RawOutput, Selection


class Parts(Protocol):
    """What of a ``LossConfig`` is needed here."""

    @property
    def selection(self) -> SelectionConfig: ...  # noqa: D102
    @property
    def classification(self) -> ClassificationConfig: ...  # noqa: D102
    @property
    def localisation(self) -> LocalisationConfig: ...  # noqa: D102
    @property
    def box_weight(self) -> float: ...  # noqa: D102


def gathers_rows(logits: Tensor, config: ClassificationConfig) -> bool:
    """Return whether the selected rows are gathered (CPU) or all rows are masked.

    In a compiled graph only softmax has operators that gather.
    """
    if logits.device.type != "cpu":
        return False
    return not torch.compiler.is_compiling() or isinstance(config, SoftmaxConfig)


@torch.no_grad()
def look_at(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    priors: Priors,
    config: Parts,
    costs: Tensor | None,
) -> RankedPriors:
    """Compute what the configured rule chooses by; ``costs`` are the classification losses f32[B, A]
    of all priors when they are known.
    """
    rule, logits, labels = config.selection, output.class_logits, assignment.labels
    if costs is None or isinstance(config.classification, FocalConfig):
        background = _background(logits, config.classification)
    else:
        background = costs.detach()  # equal on every background prior, and no other is asked for
    ranked, boxes = background, None
    if isinstance(rule, RatioConfig | HardExamplesConfig):
        if rule.rank in ("class", "both"):
            ranked = _class_losses(logits, labels, config.classification, costs)
        if rule.rank in ("localisation", "both"):
            matched = labels > 0
            near = matched if isinstance(rule, HardExamplesConfig) else assignment.iou > 0
            away = _box_losses(output, batch, assignment, near | matched, priors, config)
            ranked = away if rule.rank == "localisation" else ranked + config.box_weight * away
        if rule.nms_iou is not None:
            boxes = decode_boxes(output.box_deltas.detach().float(), priors.cxcywh)
    return RankedPriors(
        assignment,
        background,
        ranked,
        priors.level,
        len(priors.level_shapes),
        batch.image_ids,
        boxes,
    )


def sum_rows(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: Parts,
) -> Sums:
    """Return each image's sums from the selected priors alone (reads values: for the CPU)."""
    if torch.compiler.is_compiling():
        chosen = selection.positives | selection.negatives
        classes = sums_op(exact(output.class_logits), assignment.labels, chosen)
        if not isinstance(config.localisation, SmoothL1Config):
            return _with_boxes(classes, output, batch, assignment, selection, priors, config)
        away, _ = box_sums_op(
            exact(output.box_deltas),
            batch.boxes,
            assignment.box_index,
            selection.positives,
            priors.cxcywh,
            config.localisation.delta,
        )
        positives, negatives = selection.positives.sum(1), selection.negatives.sum(1)
        return Sums(classes, away, positives, negatives)
    num_images, num_priors = assignment.labels.shape
    rows = (selection.positives | selection.negatives).flatten().nonzero()[:, 0]
    logits = output.class_logits.flatten(0, 1).index_select(0, rows)
    losses = class_loss(logits, assignment.labels.flatten()[rows], config.classification)
    zeros = losses.new_zeros(num_images)
    classification = zeros.index_add(0, rows // num_priors, losses)
    rows = selection.positives.flatten().nonzero()[:, 0]
    image, prior = rows // num_priors, rows % num_priors
    deltas = output.box_deltas.flatten(0, 1).index_select(0, rows)
    boxes = batch.boxes[image, assignment.box_index.flatten()[rows]]
    losses = box_loss(deltas, boxes, priors.cxcywh[prior], config.localisation)
    localisation = zeros.to(losses.dtype).index_add(0, image, losses)
    positives = selection.positives.sum(1)
    return Sums(classification, localisation, positives, selection.negatives.sum(1))


def sum_masked(
    costs: Tensor,
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: Parts,
) -> Sums:
    """Return each image's sums by masking the losses of all priors (fixed shapes)."""
    chosen = selection.positives | selection.negatives
    classes = costs.masked_fill(~chosen, 0.0).sum(1)
    return _with_boxes(classes, output, batch, assignment, selection, priors, config)


def _with_boxes(
    classification: Tensor,
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    selection: Selection,
    priors: Priors,
    config: Parts,
) -> Sums:
    positives, negatives = selection.positives, selection.negatives
    losses = _box_losses(output, batch, assignment, positives, priors, config)
    return Sums(classification, losses.sum(1), positives.sum(1), negatives.sum(1))


def _box_losses(
    output: RawOutput,
    batch: Batch,
    assignment: Assignment,
    where: Tensor,
    priors: Priors,
    config: Parts,
) -> Tensor:
    """Return f32[B, A]: the localisation loss against each prior's box, 0 outside ``where``.

    Outside, the prior itself stands in for the box: a padded slot would code to ln 0.
    """
    boxes = batch.boxes.gather(1, assignment.box_index[..., None].expand(-1, -1, 4))
    safe = torch.where(where[..., None], boxes, cxcywh_to_xyxy(priors.cxcywh))
    losses = box_loss(output.box_deltas, safe, priors.cxcywh, config.localisation)
    return losses.masked_fill(~where, 0.0)


def _background(logits: Tensor, config: ClassificationConfig) -> Tensor:
    on_cpu = logits.device.type == "cpu"
    if on_cpu and torch.compiler.is_compiling() and isinstance(config, SoftmaxConfig):
        background: Tensor = background_op(exact(logits))
        return background
    return _in_pieces(lambda x, _: background_loss(x, config), logits)


def _class_losses(
    logits: Tensor, labels: Tensor, config: ClassificationConfig, costs: Tensor | None
) -> Tensor:
    if costs is not None:
        return costs.detach()
    return _in_pieces(lambda x, y: class_loss(x, y, config), logits, labels)


def _in_pieces(
    function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Return ``function`` of each prior's logits and label, f32[B, A]; on the CPU piece by piece."""
    shape = logits.shape[:-1]
    rows = logits.detach().reshape(-1, logits.shape[-1])
    codes = rows[:, 0] if labels is None else labels.reshape(-1)
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return function(rows, codes).view(shape)
    size = max(1, gathered_ops.PIECE // logits.shape[-1])
    pieces = [slice(start, start + size) for start in range(0, len(rows), size)]
    return torch.cat([function(rows[piece], codes[piece]) for piece in pieces]).view(shape)
