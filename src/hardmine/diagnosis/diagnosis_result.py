"""What a diagnosis says: a finding for each hypothesis, the likeliest cause first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.diagnosis.evidence import Evidence
from hardmine.diagnosis.hypotheses import Answer, Hypothesis, Verdict

PAGE = "diagnosis.html"


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
