"""Selecting the priors that enter the loss: the rules, as configs, and their common entry.

Every rule but ``all`` has a ``floor``: an image whose quota is smaller (most of all one without
objects, whose quota is 0 in other frameworks) is filled up to it with its hardest background priors,
so that a negative image trains. "Hardest" is by −log p(background) unless a rule ranks otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from hardmine.errors import ConfigError

_MOST_CANDIDATES = 1024

Rank = Literal["background", "class", "localisation", "both"]
"""What a rule ranks by: −log p(background), the classification loss, the localisation loss, or the
sum of the last two. A background prior's localisation loss is 0 in ``hard_examples``, as in Caffe
and TF; in ``ratio``, where that would rank nothing, it is taken against the object that the prior
overlaps most (0 where it overlaps none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllConfig:
    """Every prior that is not ignored; with the focal loss, RetinaNet's choice."""

    kind: Literal["all"] = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomConfig:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioConfig:
    """Keep the max(``neg_to_pos_ratio`` × positives, ``floor``) hardest background priors an image.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HardExamplesConfig:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRatioConfig:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BandConfig:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelQuotaConfig:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedConfig:
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

    def hard_share(self, step: int, steps: int) -> float:
        """Return the part of the quota that is taken by hardness at a step of ``steps``."""
        done = 1.0 if self.ramp == 0 else min(1.0, step / (self.ramp * max(1, steps)))
        return self.hard_start + (self.hard_end - self.hard_start) * done


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
    if ratio < 0 or floor < 0:
        raise ConfigError(
            f"selection: got neg_to_pos_ratio {ratio}, floor {floor}, wanted both >= 0"
        )


def _check_nms(nms_iou: float | None, candidates: int) -> None:
    if nms_iou is not None and not 0.0 < nms_iou <= 1.0:
        raise ConfigError(f"selection.nms_iou: got {nms_iou}, wanted 0 < nms_iou <= 1, or null")
    if not 1 <= candidates <= _MOST_CANDIDATES:
        raise ConfigError(
            f"selection.nms_candidates: got {candidates}, wanted 1..{_MOST_CANDIDATES} "
            "(every pair of them is compared)"
        )
