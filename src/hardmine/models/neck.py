"""Necks: what stands between the backbone's feature maps and the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.models.layers import batch_norm, conv_norm_relu, separable_conv

_HALVE = (3, 2, 1)
"""Kernel, stride and padding of an added level unless said otherwise."""


@dataclass(frozen=True, slots=True)
class NoNeckConfig:
    """The backbone's taps are the levels."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, slots=True)
class ExtraLayersConfig:
    """Further, coarser levels: each halves the resolution of the one before.

    ``widths`` are the channels of the added levels (none: the taps alone). A level is a 1 × 1
    squeeze to half its width, a 3 × 3 of stride 2 (depthwise or dense) and, after a depthwise one,
    a 1 × 1. Without ``norm`` a convolution is followed by a ReLU alone, as in Caffe's SSD.
    """

    kind: Literal["extra"] = "extra"
    widths: tuple[int, ...] = (512, 256, 256, 128)
    depthwise: bool = True
    norm: bool = True
    kernels: tuple[tuple[int, int, int], ...] = ()
    """(kernel, stride, padding) of each added level's spatial convolution; empty: (3, 2, 1) for all.
    A map smaller than a kernel is padded up to it, so that any input size works."""

    def __post_init__(self) -> None:
        if self.kernels and len(self.kernels) != len(self.widths):
            raise ConfigError(
                f"neck.kernels: got {len(self.kernels)} levels, wanted 0 or {len(self.widths)}"
            )
        if self.depthwise and not self.norm:
            raise ConfigError("neck: depthwise levels without norm are not built; set norm: true")


@dataclass(frozen=True, slots=True)
class FpnConfig:
    """Feature pyramid: every tap brought to ``width`` channels and joined by the coarser ones.

    ``depthwise`` makes it FPN-lite: separable instead of dense 3 × 3 convolutions. ``extra_levels``
    coarser ones follow, each halving the resolution of the one before.
    """

    kind: Literal["fpn"] = "fpn"
    width: int = 128
    depthwise: bool = True
    extra_levels: int = 2

    def __post_init__(self) -> None:
        if self.width < 1 or self.extra_levels < 0:
            raise ConfigError(
                f"neck: got width {self.width}, extra_levels {self.extra_levels}, "
                "wanted >= 1 and >= 0"
            )


NeckConfig = Annotated[NoNeckConfig | ExtraLayersConfig | FpnConfig, Field(discriminator="kind")]


class NoNeck(nn.Module):
    """Passes the maps on."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return ``maps``."""
        return maps


class ExtraLayers(nn.Module):
    """Appends levels to the backbone's maps."""

    def __init__(self, config: ExtraLayersConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = [*in_channels, *config.widths]
        self._kernels = config.kernels or (_HALVE,) * len(config.widths)
        blocks, channels = [], in_channels[-1]
        for width, geometry in zip(config.widths, self._kernels, strict=True):
            blocks.append(_extra_block(channels, width, config, geometry))
            channels = width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return ``maps`` followed by the added levels, finest first."""
        levels = list(maps)
        for block, (kernel, _, padding) in zip(self.blocks, self._kernels, strict=True):
            levels.append(block(_at_least(levels[-1], kernel - 2 * padding)))
        return levels


class Fpn(nn.Module):
    """Lateral 1 × 1, nearest-neighbour upsampling and addition, then a 3 × 3 on every joined level.

    Source: Lin et al. 2017, "Feature pyramid networks", section 3; the coarser levels and the
    separable convolutions as in TF's ``ssd_mobilenet_v2_fpn_keras`` (``use_depthwise``).
    """

    def __init__(self, config: FpnConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        width = config.width
        self.channels = [width] * (len(in_channels) + config.extra_levels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in in_channels)
        self.smooth = nn.ModuleList(
            _fpn_block(width, 1, config.depthwise) for _ in in_channels[:-1]
        )
        self.extra = nn.ModuleList(
            _fpn_block(width, 2, config.depthwise) for _ in range(config.extra_levels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return one map per tap and the added ones, all of one width, finest first."""
        levels = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for index in range(len(levels) - 2, -1, -1):
            fine = levels[index]
            levels[index] = fine + F.interpolate(levels[index + 1], size=fine.shape[-2:])
        levels = [*(block(m) for block, m in zip(self.smooth, levels, strict=False)), levels[-1]]
        for block in self.extra:
            levels.append(block(levels[-1]))
        return levels


def make_neck(config: NeckConfig, in_channels: Sequence[int]) -> NoNeck | ExtraLayers | Fpn:
    """Build the neck over maps of ``in_channels``, finest first; its ``channels`` are the levels'."""
    match config:
        case NoNeckConfig():
            return NoNeck(in_channels)
        case ExtraLayersConfig():
            return ExtraLayers(config, in_channels)
        case FpnConfig():
            return Fpn(config, in_channels)
        case _:
            assert_never(config)


def _extra_block(
    in_channels: int, width: int, config: ExtraLayersConfig, geometry: tuple[int, int, int]
) -> nn.Sequential:
    middle = width // 2
    if config.depthwise:
        return nn.Sequential(
            conv_norm_relu(in_channels, middle, 1),
            _spatial(middle, middle, geometry, groups=middle),
            conv_norm_relu(middle, width, 1),
        )
    if config.norm:
        return nn.Sequential(
            conv_norm_relu(in_channels, middle, 1), _spatial(middle, width, geometry)
        )
    kernel, stride, padding = geometry
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(in_channels, middle, 1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(middle, width, kernel, stride, padding), nn.ReLU(inplace=True)),
    )


def _spatial(
    in_channels: int, out_channels: int, geometry: tuple[int, int, int], groups: int = 1
) -> nn.Sequential:
    kernel, stride, padding = geometry
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
        batch_norm(out_channels),
        nn.ReLU6(inplace=True),
    )


def _fpn_block(width: int, stride: int, depthwise: bool) -> nn.Sequential:
    if depthwise:
        return separable_conv(width, width, stride)
    return conv_norm_relu(width, width, 3, stride=stride)


def _at_least(feature: Tensor, side: int) -> Tensor:
    """Pad a map's bottom and right with zeros until both its sides are ``side`` or more."""
    rows, columns = feature.shape[-2:]
    if rows >= side and columns >= side:
        return feature
    return F.pad(feature, (0, max(0, side - columns), 0, max(0, side - rows)))
