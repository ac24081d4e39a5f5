"""What trains and detects in a run: Hardmine's own functions, or commands of a team's own trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hardmine.detections import Detections
from hardmine.types import Dataset

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.models.ssd import Network
    from hardmine.recipes.recipe import Recipe
    from hardmine.training.trainer import Progress


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRequest:
    """One training that a run asks for; the fields are explained in ``training.trainer``.

    ``arm`` and ``round_number`` say which training of a loop it is: ``"base"`` and 0 for the
    one that all arms start from.
    """

    dataset: Dataset
    recipe: Recipe
    out: Path
    seed: int
    init: Path | None = None
    weights: Path | None = None
    steps: int | None = None
    resume: bool = True
    device: str | None = None
    progress: Callable[[Progress], None] | None = None
    validate: Callable[[Network], float] | None = None
    validate_every: int = 0
    arm: str = "base"
    round_number: int = 0


Fit = Callable[[TrainingRequest], Path]
"""A resumable training that returns its weights, ``out/`` and the backend's ``weights_name``."""


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
class Backend:
    """The functions that a run trains and detects with.

    ``load_detector`` takes what names a detector and a device name (``None``: choose).
    """

    fit: Fit
    load_detector: Callable[[Path | str, str | None], Detector]
    detect_images: DetectImages
    weights_name: str = "last.safetensors"
    identity: tuple[str | None, ...] | None = None
    """What a training depends on beside its data, recipe, seed, steps and first weights."""


def own_backend() -> Backend:
    """Return Hardmine's own training and detection."""
    from hardmine.inference.load_detector import load_detector
    from hardmine.inference.predict import detect_images

    return Backend(_fit, load_detector, detect_images)


def _fit(request: TrainingRequest) -> Path:
    from hardmine.training.trainer import FitSettings, fit

    how = FitSettings(
        seed=request.seed,
        init=request.init,
        weights=request.weights,
        steps=request.steps,
        resume=request.resume,
        device=request.device,
        validate_every=request.validate_every,
    )
    return fit(
        request.dataset,
        request.recipe,
        request.out,
        validate=request.validate,
        progress=request.progress,
        options=how,
    )
