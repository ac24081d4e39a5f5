"""Recipes around torchvision's own detectors."""

from __future__ import annotations

from hardmine.augment.chain import AugmentConfig
from hardmine.models.decode import DecodeConfig
from hardmine.models.torchvision_network import TorchvisionConfig
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe


def fasterrcnn_resnet50_fpn() -> Recipe:
    """Faster R-CNN on ResNet-50 with FPN, 480 px.

    Negatives train its region proposals and its classifier. With pretrained weights set
    ``model.frozen_norm=true`` and freeze the first stages, as torchvision does.
    """
    return _recipe("fasterrcnn_resnet50_fpn", 480)


def fasterrcnn_mobilenet_v3_large_320_fpn() -> Recipe:
    """Faster R-CNN on MobileNetV3 with FPN, 320 px: the one to try on a CPU."""
    return _recipe("fasterrcnn_mobilenet_v3_large_320_fpn", 320)


def _recipe(name: str, side: int) -> Recipe:
    return Recipe(
        model=TorchvisionConfig(name=name, height=side, width=side),
        resize_mode="letterbox",
        augment=AugmentConfig(max_expand=2.0),
        batch=BatchConfig(size=4),
        optim=OptimConfig(lr=2e-4, backbone_lr_scale=1.0, ema_decay=0.99),
        decode=DecodeConfig(nms_iou=0.5),
    )
