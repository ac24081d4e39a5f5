"""The tools of negative mining: how priors are picked, whatever the rule.

Picking the n hardest of each image (with a way of its own for the CPU), non-maximum suppression inside
the miner, and random numbers that belong to an image and a step. Each has a custom operator, so that it
is one node of a compiled graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.boxes import box_iou


def pick_hardest(score: Tensor, eligible: Tensor, wanted: Tensor) -> Tensor:
    """Return a mask of the ``wanted`` highest scores among the eligible priors of each row.

    Of equal scores the lower index goes first. A score that is not a number counts as the highest, so
    that a network that has diverged shows in the loss.

    Args:
        score (Tensor[B, A]): any float.
        eligible (Tensor[B, A]): bool.
        wanted (Tensor[B]): how many at most, >= 0.

    Returns:
        Tensor[B, A]: bool.
    """
    if torch.compiler.is_compiling():
        picked: Tensor = _pick_op(score, eligible, wanted)
        return picked
    return _pick_eager(score, eligible, wanted)


def _pick_eager(score: Tensor, eligible: Tensor, wanted: Tensor) -> Tensor:
    wanted = torch.minimum(wanted.long(), eligible.sum(1))
    by_value = score.device.type == "cpu"
    if by_value and not wanted.any():
        return torch.zeros_like(eligible)
    ranked = score.nan_to_num(torch.inf).masked_fill_(~eligible, -torch.inf)
    return pick_by_value(ranked, wanted) if by_value else pick_by_sorting(ranked, wanted)


@torch.library.custom_op("hardmine::pick_hardest", mutates_args=())
def _pick_op(score: Tensor, eligible: Tensor, wanted: Tensor) -> Tensor:
    """One node of a compiled graph: a compiler has nothing to add to a sort."""
    return _pick_eager(score, eligible, wanted)


@_pick_op.register_fake
def _(score: Tensor, eligible: Tensor, wanted: Tensor) -> Tensor:
    return torch.empty_like(eligible)


def pick_by_sorting(ranked: Tensor, wanted: Tensor) -> Tensor:
    """Mark the first ``wanted`` of each row in a stable sort: fixed shapes, for accelerators."""
    order = ranked.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(ranked.shape[1], device=order.device).expand_as(order))
    return rank < wanted[:, None]


def pick_by_value(ranked: Tensor, wanted: Tensor) -> Tensor:
    """Mark what exceeds the last value taken, then its equals from the left; reads values (CPU)."""
    most = int(wanted.max()) if len(wanted) else 0
    if most == 0:
        return torch.zeros_like(ranked, dtype=torch.bool)
    least = ranked.topk(most, dim=1).values.gather(1, (wanted - 1).clamp(min=0)[:, None])
    least = least.masked_fill((wanted == 0)[:, None], torch.inf)
    picked = ranked >= least
    tied = picked.sum(1) > wanted
    if tied.any():
        above, equal = ranked[tied] > least[tied], ranked[tied] == least[tied]
        places = wanted[tied] - above.sum(1)
        picked[tied] = above | (equal & (equal.cumsum(1) <= places[:, None]))
    return picked


def suppress_negatives(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    """Return which of the ``candidates`` best-scored eligible priors survive greedy NMS.

    A prior falls when its box overlaps that of a better survivor by more than ``nms_iou``; of equal
    scores the lower index counts as better. Shapes are fixed: the loop runs over the candidates, for
    all images at once.

    Args:
        boxes (Tensor[B, A, 4]): xyxy pixels.
        score (Tensor[B, A]): any float.
        eligible (Tensor[B, A]): bool.
        nms_iou, candidates: limits.

    Returns:
        Tensor[B, A]: bool.
    """
    if torch.compiler.is_compiling():
        kept: Tensor = _suppress_op(boxes, score, eligible, nms_iou, candidates)
        return kept
    return _suppress(boxes, score, eligible, nms_iou, candidates)


def _suppress(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    ranked = score.nan_to_num(torch.inf).masked_fill(~eligible, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)[:, :candidates]  # [B, K]
    kept = eligible.gather(1, order)
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    falls = box_iou(chosen, chosen) > nms_iou  # [B, K, K]: row overlaps column
    for row in range(order.shape[1]):
        kept[:, row + 1 :] &= ~(falls[:, row, row + 1 :] & kept[:, row, None])
    return torch.zeros_like(eligible).scatter_(1, order, kept)


@torch.library.custom_op("hardmine::suppress", mutates_args=())
def _suppress_op(
    boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int
) -> Tensor:
    """One node of a compiled graph, so that the loop over candidates is not unrolled."""
    return _suppress(boxes, score, eligible, nms_iou, candidates)


@_suppress_op.register_fake
def _(boxes: Tensor, score: Tensor, eligible: Tensor, nms_iou: float, candidates: int) -> Tensor:
    return torch.empty_like(eligible)


_MASK = 0xFFFFFFFF
_ODD = 0x45D9F3B
_GOLDEN = 0x9E3779B1


def prior_noise(image_ids: Tensor, num_priors: int, step: int, seed: int) -> Tensor:
    """Return f32[B, A] in [0, 1), uniform, the same for the same ids, step and seed on any device.

    Args:
        image_ids (Tensor[B]): i64.
        num_priors: A.
        step, seed: any integers >= 0.

    Source: the 32-bit finaliser "lowbias" family (xor-shift and multiply), in i64 without overflow.
    """
    if torch.compiler.is_compiling():
        noise: Tensor = _noise_op(image_ids, num_priors, step, seed)
        return noise
    return _noise(image_ids, num_priors, step, seed)


def _noise(image_ids: Tensor, num_priors: int, step: int, seed: int) -> Tensor:
    image = _mix(_mix(image_ids + _GOLDEN) ^ (_scramble(step) + seed * _ODD & _MASK))
    prior = torch.arange(num_priors, device=image_ids.device) * _GOLDEN & _MASK
    bits = _mix(image[:, None] ^ prior)
    return (bits >> 8).float() / (1 << 24)


@torch.library.custom_op("hardmine::prior_noise", mutates_args=())
def _noise_op(image_ids: Tensor, num_priors: int, step: int, seed: int) -> Tensor:
    """One node of a compiled graph: a step that is a symbol there makes no kernel of its own."""
    return _noise(image_ids, num_priors, step, seed)


@_noise_op.register_fake
def _(image_ids: Tensor, num_priors: int, step: int, seed: int) -> Tensor:
    return image_ids.new_empty(len(image_ids), num_priors, dtype=torch.float32)


def _scramble(step: int) -> int:
    return (step + 1) * _GOLDEN & _MASK


def _mix(x: Tensor) -> Tensor:
    x = x & _MASK
    x = (((x >> 16) ^ x) * _ODD) & _MASK
    x = (((x >> 16) ^ x) * _ODD) & _MASK
    return (x >> 16) ^ x
