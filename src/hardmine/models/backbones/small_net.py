"""A small plain network that trains from scratch in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.models.layers import conv_norm_relu


@dataclass(frozen=True, slots=True)
class SmallNetConfig:
    """Plain 3 × 3 convolutions, each stage halving the resolution; trains from scratch in minutes.

    Stage k has ``depths[k]`` convolutions of ``widths[k]`` channels; the last ``num_taps`` stages
    give the feature maps.
    """

    kind: Literal["small"] = "small"
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    num_taps: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not 1 <= self.num_taps <= len(self.widths):
            raise ConfigError(
                f"backbone: got {len(self.widths)} widths, {len(self.depths)} depths and "
                f"num_taps {self.num_taps}, wanted equal lengths and 1 <= num_taps <= stages"
            )


class SmallNet(nn.Module):
    """A stack of convolution–norm–ReLU stages, each starting with stride 2."""

    def __init__(self, config: SmallNetConfig) -> None:
        super().__init__()
        self._num_taps = config.num_taps
        stages, channels = [], 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            layers: list[nn.Module] = []
            for index in range(depth):
                layers.append(conv_norm_relu(channels, width, 3, stride=2 if index == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps[-self._num_taps :]
