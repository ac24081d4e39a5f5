"""Which images of a scanned pool are handed out, and why the others are not.

:class:`ImageSelector` looks at as much of a pool's ranking as is needed and returns :class:`Selected`.
Going down the ranking, an image is left out when it was handed out or decided on before, repeats an
excluded image, is a near-duplicate of one that was selected, shows the same alarm in the same place of
its group, or is over a quota. With ``diverse``, the images that look least alike are taken of those
that remain. :func:`select_random` draws images for the control arm ``random`` instead.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.errors import DataError
from hardmine.inference.image_loading import open_item
from hardmine.mining.mine_options import SAME_PLACE, MineOptions, RankOptions
from hardmine.mining.pool_leaks import find_leaks
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import (
    ExactRanking,
    Margin,
    RankedImage,
    RankedPart,
    Shortlist,
    measure_margin,
    rank_images,
    shortlist_size,
    take_shortlist,
)
from hardmine.mining.scan import ScannedPool
from hardmine.mining.sources.pool_source import Source, name_inside, open_image
from hardmine.numpy_boxes import box_iou
from hardmine.types import PoolScore, Problem


class Reason(Enum):
    """A reason why an image is not handed out; its value is what a summary calls such images."""

    BELOW_MIN_SCORE = "score below --min-score"
    NO_ALARM = "no detection that counts as an alarm"
    HANDED_OUT_BEFORE = "handed out before"
    DECIDED = "decided on by a person"
    SET_ASIDE = "set aside as they may hold an object"
    LEAK = "repeats of an excluded image"
    NEAR_DUPLICATE = "near-duplicates of another image"
    SAME_ALARM = "the same alarm in the same place as in another image"
    QUOTA_OF_CLASS = "over the quota of their class"
    QUOTA_OF_GROUP = "over the quota of their group"
    BEYOND_COUNT = "beyond the number asked for"
    LESS_DIVERSE = "more alike than those handed out"
    NOT_LOOKED_AT = "others score higher"

    @property
    def is_represented(self) -> bool:
        """True when another image, handed out now or before, stands for such an image."""
        return self in (Reason.NEAR_DUPLICATE, Reason.SAME_ALARM)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one image is not handed out; ``text`` says it of this image, for ``--explain``."""

    reason: Reason
    text: str

    def __str__(self) -> str:
        return self.text


def count_reasons(rejections: Iterable[Rejection]) -> Counter[Reason]:
    """Return how many images fell for each reason."""
    return Counter(rejection.reason for rejection in rejections)


DIVERSE_TIMES = 4
"""Images that variety is chosen from, for each one that is asked for."""

Features = Callable[[Sequence[str]], NDArray[np.float32]]
"""Images to features f32[N, D]."""


@dataclass(frozen=True)
class Selected:
    """What a selection gave.

    ``images`` in the order of handing out; ``similar`` the images that each of them stands for;
    ``shortlist`` all images that were looked at; ``rejections`` why each other one of them is not
    handed out; ``not_looked_at`` how many more images have a score.
    """

    images: tuple[str, ...]
    similar: Mapping[str, tuple[str, ...]]
    rejections: Mapping[str, Rejection]
    shortlist: Mapping[str, RankedImage] = field(default_factory=dict)
    whole: bool = True
    """Whether every image that reaches the lowest score is on the shortlist."""
    not_looked_at: int = 0

    @property
    def num_represented(self) -> int:
        """Images left out because another one, selected now or before, stands for them."""
        return sum(rejection.reason.is_represented for rejection in self.rejections.values())

    @property
    def reasons(self) -> Counter[Reason]:
        """How many images are not handed out for each reason."""
        counts = count_reasons(self.rejections.values())
        rest = Reason.BELOW_MIN_SCORE if self.whole else Reason.NOT_LOOKED_AT
        if self.not_looked_at:
            counts[rest] += self.not_looked_at
        return counts


@dataclass(frozen=True)
class ImageSelector:
    """Selects images of a scanned pool.

    Args:
        taken: images that were handed out or decided on before.
        excluded: images that must not be mined, nor what repeats them.
        group_of: near-duplicate group of each image of the pool; found among those looked at when not
            given.
        margin: by how much an exact score may exceed the fast one.
        progress: called with (done, total) of images that are scored again at full precision.
    """

    scanned: ScannedPool
    options: MineOptions
    taken: Mapping[str, Rejection] = field(default_factory=dict)
    excluded: Sequence[str] = ()
    group_of: Mapping[str, int] | None = None
    margin: Margin = measure_margin
    progress: Callable[[int, int], None] | None = None

    @property
    def rank(self) -> RankOptions:
        """What counts as an alarm, and how images are ranked by their alarms."""
        return self.options.rank

    @property
    def store(self) -> PoolStore:
        """The store with the scores."""
        return self.scanned.store

    @property
    def source(self) -> Source:
        """The source of the images."""
        return self.scanned.source

    def select(self) -> Selected:
        """Select from a shortlist, which grows until it gives as many as are asked for."""
        count = self.options.count(self.scanned.num_images)
        size = shortlist_size(count, self.rank)
        while True:
            shortlist = self._take_shortlist(size)
            images = {row.image: self._ranked_image(row) for row in shortlist.rows}
            walk = self._walk(list(images.values()), count)
            selected = walk.select()
            if shortlist.whole or count is None or len(selected.images) >= count:
                return Selected(
                    selected.images,
                    selected.similar,
                    selected.rejections,
                    images,
                    shortlist.whole,
                    max(0, self.scanned.num_images - len(images)),
                )
            size = 4 * (size or 1)

    def exact_ranking(self, min_score: float, expect: int | None = None) -> ExactRanking:
        """Return the pool's scores at full precision, hardest first, down to ``min_score``."""
        return ExactRanking(
            self.store,
            self.scanned.model_id,
            self.scanned.score_exactly,
            RankedPart(min_score, expect, self.source.holds, self.margin),
            self.progress,
        )

    def exact_score(self, image: str) -> PoolScore | None:
        """Return an image's score at full precision; it is scored again if need be."""
        row = self._stored(image)
        if row is not None and not row.exact:
            results = list(self.scanned.score_exactly([image]))
            good = [item for item in results if not isinstance(item, Problem)]
            bad = [item for item in results if isinstance(item, Problem)]
            self.store.add_scores(good, bad, model_id=self.scanned.model_id)
            row = self._stored(image)
        return row

    def best_score(self) -> float | None:
        """Return the highest score of the pool's images at full precision; ``None`` without any."""
        best = next(self._stored_ranking(), None)
        row = None if best is None else self.exact_score(best.image)
        return None if row is None else row.score

    @cached_property
    def barred(self) -> Mapping[str, Rejection]:
        """Images that may not be handed out, whatever their rank."""
        leaks = {
            image: Rejection(Reason.LEAK, f"leak: repeats {other}, which is excluded")
            for image, other in self.leaks
        }
        return {**self.taken, **leaks}

    @cached_property
    def _taken_really(self) -> Mapping[str, Rejection]:
        return {os.path.realpath(image): why for image, why in self.taken.items()}

    def _taken_of(self, images: Sequence[RankedImage]) -> Mapping[str, Rejection]:
        """Return those of the images that were taken, also where a link gives them another name now."""
        known = self._taken_really
        real = {image.image: os.path.realpath(image.image) for image in images}
        return {**self.taken, **{name: known[path] for name, path in real.items() if path in known}}

    @cached_property
    def leaks(self) -> tuple[tuple[str, str], ...]:
        """Pairs (pool image, the excluded image that it repeats), whether it has an alarm or not."""
        return find_leaks(self._stored_ranking(), self.excluded)

    def _take_shortlist(self, size: int | None) -> Shortlist:
        rows = self.exact_ranking(self.rank.min_score, size)
        return take_shortlist(rows, self.rank, size=size)

    def _ranked_image(self, row: PoolScore) -> RankedImage:
        alarms = self.rank.alarms(self.store.alarms(row.model_id, row.image))
        return RankedImage(row, name_inside(self.source, row.image), alarms)

    def _walk(self, images: Sequence[RankedImage], count: int | None) -> RankingWalk:
        groups = self._near_duplicate_groups([image.score for image in images])
        taken = self._taken_of(images)
        before = {groups[image]: image for image in taken if image in groups}
        barred = {**taken, **self.barred}
        return RankingWalk(images, self.rank, count, groups, barred, before, self._features)

    def _near_duplicate_groups(self, rows: Sequence[PoolScore]) -> Mapping[str, int]:
        """Return the group of each of those images and of what was taken before."""
        from hardmine.data.splits.near_duplicates import group_duplicates

        if self.group_of is not None:
            return self.group_of
        before = [row for image in self.taken if (row := self._stored(image)) is not None]
        hashes = {row.image: row.phash for row in (*rows, *before)}
        return dict(zip(hashes, group_duplicates(list(hashes.values())), strict=True))

    def _stored(self, image: str) -> PoolScore | None:
        if not self.source.holds(image):
            return None
        return self.store.find(self.scanned.model_id, image)

    def _stored_ranking(self) -> Iterator[PoolScore]:
        rows = self.store.iter_ranked(self.scanned.model_id)
        return (row for row in rows if self.source.holds(row.image))

    def _features(self, images: Sequence[str]) -> NDArray[np.float32]:
        from hardmine.inference.detector import pooled_features

        return pooled_features(self.scanned.detector, [open_image(image) for image in images])


@dataclass
class RankingWalk:
    """One way down a ranking, deciding on each image; make a new one for each selection.

    Args:
        images: the shortlist, each image once.
        group_of: near-duplicate group of each image.
        barred: images that must not be handed out, with the reason.
        before: near-duplicate groups that were handed out before, with an image of each.
        features: needed when ``options.diverse``.
    """

    images: Sequence[RankedImage]
    options: RankOptions
    count: int | None
    group_of: Mapping[str, int]
    barred: Mapping[str, Rejection] = field(default_factory=dict)
    before: Mapping[int, str] = field(default_factory=dict)
    features: Features | None = None

    def __post_init__(self) -> None:
        self._rejections: dict[str, Rejection] = {}
        self._taken: set[str] = set()
        self._similar: defaultdict[str, list[str]] = defaultdict(list)
        self._owner_of_group = dict(self.before)
        self._places = AlarmPlaces()
        self._used_of_class: Counter[int] = Counter()
        self._used_of_group: Counter[str] = Counter()

    def select(self) -> Selected:
        """Walk the ranking and return what is handed out."""
        for image in self.images:
            if not len(image.alarms):
                self._rejections[image.image] = Rejection(
                    Reason.NO_ALARM, "no detection counts as an alarm"
                )
        taken = self._select_diverse() if self.options.diverse else self._walk(self.count)
        images = tuple(image.image for image, _ in taken)
        names = set(images)
        similar = {
            image: tuple(other for other in self._similar.get(image, ()) if other not in names)
            for image in images
        }
        rejections = {k: v for k, v in self._rejections.items() if k not in names}
        return Selected(images, similar, rejections)

    def _walk(self, count: int | None, quota_times: int = 1) -> list[tuple[RankedImage, int]]:
        """Take from the queues in turn; after the last one, go on to find what it stands for."""
        taken: list[tuple[RankedImage, int]] = []
        waiting = deque(self._queues())
        while waiting:
            label, queue = waiting.popleft()
            while queue:
                image = queue.popleft()
                counted_as = label or int(image.alarms.labels[0])
                full = count is not None and len(taken) >= count
                if self._may_take(image, counted_as, full=full, quota_times=quota_times):
                    taken.append((image, counted_as))
                    break
            if queue:
                waiting.append((label, queue))
        return taken

    def _queues(self) -> list[tuple[int, deque[RankedImage]]]:
        """Return the ranking, or one for each class; class 0: that of each image's best alarm."""
        if not self.options.per_class:
            return [(0, deque(rank_images(self.images, self.options)))]
        labels = sorted({int(label) for image in self.images for label in image.alarms.labels})
        return [(label, deque(rank_images(self.images, self.options, label))) for label in labels]

    def _may_take(self, image: RankedImage, label: int, *, full: bool, quota_times: int) -> bool:
        """Decide on one image; remember it as taken, or why it is not."""
        name = image.image
        if name in self._taken:
            return False  # another class's queue has handed it out
        group = self.options.group_of(image.name)
        rejection = self.barred.get(name) or self._repetition(image, group, label)
        if rejection is None and full:
            rejection = Rejection(Reason.BEYOND_COUNT, f"beyond the {self.count} asked for")
        if rejection is None:
            rejection = self._over_quota(label, group, quota_times)
        if rejection is not None:
            self._rejections.setdefault(name, rejection)
            return False
        self._taken.add(name)
        self._rejections.pop(name, None)
        self._owner_of_group[self.group_of[name]] = name
        if self.options.repeats and group:
            self._places.add(image, group, label)
        self._count(label, group)
        return True

    def _repetition(self, image: RankedImage, group: str, label: int) -> Rejection | None:
        """Say which image stands for this one, if any does."""
        rejection = None
        owner = self._owner_of_group.get(self.group_of[image.image])
        if owner is not None:
            rejection = Rejection(Reason.NEAR_DUPLICATE, f"near-duplicate of {owner}")
        else:
            owner = self._places.find_repeated(image, group, label)
            if owner is not None:
                text = f"the same alarm in the same place as in {owner}"
                rejection = Rejection(Reason.SAME_ALARM, text)
        if owner is not None and image.image not in self._rejections:
            self._similar[owner].append(image.image)
        return rejection

    def _over_quota(self, label: int, group: str, times: int = 1) -> Rejection | None:
        options = self.options
        quota = options.quota_class
        if quota is not None and self._used_of_class[label] >= times * quota:
            text = f"the quota of {quota} for its class is used up"
            return Rejection(Reason.QUOTA_OF_CLASS, text)
        quota = options.quota_group
        if quota is not None and group and self._used_of_group[group] >= times * quota:
            text = f"the quota of {quota} for group {group!r} is used up"
            return Rejection(Reason.QUOTA_OF_GROUP, text)
        return None

    def _count(self, label: int, group: str) -> None:
        self._used_of_class[label] += 1
        self._used_of_group[group] += 1

    def _select_diverse(self) -> list[tuple[RankedImage, int]]:
        """Take those that look least alike of several times as many hard images."""
        wide = None if self.count is None else DIVERSE_TIMES * self.count
        rows = self._walk(wide, len(self.images) if wide is None else DIVERSE_TIMES)
        self._used_of_class.clear()
        self._used_of_group.clear()
        assert self.features is not None
        features = self.features([image.image for image, _ in rows])

        def allowed(index: int) -> bool:
            """Return whether the quotas allow an image; if so it counts, else the reason is kept."""
            image, label = rows[index]
            group = self.options.group_of(image.name)
            rejection = self._over_quota(label, group)
            if rejection is not None:
                self._rejections[image.image] = rejection
                return False
            self._count(label, group)
            return True

        picked = k_center(features, len(rows) if self.count is None else self.count, allowed)
        kept = [rows[index] for index in picked]
        names = {image.image for image, _ in kept}
        text = "others that are as hard look less like what is selected"
        less_diverse = Rejection(Reason.LESS_DIVERSE, text)
        for image, _ in rows:
            if image.image not in names:
                self._rejections.setdefault(image.image, less_diverse)
                for other in self._similar.get(image.image, ()):
                    self._rejections[other] = less_diverse  # what stood for it is not handed out
        return kept


def k_center(
    features: NDArray[np.float32], count: int, allowed: Callable[[int], bool]
) -> list[int]:
    """Choose rows greedily: the first one, then always the row farthest from all chosen ones.

    Of equally far rows the first is taken, so the order of the rows (hardest first) decides ties.
    Prefixes are stable: a larger ``count`` only appends.

    Args:
        features: f32[N, D]; they are scaled to length 1.
        allowed: called with a row before it is taken; true means that it is taken. It is called at
            most once for each row.

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


def select_random(
    images: Iterable[str],
    *,
    count: int,
    seed: int,
    group_of: Mapping[str, int],
    names: Mapping[str, str] | None = None,
    taken: Collection[str] = (),
) -> Selected:
    """Draw images uniformly, with alarms or without, near-duplicates once.

    The order comes from a hash of the seed and the name, so it is the same on every machine and a
    larger ``count`` only appends.

    Args:
        images: all that may be drawn.
        group_of: near-duplicate group of each image.
        names: what to hash instead of the image's own name (a path inside the pool, which does not
            change when the pool moves).
        taken: images handed out before.
    """
    gone = set(taken)
    owner_of_group = {group_of[image]: image for image in gone if image in group_of}
    label = names or {}
    order = sorted(images, key=lambda image: _draw(seed, label.get(image, image)))
    selected: list[str] = []
    rejections: dict[str, Rejection] = {}
    for image in order:
        if len(selected) >= count:
            break
        if image in gone:
            continue
        owner = owner_of_group.setdefault(group_of[image], image)
        if owner != image:
            text = f"near-duplicate of {owner}"
            rejections[image] = Rejection(Reason.NEAR_DUPLICATE, text)
            continue
        selected.append(image)
    return Selected(tuple(selected), dict.fromkeys(selected, ()), rejections)


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


_log = logging.getLogger("hardmine")


MAX_DISTANCE = 14
"""Bits of 64 by which two looks at one place may differ (inclusive); unlike places differ by 32 on
average. More than for whole pictures: a crop holds less, and the light changes."""


@dataclass
class AlarmPlaces:
    """The alarms that were selected so far, by group and class."""

    known: dict[tuple[str, int], list[_Place]] = field(default_factory=dict)

    def find_repeated(self, image: RankedImage, group: str, label: int) -> str | None:
        """Return the selected image whose alarm this image's best alarm of the class repeats.

        Same group and class, pictures of one size, boxes with an IoU of .5 or more, and alike inside
        the earlier box. The picture is read only when all but the last is so.
        """
        box, opened = _best_box(image, label), None
        for place in self.known.get((group, label), ()):
            if box_iou(place.box[None], box[None])[0, 0] < SAME_PLACE:
                continue
            opened = opened or _open(image.image)
            if opened is None or not place.look():
                continue
            if opened.size != place.size:
                continue
            differing = (_hash(opened, place.box) ^ place.phash) & (2**64 - 1)
            if differing.bit_count() <= MAX_DISTANCE:
                return place.image
        return None

    def add(self, image: RankedImage, group: str, label: int) -> None:
        """Remember a selected image's best alarm of a class."""
        place = _Place(image.image, _best_box(image, label))
        self.known.setdefault((group, label), []).append(place)


@dataclass
class _Place:
    image: str
    box: NDArray[np.float32]
    phash: int = 0
    size: tuple[int, int] | None = None

    def look(self) -> bool:
        """Read the picture once, when a first candidate lies in the same place."""
        if self.size is None:
            picture = _open(self.image)
            if picture is None:
                return False
            self.phash, self.size = _hash(picture, self.box), picture.size
        return True


def _best_box(image: RankedImage, label: int) -> NDArray[np.float32]:
    rows = np.flatnonzero(image.alarms.labels == label)
    box: NDArray[np.float32] = image.alarms.boxes[rows[0] if len(rows) else 0]
    return box


def _open(image: str) -> Image.Image | None:
    try:
        return open_item(open_image(image)).pixels
    except DataError as error:
        _log.warning("%s; whether its alarm repeats another one is not known", error)
        return None


def _hash(picture: Image.Image, box: NDArray[np.float32]) -> int:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    x1, y1 = max(0, min(x1, picture.width - 1)), max(0, min(y1, picture.height - 1))
    window = (x1, y1, min(picture.width, max(x2, x1 + 1)), min(picture.height, max(y2, y1 + 1)))
    return perceptual_hash(picture.crop(window))
