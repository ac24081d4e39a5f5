"""Candidates of a mining run as images to label, with what the model saw as predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.data.formats.labelling_tools import Task, tasks_of, write_tasks
from hardmine.data.images import image_size
from hardmine.data.load_dataset import load_splits
from hardmine.errors import DataError
from hardmine.types import ImageRecord, ImageState

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
