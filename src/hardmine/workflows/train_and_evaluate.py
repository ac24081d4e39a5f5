"""One training with its measurement, and the measurement of a checkpoint: the public calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.disk import clear_disk_errors
from hardmine.errors import ConfigError, GateError
from hardmine.types import Dataset
from hardmine.workflows.cached_training import choose_recipe, start_from, write_recipe
from hardmine.workflows.inspecting import Inspector, SortedOut, sort_out
from hardmine.workflows.replaceable import Tools, default_tools
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.training_data import (
    DataLike,
    LoadOptions,
    TrainVal,
    load_negatives,
    load_train_val,
    load_val,
)
from hardmine.workflows.validating import Validator, best_of

if TYPE_CHECKING:
    from hardmine.evaluation.measurement import Measurement
    from hardmine.inference.detector import Detector
    from hardmine.recipes.recipe import Recipe


@dataclass(frozen=True)
class TrainResult:
    """A finished training and what it is worth."""

    checkpoint: Path
    measurement: Measurement
    report: Path
    best: Path | None = None
    """The weights with the highest AP50 on the validation images; ``measurement`` is not theirs."""

    def __str__(self) -> str:
        best = "" if self.best is None else f"best on the validation images: {self.best}\n"
        return f"{best}checkpoint: {self.checkpoint}\nreport: {self.report}"


def train(
    data: DataLike,
    *,
    val: DataLike | float | None = None,
    negatives: DataLike | None = None,
    train_negatives: DataLike | None = None,
    model: str | None = None,
    recipe: Recipe | Path | str | None = None,
    epochs: float | None = None,
    settings: Sequence[str] = (),
    weights: Path | str | None = None,
    out: Path | str = Path("runs/train"),
    resume: bool = False,
    images: Path | str | None = None,
    empty_is_verified: bool = False,
    seed: int = 0,
    draws: int = 1000,
    validations: int = 4,
    device: str | None = None,
    progress: Notify | None = None,
    tools: Tools | None = None,
) -> TrainResult:
    """Train a detector and measure it.

    Args:
        data: labelled images; those of unknown truth are left out, loudly.
        val: labelled images to measure on, or the share of ``data`` to split off with near-duplicate
            groups whole; .2 unless the data has a validation part.
        negatives: images without objects to count alarms on; never trained on. One that repeats a
            training or validation image is left out and reported.
        train_negatives: images without objects to train on.
        model: name of a recipe; ``recipe`` a ready one or a YAML file; ``epochs`` replaces its own.
        settings: choices laid over the recipe, each as ``loss.selection.floor=32``.
        weights: file to start from (an ImageNet backbone, a torchvision SSD, or a Hardmine
            checkpoint, whose class weights are reused by name), "none", or a name to download
            ("imagenet", "torchvision").
        out: gets ``last.safetensors``, ``best.safetensors``, ``log.csv``, ``validation.csv``,
            ``recipe.yaml``, ``metrics.json``, detections and ``report.html``.
        resume: go on in a directory that holds a run.
        validations: how often AP50 is measured on ``val`` while training, to keep the best weights;
            0: never. What is measured and reported in the end are the last weights, which were
            chosen on nothing.
        device: where to train and measure, such as "cpu" or "cuda:1"; the best there is if not given.
        progress: told (what, done, total).

    Raises:
        ConfigError: contradictory options, or ``out`` holds a run and ``resume`` is not given.
        DataError: unusable data or a full disk.
    """
    chosen = choose_recipe(model, recipe, epochs, settings)
    chosen, start = start_from(weights, chosen)
    root, kit = Path(out).resolve(), tools or default_tools()
    if (root / "recipe.yaml").exists() and not resume:
        raise ConfigError(f"{out}: holds a run already; give --resume or another --out")
    steps = Steps(root, progress or silent)
    how = LoadOptions(None if images is None else Path(images).resolve(), empty_is_verified)
    with clear_disk_errors(root):
        sorted_out = _training_sets(
            load_train_val(data, val, steps, seed=seed, options=how),
            train_negatives,
            negatives,
            steps,
        )
        write_recipe(root, chosen)
        validator = Validator(sorted_out.val, chosen, kit.detect_images, validations)
        checkpoint = kit.fit(
            sorted_out.train,
            chosen,
            root,
            seed=seed,
            init=None,
            weights=start,
            steps=None,
            resume=resume,
            device=device,
            progress=lambda state: steps.notify("train", state.step, state.steps),
            **validator.keywords(sorted_out.train),
        )
        inspector = Inspector(steps, kit, draws, seed)
        detector = kit.load_detector(checkpoint, device)
        measurement = inspector.examine(detector, sorted_out, chosen)
    return TrainResult(checkpoint, measurement, root / "report.html", best_of(root))


def _training_sets(
    both: TrainVal, train_negatives: DataLike | None, negatives: DataLike | None, steps: Steps
) -> SortedOut:
    names = both.train.categories
    more = load_negatives(train_negatives, names, "train_negatives")
    train = both.train.with_records([*both.train.records, *more.records])
    parts = {
        "train": replace(train, problems=(*train.problems, *more.problems)),
        "val": both.val,
        "held_out": load_negatives(negatives, names, "negatives"),
    }
    return sort_out(parts, steps, both.leaks)


def evaluate(
    checkpoint: Detector | Path | str,
    data: DataLike,
    *,
    negatives: DataLike | None = None,
    out: Path | str = Path("runs/val"),
    max_alarms: float | None = None,
    min_ap50: float | None = None,
    images: Path | str | None = None,
    empty_is_verified: bool = False,
    classes: Path | None = None,
    draws: int = 1000,
    seed: int = 0,
    device: str | None = None,
    progress: Notify | None = None,
    tools: Tools | None = None,
) -> Measurement:
    """Measure a detector on labelled images and, with ``negatives``, its alarms on empty ones.

    Args:
        checkpoint: a detector, or what names one (``inference.load_detector.open_detector``).
        data: labelled images; of data with splits, the validation part (or the test part).
        out: gets ``metrics.json``, detections and ``report.html``.
        max_alarms: most alarms per negative image at recall .8; an undefined value misses it.
        min_ap50: least AP50.
        classes: a file of class names, for detectors that do not know theirs.

    Raises:
        GateError: a gate is not met; everything is written before.
        DataError: unusable data or a full disk.
    """
    root, kit = Path(out).resolve(), tools or default_tools()
    steps = Steps(root, progress or silent)
    how = LoadOptions(None if images is None else Path(images).resolve(), empty_is_verified)
    with clear_disk_errors(root):
        detector = _detector(checkpoint, device, classes, kit)
        parts = {
            "train": Dataset(detector.categories, (), root),
            "val": load_val(data, detector.categories, how),
            "held_out": load_negatives(negatives, detector.categories, "negatives"),
        }
        inspector = Inspector(steps, kit, draws, seed)
        measurement = inspector.examine(detector, sort_out(parts, steps), None)
    check_gates(measurement, max_alarms=max_alarms, min_ap50=min_ap50)
    return measurement


def _detector(
    given: Detector | Path | str, device: str | None, classes: Path | None, tools: Tools
) -> Detector:
    if not isinstance(given, (str, Path)):
        return given
    if classes is None:
        return tools.load_detector(given, device)
    from hardmine.inference.load_detector import open_detector

    return open_detector(given, device, classes=classes)


def check_gates(
    measurement: Measurement, *, max_alarms: float | None, min_ap50: float | None
) -> None:
    """Hold a measurement to its limits, both inclusive; an undefined value meets none.

    Raises:
        GateError: naming every gate that is not met.
    """
    held_out = measurement.negatives.get("held_out")
    rate = held_out.at_recall.alarms_per_image if held_out and held_out.at_recall else None
    ap50 = measurement.ap.ap50
    missed = []
    if max_alarms is not None and (rate is None or rate > max_alarms):
        got = "undefined" if rate is None else f"{rate:.4g}"
        missed.append(
            f"alarms per image at recall {measurement.recall_wanted:g}: got {got}, "
            f"wanted at most {max_alarms:g}"
        )
    if min_ap50 is not None and (ap50 is None or not ap50 >= min_ap50):
        got = "undefined" if ap50 is None else f"{ap50:.4f}"
        missed.append(f"AP50: got {got}, wanted at least {min_ap50:g}")
    if missed:
        raise GateError("gate not met: " + "; ".join(missed))
