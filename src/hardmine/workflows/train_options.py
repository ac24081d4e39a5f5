"""What training and measuring are asked for; light, so that a command line can import it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.errors import ConfigError
from hardmine.option_fields import check_options, option


def read_device(text: str) -> str:
    """Return the name of a device that a user wrote.

    Raises:
        ConfigError: no such kind of device.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise ConfigError(f"device: got {text!r}, wanted cpu, mps, cuda or cuda:N")
    return text


def seed_option() -> Any:
    """Return the field ``seed``, the same for every verb."""
    return option(0, "Seed of everything random.", metavar="N", minimum=0, panel="Training")


def draws_option() -> Any:
    """Return the field ``draws``, the same for every verb."""
    return option(
        1000, "Bootstrap draws behind each interval.", metavar="N", minimum=0, panel="Advanced"
    )


def device_option() -> Any:
    """Return the field ``device``, the same for every verb."""
    return option(
        None,
        "Where to compute: cpu, cuda, cuda:1 or mps; the best there is if not given.",
        metavar="NAME",
        parse=read_device,
        panel="Training",
    )


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How labelled data is read."""

    images: Path | None = option(
        None,
        "Where the images of a COCO json are, if not beside it.",
        metavar="DIR",
        path="folder",
        panel="Data",
    )
    empty_is_verified: bool = option(
        False,
        "Images without annotations were looked at and hold no object (else: unreviewed).",
        flags=("--empty-is-verified",),
        panel="Data",
    )

    def keywords(self) -> dict[str, Any]:
        """Return them as keywords of ``load_dataset``."""
        images = None if self.images is None else Path(self.images).resolve()
        return {"images": images, "empty_is_verified": self.empty_is_verified}


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Which network is trained, by which recipe, from which weights.

    ``recipe`` may be a ready ``Recipe`` in the library; the command line takes a YAML file.
    """

    model: str | None = option(
        None, "A named recipe; 'hardmine models' lists them.", metavar="NAME", panel="Training"
    )
    epochs: float | None = option(
        None, "Passes over the training images.", metavar="N", minimum=1, panel="Training"
    )
    weights: Path | str | None = option(
        None,
        "What to start from: a file (an ImageNet backbone, a torchvision SSD, or a Hardmine checkpoint, "
        "whose class weights are reused by name), 'none', 'imagenet' (or another name of torchvision's) "
        "or 'torchvision' (a detector trained on COCO) to download.",
        metavar="PATH|none|NAME",
        parse=str,
        panel="Training",
    )
    recipe: Any = option(
        None,
        "A recipe in YAML; an unknown key is an error.",
        metavar="FILE",
        path="file",
        panel="Training",
    )
    set: tuple[str, ...] = option(
        (),
        "Lay one choice over the recipe, such as loss.selection.floor=32 (the value is YAML); may be "
        "repeated. 'hardmine recipe' prints all keys.",
        metavar="KEY=VALUE",
        former=("settings",),
        panel="Training",
    )


@dataclass(frozen=True, slots=True)
class TrainerCommands:
    """Commands that train and predict in place of Hardmine (``workflows.external_trainer``)."""

    train_command: str | None = option(
        None,
        "Train by your own command, such as 'python train.py {train_json} {weights_out}'; also "
        "{val_json} {classes} {init_weights} {seed} {steps} {epochs} {round} {arm} {device}.",
        metavar="COMMAND",
        panel="Advanced",
    )
    predict_command: str | None = option(
        None,
        "Predict by your own command: {weights} {images_txt} or {images_json}, {predict_json}.",
        metavar="COMMAND",
        panel="Advanced",
    )
    detector: str | None = option(
        None,
        "How trained weights are loaded, such as '{weights_out}:yolov8'; as CHECKPOINT of mine.",
        metavar="SPEC",
        panel="Advanced",
    )
    weights_name: str | None = option(
        None,
        "File name of the weights that the command writes (last.safetensors; best.onnx).",
        metavar="NAME",
        panel="Advanced",
    )

    def __post_init__(self) -> None:
        more = (self.predict_command, self.detector, self.weights_name)
        if self.train_command is None and any(more):
            raise ConfigError("predict_command, detector and weights_name go with train_command")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How one detector is trained and measured.

    Example:
        >>> hardmine.TrainOptions(validate=2, seed=7).network.model is None
        True
    """

    network: NetworkOptions = option(NetworkOptions, "The network and its recipe.")
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    validate: int = option(
        4,
        "Measure AP50 on the validation images N times while training and keep the best weights as "
        "best.safetensors; the last ones are what is reported.",
        metavar="N",
        minimum=0,
        former=("validations",),
        panel="Training",
    )
    seed: int = seed_option()
    draws: int = draws_option()
    device: str | None = device_option()

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How a detector is measured, and what it must reach.

    Example:
        >>> hardmine.EvaluateOptions(min_ap50=0.9).max_alarms is None
        True
    """

    max_alarms: float | None = option(
        None,
        "Gate: alarms per negative image at recall .8 must not exceed X, else exit 3.",
        metavar="X",
        minimum=0,
        panel="Output",
    )
    min_ap50: float | None = option(
        None,
        "Gate: AP50 must reach Y, else exit 3.",
        metavar="Y",
        minimum=0,
        maximum=1,
        panel="Output",
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    classes: Path | None = option(
        None,
        "Class names for a detector that does not know its own: text, data.yaml or COCO json.",
        metavar="FILE",
        path="file",
        panel="Data",
    )
    seed: int = seed_option()
    draws: int = draws_option()
    device: str | None = device_option()

    def __post_init__(self) -> None:
        check_options(self)
