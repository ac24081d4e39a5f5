"""Necks (between the feature maps of the backbone and the heads) and heads (class logits, boxes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
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
        if any(width < 2 for width in self.widths):
            raise ConfigError(
                f"neck.widths: got {list(self.widths)}, wanted 2 channels or more each"
            )
        if any(kernel < 1 or stride < 1 or padding < 0 for kernel, stride, padding in self.kernels):
            raise ConfigError(
                f"neck.kernels: got {[list(each) for each in self.kernels]}, wanted a kernel and a "
                "stride of 1 or more and a padding of 0 or more each"
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


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """A predictor of its own for each level.

    ``depthwise``: a depthwise 3 × 3 then a 1 × 1 (SSDLite); else one dense 3 × 3 (SSD).
    """

    kind: Literal["levels"] = "levels"
    depthwise: bool = True
    prior_probability: float | None = None
    """How surely the class head says "object" before training; ``None``: its biases start at 0."""

    def __post_init__(self) -> None:
        _check_probability(self.prior_probability)


@dataclass(frozen=True, slots=True)
class SharedHeadConfig:
    """One tower of ``depth`` convolutions and one predictor, the same weights at every level.

    Only the norms are each level's own, since the statistics of levels differ. The tower serves
    both classes and boxes. Source: TF's ``WeightSharedConvolutionalBoxPredictor`` with
    ``share_prediction_tower``, as in its FPNLite models.
    """

    kind: Literal["shared"] = "shared"
    depth: int = 4
    depthwise: bool = True
    prior_probability: float | None = None
    """See :class:`HeadConfig`."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ConfigError(f"head.depth: got {self.depth}, wanted >= 0")
        _check_probability(self.prior_probability)


AnyHeadConfig = Annotated[HeadConfig | SharedHeadConfig, Field(discriminator="kind")]


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

    @property
    def predictors(self) -> list[Predictor]:
        """The predictor of each level."""
        return [p for p in self.levels if isinstance(p, Predictor)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return f32[B, A, width] from one feature map per level."""
        pairs = zip(self.predictors, maps, strict=True)
        return torch.cat([predictor.predict(m, self._width) for predictor, m in pairs], 1)


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

    def predict(self, feature: Tensor, width: int) -> Tensor:
        """Return f32[B, rows · columns · K, ``width``] of one map, in the priors' order."""
        feature = self.body(feature)
        # The meta device, where sizes are counted, knows no autocast.
        device = "cpu" if feature.is_meta else feature.device.type
        with torch.autocast(device, enabled=False):
            out: Tensor = self.last(
                feature.to(self.last.weight.dtype)
            )  # [B, K·width, rows, columns]
        return out.permute(0, 2, 3, 1).reshape(out.shape[0], -1, width)


class SharedHead(nn.Module):
    """One predictor for all levels; a depthwise 3 × 3 comes without a norm, so no statistics mix."""

    def __init__(
        self,
        config: SharedHeadConfig,
        channels: Sequence[int],
        num_priors: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        if len(set(channels)) > 1 or len(set(num_priors)) > 1:
            raise ConfigError(
                f"head: one for all levels, got levels of {list(channels)} channels with "
                f"{list(num_priors)} priors a cell, wanted equal ones (an fpn neck, multiscale priors)"
            )
        self._width = width
        own = HeadConfig(depthwise=False)
        self.predictor = Predictor(own, channels[0], num_priors[0] * width)
        if config.depthwise:
            side = channels[0]
            self.predictor.body = nn.Conv2d(side, side, 3, padding=1, groups=side, bias=False)
            self.predictor.last = nn.Conv2d(side, num_priors[0] * width, 1)

    @property
    def predictors(self) -> list[Predictor]:
        """The one predictor."""
        return [self.predictor]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return f32[B, A, width] from one feature map per level."""
        return torch.cat([self.predictor.predict(m, self._width) for m in maps], 1)


class SharedTower(nn.Module):
    """Convolutions with the same weights at every level and norms of each level's own."""

    def __init__(self, config: SharedHeadConfig, channels: Sequence[int]) -> None:
        super().__init__()
        side = channels[0]
        self.layers = nn.ModuleList(
            _tower_conv(side, config.depthwise) for _ in range(config.depth)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(batch_norm(side) for _ in range(config.depth)) for _ in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one map per level, of the same shapes."""
        levels = []
        for norms, feature in zip(self.norms, maps, strict=True):
            assert isinstance(norms, nn.ModuleList)
            for layer, norm in zip(self.layers, norms, strict=True):
                feature = nn.functional.relu6(norm(layer(feature)))
            levels.append(feature)
        return levels


def make_head(
    config: AnyHeadConfig, channels: Sequence[int], num_priors: Sequence[int], width: int
) -> Head | SharedHead:
    """Build a head that gives ``width`` numbers for each prior.

    Raises:
        ConfigError: a shared head over levels that differ.
    """
    match config:
        case HeadConfig():
            return Head(config, channels, num_priors, width)
        case SharedHeadConfig():
            return SharedHead(config, channels, num_priors, width)
        case _:
            assert_never(config)


def make_tower(config: AnyHeadConfig, channels: Sequence[int]) -> nn.Module:
    """Build what stands before both heads: a shared tower, or nothing."""
    match config:
        case HeadConfig():
            return nn.Identity()
        case SharedHeadConfig():
            return SharedTower(config, channels) if config.depth else nn.Identity()
        case _:
            assert_never(config)


def _tower_conv(side: int, depthwise: bool) -> nn.Module:
    if not depthwise:
        return nn.Conv2d(side, side, 3, padding=1, bias=False)
    return nn.Sequential(
        nn.Conv2d(side, side, 3, padding=1, groups=side, bias=False),
        nn.Conv2d(side, side, 1, bias=False),
    )


def _check_probability(value: float | None) -> None:
    if value is not None and not 0.0 < value < 1.0:
        raise ConfigError(f"head.prior_probability: got {value}, wanted above 0 and below 1")
