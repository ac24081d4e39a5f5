"""Trainers of other frameworks by name: ``--trainer ultralytics:yolo11n.yaml``.

Each becomes a train command of ``external_trainer.py`` that runs this module in a process of its own:
it writes the data as that trainer wants it, trains, and puts the last weights where the loop looks for
them. So arms, steps, resuming and the report are those of every trained model.

    python -m hardmine.workflows.framework_trainer ultralytics MODEL --train train.json …
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.errors import ConfigError, DataError, HardmineError, not_one_of

_SPEC = re.compile(r"(?P<kind>\w+):(?P<model>.+?)(@(?P<side>\d+))?")
_KINDS = ("ultralytics",)
BATCH = 16
"""Images per step; the loop's steps are counted in these."""


@dataclass(frozen=True, slots=True)
class FrameworkTrainer:
    """What a text such as ``ultralytics:best.pt@320`` names: whose, which model, image size (px)."""

    kind: str
    model: str
    side: int

    @staticmethod
    def parse(text: str) -> FrameworkTrainer:
        """Read the text.

        Raises:
            ConfigError: no such framework, or a file of weights that is not there.
        """
        found = _SPEC.fullmatch(text)
        if found is None:
            raise ConfigError(f"trainer: got {text!r}, wanted ultralytics:MODEL[@SIDE]")
        if found["kind"] not in _KINDS:
            raise ConfigError(not_one_of("trainer", found["kind"], _KINDS))
        model = found["model"]
        if os.sep in model and not Path(model).exists():
            raise ConfigError(f"trainer: {model}: no such file")
        here = str(Path(model).resolve()) if Path(model).exists() else model
        return FrameworkTrainer(found["kind"], here, int(found["side"] or 640))

    @property
    def command(self) -> str:
        """The train command, with the fields that the loop fills in."""
        words = [sys.executable, "-m", __name__, self.kind, self.model, "--side", str(self.side)]
        fields = ("train_json", "val_json", "init_weights", "weights_out")
        more = ("seed", "steps", "epochs", "device")
        options = " ".join(f"--{name.replace('_', '-')} {{{name}}}" for name in (*fields, *more))
        return f"{shlex.join(words)} {options}"

    @property
    def detector(self) -> str:
        """How its weights are loaded."""
        return f"{{weights_out}}@{self.side}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        _train_ultralytics(given)
    except HardmineError as error:
        print(error, file=sys.stderr)  # noqa: T201  (the log of the training)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__name__}")
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=640)
    for name in ("train-json", "val-json", "weights-out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--init-weights", default="none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default="None")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--device", default="auto")
    return parser


def _train_ultralytics(given: argparse.Namespace) -> None:
    from hardmine.device import choose_device
    from hardmine.inference.ultralytics_detector import import_ultralytics

    package = import_ultralytics(f"trainer ultralytics:{given.model}")
    device = choose_device(None if given.device == "auto" else given.device)
    with tempfile.TemporaryDirectory(dir=given.weights_out.parent) as name:
        folder = Path(name).resolve()
        images = write_yolo(given.train_json, given.val_json, folder / "data")
        start = given.model if given.init_weights == "none" else given.init_weights
        package.YOLO(str(start)).train(
            data=str(folder / "data" / "data.yaml"),
            epochs=count_epochs(images, given.steps, given.epochs),
            imgsz=given.side,
            batch=BATCH,
            seed=given.seed,
            deterministic=True,
            device=str(device),
            workers=0 if device.type == "cpu" else 4,
            amp=False,  # its check of mixed precision downloads a model
            val=False,
            plots=False,
            project=str(folder),
            name="run",
        )
        shutil.move(folder / "run" / "weights" / "last.pt", given.weights_out)


def count_epochs(images: int, steps: str, epochs: float) -> int:
    """Return the epochs that give as many steps as the loop asks for, else those of the recipe."""
    if not steps.isdecimal():
        return max(1, round(epochs))
    return max(1, round(int(steps) / math.ceil(images / BATCH)))


def write_yolo(train: Path, val: Path, folder: Path) -> int:
    """Write two COCO files as YOLO data, images as links, and return how many images train.

    An image without objects gets an empty label file: YOLOs learn from it as background. Boxes that
    are to be ignored have no form there; such an image is left out.

    Raises:
        DataError: the files cannot be read.
    """
    import yaml

    count = 0
    names: dict[int, str] = {}
    for part, path in (("train", train), ("val", val)):
        images, names = _read_coco(path)
        for number, image in enumerate(images):
            stem = f"{number:06}_{image.path.stem}"
            _link(image.path, folder / "images" / part / f"{stem}{image.path.suffix.lower()}")
            label = folder / "labels" / part / f"{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(image.lines), encoding="utf-8")
        count += len(images) if part == "train" else 0
    content = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "names": names,
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return count


@dataclass(frozen=True, slots=True)
class _Image:
    """An image and its lines of a YOLO label file."""

    path: Path
    lines: list[str]


def _read_coco(path: Path) -> tuple[list[_Image], dict[int, str]]:
    """Read a COCO file that the loop wrote: images by absolute path, class numbers from 0."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    numbers = {entry["id"]: i for i, entry in enumerate(tree["categories"])}
    rows: dict[Any, list[Any]] = defaultdict(list)
    for row in tree["annotations"]:
        rows[row["image_id"]].append(row)
    images = []
    for entry in tree["images"]:
        own = rows[entry["id"]]
        if any(row.get("iscrowd") or row.get("ignore") for row in own):
            continue
        lines = [_line(row, numbers[row["category_id"]], entry) for row in own]
        images.append(_Image(path.parent / entry["file_name"], lines))
    return images, {number: entry["name"] for number, entry in enumerate(tree["categories"])}


def _line(row: Any, number: int, image: Any) -> str:
    x, y, w, h = row["bbox"]
    width, height = image["width"], image["height"]
    shape = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return f"{number} " + " ".join(f"{value:.6f}" for value in shape) + "\n"


def _link(image: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(image.resolve())
    except OSError:  # a system that lets nobody make links
        shutil.copyfile(image, place)


if __name__ == "__main__":
    sys.exit(main())
