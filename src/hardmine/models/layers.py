"""Layers that backbones, necks and heads share, how they are initialised, and batch norm over processes.

Among them stands a depthwise convolution that trains quickly in bf16 on a CPU. oneDNN has no good
backward kernel for one in bf16: on one core of a Xeon with AMX, batch 8, stride 2, 672 channels of 20
× 20 and a 5 × 5 kernel, it takes 122 ms, and 10 ms in float32 (the forward pass takes .7 and 1.5 ms).
So: forward in bf16, backward in float32, which is also the more exact.

With a batch norm of each process's own part, a batch of 32 on two processes would train as two
batches of 16 do. With `SyncedBatchNorm` it trains as on one process, up to the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hardmine.errors import ConfigError


class Normalise(nn.Module):
    """uint8 pixels to a network's input: ÷ 255, − ``mean``, ÷ ``std``, laid out channels last.

    In torchvision's order of operations, so that its networks get the same bits; the buffers are no part
    of the weights.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if min(std) <= 0:
            raise ConfigError(
                f"backbone.std: got {list(std)}, wanted > 0 for each of the three colours"
            )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return f32[B, 3, H, W] of ``images`` (Tensor[B, 3, H, W], RGB, 0 to 255)."""
        pixels = images.float() / 255  # a new tensor, so what follows may work in place
        pixels = pixels.sub_(self.get_buffer("mean")).div_(self.get_buffer("std"))
        return pixels.contiguous(memory_format=torch.channels_last)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution ("same" padding, no bias), batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        batch_norm(out_channels),
        nn.ReLU6(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a depthwise 3 × 3 and a 1 × 1 without anything between them, batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        batch_norm(out_channels),
        nn.ReLU6(inplace=True),
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return the batch norm of all added layers: momentum .03, eps .001 (TF's and torchvision's)."""
    return nn.BatchNorm2d(channels, momentum=0.03, eps=1e-3)


def use_float32_backward(network: nn.Module) -> int:
    """Let the depthwise convolutions of ``network`` go backward in float32; return how many there are.

    Names, weights and the forward pass stay as they are.
    """
    count = 0
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_depthwise(module):
            module.__class__ = _DepthwiseConv2d
            count += 1
    return count


def _is_depthwise(module: nn.Conv2d) -> bool:
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and 1 < module.groups == module.in_channels == module.out_channels


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        """Convolve each channel by its own kernel."""
        low = torch.get_autocast_dtype("cpu")
        if not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            weight = self.weight.to(low)
            out: Tensor = _Depthwise.apply(
                images.to(low), weight, self.stride, self.padding, self.dilation
            )
            return out if self.bias is None else out + self.bias.to(low).view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Tensor:
        """Convolve in the number type of the input."""
        ctx.save_for_backward(images, weight)
        ctx.where = (list(stride), list(padding), list(dilation))
        return F.conv2d(images, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, computed in float32."""
        images, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        into, of_weight, _ = torch.ops.aten.convolution_backward(
            gradients[0].float(),
            images.float(),
            weight.float(),
            None,
            *ctx.where,
            False,
            [0, 0],
            len(weight),
            wanted,
        )
        into = None if into is None else into.to(images.dtype)
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        return into, of_weight, None, None, None


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
        bias (Tensor[K · num_columns]): of the last convolution, K priors per cell.
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


def sync_batch_norms(model: nn.Module) -> None:
    """Replace every 2-D batch norm of a network by one whose statistics are those of all processes.

    The parameters and buffers stay the same objects under the same names.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SyncedBatchNorm.of(child))


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of the joint batch, on any device.

    Processes may hold different numbers of images. ``torch.nn.SyncBatchNorm`` needs a GPU and drops
    what a subclass does after the norm (timm's apply a dropout and an activation): this one applies
    such submodules in their order.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SyncedBatchNorm:
        """Return one that shares parameters, buffers and submodules with an ordinary batch norm."""
        made = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        made._parameters, made._buffers = norm._parameters, norm._buffers
        made._modules = norm._modules
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise float[B, C, H, W]."""
        result: Tensor = self._normalise(input) if self.training else super().forward(input)
        for following in self._modules.values():
            if following is not None:
                result = following(result)
        return result

    def _normalise(self, input: Tensor) -> Tensor:
        values = input.float()
        size = torch.full((1,), float(values.numel() // self.num_features), device=input.device)
        sums: Tensor = _sum_over_processes(torch.cat([values.sum((0, 2, 3)), size]))  # [C + 1]
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance: Tensor = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        result = centred * scale[:, None, None]
        if self.bias is not None:
            result = result + self.bias[:, None, None]
        return result.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), share)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sum_over_processes(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))


class _Sum(torch.autograd.Function):
    """A sum over processes through which gradients flow back to each of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient, which is summed over all processes too."""
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total
