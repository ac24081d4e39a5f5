"""The public calls ``train`` (a training and its measurement) and ``evaluate`` (a measurement alone)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.data.formats.coco import looks_like_coco
from hardmine.device import describe_machine
from hardmine.errors import CheckpointError, ConfigError, DataError, GateError
from hardmine.files import clear_disk_errors, write_json
from hardmine.option_fields import takes_options
from hardmine.types import Dataset
from hardmine.workflows.auto_recipe import fit_to_data
from hardmine.workflows.cached_models import (
    RECALL,
    RECIPE,
    Backend,
    DetectImages,
    TrainingRequest,
    choose_recipe,
    detect_sets,
    own_backend,
    start_from,
    why_chosen,
    write_recipe,
)
from hardmine.workflows.image_sets import (
    DataLike,
    count_labelled,
    load_negatives,
    load_train_val,
    load_val,
)
from hardmine.workflows.run_record import (
    free_unless_begun,
    note_changes,
    read_record,
    resumed_inputs,
    resumed_options,
    write_record,
)
from hardmine.workflows.sets_apart import SeparateSets, crop_set, require_left, separate_sets
from hardmine.workflows.several_processes import run_together
from hardmine.workflows.step_cache import Notify, Steps, silent
from hardmine.workflows.train_options import EvaluateOptions, TrainOptions
from hardmine.workflows.trained_images import note_trained_on, warn_of_trained_negatives

if TYPE_CHECKING:
    from hardmine.detections import Detections
    from hardmine.evaluation.alarms import RepeatedAlarms
    from hardmine.evaluation.measurement import Measurement
    from hardmine.evaluation.scored_images import Scored
    from hardmine.inference.detector import Detector
    from hardmine.mining.confirmed_alarms import ConfirmedAlarms
    from hardmine.models.ssd import Network
    from hardmine.recipes.recipe import Recipe
    from hardmine.reports.content import ReportData, TrainingCourse

BEST = "best.safetensors"
RECORD = "train.json"
"""The file of a run directory that holds what ``train`` was asked for."""
NEEDED = {"data": "labelled images"}
CHANGED = (
    "a saved training that depends on it is refused, and what else depends on it is done again"
)
"""What follows from a choice that differs from how a training began."""


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished training and what it is worth."""

    checkpoint: Path
    measurement: Measurement
    report: Path
    best: Path | None = None
    """The weights with the highest AP50 on the validation images; ``measurement`` is not theirs."""

    def __repr__(self) -> str:
        return f"TrainResult({self.checkpoint}, {self.measurement!r})"

    def __str__(self) -> str:
        best = "" if self.best is None else f"best on the validation images: {self.best}\n"
        return f"{best}checkpoint: {self.checkpoint}\nreport: {self.report}"


def _resumed(given: Mapping[str, Any], named: Collection[str]) -> TrainOptions | None:
    path = Path(given["out"]).resolve() / RECORD
    return resumed_options(path, TrainOptions, named) if given["resume"] else None


@takes_options(TrainOptions, _resumed)
def train(
    data: DataLike | None = None,
    *,
    val: DataLike | float | None = None,
    negatives: DataLike | None = None,
    train_negatives: DataLike | None = None,
    out: Path | str = Path("runs/train"),
    resume: bool = False,
    progress: Notify | None = None,
    options: TrainOptions | None = None,
) -> TrainResult:
    """Train a detector and measure it.

    Args:
        data: labelled images; unreviewed ones are left out, with a warning. Not needed with ``resume``.
        val: labelled images to measure on, or the share of ``data`` to split off with near-duplicate
            groups whole; .3 unless the data has a validation part.
        negatives: images without objects to count alarms on; never trained on. One that repeats a
            training or validation image is left out and reported.
        train_negatives: images without objects to train on. Those that are in ``data`` too, byte for
            byte, are left out and reported.
        out: gets ``last.safetensors``, ``best.safetensors``, ``log.csv``, ``validation.csv``,
            ``train.json``, ``recipe.yaml``, ``metrics.json``, detections and ``report.html``.
        resume: go on in a directory that holds a run, with the data and the options that it began
            with; what is given beside is named and used instead.
        progress: called with (what, done, total).
        options: how to train; each of its fields is also a keyword.

    Returns:
        TrainResult: what is measured and reported are the last weights, which were chosen on nothing.

    Raises:
        ConfigError: contradictory options, or ``out`` holds a run and ``resume`` is not given.
        CheckpointError: weights that do not fit, or a run that began with other choices.
        DataError: unusable data or a full disk.

    Example:
        >>> run = hardmine.train("shelf", val=0.25, recipe="tiny.yaml", out="first", draws=20)
        >>> run.checkpoint.name, run.measurement.images
        ('last.safetensors', 3)
    """
    given = {"data": data, "val": val, "negatives": negatives, "train_negatives": train_negatives}
    options = options or TrainOptions()
    work = partial(_train, given, Path(out).resolve(), resume, progress or silent, options)
    return run_together(work, own_backend(), options.device)


def _train(
    given: Mapping[str, Any],
    root: Path,
    resume: bool,
    progress: Notify,
    options: TrainOptions,
    backend: Backend,
) -> TrainResult:
    if (root / RECIPE).exists() and not resume:
        raise ConfigError(f"{root}: holds a run already; give --resume or another --out")
    record = read_record(root / RECORD, TrainOptions) if resume else None
    inputs = resumed_inputs(given, NEEDED, record, root if resume else None)
    chosen, start = start_from(options.network.weights, choose_recipe(options.network))
    steps, saved = Steps(root, progress), [root / "state.pt", root / backend.weights_name]
    with clear_disk_errors(root), free_unless_begun([root / RECORD, root / RECIPE], lambda: saved):
        sets = _training_sets(inputs, steps, options)
        given_as = options.reading.words(inputs["data"])
        chosen, why = fit_to_data(chosen, options.network, start, sets.train, given_as)
        changes = note_changes(record, inputs, options, chosen, root, CHANGED)
        write_record(root / RECORD, inputs, options)
        write_recipe(root, chosen, why)
        validator = Validator(sets.val, chosen, backend.detect_images, options.validate)
        request = TrainingRequest(
            sets.train,
            chosen,
            root,
            options.seed,
            weights=start,
            resume=resume,
            pictures=steps.identity(sets.train),
            device=options.device,
            progress=lambda state: steps.progress("train", state.step, state.steps),
            validate=validator.ap50 if options.validate else None,
            validate_every=validator.every(sets.train),
        )
        try:
            checkpoint = backend.fit(request)
        except CheckpointError as error:
            changed = f" ({'; '.join(changes)})" if changes else ""
            raise CheckpointError(f"{error}{changed}") from None
        note_trained_on(root, sets.train)
        detector = backend.load_detector(checkpoint, options.device)
        measuring = Measuring(steps, backend, options.draws, options.seed)
        measurement = measuring.measure(detector, sets, chosen)
    return TrainResult(checkpoint, measurement, root / "report.html", best_of(root))


def _training_sets(inputs: Mapping[str, Any], steps: Steps, options: TrainOptions) -> SeparateSets:
    both = load_train_val(
        inputs["data"], inputs["val"], steps, seed=options.seed, options=options.reading
    )
    names = both.train.categories
    more = load_negatives(
        inputs["train_negatives"], names, "train_negatives", steps.root / "negatives"
    )
    parts = {
        "train": both.train,
        "train_negatives": more,
        "val": both.val,
        "held_out": load_negatives(
            inputs["negatives"], names, "negatives", steps.root / "negatives"
        ),
    }
    sets = separate_sets(parts, steps, both.leaks)
    together = [*sets.train.records, *sets.train_negatives.records]
    return replace(sets, train=sets.train.with_records(together))


@takes_options(EvaluateOptions)
def evaluate(
    checkpoint: Detector | Path | str,
    data: DataLike,
    *,
    negatives: DataLike | None = None,
    out: Path | str = Path("runs/val"),
    progress: Notify | None = None,
    options: EvaluateOptions | None = None,
) -> Measurement:
    """Measure a detector on labelled images and, with ``negatives``, its alarms on empty ones.

    Args:
        checkpoint: a detector, or what names one (``hardmine.load_detector``).
        data: labelled images; of data with splits, the validation part (or the test part). Of data that
            ``checkpoint`` was trained on, those that the training split off.
        negatives: images without objects to count alarms on.
        out: gets ``metrics.json``, detections and ``report.html``.
        progress: called with (what, done, total).
        options: how to measure, and gates; each of its fields is also a keyword.

    Raises:
        GateError: a gate is not met; everything is written before.
        ConfigError: ``out`` holds a training or a loop.
        DataError: unusable data or a full disk.

    Example:
        >>> measured = hardmine.evaluate(detector, "shelf", negatives="pool", draws=20)
        >>> measured.objects, measured.negatives["held_out"].images
        (12, 6)
    """
    options = options or EvaluateOptions()
    root, backend = Path(out).resolve(), own_backend()
    if (root / RECIPE).exists():
        raise ConfigError(
            f"{root}: holds a run, whose report this would replace; give another --out"
        )
    steps = Steps(root, progress or silent)
    with clear_disk_errors(root):
        classes = options.classes or _names_in(data, checkpoint)
        detector = _detector(checkpoint, options.device, classes, backend)
        parts = {
            "train": Dataset(detector.categories, (), root),
            "val": load_val(data, detector.categories, options.reading, checkpoint),
            "held_out": load_negatives(
                negatives, detector.categories, "negatives", root / "negatives"
            ),
        }
        warn_of_trained_negatives(parts["held_out"], checkpoint)
        known = None if options.known_alarms is None else read_known(options.known_alarms)
        measuring = Measuring(steps, backend, options.draws, options.seed, known)
        measurement = measuring.measure(detector, separate_sets(parts, steps), None)
    check_gates(
        measurement,
        max_alarms=options.max_alarms,
        min_ap50=options.min_ap50,
        max_known_alarms=options.max_known_alarms,
    )
    return measurement


def read_known(target: Path) -> ConfirmedAlarms:
    """Return the alarms that people confirmed in a run or its store."""
    from hardmine.mining.confirmed_alarms import read_confirmed

    return read_confirmed(target)


def _names_in(data: DataLike, given: Detector | Path | str) -> Path | None:
    """Return a COCO file of data to measure predictions on: it names their classes and images."""
    from hardmine.inference.load_detector import PREDICTION_SUFFIXES

    is_file = isinstance(given, (str, Path)) and str(given).lower().endswith(PREDICTION_SUFFIXES)
    if not is_file or isinstance(data, Dataset) or Path(data).suffix.lower() != ".json":
        return None
    return Path(data) if looks_like_coco(Path(data)) else None


def _detector(
    given: Detector | Path | str, device: str | None, classes: Path | None, backend: Backend
) -> Detector:
    from hardmine.inference.detector import require_detector

    if not isinstance(given, (str, Path)):
        return require_detector(given)
    if classes is None:
        return backend.load_detector(given, device)
    from hardmine.inference.load_detector import load_detector

    return load_detector(given, device, classes=classes)


def check_gates(
    measurement: Measurement,
    *,
    max_alarms: float | None,
    min_ap50: float | None,
    max_known_alarms: int | None = None,
) -> None:
    """Hold a measurement to its limits, all inclusive; an undefined value meets none.

    That of known alarms holds where they were counted.

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
    known = measurement.known_alarms
    if (
        known is not None
        and max_known_alarms is not None
        and _exceeds(known.again, max_known_alarms)
    ):
        got = "undefined" if known.again is None else str(known.again)
        missed.append(f"known alarms that fire again: got {got}, wanted at most {max_known_alarms}")
    if missed:
        raise GateError("gate not met: " + "; ".join(missed))


def _exceeds(count: int | None, most: int) -> bool:
    return count is None or count > most


@dataclass(frozen=True)
class Validator:
    """Measures AP50 on the validation images ``times`` times, evenly over a training.

    Negatives take no part: the best weights must not be chosen on what alarms are counted on.
    """

    val: Dataset
    recipe: Recipe
    detect_images: DetectImages
    times: int

    def every(self, train: Dataset) -> int:
        """Return after how many steps it measures again; 0 without any validation."""
        if self.times == 0:
            return 0
        return math.ceil(self.recipe.steps(max(1, count_labelled(train.records))) / self.times)

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


@dataclass(frozen=True)
class Measuring:
    """Measures one detector once: detections, ``metrics.json`` and the page of a run directory."""

    steps: Steps
    backend: Backend
    draws: int
    seed: int
    known: ConfirmedAlarms | None = None

    def measure(self, detector: Detector, data: SeparateSets, recipe: Recipe | None) -> Measurement:
        """Detect, measure, and write detections, ``metrics.json`` and ``report.html``."""
        from hardmine.evaluation import measurement as measurements
        from hardmine.evaluation.scored_images import save_detections
        from hardmine.inference.detector import level_of_prior
        from hardmine.inference.predictions_file import Predictions, bind, leave_out_failed
        from hardmine.reports.loop_report import write_report

        images = [record.path for part in (data.val, data.held_out) for record in part.records]
        again = None if self.known is None else self._detect_known(detector, self.known, images)
        detector = bind(detector, images)
        val, failed = leave_out_failed(detector, data.val)
        require_left(val, data.val, "validate on", "was predicted")
        held_out, also = leave_out_failed(detector, data.held_out)
        problems = (*data.problems, *failed, *also)
        data = replace(data, val=val, held_out=held_out, problems=problems)
        parts = {"val": data.val, "held_out": data.held_out}
        if not isinstance(detector, Predictions):  # a file says nothing of crops
            parts["crops"] = crop_set(data.val, self.steps, seed=self.seed)
        parts["training"] = measurements.training_sample(data.train, seed=self.seed)
        known = {name: part for name, part in parts.items() if len(part)}
        scored = detect_sets(detector, known, self.backend, self.steps.progress, "measure")
        training = scored.pop("training", None)
        root = self.steps.root
        for name, part in scored.items():
            save_detections(root / "detections" / f"{name}.json", part)
        negatives = {name: part for name, part in scored.items() if name != "val"}
        measurement = measurements.measure(
            scored["val"],
            negatives,
            recall=RECALL,
            draws=self.draws,
            seed=self.seed,
            level_of_prior=level_of_prior(detector),
            training=training,
        )
        if again is not None and self.known is not None:
            measurement = with_known(measurement, self.known, again, detector)
        metrics = self._metrics(measurement, data, detector, recipe)
        write_json(root / "metrics.json", metrics)
        page = replace(_page(metrics, scored, data), courses=_courses(root))
        if again is not None and measurement.known_alarms is not None:
            page = _with_known(page, measurement.known_alarms, again[0])
        write_report(root / "report.html", page)
        return measurement

    def _detect_known(
        self, detector: Detector, known: ConfirmedAlarms, images: Sequence[Path]
    ) -> tuple[dict[str, Detections], tuple[str, ...]]:
        from hardmine.mining.confirmed_alarms import detect_again

        tell = partial(self.steps.progress, "known alarms")
        return detect_again(detector, known, tell, beside=images)

    def _metrics(
        self,
        measurement: Measurement,
        data: SeparateSets,
        detector: Detector,
        recipe: Recipe | None,
    ) -> dict[str, Any]:
        from hardmine.recipes.recipe import recipe_to_dict

        return {
            "measurement": measurement.to_dict(),
            "model_id": detector.model_id,
            "seed": self.seed,
            "train_images": len(data.train),
            "train_negatives": sum(r.state.is_negative for r in data.train.records),
            "problems": [str(problem) for problem in data.problems],
            "leaks": list(data.leak_lines()),
            "recipe": {} if recipe is None else recipe_to_dict(recipe),
            "model_choice": [] if recipe is None else list(why_chosen(self.steps.root)),
            "versions": describe_machine(),
        }


def with_known(
    measurement: Measurement,
    confirmed: ConfirmedAlarms,
    again: tuple[Mapping[str, Detections], tuple[str, ...]],
    detector: Detector,
) -> Measurement:
    """Return a measurement with the known alarms that fire again.

    They are counted at the thresholds that the model holds, where it holds some, else at that of the
    measurement.

    Raises:
        DataError: none of their images can be looked at.
    """
    from hardmine.detections import OperatingPoint
    from hardmine.evaluation.alarms import count_repeated

    found, unreadable = again
    if not found:
        first = unreadable[0]
        raise DataError(f"known alarms: none of their images can be looked at, such as {first}")
    point: OperatingPoint | None = getattr(detector, "operating_point", None)
    if point is None and measurement.score_threshold is not None:
        point = OperatingPoint(measurement.score_threshold)
    counted = count_repeated(confirmed.known, found, point, unreadable, detector.categories)
    return replace(measurement, known_alarms=counted)


def _with_known(
    page: ReportData, counted: RepeatedAlarms, found: Mapping[str, Detections]
) -> ReportData:
    from hardmine.detections import OperatingPoint
    from hardmine.reports.content import Gallery, Picture

    said = [str(counted) + "."]
    if counted.unreadable:
        said.append(
            f"{len(counted.unreadable)} images with known alarms cannot be looked at, such as "
            f"{counted.unreadable[0]}."
        )
    point = OperatingPoint(counted.score_threshold or 0.0, counted.per_class)
    pictures = tuple(
        Picture(Path(image), point.keep(found[image], page.categories), Path(image).name)
        for image in counted.again_images
        if Path(image).is_file()
    )
    gallery = Gallery("Known alarms that fire again", pictures, len(counted.again_images))
    return replace(
        page,
        notes=(*page.notes, *said),
        mined=(*page.mined, *((gallery,) if counted.again_images else ())),
    )


def _courses(root: Path) -> tuple[TrainingCourse, ...]:
    """Return what was selected in the training of a run directory; none where none was trained."""
    from hardmine.reports.content import read_course

    course = read_course("run", root)
    return () if course is None else (course,)


def _page(
    metrics: Mapping[str, Any], scored: Mapping[str, Scored], data: SeparateSets
) -> ReportData:
    from hardmine.reports.content import ReportData, curve_line, worst_alarms
    from hardmine.reports.round_columns import RoundRow

    row = RoundRow(
        "run", 0, metrics["train_images"], metrics["train_negatives"], metrics["measurement"]
    )
    negatives = scored.get("held_out") or scored.get("crops")
    line = None if negatives is None else curve_line("run", scored["val"], negatives)
    return ReportData(
        title="Measurement",
        categories=data.val.categories,
        rows=(row,),
        recipe=metrics["recipe"],
        model_choice=tuple(metrics["model_choice"]),
        versions=metrics["versions"],
        worst=None if negatives is None else worst_alarms(negatives),
        curves=() if line is None else (line,),
        problems=data.problems,
        leaks=data.leak_lines(),
    )
