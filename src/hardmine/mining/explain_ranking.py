"""Why an image is where it is in a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardmine.errors import DataError
from hardmine.mining.candidates_file import name_inside
from hardmine.mining.image_selection import Chosen, Hand
from hardmine.mining.mine_options import RULES
from hardmine.mining.ranking import Entry, order
from hardmine.mining.sources.archives import INSIDE
from hardmine.types import PoolScore


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one image; ``lines`` says it in words."""

    image: str
    score: float
    category: str
    top_box: tuple[float, ...] | None
    num_alarms: int
    ranks: Mapping[str, tuple[int, int]]
    """Place and number of images by each rule, among the images looked at."""
    group: str
    verdict: str
    """What became of it: its place in the list, or why it is not there."""
    similar: tuple[str, ...]
    min_score: float

    def lines(self) -> list[str]:
        """Return a line for each fact."""
        box = "none" if self.top_box is None else ", ".join(f"{v:.1f}" for v in self.top_box)
        ranks = ", ".join(f"{rule} {place} of {of}" for rule, (place, of) in self.ranks.items())
        return [
            f"image: {self.image}",
            f"score: {self.score:.4f}{f' ({self.category})' if self.category else ''}",
            f"top box (x1, y1, x2, y2): {box}",
            f"alarms at {self.min_score:g} or more: {self.num_alarms}",
            f"rank by rule: {ranks or 'none: it is not among the images looked at'}",
            f"group: {self.group or 'none'}",
            f"stands for: {', '.join(self.similar) or 'itself only'}",
            f"verdict: {self.verdict}",
        ]


def explain_image(hand: Hand, image: str) -> Explanation:
    """Return why an image is where it is, with the choice made anew and nothing written.

    Args:
        image: its path, or its name inside the pool.

    Raises:
        DataError: it is not in the pool, or could not be read.
    """
    name = _find(hand, image)
    row = hand.store.find(hand.model_id, name)
    if row is None:
        reasons = {p.file: str(p) for p in hand.store.problems(hand.model_id)}
        raise DataError(reasons.get(name, f"{name}: has no score of model {hand.model_id}"))
    chosen, entries = hand.choose()
    row = hand.exact(name) or row
    alarms = hand.store.alarms(hand.model_id, name)
    inside = name_inside(name, hand.source.root)
    entry = entries.get(name)
    return Explanation(
        name,
        row.score,
        _category(hand, row),
        tuple(float(v) for v in alarms.boxes[0]) if len(alarms) else None,
        len(hand.rank.alarms(alarms)),
        _ranks(hand, entries, entry),
        hand.rank.group_of(inside),
        _verdict(hand, chosen, row),
        tuple(name_inside(other, hand.source.root) for other in chosen.similar.get(name, ())),
        hand.rank.min_score,
    )


def _find(hand: Hand, image: str) -> str:
    inside = f"{hand.source.name}{INSIDE}{image}"
    for name in (image, str(Path(image).resolve()), str(hand.source.root / image), inside):
        if hand.source.holds(name):
            return name
    raise DataError(f"{image}: not in the pool {hand.source.root}")


def _category(hand: Hand, row: PoolScore) -> str:
    names = hand.detector.categories
    return names[row.label - 1] if 1 <= row.label <= len(names) else ""


def _ranks(
    hand: Hand, entries: Mapping[str, Entry], entry: Entry | None
) -> dict[str, tuple[int, int]]:
    """Return the place by each rule among the images looked at, before anything is left out."""
    from dataclasses import replace

    if entry is None or not len(entry.alarms):
        return {}
    ranks: dict[str, tuple[int, int]] = {}
    for rule in RULES:
        rows = order(list(entries.values()), replace(hand.rank, rule=rule))
        place = next(i for i, (other, _) in enumerate(rows, 1) if other.image == entry.image)
        ranks[rule] = (place, len(rows))
    return ranks


def _verdict(hand: Hand, chosen: Chosen, row: PoolScore) -> str:
    image = row.image
    if image in chosen.images:
        place = chosen.images.index(image) + 1
        return f"handed out as number {place} of {len(chosen.images)}"
    if image in hand.barred:
        return f"not handed out: {hand.barred[image]}"
    if image in chosen.reasons:
        return f"not handed out: {chosen.reasons[image]}"
    if row.score < hand.rank.min_score:
        return f"not handed out: its score is below {hand.rank.min_score:g}"
    return "not handed out: too many others score higher for it to be looked at"
