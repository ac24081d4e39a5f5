"""The evidence of a diagnosis: a run's telemetry, recipe and log, and what its last weights do.

Everything that is missing is noted in words (:attr:`Evidence.limits`), so that each hypothesis can say
what it can and cannot conclude.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import hardmine
from hardmine.data.resize import Resize
from hardmine.diagnosis.probe import (
    FOUND,
    LEAST_LEARNED,
    MOST_TRAINING_IMAGES,
    GradientProbe,
    SetProbe,
    probe_gradients,
    probe_set,
)
from hardmine.errors import DataError
from hardmine.files import read_json
from hardmine.models.ssd import SSD
from hardmine.plurals import counted, some_of
from hardmine.prior_design.coverage import Coverage, boxes_on_canvas, measure_coverage
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.checkpoint import (
    find_checkpoint,
    last_of_loop,
    load_checkpoint,
    read_metadata,
    read_version,
)
from hardmine.recipes.recipe import Recipe
from hardmine.training.training_log import read_telemetry
from hardmine.types import Dataset
from hardmine.workflows.image_sets import load_labelled, load_negatives, load_train_val
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
    is_finished: bool = True
    """False where the training was interrupted, so that its weights are not its last ones."""

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
            if isinstance(step, float) and _is_number(value):
                found.append((step, value))
        return found

    def last(self, name: str) -> float | None:
        """Return the mean of a column over the last quarter of the rows."""
        rows = self.telemetry[-max(1, int(len(self.telemetry) * LAST)) :]
        values = [value for row in rows if _is_number(value := row.get(name))]
        return sum(values) / len(values) if values else None

    def by_level(self, name: str) -> list[float]:
        """Return a column's last mean on each level; 0 where it is not defined."""
        return [self.last(f"level{level}.{name}") or 0.0 for level in range(self.num_levels)]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and math.isfinite(value)


def _not_all_images(looked_at: int, count: int) -> list[str]:
    if count <= looked_at:
        return []
    return [
        f"{looked_at:,} of the {count:,} training images with objects were looked at, evenly spread; "
        "the list of missing labels holds places on these alone (--images looks at more)."
    ]


def _hardly_learned(train: SetProbe) -> list[str]:
    """Say that a network finds too little for a verdict on labels and boxes."""
    precision = train.precision_at(FOUND)
    if not len(train.object_iou) or precision >= LEAST_LEARNED:
        return []
    return [
        f"The network has not learned its own training images (average precision {precision:.2f} "
        f"there, {LEAST_LEARNED:g} is wanted), so missing labels are not judged. A longer training "
        "(--epochs) may change what its weights show."
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
    checkpoint, recipe, categories, model = _load_run(run)
    telemetry, limits = _read_telemetry(run, recipe)
    is_finished = _has_ended(run)
    limits += _circumstances(checkpoint, categories, is_finished)
    cropped = any(row.get("images_without_objects") for row in telemetry)
    train, val, more = _load_sets(run, data, negatives, categories, cropped)
    limits += more
    known: dict[str, Any] = {}
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        limits.append(
            "The last weights hold values that are no numbers: the training has diverged, and they were "
            "not tested on images. Train again with a lower optim.lr."
        )
        known["data"], train, val = train, None, None
    if train is not None:
        from hardmine.device import choose_device

        model = model.to(choose_device(device))
        objects = train.subset(lambda record: len(record.labels) > 0)
        known |= {"data": train, **_probe_objects(model, recipe, objects, notify, images)}
        limits += _not_all_images(images, len(objects)) + _hardly_learned(known["train"])
    if val is not None:
        known["val"] = probe_set(
            model, recipe, val, lambda done, of: notify("validation images", done, of)
        )
    return Evidence(
        run,
        recipe,
        categories,
        telemetry,
        steps=_read_log(run),
        limits=tuple(limits),
        is_finished=is_finished,
        **known,
    )


def _load_run(run: Path) -> tuple[Path, Recipe, tuple[str, ...], SSD]:
    """Return a run's checkpoint, and what it holds.

    Raises:
        DataError, CheckpointError: as :func:`gather`.
    """
    checkpoint = find_checkpoint(run)
    if last_of_loop(run) is not None or not checkpoint.exists():
        raise DataError(f"{run}: {_why_no_run(run)}")
    recipe, categories = read_metadata(checkpoint)
    model, _ = load_checkpoint(checkpoint)
    if not isinstance(model, SSD):
        raise DataError(
            f"{run}: {recipe.model.name} is no SSD; telemetry and diagnosis are about priors"
        )
    return checkpoint, recipe, categories, model


def _probe_objects(
    model: SSD, recipe: Recipe, objects: Dataset, notify: Notify, images: int
) -> dict[str, Any]:
    """Return what the network, its gradients and its priors say of the training images with objects."""
    boxes = boxes_on_canvas(objects, recipe.resize)
    layout, assigner = layout_of_recipe(recipe), recipe.loss.assigner
    return {
        "train": probe_set(
            model, recipe, objects, lambda done, of: notify("training images", done, of), images
        ),
        "gradients": probe_gradients(model, recipe, objects),
        "coverage": measure_coverage(boxes, layout, assigner.iou_threshold, assigner.max_positives),
    }


_FOREIGN = (".pt", ".pth", ".ckpt", ".onnx", ".keras", ".h5", ".tflite")


def _why_no_run(run: Path) -> str:
    """Return why a folder cannot be diagnosed, and what can be given instead."""
    foreign = sorted(path.name for path in run.iterdir() if path.suffix in _FOREIGN)
    if (run / "loop.json").exists():
        models = sorted(str(path.parent) for path in run.glob("models/*/last.safetensors"))
        if not models and any(run.glob("models/*/train.step.json")):
            return f"is a loop of another trainer. {_ONLY_OURS}"
        return f"is a loop; give one of its trainings: {', '.join(models) or 'none is finished'}"
    if (run / "train.json").exists():
        return "the training was interrupted before it saved any weights; go on with --resume"
    if foreign:
        return f"holds the weights of another trainer ({foreign[0]}). {_ONLY_OURS}"
    below = sorted(str(path.parent) for path in run.glob("*/**/last.safetensors"))
    if below:
        return f"is no run, but holds some; give one of them: {some_of(below, 3)}"
    return "got no run (no last.safetensors), wanted the --out folder of 'hardmine train'"


_ONLY_OURS = (
    "A diagnosis reads how the priors of an SSD were trained, which only 'hardmine train' records; of "
    "any other detector 'hardmine mine' shows what it takes for objects on images without any"
)


_NEEDED = {"step", "images", "level0.priors", "level0.positives", "level0.negatives"}


def _read_telemetry(run: Path, recipe: Recipe) -> tuple[tuple[Row, ...], list[str]]:
    path = run / "telemetry.csv"
    unseen = "so the report cannot show what happened in training"
    if not path.exists():
        why = (
            "the recipe switches it off"
            if not recipe.telemetry
            else "an earlier version made the run"
        )
        return (), [f"There is no telemetry.csv ({why}), {unseen}."]
    try:
        rows = read_telemetry(path)
    except (OSError, ValueError, csv.Error) as error:
        return (), [f"telemetry.csv cannot be read ({error}), {unseen}."]
    if not rows:
        return (), [f"telemetry.csv has no rows, {unseen}."]
    missing = sorted(_NEEDED - set(rows[0]))
    if missing:
        return (), [f"telemetry.csv has no column {', '.join(missing)}, {unseen}."]
    if len(rows) < 4:
        return rows, [
            f"telemetry.csv has {counted(len(rows), 'row')}, too few for a course over time."
        ]
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


def _has_ended(run: Path) -> bool:
    """Return whether a training has come to its end; ``metrics.json`` or a step's stamp comes last."""
    if (run / "metrics.json").exists() or (run / "train.step.json").exists():
        return True
    return not ((run / "train.json").exists() or (run / "state.pt").exists())


def _circumstances(checkpoint: Path, categories: Sequence[str], is_finished: bool) -> list[str]:
    limits = []
    version = read_version(checkpoint)
    if version != hardmine.__version__:
        limits.append(
            f"Version {version} of Hardmine made the run, this is {hardmine.__version__}: figures that "
            "it did not write are missing."
        )
    if not is_finished:
        limits.append(
            "The training was interrupted, or is not finished: the report describes the last "
            "saved state. What is judged by its weights may still change."
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
    limits: list[str] = []
    try:
        both, limits = _train_and_val(source, inputs, Steps(run, silent), seed, reading)
    except DataError as error:
        if data is not None:
            raise
        said = "labels and pictures were not looked at. Give --data."
        return None, None, [f"The run's data cannot be read again ({error}): {said}"]
    train, val = both
    if train.categories != categories:
        raise DataError(
            f"{source}: classes {list(train.categories)}, wanted those of the run, {list(categories)}"
        )
    try:
        empty = negatives if negatives is not None else _named(inputs, "train_negatives")
        more = load_negatives(empty, categories, "negatives", run / "negatives")
        train = train.with_records([*train.records, *more.records])
    except DataError as error:
        if negatives is not None:
            raise
        limits.append(
            f"The run's images without objects cannot be read again ({error}), so no picture of them "
            "is shown. Give --negatives."
        )
    if data is None and not (run / "train.json").exists():
        limits.append(
            "The images are those that the loop was given; those that its rounds added, which hold no "
            "object, were not looked at, and the command that tries a change trains without them."
        )
    return train, val, limits + _missing_sets(train, val, cropped)


def _train_and_val(
    source: Path | str, inputs: Mapping[str, Any], steps: Steps, seed: int, reading: DataOptions
) -> tuple[tuple[Dataset, Dataset | None], list[str]]:
    """Return the training images, the validation images, and why these cannot be had.

    Images are split off only where the training did so as well: others would be among those that it
    was trained on, and would hide that it overfits.
    """
    given = inputs.get("val")
    if not inputs or isinstance(given, Mapping):
        return load_labelled(source, reading), []
    val = given if isinstance(given, str | float) else None
    try:
        both = load_train_val(source, val, steps, seed=seed, options=reading)
    except DataError as error:
        if not isinstance(val, str):
            raise
        said = f"The run's validation images cannot be read again ({error})."
        return load_labelled(source, reading), [said]
    return (both.train, both.val if len(both.val) else None), []


def _named(inputs: Mapping[str, Any], role: str) -> str | None:
    """Return what a record names for a role; nothing for data that were given as values."""
    given = inputs.get(role)
    return given if isinstance(given, str) else None


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
    """Return what a run, or the loop that it is a training of, was asked for; nothing if not recorded.

    Raises:
        DataError: the record is no JSON object, or a part of it has another form.
    """
    loop = _loop_of(run)
    path = run / "train.json" if loop is None else loop / "loop.json"
    if not path.exists():
        return {}
    values = _a_record(read_json(path), str(path))
    for name in ("inputs", "reading", "network"):
        _a_record(values.get(name, {}), f"{path}: {name}")
    return values


def recipe_file(run: Path) -> Path:
    """Return where the recipe of a run, or of the loop that it is a training of, is written."""
    return (_loop_of(run) or run) / "recipe.yaml"


def _loop_of(run: Path) -> Path | None:
    """Return the folder of the loop that a run is a training of."""
    folder = run.parent.parent
    inside = run.parent.name == "models" and (folder / "loop.json").exists()
    return folder if inside and not (run / "train.json").exists() else None


def _a_record(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: got a {type(value).__name__}, wanted the record of a training")
    return value


def _recorded(run: Path) -> tuple[dict[str, Any], DataOptions, int]:
    values = read_record(run)
    reading = values.get("reading", {})
    images, seed = reading.get("images"), values.get("seed", 0)
    options = DataOptions(
        images=Path(images) if isinstance(images, str) else None,
        empty_is_verified=bool(reading.get("empty_is_verified", False)),
    )
    return dict(values.get("inputs", {})), options, seed if isinstance(seed, int) else 0


def distortions(data: Dataset, resize: Resize) -> list[float]:
    """Return by how much the resize changes width over height of each image, as a factor >= 1."""
    found = []
    for record in data.records:
        place = resize.place(record.width, record.height)
        ratio = place.scale_x / place.scale_y
        found.append(max(ratio, 1.0 / ratio))
    return found
