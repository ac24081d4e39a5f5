"""Backbones: any torchvision network tapped at named nodes, or a small network of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import CheckpointError, ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class TapsConfig:
    """A torchvision classification network, cut where its feature maps are taken.

    ``taps`` are node names as ``torchvision.models.feature_extraction.get_graph_node_names`` lists
    them, finest first. ``frozen`` names the modules that are not trained; their batch statistics stay
    as loaded. Freezing the high-resolution stages of a pretrained network costs little on small sets
    and more than halves the time of a step on a CPU.
    """

    kind: Literal["taps"] = "taps"
    name: str = "mobilenet_v2"
    taps: tuple[str, ...] = ("features.14.conv.0", "features.18")
    frozen: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


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


BackboneConfig = Annotated[TapsConfig | SmallNetConfig, Field(discriminator="kind")]


class Taps(nn.Module):
    """A torchvision network that returns the feature maps at its taps, finest first."""

    def __init__(self, config: TapsConfig) -> None:
        super().__init__()
        from torchvision.models import get_model, list_models
        from torchvision.models.feature_extraction import create_feature_extractor

        if config.name not in list_models(module=cast(Any, _classification_models())):
            raise ConfigError(
                f"backbone.name: got {config.name!r}, wanted a torchvision classification model"
            )
        network = get_model(config.name, weights=None)
        nodes = {tap: str(i) for i, tap in enumerate(config.taps)}
        try:
            self.network = create_feature_extractor(network, nodes)
        except ValueError as error:
            raise ConfigError(f"backbone.taps of {config.name}: {error}") from None
        self._frozen = [self._module(name) for name in config.frozen]
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised ``images`` (Tensor[B, 3, H, W])."""
        return list(self.network(images).values())

    def train(self, mode: bool = True) -> Taps:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def load_weights(self, path: Path) -> None:
        """Load a state dict of the whole classification network; its classifier is left out.

        Raises:
            CheckpointError: unreadable, unsafe, or keys or shapes that do not fit.
        """
        state = read_state_dict(path)
        own = self.network.state_dict()
        missing = [key for key in own if key not in state]
        if missing:
            raise CheckpointError(
                f"{path}: lacks {len(missing)} of the backbone's {len(own)} tensors, "
                f"first {missing[0]!r}"
            )
        misfits = [key for key in own if own[key].shape != state[key].shape]
        if misfits:
            key = misfits[0]
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, wanted {tuple(own[key].shape)}"
            )
        self.network.load_state_dict({key: state[key] for key in own})

    def _module(self, name: str) -> nn.Module:
        try:
            module: nn.Module = self.network.get_submodule(name)
            return module
        except AttributeError:
            raise ConfigError(f"backbone.frozen: no module {name!r}") from None


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


def make_backbone(config: BackboneConfig) -> Taps | SmallNet:
    """Build the network that a config describes, with random weights."""
    return Taps(config) if isinstance(config, TapsConfig) else SmallNet(config)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution ("same" padding, no bias), batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, momentum=0.03, eps=1e-3),
        nn.ReLU6(inplace=True),
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from ``.safetensors`` or a ``torch.save`` file, executing nothing.

    Raises:
        CheckpointError: missing, truncated, not a mapping of tensors, or a pickle with other content.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001  (safetensors and pickle raise many kinds)
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "unreadable"
        raise CheckpointError(f"{path}: not a readable weights file ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: wanted a state dict (names to tensors)")
    return state


def _classification_models() -> Any:
    import torchvision

    return torchvision.models


def probe_channels(
    backbone: nn.Module, height: int, width: int
) -> tuple[Sequence[int], list[tuple[int, int]]]:
    """Return the channels and (rows, columns) of each feature map for an input size."""
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, height, width))
    backbone.train(was_training)
    return [m.shape[1] for m in maps], [(m.shape[2], m.shape[3]) for m in maps]
