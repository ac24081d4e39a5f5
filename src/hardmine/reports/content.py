"""What a report is made of: plain values, filled by whoever ran the experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.evaluation.alarms import negatives_curve, thin
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.scored_images import Scored
from hardmine.reports.round_columns import RoundRow
from hardmine.reports.wording import Comparison, Looked, Stop
from hardmine.types import Problem


@dataclass(frozen=True, eq=False)
class Picture:
    """An image on disk, what was detected on it (original pixels) and a line of text."""

    path: Path
    detections: Detections
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures under a heading. ``total`` counts those that exist, shown or not."""

    title: str
    pictures: tuple[Picture, ...]
    total: int
    note: str = ""


@dataclass(frozen=True)
class CurveLine:
    """A miss-rate curve to draw: ``points`` are (false alarms per image, miss rate)."""

    name: str
    points: tuple[tuple[float, float], ...]
    log_average: float | None


END = 0.25
"""Share of the rows of a training, at the end, that sentences are about."""
SIDES = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class ClassAtLevel:
    """A class on a level at the end of a training."""

    positives: float
    own: float
    """Mean probability that its positives were given for it."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCourse:
    """The rows of one training's ``telemetry.csv``; ``name`` says which training."""

    name: str
    rows: tuple[Mapping[str, float | str | None], ...]

    @property
    def num_levels(self) -> int:
        """Levels of the network."""
        return sum(name.endswith(".priors") for name in self.rows[0])

    def at_end(self, column: str) -> float | None:
        """Return a column's mean over the last quarter of the rows; None where it is not defined."""
        rows = self.rows[-max(1, int(len(self.rows) * END)) :]
        values = [value for row in rows if isinstance(value := row.get(column), float)]
        return sum(values) / len(values) if values else None

    def class_at_end(self, name: str, level: int) -> ClassAtLevel | None:
        """Return a class on a level; None where it has no positive there at the end."""
        column = f"level{level}.own.{name}"
        positives, own = self.at_end(f"{column}.positives"), self.at_end(column)
        return None if not positives or own is None else ClassAtLevel(positives, own)

    def other_classes_at_end(self, name: str) -> float | None:
        """Return the same mean probability over the positives of all other classes."""
        heads = [
            match.groups()
            for column in self.rows[0]
            if (match := re.fullmatch(r"level(\d+)\.own\.(.*)\.positives", column))
        ]
        found = [self.class_at_end(other, int(at)) for at, other in heads if other != name]
        known = [each for each in found if each is not None]
        total = sum(each.positives for each in known)
        return sum(each.own * each.positives for each in known) / total if total else None

    def level_shares(self, column: str) -> list[float]:
        """Return each level's share of a column at the end of the training; 0 where all are 0."""
        values = [self.at_end(f"level{level}.{column}") or 0.0 for level in range(self.num_levels)]
        total = sum(values)
        return [value / total if total else 0.0 for value in values]

    def gradient_shares(self) -> list[float]:
        """Return each level's share of the gradient by the class logits, as the sum of its norms."""
        both = [
            sum(self.at_end(f"level{level}.{side}_gradient") or 0.0 for side in SIDES)
            for level in range(self.num_levels)
        ]
        return [value / sum(both) if sum(both) else 0.0 for value in both]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything on the page. Sections without content are left out."""

    title: str
    categories: tuple[str, ...]
    rows: tuple[RoundRow, ...]
    arms: Mapping[str, str] = field(default_factory=dict)
    """What each arm adds, by name; the one that the others are controls of comes first."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    model_choice: tuple[str, ...] = ()
    """Why the model was chosen, where the data chose it."""
    versions: Mapping[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    mined: tuple[Gallery, ...] = ()
    looked: tuple[Looked, ...] = ()
    worst: Gallery | None = None
    curves: tuple[CurveLine, ...] = ()
    stops: tuple[Stop, ...] = ()
    problems: tuple[Problem, ...] = ()
    leaks: tuple[str, ...] = ()
    """One line each: which image of which set is a near-duplicate of which other."""
    courses: tuple[TrainingCourse, ...] = ()
    """What was selected in the course of the trainings that the page shows."""
    notes: tuple[str, ...] = ()
    """What a reader must know before trusting the figures."""


def read_course(name: str, run: Path) -> TrainingCourse | None:
    """Return the course of the training in the folder ``run``; None where it has no telemetry."""
    from hardmine.training.training_log import read_telemetry

    rows = read_telemetry(run / "telemetry.csv")
    return TrainingCourse(name, rows) if rows else None


def curve_line(name: str, val: Scored, negatives: Scored) -> CurveLine | None:
    """Return a detector's miss-rate curve on a negative set; None where it is undefined."""
    from hardmine.evaluation.alarms import log_average_miss_rate

    arm = ArmScores(val, negatives)
    curve = negatives_curve(arm.matches, arm.alarms)
    if curve is None:
        return None
    drawn = thin(curve)
    points = tuple(zip(drawn.fppi.tolist(), drawn.miss_rate.tolist(), strict=True))
    return CurveLine(name, points, log_average_miss_rate(curve))


def worst_alarms(negatives: Scored, *, top: int = 24) -> Gallery:
    """Return the images without objects on which the detector is surest that there is one."""
    empty = negatives.without_objects()
    best = np.array([found.scores.max(initial=0.0) for found in empty.detections])
    order = [int(i) for i in np.argsort(-best, kind="stable") if best[i] > 0]
    pictures = tuple(
        Picture(record.path, empty.detections[i], f"{best[i]:.2f} · {record.path.name}")
        for i in order[:top]
        for record in [empty.dataset.records[i]]
    )
    return Gallery("Worst remaining alarms", pictures, len(order))
