"""A network small enough for any test, with scores spread over [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import torch

from hardmine.detect.checkpoint import TorchDetector
from hardmine.model.head import HeadConfig
from hardmine.model.init import NormalInit
from hardmine.model.neck import ExtraLayersConfig
from hardmine.model.small_net import SmallNetConfig
from hardmine.model.ssd import SSD, SSDConfig
from hardmine.training.recipe import Recipe

SIDE = 32


def tiny_recipe() -> Recipe:
    """Return a recipe of one convolution a stage, two levels, 32 × 32 px."""
    return replace(
        Recipe(),
        model=SSDConfig(
            name="tiny",
            height=SIDE,
            width=SIDE,
            backbone=SmallNetConfig(widths=(8, 12), depths=(1, 1), num_taps=1),
            neck=ExtraLayersConfig(widths=(16,), depthwise=False),
            head=HeadConfig(depthwise=False),
            init=NormalInit(std=0.2),
        ),
    )


def tiny_detector(model_id: str = "tiny", device: str = "cpu") -> TorchDetector:
    """Return the same detector at every call: classes a and b."""
    torch.manual_seed(0)
    recipe = tiny_recipe()
    model = SSD(recipe.model, ("a", "b"))
    return TorchDetector(model, recipe, model_id, torch.device(device))
