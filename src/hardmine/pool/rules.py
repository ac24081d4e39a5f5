"""How hard an image is: one number for each rule, larger first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from hardmine.detect.parity import iou_with
from hardmine.errors import ConfigError
from hardmine.types import Detections, PoolScore

RuleName = Literal["score", "alarms", "sum", "margin", "uncertainty"]
RULES: tuple[RuleName, ...] = get_args(RuleName)

SAME_PLACE = 0.5
"""IoU from which two boxes count as the same place, inclusive."""


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How a pool is ranked, and what is left out of the list.

    Rules, on the alarms at or above the score floor:

    - ``score``: the highest score;
    - ``alarms``: how many there are;
    - ``sum``: the sum of their scores;
    - ``margin``: the smallest difference first between the two best classes at the best box, of
      which background is one (with what the others leave of 1);
    - ``uncertainty``: the smallest distance first of any alarm to ``threshold``: where truth is
      unknown, the images to look at, also for objects that were missed.

    Attributes:
        per_class: rank each class by its own alarms and hand out in turn, a class at a time.
        quota_class: at most so many images of a class.
        group: "folder", or a regular expression whose first group (or whole match) in the image's
            name is its group (a camera); images that do not match have none.
        quota_group: at most so many images of a group.
        repeats: count the same false alarm in the same place of a group's images once.
        diverse: of several times as many, take those whose features lie farthest apart.
    """

    rule: RuleName = "score"
    per_class: bool = False
    quota_class: int | None = None
    group: str | None = None
    quota_group: int | None = None
    repeats: bool = True
    threshold: float = 0.5
    diverse: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rank: got {self.rule!r}, wanted one of {', '.join(RULES)}")
        for name, quota in (("class", self.quota_class), ("group", self.quota_group)):
            if quota is not None and quota < 1:
                raise ConfigError(f"quota_{name}: got {quota}, wanted 1 or more")
        if self.quota_group is not None and self.group is None:
            raise ConfigError("quota_group needs group: what makes a group (folder, or a pattern)")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold: got {self.threshold}, wanted a score from 0 to 1")
        if self.group not in (None, "folder"):
            try:
                re.compile(self.group)
            except re.error as error:
                raise ConfigError(f"group: {self.group!r} is no pattern ({error})") from None

    def group_of(self, name: str) -> str:
        """Return the group of an image by its name inside the pool; "" when it has none."""
        if self.group is None:
            return ""
        if self.group == "folder":
            return name.rpartition("/")[0] or "."
        found = re.search(self.group, name)
        if found is None:
            return ""
        return found.group(1) or "" if found.re.groups else found.group(0)


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
