"""Order images by a ranking rule, and keep the rows of a pool that a ranking has to look at closely."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hardmine.detections import Detections
from hardmine.mining.mine_options import RULES, RankOptions
from hardmine.types import PoolScore

SHORTLIST = 1000
"""Least number of images on a shortlist, where more is looked at than the highest score."""
_TIMES = 4
"""Images on such a shortlist for each one that is asked for: room for duplicates, quotas, variety."""
_SPARE = 16
"""Images that the plain ranking by score looks at beyond those that are asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class RankedImage:
    """An image of the shortlist: ``name`` inside the pool, ``alarms`` best first."""

    score: PoolScore
    name: str
    alarms: Detections

    @property
    def image(self) -> str:
        """The image as the store names it."""
        return self.score.image


def rank_images(
    images: Sequence[RankedImage], options: RankOptions, label: int | None = None
) -> list[RankedImage]:
    """Return the images that have an alarm, hardest first, ties by score and name.

    Args:
        label: by the alarms of this class alone; images without one are left out.
    """
    hardness = RULES[options.rule].hardness
    rows: list[tuple[float, RankedImage]] = []
    for image in images:
        alarms = image.alarms if label is None else alarms_of_class(image.alarms, label)
        if len(alarms):
            rows.append((hardness(alarms, options.threshold), image))
    rows.sort(key=lambda row: (-row[0], -row[1].score.score, row[1].image))
    return [image for _, image in rows]


def alarms_of_class(alarms: Detections, label: int) -> Detections:
    """Return the alarms of one class."""
    keep = alarms.labels == label
    return Detections(alarms.boxes[keep], alarms.scores[keep], alarms.labels[keep])


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Rows of a pool, highest score first; ``whole`` when no other image reaches the lowest score."""

    rows: tuple[PoolScore, ...]
    whole: bool


def shortlist_size(count: int | None, options: RankOptions) -> int | None:
    """Return how many images to look at for ``count`` in the end; ``None`` for all.

    By score alone a few more than are asked for do, and each one is scored again at full precision.
    """
    if count is None:
        return None
    quotas = options.quota_class or options.quota_group
    by_score = options.rule == "score" and not (options.per_class or options.diverse or quotas)
    return count + max(_SPARE, count // 10) if by_score else max(SHORTLIST, _TIMES * count)


def take_shortlist(
    rows: Iterable[PoolScore], options: RankOptions, *, size: int | None
) -> Shortlist:
    """Take the rows that can come out on top of a ranking.

    They are the ``size`` highest scores; for a rule that looks around the threshold as many on either
    side of it; per class, as many of each class.

    Args:
        rows: a model's scores, highest first; read no further than needed.
        size: ``None`` for all.
    """
    high: deque[PoolScore] = deque(maxlen=size)
    low: list[PoolScore] = []
    counts: Counter[int] = Counter()
    dropped = False
    around = RULES[options.rule].around_threshold
    for row in rows:
        if row.score < options.min_score:
            break
        counts[row.label] += 1
        if around and row.score >= options.threshold:
            dropped |= size is not None and len(high) == size
            high.append(row)
        elif size is None or (counts[row.label] if options.per_class else len(low) + 1) <= size:
            low.append(row)
        else:
            dropped = True
            if not options.per_class:
                break
    return Shortlist((*high, *low), not dropped)
