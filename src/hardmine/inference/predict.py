"""Running a detector over images at full precision: all of them decoded, or those that fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hardmine.errors import DataError
from hardmine.inference.detector import BatchScores, Detector, OnePassDetector, top_scores
from hardmine.inference.image_loading import (
    HalvingBatch,
    ImageItem,
    Loaded,
    batched,
    count_cores,
    load_item,
    one_core_each,
    run_ordered,
    stack,
)
from hardmine.types import Detections, Problem

DECODE_FLOOR = 0.01
"""Images whose score is below are not decoded while a pool is scanned: they have no detection."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """One image as the detector saw it; ``detections`` in pixels of the original image."""

    path: Path
    score: float
    label: int
    level: int
    detections: Detections
    phash: int
    name: str = ""
    """What the pool's store calls it: the path, or where it lies in an archive or on a network."""


def detect_on_canvas(
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
    run = _Exact(detector, floor=None, hashed=False)
    results: list[Detections] = []
    for batch in run.over((ImageItem(str(path)) for path in paths), batch_size):
        for item in batch:
            if isinstance(item, Problem):
                raise DataError(str(item))
            results.append(item.detections)
        if progress is not None:
            progress(len(results), len(paths))
    return results


def score_on_canvas(
    detector: Detector, paths: Sequence[Path], *, batch_size: int | None = None
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score in order, or the problem that kept it from being read.

    All images pass the scoring path; only those that reach ``DECODE_FLOOR`` are decoded.
    """
    return score_items(detector, (ImageItem(str(path)) for path in paths), batch_size=batch_size)


def score_items(
    detector: Detector, items: Iterable[ImageItem], *, batch_size: int | None = None
) -> Iterator[ScoredImage | Problem]:
    """Yield what :func:`score_on_canvas` does, for images from anywhere; memory does not grow.

    ``batch_size``: if not given, 2 on a CPU, where larger ones are no quicker and a handful of images
    would be mostly filling, and 16 elsewhere.
    """
    size = batch_size or (2 if _on_cpu(detector) else 16)
    for batch in _Exact(detector, floor=DECODE_FLOOR, hashed=True).over(items, size):
        yield from batch


def _on_cpu(detector: Detector) -> bool:
    device = getattr(detector, "device", None)
    return isinstance(device, torch.device) and device.type == "cpu"


class _Exact:
    """Batches of images to scores and detections in float32.

    ``floor``: what is decoded; ``None`` decodes all and takes the best detection for the score.
    A detector that does both in one run is called from all threads; any other from one at a time.
    """

    def __init__(self, detector: Detector, *, floor: float | None, hashed: bool) -> None:
        self._detector = detector
        self._floor = floor
        self._hashed = hashed
        self._turn = nullcontext() if isinstance(detector, OnePassDetector) else Lock()
        self._run = HalvingBatch(self._look)

    def over(
        self, items: Iterable[ImageItem], batch_size: int
    ) -> Iterator[list[ScoredImage | Problem]]:
        """Yield the results of one batch after the other, in order."""
        with one_core_each():
            work = partial(self._batch, size=batch_size)
            yield from run_ordered(batched(items, batch_size), work, count_cores())

    def _batch(self, items: Sequence[ImageItem], size: int) -> list[ScoredImage | Problem]:
        resize = self._detector.resize
        read = [load_item(item, resize, hashed=self._hashed) for item in items]
        loaded = [item for item in read if isinstance(item, Loaded)]
        scored = self._score(loaded, size)
        return [item if isinstance(item, Problem) else next(scored) for item in read]

    def _score(self, loaded: Sequence[Loaded], size: int) -> Iterator[ScoredImage]:
        if not loaded:
            return
        images = stack(loaded)
        parts = self._run(images if self._floor is None else _fill_up(images, size))
        rows = (
            (scores, found, i) for scores, detections in parts for i, found in enumerate(detections)
        )
        for item, (scores, found, i) in zip(loaded, rows, strict=False):  # then those filled in
            yield ScoredImage(
                Path(item.name),
                float(scores.scores[i]),
                int(scores.labels[i]),
                int(scores.levels[i]),
                item.undo(found),
                item.phash,
                item.name,
            )

    def _look(self, images: Tensor) -> tuple[BatchScores, list[Detections]]:
        with self._turn:
            if self._floor is None:
                found = self._detector.detect(images)
                return top_scores(found), found
            if isinstance(self._detector, OnePassDetector):
                return self._detector.score_and_detect(images, self._floor)
            scores = self._detector.score(images)
            firing = (scores.scores >= self._floor).nonzero()[:, 0].tolist()
            decoded = self._detector.detect(images[firing]) if firing else []
        found = [Detections.none() for _ in range(len(images))]
        for index, detections in zip(firing, decoded, strict=True):
            found[index] = detections
        return scores, found


def _fill_up(images: Tensor, size: int) -> Tensor:
    """Return a batch of the full size: a library's last bits depend on the size, and so would a
    score on which images happened to be scored again together.
    """
    lacking = size - len(images)
    return torch.cat([images, images[-1:].expand(lacking, -1, -1, -1)]) if lacking > 0 else images


# Image files through any detector: on its canvas, or looked up in a predictions file.


@runtime_checkable
class FileDetector(Protocol):
    """A detector that takes files rather than pixels: a predictions file, or a command."""

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order, in pixels of the original image."""
        ...

    def score_images(self, paths: Sequence[Path]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order, or why it cannot be read."""
        ...


def detect_images(
    detector: Detector,
    paths: Sequence[Path],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Return the detections of every image, in order, in pixels of the original image.

    Raises:
        DataError: an image cannot be read.
    """
    if isinstance(detector, FileDetector):
        return detector.detect_images(paths, progress)
    return detect_on_canvas(detector, paths, progress=progress)


def score_images(
    detector: Detector, paths: Sequence[Path], *, batch_size: int = 16
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score in order, or the problem that kept it from being read."""
    if isinstance(detector, FileDetector):
        return detector.score_images(paths)
    return score_on_canvas(detector, paths, batch_size=batch_size)
