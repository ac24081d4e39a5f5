"""Backbones: what a recipe may name, and the network it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, assert_never

import torch
from pydantic import Field
from torch import nn

from hardmine.errors import ConfigError
from hardmine.models.backbones.feature_taps import (
    Taps,
    TapsConfig,
    TimmConfig,
)
from hardmine.models.backbones.own_networks import SmallNet, SmallNetConfig, Vgg16, VggConfig

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
