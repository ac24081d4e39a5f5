"""What training, measuring and checking are asked for; light, so that a command line can import it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardmine.errors import ConfigError
from hardmine.option_fields import Panel, check_options, images_option, option, seed_option
from hardmine.workflows.framework_trainer import TRAINERS

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

AUTO = "auto"
"""The model's name that leaves the choice to the training data (``workflows.auto_recipe``)."""
DATA = "DATA"
"""What stands for the labelled data in a command where no path to them is known."""


def read_device(text: str) -> str:
    """Return the name of a device that a user wrote.

    Raises:
        ConfigError: no such kind of device.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise ConfigError(f"device: got {text!r}, wanted cpu, mps, cuda or cuda:N")
    return text


def draws_option() -> Any:
    """Return the field ``draws``, the same for every verb."""
    return option(
        1000,
        "Number of bootstrap draws for each confidence interval.",
        metavar="N",
        minimum=0,
        panel="Advanced",
    )


def data_option(words: str) -> Any:
    """Return the field of what names data: a folder or a file of labels or images."""
    return option(None, words, metavar="DATA", path="any")


def device_option(panel: Panel = "Training") -> Any:
    """Return the field ``device``, the same for every verb."""
    return option(
        None,
        "Where to compute: cpu, cuda, cuda:1 or mps. If not given: a GPU if there is one.",
        metavar="NAME",
        parse=read_device,
        panel=panel,
    )


def weights_option() -> Any:
    """Return the field ``weights``, the same for every verb that trains."""
    return option(
        None,
        "The weights to start from: a file (an ImageNet backbone, a torchvision SSD, or a "
        "Hardmine checkpoint, whose class weights are reused by name), 'none', or weights to "
        "download: 'imagenet' (or another name that torchvision has) or 'torchvision' (a detector "
        "trained on COCO).",
        metavar="PATH|none|NAME",
        parse=str,
    )


def classes_option() -> Any:
    """Return the field ``classes``, the same for every verb."""
    return option(
        None,
        "Class names for a detector that does not know its own: a text file, a data.yaml or a COCO "
        "file.",
        metavar="FILE",
        path="file",
        panel="Data",
    )


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How labelled data is read."""

    images: Path | None = images_option()
    empty_is_verified: bool = option(
        False,
        "Somebody looked at the images without annotations, and they hold no object. Without this "
        "option they count as unreviewed and are left out.",
        flags=("--empty-is-verified",),
        panel="Data",
    )

    def __post_init__(self) -> None:
        check_options(self)

    def keywords(self) -> dict[str, Any]:
        """Return them as keywords of ``load_dataset``."""
        images = None if self.images is None else Path(self.images).resolve()
        return {"images": images, "empty_is_verified": self.empty_is_verified}

    def words(self, data: object) -> str:
        """Return labelled data as ``priors`` and ``convert`` take them; ``DATA`` without a path."""
        if not isinstance(data, str | Path):
            return DATA
        where = [] if self.images is None else ["--images", str(self.images)]
        return shlex.join([str(data), *where])


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Which network is trained, by which recipe, from which weights.

    ``recipe`` may be a ready ``Recipe`` in the library; the command line takes a YAML file.
    """

    model: str | None = option(
        None,
        "The network and its recipe, by name; 'hardmine models' lists them. 'auto', or without this "
        "option: chosen by the sizes of the labelled boxes.",
        metavar="auto|NAME",
        panel="Training",
    )
    epochs: float | None = option(
        None,
        "How many times training passes over the images with objects. If not given: as the recipe says. "
        "In a loop this is round 0; the length of later rounds is --set branch.epochs=N.",
        metavar="N",
        above=0,
        panel="Training",
    )
    batch: int | None = option(
        None,
        "Number of images per training step. If not given: as the recipe says.",
        metavar="N",
        minimum=1,
        panel="Training",
    )
    weights: Path | str | None = weights_option()
    recipe: Any = option(
        None,
        "A recipe as a YAML file. An unknown key is an error.",
        metavar="FILE",
        path="file",
        panel="Training",
    )
    compile: bool = option(
        False,
        "Train through torch.compile: quicker steps after some minutes of compiling. It needs a C++ "
        "compiler, or Triton on a GPU.",
        flags=("--compile",),
        panel="Advanced",
    )
    set: tuple[str, ...] = option(
        (),
        "Change one value of the recipe, such as loss.selection.floor=32 (the value is YAML). May "
        "be given several times. 'hardmine recipe' prints all keys.",
        metavar="KEY=VALUE",
        former=("settings",),
        panel="Training",
    )

    def __post_init__(self) -> None:
        check_options(self)

    def laid_over(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the single choices of the options laid over it.

        Raises:
            ConfigError: an unknown key, a value of the wrong type; ``epochs`` or ``batch`` given twice.
        """
        from hardmine.recipes.recipe import apply_settings

        short = {"epochs": self.epochs, "batch.size": self.batch}
        given = [f"{key}={value:g}" for key, value in short.items() if value is not None]
        given += ["compile=true"] if self.compile else []
        return apply_settings(recipe, [*self.set, *given])


@dataclass(frozen=True, slots=True)
class RecipeChanges:
    """What is laid over a recipe that is chosen by name."""

    recipe: Path | None = option(
        None, "A recipe as a YAML file. An unknown key is an error.", metavar="FILE", path="file"
    )
    set: tuple[str, ...] = option(
        (),
        "Change one value of the recipe, such as loss.selection.floor=32 (the value is YAML). May "
        "be given several times. 'hardmine recipe' prints all keys.",
        metavar="KEY=VALUE",
    )


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """Which recipe is meant, for the commands that look at a model and train nothing."""

    model: str | None = option(
        None,
        "The name of a recipe, or weights (or the folder of a run) whose recipe is meant. If not "
        "given: the default recipe.",
        metavar="NAME|CHECKPOINT",
    )
    changes: RecipeChanges = option(RecipeChanges, "What is laid over it.")


@dataclass(frozen=True, slots=True)
class TrainerCommands:
    """Commands that train and predict in place of Hardmine (``workflows.external_trainer``)."""

    framework: str | None = option(
        None,
        "Train with another framework, by its own package; @SIDE at the end is the image size in "
        f"pixels. {'; '.join(f'{row.name}:MODEL, {row.models}' for row in TRAINERS.values())}.",
        flags=("--trainer",),
        metavar="NAME:MODEL",
        panel="Advanced",
    )
    train_command: str | None = option(
        None,
        "Train with your own command, such as 'python train.py {train_json} {weights_out}'. It "
        "may also use {val_json} {classes} {init_weights} {seed} {steps} {epochs} {batch} {round} "
        "{arm} {device}.",
        metavar="COMMAND",
        panel="Advanced",
    )
    predict_command: str | None = option(
        None,
        "Predict with your own command; it uses {weights}, {images_txt} or {images_json}, and "
        "{predict_json}.",
        metavar="COMMAND",
        panel="Advanced",
    )
    detector: str | None = option(
        None,
        "How the trained weights are loaded, such as '{weights_out}:yolov8'; the forms are those "
        "of CHECKPOINT in 'hardmine mine'.",
        metavar="SPEC",
        panel="Advanced",
    )
    weights_name: str | None = option(
        None,
        "Name of the file of weights that the command writes, such as last.safetensors or best.onnx.",
        metavar="NAME",
        panel="Advanced",
    )

    def __post_init__(self) -> None:
        more = (self.predict_command, self.detector, self.weights_name)
        if self.train_command is None and any(more):
            raise ConfigError("predict_command, detector and weights_name go with train_command")
        if self.framework is not None and self.train_command is not None:
            raise ConfigError(
                f"trainer {self.framework} and train_command exclude each other: give one of them"
            )

    @property
    def is_external(self) -> bool:
        """Whether somebody else's program trains."""
        return self.train_command is not None or self.framework is not None


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
        "Measure AP50 on the validation images N times during training, and keep the best weights "
        "as best.safetensors. The report still describes the last weights.",
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
        "A gate: exit with code 3 when there are more than X alarms per negative image at recall .8.",
        metavar="X",
        minimum=0,
    )
    min_ap50: float | None = option(
        None,
        "A gate: exit with code 3 when AP50 is below Y.",
        metavar="Y",
        minimum=0,
        maximum=1,
    )
    known_alarms: Path | None = option(
        None,
        "A gate on the alarms that people confirmed as false (a run of mine or loop, or its "
        "pool.sqlite): exit with code 3 when more than --max-known-alarms of them fire again at the "
        "same place.",
        metavar="RUN|STORE",
        path="any",
    )
    max_known_alarms: int | None = option(
        0,
        "With --known-alarms: how many of them may fire again.",
        metavar="N",
        minimum=0,
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    classes: Path | None = classes_option()
    seed: int = seed_option("Advanced")
    draws: int = draws_option()
    device: str | None = device_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_known_alarms and self.known_alarms is None:
            raise ConfigError("max_known_alarms goes with known_alarms")


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How a dataset is looked at, and what is written.

    Example:
        >>> hardmine.CheckOptions(model="ssdlite320_mobilenet_v2").link
        False
    """

    model: str | None = option(
        None,
        "Report the boxes that are too small for the input of this model.",
        metavar="NAME",
    )
    html: Path | None = option(
        None,
        "Write one page with pictures of the findings.",
        metavar="FILE",
        path="new file",
        panel="Output",
    )
    fix: Path | None = option(
        None,
        "Write a repaired copy (COCO) with the list changes.csv into a new folder.",
        metavar="OUT",
        panel="Output",
    )
    link: bool = option(
        False,
        "With --fix: make hard links to the images instead of copies.",
        flags=("--link",),
        panel="Output",
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    seed: int = seed_option("Advanced")

    def __post_init__(self) -> None:
        check_options(self)
        if self.link and self.fix is None:
            raise ConfigError("link goes with fix")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is in an exported graph, and what it is compared with torch on.

    Example:
        >>> hardmine.ExportOptions(with_nms=True).int8
        False
    """

    with_nms: bool = option(
        False, "Put NMS into the graph, so that it gives detections.", flags=("--with-nms",)
    )
    int8: bool = option(
        False,
        "Compute convolutions in 8 bits, in LiteRT the whole network; needs --calibrate.",
        flags=("--int8",),
    )
    calibrate: Path | str | None = option(
        None,
        "Pictures like those that the model will see, for --int8; at most 128 are used: a folder, or "
        "anything else that --pool of 'loop' takes.",
        metavar="DIR",
        path="pool",
    )
    data: Path | None = data_option(
        "Labelled data to measure the AP of torch and of the export on."
    )
    images: Path | None = images_option()

    def __post_init__(self) -> None:
        check_options(self)
        if self.int8 and self.calibrate is None:
            raise ConfigError("int8 needs images to calibrate on: --calibrate DIR")


@dataclass(frozen=True, slots=True)
class AgreementOptions:
    """How near a detector's answers must be to those of its own framework."""

    min_score: float = option(
        0.25, "Compare detections from this score on.", metavar="S", minimum=0, maximum=1
    )
    max_score: float = option(
        0.02, "The largest difference of a score that is allowed.", metavar="D", minimum=0
    )
    max_box: float = option(
        2.0,
        "The largest difference of a box that is allowed, in pixels.",
        metavar="PX",
        minimum=0,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """How a detector is loaded, and whether it looks at tiles of large images."""

    classes: Path | None = classes_option()
    tile: int | None = option(
        None,
        "Run the detector on square tiles of this size, for large images; their detections are merged.",
        metavar="PX",
        minimum=16,
        panel="Data",
    )
    overlap: float | None = option(
        None,
        "The share of a tile's side that it has in common with the next tile; .2 if not given.",
        metavar="F",
        panel="Data",
    )
    device: str | None = device_option("Options")

    def __post_init__(self) -> None:
        check_options(self)


_WHY_CAPPED = "of one image at most {} alarms count, so that any score would keep a larger promise"


@dataclass(frozen=True, slots=True)
class ThresholdOptions:
    """What a score threshold must promise, and of what.

    Example:
        >>> hardmine.ThresholdOptions(max_alarms=0.01).confidence
        0.95
    """

    max_alarms: float | None = option(
        None,
        "The promise on images without objects: at most this share of new images fires (0.01: one in "
        "a hundred). With --count alarms: at most so many alarms per image.",
        metavar="X",
        above=0,
    )
    min_recall: float | None = option(
        None,
        "The promise on objects: at least this share of new objects is found (0.95). With --per image: "
        "of the images that hold an object, at least one object is found in this share.",
        metavar="R",
        above=0,
    )
    confidence: float = option(
        0.95,
        "How sure the promise is: it is broken in at most 1 - C of all draws of images.",
        metavar="C",
        above=0,
    )
    count: Literal["images", "alarms"] = option(
        "images", "What --max-alarms limits: the share of images that fire, or alarms per image."
    )
    cap: int = option(
        5,
        "With --count alarms: of each image at most N alarms count. A mean of counts without a limit "
        "cannot be promised, however many images there are.",
        metavar="N",
        minimum=1,
        panel="Advanced",
    )
    per: Literal["object", "image"] = option(
        "object", "What --min-recall counts: objects, or images that hold one."
    )
    per_class: bool = option(
        False,
        "With --write: give each class the threshold of its own promise.",
        flags=("--per-class",),
    )
    group: str | None = option(
        None,
        "A regular expression with a group in round brackets that names what an image belongs to, "
        "such as its camera; each group gets its own line.",
        metavar="REGEX",
        panel="Data",
    )
    write: bool = option(
        False,
        "Write the threshold into the checkpoint or export, where 'hardmine predict' and later "
        "exports find it.",
        flags=("--write",),
        panel="Output",
    )
    reading: DataOptions = option(DataOptions, "How labelled data is read.")
    classes: Path | None = classes_option()
    device: str | None = device_option("Options")

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_alarms is None and self.min_recall is None:
            return  # the defaults; the call itself asks for one of the two
        if not self.confidence < 1:
            raise ConfigError(f"confidence: got {self.confidence}, wanted above 0 and below 1")
        if self.min_recall is not None and not self.min_recall < 1:
            raise ConfigError(f"min_recall: got {self.min_recall}, wanted above 0 and below 1")
        most = 1 if self.count == "images" else self.cap
        if self.max_alarms is not None and not self.max_alarms < most:
            of_images = self.count == "images"
            raise ConfigError(
                f"max_alarms: got {self.max_alarms}, wanted above 0 and below {most}; "
                + (
                    "for alarms per image give --count alarms"
                    if of_images
                    else _WHY_CAPPED.format(most)
                )
            )
