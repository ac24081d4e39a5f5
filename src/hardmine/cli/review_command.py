"""``review``: a person looks at what was mined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.cli.option_flags import expand_options
from hardmine.review.review_options import ReviewOptions


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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Serve a page on which a person says of each candidate whether it is really empty.

    Example: hardmine review runs/mined
    """
    from hardmine.review.run_review import export_to_label, serve_review

    console = Console(quiet=quiet, verbose=verbose)
    if choices.export is None or choices.out is None:
        serve_review(target, choices, console.result, console.note)
        return
    given = export_to_label(target, choices.out, choices.export)
    console.result(f"{given.out}: {given.images} images to label, {given.predictions} predictions")
