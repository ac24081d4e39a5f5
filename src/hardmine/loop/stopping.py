"""When to stop mining: two rules over the history of one arm.

Both look at the stopping set, never at the final one. The recipe's rule waits until nothing gets
better any more; the guarded rule stops as soon as a further round is not worth its risk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardmine.evaluation.paired import AlarmChange

QUIET_ROUNDS, LONGER_ROUNDS = 2, 3
"""Rounds over which the guarded rule looks for a fall of alarms: the last two, and three where there
are so many."""


@dataclass(frozen=True, slots=True)
class RoundPoint:
    """What a stop rule knows of one round; ``None`` where a value could not be measured.

    Attributes:
        recall: at the lowest score that is decoded. (At round 0's threshold it would fall whenever
            scores shift, though ranking and the threshold of this round are as good.)
        alarms: per image of the stopping set at the threshold for the reference recall.
        firing: share of the images of the stopping set that fire there. The stopping set was drawn
            from the pool, so that this is what is left to mine.
        change: of the alarms since ``QUIET_ROUNDS`` rounds ago, paired; ``None`` in the rounds before.
        longer: the same since ``LONGER_ROUNDS`` rounds ago.
    """

    average_precision: float | None
    ap50: float | None
    recall: float | None
    alarms: float | None
    firing: float | None = None
    change: AlarmChange | None = None
    longer: AlarmChange | None = None


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """When the guarded rule stops.

    Attributes:
        least_fall: by which share alarms must have fallen over the last ``QUIET_ROUNDS`` rounds, or over
            the last ``LONGER_ROUNDS``.
        usual_fall: by which share alarms fall in each round of a loop that is worth going on with.
        surety: by how many standard deviations the change must lie above such a fall.
        ap50_tolerance, recall_tolerance: how much of either may be lost since round 0.
    """

    least_fall: float = 0.2
    usual_fall: float = 0.3
    surety: float = 1.5
    ap50_tolerance: float = 0.02
    recall_tolerance: float = 0.05


StopRule = Callable[[Sequence[RoundPoint]], str | None]
"""Given the history, round 0 first, the reason to stop, or ``None`` to go on."""


def recipe_rule(history: Sequence[RoundPoint]) -> str | None:
    """Stop when AP no longer improves *and* alarms no longer fall, compared with the best before.

    Source: the hard-negative recipe's "repeat until neither improves".
    """
    if len(history) < 2:
        return None
    precision = [p.average_precision for p in history if p.average_precision is not None]
    alarms = [p.alarms for p in history if p.alarms is not None]
    if len(precision) < len(history) or len(alarms) < len(history):
        return None
    best, least = max(precision[:-1]), min(alarms[:-1])
    if precision[-1] > best or alarms[-1] < least:
        return None
    return (
        f"AP no longer improves ({precision[-1]:.4f}, best before {best:.4f}) and alarms no longer "
        f"fall ({alarms[-1]:.4f} per image, least before {least:.4f})"
    )


def guarded_rule(history: Sequence[RoundPoint], config: GuardConfig | None = None) -> str | None:
    """Stop when alarms hardly fell over the last rounds, or when detection was harmed.

    A fall is judged by the same images at the same recalls in both rounds (``evaluation.paired``), so
    that the uncertainty of the threshold, which both rounds share, cancels out. From the third round on
    the last two rounds *and* the last three must have brought too little: each round is one more chance
    to be wrong, and the few alarms that earlier rounds have left vary most. Where alarms are so few that
    the change may as well be the usual fall, the loop goes on (:func:`undecided` says so). A drop is
    a loss of more than the tolerance since round 0. A threshold that cannot be reached any more
    (``alarms`` is None although round 0 had a value) is a drop of recall.
    ``python -m benchmarks.stopping`` simulates it.
    """
    guard = config or GuardConfig()
    if len(history) < 2:
        return None
    return _harm(history[0], history[-1], guard) or _stagnation(history[-1], guard)


def _harm(first: RoundPoint, last: RoundPoint, guard: GuardConfig) -> str | None:
    if first.alarms is not None and last.alarms is None:
        return "the reference recall is no longer reached at any threshold"
    limits = (
        ("AP50", first.ap50, last.ap50, guard.ap50_tolerance),
        ("recall at any score", first.recall, last.recall, guard.recall_tolerance),
    )
    for name, was, is_now, tolerance in limits:
        if was is None or is_now is None:
            continue
        if was - is_now > tolerance + 1e-12:
            return f"{name} fell from {was:.4f} to {is_now:.4f}, more than {tolerance} is tolerated"
    return None


def undecided(history: Sequence[RoundPoint], config: GuardConfig | None = None) -> str | None:
    """Return why the guarded rule goes on although alarms hardly fell: they are too few to tell."""
    guard = config or GuardConfig()
    changes = _changes(history[-1])
    if not all(_fell_too_little(change, guard) for _, change in changes):
        return None
    doubtful = [each for each in changes if not _is_sure(*each, guard)]
    if not doubtful:
        return None
    rounds, change = doubtful[0]
    return (
        f"over the last {rounds} rounds alarms changed by a factor of {change.ratio:.2f} (95 % "
        f"{_limits(change)}): too few alarms to tell a standstill from a fall by "
        f"{guard.usual_fall:.0%} in each round, so the stop rule went on; a larger pool, of which more "
        "images are kept for stopping, would tell"
    )


def _changes(now: RoundPoint) -> list[tuple[int, AlarmChange]]:
    """Return (rounds, change) for both spans, as far as the loop has run."""
    pairs = (QUIET_ROUNDS, now.change), (LONGER_ROUNDS, now.longer)
    return [(rounds, change) for rounds, change in pairs if change is not None]


def _fell_too_little(change: AlarmChange, guard: GuardConfig) -> bool:
    return change.ratio is not None and change.ratio > 1 - guard.least_fall


def _is_sure(rounds: int, change: AlarmChange, guard: GuardConfig) -> bool:
    """Whether the change lies clearly above the usual fall over so many rounds."""
    if change.ratio is None or change.deviation is None:
        return False
    usual = rounds * math.log(1 - guard.usual_fall)
    return math.log(change.ratio) - usual > guard.surety * change.deviation


def _stagnation(now: RoundPoint, guard: GuardConfig) -> str | None:
    changes = _changes(now)
    if not changes or not all(
        _fell_too_little(change, guard) and _is_sure(rounds, change, guard)
        for rounds, change in changes
    ):
        return None
    said = " and ".join(
        f"over the last {rounds} rounds by a factor of {change.ratio:.2f} (95 % {_limits(change)})"
        for rounds, change in changes
    )
    recalls = changes[0][1].recalls
    where = f"{recalls[0]:g}" + (f" to {recalls[-1]:g}" if len(recalls) > 1 else "")
    left = "" if now.firing is None else f"; {now.firing:.0%} of the images still fire"
    return (
        f"alarms at recall {where} changed {said}, and a fall to {1 - guard.least_fall:g} or less was "
        f"wanted{left}"
    )


def _limits(change: AlarmChange) -> str:
    low, high = ("unknown" if end is None else f"{end:.2f}" for end in (change.low, change.high))
    return f"{low} to {high}"


STOP_RULES: dict[str, StopRule] = {"recipe": recipe_rule, "guarded": guarded_rule}
