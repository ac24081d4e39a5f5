"""The files in which a pool's candidates are handed to people and to later rounds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.data.formats.labelling_tools import Task, tasks_of, write_tasks
from hardmine.data.images import image_size
from hardmine.data.load_dataset import load_splits
from hardmine.errors import DataError
from hardmine.files import write_json, write_text
from hardmine.mining.pool_store import PoolStore
from hardmine.types import Detections, ImageRecord, ImageState, PoolScore

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


# Candidates of a mining run as images to label, with what the model saw as predictions.

_KEY = b'"candidates"'
_PEEK = 65536


def is_candidates_file(path: Path) -> bool:
    """Return whether a file is a ``candidates.json``, or the CSV file beside one."""
    beside = path.with_suffix(".json")
    if path.suffix.lower() not in (".json", ".csv") or not beside.is_file():
        return False
    with beside.open("rb") as file:
        return _KEY in file.read(_PEEK)


def read_candidates(path: Path) -> tuple[list[Task], tuple[str, ...]]:
    """Return the candidates, hardest first, and the class names (sorted) of their boxes.

    Images that cannot be read are left out.

    Args:
        path: ``candidates.json``, or the ``candidates.csv`` beside it.

    Raises:
        DataError: broken, or none of the images is there.
    """
    file = path.with_suffix(".json")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["candidates"]
        found = [_task(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not a list of candidates ({error!r})") from None
    kept = [(task, names) for task, names in found if task is not None]
    if entries and not kept:
        raise DataError(f"{file}: none of its {len(entries)} images can be read")
    classes = tuple(sorted({name for _, names in kept for name in names}))
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    for task, names in kept:
        task.record.labels[:] = [label_of[name] for name in names]
    return [task for task, _ in kept], classes


@dataclass(frozen=True, slots=True)
class HandOver:
    """What was written for a labelling program: the folder, images, labels and predictions."""

    out: Path
    images: int
    annotations: int
    predictions: int


def hand_over(
    data: Path,
    out: Path,
    to: str,
    *,
    images: Path | None = None,
    empty_is_verified: bool = False,
    link: bool = False,
) -> HandOver:
    """Write a dataset, or the candidates of a mining run, for a labelling program.

    Args:
        data: a dataset as for `load_splits`, or ``candidates.json`` (or the CSV beside it).
        to: one of `LABELLING`.

    Raises:
        DataError, ConfigError: as `load_splits`, `read_candidates` and `write_tasks`.
    """
    if is_candidates_file(data):
        tasks, categories = read_candidates(data)
    else:
        splits = load_splits(data, images=images, empty_is_verified=empty_is_verified)
        tasks, categories = tasks_of(splits), next(iter(splits.values())).categories
    folder = write_tasks(tasks, categories, out, to, link=link)
    boxes = [0, 0]
    for task in tasks:
        boxes[task.scores is not None] += int((~task.record.ignore).sum())
    return HandOver(folder, len(tasks), *boxes)


def _task(entry: Mapping[str, Any]) -> tuple[Task | None, list[str]]:
    path = Path(entry["path"])
    names = [str(box[5]) for box in entry["boxes"]]
    table = np.array([box[:5] for box in entry["boxes"]], np.float32).reshape(-1, 5)
    try:
        width, height = image_size(path)
    except DataError:
        return None, names
    labels, ignore = np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_)
    state = ImageState.UNREVIEWED
    record = ImageRecord(path, width, height, table[:, :4].copy(), labels, ignore, state)
    return Task(record, "", table[:, 4].copy()), names
