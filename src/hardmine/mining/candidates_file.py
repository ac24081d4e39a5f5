"""The files in which a pool's candidates are handed to people and to later rounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.files import write_json, write_text
from hardmine.mining.pool_store import PoolStore
from hardmine.types import Detections, PoolScore

COLUMNS = ("image", "score", "class", "num_alarms", "similar", "verdict")


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An image handed out: ``image`` as people see it (inside the pool), ``path`` on this machine,
    the score and class of its hardest prior (``None`` when no model ranked it), what fired, and the
    images that it stands for too (near-duplicates, repeats of its alarm in the same place).
    """

    image: str
    path: str
    score: float | None
    category: str
    alarms: Detections
    similar: tuple[str, ...] = ()

    def to_dict(self, categories: Sequence[str]) -> dict[str, Any]:
        """Return plain values; boxes as [x1, y1, x2, y2, score, class]."""
        boxes = [
            [*(round(float(v), 2) for v in box), round(float(score), 6), _name(categories, label)]
            for box, score, label in zip(
                self.alarms.boxes, self.alarms.scores, self.alarms.labels, strict=True
            )
        ]
        return {
            "image": self.image,
            "path": self.path,
            "score": self.score,
            "class": self.category,
            "num_alarms": len(self.alarms),
            "boxes": boxes,
            "similar": list(self.similar),
        }


def candidate_of(
    score: PoolScore,
    store: PoolStore,
    categories: Sequence[str],
    min_score: float,
    root: Path,
    similar: Sequence[str] = (),
) -> Candidate:
    """Return a scored image with its stored boxes at or above ``min_score``."""
    alarms = store.alarms(score.model_id, score.image).at_least(min_score)
    name = _name(categories, score.label)
    others = tuple(name_inside(image, root) for image in similar)
    inside = name_inside(score.image, root)
    return Candidate(inside, score.image, score.score, name, alarms, others)


def name_inside(path: str, root: Path) -> str:
    """Return the path below ``root`` with forward slashes, or whole when it lies elsewhere."""
    if "://" in path:
        return path
    here = Path(path)
    return here.relative_to(root).as_posix() if here.is_relative_to(root) else here.as_posix()


def write_candidates(
    folder: Path,
    candidates: Sequence[Candidate],
    categories: Sequence[str],
    *,
    name: str = "candidates",
    **facts: Any,
) -> Path:
    """Write ``candidates.csv`` (verdicts to be filled in) and ``candidates.json`` (with boxes).

    Args:
        name: what the two files are called.
        facts: further values for the head of the JSON file.

    Returns:
        Path: the CSV file.
    """
    rows = [candidate.to_dict(categories) for candidate in candidates]
    write_json(folder / f"{name}.json", {**facts, "candidates": rows})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        score = "" if row["score"] is None else f"{row['score']:.6f}"
        counts = (row["num_alarms"], len(row["similar"]))
        writer.writerow((row["image"], score, row["class"], *counts, ""))
    path = folder / f"{name}.csv"
    write_text(path, text.getvalue())
    return path


def _name(categories: Sequence[str], label: int) -> str:
    return categories[int(label) - 1] if 1 <= label <= len(categories) else ""
