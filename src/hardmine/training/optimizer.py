"""Optimiser, learning rate and averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hardmine.models.network import Network
from hardmine.recipes.recipe import Recipe


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
