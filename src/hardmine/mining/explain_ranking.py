"""Why an image is where it is in a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hardmine.errors import DataError
from hardmine.mining.image_selection import ImageSelector, Selected
from hardmine.mining.ranking import RankedImage, rank_images
from hardmine.mining.ranking_rules import RULES
from hardmine.mining.sources.pool_source import find_image, name_inside
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


def explain_image(selector: ImageSelector, image: str) -> Explanation:
    """Return why an image is where it is, with the selection made anew and nothing written.

    Args:
        image: its path or URL, or its name inside the pool.

    Raises:
        DataError: it is not in the pool, or could not be read.
    """
    scanned, rank = selector.scanned, selector.rank
    name = find_image(scanned.source, image)
    if scanned.store.find(scanned.model_id, name) is None:
        reasons = {problem.file: str(problem) for problem in scanned.problems}
        raise DataError(reasons.get(name, f"{name}: has no score of model {scanned.model_id}"))
    selected = selector.select()
    row = selector.exact_score(name)
    if row is None:
        raise DataError(f"{name}: could be read before and cannot be read any more")
    found = scanned.store.alarms(scanned.model_id, name)
    inside = name_inside(scanned.source, name)
    similar = selected.similar.get(name, ())
    return Explanation(
        image=name,
        score=row.score,
        category=_category(scanned.detector.categories, row.label),
        top_box=tuple(float(v) for v in found.boxes[0]) if len(found) else None,
        num_alarms=len(rank.alarms(found)),
        ranks=_ranks(selector, selected, name),
        group=rank.group_of(inside),
        verdict=_verdict(selector, selected, row),
        similar=tuple(name_inside(scanned.source, other) for other in similar),
        min_score=rank.min_score,
    )


def _category(names: tuple[str, ...], label: int) -> str:
    return names[label - 1] if 1 <= label <= len(names) else ""


def _ranks(selector: ImageSelector, selected: Selected, image: str) -> dict[str, tuple[int, int]]:
    """Return the place by each rule among the images looked at, before anything is left out."""
    looked_at: RankedImage | None = selected.shortlist.get(image)
    if looked_at is None or not len(looked_at.alarms):
        return {}
    ranks: dict[str, tuple[int, int]] = {}
    for rule in RULES:
        rows = rank_images(list(selected.shortlist.values()), replace(selector.rank, rule=rule))
        place = next(i for i, other in enumerate(rows, 1) if other.image == image)
        ranks[rule] = (place, len(rows))
    return ranks


def _verdict(selector: ImageSelector, selected: Selected, row: PoolScore) -> str:
    image = row.image
    if image in selected.images:
        place = selected.images.index(image) + 1
        return f"handed out as number {place} of {len(selected.images)}"
    rejection = selector.barred.get(image) or selected.rejections.get(image)
    if rejection is not None:
        return f"not handed out: {rejection}"
    if row.score < selector.rank.min_score:
        return f"not handed out: its score is below {selector.rank.min_score:g}"
    return "not handed out: too many others score higher for it to be looked at"
