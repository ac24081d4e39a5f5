"""``mine``, ``loop`` and ``demo``: commands that close the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.cli.option_flags import expand_options
from hardmine.loop.loop_options import LoopOptions, read_arms
from hardmine.mining.mine_options import MineOptions
from hardmine.option_fields import Given
from hardmine.workflows.train_options import DetectorOptions


@expand_options
def mine(
    checkpoint: options.Checkpoint,
    pool: Annotated[
        str,
        typer.Argument(
            metavar="POOL",
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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Rank a pool of images by how hard the detector fires on them.

    Example: hardmine mine runs/train pool --top 30 --exclude raccoon --out runs/mine
    """
    import hardmine
    from hardmine.cli.tables import show_mining
    from hardmine.mining.mine import explain as explain_one

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        detector = options.chosen_detector(checkpoint, loading)
        if dry_run:
            found = options.estimate(detector, pool, out, request)
        elif explain is not None:
            explained = explain_one(
                detector, pool, explain, options=request, out=out, progress=step
            )
        else:
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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train, mine, add negatives, retrain and measure, round after round.

    Example: hardmine loop raccoon --pool pool --negatives held_out --rounds 3 --out runs/loop
    """
    held_out = options.data_or_fraction(val)
    if not resume:
        options.require(data, "argument 'DATA'")
        options.require(pool, "option '--pool'")
    import hardmine
    from hardmine.cli.tables import show_loop

    console = Console(quiet=quiet, verbose=verbose)
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


def demo(
    *,
    out: options.Out = Path("runs/demo"),
    seed: options.Seed = 0,
    arms: options.Arms = "mined",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run the whole loop on drawn pictures: it needs no data and no network, and takes a few minutes."""
    chosen_arms = read_arms(arms)
    from hardmine.cli.tables import show_loop
    from hardmine.demo.run_demo import run_demo

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = run_demo(out, seed, arms=chosen_arms, progress=step)
    show_loop(console, result)
