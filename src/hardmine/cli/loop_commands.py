"""``mine``, ``review``, ``apply``, ``loop`` and ``demo``: commands that close the loop."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, ConsoleOptions
from hardmine.cli.option_flags import expand_options, pool_spec
from hardmine.errors import on_one_line
from hardmine.loop.loop_options import LoopOptions, read_arms
from hardmine.mining.mine_options import MineOptions
from hardmine.option_fields import Given
from hardmine.plurals import counted
from hardmine.review.review_options import ReviewOptions
from hardmine.workflows.train_options import DetectorOptions

if TYPE_CHECKING:
    from hardmine.review.apply_decisions import ApplyResult

MAX_NAMED = 20
"""So many images that were not added are named, unless all are asked for."""


@expand_options
def mine(
    checkpoint: options.Checkpoint,
    pool: Annotated[
        str,
        typer.Argument(
            metavar="POOL",
            callback=pool_spec,
            help="The images to mine from: a folder, a glob in quotes, a .txt list, a video "
            "or a folder of videos, a tar or zip archive, or a URL that fsspec or Arrow reads.",
        ),
    ],
    *,
    request: MineOptions,
    explain: options.Explain = None,
    out: options.Out = Path("runs/mine"),
    loading: DetectorOptions,
    dry_run: options.DryRun = False,
    talk: ConsoleOptions,
) -> None:
    """Rank a pool of images by how hard the detector fires on them.

    Example: hardmine mine runs/train pool --top 30 --exclude raccoon --out runs/mine
    """
    import hardmine
    from hardmine.cli.console import show_mining
    from hardmine.mining.mine import explain as explain_one
    from hardmine.review.run_review import take_in_verdicts

    console = talk.console()
    with console.progress() as step:
        detector = options.chosen_detector(checkpoint, loading)
        if dry_run:
            found = options.estimate(detector, pool, out, request)
        elif explain is not None:
            explained = explain_one(
                detector, pool, explain, options=request, out=out, progress=step
            )
        else:
            take_in_verdicts(out)
            result = hardmine.mine(detector, pool, options=request, out=out, progress=step)
    if dry_run:
        console.result(found)
        return
    if explain is not None:
        console.result("\n".join(explained.lines()))
        return
    show_mining(console, result, detector.categories, out)


@expand_options
def loop(
    data: options.DataOrResume = None,
    *,
    pool: options.Pool = None,
    negatives: options.Negatives = None,
    val: options.LoopVal = None,
    choices: Given[LoopOptions],
    out: options.Out = Path("runs/loop"),
    resume: options.Resume = False,
    talk: ConsoleOptions,
) -> None:
    """Train, mine, add negatives, retrain and measure, round after round.

    Example: hardmine loop raccoon --pool pool --negatives held_out --rounds 3 --out runs/loop
    """
    held_out = options.data_or_fraction(val)
    if not resume:
        options.require(data, "argument 'DATA'")
        if not choices.get("pool_from_labelled"):
            options.require(pool, "option '--pool'")
    import hardmine
    from hardmine.cli.console import show_loop

    console = talk.console()
    with console.progress() as step:
        result = hardmine.run_loop(
            data,
            pool=pool,
            negatives=negatives,
            val=held_out,
            out=out,
            resume=resume,
            progress=step,
            **choices,
        )
    show_loop(console, result)


@expand_options
def demo(
    *,
    out: options.Out = Path("runs/demo"),
    seed: options.Seed = 0,
    arms: options.Arms = "mined",
    talk: ConsoleOptions,
) -> None:
    """Run the whole loop on drawn pictures: it needs no data and no network, and takes a few minutes.

    Example: hardmine demo --out runs/demo
    """
    chosen_arms = read_arms(arms)
    from hardmine.cli.console import show_loop
    from hardmine.demo.run_demo import run_demo

    console = talk.console()
    with console.progress() as step:
        result = run_demo(out, seed, arms=chosen_arms, progress=step)
    show_loop(console, result)


@expand_options
def review(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|STORE|FILE",
            exists=True,
            help="What to look at: the folder of 'mine' or of 'loop', a pool.sqlite, or a "
            "candidates.csv; or a labelling program's file in that folder, whose verdicts are taken in.",
        ),
    ],
    *,
    choices: ReviewOptions,
    talk: ConsoleOptions,
) -> None:
    """Serve a page on which a person says of each candidate whether it is really empty.

    Example: hardmine review runs/mined
    """
    from hardmine.review.run_review import export_to_label, serve_review

    console = talk.console()
    if choices.export is None or choices.out is None:
        serve_review(target, choices, console.result, console.note)
        return
    given = export_to_label(target, choices.out, choices.export)
    images, boxes = given.num_images, given.predicted_boxes
    console.result(
        f"{given.out}: {counted(images, 'image')} to label, {counted(boxes, 'prediction')}"
    )


class How(StrEnum):
    """How the pictures get into the data set."""

    COPY = "copy"
    LINK = "link"
    REFERENCE = "reference"


_Decisions = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|STORE|FILE",
        help="Where the decisions are: the folder of 'mine' or of 'loop', a pool.sqlite, or a "
        "candidates.csv with verdicts; or a labelling program's file in that folder. With --undo it "
        "is not read.",
    ),
]


@expand_options
def apply(
    store: _Decisions,
    data: options.Data,
    *,
    how: Annotated[
        How,
        typer.Option(
            "--how",
            help="Copy the images, make hard links, or leave them where they are (reference): YOLO and "
            "VOC get symbolic links, COCO and CSV name them by path. Images in archives, videos and "
            "behind URLs are copied.",
        ),
    ] = How.COPY,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write nothing; say what would be added, or taken back."),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Take the last apply to DATA back: remove what it made, restore what it changed.",
        ),
    ] = False,
    images: options.Images = None,
    talk: ConsoleOptions,
) -> None:
    """Add confirmed negatives and new labels to the training part of your data, in its own format.

    Example: hardmine apply runs/mined raccoon/data.yaml --dry-run
    """
    from hardmine.review.apply_decisions import apply_decisions
    from hardmine.review.apply_journal import undo_apply

    console = talk.console()
    if undo:
        count = undo_apply(data, dry_run=dry_run)
        console.result(
            f"{data}: {counted(count, 'file')} {'would be ' * dry_run}removed or restored"
        )
        return
    if not store.exists():
        raise typer.BadParameter(
            f"path {str(store)!r} does not exist", param_hint="'RUN|STORE|FILE'"
        )
    result = apply_decisions(store, data, how=how.value, images=images, dry_run=dry_run)
    console.result(str(result))
    _name_not_added(console, result, all_of_them=talk.verbose)


def _name_not_added(console: Console, result: ApplyResult, *, all_of_them: bool) -> None:
    from hardmine.review.apply_decisions import ADDED_BEFORE

    new = [each for each in result.skipped if each.reason != ADDED_BEFORE]
    shown = result.not_added if all_of_them else new[:MAX_NAMED]
    for each in shown:
        console.note(on_one_line(f"{each.image}: {each.reason}"))
    if len(shown) < len(result.not_added):
        console.note(f"--verbose names all {len(result.not_added)} that were not added")
