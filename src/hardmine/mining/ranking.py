"""Ranking the images of a pool: by a rule, and exactly where most images have only a fast score.

A rule looks closely only at the images of a shortlist (`take_shortlist`). A fast score is off by a
little: an image takes its place in the exact ranking (`ExactRanking`) once every image whose fast
score might still be above it has been scored again; no other image is scored again.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardmine.detections import Detections
from hardmine.inference.image_loading import batched
from hardmine.mining.mine_options import RULES, RankOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.types import PoolScore, Problem

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
            rows.append((hardness(alarms, options), image))
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
    side of it; per class, and by a rule of each class, as many of each class (on either side).

    Args:
        rows: a model's scores, highest first; read no further than needed.
        size: ``None`` for all.
    """
    high: defaultdict[int, deque[PoolScore]] = defaultdict(lambda: deque(maxlen=size))
    low: list[PoolScore] = []
    counts: Counter[int] = Counter()
    dropped = False
    rule = RULES[options.rule]
    around, by_class = rule.around_threshold, options.per_class or rule.of_each_class
    for row in rows:
        if not options.reaches(row.score):
            break
        kind = row.label if by_class else 0
        if around and row.score >= options.threshold:
            dropped |= size is not None and len(high[kind]) == size
            high[kind].append(row)
        elif size is None or counts[kind] < size:
            counts[kind] += 1
            low.append(row)
        else:
            dropped = True
            if not by_class:
                break
    above = sorted((row for part in high.values() for row in part), key=_place)
    return Shortlist((*above, *low), not dropped)


ScoreExactly = Callable[[Sequence[str]], Iterable[tuple[PoolScore, Detections] | Problem]]
"""Scores images at full precision, by name, and decodes them; in any order."""

Margin = Callable[[PoolStore, str], float]
"""By how much an exact score of a model may exceed the fast one, in logits."""

QUANTILE = 0.995
"""Share of the fast scores' errors, as seen so far, that the margin covers."""

_CHUNK = 256
_FEWEST = 16
_PAGE = 256
_COMMIT = 64
_ENOUGH = 20
_UNKNOWN = 0.2
"""Logits: the margin until ``_ENOUGH`` errors were seen to measure it by."""
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class RankedPart:
    """Which part of a pool is ranked, and how surely.

    Attributes:
        min_score: lowest score that is of interest: what stays below is not scored again.
        expect: how many will likely be taken: so many are scored again at once to begin with.
        holds: says whether an image belongs to the pool that is ranked; all do unless given.
        margin: by how much an exact score may exceed the fast one; :func:`measure_margin` unless given.
    """

    min_score: float = 0.0
    expect: int | None = None
    holds: Callable[[str], bool] = lambda image: True
    margin: Margin | None = None


class ExactRanking:
    """Iterates over a model's scores, hardest first, all exact; scores images again as it is needed.

    Args:
        score_exactly: how images are scored at full precision.
        part: what is ranked of the pool.
        progress: called with (done, total) of the images scored again; the total grows with the need.
    """

    def __init__(
        self,
        store: PoolStore,
        model_id: str,
        score_exactly: ScoreExactly,
        part: RankedPart | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        part = part or RankedPart()
        self._store = store
        self._model_id = model_id
        self._score_exactly = score_exactly
        self._min_score = min(part.min_score, float(np.float32(part.min_score)))
        self._expect = part.expect or _CHUNK
        self._holds = part.holds
        self._progress = progress
        self._waiting: list[PoolScore] = []
        self._fresh: list[PoolScore] = []
        self._fetched: PoolScore | None = None
        self._measure = part.margin or measure_margin
        self._margin = self._measure(store, model_id)
        self.rescored = 0
        """Images scored again so far."""

    def __iter__(self) -> Iterator[PoolScore]:
        """Yield the scores down to ``min_score`` at least; ties by name.

        An image that the margin did not cover comes late rather than never.
        """
        last: PoolScore | None = None
        self._begin()
        while True:
            yield from sorted(self._fresh_before(last), key=_place)
            page = self._store.ranked_after(self._model_id, last, _PAGE, exact=True)
            if not page and not self._take(max(_FEWEST, self._expect // 8), self._min_score):
                return
            for score in page:
                if self._take(_CHUNK, max(score.score, self._min_score)):
                    break  # there are new exact scores, perhaps above this one
                last = score
                if self._holds(score.image):
                    yield score

    def _begin(self) -> None:
        """Make as many places as will be asked for exact, in as few and large batches as possible."""
        while True:
            ranked = self._store.ranked_after(self._model_id, None, self._expect, exact=True)
            if len(ranked) < self._expect:
                more = self._take(self._expect - len(ranked), self._min_score)
            else:
                more = self._take(_CHUNK, max(ranked[-1].score, self._min_score))
            if not more:
                return

    def _fresh_before(self, last: PoolScore | None) -> list[PoolScore]:
        """Return what was scored again since the last call and belongs before ``last``."""
        fresh, self._fresh = self._fresh, []
        return [] if last is None else [score for score in fresh if _place(score) < _place(last)]

    def _take(self, most: int, reach: float) -> bool:
        """Score up to ``most`` images again whose exact score may be ``reach`` or more; any at all?"""
        self._fetch(most if reach == 0 else 1)
        bound = shift_logit(reach, -self._margin)
        if not self._waiting or self._waiting[0].score < bound:
            return False
        self._fetch(most)
        chosen = [score.image for score in self._waiting[:most] if score.score >= bound]
        self._waiting = self._waiting[len(chosen) :]
        wanted = self.rescored + len(chosen)
        for part in batched(self._score_exactly(chosen), _COMMIT):
            good = [item for item in part if not isinstance(item, Problem)]
            bad = [item for item in part if isinstance(item, Problem)]
            self._store.add_scores(good, bad, model_id=self._model_id)
            self._fresh += [score for score, _ in good]
            self.rescored += len(part)
            if self._progress is not None:
                self._progress(self.rescored, wanted)
        self._margin = self._measure(self._store, self._model_id)
        return True

    def _fetch(self, count: int) -> None:
        """Have ``count`` fast scores waiting, or all that are left."""
        while len(self._waiting) < count:
            page = self._store.ranked_after(self._model_id, self._fetched, _PAGE, exact=False)
            if not page:
                return
            self._fetched = page[-1]
            self._waiting += [score for score in page if self._holds(score.image)]


def _place(score: PoolScore) -> tuple[float, str]:
    return -score.score, score.image


def measure_margin(store: PoolStore, model_id: str) -> float:
    """Return by how much an exact score may exceed the fast one, in logits.

    It is the ``QUANTILE`` of the errors of all images that have both.
    """
    errors = _errors(store, model_id)
    if len(errors) < _ENOUGH:
        return wide_margin(store, model_id)
    return float(np.quantile(errors, QUANTILE))


def wide_margin(store: PoolStore, model_id: str) -> float:
    """Return twice the largest error seen, in logits, and more as long as few were seen.

    For a choice that must be the exact one whatever it costs: no image was missed in what was
    measured (docs/log.md), so that the choice does not hang on where a run was killed.
    """
    errors = _errors(store, model_id)
    least = _UNKNOWN if len(errors) < _ENOUGH else 0.0
    return max(least, 2 * float(errors.max(initial=0.0)))


def _errors(store: PoolStore, model_id: str) -> NDArray[np.float64]:
    pairs = store.score_pairs(model_id).clip(_EDGE, 1 - _EDGE).astype(np.float64)
    logits = np.log(pairs / (1 - pairs))
    errors: NDArray[np.float64] = np.abs(logits[:, 0] - logits[:, 1])
    return errors


def shift_logit(score: float, by: float) -> float:
    """Return a probability moved by ``by`` on the scale of logits; 0 and 1 stay."""
    if not 0 < score < 1:
        return score
    return float(1 / (1 + (1 - score) / score * np.exp(-by)))
