"""Image files through any detector: on its canvas, or looked up in a predictions file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hardmine.detect import run
from hardmine.detect.detector import Detector
from hardmine.detect.predictions import Predictions
from hardmine.detect.run import ScoredImage
from hardmine.types import Detections, Problem


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
    if isinstance(detector, Predictions):
        return detector.detect_images(paths, progress)
    return run.detect_images(detector, paths, progress=progress)


def score_images(
    detector: Detector, paths: Sequence[Path], *, batch_size: int = 16
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score in order, or the problem that kept it from being read."""
    if isinstance(detector, Predictions):
        return detector.score_images(paths)
    return run.score_images(detector, paths, batch_size=batch_size)
