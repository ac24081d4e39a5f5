"""Figures as text, and what a comparison allows one to say.

A verdict first says what happened, then how sure that is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardmine.plurals import counted, some_of

ABSENT = "–"
OPEN_END = "?"
OPEN_END_NOTE = (
    "? in an interval: this end is not known, since recall 0.8 is not reached in more than 2.5 % of the "
    "samples that are drawn from the images; with more labelled images it may be"
)


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed digits, a dash for an undefined one."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def score_digits(value: float, usual: int = 3) -> int:
    """Return how many digits a score needs: near 1 as many as tell it from 1 (0.99979)."""
    if not 1 - 10.0**-usual < value < 1:
        return usual
    return max(usual, 1 - math.floor(math.log10(1 - value)))


def score(value: float | None) -> str:
    """Return a score threshold with three digits, or more near 1; a dash for an undefined one."""
    return ABSENT if value is None else number(value, score_digits(value))


def rate(value: float | None) -> str:
    """Return a rate with digits that suit its size: 12.3, 1.23, 0.123, 0.012, 0.00045."""
    if value is None:
        return ABSENT
    size = abs(value)
    if 1e-6 <= size < 1e-3:  # two digits that say something: very many images may have few alarms
        return number(value, 1 - math.floor(math.log10(size)))
    return number(value, 3 if size < 1 else 2 if size < 10 else 1)


def share(value: float | None) -> str:
    """Return a share in percent, with a digit where it is small."""
    if value is None:
        return ABSENT
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %"


def limits(pair: Sequence[float | None] | None) -> str:
    """Return ``low to high``; an end that the draws do not bound is a question mark."""
    if pair is None:
        return ABSENT
    low, high = (OPEN_END if end is None else rate(end) for end in pair)
    return f"{low} to {high}"


def count(value: float | None) -> str:
    """Return a count, with one digit where it is a mean."""
    return (
        ABSENT if value is None else f"{value:g}" if float(value).is_integer() else f"{value:.1f}"
    )


_SETS = {
    "held_out": ("held-out images", "the {n} held-out images"),
    "stop": (
        "images kept for deciding when to stop",
        "the {n} images kept for deciding when to stop",
    ),
    "crops": (
        "object-free crops of validation images",
        "{n} object-free crops of the validation images",
    ),
}


def dearest(gains: Mapping[str, float] | None) -> str:
    """Return the kind of mistakes that costs most AP50, with the gain; a dash where none costs any."""
    kinds = {kind: gain for kind, gain in (gains or {}).items() if not kind.startswith("false_")}
    kind = max(kinds, key=lambda name: kinds[name], default="")
    if not kind or number(kinds[kind]) == number(0.0):
        return ABSENT
    return f"{kind} {number(kinds[kind])}"


def set_title(name: str) -> str:
    """Return what a negative set is called on the page."""
    return _SETS.get(name, (name, name))[0]


def set_phrase(name: str, images: int | None) -> str:
    """Return a negative set with its size, such as ``the 120 held-out images``."""
    if name not in _SETS:
        return name
    return _SETS[name][1].replace("{n} ", "" if images is None else f"{images} ")


def what_happened(comparison: Comparison) -> str:
    """Return one sentence that says what was measured, whatever it proves."""
    now, before = _alarms_per_image(comparison)
    where = set_phrase(comparison.negatives, comparison.images)
    if now is None or before is None:
        return f"The false alarms of {_sides(comparison)} cannot be compared on {where}."
    if comparison.with_itself:
        arm, number_ = comparison.arm, comparison.round
        sentence = (
            f"{_change(now, before)} at recall 0.8 on {where} (arm {arm}, after round {number_})"
        )
    else:
        other = comparison.against_arm
        sentence = (
            f"Arm {comparison.arm} has {rate(now)} false alarms per image and arm {other} has "
            f"{rate(before)} at recall 0.8 on {where} (after round {comparison.round})"
        )
    return f"{sentence}; {ap50_change(comparison)}." if comparison.ap50 else f"{sentence}."


def is_measured(comparison: Comparison) -> bool:
    """Whether the alarms of both sides are known: each reaches recall 0.8, and there are images."""
    return None not in _alarms_per_image(comparison)


def _alarms_per_image(comparison: Comparison) -> tuple[float | None, float | None]:
    return comparison.ratio.get("per_image_a"), comparison.ratio.get("per_image_b")


def _change(now: float, before: float) -> str:
    if rate(now) == rate(before):
        return f"False alarms stayed at {rate(now)} per image"
    verb = "fell" if now < before else "rose"
    return f"False alarms {verb} from {rate(before)} to {rate(now)} per image"


def arms_phrase(names: Sequence[str]) -> str:
    """Return arms by name: "arm none", "the arms random and none"."""
    if len(names) == 1:
        return f"arm {names[0]}"
    return f"the arms {', '.join(names[:-1])} and {names[-1]}"


def _sides(comparison: Comparison) -> str:
    if comparison.with_itself:
        rounds = f"rounds {comparison.against_round} and {comparison.round}"
        return f"{rounds} of arm {comparison.arm}"
    return f"the arms {comparison.arm} and {comparison.against_arm} after round {comparison.round}"


def ap50_change(comparison: Comparison) -> str:
    """Return what AP50 did, in half a sentence."""
    found = comparison.ap50 or {}
    now, before = found.get("value_a"), found.get("value_b")
    if now is None or before is None:
        return "AP50 is not defined"
    if number(now) == number(before):
        return f"AP50 is the same ({number(now)})"
    if not comparison.with_itself:
        return f"AP50 is {number(now)} and {number(before)}"
    verb = "rose" if now > before else "fell"
    return f"AP50 {verb} from {number(before)} to {number(now)}"


def how_sure(comparison: Comparison) -> str:
    """Return what the interval of the ratio allows one to claim, with what limits that."""
    said, note = claim(comparison), comparison.ratio.get("note") or ""
    return said if not note or note in said else f"{said} {note[0].upper()}{note[1:]}."


def trainings(comparisons: Sequence[Comparison]) -> str:
    """Return how many trainings stand behind the comparisons, in one sentence."""
    seeds = max((len(c.ratio.get("seeds") or ()) for c in comparisons), default=0)
    if seeds > 1:
        return f"The figures are means over {seeds} seeds."
    return (
        "Each model was trained once, so these intervals do not include how much one training differs "
        "from another."
    )


def claim(comparison: Comparison) -> str:
    """Return whether chance explains the difference, and the ratio with its interval."""
    ratio = comparison.ratio
    if all(ratio.get(name) is None for name in ("ratio", "low", "high")):
        return f"No claim is made: {ratio.get('note') or 'the ratio is not defined'}."
    verdict = verdict_class(ratio)
    change = {"better": "fall", "worse": "rise"}.get(verdict, "")
    difference = f"This {change}" if comparison.with_itself else "This difference"
    certainty = (
        "Chance in the test images alone may explain this."
        if verdict == "open"
        else f"{difference} is larger than chance in the test images explains."
    )
    interval = f"95 % interval {limits([ratio.get('low'), ratio.get('high')])}"
    if ratio.get("ratio") is None:
        return f"{certainty} For the ratio of the false alarms: {interval}."
    return f"{certainty} Ratio of the false alarms: {rate(ratio['ratio'])} ({interval})."


def totals(comparison: Comparison) -> str:
    """Return how many false alarms both sides have in all, as a sentence; empty when not counted."""
    now, before = comparison.ratio.get("alarms_a"), comparison.ratio.get("alarms_b")
    if now is None or before is None:
        return ""
    return f"The number of false alarms is {count(now)}, against {count(before)}."


def ap50_certainty(comparison: Comparison) -> str:
    """Return the difference of AP50 with its interval, as a sentence; empty when it is not known."""
    found = comparison.ap50 or {}
    if found.get("difference") is None:
        return ""
    interval = limits([found.get("low"), found.get("high")])
    return f"The difference of AP50 is {number(found['difference'])} (95 % interval {interval})."


def verdict_class(ratio: Mapping[str, Any]) -> str:
    """Return ``better``, ``worse`` or ``open``: the colour of a comparison."""
    low, high = ratio.get("low"), ratio.get("high")
    if high is not None and high < 1:
        return "better"
    return "worse" if low is not None and low > 1 else "open"


def allows_claim(comparison: Comparison) -> bool:
    """Whether the interval of a comparison leaves out that nothing differs."""
    return verdict_class(comparison.ratio) != "open"


def stop_sentence(stop: Stop) -> str:
    """Return what a stop rule says of a loop."""
    if stop.reason is None:
        return f"By the rule “{stop.rule}” the loop would go on."
    after = "" if stop.round is None else f" after round {stop.round}"
    return f"By the rule “{stop.rule}” the loop would end{after}: {stop.reason}."


def control_arms(arms: Mapping[str, str]) -> str:
    """Return which control arms ran beside the first arm, and what each of them adds.

    Args:
        arms: name to what it adds, the first arm first.
    """
    words = {1: "one control arm", 2: "two control arms"}
    others = [f"{name} ({help})" for name, help in list(arms.items())[1:]]
    if not others:
        return ""
    number_ = words.get(len(others), f"{len(others)} control arms")
    return f"The loop ran with {number_}: {', '.join(others)}."


@dataclass(frozen=True)
class Comparison:
    """The false alarms of an arm in a round against those of another arm, or of its own earlier round.

    Attributes:
        negatives: the set that alarms are counted on.
        ratio: the fields of ``RatioInterval`` as a plain mapping.
        ap50: those of ``DifferenceInterval``; ``None`` when it was not computed.
        images: how many images the set has.
    """

    arm: str
    round: int
    against_arm: str
    against_round: int
    negatives: str
    ratio: Mapping[str, Any]
    ap50: Mapping[str, Any] | None = None
    images: int | None = None

    @property
    def with_itself(self) -> bool:
        """Whether it compares two rounds of one arm."""
        return self.arm == self.against_arm


@dataclass(frozen=True)
class Stop:
    """After which round a stop rule ends a loop, and why; both are None when it does not."""

    rule: str
    round: int | None
    reason: str | None


def class_alarms(at: Mapping[str, Any]) -> str:
    """Return how many alarms there are with each class at its own recall, the worst classes first."""
    which = f"with each class at recall {at['recall']:g}"
    short = [row["name"] for row in at["classes"] if row["alarms"] is None]
    if short:
        return f"alarms {which} are not known: not reached by {some_of(short, _CLASSES_NAMED)}"
    worst = sorted(at["classes"], key=lambda row: -row["alarms"])
    each = [f"{row['name']} {rate(row['alarms_per_image'])}" for row in worst]
    total = f"{rate(at['alarms_per_image'])} alarms per image"
    return f"{total} {which}: {some_of(each, _CLASSES_NAMED)}"


_CLASSES_NAMED = 5


def again(known: Mapping[str, Any] | None) -> str:
    """Return how many known alarms fire again, such as ``3 of 22``; a dash where there are none."""
    if known is None or known["again"] is None:
        return ABSENT
    return f"{known['again']} of {known['alarms']}"


@dataclass(frozen=True)
class LookedLine:
    """One candidate of a round: its name, its score, what was said of it, by whom and when."""

    image: str
    score: float | None
    verdict: str
    who: str = ""
    when: str = ""


@dataclass(frozen=True)
class Looked:
    """Who decided on the candidates of a round: how many, how many of each state, by whom; and each.

    ``lines`` are empty where nobody decided on any. ``known_alarms`` is that of the round's row.
    """

    arm: str
    round: int
    total: int
    states: Mapping[str, int]
    people: Mapping[str, int]
    lines: tuple[LookedLine, ...] = ()
    known_alarms: Mapping[str, Any] | None = None

    @property
    def nobody(self) -> int:
        """How many nobody looked at."""
        return self.total - sum(self.people.values())


def who_looked(rows: Sequence[Looked]) -> str:
    """Return who decided on how many of the candidates, and how many nobody looked at."""
    total, nobody = sum(row.total for row in rows), sum(row.nobody for row in rows)
    people: Counter[str] = Counter()
    for row in rows:
        people.update(row.people)
    candidates = counted(total, "candidate")
    if not people:
        taken = "it was" if total == 1 else "they were"
        return f"Nobody looked at the {candidates}: {taken} taken as empty (--accept auto)."
    (first, number), *others = people.most_common()
    named = ", ".join([f"{first} decided on {number}", *(f"{who} on {n}" for who, n in others)])
    rest = f"nobody looked at {nobody}" if nobody else "somebody looked at all of them"
    return f"Of {candidates}, {named}; {rest}."
