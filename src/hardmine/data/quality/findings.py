"""What a look at a dataset finds: a fault or oddity, where it is, and what to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hardmine.types import Problem

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Something was rejected, or would spoil training or measuring."""
    WARNING = "warning"
    """Probably not what was meant; used all the same."""
    INFO = "info"
    """Handled; good to know."""


_WARNINGS = frozenset(
    {
        "box_below_stride",
        "box_clipped",
        "box_copied",
        "box_form_doubtful",
        "box_repeated",
        "box_size_odd",
        "box_twice",
        "box_two_classes",
        "box_whole_image",
        "category_repeated",
        "class_empty",
        "class_rare",
        "duplicate_images",
        "file_repeated",
        "images_unreviewed",
        "label_ambiguous",
        "source_told_apart",
    }
)
_INFOS = frozenset({"image_16bit", "image_animated", "image_cmyk", "image_grey", "image_turned"})


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
            "severity": severity_of(self).value,
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
        kind: str,
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


def severity_of(problem: Problem) -> Severity:
    """Return how much a problem matters."""
    if problem.kind in _WARNINGS:
        return Severity.WARNING
    return Severity.INFO if problem.kind in _INFOS else Severity.ERROR


def by_severity(problems: Sequence[Finding]) -> Iterator[tuple[Severity, str, list[Finding]]]:
    """Yield (severity, kind, findings), errors first, kinds in the order of their first finding."""
    for severity in Severity:
        kinds: dict[str, list[Finding]] = {}
        for problem in problems:
            if severity_of(problem) is severity:
                kinds.setdefault(problem.kind, []).append(problem)
        for kind, found in kinds.items():
            yield severity, kind, found


def _finite(value: float) -> float | None:
    return round(value, 3) if abs(value) < float("inf") else None
