"""Softmax losses of selected priors as single nodes of a compiled graph, for the CPU.

A graph has fixed shapes, so a compiled step would compute the loss and the gradient of all priors and
mask them. These operators gather what was selected inside, as the step does that is not compiled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 1 << 18
"""Logits handled at once without a graph on the CPU: 1 MiB, which a core's cache holds."""


@torch.library.custom_op("hardmine::softmax_background", mutates_args=())
def background_op(logits: Tensor) -> Tensor:
    """Return −log softmax(logits)[..., 0], f32[B, A], of ``logits`` (Tensor[B, A, C + 1])."""
    rows = logits.flatten(0, 1)
    size = max(1, PIECE // rows.shape[1])
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    return torch.cat([-piece.log_softmax(-1)[:, 0] for piece in pieces]).view(logits.shape[:2])


@background_op.register_fake
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[:2])


@torch.library.custom_op("hardmine::softmax_sums", mutates_args=())
def sums_op(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return each image's sum f32[B] of cross-entropy over its ``chosen`` priors (bool[B, A])."""
    rows = chosen.flatten().nonzero()[:, 0]
    picked, targets = logits.flatten(0, 1)[rows], labels.flatten()[rows]
    losses = F.cross_entropy(picked, targets, reduction="none")
    return losses.new_zeros(len(labels)).index_add(0, rows // labels.shape[1], losses)


@sums_op.register_fake
def _(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0])


@torch.library.custom_op("hardmine::softmax_sums_backward", mutates_args=())
def _sums_backward_op(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return softmax − one-hot at the chosen priors × the image's gradient, 0 elsewhere."""
    rows = chosen.flatten().nonzero()[:, 0]
    slopes = logits.flatten(0, 1)[rows].softmax(-1)
    slopes[torch.arange(len(rows)), labels.flatten()[rows]] -= 1.0
    slopes *= gradient[rows // labels.shape[1], None]
    result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    result.view(-1, logits.shape[-1])[rows] = slopes
    return result


@_sums_backward_op.register_fake
def _(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _sums_backward_op(gradient, *ctx.saved_tensors), None, None


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


sums_op.register_autograd(_backward, setup_context=_save)
