"""``apply``: what people decided goes into their own data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console


class How(StrEnum):
    """How the pictures get into the data set."""

    COPY = "copy"
    LINK = "link"
    REFERENCE = "reference"


def apply(
    store: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|STORE|FILE",
            exists=True,
            help="Where the decisions are: the folder of 'mine' or of 'loop', a pool.sqlite, or a "
            "candidates.csv with verdicts; or a labelling program's file in that folder.",
        ),
    ],
    data: options.Data,
    *,
    how: Annotated[
        How,
        typer.Option(
            "--how",
            help="Copy the images, make hard links, or make symbolic links to where they are "
            "(reference; for YOLO and VOC). Images in archives and behind URLs are copied.",
        ),
    ] = How.COPY,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would be added.")
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Take the last apply to DATA back: remove what it made, restore what it changed.",
        ),
    ] = False,
    images: options.Images = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Add confirmed negatives and new labels to the training part of your data, in its own format.

    Example: hardmine apply runs/mined raccoon/data.yaml --dry-run
    """
    from hardmine.review.apply_decisions import apply_decisions, undo_apply

    console = Console(quiet=quiet, verbose=verbose)
    if undo:
        console.result(f"{data}: {undo_apply(data)} files removed or restored")
        return
    result = apply_decisions(store, data, how=how.value, images=images, dry_run=dry_run)
    console.result(str(result))
    for each in result.skipped:
        console.note(f"{each.image}: {each.reason}")
