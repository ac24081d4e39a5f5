"""A team's own trainer inside the loop: commands in place of training and, if need be, of detecting.

A command is split into words as a shell does and run without one. Its words may hold

- ``{train_json}``, ``{val_json}``: COCO files; images by absolute path; empty images are negatives
- ``{classes}``: a file with the class names, one a line
- ``{weights_out}``: where the trained weights must be; ``{init_weights}``: those to go on from, or
  ``none``
- ``{seed}``, ``{steps}``, ``{epochs}``, ``{batch}``, ``{round}``, ``{arm}``, ``{device}``
- for predicting: ``{weights}``, ``{images_txt}`` (a path a line), ``{images_json}`` (COCO),
  ``{predict_json}``: where the predictions must be, in any form that Hardmine reads
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.detections import Detections
from hardmine.errors import CheckpointError, CommandError, ConfigError, DataError
from hardmine.files import write_text
from hardmine.mining.sources.local_files import local_files
from hardmine.types import Dataset, ImageRecord, ImageState, Problem
from hardmine.workflows.cached_models import Backend, TrainingRequest
from hardmine.workflows.train_options import TrainerCommands

if TYPE_CHECKING:
    from torch import Tensor

    from hardmine.data.resize import Resize
    from hardmine.inference.detector import BatchScores, Detector
    from hardmine.inference.image_loading import ImageItem
    from hardmine.inference.predict import ScoredImage
    from hardmine.inference.predictions_file import Predictions

_log = logging.getLogger("hardmine")
_TAIL = 12
"""Lines of a failed command's output that are shown."""

_ATTEMPT = "attempt-"
_FIELD = re.compile(r"\{(\w+)\}")
_TRAIN_FIELDS = (
    "train_json",
    "val_json",
    "classes",
    "weights_out",
    "init_weights",
    "seed",
    "steps",
    "epochs",
    "batch",
    "round",
    "arm",
    "device",
)
_PREDICT_FIELDS = ("weights", "images_txt", "images_json", "predict_json", "classes", "device")


def run_command(template: str, values: Mapping[str, object], log: Path) -> None:
    """Run a command; what it prints goes into ``log``.

    Raises:
        CommandError: there is no such program, or it ended with another code than 0.
    """
    words = [fill(word, values) for word in shlex.split(template)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        output.write(f"$ {shlex.join(words)}\n")
        output.flush()
        try:
            code = subprocess.run(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            ).returncode
        except OSError as error:
            raise CommandError(f"{words[0]}: cannot be started ({error.strerror})") from None
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        last = " | ".join(line.strip() for line in lines[-_TAIL:] if line.strip())
        raise CommandError(
            f"{words[0]} ended with code {code}: …{last[-320:]} (all of it in {log}; what was "
            "finished before is kept, --resume goes on)"
        )


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return ``text`` with every known ``{field}`` replaced; others stay."""
    return _FIELD.sub(
        lambda m: str(values[m.group(1)]) if m.group(1) in values else m.group(0), text
    )


def check_fields(template: str, name: str, known: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a template with an unknown field or without a needed one.

    Raises:
        ConfigError: which field, and the known ones.
    """
    fields = set(_FIELD.findall(template))
    unknown = sorted(fields - set(known))
    if unknown:
        raise ConfigError(
            f"{name}: unknown field {{{unknown[0]}}}, wanted some of "
            + ", ".join(f"{{{field}}}" for field in known)
        )
    lacking = [field for field in needed if field not in fields]
    if lacking:
        raise ConfigError(f"{name}: {{{lacking[0]}}} is not in it: {template!r}")
    if not template.strip():
        raise ConfigError(f"{name}: is empty")


def check_command(template: str, name: str, known: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a command as :func:`check_fields` does, and one that cannot be split into words.

    Raises:
        ConfigError: what is wrong with it.
    """
    check_fields(template, name, known, needed)
    try:
        shlex.split(template)
    except ValueError as error:  # no closing quotation, nothing behind the last backslash
        raise ConfigError(f"{name}: {str(error).lower()} in {template!r}") from None


@dataclass(frozen=True)
class ExternalTrainer:
    """A command that trains, and how to load what it writes.

    ``detector`` names the detector of the weights, with ``{weights_out}`` in it.
    """

    train: str
    predict: str | None
    detector: str
    weights_name: str
    root: Path
    warning: str | None = None

    def __post_init__(self) -> None:
        check_command(self.train, "train_command", _TRAIN_FIELDS, ["weights_out"])
        if self.predict is not None:
            check_command(
                self.predict, "predict_command", _PREDICT_FIELDS, ["weights", "predict_json"]
            )
        check_fields(self.detector, "detector", ["weights_out", "classes"], ["weights_out"])
        if Path(self.weights_name).name != self.weights_name or self.weights_name == "..":
            raise ConfigError(f"weights_name: got {self.weights_name!r}, wanted a file name")

    def backend(self, own: Backend) -> Backend:
        """Return what trains by the command; images are detected on as ``own`` does."""
        return replace(
            own,
            fit=self.fit,
            load_detector=self.load,
            weights_name=self.weights_name,
            identity=(self.train, self.predict, self.detector, self.weights_name),
        )

    @property
    def val_json(self) -> Path:
        """The validation images as a COCO file."""
        return self.root / "prepare" / "val.coco.json"

    @property
    def classes(self) -> Path:
        """The class names, one a line."""
        return self.root / "prepare" / "classes.txt"

    def prepare(self, val: Dataset) -> None:
        """Write what every round's command is given, and say once what its user must know."""
        from hardmine.data.formats.coco_writing import write_coco

        if self.warning is not None:
            _log.warning("%s", self.warning)
        write_coco(val, self.val_json)
        write_text(self.classes, "\n".join(val.categories) + "\n")

    def fit(self, request: TrainingRequest) -> Path:
        """Train by the command and return the weights that it wrote.

        It writes into a folder of its own, which is emptied into ``out`` when it has ended well: what a
        killed or failed command left is never taken for its weights, nor what it writes when it
        outlives a killed run.

        Raises:
            CommandError: it failed (its last lines are in the message), or wrote no weights.
            CheckpointError, DataError: as :meth:`load`, where Hardmine loads the weights itself.
        """
        from hardmine.data.formats.coco_writing import write_coco

        out, start = request.out, request.init or request.weights
        write_coco(request.dataset, out / "train.coco.json")
        for left_over in out.glob(f"{_ATTEMPT}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        place = Path(tempfile.mkdtemp(prefix=_ATTEMPT, dir=out))
        values = {
            "train_json": out / "train.coco.json",
            "val_json": self.val_json,
            "classes": self.classes,
            "weights_out": place / self.weights_name,
            "init_weights": start or "none",
            "seed": request.seed,
            "steps": request.steps,
            "epochs": f"{request.recipe.epochs:g}",
            "batch": request.recipe.batch.size,
            "round": request.round_number,
            "arm": request.arm,
            "device": request.device or "auto",
        }
        run_command(self.train, values, out / "train.log")
        self._check(place / self.weights_name, out / "train.log", request.device)
        _move_all(place, out, last=self.weights_name)
        return out / self.weights_name

    def _check(self, weights: Path, log: Path, device: str | None) -> None:
        if not weights.is_file() or not weights.stat().st_size:
            raise CommandError(
                f"train_command ended well but wrote no {weights}; its output is in {log}"
            )
        if self.predict is None:
            self.load(weights, device)

    def load(self, checkpoint: Path | str, device: str | None = None) -> Detector:
        """Return the detector of trained weights, held to the data's classes.

        Raises:
            CheckpointError: the weights cannot be read as ``detector`` says.
            DataError: it has other classes than the data.
        """
        from hardmine.inference.class_names import read_classes, require_classes
        from hardmine.inference.load_detector import load_detector

        names = read_classes(self.classes)
        weights = Path(checkpoint)
        if self.predict is not None:
            return CommandDetector(self, weights, names, device)
        spec = fill(self.detector, {"weights_out": weights, "classes": self.classes})
        try:
            detector = load_detector(spec, device, fallback=names)
        except CheckpointError as error:
            raise CheckpointError(f"{error} (written by train_command, loaded as {spec})") from None
        require_classes(detector.categories, names, spec)
        return detector


def _move_all(source: Path, target: Path, *, last: str) -> None:
    """Move a folder's entries into another one, in place of what bears their names there."""
    for entry in sorted(source.iterdir(), key=lambda entry: entry.name == last):
        old = target / entry.name
        if old.is_dir():
            shutil.rmtree(old)
        entry.replace(old)
    source.rmdir()


def make_trainer(commands: TrainerCommands, root: Path) -> ExternalTrainer:
    """Return the trainer of those commands, defaults filled in.

    Raises:
        ConfigError: a field that is not known, or one that must be there and is not.
    """
    if commands.framework is not None:
        from hardmine.workflows.framework_trainer import FrameworkTrainer

        named = FrameworkTrainer.parse(commands.framework)
        named.require_packages()
        name = named.trainer.weights_name
        return ExternalTrainer(named.command, None, named.detector, name, root, named.warning)
    assert commands.train_command is not None
    return ExternalTrainer(
        commands.train_command,
        commands.predict_command,
        commands.detector or "{weights_out}",
        commands.weights_name or "last.safetensors",
        root,
    )


class CommandDetector:
    """Trained weights behind a command that writes predictions: it takes files, not pixels."""

    def __init__(
        self, trainer: ExternalTrainer, weights: Path, names: tuple[str, ...], device: str | None
    ) -> None:
        from hardmine.data.resize import Resize
        from hardmine.recipes.checkpoint import file_digest

        self._trainer = trainer
        self._weights = weights
        self._device = device
        self.categories = names
        self.resize: Resize = Resize(1, 1)
        key = f"{file_digest(weights)}:{trainer.predict}"
        self.model_id = hashlib.sha256(key.encode()).hexdigest()[:16]

    def score(self, images: Tensor) -> BatchScores:
        """Refuse: a command takes files."""
        raise ConfigError("predict_command takes files, not pixels")

    def detect(self, images: Tensor) -> list[Detections]:
        """Refuse: a command takes files."""
        raise ConfigError("predict_command takes files, not pixels")

    def detect_images(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[Detections]:
        """Return the detections of every image, in order."""
        return self._predict(paths).detect_images(paths, progress)

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Yield every image's score in order; the command gets files, whatever their source."""
        from hardmine.inference.image_loading import ImageItem

        names = [item.name for item in items]
        with tempfile.TemporaryDirectory(prefix="hardmine-images-") as folder:
            files = local_files(names, Path(folder))
            paths = [file for file in files if isinstance(file, Path)]
            scored = self._predict(paths).score_items(ImageItem(str(path)) for path in paths)
            for name, file in zip(names, files, strict=True):
                result = next(scored) if isinstance(file, Path) else file
                if isinstance(result, Problem):
                    yield replace(result, file=name)
                else:
                    yield replace(result, name=name)

    def _predict(self, paths: Sequence[Path]) -> Predictions:
        from hardmine.inference.predictions_file import load_predictions

        trainer = self._trainer
        assert trainer.predict is not None
        with tempfile.TemporaryDirectory(prefix="hardmine-predict-") as name:
            folder = Path(name)
            images = folder / "images.json"
            _write_images(paths, self.categories, folder)
            values = {
                "weights": self._weights,
                "images_txt": folder / "images.txt",
                "images_json": images,
                "predict_json": folder / "found.json",
                "classes": trainer.classes,
                "device": self._device or "auto",
            }
            run_command(trainer.predict, values, self._weights.parent / "predict.log")
            if not (folder / "found.json").is_file():
                raise CommandError("predict_command ended well but wrote no {predict_json}")
            return load_predictions(folder / "found.json", images)


def _write_images(paths: Sequence[Path], names: tuple[str, ...], folder: Path) -> None:
    from hardmine.data.formats.coco_writing import write_coco
    from hardmine.data.images import image_size

    records = []
    for path in paths:
        try:
            width, height = image_size(path)
        except DataError:  # found again, and reported, when the picture is read
            continue
        records.append(ImageRecord.empty(path, width, height, ImageState.UNREVIEWED))
    write_coco(Dataset(names, tuple(records), folder), folder / "images.json")
    write_text(folder / "images.txt", "".join(f"{record.path}\n" for record in records))
