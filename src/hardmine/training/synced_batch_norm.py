"""Batch norm over the joint batch of several processes.

With the norm of each process's own part, a batch of 32 on two processes would train as two batches of 16
do. With this one it trains as on one process, up to the order of summation.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total
