"""The single-shot detector: backbone, neck, two heads and the priors, each passed in by its config.

`make_network` builds any network that a recipe can name: this one, or one of torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, assert_never

from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import CheckpointError, ConfigError
from hardmine.models.backbones import (
    BackboneConfig,
    SmallNet,
    TapsConfig,
    make_backbone,
    probe_channels,
)
from hardmine.models.layers import (
    InitConfig,
    NormalInit,
    Normalise,
    init_layers,
    set_prior_probability,
)
from hardmine.models.neck_and_head import (
    AnyHeadConfig,
    ExtraLayersConfig,
    HeadConfig,
    NeckConfig,
    make_head,
    make_neck,
    make_tower,
)
from hardmine.models.priors import LinearPriors, PriorsConfig, make_priors
from hardmine.models.torchvision_network import TorchvisionConfig, TorchvisionNetwork
from hardmine.tensors import Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class SSDConfig:
    """Everything that decides the architecture."""

    kind: Literal["ssd"] = "ssd"
    name: str = "ssdlite320_mobilenet_v2"
    height: int = 320
    width: int = 320
    backbone: BackboneConfig = field(default_factory=TapsConfig)
    neck: NeckConfig = field(default_factory=ExtraLayersConfig)
    head: AnyHeadConfig = field(default_factory=HeadConfig)
    init: InitConfig = field(default_factory=NormalInit)
    """How all layers on top of the backbone are initialised."""
    priors: PriorsConfig = field(default_factory=LinearPriors)
    score_form: Literal["softmax", "sigmoid"] = "softmax"
    """One softmax over the classes and background, or a sigmoid for each class."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise ConfigError(f"model: got input {self.height}x{self.width}, wanted >= 32x32")

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean pixel that the network takes off, RGB in [0, 1]."""
        return self.backbone.mean


class SSD(nn.Module):
    """Images in, logits and deltas of every prior out; no transform and no decoding inside."""

    backbone_prefix = "backbone."
    """The prefix of the parameters that pretrained weights fill."""

    def __init__(self, config: SSDConfig, categories: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.categories: tuple[str, ...] = categories
        self.backbone = make_backbone(config.backbone)
        channels, _ = probe_channels(self.backbone, config.height, config.width)
        self.neck = make_neck(config.neck, channels)
        body = nn.Sequential(self.backbone, self.neck)
        _, shapes = probe_channels(body, config.height, config.width)
        self._add_heads(shapes)
        priors = make_priors(config.priors, shapes, config.height, config.width)
        self._level_shapes = priors.level_shapes
        self.register_buffer("prior_boxes", priors.cxcywh, persistent=False)
        self.register_buffer("prior_levels", priors.level, persistent=False)
        self.normalise = Normalise(config.backbone.mean, config.backbone.std)

    def _add_heads(self, shapes: list[tuple[int, int]]) -> None:
        """Build both heads and what stands before them, and initialise all added layers."""
        config, channels = self.config, self.neck.channels
        side, softmax = float(min(config.height, config.width)), config.score_form == "softmax"
        per_cell = [len(config.priors.shapes(i, len(shapes), side)) for i in range(len(shapes))]
        num_columns = len(self.categories) + softmax
        self.class_head = make_head(config.head, channels, per_cell, num_columns)
        self.box_head = make_head(config.head, channels, per_cell, 4)
        self.tower = make_tower(config.head, channels)
        for module in (self.neck, self.class_head, self.box_head, self.tower):
            init_layers(module, config.init)
        probability = config.head.prior_probability
        if probability is not None:
            for predictor in self.class_head.predictors:
                assert predictor.last.bias is not None
                set_prior_probability(predictor.last.bias, probability, num_columns, softmax)

    @property
    def priors(self) -> Priors:
        """The priors on the model's device."""
        return Priors(
            self.get_buffer("prior_boxes"), self.get_buffer("prior_levels"), self._level_shapes
        )

    def load_pretrained(self, path: Path) -> None:
        """Load ImageNet weights into the backbone.

        Raises:
            CheckpointError: a backbone without a pretrained form; unreadable, unsafe, or weights that
                do not fit.
        """
        if isinstance(self.backbone, SmallNet):
            name = self.config.name
            raise CheckpointError(f"{path}: {name} has no pretrained form, wanted --weights none")
        self.backbone.load_weights(path)

    def forward(self, images: Tensor) -> RawOutput:
        """Run the network.

        Args:
            images (Tensor[B, 3, H, W]): uint8 RGB of the configured size.

        Returns:
            RawOutput: float32, in the form that the config names.
        """
        levels = self.tower(self.neck(self.backbone(self.normalise(images))))
        form = ScoreForm(self.config.score_form)
        return RawOutput(self.class_head(levels), self.box_head(levels), form)

    def pooled_features(self, images: Tensor) -> Tensor:
        """Return f32[B, D]: the mean over the backbone's last map, for u8[B, 3, H, W]."""
        pooled: Tensor = self.backbone(self.normalise(images))[-1].mean((2, 3))
        return pooled


ModelConfig = Annotated[SSDConfig | TorchvisionConfig, Field(discriminator="kind")]
Network = SSD | TorchvisionNetwork


def make_network(config: SSDConfig | TorchvisionConfig, categories: tuple[str, ...]) -> Network:
    """Build the network of a config, with random weights.

    Raises:
        ConfigError: a choice that cannot be built.
    """
    match config:
        case SSDConfig():
            return SSD(config, categories)
        case TorchvisionConfig():
            return TorchvisionNetwork(config, categories)
        case _:
            assert_never(config)
