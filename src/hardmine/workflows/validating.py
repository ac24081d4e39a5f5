"""Validation while a detector trains: which of its weights are the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.errors import ConfigError
from hardmine.types import Dataset
from hardmine.workflows.replaceable import DetectImages
from hardmine.workflows.training_data import count_labelled

if TYPE_CHECKING:
    from hardmine.models.network import Network
    from hardmine.recipes.recipe import Recipe

BEST = "best.safetensors"


@dataclass(frozen=True)
class Validator:
    """Measures AP50 on the validation images ``times`` times, evenly over a training.

    Negatives take no part: the best weights must not be chosen on what alarms are counted on.
    """

    val: Dataset
    recipe: Recipe
    detect_images: DetectImages
    times: int

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ConfigError(f"validations: got {self.times}, wanted >= 0")

    def keywords(self, train: Dataset) -> dict[str, Any]:
        """Return what ``fit`` is told."""
        if self.times == 0:
            return {}
        steps = self.recipe.steps(max(1, count_labelled(train.records)))
        every = math.ceil(steps / self.times)
        measure: Callable[[Network], float] = self.ap50
        return {"validate": measure, "validate_every": every}

    def ap50(self, model: Network) -> float:
        """Return AP50 of a network as it stands; 0 when it is not defined."""
        from hardmine.evaluation.average_precision import average_precision
        from hardmine.evaluation.scored_images import Scored
        from hardmine.inference.checkpoint_detector import detector_of

        device = next(model.parameters()).device
        detector = detector_of(model, self.recipe, "in training", device)
        paths = [record.path for record in self.val.records]
        found = self.detect_images(detector, paths)
        return average_precision(Scored(self.val, tuple(found))).ap50 or 0.0


def best_of(folder: Path) -> Path | None:
    """Return a run's best weights, when it was validated."""
    path = folder / BEST
    return path if path.exists() else None
