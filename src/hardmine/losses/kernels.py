"""Losses of selected priors as single nodes of a compiled graph, for the CPU: softmax and smooth L1.

A graph has fixed shapes, so a compiled step would compute the loss and the gradient of all priors and
mask them. These operators gather what was selected inside, as the step does that is not compiled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.models.priors import encode_boxes

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
    picked = logits.flatten(0, 1).index_select(0, rows)
    targets = labels.flatten()[rows]
    losses = F.cross_entropy(picked, targets, reduction="none")
    return losses.new_zeros(len(labels)).index_add(0, rows // labels.shape[1], losses)


@sums_op.register_fake
def _(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0])


@torch.library.custom_op("hardmine::softmax_sums_backward", mutates_args=())
def _sums_backward_op(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return softmax − one-hot at the chosen priors × the image's gradient, 0 elsewhere."""
    rows = chosen.flatten().nonzero()[:, 0]
    slopes = logits.flatten(0, 1).index_select(0, rows).softmax(-1)
    slopes[torch.arange(len(rows)), labels.flatten()[rows]] -= 1.0
    slopes *= gradient[rows // labels.shape[1], None]
    result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    result.view(-1, logits.shape[-1]).index_copy_(0, rows, slopes)
    return result


@_sums_backward_op.register_fake
def _(gradient: Tensor, logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _sums_backward_op(gradient, *ctx.saved_tensors), None, None


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


sums_op.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("hardmine::smooth_l1_sums", mutates_args=())
def box_sums_op(
    deltas: Tensor,
    boxes: Tensor,
    box_index: Tensor,
    positives: Tensor,
    priors_cxcywh: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Return each image's sum f32[B] of smooth L1 over its ``positives`` (bool[B, A]) and its slopes.

    ``deltas`` (Tensor[B, A, 4]) against ``boxes`` (Tensor[B, G, 4], xyxy) by ``box_index`` (i64[B, A]).
    Slopes, f32[B, A, 4], are the difference ÷ ``beta``, ±1 at most, and 0 where nothing is positive.
    """
    num_priors = deltas.shape[1]
    rows = positives.flatten().nonzero()[:, 0]
    image, prior = rows // num_priors, rows % num_priors
    wanted = encode_boxes(boxes[image, box_index.flatten()[rows]], priors_cxcywh[prior])
    picked, wanted = deltas.flatten(0, 1).index_select(0, rows), wanted.to(deltas.dtype)
    losses = F.smooth_l1_loss(picked, wanted, reduction="none", beta=beta).sum(-1)
    slopes = torch.zeros_like(deltas, memory_format=torch.contiguous_format)
    slopes.view(-1, 4).index_copy_(0, rows, ((picked - wanted) / beta).clamp_(-1.0, 1.0))
    return losses.new_zeros(len(boxes)).index_add(0, image, losses), slopes


@box_sums_op.register_fake
def _(deltas: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    slopes = torch.empty_like(deltas, memory_format=torch.contiguous_format)
    return deltas.new_empty(deltas.shape[0]), slopes


def _box_backward(
    ctx: Any, gradient: Tensor, _: Tensor
) -> tuple[Tensor, None, None, None, None, None]:
    (slopes,) = ctx.saved_tensors
    return gradient[:, None, None] * slopes, None, None, None, None, None


def _box_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


box_sums_op.register_autograd(_box_backward, setup_context=_box_save)
