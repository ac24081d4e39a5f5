"""Any network that a recipe can name, from its config."""

from __future__ import annotations

from typing import Annotated

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
    if isinstance(config, TorchvisionConfig):
        return TorchvisionNetwork(config, categories)
    return SSD(config, categories)
