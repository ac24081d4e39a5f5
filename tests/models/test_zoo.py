"""The named models: they build, their priors fit their maps, and published sizes are met."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardmine.models.backbones import TapsConfig
from hardmine.models.priors import LinearPriors
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.model_catalogue import describe
from hardmine.recipes.named_recipes import RECIPES, named_recipe

# Priors: sum over levels of cells times shapes.
COUNTS = {
    # 6 (20² + 10² + 5² + 3² + 2² + 1²)
    "ssdlite320_mobilenet_v2": 3234,
    # 6 (40² + 20² + 10²)
    "ssdlite320_mobilenet_v2_taps": 12600,
    "ssdlite320_mobilenet_v3_large": 3234,
    # 6 (40² + 20² + 10² + 5² + 3²)
    "ssd320_mobilenet_v2_fpnlite": 12804,
    # 6 (80² + 40² + 20² + 10² + 5²)
    "ssd640_mobilenet_v2_fpnlite": 51150,
    "ssd300_vgg16": 8732,
    "ssd512_vgg16": 24564,
    "ssd300_resnet34": 8732,
    # 4 (32² + 2² + 1²) + 6 (16² + 8² + 4²): GluonCV's 6,132
    "ssd512_resnet50": 6132,
    # 6 (10² + 5² + 3² + 2²)
    "small160": 828,
}


def ssd_config(name: str) -> SSDConfig:
    config = named_recipe(name).model
    assert isinstance(config, SSDConfig)
    return config


def test_every_named_ssd_is_counted() -> None:
    ssds = {name for name, make in RECIPES.items() if isinstance(make().model, SSDConfig)}
    assert ssds == COUNTS.keys()


def test_the_tapped_networks_level_of_few_channels_is_left_to_small_objects() -> None:
    """Scales .1, .35, .6 of 320 px: 32 and √(32 · 112) at stride 8, then from 112 to √(192 · 320)."""
    priors = ssd_config("ssdlite320_mobilenet_v2_taps").priors
    assert isinstance(priors, LinearPriors)
    squares = [
        width
        for level in range(3)
        for width, height in priors.shapes(level, 3, 320)
        if width == pytest.approx(height)
    ]
    assert squares == pytest.approx([32, 59.87, 112, 146.64, 192, 247.87], abs=0.01)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("size", [None, (240, 320)])
def test_trap_4_a_prior_for_every_output(name: str, size: tuple[int, int] | None) -> None:
    """At its own size and at one that is not square; shapes alone, nothing is computed."""
    config = ssd_config(name)
    if size is not None:
        config = replace(config, height=size[0], width=size[1])
    with torch.device("meta"):
        model = SSD(config, ("a", "b")).eval()
        images = torch.empty(1, 3, config.height, config.width, dtype=torch.uint8)
        output = model(images)
    num_priors = len(model.priors.cxcywh)
    assert output.class_logits.shape == (1, num_priors, 3)
    assert output.box_deltas.shape == (1, num_priors, 4)
    rows, columns = zip(*model.priors.level_shapes, strict=True)
    assert list(rows) == sorted(rows, reverse=True)
    assert list(columns) == sorted(columns, reverse=True)
    if size is None:
        assert num_priors == COUNTS[name]
    else:
        assert rows[0] < columns[0]


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        # torchvision's meta data of the COCO weights: 35641826 and 34.858 · 10⁹.
        ("ssd300_vgg16", 35_641_826, 34.858),
        # 3440060 and 0.583 · 10⁹.
        ("ssdlite320_mobilenet_v3_large", 3_440_060, 0.583),
    ],
)
def test_as_large_as_torchvision_says(name: str, parameters: int, gmacs: float) -> None:
    recipe = named_recipe(name)
    config = ssd_config(name)
    if isinstance(config.backbone, TapsConfig):
        config = replace(config, backbone=replace(config.backbone, reduced_tail=True))
    card = describe(replace(recipe, model=config), num_classes=90)
    assert card.parameters == parameters
    assert card.gmacs == pytest.approx(gmacs, abs=5e-4)


def test_a_card_names_taps_strides_and_cells() -> None:
    card = describe(named_recipe("ssd300_vgg16"), num_classes=20)
    levels = [(level.source, level.stride, level.priors_per_cell) for level in card.levels]
    assert levels[:3] == [("conv4_3", 8, 4), ("fc7", 16, 6), ("added 1", 32, 6)]
    assert card.num_priors == sum(level.num_priors for level in card.levels) == 8732
    assert card.trained < card.parameters  # three stages are frozen
    assert describe(named_recipe("small160")).licence == "–"
    assert describe(named_recipe("fasterrcnn_mobilenet_v3_large_320_fpn")).gmacs is None


@pytest.mark.parametrize("name", ["ssd320_mobilenet_v2_fpnlite", "ssdlite320_mobilenet_v2_taps"])
def test_a_non_square_input_trains(name: str) -> None:
    config = replace(ssd_config(name), height=64, width=96)
    torch.manual_seed(0)
    model = SSD(config, ("a",)).train()
    output = model(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    (output.class_logits.square().mean() + output.box_deltas.square().mean()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    centres = model.priors.cxcywh[:, :2]
    assert float(centres.min()) > 0
    assert centres[:, 0].max() < 96
    assert centres[:, 1].max() < 64
