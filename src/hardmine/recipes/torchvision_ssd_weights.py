"""torchvision's trained SSD300 and SSDlite320 as Hardmine models: the same network, number for number.

Its state dicts are translated name by name. What makes its network another one than our recipe's is
set in the recipe: sizes of priors cut at the input, and for SSDlite the halved last stage and pixels
scaled to −1 … 1. Source: torchvision/models/detection/ssd.py and ssdlite.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hardmine.errors import CheckpointError, ConfigError
from hardmine.models.backbones.feature_taps import Taps, TapsConfig
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.priors import CaffePriors, LinearPriors
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.models.state_dict import read_state_dict
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe

MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")

_MARK = "head.classification_head.module_list.0."
_TAIL = "backbone.features.1.3.0.weight"
"""SSDlite's last convolution, 480 (reduced) or 960 channels."""
_REDUCED_WIDTH = 480


def is_torchvision_ssd(state: Mapping[str, Tensor]) -> bool:
    """True for the state dict of a torchvision SSD or SSDlite."""
    return any(name.startswith(_MARK) for name in state)


def coco_categories() -> tuple[str, ...]:
    """Return the 90 class names of torchvision's COCO weights; ten of them are "N/A"."""
    from torchvision.models import get_model_weights

    return tuple(get_model_weights(MODELS[0]).DEFAULT.meta["categories"][1:])


def as_torchvision(recipe: Recipe, state: Mapping[str, Tensor]) -> Recipe:
    """Return ``recipe`` with the network that a torchvision state dict belongs to.

    Raises:
        ConfigError: the recipe's model is none of :data:`MODELS`.
    """
    model = recipe.model
    if not (
        isinstance(model, SSDConfig)
        and model.name in MODELS
        and isinstance(model.priors, CaffePriors | LinearPriors)
    ):
        raise ConfigError(
            f"weights of a torchvision SSD fit {' and '.join(MODELS)}, got model {model.name!r}"
        )
    priors = replace(model.priors, limit_size=True)
    backbone = model.backbone
    if isinstance(backbone, TapsConfig):
        half = (0.5, 0.5, 0.5)
        reduced = _TAIL in state and len(state[_TAIL]) == _REDUCED_WIDTH
        backbone = replace(backbone, reduced_tail=reduced, mean=half, std=half)
    return replace(recipe, model=replace(model, priors=priors, backbone=backbone))


def import_torchvision(
    path: Path, name: str, categories: tuple[str, ...] | None = None
) -> tuple[SSD, Recipe]:
    """Load a torchvision detector as a Hardmine model (evaluation mode) with its recipe.

    The recipe decodes with torchvision's limits too, so that detections are the same.

    Args:
        path: a state dict of ``torchvision.models.detection``.
        name: one of :data:`MODELS`.
        categories: class names without background; ``None`` for COCO's.

    Raises:
        CheckpointError: unreadable, or not the weights of that model with so many classes.
        ConfigError: another model.
    """
    state = read_state_dict(path)
    recipe = as_torchvision(named_recipe(name), state)
    assert isinstance(recipe.model, SSDConfig)
    names = categories or coco_categories()
    model = SSD(recipe.model, names)
    own, translated = model.state_dict(), translate(state, model, path)
    for key, value in own.items():
        if key not in translated or translated[key].shape != value.shape:
            got = tuple(translated[key].shape) if key in translated else "nothing"
            raise CheckpointError(f"{path}: {key} is {got}, wanted {tuple(value.shape)}")
    model.load_state_dict({key: translated[key] for key in own})
    return model.eval(), replace(recipe, decode=_decode_of(name, len(names)))


def _decode_of(name: str, num_classes: int) -> DecodeConfig:
    """Return torchvision's limits: the best of every class enter suppression."""
    threshold, nms_iou, of_class, kept = (
        (0.01, 0.45, 400, 200) if name == MODELS[0] else (0.001, 0.55, 300, 300)
    )
    return DecodeConfig(
        score_threshold=threshold,
        nms_iou=nms_iou,
        candidates=of_class * num_classes,
        class_candidates=of_class,
        max_detections=kept,
    )


def translate(state: Mapping[str, Tensor], model: SSD, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torchvision state dict under the names of ``model``.

    Raises:
        CheckpointError: a name that torchvision's network does not have.
    """
    taps = model.backbone if isinstance(model.backbone, Taps) else None
    rules = _VGG_RULES if taps is None else _LITE_RULES
    translated = {}
    for name, value in state.items():
        new = _rename(name, rules)
        if new is None:
            raise CheckpointError(
                f"{path}: {name!r} is no tensor of torchvision's {model.config.name}"
            )
        if taps is not None and new.startswith("backbone."):
            new = f"backbone.{taps.own_name(new.removeprefix('backbone.'))}"
        translated[new] = value
    return translated


_Rule = tuple[re.Pattern[str], str, int]
"""Pattern, replacement, and what is added to the number in its first group."""

_HEADS: tuple[_Rule, ...] = tuple(
    (re.compile(rf"head\.{theirs}\.module_list\.(\d+)\.{old}"), rf"{ours}.levels.{{}}.{new}", 0)
    for theirs, ours in (("classification_head", "class_head"), ("regression_head", "box_head"))
    for old, new in (
        (r"0\.([01]\..*)", r"body.\2"),
        (r"1\.(weight|bias)$", r"last.\2"),
        (r"(weight|bias)$", r"last.\2"),
    )
)
_VGG_RULES: tuple[_Rule, ...] = (
    (re.compile(r"backbone\.scale_weight()$"), "backbone.scale", 0),
    (re.compile(r"backbone\.features\.(\d+)\.(.*)"), r"backbone.features.{}.\2", 0),
    (re.compile(r"backbone\.extra\.0\.7\.1()\.(.*)"), r"backbone.fc6.\2", 0),
    (re.compile(r"backbone\.extra\.0\.7\.3()\.(.*)"), r"backbone.fc7.\2", 0),
    (re.compile(r"backbone\.extra\.0\.(\d)\.(.*)"), r"backbone.features.{}.\2", 23),
    (re.compile(r"backbone\.extra\.(\d)\.0\.(.*)"), r"neck.blocks.{}.0.0.\2", -1),
    (re.compile(r"backbone\.extra\.(\d)\.2\.(.*)"), r"neck.blocks.{}.1.0.\2", -1),
    *_HEADS,
)
_LITE_RULES: tuple[_Rule, ...] = (
    (re.compile(r"backbone\.features\.0\.13()\.(.*)"), r"backbone.features.13.block.0.\2", 0),
    (re.compile(r"backbone\.features\.0\.(\d+)\.(.*)"), r"backbone.features.{}.\2", 0),
    (re.compile(r"backbone\.features\.1\.0\.(\d)\.(.*)"), r"backbone.features.13.block.{}.\2", 0),
    (re.compile(r"backbone\.features\.1\.(\d)\.(.*)"), r"backbone.features.{}.\2", 13),
    (re.compile(r"backbone\.extra\.(\d)\.(.*)"), r"neck.blocks.{}.\2", 0),
    *_HEADS,
)


def _rename(name: str, rules: tuple[_Rule, ...]) -> str | None:
    for pattern, replacement, offset in rules:
        match = pattern.fullmatch(name)
        if match:
            number = str(int(match[1]) + offset) if match[1] else ""
            return match.expand(replacement.replace("{}", number))
    return None
