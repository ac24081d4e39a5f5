"""Blocks of layers that backbones, necks and heads share."""

from __future__ import annotations

from torch import nn


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
