"""Necks: what stands between the backbone's feature maps and the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hardmine.model.backbone import conv_norm_relu


@dataclass(frozen=True, slots=True)
class ExtraLayersConfig:
    """Further, coarser levels: each halves the resolution of the one before.

    ``widths`` are the channels of the added levels (none: the taps alone). A level is a 1 × 1
    squeeze to half its width, a 3 × 3 of stride 2 (depthwise or dense) and, after a depthwise one,
    a 1 × 1.
    """

    widths: tuple[int, ...] = (512, 256, 256, 128)
    depthwise: bool = True


class ExtraLayers(nn.Module):
    """Appends levels to the backbone's maps."""

    def __init__(self, config: ExtraLayersConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = [*in_channels, *config.widths]
        blocks, channels = [], in_channels[-1]
        for width in config.widths:
            blocks.append(_extra_block(channels, width, config.depthwise))
            channels = width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return ``maps`` followed by the added levels, finest first."""
        levels = list(maps)
        for block in self.blocks:
            levels.append(block(levels[-1]))
        return levels


def _extra_block(in_channels: int, width: int, depthwise: bool) -> nn.Sequential:
    middle = width // 2
    if not depthwise:
        return nn.Sequential(
            conv_norm_relu(in_channels, middle, 1), conv_norm_relu(middle, width, 3, stride=2)
        )
    return nn.Sequential(
        conv_norm_relu(in_channels, middle, 1),
        conv_norm_relu(middle, middle, 3, stride=2, groups=middle),
        conv_norm_relu(middle, width, 1),
    )
