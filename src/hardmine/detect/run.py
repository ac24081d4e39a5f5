"""Running a detector over image files: decoding on threads, a few batches ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardmine.data.image_io import read_picture
from hardmine.data.phash import perceptual_hash
from hardmine.data.resize import Placement, Resize
from hardmine.detect.detector import Detector
from hardmine.errors import DataError
from hardmine.types import Detections, Problem

DECODE_FLOOR = 0.01
"""Images whose score is below are not decoded while a pool is scanned: they have no detection."""

_AHEAD = 3
_WORKERS = 2


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """One image as the detector saw it; ``detections`` in pixels of the original image."""

    path: Path
    score: float
    label: int
    level: int
    detections: Detections
    phash: int


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    path: Path
    pixels: NDArray[np.uint8]
    placement: Placement
    phash: int


def detect_images(
    detector: Detector,
    paths: Sequence[Path],
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Return the detections of every image, in order, in pixels of the original image.

    Args:
        progress: told (done, total) after each batch.

    Raises:
        DataError: an image cannot be read.
    """
    results: list[Detections] = []
    for batch in _load_batches(paths, detector.resize, batch_size, hashed=False):
        for item in batch:
            if isinstance(item, Problem):
                raise DataError(str(item))
        loaded = [item for item in batch if isinstance(item, _Loaded)]
        found = detector.detect(_stack(loaded))
        results += [_undo(d, item) for d, item in zip(found, loaded, strict=True)]
        if progress is not None:
            progress(len(results), len(paths))
    return results


def score_images(
    detector: Detector, paths: Sequence[Path], *, batch_size: int = 16
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score in order, or the problem that kept it from being read.

    All images pass the scoring path; only those that reach ``DECODE_FLOOR`` are decoded.
    """
    for batch in _load_batches(paths, detector.resize, batch_size, hashed=True):
        loaded = [item for item in batch if isinstance(item, _Loaded)]
        scored = iter(_score(detector, loaded) if loaded else ())
        for item in batch:
            yield item if isinstance(item, Problem) else next(scored)


def _score(detector: Detector, loaded: Sequence[_Loaded]) -> list[ScoredImage]:
    images = _stack(loaded)
    scores = detector.score(images)
    firing = (scores.scores >= DECODE_FLOOR).nonzero()[:, 0].tolist()
    found = dict(zip(firing, detector.detect(images[firing]), strict=True)) if firing else {}
    return [
        ScoredImage(
            item.path,
            float(scores.scores[i]),
            int(scores.labels[i]),
            int(scores.levels[i]),
            _undo(found[i], item) if i in found else Detections.none(),
            item.phash,
        )
        for i, item in enumerate(loaded)
    ]


def _load_batches(
    paths: Sequence[Path], resize: Resize, batch_size: int, *, hashed: bool
) -> Iterator[list[_Loaded | Problem]]:
    """Yield batches of loaded images; at most ``_AHEAD`` batches wait in memory."""
    starts = range(0, len(paths), batch_size)
    with ThreadPoolExecutor(_WORKERS) as pool:
        pending: deque[list[Future[_Loaded | Problem]]] = deque()
        for start in starts:
            chunk = paths[start : start + batch_size]
            pending.append([pool.submit(_load, path, resize, hashed) for path in chunk])
            if len(pending) > _AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]


def _load(path: Path, resize: Resize, hashed: bool) -> _Loaded | Problem:
    try:
        picture = read_picture(path, resize.cover)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Problem("image_unreadable", str(path), -1, reason)
    pixels, placement = resize.apply(picture)
    return _Loaded(path, pixels, placement, perceptual_hash(picture.pixels) if hashed else 0)


def _stack(loaded: Sequence[_Loaded]) -> Tensor:
    return torch.from_numpy(np.stack([item.pixels for item in loaded])).permute(0, 3, 1, 2)


def _undo(detections: Detections, item: _Loaded) -> Detections:
    return replace(detections, boxes=item.placement.inverse(detections.boxes))
