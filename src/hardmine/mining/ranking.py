"""How hard an image is: one number for each rule, larger first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.inference.parity import iou_with
from hardmine.mining.rank_options import RankOptions, RuleName
from hardmine.types import Detections, PoolScore

SAME_PLACE = 0.5
"""IoU from which two boxes count as the same place, inclusive."""


def hardness(rule: RuleName, alarms: Detections, threshold: float) -> float:
    """Return how hard an image is by a rule; larger is harder.

    Args:
        alarms: at or above the floor, at least one, best first.
    """
    if rule == "score":
        return float(alarms.scores[0])
    if rule == "alarms":
        return float(len(alarms))
    if rule == "sum":
        return float(alarms.scores.astype(np.float64).sum())
    if rule == "margin":
        return -class_margin(alarms)
    return -float(np.abs(alarms.scores.astype(np.float64) - threshold).min())


def class_margin(alarms: Detections) -> float:
    """Return the difference between the two likeliest classes at the best box, background included."""
    place = iou_with(alarms.boxes[0], alarms.boxes) >= SAME_PLACE
    best: dict[int, float] = {}
    for label, score in zip(alarms.labels[place], alarms.scores[place], strict=True):
        best[int(label)] = max(best.get(int(label), 0.0), float(score))
    values = sorted([*best.values(), max(0.0, 1.0 - sum(best.values()))])
    return values[-1] - values[-2]


def of_class(alarms: Detections, label: int) -> Detections:
    """Return the alarms of one class."""
    keep = alarms.labels == label
    return Detections(alarms.boxes[keep], alarms.scores[keep], alarms.labels[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An image of the first cut: ``name`` inside the pool, its ``alarms`` at or above the floor."""

    score: PoolScore
    name: str
    alarms: Detections

    @property
    def image(self) -> str:
        """The image as the store names it."""
        return self.score.image


def order(
    entries: Sequence[Entry], options: RankOptions, label: int | None = None
) -> list[tuple[Entry, float]]:
    """Return the images that fire, hardest first, ties by score and name.

    Args:
        label: by the alarms of this class alone.
    """
    rows = []
    for entry in entries:
        alarms = entry.alarms if label is None else of_class(entry.alarms, label)
        if len(alarms):
            rows.append((entry, hardness(options.rule, alarms, options.threshold)))
    return sorted(rows, key=lambda row: (-row[1], -row[0].score.score, row[0].image))
