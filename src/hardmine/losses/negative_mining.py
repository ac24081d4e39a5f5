"""Negative mining: which priors enter the loss, and how many negatives each image gives.

A selection rule is a config that says how it selects (:meth:`SelectionRule.select`). Every rule but
``all`` has a ``floor``: an image whose quota is smaller (most of all an image without objects, whose
quota is 0 in other frameworks) is filled up to it with its hardest background priors, so that a negative
image trains. "Hardest" is by −log p(background) unless a rule ranks otherwise.

No rule reads a value on the host and none loops over images; :mod:`prior_picking` has their tools.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.losses.prior_picking import pick_hardest, prior_noise, suppress_negatives
from hardmine.tensors import Assignment, Selection

Rank = Literal["background", "class", "localisation", "both"]
"""What a rule ranks by: −log p(background), the classification loss, the localisation loss, or the
sum of the last two. A background prior's localisation loss is 0 in ``hard_examples``, as in Caffe
and TF; in ``ratio``, where that would rank nothing, it is taken against the object that the prior
overlaps most (0 where it overlaps none)."""

USUAL_RATIO = 3.0
"""Negatives per positive where a rule states none."""

_MOST_CANDIDATES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class RankedPriors:
    """What a rule selects from; nothing here carries a gradient.

    ``background`` f32[B, A] is −log p(background), ``rank`` f32[B, A] what the rule ranks by,
    ``boxes`` f32[B, A, 4] the decoded predictions (``None`` unless the rule suppresses), ``level``
    i64[A], ``num_levels`` their number, ``image_ids`` i64[B]; ``step`` of ``steps`` says how far the
    training is, ``seed`` whose it is (both only for rules that read them).
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

    def quota(self, ratio: float) -> Tensor:
        """Return how many negatives ``ratio`` per positive allows each image, i64[B]."""
        return _floor_of(self.positives.sum(1) * ratio)

    def noise(self) -> Tensor:
        """Return f32[B, A] in [0, 1), anew in each step, the same after a restart."""
        return prior_noise(self.image_ids, len(self.level), self.step, self.seed)

    def filled(self, chosen: Tensor, floor: int) -> Tensor:
        """Return ``chosen`` bool[B, A] with each image's hardest background priors up to ``floor``."""
        if not floor:
            return chosen
        missing = (floor - chosen.sum(1)).clamp(min=0)
        return chosen | pick_hardest(self.background, self.negatives & ~chosen, missing)


@torch.no_grad()
def select_priors(ranked: RankedPriors, rule: SelectionRule) -> Selection:
    """Choose the priors that enter the loss.

    Returns:
        Selection: masks bool[B, A], disjoint, never true on an ignored prior. Of equal ranks the prior
        with the lower index goes first.

    Raises:
        ValueError: ranks and labels differ in shape.

    Source: Liu et al. 2016, "SSD", section 2.2, for the ratio; docs/differences.md for the others.
    """
    wanted = tuple(ranked.assignment.labels.shape)
    for name, values in (("background", ranked.background), ("rank", ranked.rank)):
        if tuple(values.shape) != wanted:
            raise ValueError(f"{name}: got shape {tuple(values.shape)}, wanted {wanted}")
    return rule.select(ranked)


class SelectionRule(ABC):
    """What the loss and the normaliser ask of a rule; one that differs from this says so itself."""

    __slots__ = ()

    @abstractmethod
    def select(self, ranked: RankedPriors) -> Selection:
        """Return what enters the loss, at least ``floor`` negatives per image where it has them."""

    @property
    @abstractmethod
    def negatives_per_positive(self) -> float | None:
        """The quota from which the normaliser works out the positives that a selection stands for;
        ``None``: there is no quota.
        """

    @property
    def rank(self) -> Rank:
        """What it ranks by."""
        return "background"

    @property
    def ranks_matched_boxes_only(self) -> bool:
        """True: the localisation loss of a background prior counts as 0."""
        return False

    @property
    def nms_iou(self) -> float | None:
        """Overlap above which the prediction of an easier prior is suppressed; ``None``: none is."""
        return None

    @property
    def reads_step(self) -> bool:
        """True: the selection depends on how far the training is."""
        return False


class QuotaRule(SelectionRule):
    """A rule that keeps all positives and gives each image a quota of negatives with a floor."""

    __slots__ = ()
    neg_to_pos_ratio: float
    floor: int

    @abstractmethod
    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Return bool[B, A], the background priors taken before the floor; ``quota`` is i64[B]."""

    def select(self, ranked: RankedPriors) -> Selection:
        """Return all positives, and the negatives with each image filled up to the floor."""
        chosen = self.negatives(ranked, ranked.quota(self.neg_to_pos_ratio))
        return Selection(ranked.positives, ranked.filled(chosen, self.floor))

    @property
    def negatives_per_positive(self) -> float | None:
        """The ratio."""
        return self.neg_to_pos_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class AllConfig(SelectionRule):
    """Every prior that is not ignored; with the focal loss, RetinaNet's choice."""

    kind: Literal["all"] = "all"

    def select(self, ranked: RankedPriors) -> Selection:
        """Return all positives and all negatives."""
        return Selection(ranked.positives, ranked.negatives)

    @property
    def negatives_per_positive(self) -> float | None:
        """It has no quota."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomConfig(QuotaRule):
    """max(``neg_to_pos_ratio`` × positives, ``count``) random background priors of each image.

    A fixed number is ``neg_to_pos_ratio`` 0 and a ``count``. The floor, if larger, is filled by
    hardness, not at random.
    """

    kind: Literal["random"] = "random"
    neg_to_pos_ratio: float = 3.0
    count: int = 0
    floor: int = 32

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        if self.count < 0:
            raise ConfigError(f"selection.count: got {self.count}, wanted >= 0")

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the highest of random numbers."""
        return pick_hardest(ranked.noise(), ranked.negatives, quota.clamp(min=self.count))

    @property
    def reads_step(self) -> bool:
        """Another draw in each step."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioConfig(QuotaRule):
    """Keep the max(``neg_to_pos_ratio`` × positives, ``floor``) hardest background priors per image.

    With ``nms_iou`` the predictions of the ``nms_candidates`` hardest are suppressed first (greedy
    NMS over the decoded boxes, the harder one stays), so that one false alarm counts once.
    """

    kind: Literal["ratio"] = "ratio"
    neg_to_pos_ratio: float = 3.0
    floor: int = 32
    rank: Rank = "background"
    nms_iou: float | None = None
    nms_candidates: int = 256

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        _check_nms(self.nms_iou, self.nms_candidates)

    def select(self, ranked: RankedPriors) -> Selection:
        """Pick the hardest and fill up, in one go where both are in the same order."""
        if self.rank != "background" or self.nms_iou is not None:
            return QuotaRule.select(self, ranked)
        quota = ranked.quota(self.neg_to_pos_ratio).clamp(min=self.floor)
        chosen = pick_hardest(ranked.rank, ranked.negatives, quota)
        return Selection(ranked.positives, chosen)

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the hardest of those that survive."""
        left = _survivors(ranked, ranked.negatives, self.nms_iou, self.nms_candidates)
        return pick_hardest(ranked.rank, left, quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardExamplesConfig(SelectionRule):
    """The ``count`` hardest priors of both kinds (0: all that NMS leaves); easy positives drop out.

    Caffe's ``HARD_EXAMPLE`` is the default; with ``neg_to_pos_ratio`` (of the surviving positives)
    and ``count`` 0 it is TF's ``hard_example_miner``. Unlike there a floor works without a ratio and
    ignored priors are not taken for negatives.
    """

    kind: Literal["hard_examples"] = "hard_examples"
    count: int = 64
    rank: Literal["class", "localisation", "both"] = "both"
    nms_iou: float | None = 0.7
    nms_candidates: int = 256
    neg_to_pos_ratio: float | None = None
    floor: int = 0

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio or 0.0, self.floor)
        _check_nms(self.nms_iou, self.nms_candidates)
        if self.count < 0 or (self.nms_iou is not None and self.count > self.nms_candidates):
            raise ConfigError(
                f"selection.count: got {self.count}, wanted 0..nms_candidates "
                f"({self.nms_candidates})"
            )
        if self.count == 0 and self.nms_iou is None and self.neg_to_pos_ratio is None:
            raise ConfigError(
                "selection: count 0 without nms_iou or neg_to_pos_ratio selects everything, "
                "wanted kind 'all'"
            )

    def select(self, ranked: RankedPriors) -> Selection:
        """Pick the hardest of positives and negatives together."""
        either = ranked.positives | ranked.negatives
        chosen = _survivors(ranked, either, self.nms_iou, self.nms_candidates)
        if self.count:
            wanted = torch.full_like(ranked.image_ids, self.count)
            chosen = pick_hardest(ranked.rank, chosen, wanted)
        positives, negatives = chosen & ranked.positives, chosen & ranked.negatives
        if self.neg_to_pos_ratio is not None:
            most = _floor_of(positives.sum(1) * self.neg_to_pos_ratio).clamp(min=self.floor)
            negatives = pick_hardest(ranked.rank, negatives, most)
        return Selection(positives, ranked.filled(negatives, self.floor))

    @property
    def negatives_per_positive(self) -> float | None:
        """The ratio; the usual one where none is set."""
        return USUAL_RATIO if self.neg_to_pos_ratio is None else self.neg_to_pos_ratio

    @property
    def ranks_matched_boxes_only(self) -> bool:
        """Whether only boxes that have a positive are ranked, as in Caffe and TF."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRatioConfig(QuotaRule):
    """The hardest background priors of the whole batch (this process's part of it), as ssd_keras.

    max(``neg_to_pos_ratio`` × the batch's positives, ``least``) are kept wherever they lie; then each
    image is filled up to ``floor``.
    """

    kind: Literal["batch_ratio"] = "batch_ratio"
    neg_to_pos_ratio: float = 3.0
    least: int = 0
    floor: int = 32

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        if self.least < 0:
            raise ConfigError(f"selection.least: got {self.least}, wanted >= 0")

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the hardest of all images as if they were one."""
        total = _floor_of(ranked.positives.sum() * self.neg_to_pos_ratio).clamp(min=self.least)
        flat = pick_hardest(ranked.rank.view(1, -1), ranked.negatives.view(1, -1), total.view(1))
        return flat.view_as(ranked.rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandConfig(QuotaRule):
    """The ratio rule over background priors with ``low`` <= IoU < ``high`` with an object.

    .2 to .7 is "soft sampling"; 0 to a threshold is GluonCV's ``OHEMSampler(thresh)``. An image
    without objects has no such prior when ``low`` > 0: the floor fills it.
    """

    kind: Literal["band"] = "band"
    low: float = 0.2
    high: float = 0.7
    neg_to_pos_ratio: float = 3.0
    floor: int = 32

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ConfigError(
                f"selection: got low {self.low}, high {self.high}, wanted 0 <= low < high <= 1"
            )

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the hardest inside the band."""
        iou = ranked.assignment.iou
        band = ranked.negatives & (iou >= self.low) & (iou < self.high)
        return pick_hardest(ranked.rank, band, quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelQuotaConfig(QuotaRule):
    """The ratio rule with a quota for each pyramid level, so that the finest cannot take it all.

    ``shares`` are the levels' parts of the image's quota, finest first, of any sum; none: equal parts.
    What rounding and exhausted levels leave is given to the hardest of any level.
    """

    kind: Literal["level_quota"] = "level_quota"
    shares: tuple[float, ...] = ()
    neg_to_pos_ratio: float = 3.0
    floor: int = 32

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        if self.shares and (min(self.shares) < 0 or sum(self.shares) <= 0):
            raise ConfigError(
                f"selection.shares: got {self.shares}, wanted values >= 0 that are not all 0"
            )

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the hardest of each level, then of all that is left.

        Raises:
            ConfigError: another number of shares than of levels.
        """
        shares = self.shares or (1.0,) * ranked.num_levels
        if len(shares) != ranked.num_levels:
            raise ConfigError(
                f"selection.shares: got {len(shares)}, wanted {ranked.num_levels} (levels)"
            )
        chosen = torch.zeros_like(ranked.negatives)
        for level, share in enumerate(shares):
            here = ranked.negatives & (ranked.level == level)
            part = _floor_of(quota * (share / sum(shares)))
            chosen = chosen | pick_hardest(ranked.rank, here, part)
        left = quota - chosen.sum(1)
        return chosen | pick_hardest(ranked.rank, ranked.negatives & ~chosen, left)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedConfig(QuotaRule):
    """The ratio rule's quota, part of it the hardest and the rest random.

    The hard part goes from ``hard_start`` to ``hard_end`` linearly over the first ``ramp`` of the
    training's steps (0: at once).
    """

    kind: Literal["mixed"] = "mixed"
    hard_start: float = 0.0
    hard_end: float = 1.0
    ramp: float = 0.5
    neg_to_pos_ratio: float = 3.0
    floor: int = 32

    def __post_init__(self) -> None:
        _check_quota(self.neg_to_pos_ratio, self.floor)
        parts = (self.hard_start, self.hard_end, self.ramp)
        if min(parts) < 0 or max(parts) > 1:
            raise ConfigError(
                f"selection: got hard_start {self.hard_start}, hard_end {self.hard_end}, "
                f"ramp {self.ramp}, wanted 0..1 each"
            )

    def negatives(self, ranked: RankedPriors, quota: Tensor) -> Tensor:
        """Pick the hardest, then the highest of random numbers among the others."""
        share = self.hard_share(ranked.step, ranked.steps)
        hard = pick_hardest(ranked.rank, ranked.negatives, _floor_of(quota * share))
        rest = quota - hard.sum(1)
        return hard | pick_hardest(ranked.noise(), ranked.negatives & ~hard, rest)

    def hard_share(self, step: int, steps: int) -> float:
        """Return the part of the quota that is taken by hardness at a step of ``steps``."""
        done = 1.0 if self.ramp == 0 else min(1.0, step / (self.ramp * max(1, steps)))
        return self.hard_start + (self.hard_end - self.hard_start) * done

    @property
    def reads_step(self) -> bool:
        """The hard part grows, and each step has a draw of its own."""
        return True


SelectionConfig = Annotated[
    AllConfig
    | RandomConfig
    | RatioConfig
    | HardExamplesConfig
    | BatchRatioConfig
    | BandConfig
    | LevelQuotaConfig
    | MixedConfig,
    Field(discriminator="kind"),
]


def _check_quota(ratio: float, floor: int) -> None:
    if not 0 <= ratio < math.inf or floor < 0:
        raise ConfigError(
            f"selection: got neg_to_pos_ratio {ratio}, floor {floor}, wanted both >= 0 and finite; "
            "all negatives are kind 'all'"
        )


def _check_nms(nms_iou: float | None, candidates: int) -> None:
    if nms_iou is not None and not 0.0 < nms_iou <= 1.0:
        raise ConfigError(f"selection.nms_iou: got {nms_iou}, wanted 0 < nms_iou <= 1, or null")
    if not 1 <= candidates <= _MOST_CANDIDATES:
        raise ConfigError(
            f"selection.nms_candidates: got {candidates}, wanted 1..{_MOST_CANDIDATES} "
            "(every pair of them is compared)"
        )


def _survivors(
    ranked: RankedPriors, eligible: Tensor, nms_iou: float | None, candidates: int
) -> Tensor:
    if nms_iou is None:
        return eligible
    assert ranked.boxes is not None
    return suppress_negatives(ranked.boxes, ranked.rank, eligible, nms_iou, candidates)


def _floor_of(value: Tensor) -> Tensor:
    return value.floor().long()
