"""Initialisers of the layers that stand on top of a backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NormalInit:
    """normal(0, ``std``): .03 is TF's and torchvision's SSDLite, .01 TF's FPN models."""

    kind: Literal["normal"] = "normal"
    std: float = 0.03

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ConfigError(f"init.std: got {self.std}, wanted > 0")

    def fill(self, weight: Tensor) -> None:
        """Overwrite a convolution's ``weight`` (Tensor[out, in / groups, k, k])."""
        nn.init.normal_(weight, std=self.std)


@dataclass(frozen=True, slots=True)
class UniformInit:
    """Xavier's uniform: ±√(6 / (fan-in + fan-out)), as in Caffe's SSD and torchvision's ssd300."""

    kind: Literal["uniform"] = "uniform"

    def fill(self, weight: Tensor) -> None:
        """Overwrite a convolution's ``weight`` (Tensor[out, in / groups, k, k])."""
        nn.init.xavier_uniform_(weight)


@dataclass(frozen=True, slots=True)
class XavierInit:
    """Gaussian with deviation √(``magnitude`` / fan-out); 2 is GluonCV's choice for SSD."""

    kind: Literal["xavier"] = "xavier"
    magnitude: float = 2.0

    def __post_init__(self) -> None:
        if self.magnitude <= 0:
            raise ConfigError(f"init.magnitude: got {self.magnitude}, wanted > 0")

    def fill(self, weight: Tensor) -> None:
        """Overwrite a convolution's ``weight`` (Tensor[out, in / groups, k, k])."""
        fan_out = weight.shape[0] * weight[0, 0].numel()
        nn.init.normal_(weight, std=math.sqrt(self.magnitude) / math.sqrt(fan_out))


InitConfig = Annotated[NormalInit | UniformInit | XavierInit, Field(discriminator="kind")]


def init_layers(module: nn.Module, config: InitConfig) -> None:
    """Initialise the convolutions in ``module``; their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            config.fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def set_prior_probability(
    bias: Tensor, probability: float, num_columns: int, softmax: bool
) -> None:
    """Let a class head say "object" with ``probability`` before it has learnt anything.

    Args:
        bias (Tensor[K · num_columns]): of the last convolution, K priors a cell.
        num_columns: logits a prior: C + 1 with background first (``softmax``), else C.

    With softmax and all other logits 0, b = ln(C (1 − π) / π) on the background gives objects π in
    sum; with sigmoid, b = −ln((1 − π) / π) gives each class π. Source: Lin et al. 2017, "Focal Loss",
    section 4.1.
    """
    odds = math.log((1.0 - probability) / probability)
    columns = bias.data.view(-1, num_columns)
    columns.zero_()
    if softmax:
        columns[:, 0] = odds + math.log(num_columns - 1)
    else:
        columns.fill_(-odds)
