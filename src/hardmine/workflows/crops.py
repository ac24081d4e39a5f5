"""Object-free crops of the validation images, cut once per run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.step_cache import Steps


def crop_set(val: Dataset, steps: Steps, *, seed: int) -> Dataset:
    """Return the crops as a set of negatives; empty when the objects leave no room for any."""
    from hardmine.evaluation.object_free_crops import SOURCE, object_free_crops, write_crops

    def compute(folder: Path) -> list[list[Any]]:
        crops = write_crops(val, object_free_crops(val, seed), folder)
        return [[r.path.name, r.width, r.height] for r in crops.records]

    folder = steps.root / "prepare" / "crops"
    inputs = {"val": val.fingerprint, "seed": seed}
    found = steps.run("prepare/crops/cut", inputs, compute, label="cut object-free crops")
    records = [
        ImageRecord.empty(folder / name, width, height, ImageState.VERIFIED_EMPTY, SOURCE)
        for name, width, height in found
    ]
    return Dataset(val.categories, tuple(records), folder)
