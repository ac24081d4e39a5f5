"""Fast scoring: every image of a pool through the scoring network, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.data.resize import Resize
from hardmine.inference.image_loading import (
    ImageItem,
    Loaded,
    batched,
    load_item,
    one_core_each,
    run_ordered,
)
from hardmine.inference.runtimes.runtime import Scorer
from hardmine.machine import count_workers
from hardmine.types import Problem


@dataclass(frozen=True, slots=True)
class FastScore:
    """One image's score by fast scoring: near the exact one; nothing was decoded."""

    name: str
    score: float
    label: int
    level: int
    phash: int


def fast_scores(
    scorer: Scorer, resize: Resize, items: Iterable[ImageItem | Problem]
) -> Iterator[list[FastScore | Problem]]:
    """Yield the results of one batch after the other, in order.

    Args:
        items: images, and problems met while they were listed, which are passed on.
    """

    def work(batch: Sequence[ImageItem | Problem]) -> list[FastScore | Problem]:
        return score_batch(scorer, resize, batch)

    with one_core_each():
        yield from run_ordered(
            batched(items, scorer.batch_size), work, count_workers(scorer.workers)
        )


def score_batch(
    scorer: Scorer, resize: Resize, batch: Sequence[ImageItem | Problem]
) -> list[FastScore | Problem]:
    """Return the fast scores of a few images."""
    read = [
        item if isinstance(item, Problem) else load_item(item, resize, hashed=True)
        for item in batch
    ]
    loaded = [item for item in read if isinstance(item, Loaded)]
    scored = iter(_score(scorer, loaded) if loaded else ())
    return [item if isinstance(item, Problem) else next(scored) for item in read]


def _score(scorer: Scorer, loaded: Sequence[Loaded]) -> Iterator[FastScore]:
    found = scorer.score(np.stack([item.pixels for item in loaded]))
    columns = (found.scores.tolist(), found.labels.tolist(), found.levels.tolist())
    for item, score, label, level in zip(loaded, *columns, strict=True):
        yield FastScore(item.name, score, label, level, item.phash)
