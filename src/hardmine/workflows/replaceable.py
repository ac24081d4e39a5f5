"""The heavy parts that a loop calls, as values that a caller (or a test) can replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hardmine.types import Dataset, Detections
from hardmine.workflows.external_trainer import ExternalTrainer

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector


class Fit(Protocol):
    """``training.trainer.fit``: resumable training that returns its checkpoint."""

    def __call__(  # noqa: D102
        self,
        dataset: Dataset,
        recipe: Any,
        out: Path,
        *,
        seed: int,
        init: Path | None,
        weights: Path | None,
        steps: int | None,
        resume: bool,
        device: str | None,
        progress: Callable[[Any], None] | None,
        validate: Callable[[Any], float] | None = None,
        validate_every: int = 0,
    ) -> Path: ...


class DetectImages(Protocol):
    """``inference.predict.detect_images``: images in, detections in original pixels out, in order."""

    def __call__(  # noqa: D102
        self,
        detector: Detector,
        paths: Sequence[Path],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Detections]: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """``load_detector`` takes what names a detector and a device name (``None``: choose)."""

    fit: Fit
    load_detector: Callable[[Path | str, str | None], Detector]
    detect_images: DetectImages
    external: ExternalTrainer | None = None
    """Trains in place of ``fit``."""


def default_tools() -> Tools:
    """Return the package's own training and detection."""
    from hardmine.inference.load_detector import load_detector
    from hardmine.inference.predict import detect_images
    from hardmine.training.trainer import fit

    return Tools(fit, load_detector, detect_images)
