"""Blocks of layers that backbones, necks and heads share.

Below them stands a depthwise convolution that trains quickly in bf16 on a CPU. oneDNN has no good
backward kernel for one in bf16: on one core of a Xeon with AMX, batch 8, stride 2, 672 channels of
20 × 20 and a 5 × 5 kernel, it takes 122 ms, and 10 ms in float32 (the forward pass takes .7 and 1.5 ms).
So: forward in bf16, backward in float32, which is also the more exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalise(nn.Module):
    """uint8 pixels to a network's input: ÷ 255, − ``mean``, ÷ ``std``, laid out channels last.

    In torchvision's order of operations, so that its networks get the same bits; the buffers are no part
    of the weights.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
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
        ctx.save_for_backward(images, weight)
        ctx.where = (list(stride), list(padding), list(dilation))
        return F.conv2d(images, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
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
