"""The SSD loss: softmax cross-entropy over the selected priors, smooth L1 over the positives.

What the sums are divided by decides how much a negative image teaches:

* Divided by the number of positives, as in the paper, a batch without objects has no scale: with
  N = max(1, 0) its loss is hundreds of times too large, and with N = 0 it is nothing.
* Divided by the number selected, a mixed batch shrinks as negatives join it.

Here the classification sum is divided by ``selected / (1 + ratio)``. In a batch in which every image
holds objects and the floor does not bind this *is* the number of positives; in a batch without any,
it is the number of positives that would have asked for as many negatives. The localisation sum is
divided by the number of positives.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.model.coder import encode_boxes
from hardmine.training.assign import AssignerConfig, assign_priors
from hardmine.training.select import RatioConfig, select_negatives
from hardmine.types import Assignment, Batch, Priors, RawOutput, Selection


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The parts of the loss and their weights."""

    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    selection: RatioConfig = field(default_factory=RatioConfig)
    box_weight: float = 1.0
    smooth_l1_delta: float = 1.0

    def __post_init__(self) -> None:
        if self.box_weight < 0 or self.smooth_l1_delta <= 0:
            raise ConfigError(
                f"loss: got box_weight {self.box_weight}, smooth_l1_delta "
                f"{self.smooth_l1_delta}, wanted >= 0 and > 0"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A step's loss (scalars; ``total`` carries the gradient) and the counts behind it."""

    total: Tensor
    classification: Tensor
    localisation: Tensor
    num_positives: Tensor
    num_negatives: Tensor


class MultiBoxLoss:
    """Assign, select, and weigh; every part is a function of its own that can be called alone."""

    def __init__(self, config: LossConfig, priors: Priors) -> None:
        self.config = config
        self.priors = priors

    def __call__(self, output: RawOutput, batch: Batch) -> Loss:
        """Return the loss of a batch (``batch.boxes`` in the priors' pixels)."""
        assignment = assign_priors(batch, self.priors, self.config.assigner)
        ce = cross_entropy(output.class_logits, assignment)
        selection = select_negatives(ce.detach(), assignment, self.config.selection)
        return self._reduce(ce, output.box_deltas, batch, assignment, selection)

    def _reduce(
        self,
        ce: Tensor,
        deltas: Tensor,
        batch: Batch,
        assignment: Assignment,
        selection: Selection,
    ) -> Loss:
        positives, negatives = selection.positives.sum(), selection.negatives.sum()
        chosen = selection.positives | selection.negatives
        all_positives, all_negatives, world = _over_ranks(positives, negatives)
        selected = (all_positives + all_negatives) / (1.0 + self.config.selection.neg_to_pos_ratio)
        classification = ce.masked_fill(~chosen, 0.0).sum() / selected.clamp(min=1.0) * world
        boxes = batch.boxes.gather(1, assignment.box_index[..., None].expand(-1, -1, 4))
        # Rows without a box would code to ln 0; they are masked, so any finite value will do.
        safe = torch.where(selection.positives[..., None], boxes, boxes.new_tensor([0, 0, 1, 1]))
        target = encode_boxes(safe, self.priors.cxcywh)
        distance = F.smooth_l1_loss(
            deltas, target, reduction="none", beta=self.config.smooth_l1_delta
        )
        box_sum = distance.masked_fill(~selection.positives[..., None], 0.0).sum()
        localisation = box_sum / all_positives.clamp(min=1) * world
        total = classification + self.config.box_weight * localisation
        return Loss(total, classification.detach(), localisation.detach(), positives, negatives)


def _over_ranks(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return both counts summed over all processes, and the number of processes.

    Gradients are averaged over processes, so a sum divided by the joint count has to be multiplied by
    their number to give the joint batch's gradient.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return positives, negatives, 1
    counts = torch.stack([positives, negatives])
    dist.all_reduce(counts)
    return counts[0], counts[1], dist.get_world_size()


def cross_entropy(class_logits: Tensor, assignment: Assignment) -> Tensor:
    """Return each prior's cross-entropy f32[B, A], nats, from logits; ignored priors give 0."""
    labels = assignment.labels
    flat = F.cross_entropy(
        class_logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
    )
    return flat.view_as(labels)
