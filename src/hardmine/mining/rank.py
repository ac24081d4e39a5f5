"""Which images of a pool to hand out: the hardest, or random ones for the twin arm."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hardmine.types import PoolScore


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
