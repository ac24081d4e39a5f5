"""The choices of a loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hardmine.errors import ConfigError
from hardmine.loop.stopping import STOP_RULES
from hardmine.mining.mine_options import RankOptions

MINED, RANDOM, NONE = "mined", "random", "none"
ARMS = (MINED, RANDOM, NONE)

Retrain = Literal["branch", "fresh", "continue"]
StopChoice = Literal["guarded", "recipe", "never"]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a loop goes.

    ``add`` is the share of round 0's labelled images that a round adds; ``accept`` is "auto" or the
    CSV of verdicts; ``rank`` what counts as an alarm, and how the mined arm's images are ranked and
    selected.

    Example:
        >>> hardmine.LoopOptions(rounds=2, arms=("mined", "random")).leader
        'mined'
    """

    rounds: int = 3
    add: float = 0.15
    accept: Path | Literal["auto"] = "auto"
    retrain: Retrain = "branch"
    arms: tuple[str, ...] = (MINED,)
    stop: StopChoice = "guarded"
    quarantine: float | None = None
    seed: int = 0
    draws: int = 1000
    rank: RankOptions = field(default_factory=RankOptions)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds: got {self.rounds}, wanted 1 or more")
        if not 0 < self.add <= 1:
            raise ConfigError(f"add: got {self.add}, wanted a share above 0 and up to 1")
        if self.retrain not in get_args(Retrain):
            raise ConfigError(
                f"retrain: got {self.retrain!r}, wanted one of {', '.join(get_args(Retrain))}"
            )
        if self.stop not in (*STOP_RULES, "never"):
            raise ConfigError(
                f"stop: got {self.stop!r}, wanted one of {', '.join([*STOP_RULES, 'never'])}"
            )
        if self.quarantine is not None and not 0 <= self.quarantine <= 1:
            raise ConfigError(
                f"quarantine: got {self.quarantine}, wanted a probability from 0 to 1"
            )
        self._check_arms()

    def _check_arms(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms: got {list(self.arms)}, wanted some of {', '.join(ARMS)} once")

    @property
    def ordered_arms(self) -> tuple[str, ...]:
        """The arms in the order in which they run: random adds as many images as mined did."""
        return tuple(arm for arm in ARMS if arm in self.arms)

    @property
    def leader(self) -> str:
        """The arm whose history the stop rules look at; the others keep it company."""
        return next((arm for arm in (MINED, RANDOM) if arm in self.arms), self.arms[0])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        return {**values, "accept": str(self.accept), "arms": list(self.arms)}
