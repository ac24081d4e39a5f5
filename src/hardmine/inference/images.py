"""Image files through any detector: on its canvas, or looked up in a predictions file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from hardmine.inference import predict as run
from hardmine.inference.detector import Detector
from hardmine.inference.predict import ScoredImage
from hardmine.types import Detections, Problem


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
    return run.detect_on_canvas(detector, paths, progress=progress)


def score_images(
    detector: Detector, paths: Sequence[Path], *, batch_size: int = 16
) -> Iterator[ScoredImage | Problem]:
    """Yield every image's score in order, or the problem that kept it from being read."""
    if isinstance(detector, FileDetector):
        return detector.score_images(paths)
    return run.score_on_canvas(detector, paths, batch_size=batch_size)
