"""``check``, ``inspect``, ``convert`` and ``split``: commands that look at labelled data or write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, ConsoleOptions, OutputOptions, figure, usage_error
from hardmine.cli.option_flags import expand_options, pool_spec, pool_specs
from hardmine.data.data_options import InspectOptions, Pictures, SplitOptions
from hardmine.data.formats.format_table import WRITTEN, LabelFormat, written_format
from hardmine.errors import ConfigError, DataError, GateError
from hardmine.option_fields import option
from hardmine.plurals import counted
from hardmine.workflows.train_options import CheckOptions, DataOptions, RecipeOptions

if TYPE_CHECKING:
    from hardmine.data.quality.check_dataset import SizeMixture
    from hardmine.evaluation.source_shortcut import ShortcutReport
    from hardmine.types import Dataset
    from hardmine.workflows.check_data import CheckResult


_MoreData = Annotated[
    Path | None,
    typer.Option(
        "--val",
        metavar="DATA",
        exists=True,
        help="More labelled data, to check as one more split.",
    ),
]
_Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="DATA|DIR",
        callback=pool_specs,
        help="Images that must not repeat images of DATA, such as a pool: anything that --pool of "
        "'loop' takes, or labelled data. May be given several times.",
    ),
]
_ShortcutNegatives = Annotated[
    str | None,
    typer.Option(
        "--negatives",
        metavar="DIR",
        callback=pool_spec,
        help="Images without objects, to test whether they differ from the images of DATA in "
        "more than the objects. A folder, or anything else that --pool of 'loop' takes.",
    ),
]


@expand_options
def check(
    data: options.Data,
    *,
    val: _MoreData = None,
    against: _Against = None,
    negatives: _ShortcutNegatives = None,
    choices: CheckOptions,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with code 3 when there is any error or warning."),
    ] = False,
    output: OutputOptions,
) -> None:
    """Show what is in a dataset and what is wrong with it; exit with code 1 when there are errors.

    Example: hardmine check raccoon --negatives held_out --html check.html
    """
    import hardmine

    # The report names every problem; the log would name them once more.
    console = output.console(log=output.talk.verbose)
    with console.progress() as step:
        result = hardmine.check(
            data,
            val=val,
            against=against or (),
            negatives=negatives,
            progress=step,
            options=choices,
        )
    if output.as_json:
        console.json(result.to_dict())
    else:
        show_check(console, result)
    if choices.html is not None:
        console.note(f"page: {choices.html}")
    _judge(result, str(data), strict)


def show_check(console: Console, result: CheckResult) -> None:
    """Print what was found, the image sizes with what resize rules do to them, and the shortcut."""
    console.result("\n".join(result.report.rows()))
    for split, mixture in result.report.mixtures.items():
        _show_sizes(console, split, mixture)
    if result.shortcut is not None:
        _show_shortcut(console, result.shortcut)
    for note in result.notes:
        console.result(note)
    if result.repair is not None:
        done = result.repair.conversion
        images = sum(done.images.values())
        console.result(
            f"repaired copy: {done.out}: {counted(images, 'image')}, "
            f"{counted(done.boxes, 'box', 'boxes')} ({done.ignored_boxes} ignored); "
            f"{counted(len(result.repair.changes), 'change')}, listed in {done.out / 'changes.csv'}"
        )


def _show_sizes(console: Console, split: str, mixture: SizeMixture) -> None:
    common = ", ".join(f"{w} x {h} ({number})" for w, h, number in mixture.common)
    console.result(
        f"\n{split}: {counted(mixture.distinct, 'image size')}, most often {common}; "
        f"{mixture.landscape:.0%} landscape, {mixture.portrait:.0%} portrait"
    )
    console.table(
        (
            f"resize to {mixture.width} x {mixture.height}",
            "aspect changed (median)",
            "95 %",
            "images by 1.5 or more",
            "canvas unused",
            "input sizes",
            "box side px (5 %)",
            "median",
        ),
        [
            (
                rule.rule,
                f"x {rule.aspect_median:.2f}",
                f"x {rule.aspect_p95:.2f}",
                f"{rule.distorted:.0%}",
                f"{rule.unused:.0%}",
                str(rule.input_sizes),
                figure(rule.box_p5, 0),
                figure(rule.box_median, 0),
            )
            for rule in mixture.rules
        ],
    )


def _show_shortcut(console: Console, shortcut: ShortcutReport) -> None:
    console.result(
        f"positives ({shortcut.positives} images) against negatives ({shortcut.negatives}): do they "
        "differ in more than the objects?"
    )
    rows = [
        (f.family, figure(f.auc, 2), f"{f.low:.2f}–{f.high:.2f}", f"{f.accuracy:.0%}")
        for f in shortcut.families
    ]
    console.table(("features", "AUC", "95 %", "right"), rows)
    answer = "yes: see the warning above" if shortcut.told_apart else "no"
    console.result(f"they differ: {answer} (an AUC of 0.5 is chance)")


def _judge(result: CheckResult, data: str, strict: bool) -> None:
    from hardmine.finding_kinds import Severity

    errors = result.report.count(Severity.ERROR)
    warnings = result.report.count(Severity.WARNING)
    if strict and errors + warnings:
        both = f"{counted(errors, 'error')} and {counted(warnings, 'warning')}"
        raise GateError(f"{data}: {both}, wanted none")
    if errors:
        raise DataError(f"{data}: {counted(errors, 'error')} (see the report above)")


_Image = Annotated[
    str | None,
    typer.Argument(
        metavar="IMAGE",
        help="The name or path of one image of DATA. If not given: a few informative images.",
    ),
]
_Trained = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="CHECKPOINT",
        exists=True,
        help="Weights (or the folder of a run): the page also shows the negatives that the "
        "loss picks, and the detections.",
    ),
]
_PageOut = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR|FILE.html",
        help="The folder that gets inspect.html; a name that ends in .html is the page itself.",
    ),
]


@expand_options
def inspect(
    data: options.Data,
    image: _Image = None,
    *,
    which: RecipeOptions,
    checkpoint: _Trained = None,
    out: _PageOut = Path("runs"),
    choices: InspectOptions,
    talk: ConsoleOptions,
) -> None:
    """Follow images and boxes through every step, from the label file to the loss, on one page.

    Example: hardmine inspect raccoon raccoon-1.jpg --checkpoint runs/train --out runs/look
    """
    if checkpoint is not None and (which.model is not None or which.changes.recipe is not None):
        raise usage_error(
            "'--checkpoint' has a model of its own: leave out '--model' and '--recipe'"
        )
    from hardmine.inspection.image_with_labels import read_labels
    from hardmine.inspection.inspect_image import inspect_images
    from hardmine.inspection.inspect_stages import load_trained

    console = talk.console()
    trained = None if checkpoint is None else load_trained(checkpoint)
    chosen = options.any_recipe(which.model, which.changes) if trained is None else trained.recipe
    categories = None if trained is None else trained.model.categories
    part = choices.part
    labels = read_labels(data, part.split, images=part.images, categories=categories)
    with console.progress() as step:
        done = inspect_images(
            labels,
            chosen,
            out,
            trained=trained,
            options=replace(choices, image=image),
            progress=lambda now, total: step("images", now, total),
        )
    for warning in done.warnings:
        console.result(f"warning: {warning}")
    console.result(f"page: {done.page}")


_FORMATS = "; ".join(f"{row.name} ({row.words}: {row.written})" for row in WRITTEN)


def _format(name: str) -> LabelFormat:
    try:
        return written_format(name)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def _format_names() -> list[str]:
    return [row.name for row in WRITTEN]


_To = Annotated[
    LabelFormat,
    typer.Option(
        "--to",
        metavar="FORMAT",
        parser=_format,
        autocompletion=_format_names,
        help=f"The format to write: {_FORMATS}.".replace("`", ""),
    ),
]


@expand_options
def convert(
    data: options.Data,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must be new or empty.")
    ],
    *,
    to: _To,
    link: Annotated[
        bool, typer.Option("--link", help="Make hard links to the images instead of copies.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            metavar="PIXELS",
            help="Cut the images into overlapping square tiles of this side, for small objects in large "
            "images; then detect with the same --tile.",
        ),
    ] = None,
    reading: DataOptions,
    talk: ConsoleOptions,
) -> None:
    """Write a dataset in another format, with its images and their states.

    DATA may also be the candidates.json of 'mine': its detections become predictions.

    Example: hardmine convert raccoon raccoon_yolo --to yolo
    """
    from hardmine.data.convert import convert as convert_splits
    from hardmine.data.quality.usable_data import load_usable
    from hardmine.mining.candidates_file import hand_over

    console = talk.console()
    if to.for_labelling and tile is None:
        done = hand_over(data, out, to.name, link=link, **reading.keywords())
        console.result(
            f"{done.out}: {counted(done.num_images, 'image')}, "
            f"{counted(done.annotated_boxes, 'box', 'boxes')} as annotations, "
            f"{done.predicted_boxes} as predictions"
        )
    else:
        splits = load_usable(data, **reading.keywords())
        done = convert_splits(splits, out, to.name, link=link, tile=tile)
        images_of = ", ".join(f"{number} {name}" for name, number in done.images.items())
        boxes = counted(done.boxes, "box", "boxes")
        console.result(f"{done.out}: images {images_of}; {boxes} ({done.ignored_boxes} ignored)")
    if done.renamed:
        images = counted(done.renamed, "image")
        console.note(f"{images} got a new name, because the name was taken")
    for remark in done.remarks:
        console.note(f"note: {remark}")


@dataclass(frozen=True, slots=True)
class WholeDataset:
    """Whether ``split`` writes the images too."""

    copy: bool = option(
        False,
        "Write a whole dataset with copies of the images.",
        flags=("--copy",),
        panel="Output",
    )
    link: bool = option(
        False,
        "Write a whole dataset with hard links to the images.",
        flags=("--link",),
        panel="Output",
    )

    def __post_init__(self) -> None:
        if self.copy and self.link:
            raise ConfigError("copy and link exclude each other: give one of them")

    @property
    def pictures(self) -> Pictures:
        """What the library calls it."""
        return "link" if self.link else "copy" if self.copy else "none"


@expand_options
def split(
    data: options.Data,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write; it must be new or empty.")
    ],
    *,
    fractions: Annotated[
        str,
        typer.Option(
            "--fractions", metavar="NAME=SHARE,…", help="The parts and their shares; the sum is 1."
        ),
    ] = "train=0.8,val=0.2",
    choices: SplitOptions,
    whole: WholeDataset,
    reading: DataOptions,
    talk: ConsoleOptions,
) -> None:
    """Split labelled data into parts with even classes; near-duplicates stay in one part.

    Example: hardmine split raccoon raccoon_parts --fractions train=0.7,val=0.3 --copy
    """
    import hardmine
    from hardmine.data.splits.split import parse_fractions

    console = talk.console()
    result = hardmine.split(
        data,
        out,
        parse_fractions(fractions),
        options=replace(choices, pictures=whole.pictures),
        **reading.keywords(),
    )
    _show_parts(console, result.splits)
    console.result(f"{out}: {counted(result.num_groups, 'group')} by {result.how}")
    if result.left_out:
        console.result(
            f"{counted(len(result.left_out), 'image')} between neighbours left out, listed in "
            "left_out.txt"
        )
    if result.straddling:
        console.note(f"{counted(result.straddling, 'pair')} of near-duplicates in different parts")
    if whole.pictures == "none":
        console.note(f"the files name images below {data}: use them with --images")


def _show_parts(console: Console, splits: Mapping[str, Dataset]) -> None:
    names = next(iter(splits.values())).categories
    rows = [
        (
            name,
            str(len(dataset)),
            str(sum(len(record.labels) == 0 for record in dataset.records)),
            *(
                str(sum(int((record.labels == label).sum()) for record in dataset.records))
                for label in range(1, len(names) + 1)
            ),
        )
        for name, dataset in splits.items()
    ]
    console.table(("part", "images", "without box", *names), rows)
