"""What a comparison holds: cells, contrasts with the reference, and the summary of each recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.comparison.compare_options import CompareOptions
from hardmine.types import Dataset

if TYPE_CHECKING:
    from hardmine.evaluation.bootstrap import ArmScores


RECALLS = (0.5, 0.8, 0.9)
"""Recalls at which alarms are counted."""


RATES = (0.01, 0.1, 1.0)
"""Alarms per image at which recall is given."""


@dataclass(frozen=True)
class CellResult:
    """One recipe trained with one seed: its figures, or why it failed."""

    variant: str
    seed: int
    folder: Path
    minutes: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    """What the cell wrote; :mod:`compare_summary` adds what is shown under ``"shown"``."""
    error: str | None = None


@dataclass(frozen=True)
class Contrast:
    """A recipe against the first one, paired over images and seeds.

    ``difference`` and ``ratio`` carry 95 % limits; ``verdict`` is "better", "worse", "no difference
    shown" or "not measured".
    """

    figure: str
    value: float | None
    reference: float | None
    low: float | None
    high: float | None
    kind: str
    """``difference`` (value - reference) or ``ratio`` (value / reference)."""
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class VariantSummary:
    """The means of a recipe over its seeds, and how it stands against the first recipe."""

    name: str
    recipe: dict[str, Any]
    cells: tuple[CellResult, ...]
    means: dict[str, float | None]
    contrasts: tuple[Contrast, ...]
    curve: tuple[tuple[float, float], ...] = ()
    """(alarms per image, recall), the mean over the seeds."""


@dataclass(frozen=True)
class Comparison:
    """All recipes, the first of which is the reference."""

    out: Path
    variants: tuple[VariantSummary, ...]
    options: CompareOptions
    sets: dict[str, Any]
    statements: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``compare.json``."""
        return {
            "options": asdict(self.options),
            "sets": self.sets,
            "statements": list(self.statements),
            "variants": [
                {
                    "name": item.name,
                    "means": item.means,
                    "contrasts": [asdict(contrast) for contrast in item.contrasts],
                    "cells": [{**asdict(cell), "folder": str(cell.folder)} for cell in item.cells],
                    "curve": [list(point) for point in item.curve],
                    "recipe": item.recipe,
                }
                for item in self.variants
            ],
        }


@dataclass(frozen=True)
class Sets:
    """The data of a comparison: readable images; no negative repeats an image of the other parts."""

    train: Dataset
    val: Dataset
    negatives: Dataset | None
    pool: str | None
    names: dict[str, Any]
    fingerprint: str


def scores_of(cell: CellResult, sets: Sets) -> ArmScores:
    """Return what a finished cell detected on the validation images and on the negatives."""
    from hardmine.evaluation.bootstrap import ArmScores
    from hardmine.evaluation.scored_images import load_detections

    folder = cell.folder / cell.figures["detections"]
    val = load_detections(folder / "val.json", sets.val)
    if sets.negatives is None:
        return ArmScores(val, val.subset([]))
    return ArmScores(val, load_detections(folder / "held_out.json", sets.negatives))
