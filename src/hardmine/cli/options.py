"""The options that commands share, each written once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli.console import usage_error
from hardmine.cli.option_flags import (
    detector_words,
    listed,
    pool_spec,
    recipe_names,
    setting_words,
    starting_with,
)
from hardmine.data.formats.format_table import formats_read
from hardmine.loop.control_arms import arm_names, arms_help
from hardmine.mining.mine_options import EVERY_HELP

if TYPE_CHECKING:
    from hardmine.data.data_options import SplitChoice
    from hardmine.inference.detector import Detector
    from hardmine.mining.mine_options import MineOptions
    from hardmine.recipes.recipe import Recipe as RecipeValue
    from hardmine.types import Dataset
    from hardmine.workflows.train_options import DetectorOptions, RecipeChanges


def _device(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise typer.BadParameter(f"{name!r} is not cpu, mps, cuda or cuda:N")
    return name


Arms = Annotated[
    str,
    typer.Option(
        "--arms",
        metavar="A,B",
        autocompletion=listed(arm_names),
        help=f"The arms to run, with commas between them. {arms_help()}.",
    ),
]

_LABELLED = f"Labelled data in one of these formats, recognised from the files: {formats_read()}"

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        exists=True,
        help=f"{_LABELLED}.",
    ),
]

DataOrResume = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA",
        exists=True,
        help=f"{_LABELLED}. Not needed with --resume.",
    ),
]


def _detector_spec(text: str) -> str:
    from hardmine.inference.load_detector import named_path

    path = named_path(text)
    if path is not None and not path.exists():
        raise typer.BadParameter(f"path {str(path)!r} does not exist")
    return text


Pool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        callback=pool_spec,
        help="The images to mine from: a folder, a glob in quotes, a .txt list, a video or a folder "
        "of videos, a tar or zip archive, or a URL. Images of videos, archives and URLs are written "
        "into the folder 'pool' of the run.",
    ),
]

Every = Annotated[
    str | None,
    typer.Option("--every", metavar="1s|N|key", help=EVERY_HELP),
]

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        callback=_detector_spec,
        autocompletion=detector_words,
        help="Any detector: weights (.safetensors) or the folder of their run, where "
        "'+decode.nms_iou=0.6' at the end sets the decoder anew without a training; best.pt of "
        "Ultralytics; a Hugging Face folder, or hf:NAME; rfdetr:PATH; libreyolo:PATH; "
        "model.onnx[:PRESET|YAML]; model.xml; model.tflite; "
        "torchvision:NAME[:WEIGHTS|none], with @SIDE at its end for another input size; a file "
        "of predictions (.json).",
    ),
]

OwnCheckpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        callback=_detector_spec,
        help="Weights (.safetensors) or the folder of their run; '+decode.nms_iou=0.6' at the end sets "
        "the decoder anew.",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Class names for a detector that does not know its own: a text file, a data.yaml or "
        "a COCO file.",
        rich_help_panel="Data",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="The folder with the images of a COCO file, if they are not beside it.",
        rich_help_panel="Data",
    ),
]
_VAL_HELP = (
    "Labelled data to measure on, or the share of DATA to hold out for this, such as 0.3. "
    "Near-duplicates stay on one side. If not given: the part 'val' of DATA, or 0.3 of DATA where "
    "it has none."
)
Val = Annotated[str | None, typer.Option("--val", metavar="DATA|FRACTION", help=_VAL_HELP)]
LoopVal = Annotated[
    str | None,
    typer.Option("--val", metavar="DATA|FRACTION", help=_VAL_HELP, rich_help_panel="Data"),
]
Negatives = Annotated[
    str | None,
    typer.Option(
        "--negatives",
        metavar="DIR",
        callback=pool_spec,
        help="Images without objects that are held out: false alarms are counted on them, and "
        "nothing trains on them. A folder, or anything else that --pool of 'loop' takes. Of videos, "
        "one frame a second is taken, and alarms are also counted per hour.",
    ),
]
NameOrCheckpoint = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|CHECKPOINT",
        autocompletion=starting_with(recipe_names),
        help="The name of a recipe, or weights (or the folder of a run) whose recipe is meant. If "
        "not given: the default recipe.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=setting_words,
        help="Change one value of the recipe, such as loss.selection.floor=32 (the value is "
        "YAML). May be given several times. 'hardmine recipe' prints all keys.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Seed of everything that is random: the same seed gives the same result.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        callback=_device,
        help="Where to compute: cpu, cuda, cuda:1 or mps. If not given: a GPU if there is one.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the unfinished run in the folder --out, with its own data and options.",
        rich_help_panel="Output",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        file_okay=False,
        help="The folder for everything that is written.",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="S",
        min=0,
        max=1,
        help="The lowest score of a detection that is shown. If not given: the threshold that "
        "'hardmine threshold --write' wrote into the model, else 0.3.",
    ),
]


def data_or_fraction(text: str | None) -> Path | float | None:
    """Read ``DATA|FRACTION`` of ``--val``: an existing path, or a number between 0 and 1 (excluded).

    Raises:
        TyperException: neither; exit code 2.
    """
    if text is None or Path(text).exists():
        return None if text is None else Path(text)
    try:
        fraction = float(text)
    except ValueError:
        raise usage_error(
            f"Invalid value for '--val': no file or folder {text!r}, and not a fraction like 0.2"
        ) from None
    if not 0.0 < fraction < 1.0:
        raise usage_error(
            f"Invalid value for '--val': {text} is not between 0 and 1 (both excluded)"
        )
    return fraction


def share(value: float | None, option: str) -> float | None:
    """Check a share of a whole: above 0, at most 1.

    Raises:
        TyperException: outside; exit code 2.
    """
    if value is not None and not 0.0 < value <= 1.0:
        raise usage_error(f"Invalid value for '{option}': {value} is not above 0 and at most 1")
    return value


def require(value: object, name: str) -> None:
    """Refuse a command line that lacks what only a resumed run can do without.

    Raises:
        TyperException: it is not given; exit code 2.
    """
    if value is None:
        raise usage_error(f"Missing {name} (a run in --out goes on without it by --resume)")


def any_recipe(name: str | None, changes: RecipeChanges) -> RecipeValue:
    """Return the recipe of a name, or of a checkpoint (or run folder), with changes laid over it.

    Args:
        changes: a part of a recipe as a file, which is laid over it before the settings are.

    Raises:
        ConfigError: unknown name, unreadable file, unknown key.
        CheckpointError: no Hardmine checkpoint.
        UsageError: "auto".
    """
    from hardmine.recipes.checkpoint import find_checkpoint, read_metadata
    from hardmine.recipes.named_recipes import RECIPE_ENDINGS
    from hardmine.recipes.recipe import load_recipe
    from hardmine.workflows.cached_models import choose_recipe
    from hardmine.workflows.train_options import AUTO, NetworkOptions

    if name == AUTO and not Path(AUTO).exists():
        raise usage_error(
            f"model {AUTO!r} is chosen by the data of a training, which this command does not do: "
            "wanted the name of a model, or the folder of a run that was trained with it"
        )
    if name is None or not Path(name).exists() or name.endswith(RECIPE_ENDINGS):
        named = NetworkOptions(model=name, recipe=changes.recipe, set=changes.set)
        return choose_recipe(named)
    base, _ = read_metadata(find_checkpoint(Path(name)))
    if changes.recipe is not None:
        base = load_recipe(changes.recipe, base)
    return choose_recipe(NetworkOptions(recipe=base, set=changes.set))


def chosen_detector(checkpoint: str, choices: DetectorOptions) -> Detector:
    """Return the detector that a command line names, looking at tiles where it says so.

    Raises:
        DataError, CheckpointError, ConfigError: as ``load_detector`` and ``tiled``.
    """
    from hardmine.inference.load_detector import load_detector
    from hardmine.inference.tiles import tiled

    detector = load_detector(checkpoint, choices.device, classes=choices.classes)
    return tiled(detector, choices.tile, choices.overlap)


def one_split(data: Path, part: SplitChoice) -> Dataset:
    """Read one split of a dataset: the one named, else "train" where there are several.

    Raises:
        DataError: unreadable data, or no such split.
    """
    from hardmine.data.load_dataset import split_to_look_at
    from hardmine.data.quality.usable_data import load_usable

    found = load_usable(data, images=part.images)
    return found[split_to_look_at(found, part.split, data)]


_FIND = "find"
_ADDRESS = re.compile(r"auto|local|find|(ray://)?[^/]+:\d+")

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Scan nothing; say how many images are left to scan and how long this would take.",
    ),
]


def fill_in_ray(arguments: Sequence[str]) -> list[str]:
    """Give a ``--ray`` that no address follows its value, so that it does not take the next word."""
    return [
        f"--ray={_FIND}" if word == "--ray" and not _ADDRESS.fullmatch(after) else word
        for word, after in pairwise([*arguments, ""])
    ]


def estimate(detector: Detector, pool: str, out: Path, options: MineOptions) -> str:
    """Return what a dry run says."""
    from hardmine.mining.scan import estimate_scan

    where = "" if options.ray is None else ", on this machine alone"
    return f"{estimate_scan(detector, pool, options, out=out)}{where}"


Explain = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="IMAGE",
        help="Hand out nothing; say why this image ranks where it does.",
        rich_help_panel="Ranking",
    ),
]
