"""How hard an image is: one number for each rule, larger first."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.mining.mine_options import RankOptions, RuleName
from hardmine.numpy_boxes import box_iou
from hardmine.types import Detections, PoolScore

# What a ranking of a pool is asked for; light enough for a command line to import.


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
    place = box_iou(alarms.boxes[:1], alarms.boxes)[0] >= SAME_PLACE
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


# The first cut: the rows of a pool that a ranking looks at more closely.

CUT = 1000
"""Least number of images in a cut."""
_TIMES = 4
"""Images in a cut for each one that is asked for: room for duplicates, quotas and variety."""


_SPARE = 16


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows, highest score first; ``whole`` when no other image reaches the floor."""

    rows: tuple[PoolScore, ...]
    whole: bool


def cut_size(count: int | None, options: RankOptions) -> int | None:
    """Return how many images to look at for ``count`` in the end; ``None`` for all.

    By the plain rule a few more than are asked for do, and each one is scored again at full precision.
    """
    if count is None:
        return None
    quotas = options.quota_class or options.quota_group
    plain = options.rule == "score" and not (options.per_class or options.diverse or quotas)
    return count + max(_SPARE, count // 10) if plain else max(CUT, _TIMES * count)


def first_cut(ranked: Iterable[PoolScore], options: RankOptions, *, size: int | None) -> Cut:
    """Take the rows that can come out on top.

    ``score``, ``alarms``, ``sum`` and ``margin`` look at the ``size`` highest scores; ``uncertainty``
    at as many on either side of its threshold; per class, at as many of each class.

    Args:
        ranked: a model's rows, highest score first; read no further than needed.
        size: ``None`` for all.
    """
    high: deque[PoolScore] = deque(maxlen=size)
    low: list[PoolScore] = []
    counts: Counter[int] = Counter()
    dropped = False
    for row in ranked:
        if row.score < options.min_score:
            break
        counts[row.label] += 1
        if options.rule == "uncertainty" and row.score >= options.threshold:
            dropped |= size is not None and len(high) == size
            high.append(row)
        elif size is None or (counts[row.label] if options.per_class else len(low) + 1) <= size:
            low.append(row)
        else:
            dropped = True
            if not options.per_class:
                break
    return Cut((*high, *low), not dropped)
