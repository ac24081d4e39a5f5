"""Choosing from a scanned pool: what bars an image, what it repeats, what is handed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hardmine.errors import ConfigError
from hardmine.mining.candidates_file import name_inside
from hardmine.mining.cut import Cut, cut_size, first_cut
from hardmine.mining.image_selection import Chooser, Chosen, Features
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.rank_options import RankOptions
from hardmine.mining.ranking import Entry
from hardmine.mining.rescoring import ExactRanking, Margin, ScoreAgain, measure_margin
from hardmine.types import Dataset, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.mining.sources.pool_source import Source

_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How many to hand out and from which score on."""

    top: int | None
    fraction: float | None
    min_score: float

    def __post_init__(self) -> None:
        top, fraction = self.top, self.fraction
        if top is not None and fraction is not None:
            raise ConfigError(f"top {top} and fraction {fraction} are both given: give one of them")
        if top is not None and top < 1:
            raise ConfigError(f"top is {top}: give 1 or more")
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigError(f"fraction is {fraction}: give a share above 0 and up to 1")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score}: give a probability from 0 to 1")

    def count(self, scanned: int) -> int | None:
        """Return how many to hand out of ``scanned`` images; ``None`` for all."""
        return self.top if self.fraction is None else max(1, round(self.fraction * scanned))


@dataclass(frozen=True)
class Hand:
    """A scanned pool and how to choose from it."""

    detector: Detector
    source: Source
    store: PoolStore
    limits: Limits
    options: RankOptions
    scanned: int
    """How many of the pool's images have a score."""
    score_again: ScoreAgain
    taken: Mapping[str, str]
    """Images that were handed out or decided on before, with what is to be said of them."""
    exclude: Sequence[Dataset] = ()
    group_of: Mapping[str, int] | None = None
    """Near-duplicate group of each image of the pool; found among those looked at when not given."""
    margin: Margin = measure_margin
    problems: tuple[Problem, ...] = ()
    """What reading the pool's description met, beside what the store holds."""
    progress: Callable[[int, int], None] | None = None
    """Told (done, total) of images that are scored again at full precision."""

    @property
    def model_id(self) -> str:
        """The model that scored."""
        return self.detector.model_id

    def choose(self) -> tuple[Chosen, dict[str, Entry]]:
        """Return the choice, and the cut that it comes from.

        The cut grows until it gives as many as are asked for, or holds all that fire.
        """
        count = self.limits.count(self.scanned)
        size = cut_size(count, self.options)
        while True:
            cut = self.cut(size)
            entries = {row.image: self._entry(row) for row in cut.rows}
            chosen = self._chooser(list(entries.values()), count).choose()
            if cut.whole or count is None or len(chosen.images) >= count:
                return chosen, entries
            size = 4 * (size or 1)

    def cut(self, size: int | None) -> Cut:
        """Return the first cut of that size, all of it at full precision."""
        rows = self.ranking(self.limits.min_score, size)
        return first_cut(rows, self.options, size=size, min_score=self.limits.min_score)

    def ranking(self, floor: float, expect: int | None = None) -> ExactRanking:
        """Return the pool's exact ranking, as far as a score reaches the floor."""
        return ExactRanking(
            self.store,
            self.model_id,
            self.score_again,
            floor=floor,
            expect=expect,
            holds=self.source.holds,
            margin=self.margin,
            progress=self.progress,
        )

    def exact(self, image: str) -> PoolScore | None:
        """Return an image's score at full precision; it is scored again if need be."""
        row = self._found(image)
        if row is not None and not row.exact:
            again = list(self.score_again([image]))
            good = [item for item in again if not isinstance(item, Problem)]
            bad = [item for item in again if isinstance(item, Problem)]
            self.store.add_scores(good, bad, model_id=self.model_id)
            row = self._found(image)
        return row

    def _entry(self, row: PoolScore) -> Entry:
        alarms = self.store.alarms(self.model_id, row.image).at_least(self.limits.min_score)
        return Entry(row, name_inside(row.image, self.source.root), alarms)

    def _chooser(self, entries: Sequence[Entry], count: int | None) -> Chooser:
        groups = self._groups([entry.score for entry in entries])
        before = {groups[image]: image for image in self.taken if image in groups}
        return Chooser(entries, self.options, count, groups, self.barred, before, self._features)

    def _groups(self, rows: Sequence[PoolScore]) -> Mapping[str, int]:
        """Return the near-duplicate group of each of those images and of what was taken before."""
        from hardmine.data.splits.near_duplicates import group_duplicates

        if self.group_of is not None:
            return self.group_of
        before = [row for image in self.taken if (row := self._found(image)) is not None]
        hashes = {row.image: row.phash for row in (*rows, *before)}
        return dict(zip(hashes, group_duplicates(list(hashes.values())), strict=True))

    def _found(self, image: str) -> PoolScore | None:
        return self.store.find(self.model_id, image) if self.source.holds(image) else None

    @cached_property
    def barred(self) -> Mapping[str, str]:
        """Images that may not be handed out, with the reason."""
        leaks = {image: f"leak: repeats {other}, which is excluded" for image, other in self.leaks}
        return {**self.taken, **leaks}

    @cached_property
    def leaks(self) -> tuple[tuple[str, str], ...]:
        """Pairs (pool image, the excluded image that it repeats), whether it fires or not."""
        from hardmine.data.splits.near_duplicates import find_near, hash_images

        paths = [record.path for other in self.exclude for record in other.records]
        if not paths:
            return ()
        known = hash_images(paths)
        pairs = []
        rows = (r for r in self.store.iter_ranked(self.model_id) if self.source.holds(r.image))
        while chunk := list(islice(rows, _ROWS)):
            near = find_near(known, [row.phash for row in chunk])
            pairs += [(chunk[i].image, str(paths[j])) for i, j in near.items()]
        return tuple(sorted(pairs))

    @property
    def _features(self) -> Features:
        def look(images: Sequence[str]) -> NDArray[np.float32]:
            from hardmine.inference.features import pooled_features
            from hardmine.mining.sources.pool_source import open_image

            return pooled_features(self.detector, [open_image(image) for image in images])

        return look
