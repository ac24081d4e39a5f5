"""What a look at a dataset finds: a fault or oddity, where it is, and what to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardmine.finding_kinds import IMAGE_LEFT_OUT, IN_TRAINING, POOL_ONLY, FindingKind, Severity
from hardmine.types import Problem

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True, slots=True)
class Finding(Problem):
    """A problem with what a person needs to judge it."""

    split: str = ""
    image: Path | None = None
    boxes: tuple[Box, ...] = ()
    """The boxes in question, in pixels of ``image``; not always inside it."""
    others: tuple[Path, ...] = ()
    """Further images that it is about, such as the near-copies of ``image``."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it; numbers that JSON lacks become null."""
        return {
            "kind": self.kind,
            "severity": self.kind.severity.value,
            "split": self.split,
            "file": self.file,
            "index": self.index,
            "reason": self.reason,
            "image": None if self.image is None else str(self.image),
            "boxes": [[_finite(value) for value in box] for box in self.boxes],
            "others": [str(path) for path in self.others],
        }


@dataclass(slots=True)
class Notes:
    """Collects the findings of one split."""

    split: str
    found: list[Finding] = field(default_factory=list)

    def add(
        self,
        kind: FindingKind,
        file: str,
        reason: str,
        *,
        index: int = -1,
        image: Path | None = None,
        boxes: Sequence[Sequence[float]] = (),
    ) -> None:
        """Note one finding."""
        plain = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)
        self.found.append(Finding(kind, file, index, reason, self.split, image, plain))


def by_severity(problems: Sequence[Finding]) -> Iterator[tuple[FindingKind, list[Finding]]]:
    """Yield each kind with its findings, errors first, kinds in the order of their first finding."""
    kinds: dict[FindingKind, list[Finding]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    rank = list(Severity)
    yield from sorted(kinds.items(), key=lambda item: rank.index(item[0].severity))


def _finite(value: float) -> float | None:
    return round(value, 3) if abs(value) < float("inf") else None


def lost_images(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that are images which cannot be used, by their header or their pixels."""
    return [p for p in problems if IN_TRAINING.get(p.kind) in (IMAGE_LEFT_OUT, POOL_ONLY)]
