"""Selecting the background priors that enter the loss, so that negative images train too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.types import Assignment, Selection


@dataclass(frozen=True, slots=True)
class RatioConfig:
    """Keep the max(``neg_to_pos_ratio`` × positives, ``floor``) hardest background priors an image."""

    neg_to_pos_ratio: float = 3.0
    floor: int = 32

    def __post_init__(self) -> None:
        if self.neg_to_pos_ratio < 0 or self.floor < 0:
            raise ConfigError(
                f"selection: got neg_to_pos_ratio {self.neg_to_pos_ratio}, floor {self.floor}, "
                "wanted both >= 0"
            )


@torch.no_grad()
def select_negatives(ce: Tensor, assignment: Assignment, config: RatioConfig) -> Selection:
    """Pick the background priors with the highest loss in each image.

    An image without objects still gives ``config.floor`` priors, so that a negative image trains.

    Args:
        ce (Tensor[B, A]): cross-entropy of each prior against its assigned label, nats.
        assignment: labels [B, A]; 0 background, −1 ignored.
        config: how many.

    Returns:
        Selection: ``negatives`` bool[B, A], never true on a positive or ignored prior; of equal
        losses the prior with the lower index goes first.

    Raises:
        ValueError: ``ce`` and ``assignment`` differ in shape.

    Source: Liu et al. 2016, "SSD", section 2.2; the floor is ours (see docs/differences.md).
    """
    if ce.shape != assignment.labels.shape:
        raise ValueError(
            f"ce: got shape {tuple(ce.shape)}, wanted {tuple(assignment.labels.shape)}"
        )
    positives = assignment.labels > 0
    background = assignment.labels == 0
    wanted = (positives.sum(1) * config.neg_to_pos_ratio).floor().clamp(min=config.floor)
    hardness = ce.masked_fill(~background, -torch.inf)
    order = hardness.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(ce.shape[1], device=ce.device).expand_as(order))
    return Selection(positives, background & (rank < wanted[:, None]))
