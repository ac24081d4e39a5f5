"""Optimiser, learning rate and averaged weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hardmine.model.ssd import SSD
from hardmine.training.recipe import Recipe


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up, then cosine to 0 at ``total``."""
    warmup = min(recipe.optim.warmup_steps, total // 4)
    if step < warmup:
        return recipe.optim.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    return recipe.optim.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(model: SSD, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with decay on weights only and a smaller rate for the backbone."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = recipe.optim.backbone_lr_scale if name.startswith("backbone.") else 1.0
        decay = recipe.optim.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "scale": s, "weight_decay": d} for (s, d), p in groups.items()],
        lr=recipe.optim.lr,
    )


def average_weights(model: SSD, decay: float) -> AveragedModel:
    """Return the running average of a model's weights and statistics; decay 0 follows it exactly."""
    average = cast(Any, get_ema_multi_avg_fn)(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
