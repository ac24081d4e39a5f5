"""What a training step minimises: one call from a network and a batch to a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._dynamo import maybe_mark_dynamic

from hardmine.losses.multibox_loss import Loss, MultiBoxLoss
from hardmine.models.network import Network
from hardmine.models.ssd import SSD
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, RawOutput
from hardmine.training.telemetry import Telemetry

UNKNOWN = -1
"""A count that a network does not give."""


class Objective(Protocol):
    """The loss of a network on a batch; ``network`` may be wrapped for several processes."""

    state: Tensor | None
    """What it carries from step to step, saved with a run."""

    def __call__(  # noqa: D102
        self, network: Callable[..., Any], batch: Batch, step: int = 0, steps: int = 1
    ) -> Loss: ...


def make_objective(
    model: Network,
    recipe: Recipe,
    *,
    bf16: bool,
    seed: int = 0,
    telemetry: Telemetry | None = None,
) -> Objective:
    """Return what ``model`` is trained with: the recipe's loss (compiled where the recipe says so), or
    torchvision's own.

    Args:
        bf16: run the network under autocast; the loss is in float32 either way.
        seed: of selection rules that draw priors at random.
        telemetry: looks at each loss over priors; torchvision's own losses show it nothing.
    """
    if isinstance(model, SSD):
        loss = MultiBoxLoss(recipe.loss, model.priors, seed)
        return PriorObjective(loss, bf16, recipe.compile, telemetry)
    return TorchvisionObjective(bf16)


class PriorObjective:
    """The multibox loss over the priors of an SSD."""

    def __init__(
        self,
        loss: MultiBoxLoss,
        bf16: bool,
        compiled: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._loss, self._telemetry = loss, telemetry
        self._compiled = torch.compile(loss.__call__) if compiled else None
        self._bf16 = bf16

    @property
    def state(self) -> Tensor | None:
        """The normaliser's moving average, when there is one."""
        return self._loss.normaliser.average

    @state.setter
    def state(self, value: Tensor | None) -> None:
        self._loss.normaliser.average = value

    def __call__(
        self, network: Callable[..., Any], batch: Batch, step: int = 0, steps: int = 1
    ) -> Loss:
        """Return the loss at ``step`` of ``steps``."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self._bf16):
            output = network(batch.images)
        loss = self._measure(output, batch, step, steps)
        if self._telemetry is not None:
            self._telemetry.watch(output, batch, loss)
        return loss

    def _measure(self, output: RawOutput, batch: Batch, step: int, steps: int) -> Loss:
        if self._compiled is None:
            return self._loss(output, batch, step, steps)
        for part in (batch.boxes, batch.labels, batch.ignore):
            maybe_mark_dynamic(part, 1)  # the largest number of boxes changes from batch to batch
        loss: Loss = self._compiled(output, batch, step, steps)
        return loss


class TorchvisionObjective:
    """The sum of the losses that one of torchvision's detectors computes itself.

    How many anchors it chose is not known: the counts are ``UNKNOWN``.
    """

    state: Tensor | None = None

    def __init__(self, bf16: bool) -> None:
        self._bf16 = bf16

    def __call__(
        self, network: Callable[..., Any], batch: Batch, step: int = 0, steps: int = 1
    ) -> Loss:
        """Return the loss."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self._bf16):
            losses: dict[str, Tensor] = network(batch.images, make_targets(batch))
        parts = {name: loss.float() for name, loss in losses.items()}
        boxes = [loss for name, loss in parts.items() if "box" in name]
        others = [loss for name, loss in parts.items() if "box" not in name]
        zero = torch.zeros((), device=batch.images.device)
        localisation, rest = sum(boxes, zero), sum(others, zero)
        count = torch.full((), UNKNOWN)
        return Loss(localisation + rest, rest.detach(), localisation.detach(), count, count)


def make_targets(batch: Batch) -> list[dict[str, Tensor]]:
    """Return each image's boxes and labels as torchvision wants them.

    An image without objects has boxes of shape (0, 4), never a made-up one. Boxes to be ignored are
    left out, and so are those without area, which torchvision refuses.
    """
    has_area = (batch.boxes[..., 2:] > batch.boxes[..., :2]).all(-1)
    keep = (batch.labels > 0) & ~batch.ignore & has_area
    rows = zip(batch.boxes, batch.labels, keep, strict=True)
    return [{"boxes": boxes[k], "labels": labels[k]} for boxes, labels, k in rows]
