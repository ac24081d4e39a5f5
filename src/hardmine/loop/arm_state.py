"""Where an arm of a loop stands between two rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from hardmine.loop.control_arms import Arm
from hardmine.loop.stopping import RoundPoint
from hardmine.types import ImageRecord
from hardmine.workflows.cached_models import MeasuredModel, TrainedModel


@dataclass
class ArmState:
    """What an arm has gathered; it is rebuilt from the finished steps on every start."""

    arm: Arm
    results: list[MeasuredModel]
    """The measured model of each round, round 0 first."""
    history: list[RoundPoint]
    """What the stop rules know of each round."""
    negatives: list[ImageRecord] = field(default_factory=list)
    """Images accepted as empty so far, in the order in which they came."""
    handed_out: list[str] = field(default_factory=list)
    """Every image ever handed out, whatever was decided on it."""

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    @property
    def last_round(self) -> int:
        """The number of the round that was measured last."""
        return len(self.results) - 1

    @property
    def result(self) -> MeasuredModel:
        """The measured model of the last round."""
        return self.results[-1]

    @property
    def model(self) -> TrainedModel:
        """The model of the last round."""
        return self.result.model
