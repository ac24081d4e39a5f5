"""Heads: class logits and box deltas of every prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.model.backbone import conv_norm_relu


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """``depthwise``: a depthwise 3 × 3 then a 1 × 1 (SSDLite); else one dense 3 × 3 (SSD).

    ``init_std`` is the deviation of the normal initialiser of all added layers; 0 takes Xavier's
    gaussian with fan-out (GluonCV's choice).
    """

    depthwise: bool = True
    init_std: float = 0.03

    def __post_init__(self) -> None:
        if self.init_std < 0:
            raise ConfigError(f"head.init_std: got {self.init_std}, wanted >= 0")


class Head(nn.Module):
    """One predictor per level, outputs joined in the priors' order.

    The last convolution runs in float32 even under autocast: logits rounded to bf16 tie, and ties
    spoil rankings.
    """

    def __init__(
        self, config: HeadConfig, channels: Sequence[int], num_priors: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self._width = width
        self.levels = nn.ModuleList(
            Predictor(config, c, k * width) for c, k in zip(channels, num_priors, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return f32[B, A, width] from one feature map per level."""
        outputs = []
        for level, feature in zip(self.levels, maps, strict=True):
            assert isinstance(level, Predictor)
            feature = level.body(feature)
            with torch.autocast(feature.device.type, enabled=False):
                out = level.last(feature.float())  # [B, K·width, rows, columns]
            outputs.append(out.permute(0, 2, 3, 1).reshape(out.shape[0], -1, self._width))
        return torch.cat(outputs, 1)


class Predictor(nn.Module):
    """One level of a head: ``body`` may run in low precision, ``last`` gives the output."""

    def __init__(self, config: HeadConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body: nn.Module
        if config.depthwise:
            self.body = conv_norm_relu(in_channels, in_channels, 3, groups=in_channels)
            self.last = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.body = nn.Identity()
            self.last = nn.Conv2d(in_channels, out_channels, 3, padding=1)


def init_layers(module: nn.Module, std: float) -> None:
    """Initialise the convolutions in ``module``: normal(0, ``std``), or Xavier fan-out for 0."""
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if std > 0:
            nn.init.normal_(layer.weight, std=std)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="linear")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
