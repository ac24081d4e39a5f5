"""Taking the n priors of an image that score highest: the step that every selection rule shares."""

from __future__ import annotations

import torch
from torch import Tensor


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
