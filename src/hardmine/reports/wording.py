"""Figures as text, and what a comparison allows one to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardmine.reports.content import Comparison

ABSENT = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed digits, a dash for an undefined one."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def rate(value: float | None) -> str:
    """Return a rate with digits that suit its size: 12.3, 1.23, 0.123, 0.012."""
    if value is None:
        return ABSENT
    size = abs(value)
    return number(value, 3 if size < 1 else 2 if size < 10 else 1)


def limits(pair: Sequence[float | None] | None) -> str:
    """Return ``low to high``; an end that the draws do not bound is a question mark."""
    if pair is None:
        return ABSENT
    low, high = ("?" if end is None else rate(end) for end in pair)
    return f"{low} to {high}"


def set_title(name: str) -> str:
    """Return what a negative set is called on the page."""
    titles = {"held_out": "held-out images", "stop": "the stop set", "crops": "object-free crops"}
    return titles.get(name, name)


def compare(comparison: Comparison) -> str:
    """Return one honest sentence on the alarms of two arms."""
    ratio = comparison.ratio
    if ratio.get("ratio") is None and ratio.get("high") is None:
        return f"No ratio is claimed: {ratio.get('note') or 'it is undefined'}."
    verdict = {
        "better": "Fewer alarms, beyond what the choice of images explains",
        "worse": "More alarms, beyond what the choice of images explains",
        "open": "These images do not tell the two apart",
    }[verdict_class(ratio)]
    seeds = len(ratio.get("seeds") or ())
    caution = (
        " One training each: the spread between trainings is not in this interval."
        if seeds <= 1
        else f" Mean of {seeds} seeds."
    )
    note = f" ({ratio['note']})" if ratio.get("note") else ""
    return f"{verdict}{note}.{caution}"


def verdict_class(ratio: Mapping[str, Any]) -> str:
    """Return ``better``, ``worse`` or ``open``: the colour of a comparison."""
    low, high = ratio.get("low"), ratio.get("high")
    if high is not None and high < 1:
        return "better"
    return "worse" if low is not None and low > 1 else "open"


def count(value: float | None) -> str:
    """Return a count, with one digit where it is a mean."""
    return (
        ABSENT if value is None else f"{value:g}" if float(value).is_integer() else f"{value:.1f}"
    )
