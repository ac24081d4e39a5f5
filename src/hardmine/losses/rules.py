"""The selection rules at work: from what a batch's priors cost to the masks that enter the loss.

No rule reads a value on the host (``pick_hardest`` and the miner's NMS know ways of their own for the
CPU), and none loops over images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.losses.hardest import pick_hardest
from hardmine.losses.negative_mining import (
    AllConfig,
    BandConfig,
    BatchRatioConfig,
    HardExamplesConfig,
    LevelQuotaConfig,
    MixedConfig,
    RandomConfig,
    RatioConfig,
    SelectionConfig,
)
from hardmine.losses.noise import prior_noise
from hardmine.losses.suppress import suppress_negatives
from hardmine.types import Assignment, Selection


@dataclass(frozen=True, slots=True, eq=False)
class RankedPriors:
    """What a rule chooses from; nothing here carries a gradient.

    ``background`` f32[B, A] is −log p(background), ``rank`` f32[B, A] what the rule ranks by,
    ``boxes`` f32[B, A, 4] the decoded predictions (``None`` unless the rule suppresses), ``level``
    i64[A], ``num_levels`` their number, ``image_ids`` i64[B]; ``step`` of ``steps`` says how far the
    training is, ``seed`` whose it is.
    """

    assignment: Assignment
    background: Tensor
    rank: Tensor
    level: Tensor
    num_levels: int
    image_ids: Tensor
    boxes: Tensor | None = None
    step: int = 0
    steps: int = 1
    seed: int = 0

    @property
    def negatives(self) -> Tensor:
        """Background priors that are not ignored, bool[B, A]."""
        return self.assignment.labels == 0

    @property
    def positives(self) -> Tensor:
        """Priors with an object, bool[B, A]."""
        return self.assignment.labels > 0

    def noise(self) -> Tensor:
        """Return f32[B, A] in [0, 1), anew in each step, the same after a restart."""
        return prior_noise(self.image_ids, len(self.level), self.step, self.seed)


@torch.no_grad()
def select_priors(view: RankedPriors, config: SelectionConfig) -> Selection:
    """Choose the priors that enter the loss.

    Returns:
        Selection: masks bool[B, A], disjoint, never true on an ignored prior. Of equal ranks the prior
        with the lower index goes first.

    Raises:
        ValueError: ranks and labels differ in shape.

    Source: Liu et al. 2016, "SSD", section 2.2, for the ratio; docs/differences.md for the others.
    """
    wanted = tuple(view.assignment.labels.shape)
    for name, values in (("background", view.background), ("rank", view.rank)):
        if tuple(values.shape) != wanted:
            raise ValueError(f"{name}: got shape {tuple(values.shape)}, wanted {wanted}")
    if isinstance(config, AllConfig):
        return Selection(view.positives, view.negatives)
    if isinstance(config, HardExamplesConfig):
        return _hard_examples(view, config)
    chosen = _negatives(view, config)
    if config.floor and not _reaches_floor(config):
        chosen = _fill(view, chosen, config.floor)
    return Selection(view.positives, chosen)


def _negatives(
    view: RankedPriors,
    config: RandomConfig
    | RatioConfig
    | BatchRatioConfig
    | BandConfig
    | LevelQuotaConfig
    | MixedConfig,
) -> Tensor:
    """Return the background priors that a rule takes before the floor, bool[B, A]."""
    quota = _floor_of(view.positives.sum(1) * config.neg_to_pos_ratio)  # [B]
    if isinstance(config, RatioConfig):
        if _reaches_floor(config):
            quota = quota.clamp(min=config.floor)
        return pick_hardest(view.rank, _survivors(view, view.negatives, config), quota)
    if isinstance(config, RandomConfig):
        return pick_hardest(view.noise(), view.negatives, quota.clamp(min=config.count))
    if isinstance(config, BandConfig):
        iou = view.assignment.iou
        band = view.negatives & (iou >= config.low) & (iou < config.high)
        return pick_hardest(view.rank, band, quota)
    if isinstance(config, LevelQuotaConfig):
        return _by_level(view, config, quota)
    if isinstance(config, MixedConfig):
        share = config.hard_share(view.step, view.steps)
        hard = pick_hardest(view.rank, view.negatives, _floor_of(quota * share))
        rest = quota - hard.sum(1)
        return hard | pick_hardest(view.noise(), view.negatives & ~hard, rest)
    total = _floor_of(view.positives.sum() * config.neg_to_pos_ratio).clamp(min=config.least)
    flat = pick_hardest(view.rank.view(1, -1), view.negatives.view(1, -1), total.view(1))
    return flat.view_as(view.rank)


def _hard_examples(view: RankedPriors, config: HardExamplesConfig) -> Selection:
    chosen = _survivors(view, view.positives | view.negatives, config)
    if config.count:
        wanted = torch.full_like(view.image_ids, config.count)
        chosen = pick_hardest(view.rank, chosen, wanted)
    positives, negatives = chosen & view.positives, chosen & view.negatives
    if config.neg_to_pos_ratio is not None:
        most = _floor_of(positives.sum(1) * config.neg_to_pos_ratio).clamp(min=config.floor)
        negatives = pick_hardest(view.rank, negatives, most)
    if config.floor:
        negatives = _fill(view, negatives, config.floor)
    return Selection(positives, negatives)


def _by_level(view: RankedPriors, config: LevelQuotaConfig, quota: Tensor) -> Tensor:
    shares = config.shares or (1.0,) * view.num_levels
    if len(shares) != view.num_levels:
        raise ConfigError(f"selection.shares: got {len(shares)}, wanted {view.num_levels} (levels)")
    chosen = torch.zeros_like(view.negatives)
    for level, share in enumerate(shares):
        here = view.negatives & (view.level == level)
        chosen = chosen | pick_hardest(view.rank, here, _floor_of(quota * (share / sum(shares))))
    left = quota - chosen.sum(1)
    return chosen | pick_hardest(view.rank, view.negatives & ~chosen, left)


def _survivors(
    view: RankedPriors, eligible: Tensor, config: RatioConfig | HardExamplesConfig
) -> Tensor:
    if config.nms_iou is None:
        return eligible
    assert view.boxes is not None
    return suppress_negatives(
        view.boxes, view.rank, eligible, config.nms_iou, config.nms_candidates
    )


def _reaches_floor(config: SelectionConfig) -> bool:
    """Return whether filling up to the floor only goes on in the rule's own order."""
    if not isinstance(config, RatioConfig):
        return False
    return config.rank == "background" and config.nms_iou is None


def _fill(view: RankedPriors, chosen: Tensor, floor: int) -> Tensor:
    """Fill each image's negatives up to ``floor`` with its hardest background priors."""
    missing = (floor - chosen.sum(1)).clamp(min=0)
    return chosen | pick_hardest(view.background, view.negatives & ~chosen, missing)


def _floor_of(value: Tensor) -> Tensor:
    return value.floor().long()
