"""What a training step minimises and how: a batch's loss, optimiser, learning rate, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo import maybe_mark_dynamic

from hardmine.losses.multibox_loss import Loss, MultiBoxLoss
from hardmine.models.ssd import SSD, Network
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, RawOutput
from hardmine.training.training_log import Telemetry

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
        """Restore the normaliser's moving average."""
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


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up, then cosine to 0 at ``total``."""
    warmup = min(recipe.optim.warmup_steps, total // 4)
    if step < warmup:
        return recipe.optim.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    return recipe.optim.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(model: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with decay on weights only and a smaller rate for the backbone."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = recipe.optim.backbone_lr_scale if name.startswith(model.backbone_prefix) else 1.0
        decay = recipe.optim.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "scale": s, "weight_decay": d} for (s, d), p in groups.items()],
        lr=recipe.optim.lr,
    )


_RAMP = 20


class AveragedWeights:
    """The running average of a network's weights and statistics; decay 0 follows it exactly.

    The decay rises to its value with the updates, ``(1 + n) / (_RAMP + n)`` at most, so that the
    average reaches back a twentieth of the run at most: averaged statistics of norms lag behind
    averaged weights, and in a short training of many new layers that lag alone spoils the result.
    The host counts, so nothing waits for the device. Integer buffers are copied.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.module: Network = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self, model: Network) -> None:
        """Take in the weights after a step; the first are taken whole."""
        n = self._num_updates
        decay = min(self._decay, (1 + n) / (_RAMP + n)) if n else 0.0
        own, new = list(_tensors(self.module)), list(_tensors(model))
        real = [i for i, tensor in enumerate(own) if tensor.is_floating_point()]
        torch._foreach_lerp_([own[i] for i in real], [new[i] for i in real], 1.0 - decay)
        for mine, other in zip(own, new, strict=True):
            if not mine.is_floating_point():
                mine.copy_(other, non_blocking=True)
        self._num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs."""
        return {"num_updates": self._num_updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self._num_updates = state["num_updates"]
        self.module.load_state_dict(state["module"])


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter.detach()
    yield from model.buffers()
