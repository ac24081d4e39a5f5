"""From a ranked first cut to what is handed out: repeats once, quotas, variety, and why not the rest."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardmine.mining.diverse import k_center
from hardmine.mining.rank_options import RankOptions
from hardmine.mining.ranking import Entry, order
from hardmine.mining.repeated_alarms import Places

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
