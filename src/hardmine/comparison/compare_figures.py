"""What a comparison measures: figures of each training, means over the seeds, paired intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.evaluation.alarms import (
    count_alarms,
    find_threshold,
    negatives_curve,
    recall_at_alarms,
)
from hardmine.evaluation.average_precision import average_precision
from hardmine.evaluation.class_alarms import alarms_at_class_recall, has_several_classes
from hardmine.evaluation.intervals import ArmScores, ap50_statistic
from hardmine.evaluation.paired import (
    RatioInterval,
    paired_difference_over_seeds,
    paired_ratio_over_seeds,
)
from hardmine.evaluation.scored_images import load_detections
from hardmine.reports import wording
from hardmine.types import Dataset

RECALLS = (0.5, 0.8, 0.9)
"""Recalls at which alarms are counted."""


RATES = (0.01, 0.1, 1.0)
"""Alarms per image at which recall is given."""


EACH_CLASS = "alarms_at_0.8_each_class"
"""Alarms with each class at its own recall .8, where several classes have objects."""

COLUMNS = (
    ("AP", "AP"),
    ("AP50", "AP50"),
    ("AP50_training", "AP50 on training images"),
    ("AP_small", "AP small"),
    ("AP_medium", "AP medium"),
    ("AP_large", "AP large"),
    ("AP50_small", "AP50 small"),
    ("AP50_medium", "AP50 medium"),
    ("AP50_large", "AP50 large"),
    ("recall_at_0.1", "recall at .1 alarms per image"),
    ("alarms_at_0.5", "alarms per image at recall .5"),
    ("alarms_at_0.8", "alarms per image at recall .8"),
    ("alarms_at_0.9", "alarms per image at recall .9"),
    (EACH_CLASS, "alarms per image with each class at recall .8"),
    ("threshold", "score at recall .8"),
    ("minutes", "minutes"),
)
"""Figures of a recipe: key and heading, in the order in which they are shown."""

_CURVE_POINTS = np.geomspace(1e-3, 10.0, 60)


@dataclass(frozen=True)
class CellResult:
    """One recipe trained with one seed: its figures, or why it failed."""

    variant: str
    seed: int
    folder: Path
    minutes: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    """What the cell wrote; :func:`with_row` adds what is shown under ``"shown"``."""
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
    """The means of a recipe over its seeds, and how it compares with the first recipe."""

    name: str
    recipe: dict[str, Any]
    cells: tuple[CellResult, ...]
    means: dict[str, float | None]
    contrasts: tuple[Contrast, ...]
    curve: tuple[tuple[float, float], ...] = ()
    """(alarms per image, recall), the mean over the seeds."""
    settings: tuple[str, ...] = ()
    """What is laid over the base recipe, as ``--set`` takes it."""
    with_negatives: bool = False
    """It trained on the images of ``train_negatives`` too."""
    base: str = ""
    """The recipe that the settings are laid over; "" is the default one."""
    loop: tuple[str, ...] = ()
    """Options of its loop, each as ``loop.add=0.5``."""


@dataclass(frozen=True)
class Sets:
    """The data of a comparison: readable images; no negative repeats an image of the other parts."""

    train: Dataset
    val: Dataset
    negatives: Dataset | None
    pool: str | None
    names: dict[str, Any]
    fingerprint: str
    train_negatives: Dataset | None = None
    """Images without objects for the variants that train on them."""
    fingerprint_of_train_negatives: str = ""


def scores_of(cell: CellResult, sets: Sets) -> ArmScores:
    """Return what a finished cell detected on the validation images and on the negatives."""

    folder = cell.folder / cell.figures["detections"]
    val = load_detections(folder / "val.json", sets.val)
    if sets.negatives is None:
        return ArmScores(val, val.subset([]))
    return ArmScores(val, load_detections(folder / "held_out.json", sets.negatives))


def with_row(cell: CellResult, figures: dict[str, float | None] | None) -> CellResult:
    """Return the cell with what is shown of it; a cell that failed has no figures and stays."""
    if figures is None:
        return cell
    return replace(cell, figures={**cell.figures, "shown": row_of(cell, figures)})


def row_of(cell: CellResult, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the figures of a cell's detections with those that only the training knew."""
    fit = cell.figures.get("measurement", {}).get("training") or {}
    return {**figures, "AP50_training": fit.get("AP50"), "minutes": cell.minutes}


def figures_of(arm: ArmScores) -> dict[str, float | None]:
    """Return the figures of one trained detector, by the keys of ``COLUMNS``; None where undefined."""
    ap = average_precision(arm.val)
    found: dict[str, float | None] = {
        "AP": ap.ap,
        "AP50": ap.ap50,
        "AP_small": ap.small,
        "AP_medium": ap.medium,
        "AP_large": ap.large,
        "AP50_small": ap.small50,
        "AP50_medium": ap.medium50,
        "AP50_large": ap.large50,
        "threshold": find_threshold(arm.matches, 0.8),
    }
    for row in ap.per_class:
        found[f"AP50 of {row.name}"] = row.ap50
    if not arm.alarms.num_images:
        return found
    for recall in RECALLS:
        threshold = find_threshold(arm.matches, recall)
        rate = None if threshold is None else count_alarms(arm.alarms, threshold).alarms_per_image
        found[f"alarms_at_{recall:g}"] = rate
    if has_several_classes(arm):
        found[EACH_CLASS] = alarms_at_class_recall(arm, 0.8).alarms_per_image
    for limit in RATES:
        found[f"recall_at_{limit:g}"] = recall_at_alarms(arm.matches, arm.alarms, limit).recall
    return found


def contrasts_of(pairs: Sequence[tuple[ArmScores, ArmScores]], draws: int) -> tuple[Contrast, ...]:
    """Return AP50 and the alarms at equal recall against the reference, one pair per seed."""
    if not pairs:
        return ()
    gap = paired_difference_over_seeds(pairs, ap50_statistic, draws=draws)
    found = [
        Contrast(
            "AP50",
            gap.value_a,
            gap.value_b,
            gap.low,
            gap.high,
            "difference",
            _verdict(gap.low, gap.high, none=0.0, higher_is_better=True),
        )
    ]
    if all(arm.alarms.num_images for pair in pairs for arm in pair):
        for recall in RECALLS:
            ratio = paired_ratio_over_seeds(pairs, recall=recall, draws=draws)
            found.append(_of_alarms(f"alarms_at_{recall:g}", ratio))
        if has_several_classes(pairs[0][0]):
            ratio = paired_ratio_over_seeds(pairs, recall=0.8, each_class=True, draws=draws)
            found.append(_of_alarms(EACH_CLASS, ratio))
    return tuple(found)


def _of_alarms(figure: str, ratio: RatioInterval) -> Contrast:
    return Contrast(
        figure,
        ratio.per_image_a,
        ratio.per_image_b,
        ratio.low,
        ratio.high,
        "ratio",
        _verdict(ratio.low, ratio.high, none=1.0, higher_is_better=False),
        ratio.note,
    )


def _verdict(low: float | None, high: float | None, *, none: float, higher_is_better: bool) -> str:
    if low is None and high is None:
        return "not measured"
    above = low is not None and low > none
    below = high is not None and high < none
    if not above and not below:
        return "no difference shown"
    return "better" if above == higher_is_better else "worse"


def mean_curve(arms: Sequence[ArmScores]) -> tuple[tuple[float, float], ...]:
    """Return recall against alarms per image, the mean over the seeds; nothing without negatives."""
    curves = [negatives_curve(arm.matches, arm.alarms) for arm in arms if arm.alarms.num_images]
    known = [curve for curve in curves if curve is not None]
    if not known:
        return ()
    points = []
    for rate in _CURVE_POINTS:
        recalls = [
            recall_at_alarms(arm.matches, arm.alarms, float(rate)).recall
            for arm in arms
            if arm.alarms.num_images
        ]
        values = [value for value in recalls if value is not None]
        if values:
            points.append((float(rate), float(np.mean(values))))
    return tuple(points)


def means_of(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each figure over the seeds; None where a seed lacks it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    found: dict[str, float | None] = {}
    for key in keys:
        values = [row.get(key) for row in rows]
        known = [value for value in values if value is not None and math.isfinite(value)]
        # A mean over some of the seeds would compare unlike things.
        found[key] = float(np.mean(known)) if known and len(known) == len(rows) else None
    return found


def cell_text(key: str, value: float | None) -> str:
    """Return a figure of :data:`COLUMNS` as a table shows it; a score near 1 is told from 1."""
    return wording.score(value) if key == "threshold" else figure_text(value)


def figure_text(value: float | None) -> str:
    """Return a figure with three digits, or more where it is so small that these would be zeros."""
    return wording.rate(value) if value is None or abs(value) < 1e-3 else wording.number(value)
