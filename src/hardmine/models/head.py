"""Heads: class logits and box deltas of every prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.models.layers import batch_norm, conv_norm_relu


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
