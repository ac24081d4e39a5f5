"""Any network that a recipe can name, from its config."""

from __future__ import annotations

from typing import Annotated, assert_never

from pydantic import Field

from hardmine.models.ssd import SSD, SSDConfig
from hardmine.models.torchvision_network import TorchvisionConfig, TorchvisionNetwork

ModelConfig = Annotated[SSDConfig | TorchvisionConfig, Field(discriminator="kind")]
Network = SSD | TorchvisionNetwork


def make_network(config: SSDConfig | TorchvisionConfig, categories: tuple[str, ...]) -> Network:
    """Build the network of a config, with random weights.

    Raises:
        ConfigError: a choice that cannot be built.
    """
    match config:
        case SSDConfig():
            return SSD(config, categories)
        case TorchvisionConfig():
            return TorchvisionNetwork(config, categories)
        case _:
            assert_never(config)
