"""The values that a recipe has without a word from the user, each with where it comes from.

Another value is another detector for everybody, and no other test would notice: it is changed here by
hand, with the figures that speak for it in docs/log.md.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from hardmine.losses.loss_functions import FocalConfig, SmoothL1Config
from hardmine.losses.negative_mining import (
    BandConfig,
    BatchRatioConfig,
    HardExamplesConfig,
    LevelQuotaConfig,
    MixedConfig,
    RandomConfig,
    RatioConfig,
)
from hardmine.models.postprocess import DecodeConfig, SoftNmsDecode
from hardmine.recipes.named_recipes import RECIPES, named_recipe
from hardmine.recipes.recipe import recipe_to_dict

# Liu et al. 2016, "SSD": IoU .5, three negatives per positive, smooth L1 with weight 1, NMS at .45 of
# what reaches .01, 400 candidates in Caffe's DetectionOutput; the floor and the decay: docs/log.md.
SSD = {
    "loss.assigner.iou_threshold": 0.5,
    "loss.assigner.ignore_above": None,
    "loss.assigner.max_positives": None,
    "loss.selection.kind": "ratio",
    "loss.selection.neg_to_pos_ratio": 3.0,
    "loss.selection.floor": 16,
    "loss.selection.rank": "background",
    "loss.selection.nms_iou": None,
    "loss.classification.kind": "softmax",
    "loss.localisation.kind": "smooth_l1",
    "loss.localisation.delta": 1.0,
    "loss.normaliser.kind": "selected",
    "loss.box_weight": 1.0,
    "loss.suspect_score": None,
    "decode.kind": "per_class",
    "decode.score_threshold": 0.01,
    "decode.nms_iou": 0.45,
    "decode.candidates": 400,
    "decode.class_candidates": None,
    "decode.max_detections": 100,
    "model.score_form": "softmax",
    "resize_mode": "stretch",
}

# Measured on sets of 40 to 300 images with 40 epochs (docs/log.md).
SCHEDULE = {
    "epochs": 40.0,
    "batch.size": 8,
    "batch.min_object_share": 0.75,
    "batch.negative_share": None,
    "branch.epochs": 15.0,
    "branch.lr_scale": 0.5,
    "optim.weight_decay": 0.05,
    "optim.clip_norm": 10.0,
    "optim.warmup_steps": 30,
    "optim.ema_decay": 0.99,
    "augment.photometric": 0.5,
    "augment.photometric_strength": 1.0,
    "augment.expand": 0.5,
    "augment.max_expand": 2.0,
    "augment.crop": True,
    "augment.min_overlaps": [0.1, 0.3, 0.5, 0.7, 0.9],
    "augment.min_crop": 0.3,
    "augment.mirror": 0.5,
    "augment.vertical_flip": 0.0,
    "augment.mosaic.probability": 0.0,
    "augment.copy_paste.probability": 0.0,
    "augment.alarm_paste.probability": 0.0,
    "augment.occlusion.probability": 0.0,
}

# The rate of new layers, that of the backbone as a share of it, the last layer that stays as it is, and
# the lighter augmentation of models with a pyramid.
OF_MODEL: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v2": {
        "optim.lr": 2e-3,
        "optim.backbone_lr_scale": 0.5,
        "model.backbone.frozen_to": "features.13",
    },
    "ssd320_mobilenet_v2_fpnlite": {
        "optim.lr": 2e-3,
        "optim.backbone_lr_scale": 1.0,
        "model.backbone.frozen_to": "features.7",
        "augment.photometric": 0.5,
        "augment.photometric_strength": 0.5,
        "augment.expand": 0.0,
        "augment.min_overlaps": [0.5, 0.7, 0.9],
        "augment.min_crop": 0.6,
        "augment.mirror": 0.5,
    },
    "ssd300_vgg16": {
        "optim.lr": 5e-4,
        "optim.backbone_lr_scale": 0.2,
        "model.backbone.frozen_stages": 3,
        "model.backbone.l2norm_scale": 20.0,
    },
    "ssd300_resnet34": {
        "optim.lr": 2e-3,
        "optim.backbone_lr_scale": 0.5,
        "model.backbone.frozen_to": "layer1",
    },
}


def value_at(recipe: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        recipe = recipe[part]
    return recipe


def wrong(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    recipe = recipe_to_dict(named_recipe(name))
    return {key: value_at(recipe, key) for key in wanted if value_at(recipe, key) != wanted[key]}


@pytest.mark.parametrize("name", [name for name in sorted(RECIPES) if name.startswith("ssd")])
def test_loss_and_decoding_of_every_ssd_are_those_of_the_paper(name: str) -> None:
    assert wrong(name, SSD) == {}


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v2", "ssd300_vgg16", "ssd512_resnet50"])
def test_schedule_is_the_measured_one(name: str) -> None:
    assert wrong(name, SCHEDULE) == {}


@pytest.mark.parametrize("name", sorted(OF_MODEL))
def test_what_is_different_in_each_model(name: str) -> None:
    assert wrong(name, OF_MODEL[name]) == {}


# What a rule, a loss or a decoder has when a recipe names no more than its kind. Caffe's HARD_EXAMPLE
# takes 64 that NMS at .7 leaves (Liu et al. 2016); alpha and gamma: Lin et al. 2017; sigma and the
# overlap of Soft-NMS: Bodla et al. 2017.
QUOTA = {"neg_to_pos_ratio": 3.0, "floor": 32}
OF_KIND: list[tuple[Any, dict[str, Any]]] = [
    (RatioConfig(), QUOTA | {"rank": "background", "nms_iou": None, "nms_candidates": 256}),
    (RandomConfig(), QUOTA | {"count": 0}),
    (
        HardExamplesConfig(),
        {
            "count": 64,
            "rank": "both",
            "nms_iou": 0.7,
            "nms_candidates": 256,
            "neg_to_pos_ratio": None,
            "floor": 0,
        },
    ),
    (BatchRatioConfig(), QUOTA | {"least": 0}),
    (BandConfig(), QUOTA | {"low": 0.2, "high": 0.7}),
    (LevelQuotaConfig(), QUOTA | {"shares": ()}),
    (MixedConfig(), QUOTA | {"hard_start": 0.0, "hard_end": 1.0, "ramp": 0.5}),
    (FocalConfig(), {"alpha": 0.25, "gamma": 2.0}),
    (SmoothL1Config(), {"delta": 1.0}),
    (
        DecodeConfig(),
        {
            "score_threshold": 0.01,
            "nms_iou": 0.45,
            "candidates": 400,
            "class_candidates": None,
            "max_detections": 100,
        },
    ),
    (
        SoftNmsDecode(),
        {
            "method": "gaussian",
            "sigma": 0.5,
            "score_threshold": 0.01,
            "nms_iou": 0.3,
            "candidates": 400,
            "class_candidates": None,
            "max_detections": 100,
        },
    ),
]


@pytest.mark.parametrize(("config", "wanted"), OF_KIND, ids=lambda value: type(value).__name__)
def test_what_is_left_out_of_a_kind(config: Any, wanted: dict[str, Any]) -> None:
    found = asdict(config)
    assert found == {"kind": found["kind"]} | wanted
