"""The evidence of a diagnosis: a run's telemetry, recipe and log, and what its last weights do.

Everything that is missing is noted in words (:attr:`Evidence.limits`), so that each hypothesis can say
what it can and cannot conclude.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hardmine
from hardmine.data.resize import Resize
from hardmine.diagnosis.probe import (
    MOST_TRAINING_IMAGES,
    GradientProbe,
    SetProbe,
    probe_gradients,
    probe_set,
)
from hardmine.errors import DataError
from hardmine.files import read_json
from hardmine.models.ssd import SSD
from hardmine.prior_design.coverage import Coverage, boxes_on_canvas, measure_coverage
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    read_metadata,
    read_version,
)
from hardmine.recipes.recipe import Recipe
from hardmine.training.training_log import read_telemetry
from hardmine.types import Dataset
from hardmine.workflows.image_sets import load_negatives, load_train_val
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.train_options import DataOptions

LAST = 0.25
"""Share of the rows, at the end, over which figures are averaged."""

Row = Mapping[str, float | str | None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a run; ``None`` where it is not there, with the reason in ``limits``."""

    run: Path
    recipe: Recipe
    categories: tuple[str, ...]
    telemetry: tuple[Row, ...] = ()
    data: Dataset | None = None
    """The images that were trained on, negatives included."""
    train: SetProbe | None = None
    val: SetProbe | None = None
    gradients: GradientProbe | None = None
    coverage: Coverage | None = None
    steps: tuple[tuple[float, float], ...] = ()
    """(classification loss, positives) of each step."""
    limits: tuple[str, ...] = field(default=())

    @property
    def num_levels(self) -> int:
        """Levels that telemetry knows."""
        names = self.telemetry[0] if self.telemetry else ()
        return sum(name.endswith(".priors") for name in names)

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return (step, value) of a column of telemetry, where it is defined."""
        found = []
        for row in self.telemetry:
            step, value = row.get("step"), row.get(name)
            if isinstance(value, float) and isinstance(step, float):
                found.append((step, value))
        return found

    def last(self, name: str) -> float | None:
        """Return the mean of a column over the last quarter of the rows."""
        rows = self.telemetry[-max(1, int(len(self.telemetry) * LAST)) :]
        values = [value for row in rows if isinstance(value := row.get(name), float)]
        return sum(values) / len(values) if values else None

    def by_level(self, name: str) -> list[float]:
        """Return a column's last mean on each level; 0 where it is not defined."""
        return [self.last(f"level{level}.{name}") or 0.0 for level in range(self.num_levels)]


def _not_all_images(looked_at: int, count: int) -> list[str]:
    if count <= looked_at:
        return []
    return [
        f"{looked_at:,} of the {count:,} training images with objects were looked at, evenly spread; "
        "the list of missing labels holds places on these alone (--images looks at more)."
    ]


def gather(
    run: Path,
    data: Path | str | None = None,
    negatives: Path | str | None = None,
    device: str | None = None,
    notify: Notify = silent,
    images: int = MOST_TRAINING_IMAGES,
) -> Evidence:
    """Read a run directory and probe its last weights.

    Args:
        run: a folder that ``hardmine train`` or a loop's training wrote.
        data: labelled training images; those that the run names if not given.
        negatives: images without objects that were trained on; likewise.
        images: training images that are looked at, at most, evenly spread.

    Raises:
        DataError: there is no run of an SSD in the folder.
        CheckpointError: its weights cannot be read.
    """
    checkpoint = find_checkpoint(run)
    if not checkpoint.exists():
        raise DataError(f"{run}: {_why_no_run(run)}")
    recipe, categories = read_metadata(checkpoint)
    model, _ = load_checkpoint(checkpoint)
    if not isinstance(model, SSD):
        raise DataError(
            f"{run}: {recipe.model.name} is no SSD; telemetry and diagnosis are about priors"
        )
    telemetry, limits = _read_telemetry(run, recipe)
    limits += _circumstances(run, checkpoint, categories)
    cropped = any(row.get("images_without_objects") for row in telemetry)
    train, val, more = _load_sets(run, data, negatives, categories, cropped)
    limits += more
    known: dict[str, Any] = {}
    if train is not None:
        from hardmine.device import choose_device

        model = model.to(choose_device(device))
        objects = train.subset(lambda record: len(record.labels) > 0)
        known["train"] = probe_set(
            model, recipe, objects, lambda done, of: notify("training images", done, of), images
        )
        limits += _not_all_images(images, len(objects))
        known["gradients"] = probe_gradients(model, recipe, objects)
        boxes = boxes_on_canvas(objects, recipe.resize)
        threshold = recipe.loss.assigner.iou_threshold
        known["coverage"] = measure_coverage(boxes, layout_of_recipe(recipe), threshold)
        known["data"] = train
    if val is not None:
        known["val"] = probe_set(
            model, recipe, val, lambda done, of: notify("validation images", done, of)
        )
    return Evidence(
        run, recipe, categories, telemetry, steps=_read_log(run), limits=tuple(limits), **known
    )


def _why_no_run(run: Path) -> str:
    if (run / "loop.json").exists():
        models = sorted(str(path.parent) for path in run.glob("models/*/last.safetensors"))
        return f"is a loop; give one of its trainings: {', '.join(models) or 'none is finished'}"
    if (run / "train.json").exists():
        return "the training was interrupted before it saved any weights; go on with --resume"
    return "got no run (no last.safetensors), wanted the --out folder of 'hardmine train'"


def _read_telemetry(run: Path, recipe: Recipe) -> tuple[tuple[Row, ...], list[str]]:
    path = run / "telemetry.csv"
    if not path.exists():
        why = (
            "the recipe switches it off"
            if not recipe.telemetry
            else "an earlier version made the run"
        )
        return (), [
            f"There is no telemetry.csv ({why}), so the report cannot show what happened in training."
        ]
    rows = read_telemetry(path)
    if len(rows) < 4:
        return rows, [f"telemetry.csv has {len(rows)} rows, too few for a course over time."]
    return rows, []


def _read_log(run: Path) -> tuple[tuple[float, float], ...]:
    path = run / "log.csv"
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return tuple((float(row["classification"]), float(row["positives"])) for row in rows)
    except (KeyError, TypeError, ValueError):  # of another version, or cut short
        return ()


def _circumstances(run: Path, checkpoint: Path, categories: Sequence[str]) -> list[str]:
    limits = []
    version = read_version(checkpoint)
    if version != hardmine.__version__:
        limits.append(
            f"Version {version} of Hardmine made the run, this is {hardmine.__version__}: figures that "
            "it did not write are missing."
        )
    if (run / "train.json").exists() and not (run / "metrics.json").exists():
        limits.append(
            "The training was interrupted, or is not finished: the report describes the last "
            "saved state."
        )
    if len(categories) == 1:
        limits.append(
            "There is one class, so the report does not say how classes share the levels."
        )
    return limits


def _load_sets(
    run: Path,
    data: Path | str | None,
    negatives: Path | str | None,
    categories: tuple[str, ...],
    cropped: bool,
) -> tuple[Dataset | None, Dataset | None, list[str]]:
    """Return the training images, the validation images, and what is missing.

    Args:
        cropped: telemetry saw images without objects, such as crops that the augmentation made.
    """
    inputs, reading, seed = _recorded(run)
    source = data if data is not None else _named(inputs, "data")
    if source is None:
        said = "labels and pictures were not looked at. Give --data."
        return None, None, [f"The run names no data that can be read again: {said}"]
    val = None if data is not None else _named(inputs, "val")
    try:
        both = load_train_val(source, val, Steps(run, silent), seed=seed, options=reading)
    except DataError as error:
        if data is not None:
            raise
        said = "labels and pictures were not looked at. Give --data."
        return None, None, [f"The run's data cannot be read again ({error}): {said}"]
    if both.train.categories != categories:
        raise DataError(
            f"{source}: classes {list(both.train.categories)}, wanted those of the run, "
            f"{list(categories)}"
        )
    empty = negatives if negatives is not None else _named(inputs, "train_negatives")
    more = load_negatives(empty, categories, "negatives", run / "negatives")
    train = both.train.with_records([*both.train.records, *more.records])
    val_set = both.val if len(both.val) else None
    return train, val_set, _missing_sets(train, val_set, cropped)


def _named(inputs: Mapping[str, Any], role: str) -> Any:
    """Return what a record names for a role; nothing for data that were given as values."""
    given = inputs.get(role)
    return None if isinstance(given, Mapping) else given


def _missing_sets(train: Dataset, val: Dataset | None, cropped: bool) -> list[str]:
    """Return what cannot be said because images of a kind are missing."""
    limits: list[str] = []
    if not any(len(record.labels) == 0 for record in train.records):
        limits.append(
            "The data holds no image without objects: figures about such images come from crops "
            "that the augmentation made."
            if cropped
            else "No image without objects was trained on, so the report cannot say how they train."
        )
    if val is None:
        limits.append("There is no validation set, so overfitting cannot be measured.")
    return limits


def read_record(run: Path) -> dict[str, Any]:
    """Return what a run was asked for; nothing where it has no record.

    Raises:
        DataError: the record is no JSON object.
    """
    path = run / "train.json"
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: got a {type(values).__name__}, wanted the record of a training")
    return values


def _recorded(run: Path) -> tuple[dict[str, Any], DataOptions, int]:
    values = read_record(run)
    reading = values.get("reading", {})
    images = reading.get("images")
    options = DataOptions(
        images=None if images is None else Path(images),
        empty_is_verified=bool(reading.get("empty_is_verified", False)),
    )
    return dict(values.get("inputs", {})), options, int(values.get("seed", 0))


def distortions(data: Dataset, resize: Resize) -> list[float]:
    """Return by how much the resize changes width over height of each image, as a factor >= 1."""
    found = []
    for record in data.records:
        place = resize.place(record.width, record.height)
        ratio = place.scale_x / place.scale_y
        found.append(max(ratio, 1.0 / ratio))
    return found
