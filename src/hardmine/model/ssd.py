"""The single-shot detector: backbone, neck, two heads and the priors, each passed in by its config."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.model.backbone import BackboneConfig, TapsConfig, make_backbone, probe_channels
from hardmine.model.head import Head, HeadConfig, init_layers
from hardmine.model.neck import ExtraLayers, ExtraLayersConfig
from hardmine.model.priors import LinearPriors, PriorsConfig, make_priors
from hardmine.types import Priors, RawOutput, ScoreForm


@dataclass(frozen=True, slots=True)
class SSDConfig:
    """Everything that decides the architecture."""

    name: str = "ssdlite320_mobilenet_v2"
    height: int = 320
    width: int = 320
    backbone: BackboneConfig = field(default_factory=TapsConfig)
    neck: ExtraLayersConfig = field(default_factory=ExtraLayersConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    priors: PriorsConfig = field(default_factory=LinearPriors)

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise ConfigError(f"model: got input {self.height}x{self.width}, wanted >= 32x32")


class SSD(nn.Module):
    """Images in, logits and deltas of every prior out; no transform and no decoding inside."""

    def __init__(self, config: SSDConfig, categories: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.categories: tuple[str, ...] = categories
        self.backbone = make_backbone(config.backbone)
        channels, _ = probe_channels(self.backbone, config.height, config.width)
        self.neck = ExtraLayers(config.neck, channels)
        body = nn.Sequential(self.backbone, self.neck)
        _, shapes = probe_channels(body, config.height, config.width)
        per_cell = [
            len(config.priors.shapes(i, len(shapes), float(min(config.height, config.width))))
            for i in range(len(shapes))
        ]
        self.class_head = Head(config.head, self.neck.channels, per_cell, len(categories) + 1)
        self.box_head = Head(config.head, self.neck.channels, per_cell, 4)
        for module in (self.neck, self.class_head, self.box_head):
            init_layers(module, config.head.init_std)
        priors = make_priors(config.priors, shapes, config.height, config.width)
        self._level_shapes = priors.level_shapes
        self.register_buffer("prior_boxes", priors.cxcywh, persistent=False)
        self.register_buffer("prior_levels", priors.level, persistent=False)
        mean = 255.0 * torch.tensor(config.backbone.mean).view(3, 1, 1)
        std = 255.0 * torch.tensor(config.backbone.std).view(3, 1, 1)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def priors(self) -> Priors:
        """The priors on the model's device."""
        return Priors(
            self.get_buffer("prior_boxes"), self.get_buffer("prior_levels"), self._level_shapes
        )

    def forward(self, images: Tensor) -> RawOutput:
        """Run the network.

        Args:
            images (Tensor[B, 3, H, W]): uint8 RGB of the configured size.

        Returns:
            RawOutput: softmax form, float32.
        """
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        pixels = ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        levels = self.neck(self.backbone(pixels))
        return RawOutput(self.class_head(levels), self.box_head(levels), ScoreForm.SOFTMAX)
