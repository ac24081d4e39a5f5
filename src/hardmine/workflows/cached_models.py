"""Models of a run directory: who trains them, the recipe that is chosen, what is trained and measured
once.

Hardmine's own functions train and detect, or the commands of a team's own trainer: `Backend`. Each
model is kept by a hash of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.files import write_text
from hardmine.types import Dataset
from hardmine.workflows.step_cache import Notify, Steps, fingerprint
from hardmine.workflows.train_options import AUTO, NetworkOptions

if TYPE_CHECKING:
    from hardmine.evaluation.intervals import ArmScores
    from hardmine.evaluation.paired import AlarmChange
    from hardmine.evaluation.scored_images import Scored
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
    pictures: str | None = None
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
        pictures=request.pictures,
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


RECALL = 0.8
"""The reference recall at which alarms are counted."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained detector; ``key`` is the hash of what it was trained with."""

    key: str
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A measured model: ``figures`` as ``Measurement.to_dict()``; its detections in ``folder``."""

    model: TrainedModel
    folder: Path
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingRole:
    """Which training of a loop it is: ``"base"`` and round 0 is the one that all arms start from."""

    arm: str = "base"
    round_number: int = 0

    @property
    def label(self) -> str:
        """What progress lines call it."""
        arm = "" if self.round_number == 0 else f", {self.arm}"
        return f"round {self.round_number}{arm}: train"


@dataclass(frozen=True, slots=True)
class CachedTraining:
    """Trains models into ``models/<key>/`` of a run directory; equal trainings happen once."""

    steps: Steps
    backend: Backend
    weights: Path | None
    device: str | None = None

    def train(
        self,
        dataset: Dataset,
        recipe: Recipe,
        role: TrainingRole,
        *,
        num_steps: int,
        seed: int,
        init: TrainedModel | None = None,
    ) -> TrainedModel:
        """Return the model that these inputs give, trained now or found.

        Args:
            role: for progress lines and external trainers; the model does not depend on it.
            num_steps: optimiser steps.
            init: continue from this model's weights instead of the backbone's.
        """
        from hardmine.recipes.checkpoint import file_digest

        weights = None if init is not None else self.weights
        inputs = {
            "data": self.steps.identity(dataset),
            "recipe": _training_part(recipe),
            "steps": num_steps,
            "seed": seed,
            "init": None if init is None else init.key,
            "weights": None if weights is None else file_digest(weights),
        }
        if self.backend.identity is not None:
            inputs["trainer"] = list(self.backend.identity)
        key = self._key(inputs, dataset, recipe)

        def compute(folder: Path) -> str:
            """Train and return the name of the weights."""
            request = TrainingRequest(
                dataset,
                recipe,
                folder,
                seed,
                init=None if init is None else init.checkpoint,
                weights=weights,
                steps=num_steps,
                device=self.device,
                progress=lambda state: self.steps.progress(role.label, state.step, state.steps),
                arm=role.arm,
                round_number=role.round_number,
            )
            return self.backend.fit(request).name

        outputs = (self.backend.weights_name,)
        name = self.steps.run(f"models/{key}/train", inputs, compute, outputs, role.label)
        return TrainedModel(key, self.steps.root / "models" / key / name)

    def _key(self, inputs: dict[str, Any], dataset: Dataset, recipe: Recipe) -> str:
        """Return the key of a training; one that was begun under a key of an earlier form keeps it."""
        without_pictures = {"data": dataset.fingerprint}
        whole_recipe = {**without_pictures, "recipe": _whole_training_part(recipe)}
        for form in (without_pictures, whole_recipe):
            former = fingerprint({**inputs, **form})
            if (self.steps.root / "models" / former).exists():
                inputs.update(form)
                break
        return fingerprint(inputs)


def _training_part(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides a training of a given length, where it differs from the defaults.

    How later rounds go on has no part in it, so that a change there finds round 0 trained.
    """
    from hardmine.recipes.recipe import recipe_identity

    return _without_schedule(recipe_identity(recipe), recipe)


def _whole_training_part(recipe: Recipe) -> dict[str, Any]:
    from hardmine.recipes.recipe import recipe_to_dict

    whole = recipe_to_dict(recipe)
    del whole["telemetry"]  # fields that came later
    if not recipe.compile:
        del whole["compile"]
    return _without_schedule(whole, recipe)


def _without_schedule(values: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Leave out what later rounds go by; a file of alarms counts by its content."""
    from hardmine.recipes.checkpoint import file_digest

    if source := recipe.augment.alarm_paste.source:
        values["augment"]["alarm_paste"]["source"] = file_digest(Path(source))
    return {key: value for key, value in values.items() if key not in ("branch", "epochs")}


def detect_sets(
    detector: Detector,
    parts: Mapping[str, Dataset],
    backend: Backend,
    progress: Notify,
    label: str,
) -> dict[str, Scored]:
    """Run a detector over every set."""
    from hardmine.evaluation.scored_images import Scored

    scored = {}
    for name, part in parts.items():
        paths = [record.path for record in part.records]
        tell = partial(progress, f"{label}: {name}")
        scored[name] = Scored(part, tuple(backend.detect_images(detector, paths, progress=tell)))
    return scored


@dataclass(frozen=True)
class CachedMeasurement:
    """Measures models on fixed sets; detections are written once, figures derive from them.

    ``negatives`` are sets without objects by name: ``held_out`` (final), ``stop``, ``crops``. Of
    ``train``, which all models were trained on, a sample says whether that was long enough.
    """

    steps: Steps
    backend: Backend
    train: Dataset
    val: Dataset
    negatives: Mapping[str, Dataset]
    draws: int
    seed: int
    device: str | None = None

    def measure(self, model: TrainedModel, label: str = "measure") -> MeasuredModel:
        """Return the model's figures, from its finished step when there is one."""
        inputs = {
            "model": model.key,
            "val": self.steps.identity(self.val),
            "negatives": {name: self.steps.identity(part) for name, part in self.negatives.items()},
            "recall": RECALL,
            "draws": self.draws,
            "seed": self.seed,
        }
        names = ["val", *self.negatives]
        key = f"evaluations/{model.key}/measure"
        compute = partial(self._measure, model, label)
        figures = self.steps.run(key, inputs, compute, [f"{n}.json" for n in names], label)
        return MeasuredModel(model, self.steps.root / "evaluations" / model.key, figures)

    def _measure(self, model: TrainedModel, label: str, folder: Path) -> dict[str, Any]:
        from hardmine.evaluation.measurement import measure, training_sample
        from hardmine.evaluation.scored_images import save_detections
        from hardmine.inference.detector import level_of_prior

        detector = self.backend.load_detector(model.checkpoint, self.device)
        sample = training_sample(self.train, seed=self.seed)
        parts = {"training": sample, "val": self.val, **self.negatives}
        scored = detect_sets(detector, parts, self.backend, self.steps.progress, label)
        training = scored.pop("training")
        for name, part in scored.items():
            save_detections(folder / f"{name}.json", part)
        val = scored.pop("val")
        levels = level_of_prior(detector)
        return measure(
            val,
            scored,
            recall=RECALL,
            draws=self.draws,
            seed=self.seed,
            level_of_prior=levels,
            training=training,
        ).to_dict()

    def scored(self, measured: MeasuredModel, name: str) -> Scored:
        """Return a measured model's detections on ``val`` or on a negative set."""
        from hardmine.evaluation.scored_images import load_detections

        part = self.val if name == "val" else self.negatives[name]
        return load_detections(measured.folder / f"{name}.json", part)

    def recall_at(self, measured: MeasuredModel, threshold: float | None) -> float | None:
        """Return recall on the validation images at a score threshold."""
        from hardmine.evaluation.alarms import recall_at
        from hardmine.evaluation.detection_matching import match

        if threshold is None:
            return None
        return recall_at(match(self.scored(measured, "val").with_known_truth()), threshold)

    def compare(self, a: MeasuredModel, b: MeasuredModel, name: str) -> dict[str, Any]:
        """Return ``ratio`` (alarms of ``a`` over those of ``b`` on a negative set) and ``ap50`` (the
        difference), both paired, as plain values.
        """
        from hardmine.evaluation.intervals import ap50_statistic
        from hardmine.evaluation.paired import paired_difference, paired_ratio

        inputs = {
            "models": [a.model.key, b.model.key],
            "val": self.steps.identity(self.val),
            "negatives": self.steps.identity(self.negatives[name]),
            "draws": self.draws,
            "seed": self.seed,
        }

        def compute(_: Path) -> dict[str, Any]:
            """Return ratio of alarms and difference of AP50 with their intervals."""
            left, right = self._scores(a, name), self._scores(b, name)
            how = {"draws": self.draws, "seed": self.seed}
            ratio = paired_ratio(left, right, recall=RECALL, **how)
            ap50 = paired_difference(left, right, ap50_statistic, **how)
            return {"ratio": asdict(ratio), "ap50": asdict(ap50)}

        key = f"comparisons/{fingerprint(inputs)}"
        found: dict[str, Any] = self.steps.run(key, inputs, compute, label="compare")
        return found

    def change(self, after: MeasuredModel, before: MeasuredModel, name: str) -> AlarmChange:
        """Return how the alarms on a negative set changed between two models, paired."""
        from hardmine.evaluation.paired import CHANGE_RECALLS, AlarmChange, alarm_change

        inputs = {
            "change": [after.model.key, before.model.key],
            "recalls": list(CHANGE_RECALLS),
            "val": self.steps.identity(self.val),
            "negatives": self.steps.identity(self.negatives[name]),
            "draws": self.draws,
            "seed": self.seed,
        }

        def compute(_: Path) -> dict[str, Any]:
            """Return how the alarms changed, with intervals."""
            left, right = self._scores(after, name), self._scores(before, name)
            return asdict(alarm_change(left, right, draws=self.draws, seed=self.seed))

        key = f"comparisons/{fingerprint(inputs)}"
        found: dict[str, Any] = self.steps.run(key, inputs, compute, label="compare")
        return AlarmChange(**{**found, "recalls": tuple(found["recalls"])})

    def _scores(self, measured: MeasuredModel, name: str) -> ArmScores:
        from hardmine.evaluation.intervals import ArmScores

        return ArmScores(self.scored(measured, "val"), self.scored(measured, name))


DEFAULT_MODEL = "ssdlite320_mobilenet_v2"


RECIPE = "recipe.yaml"
"""The file of a run directory that holds the whole recipe."""


def choose_recipe(options: NetworkOptions) -> Recipe:
    """Return the recipe that the options name.

    Where they leave it to the data, it is the default one; with ``auto``, the first of those that the
    data may choose which has the keys of the single choices.

    Raises:
        ConfigError: unknown name, unreadable file, unknown key, a value of the wrong type; a ready
            recipe and a name; ``epochs`` or ``batch`` given twice.
    """
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import Recipe, load_recipe
    from hardmine.workflows.auto_recipe import candidates

    model, recipe = options.model, options.recipe
    if isinstance(recipe, Recipe):
        if model is not None:
            raise ConfigError(f"model {model!r} and a ready recipe are both given: give one")
        return options.laid_over(recipe)
    if model == AUTO and recipe is not None:
        raise ConfigError(f"model {AUTO!r} and a recipe are both given: give one")
    if model == AUTO:
        return _first_that_fits(candidates(), options)
    chosen = named_recipe(DEFAULT_MODEL if model is None else model)
    return options.laid_over(chosen if recipe is None else load_recipe(Path(recipe), chosen))


def _first_that_fits(recipes: Iterable[Recipe], options: NetworkOptions) -> Recipe:
    """Return the first recipe that the single choices fit.

    Raises:
        ConfigError: none does; a key that none has is named with the keys of all of them.
    """
    from hardmine.recipes.recipe import UnknownKeyError

    failed: list[ConfigError] = []
    for recipe in recipes:
        try:
            return options.laid_over(recipe)
        except ConfigError as error:
            failed.append(error)
    unknown = [error for error in failed if isinstance(error, UnknownKeyError)]
    keys = {error.key for error in unknown}
    if len(unknown) == len(failed) and len(keys) == 1:
        known = {name for error in unknown for name in error.known}
        raise UnknownKeyError(keys.pop(), known, f" (the keys of all models of {AUTO!r})")
    if len(unknown) == len(failed):
        reasons = "; ".join(dict.fromkeys(map(str, failed)))
        raise ConfigError(
            f"no model of {AUTO!r} has all keys of {', '.join(options.set)}: {reasons}"
        )
    raise next(error for error in failed if error not in unknown)  # it has the keys


def start_from(weights: Path | str | None, recipe: Recipe) -> tuple[Recipe, Path | None]:
    """Return the file to start the recipe's network from, and the recipe that fits it; see
    ``recipes.pretrained_weights``. Where no weights are named, a warning says what that means.
    """
    from hardmine.models.backbones import SmallNetConfig
    from hardmine.recipes.pretrained_weights import find_weights, match_recipe, warn_of_none

    path = find_weights(weights, recipe.model)
    if weights is None and not isinstance(getattr(recipe.model, "backbone", None), SmallNetConfig):
        warn_of_none()
    return match_recipe(recipe, path), path


def write_recipe(folder: Path, recipe: Recipe, why: Sequence[str] = ()) -> None:
    """Write ``recipe.yaml``, which ``--recipe`` reads back.

    Args:
        why: lines that say why it was chosen; they become comments at the top of the file. A run that
            goes on with its recipe keeps those that are there.
    """
    comments = "".join(f"# {line}\n" for line in why or why_chosen(folder))
    write_text(folder / RECIPE, comments + recipe_text(recipe))


def why_chosen(folder: Path) -> tuple[str, ...]:
    """Return the lines in a run's recipe that say why its model was chosen; empty when pinned."""
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
    except OSError:
        return ()
    lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
    return tuple(line.removeprefix("# ") for line in lines)


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML."""
    import yaml

    from hardmine.recipes.recipe import recipe_to_dict

    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)
