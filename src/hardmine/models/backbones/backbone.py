"""Backbones: what a recipe may name, the network it stands for, and the two networks of our own.

VGG16: fc6 and fc7 as convolutions, fc6 dilated, conv4_3 L2-normalised. Source: Liu et al. 2016,
"SSD", section 3, and Caffe's ``VGG_VOC0712_SSD``; names of modules as in torchvision's ``vgg16`` so
that its ImageNet weights load. The small network trains from scratch in minutes. Any other network is
that of `feature_taps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, assert_never

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import ConfigError
from hardmine.models.backbones.feature_taps import (
    Taps,
    TapsConfig,
    TimmConfig,
)
from hardmine.models.layers import conv_norm_relu
from hardmine.models.state_dict import copy_state, read_state_dict

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_CONV4_3 = 22
"""Index in ``features`` of the ReLU behind conv4_3."""
_STAGE_STARTS = (0, 5, 10, 17, 24)


@dataclass(frozen=True, slots=True)
class VggConfig:
    """VGG16 with the first ``frozen_stages`` of its five stages not trained.

    ``mean`` and ``std`` are Caffe's (pixels minus the mean, not divided), which torchvision's
    ``IMAGENET1K_FEATURES`` weights were trained with.
    """

    kind: Literal["vgg16"] = "vgg16"
    frozen_stages: int = 0
    l2norm_scale: float = 20.0
    mean: tuple[float, float, float] = (0.48235, 0.45882, 0.40784)
    std: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 4 or self.l2norm_scale <= 0:
            raise ConfigError(
                f"backbone: got frozen_stages {self.frozen_stages}, l2norm_scale "
                f"{self.l2norm_scale}, wanted 0..4 and > 0"
            )


class Vgg16(nn.Module):
    """Gives conv4_3 (stride 8, normalised over its channels) and fc7 (stride 16)."""

    def __init__(self, config: VggConfig) -> None:
        super().__init__()
        self.features = _features()
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        self.scale = nn.Parameter(torch.full((512,), config.l2norm_scale))
        for layer in (self.fc6, self.fc7):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.features[: _STAGE_STARTS[config.frozen_stages]].requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        conv4_3 = self.features[: _CONV4_3 + 1](images)
        fine = F.normalize(conv4_3, dim=1) * self.scale.view(1, -1, 1, 1)
        coarse = F.max_pool2d(self.features[_CONV4_3 + 1 :](conv4_3), 3, 1, 1)
        return [fine, F.relu(self.fc7(F.relu(self.fc6(coarse))))]

    def load_weights(self, path: Path) -> None:
        """Load a state dict of torchvision's ``vgg16``.

        Where its classifier is there, every fourth unit of fc6 and fc7 and every third pixel of fc6
        become their convolutions, as in the paper; else they keep their random weights.

        Raises:
            CheckpointError: unreadable, unsafe, or keys or shapes that do not fit.
        """
        state = read_state_dict(path)
        features = {
            k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")
        }
        copy_state(self.features, features, path, "backbone")
        self._take_classifier(state)

    def _take_classifier(self, state: Mapping[str, Tensor]) -> None:
        fc6, fc7 = state.get("classifier.0.weight"), state.get("classifier.3.weight")
        if fc6 is None or fc7 is None or not bool(fc6[0].isfinite().all()):
            return  # torchvision's IMAGENET1K_FEATURES holds NaN there
        with torch.no_grad():
            self.fc6.weight.copy_(fc6.reshape(4096, 512, 7, 7)[::4, :, ::3, ::3])
            self.fc7.weight.copy_(fc7.reshape(4096, 4096, 1, 1)[::4, ::4])
            for layer, index in ((self.fc6, 0), (self.fc7, 3)):
                assert layer.bias is not None
                layer.bias.copy_(state[f"classifier.{index}.bias"][::4])


def _features() -> nn.Sequential:
    """Return conv1_1 … conv5_3 with the pools between; the third rounds up, so 300 px gives 38."""
    layers: list[nn.Module] = []
    channels = 3
    for index, stage in enumerate(_STAGES):
        if index:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=index == 3))
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


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


BackboneConfig = Annotated[
    TapsConfig | TimmConfig | VggConfig | SmallNetConfig, Field(discriminator="kind")
]


def make_backbone(config: BackboneConfig) -> Taps | Vgg16 | SmallNet:
    """Build the network that a config describes, with random weights."""
    match config:
        case TapsConfig() | TimmConfig():
            return Taps(config)
        case VggConfig():
            return Vgg16(config)
        case SmallNetConfig():
            return SmallNet(config)
        case _:
            assert_never(config)


def probe_channels(
    network: nn.Module, height: int, width: int
) -> tuple[Sequence[int], list[tuple[int, int]]]:
    """Return the channels and (rows, columns) of each feature map for an input size.

    Nothing is computed: the network runs with tensors that have shapes alone.

    Raises:
        ConfigError: it does not take such an input, or gives no maps of the form [B, C, H, W].
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes_only = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            images = torch.empty(1, 3, height, width, device="meta")
            maps = torch.func.functional_call(network, shapes_only, (images,))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ConfigError(
            f"backbone: an input of {height}x{width} does not go through it ({reason})"
        ) from None
    finally:
        network.train(was_training)
    wanted = network.known_channels if isinstance(network, Taps) else ()
    if any(m.ndim != 4 for m in maps) or (wanted and [m.shape[1] for m in maps] != list(wanted)):
        raise ConfigError(
            f"backbone: gives {[tuple(m.shape[1:]) for m in maps]}, wanted feature maps with the "
            "channels first; a transformer's tokens are none"
        )
    return [m.shape[1] for m in maps], [(m.shape[2], m.shape[3]) for m in maps]
