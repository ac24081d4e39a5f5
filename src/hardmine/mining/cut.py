"""The first cut: the rows of a pool that a ranking looks at more closely."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from hardmine.mining.rank_options import RankOptions
from hardmine.types import PoolScore

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


def first_cut(
    ranked: Iterable[PoolScore], options: RankOptions, *, size: int | None, min_score: float
) -> Cut:
    """Take the rows that can come out on top.

    ``score``, ``alarms``, ``sum`` and ``margin`` look at the ``size`` highest scores; ``uncertainty``
    at as many on either side of its threshold; per class, at as many of each class.

    Args:
        ranked: a model's rows, highest score first; read no further than needed.
        size: ``None`` for all.
        min_score: lowest score, inclusive.
    """
    high: deque[PoolScore] = deque(maxlen=size)
    low: list[PoolScore] = []
    counts: Counter[int] = Counter()
    dropped = False
    for row in ranked:
        if row.score < min_score:
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
