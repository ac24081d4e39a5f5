"""From a ranked first cut to what is handed out: repeats once, quotas, variety, and why not the rest."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hardmine.mining.candidates_file import name_inside
from hardmine.mining.mine_options import MineOptions, RankOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import Cut, Entry, cut_size, first_cut, order
from hardmine.mining.repeated_alarms import Places
from hardmine.mining.rescoring import ExactRanking, Margin, ScoreAgain, measure_margin
from hardmine.types import Dataset, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.mining.sources.pool_source import Source

# Variety: those of many hard images whose features lie farthest apart.


def k_center(
    features: NDArray[np.float32], count: int, allowed: Callable[[int], bool]
) -> list[int]:
    """Choose rows greedily: the first one, then always the row farthest from all chosen ones.

    Of equally far rows the first is taken, so the order of the rows (hardest first) decides ties.
    Prefixes are stable: a larger ``count`` only appends.

    Args:
        features: f32[N, D]; they are scaled to length 1.
        allowed: asked before a row is taken, and told by being asked that it is taken when it
            answers true; a row that is refused is never asked again.

    Source: the greedy 2-approximation of Gonzalez (1985); for active learning Sener and Savarese
    (2018), "core-set".
    """
    if not len(features):
        return []
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    rows = features / np.maximum(norms, 1e-12)
    distance = np.full(len(rows), np.inf)
    open_rows = np.ones(len(rows), np.bool_)
    chosen: list[int] = []
    while len(chosen) < count and open_rows.any():
        index = int(np.where(open_rows, distance, -1.0).argmax())
        open_rows[index] = False
        if not allowed(index):
            continue
        chosen.append(index)
        distance = np.minimum(distance, np.linalg.norm(rows - rows[index], axis=1))
    return chosen


# Which images of a pool to hand out: the hardest, or random ones for the twin arm.


@dataclass(frozen=True, slots=True)
class Ranking:
    """``chosen`` images in order; how many others were passed over as near-duplicates of an image
    chosen now or handed out before.
    """

    chosen: tuple[str, ...]
    num_duplicates: int


def rank_hardest(
    scores: Iterable[PoolScore],
    *,
    count: int | None,
    min_score: float,
    group_of: Mapping[str, int],
    taken: Collection[str] = (),
) -> Ranking:
    """Choose the images on which the detector fired hardest.

    An image without a single detection is never chosen, whatever ``min_score``; 0 is a floor like
    any other. Of a near-duplicate group the hardest member is chosen and the rest passed over, also
    when the group was handed out before.

    Args:
        scores: hardest first, as ``PoolStore.iter_ranked`` yields them.
        count: at most so many; ``None`` for all.
        min_score: lowest score, inclusive, in [0, 1].
        group_of: near-duplicate group of each image that may be chosen; others are not.
        taken: images handed out before.
    """
    gone = set(taken)
    groups = {group_of[image] for image in gone if image in group_of}
    chosen: list[str] = []
    duplicates = 0
    for score in scores:
        if score.score < min_score or (count is not None and len(chosen) >= count):
            break
        if score.num_alarms < 1 or score.image in gone or score.image not in group_of:
            continue
        if group_of[score.image] in groups:
            duplicates += 1
            continue
        groups.add(group_of[score.image])
        chosen.append(score.image)
    return Ranking(tuple(chosen), duplicates)


def rank_random(
    images: Iterable[str],
    *,
    count: int,
    seed: int,
    group_of: Mapping[str, int],
    names: Mapping[str, str] | None = None,
    taken: Collection[str] = (),
) -> Ranking:
    """Choose images uniformly, firing or not, near-duplicates once.

    The order comes from a hash of the seed and the name, so it is the same on every machine and a
    larger ``count`` only appends.

    Args:
        images: all that may be chosen.
        names: what to hash instead of the image's own name (a path inside the pool, which does not
            change when the pool moves).
        taken: images handed out before.
    """
    gone = set(taken)
    groups = {group_of[image] for image in gone if image in group_of}
    label = names or {}
    order = sorted(images, key=lambda image: _draw(seed, label.get(image, image)))
    chosen: list[str] = []
    duplicates = 0
    for image in order:
        if len(chosen) >= count:
            break
        if image in gone:
            continue
        if group_of[image] in groups:
            duplicates += 1
            continue
        groups.add(group_of[image])
        chosen.append(image)
    return Ranking(tuple(chosen), duplicates)


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


DIVERSE_TIMES = 4
"""Images that variety is chosen from, for each one that is asked for."""

Features = Callable[[Sequence[str]], NDArray[np.float32]]
"""Images to features f32[N, D]."""


@dataclass(frozen=True)
class Chosen:
    """``images`` in the order of handing out; ``similar`` what each of them stands for too;
    ``reasons`` why each other image of the cut is not among them.
    """

    images: tuple[str, ...]
    similar: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]

    @property
    def num_similar(self) -> int:
        """Images passed over because another one, chosen now or before, stands for them."""
        return sum(reason.startswith(_REPEATS) for reason in self.reasons.values())


_REPEATS = ("near-duplicate of", "the same alarm in the same place")


@dataclass
class Chooser:
    """One choice; make a new one for each.

    Args:
        entries: the cut, each image once.
        group_of: near-duplicate group of each image.
        barred: images that must not be handed out, with the reason.
        before: near-duplicate groups that were handed out before, with an image of each.
        features: needed when ``options.diverse``.
    """

    entries: Sequence[Entry]
    options: RankOptions
    count: int | None
    group_of: Mapping[str, int]
    barred: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[int, str] = field(default_factory=dict)
    features: Features | None = None

    def __post_init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._taken: set[str] = set()
        self._similar: defaultdict[str, list[str]] = defaultdict(list)
        self._owners = dict(self.before)
        self._places = Places()
        self._used_class: Counter[int] = Counter()
        self._used_group: Counter[str] = Counter()

    def choose(self) -> Chosen:
        """Walk the ranking and return what is handed out."""
        for entry in self.entries:
            if not len(entry.alarms):
                self._reasons[entry.image] = "no alarm at or above the floor"
        taken = self._diverse() if self.options.diverse else self._walk(self.count, quotas=True)
        images = tuple(entry.image for entry, _ in taken)
        kept = {image: tuple(self._similar.get(image, ())) for image in images}
        reasons = {k: v for k, v in self._reasons.items() if k not in kept}
        return Chosen(images, kept, reasons)

    def _queues(self) -> list[tuple[int, deque[Entry]]]:
        """Return the ranking, or one for each class; class 0: that of each image's best alarm."""
        if not self.options.per_class:
            return [(0, deque(entry for entry, _ in order(self.entries, self.options)))]
        labels = sorted({int(label) for entry in self.entries for label in entry.alarms.labels})
        return [
            (label, deque(entry for entry, _ in order(self.entries, self.options, label)))
            for label in labels
        ]

    def _walk(self, count: int | None, *, quotas: bool) -> list[tuple[Entry, int]]:
        """Take from the queues in turn; after the last one, go on to find what it stands for."""
        taken: list[tuple[Entry, int]] = []
        waiting = deque(self._queues())
        while waiting:
            label, queue = waiting.popleft()
            while queue:
                entry = queue.popleft()
                mine = label or int(entry.alarms.labels[0])
                full = count is not None and len(taken) >= count
                if self._may_take(entry, mine, full=full, quotas=quotas):
                    taken.append((entry, mine))
                    break
            if queue:
                waiting.append((label, queue))
        return taken

    def _may_take(self, entry: Entry, label: int, *, full: bool, quotas: bool) -> bool:
        """Decide on one image and note why not; note as taken when it may be."""
        image = entry.image
        if image in self._taken:
            return False  # another class's queue has handed it out
        group = self.options.group_of(entry.name)
        reason = self.barred.get(image) or self._repeat(entry, group, label)
        if reason is None and full:
            reason = f"beyond the {self.count} asked for"
        if reason is None and quotas:
            reason = self._over_quota(label, group)
        if reason is not None:
            self._reasons.setdefault(image, reason)
            return False
        self._taken.add(image)
        self._reasons.pop(image, None)
        self._owners[self.group_of[image]] = image
        if self._watches_places:
            self._places.add(entry, group, label)
        if quotas:
            self._count(label, group)
        return True

    @property
    def _watches_places(self) -> bool:
        return self.options.repeats and self.options.group is not None

    def _repeat(self, entry: Entry, group: str, label: int) -> str | None:
        owner = self._owners.get(self.group_of[entry.image])
        reason = None if owner is None else f"near-duplicate of {owner}"
        if reason is None and self._watches_places and group:
            owner = self._places.repeats(entry, group, label)
            if owner is not None:
                reason = f"the same alarm in the same place as in {owner}"
        if owner is not None and entry.image not in self._reasons:
            self._similar[owner].append(entry.image)
        return reason

    def _over_quota(self, label: int, group: str) -> str | None:
        options = self.options
        if options.quota_class is not None and self._used_class[label] >= options.quota_class:
            return f"the quota of {options.quota_class} for its class is used up"
        if options.quota_group is None or not group:
            return None
        if self._used_group[group] >= options.quota_group:
            return f"the quota of {options.quota_group} for group {group!r} is used up"
        return None

    def _count(self, label: int, group: str) -> None:
        self._used_class[label] += 1
        self._used_group[group] += 1

    def _diverse(self) -> list[tuple[Entry, int]]:
        wide = None if self.count is None else DIVERSE_TIMES * self.count
        rows = self._walk(wide, quotas=False)
        assert self.features is not None
        features = self.features([entry.image for entry, _ in rows])

        def allowed(index: int) -> bool:
            entry, label = rows[index]
            group = self.options.group_of(entry.name)
            reason = self._over_quota(label, group)
            if reason is not None:
                self._reasons[entry.image] = reason
                return False
            self._count(label, group)
            return True

        picked = k_center(features, len(rows) if self.count is None else self.count, allowed)
        kept = [rows[index] for index in picked]
        names = {entry.image for entry, _ in kept}
        for entry, _ in rows:
            if entry.image not in names:
                self._reasons.setdefault(
                    entry.image, "others that fire as hard look less like what is chosen"
                )
        return kept


# Choosing from a scanned pool: what bars an image, what it repeats, what is handed out.

_ROWS = 10_000


@dataclass(frozen=True)
class Hand:
    """A scanned pool and how to choose from it."""

    detector: Detector
    source: Source
    store: PoolStore
    options: MineOptions
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

    @property
    def rank(self) -> RankOptions:
        """What counts as an alarm, and how images are ranked by their alarms."""
        return self.options.rank

    def choose(self) -> tuple[Chosen, dict[str, Entry]]:
        """Return the choice, and the cut that it comes from.

        The cut grows until it gives as many as are asked for, or holds all that fire.
        """
        count = self.options.count(self.scanned)
        size = cut_size(count, self.rank)
        while True:
            cut = self.cut(size)
            entries = {row.image: self._entry(row) for row in cut.rows}
            chosen = self._chooser(list(entries.values()), count).choose()
            if cut.whole or count is None or len(chosen.images) >= count:
                return chosen, entries
            size = 4 * (size or 1)

    def cut(self, size: int | None) -> Cut:
        """Return the first cut of that size, all of it at full precision."""
        return first_cut(self.ranking(self.rank.min_score, size), self.rank, size=size)

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
        alarms = self.rank.alarms(self.store.alarms(self.model_id, row.image))
        return Entry(row, name_inside(row.image, self.source.root), alarms)

    def _chooser(self, entries: Sequence[Entry], count: int | None) -> Chooser:
        groups = self._groups([entry.score for entry in entries])
        before = {groups[image]: image for image in self.taken if image in groups}
        return Chooser(entries, self.rank, count, groups, self.barred, before, self._features)

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
            from hardmine.inference.detector import pooled_features
            from hardmine.mining.sources.pool_source import open_image

            return pooled_features(self.detector, [open_image(image) for image in images])

        return look
