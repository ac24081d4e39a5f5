"""What a diagnosis says: a verdict on each hypothesis, and the findings, the likeliest cause first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hardmine.diagnosis.evidence import Evidence

PAGE = "diagnosis.html"


class Answer(StrEnum):
    """What a test says."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    UNKNOWN = "not enough data"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one test.

    ``effect`` is the measured figure with its limit; ``bars`` and ``lines`` are what the page draws,
    each a name with its values (for lines: pairs of step and value).
    """

    answer: Answer
    effect: str
    reasons: tuple[str, ...] = ()
    option: str = ""
    settings: tuple[str, ...] = ()
    """Choices of a recipe that try the remedy, as ``--set`` takes them."""
    fits_priors: bool = False
    """The remedy is no setting: priors are fitted to the data."""
    reads_weights: bool = False
    """It is judged by the last weights, which an interrupted training does not have yet."""
    ticks: tuple[str, ...] = ()
    axis: str = ""
    """What the bars stand over."""
    bars: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A name, its question as a heading, what it means in a sentence, and its test."""

    key: str
    title: str
    meaning: str
    test: Callable[[Evidence], Verdict]


@dataclass(frozen=True, slots=True)
class Finding:
    """A hypothesis with its verdict and the command that tries the remedy."""

    hypothesis: Hypothesis
    verdict: Verdict
    command: str

    @property
    def is_supported(self) -> bool:
        """True when the evidence supports the hypothesis."""
        return self.verdict.answer is Answer.SUPPORTED


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """All findings, the likeliest cause first; ``limits`` say what could not be looked at."""

    subject: str
    findings: tuple[Finding, ...]
    limits: tuple[str, ...]
    out: Path
    evidence: Evidence | None = None
    compare: str = "hardmine compare --preset mining DATA --negatives NEGATIVES"
    """The command that compares every way of selecting negatives on these data."""

    @property
    def causes(self) -> tuple[str, ...]:
        """The keys of the supported hypotheses, the likeliest first."""
        return tuple(each.hypothesis.key for each in self.findings if each.is_supported)

    @property
    def page(self) -> Path:
        """Where the page is."""
        return self.out / PAGE

    def summary(self) -> str:
        """Return the answer in a sentence or two."""
        supported = [each for each in self.findings if each.is_supported]
        unknown = sum(each.verdict.answer is Answer.UNKNOWN for each in self.findings)
        rest = f" {unknown} of the questions could not be answered." if unknown else ""
        if not supported:
            return f"None of the known causes is supported by the evidence.{rest}"
        first = supported[0]
        text = f"{first.hypothesis.title}: {first.verdict.effect}."
        if len(supported) > 1:
            others = "; ".join(each.hypothesis.title.lower() for each in supported[1:])
            text += f" Also supported, and possibly its consequence: {others}."
        return text + rest

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``diagnosis.json``."""
        return {
            "subject": self.subject,
            "causes": list(self.causes),
            "summary": self.summary(),
            "limits": list(self.limits),
            "hypotheses": [
                {
                    "key": each.hypothesis.key,
                    "title": each.hypothesis.title,
                    "verdict": each.verdict.answer.value,
                    "effect": each.verdict.effect,
                    "reasons": list(each.verdict.reasons),
                    "option": each.verdict.option,
                    "settings": list(each.verdict.settings),
                    "command": each.command,
                }
                for each in self.findings
            ],
        }


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return the supported first, then what could not be answered, then the others."""
    ranks = {Answer.SUPPORTED: 0, Answer.UNKNOWN: 1, Answer.NOT_SUPPORTED: 2}
    return tuple(sorted(findings, key=lambda each: ranks[each.verdict.answer]))


NO_POSITIVE = "No positive was trained on."
NO_TELEMETRY = "There is no telemetry; train the run again with this version to see this."


def unknown(reason: str) -> Verdict:
    """Return the verdict where nothing could be measured."""
    return Verdict(Answer.UNKNOWN, "not measured", (reason,))


def answer_of(is_so: bool) -> Answer:
    """Return the answer to what was measured."""
    return Answer.SUPPORTED if is_so else Answer.NOT_SUPPORTED
