"""The alarms that people confirmed as false, read from a pool store, and a detector's answers there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardmine.data.splits.near_duplicates import MAX_DISTANCE
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.evaluation.alarms import KnownAlarms
from hardmine.inference.detector import Detector
from hardmine.inference.image_loading import path_of
from hardmine.inference.predict import score_items
from hardmine.inference.predictions_file import Predictions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.pool_source import open_image
from hardmine.types import Decision, NamedBox, Problem, Verdict

KNOWN_FROM = 0.3
"""The score from which an alarm on a confirmed image belongs to the set."""


@dataclass(frozen=True, slots=True)
class ConfirmedAlarms:
    """The regression set of a store: alarms, and each image's hash when it was mined (0: none)."""

    known: KnownAlarms
    phash: dict[str, int]


def read_confirmed(target: Path | str) -> ConfirmedAlarms:
    """Return every alarm on an image that a person confirmed as empty.

    What was shown on the review page counts; for a verdict from a CSV the alarms that mining stored; of
    each image those from score .3 on, or the best one where none reaches it.

    Args:
        target: the folder of ``mine`` or of a loop, or its ``pool.sqlite``.

    Raises:
        DataError: there is no store, or no confirmed alarm in it.
    """
    path = Path(target)
    path = path / "pool.sqlite" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no such pool store, wanted one with confirmed alarms")
    boxes: dict[str, tuple[NamedBox, ...]] = {}
    phash: dict[str, int] = {}
    with PoolStore(path, read_only=True) as store:
        for image, decision in store.decisions().items():
            if decision.verdict is not Verdict.EMPTY:
                continue
            seen = worth_knowing(decision.shown or _stored(store, decision))
            if seen:
                boxes[image] = seen
                row = store.find(decision.model_id, image)
                phash[image] = 0 if row is None else row.phash
    if not boxes:
        where = shlex.quote(str(target))
        raise DataError(f"{path}: nobody has confirmed an alarm yet (hardmine review {where})")
    return ConfirmedAlarms(KnownAlarms(boxes), phash)


def worth_knowing(boxes: Sequence[NamedBox]) -> tuple[NamedBox, ...]:
    """Return the alarms from :data:`KNOWN_FROM` on, or the best one where none reaches it.

    Mining keeps every box from .05 on, most of which no threshold in use would ever show.
    """
    best = max((_score(box) for box in boxes), default=0.0)
    return tuple(box for box in boxes if _score(box) >= min(KNOWN_FROM, best))


def _score(box: NamedBox) -> float:
    return 1.0 if box.score is None else box.score


def _stored(store: PoolStore, decision: Decision) -> tuple[NamedBox, ...]:
    found = store.alarms(decision.model_id, decision.image)
    return tuple(
        NamedBox((float(x1), float(y1), float(x2), float(y2)), str(label), float(score))
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes, found.scores, found.labels, strict=True
        )
    )


def detect_again(
    detector: Detector,
    confirmed: ConfirmedAlarms,
    progress: Callable[[int, int], None] | None = None,
    *,
    beside: Sequence[Path] = (),
) -> tuple[dict[str, Detections], tuple[str, ...]]:
    """Return a detector's detections on the images of the set, and why some could not be looked at.

    Images are read through their source: files, archives and URLs alike. Of a predictions file those
    that it does not name were perhaps never looked at.

    Args:
        beside: the other images that a predictions file is about, which may have the same names.
    """
    names = list(confirmed.known.boxes)
    if isinstance(detector, Predictions):
        found_by = detector.match([*beside, *map(path_of, names)])
        detector = replace(detector, name_of=found_by.name_of)
    found: dict[str, Detections] = {}
    unreadable: list[str] = []
    items = (open_image(name) for name in names)
    for done, (name, seen) in enumerate(
        zip(names, score_items(detector, items, one_run=True), strict=True), start=1
    ):
        before = confirmed.phash[name]
        if isinstance(seen, Problem):
            unreadable.append(str(seen))
        elif before and seen.phash and _distance(before, seen.phash) > MAX_DISTANCE:
            unreadable.append(f"{name}: has changed since it was mined")
        elif isinstance(detector, Predictions) and not detector.names(seen.path):
            file = detector.path.name
            unreadable.append(f"{name}: {file} does not name it, so it may not have been looked at")
        else:
            found[name] = seen.detections
        if progress is not None:
            progress(done, len(names))
    return found, tuple(unreadable)


def _distance(a: int, b: int) -> int:
    return bin((a ^ b) & (2**64 - 1)).count("1")
