"""Blocks of layers that backbones, necks and heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
