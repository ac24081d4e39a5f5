"""What the named models are: size, cost, levels, priors, and whose weights they start from.

Networks are built with shapes alone (torch's meta device): nothing is allocated or computed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from hardmine.models.backbones import BackboneConfig, SmallNetConfig, Taps, TimmConfig, VggConfig
from hardmine.models.priors import cell_steps
from hardmine.models.ssd import SSD, ModelConfig, SSDConfig, make_network
from hardmine.recipes.recipe import Recipe

DEFAULT_CLASSES = 90
"""The number of classes for which sizes are shown, as torchvision counts COCO's."""


@dataclass(frozen=True, slots=True)
class LevelCard:
    """One feature map: where it comes from, its grid, and the priors in each of its cells."""

    source: str
    channels: int
    rows: int
    columns: int
    stride: float
    """Distance of the priors' rows, px of the input."""
    priors_per_cell: int
    shapes: tuple[tuple[float, float], ...]
    """Width and height of each prior of a cell, px."""

    @property
    def num_priors(self) -> int:
        """All priors of the level."""
        return self.rows * self.columns * self.priors_per_cell


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as ``hardmine models`` shows it; ``gmacs`` and ``num_priors`` are ``None`` for
    torchvision's own detectors, whose cost depends on the image.
    """

    name: str
    height: int
    width: int
    num_classes: int
    parameters: int
    trained: int
    """Parameters that the recipe does not freeze."""
    gmacs: float | None
    """Multiply–accumulates of one image, 10⁹, decoding left out."""
    num_priors: int | None
    backbone: str
    neck: str
    head: str
    priors: str
    frozen_to: str | None
    weights: str
    licence: str
    levels: tuple[LevelCard, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def describe(recipe: Recipe, num_classes: int = DEFAULT_CLASSES) -> ModelCard:
    """Return what a recipe's model is, for a number of classes.

    Raises:
        ConfigError: a model that cannot be built.
    """
    config = recipe.model
    with torch.device("meta"):
        network = make_network(config, tuple(f"class {i}" for i in range(num_classes)))
        gmacs = _count_gmacs(network) if isinstance(network, SSD) else None
    weights, licence = _weights_of(config)
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    levels = _levels(network) if isinstance(network, SSD) else ()
    ssd = config if isinstance(config, SSDConfig) else None
    return ModelCard(
        name=config.name,
        height=config.height,
        width=config.width,
        num_classes=num_classes,
        parameters=sum(size for size, _ in sizes),
        trained=sum(size for size, trained in sizes if trained),
        gmacs=gmacs,
        num_priors=sum(level.num_priors for level in levels) if levels else None,
        backbone=_backbone_name(ssd.backbone) if ssd else config.name,
        neck=ssd.neck.kind if ssd else "–",
        head=ssd.head.kind if ssd else "–",
        priors=ssd.priors.kind if ssd else "–",
        frozen_to=_frozen_to(ssd.backbone) if ssd else None,
        weights=weights,
        licence=licence,
        levels=levels,
    )


def _count_gmacs(network: SSD) -> float:
    """Count convolutions and products on shapes alone; a flop counter counts 2 a multiply–add."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    config = network.config
    with torch.no_grad(), counter:
        network.eval()(torch.empty(1, 3, config.height, config.width, dtype=torch.uint8))
    return float(counter.get_total_flops()) / 2e9


def _levels(network: SSD) -> tuple[LevelCard, ...]:
    config, grids = network.config, network.priors.level_shapes
    side = float(min(config.height, config.width))
    steps = cell_steps(config.priors, grids, config.height, config.width)
    cards = []
    for index, (rows, columns) in enumerate(grids):
        shapes = config.priors.shapes(index, len(grids), side)
        cards.append(
            LevelCard(
                source=_source(network, index),
                channels=network.neck.channels[index],
                rows=rows,
                columns=columns,
                stride=steps[index][0],
                priors_per_cell=len(shapes),
                shapes=tuple(shapes),
            )
        )
    return tuple(cards)


def _source(network: SSD, index: int) -> str:
    taps = tap_names(network)
    return taps[index] if index < len(taps) else f"added {index - len(taps) + 1}"


def tap_names(network: SSD) -> tuple[str, ...]:
    """Return where in the backbone each of its maps is taken, finest first."""
    backbone = network.config.backbone
    if isinstance(network.backbone, Taps):
        return network.backbone.names
    if isinstance(backbone, VggConfig):
        return "conv4_3", "fc7"
    assert isinstance(backbone, SmallNetConfig)
    stages = len(backbone.widths)
    return tuple(f"stage {i + 1}" for i in range(stages - backbone.num_taps, stages))


def _backbone_name(backbone: BackboneConfig) -> str:
    if isinstance(backbone, VggConfig):
        return "vgg16"
    if isinstance(backbone, SmallNetConfig):
        return "small"
    return f"timm {backbone.name}" if isinstance(backbone, TimmConfig) else backbone.name


def _frozen_to(backbone: BackboneConfig) -> str | None:
    if isinstance(backbone, VggConfig):
        return f"stage {backbone.frozen_stages}" if backbone.frozen_stages else None
    return None if isinstance(backbone, SmallNetConfig) else backbone.frozen_to


def _weights_of(config: ModelConfig) -> tuple[str, str]:
    """Return what ``--weights imagenet`` fetches and its licence, as its publisher states it."""
    if not isinstance(config, SSDConfig):
        return "torchvision, COCO", "BSD-3-Clause"
    backbone = config.backbone
    if isinstance(backbone, SmallNetConfig):
        return "none", "–"
    if isinstance(backbone, VggConfig):
        return "torchvision vgg16 IMAGENET1K_FEATURES", "CC-BY-4.0"
    if isinstance(backbone, TimmConfig):
        import timm

        published = timm.get_pretrained_cfg(backbone.name)
        if published is None or not published.hf_hub_id:
            return "none", "–"
        return f"hub {published.hf_hub_id}", str(published.license or "not stated")
    return f"torchvision {backbone.name}", "BSD-3-Clause"
