"""Trainers of other frameworks by name: ``--trainer ultralytics:yolo11n.yaml``.

Each becomes a train command of ``external_trainer.py`` that runs this module in a process of its own:
it writes the data as that trainer wants it, trains, and puts the last weights where the loop looks for
them. So arms, steps, resuming and the report are those of every trained model. One trainer is one row
of :data:`TRAINERS`.

    python -m hardmine.workflows.framework_trainer ultralytics MODEL --train train.json …
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.errors import ConfigError, HardmineError, MissingExtraError, not_one_of

if TYPE_CHECKING:
    import torch

    from hardmine.workflows.trainer_data import TrainingTask

_SPEC = re.compile(r"(?P<kind>\w+):(?P<model>.+?)(@(?P<side>\d+))?")


@dataclass(frozen=True, slots=True)
class Trainer:
    """A framework that trains; ``TRAINERS`` has a row for each.

    Attributes:
        name: what stands before the colon.
        models: what may stand after it, for help texts.
        weights_name: the file that a training leaves.
        detector: how it is loaded, with ``{weights_out}``, ``{model}`` and ``{at_side}`` in it.
        needs: the packages that must be there, each with what installs it.
        train: does it.
        side: the image size where none is given; ``None``: that of the model.
        takes_side: whether a side may be given for a model.
        checked: whether a model is a file or a folder where it is written with a separator.
        warning: what a user must know before training such a model, or ``None``.
    """

    name: str
    models: str
    weights_name: str
    detector: str
    needs: Mapping[str, str]
    train: Callable[[TrainingTask], None]
    side: int | None = None
    takes_side: Callable[[str], bool] = lambda model: True
    checked: bool = True
    warning: Callable[[str], str | None] = lambda model: None

    @property
    def install(self) -> str:
        """What installs its package."""
        return next(iter(self.needs.values()), "nothing").replace("'", "")


def _train_ultralytics(task: TrainingTask) -> None:
    """Train by ``ultralytics.YOLO(MODEL).train``, without its downloads and pictures."""
    from hardmine.inference.framework_detectors import import_ultralytics
    from hardmine.workflows.trainer_data import write_yolo

    package = import_ultralytics(f"trainer ultralytics:{task.model}")
    with tempfile.TemporaryDirectory(dir=task.weights_out.parent) as name:
        folder = Path(name).resolve()
        images = write_yolo(task.train_json, task.val_json, folder / "data")
        package.YOLO(str(task.start or task.model)).train(
            data=str(folder / "data" / "data.yaml"),
            epochs=task.count_epochs(images),
            imgsz=task.side,
            batch=task.batch,
            seed=task.seed,
            deterministic=True,
            device=str(task.device),
            workers=_workers(task.device),
            amp=False,  # its check of mixed precision downloads a model
            val=False,
            plots=False,
            project=str(folder),
            name="run",
        )
        shutil.move(folder / "run" / "weights" / "last.pt", task.weights_out)


def _train_libreyolo(task: TrainingTask) -> None:
    """Train by ``libreyolo.LibreYOLO(WEIGHTS).train``, whose data are YOLO's."""
    from hardmine.inference.framework_detectors import import_framework
    from hardmine.workflows.trainer_data import write_yolo

    package = import_framework("libreyolo", f"trainer libreyolo:{task.model}")
    with tempfile.TemporaryDirectory(dir=task.weights_out.parent) as name:
        folder = Path(name).resolve()
        images = write_yolo(task.train_json, task.val_json, folder / "data")
        model = package.LibreYOLO(str(task.start or task.model), device=str(task.device))
        model.train(
            data=str(folder / "data" / "data.yaml"),
            epochs=task.count_epochs(images),
            imgsz=task.side,
            batch=task.batch,
            seed=task.seed,
            device=str(task.device),
            workers=_workers(task.device),
            amp=False,
            eval_interval=0,
            patience=0,
            project=str(folder),
            name="run",
            exist_ok=True,
        )
        shutil.move(folder / "run" / "weights" / "last.pt", task.weights_out)


def _train_rfdetr(task: TrainingTask) -> None:
    """Train by ``rfdetr.RFDETR….train``; the averaged weights of the last epoch are taken."""
    from hardmine.inference.framework_detectors import import_framework
    from hardmine.workflows.trainer_data import write_rfdetr

    package = import_framework("rfdetr", f"trainer rfdetr:{task.model}")
    with tempfile.TemporaryDirectory(dir=task.weights_out.parent) as name:
        folder = Path(name).resolve()
        images = write_rfdetr(task.train_json, task.val_json, folder / "data")
        resolution = {} if task.side is None else {"resolution": task.side}
        _rfdetr_model(package, task).train(
            dataset_dir=str(folder / "data"),
            output_dir=str(folder / "run"),
            epochs=task.count_epochs(images),
            **resolution,
            **_rfdetr_batches(task.batch),
            seed=task.seed,
            device=str(task.device),
            num_workers=_workers(task.device),
            tensorboard=False,
            run_test=False,
        )
        shutil.move(folder / "run" / "last_ema.pth", task.weights_out)


def _rfdetr_model(package: Any, task: TrainingTask) -> Any:
    """Return the model: of a checkpoint, or one such as ``nano``, whose weights the package downloads.

    Raises:
        ConfigError: it has no such model.
    """
    weights = task.start or Path(task.model)
    if weights.is_file():
        return package.RFDETR.from_checkpoint(str(weights.resolve()), device=str(task.device))
    made = getattr(package, f"RFDETR{task.model.capitalize()}", None)
    if made is None:
        raise ConfigError(f"trainer rfdetr:{task.model}: no such file, and no model of rfdetr's")
    return made(device=str(task.device))


def _rfdetr_batches(batch: int) -> dict[str, int]:
    """Return four images at once, and as many times as make a step of ``batch`` images."""
    at_once = next(size for size in (4, 3, 2, 1) if batch % size == 0)
    return {"batch_size": at_once, "grad_accum_steps": batch // at_once}


def _train_huggingface(task: TrainingTask) -> None:
    from hardmine.workflows.loss_training import train_huggingface

    train_huggingface(task)


def _train_torchvision(task: TrainingTask) -> None:
    from hardmine.workflows.loss_training import train_torchvision

    train_torchvision(task)


def _workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else 4


def _warn_of_ssd(model: str) -> str | None:
    if not model.startswith("ssd"):
        return None
    return (
        f"torchvision's own {model.partition(':')[0]} takes background only from images with objects: "
        "an image without objects gives it no gradient, so mined images cannot help. Hardmine's own "
        "SSDs, and torchvision's Faster R-CNN, RetinaNet and FCOS, do learn from them"
    )


TRAINERS: Mapping[str, Trainer] = {
    row.name: row
    for row in (
        Trainer(
            "ultralytics",
            "a model's yaml (yolo11n.yaml, from scratch) or weights to start from (best.pt)",
            "last.pt",
            "{weights_out}{at_side}",
            {"ultralytics": "ultralytics (AGPL-3.0)"},
            _train_ultralytics,
            side=640,
        ),
        Trainer(
            "hf",
            "a folder with config.json and preprocessor_config.json (without weights: from scratch), or "
            "OWNER/NAME of the hub",
            "model.safetensors",
            "hf:{weights_out}",
            {"transformers": "'hardmine[huggingface]'"},
            _train_huggingface,
            checked=False,
        ),
        Trainer(
            "rfdetr",
            "nano, small, medium or large, whose weights the package downloads, or a checkpoint",
            "last.pth",
            "rfdetr:{weights_out}",
            {
                "rfdetr": "'hardmine[rfdetr]' 'rfdetr[train]'",
                "pytorch_lightning": "'rfdetr[train]'",
            },
            _train_rfdetr,
        ),
        Trainer(
            "libreyolo",
            "weights to start from, or a name whose weights the package downloads (LibreYOLO9t.pt)",
            "last.pt",
            "libreyolo:{weights_out}{at_side}",
            {"libreyolo": "'hardmine[libreyolo]'"},
            _train_libreyolo,
            side=640,
        ),
        Trainer(
            "torchvision",
            "a network's name (fasterrcnn_mobilenet_v3_large_320_fpn, from scratch), with :WEIGHTS a "
            "file or a name that torchvision downloads (COCO_V1)",
            "last.pth",
            "torchvision:{network}:{weights_out}{at_side}",
            {},
            _train_torchvision,
            takes_side=lambda model: not model.startswith("ssd"),
            checked=False,
            warning=_warn_of_ssd,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class FrameworkTrainer:
    """What a text such as ``ultralytics:best.pt@320`` names: whose, which model, image size (px)."""

    trainer: Trainer
    model: str
    side: int | None

    @staticmethod
    def parse(text: str) -> FrameworkTrainer:
        """Read the text.

        Raises:
            ConfigError: no such framework, a file of weights that is not there, or an image size for a
                model that has its own.
        """
        found = _SPEC.fullmatch(text)
        if found is None:
            raise ConfigError(f"trainer: got {text!r}, wanted FRAMEWORK:MODEL[@SIDE]")
        trainer = TRAINERS.get(found["kind"])
        if trainer is None:
            raise ConfigError(not_one_of("trainer", found["kind"], TRAINERS))
        model = found["model"]
        if trainer.checked and os.sep in model and not Path(model).exists():
            raise ConfigError(f"trainer: {model}: no such file")
        if found["side"] and not trainer.takes_side(model):
            raise ConfigError(f"trainer: {text}: has an image size of its own; leave out the @")
        here = str(Path(model).resolve()) if Path(model).exists() else model
        side = int(found["side"]) if found["side"] else trainer.side
        return FrameworkTrainer(trainer, here, side)

    def require_packages(self) -> None:
        """Look whether what trains is installed, before any work.

        Raises:
            MissingExtraError: a package is missing; what installs it.
        """
        for package, install in self.trainer.needs.items():
            if find_spec(package) is None:
                raise MissingExtraError(
                    f"trainer {self.trainer.name}:{self.model}: needs the package {package}; "
                    f"pip install {install}"
                )

    @property
    def command(self) -> str:
        """The train command, with the fields that the loop fills in."""
        words = [sys.executable, "-m", __name__, self.trainer.name, self.model]
        words += [] if self.side is None else ["--side", str(self.side)]
        fields = ("train_json", "val_json", "init_weights", "weights_out")
        more = ("seed", "steps", "epochs", "batch", "device")
        options = " ".join(f"--{name.replace('_', '-')} {{{name}}}" for name in (*fields, *more))
        return f"{shlex.join(words)} {options}"

    @property
    def detector(self) -> str:
        """How its weights are loaded, with ``{weights_out}`` in it."""
        at_side = "" if self.side is None else f"@{self.side}"
        text = self.trainer.detector.replace("{network}", self.model.partition(":")[0])
        return text.replace("{at_side}", at_side)

    @property
    def warning(self) -> str | None:
        """What the user must know before such a model is trained."""
        return self.trainer.warning(self.model)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    from hardmine.device import choose_device
    from hardmine.workflows.trainer_data import TrainingTask

    given = _parser().parse_args(arguments)
    try:
        task = TrainingTask(
            model=given.model,
            start=None if given.init_weights == "none" else Path(given.init_weights),
            side=given.side,
            train_json=given.train_json,
            val_json=given.val_json,
            weights_out=given.weights_out,
            seed=given.seed,
            steps=int(given.steps) if given.steps.isdecimal() else None,
            epochs=given.epochs,
            batch=given.batch,
            device=choose_device(None if given.device == "auto" else given.device),
        )
        TRAINERS[given.kind].train(task)
    except HardmineError as error:
        print(error, file=sys.stderr)  # noqa: T201  (the log of the training)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__name__}")
    parser.add_argument("kind", choices=list(TRAINERS))
    parser.add_argument("model")
    parser.add_argument("--side", type=int)
    for name in ("train-json", "val-json", "weights-out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--init-weights", default="none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default="None")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
