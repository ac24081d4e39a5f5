"""Networks small enough for any test: an SSD with scores spread over [0, 1], and a Faster R-CNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.layers import NormalInit
from hardmine.models.neck_and_head import ExtraLayersConfig, HeadConfig
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.recipe import Recipe

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


def tiny_rectangle(**changes: Any) -> SSDConfig:
    """Return a network of three stages and three levels on a canvas of 64 × 48 px."""
    config = SSDConfig(
        name="tiny",
        height=48,
        width=64,
        backbone=SmallNetConfig(widths=(8, 12, 16), depths=(1, 1, 1), num_taps=2),
        neck=ExtraLayersConfig(widths=(16,), depthwise=False),
        head=HeadConfig(depthwise=False),
    )
    return replace(config, **changes)


def tiny_detector(model_id: str = "tiny", device: str = "cpu") -> TorchDetector:
    """Return the same detector at every call: classes a and b."""
    torch.manual_seed(0)
    recipe = tiny_recipe()
    model = SSD(recipe.model, ("a", "b"))
    return TorchDetector(model, recipe, model_id, torch.device(device))


TINY_FASTERRCNN = "tiny_fasterrcnn_of_these_tests"


class Body(nn.Sequential):
    """Two strided convolutions."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)
        )


def tiny_fasterrcnn(*, weights: Any, weights_backbone: Any, num_classes: int) -> Any:
    """torchvision's Faster R-CNN on a body of a few hundred weights."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator

    assert weights is None
    assert weights_backbone is None
    return FasterRCNN(
        Body(),
        rpn_anchor_generator=AnchorGenerator(((12, 24),), ((0.5, 1.0, 2.0),)),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, 16), nn.ReLU()),
        box_predictor=FastRCNNPredictor(16, num_classes),
    )


@contextmanager
def registered_fasterrcnn() -> Iterator[None]:
    """Let torchvision know it under the name ``TINY_FASTERRCNN``."""
    from torchvision.models import _api

    _api.register_model(TINY_FASTERRCNN)(tiny_fasterrcnn)
    yield
    del _api.BUILTIN_MODELS[TINY_FASTERRCNN]
