"""What the sums are divided by: it decides how much a negative image teaches.

Divided by the number of positives, as in the paper, a batch without objects has no scale: with
N = max(1, 0) its loss is hundreds of times too large, and with N = 0 it is nothing. Divided by the
number selected, a mixed batch shrinks as negatives join it. Hence *equivalent positives*, selected ÷
(1 + ratio): in a batch in which every image holds objects and the floor does not bind these *are* the
positives; without objects it is the number that would have asked for as many negatives. The ratio is
what the selection rule says of itself; where a rule has no quota (``all``), an image without objects
counts as one positive.

Every count is taken over all processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from hardmine.errors import ConfigError
from hardmine.losses.negative_mining import SelectionRule


@dataclass(frozen=True, slots=True, kw_only=True)
class BySelected:
    """Classification ÷ equivalent positives, localisation ÷ positives of the batch; the default."""

    kind: Literal["selected"] = "selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBatch:
    """Both ÷ positives of the batch (the paper, Caffe, torchvision).

    A batch without objects takes the equivalent positives instead of 1.
    """

    kind: Literal["batch"] = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByImage:
    """Each image's sums ÷ its own positives (equivalent ones without objects), then the mean: of
    classification over all images, of localisation over those with objects.
    """

    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByMovingAverage:
    """Both ÷ (images × a moving average of positives per image); a batch without objects leaves it.

    The average starts at the first batch's value. It is part of a run's saved state.
    """

    kind: Literal["moving_average"] = "moving_average"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"loss.normaliser.momentum: got {self.momentum}, wanted 0 <= m < 1")


NormaliserConfig = Annotated[
    BySelected | ByBatch | ByImage | ByMovingAverage, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums of losses and counts of selected priors, one value per image (f32[B], with gradients in
    the first two; i64[B]).
    """

    classification: Tensor
    localisation: Tensor
    positives: Tensor
    negatives: Tensor


class Normaliser:
    """Divides the sums; holds the moving average when there is one."""

    def __init__(self, config: NormaliserConfig, selection: SelectionRule) -> None:
        self.config = config
        self._ratio = selection.negatives_per_positive
        self.average: Tensor | None = None
        """Positives per image, f32 scalar; ``None`` before the first step."""

    def __call__(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """Return classification and localisation loss (scalars) of the joint batch."""
        (positives, negatives, images, with_objects), world = _joint_counts(sums)
        classification, localisation = sums.classification, sums.localisation
        config, equivalent = self.config, self._equivalent(positives, negatives, images)
        match config:
            case BySelected():
                divisors = equivalent, positives
            case ByBatch():
                divisors = (torch.where(positives > 0, positives, equivalent),) * 2
            case ByImage():
                own = sums.positives
                instead = self._equivalent(own, sums.negatives, torch.ones_like(own))
                classification = classification / torch.where(own > 0, own, instead)
                localisation = localisation / own.clamp(min=1)
                divisors = images, with_objects
            case ByMovingAverage():
                divisors = (self._expected(positives, images, equivalent, config.momentum),) * 2
            case _:
                assert_never(config)
        # Gradients are averaged over processes: times their number, the joint batch's gradient.
        return (
            classification.sum() / divisors[0].clamp(min=1) * world,
            localisation.sum() / divisors[1].clamp(min=1) * world,
        )

    def _equivalent(self, positives: Tensor, negatives: Tensor, images: Tensor) -> Tensor:
        if self._ratio is None:
            return torch.where(positives > 0, positives, images)
        return ((positives + negatives) / (1.0 + self._ratio)).clamp(min=1)

    def _expected(
        self, positives: Tensor, images: Tensor, equivalent: Tensor, momentum: float
    ) -> Tensor:
        """Move the average on and return the positives that it expects of so many images."""
        now = positives / images
        old = torch.zeros_like(now) if self.average is None else self.average
        moved = torch.where(old > 0, momentum * old + (1.0 - momentum) * now, now)
        self.average = torch.where(positives > 0, moved, old)
        return torch.where(self.average > 0, self.average * images, equivalent)


def _joint_counts(sums: Sums) -> tuple[tuple[Tensor, ...], int]:
    """Return positives, negatives, images and images with objects over all processes, as floats,
    and the number of processes.
    """
    counts = torch.stack(
        [
            sums.positives.sum(),
            sums.negatives.sum(),
            torch.ones_like(sums.positives).sum(),
            (sums.positives > 0).sum(),
        ]
    )
    if not (dist.is_available() and dist.is_initialized()):
        return counts.float().unbind(), 1
    dist.all_reduce(counts)
    return counts.float().unbind(), dist.get_world_size()
