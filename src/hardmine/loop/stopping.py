"""When to stop mining: two rules over the history of one arm.

Both look at the stopping set, never at the final one. The recipe's rule waits until nothing gets
better any more; the guarded rule stops as soon as a further round is not worth its risk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class RoundPoint:
    """What a stop rule knows of one round.

    ``alarms`` per image of the stopping set at the threshold for the reference recall and its 95 %
    ``interval``; ``recall`` at the lowest score that is decoded. (At round 0's threshold it would fall
    whenever scores shift, though ranking and the threshold of this round are as good.)
    ``None`` where a value could not be measured.
    """

    average_precision: float | None
    ap50: float | None
    recall: float | None
    alarms: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """``quiet_rounds`` rounds in a row without a fall beyond the interval stop the loop; so does a
    drop of AP50 or recall by more than ``ap50_tolerance`` or ``recall_tolerance`` since round 0.
    """

    quiet_rounds: int = 2
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
    """Stop when alarms fell only within their interval for some rounds, or detection was harmed.

    A fall counts when the upper end of this round's interval lies below the round before. A drop is
    a loss of more than the tolerance since round 0. A threshold that cannot be reached any more
    (``alarms`` is None although round 0 had a value) is a drop of recall.
    """
    guard = config or GuardConfig()
    if len(history) < 2:
        return None
    return _harm(history[0], history[-1], guard) or _stagnation(history, guard)


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


def _stagnation(history: Sequence[RoundPoint], guard: GuardConfig) -> str | None:
    quiet = 0
    for before, now in pairwise(history):
        quiet = 0 if _fell(before, now) else quiet + 1
    if quiet < guard.quiet_rounds:
        return None
    return f"alarms fell only within their interval for {quiet} rounds"


def _fell(before: RoundPoint, now: RoundPoint) -> bool:
    if before.alarms is None or now.interval is None:
        return now.alarms is not None and before.alarms is None
    return now.interval[1] < before.alarms


STOP_RULES: dict[str, StopRule] = {"recipe": recipe_rule, "guarded": guarded_rule}
