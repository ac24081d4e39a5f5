"""``mine``, ``loop`` and ``demo``: commands that close the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hardmine.cli import options
from hardmine.cli import options as external
from hardmine.cli.console import Console
from hardmine.cli.option_flags import expand_options
from hardmine.mining.mine_options import MineOptions, RankOptions


@expand_options
def mine(
    checkpoint: options.Checkpoint,
    pool: Annotated[
        str,
        typer.Argument(
            metavar="POOL",
            help="Images to mine from: a folder, a glob in quotes, a .txt list, a tar or zip archive, "
            "or a URL that fsspec or Arrow reads.",
        ),
    ],
    *,
    request: MineOptions,
    explain: options.Explain = None,
    classes: options.Classes = None,
    tile: options.Tile = None,
    overlap: options.Overlap = None,
    out: options.Out = Path("runs/mine"),
    device: options.Device = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Rank a pool of images by how hard the detector fires on them."""
    import hardmine
    from hardmine.cli.tables import show_mining
    from hardmine.inference.load_detector import load_detector
    from hardmine.inference.tiles import tiled
    from hardmine.mining.mine import explain as explain_one

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        detector = tiled(load_detector(checkpoint, device, classes=classes), tile, overlap)
        if dry_run:
            found = options.estimate(detector, pool, out, request)
        elif explain is not None:
            told = explain_one(detector, pool, explain, options=request, out=out, progress=step)
        else:
            result = hardmine.mine(detector, pool, options=request, out=out, progress=step)
    if dry_run:
        console.result(found)
        return
    if explain is not None:
        console.result("\n".join(told.lines()))
        return
    show_mining(console, result, detector.categories, out)


@expand_options
def loop(
    data: options.Data,
    *,
    pool: Annotated[
        Path,
        typer.Option(
            "--pool", metavar="DIR", exists=True, file_okay=False, help="Images to mine from."
        ),
    ],
    negatives: options.Negatives = None,
    val: options.Val = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="Mining rounds after round 0.")
    ] = 3,
    add: Annotated[
        float,
        typer.Option(
            "--add", metavar="F", help="Negatives a round, as a share of the labelled images."
        ),
    ] = 0.15,
    accept: Annotated[
        str,
        typer.Option(
            "--accept",
            metavar="auto|CSV",
            help="'auto' takes your word that the pool is empty; a file of image,verdict is waited "
            "for after mining (then --resume).",
        ),
    ] = "auto",
    retrain: Annotated[
        Literal["branch", "fresh", "continue"],
        typer.Option(
            "--retrain", help="Each round from round 0's weights, anew, or from the last."
        ),
    ] = "branch",
    arms: options.Arms = "mined",
    stop: Annotated[
        Literal["guarded", "recipe", "never"],
        typer.Option("--stop", help="The rule that may end the loop early; the report shows both."),
    ] = "guarded",
    rank: RankOptions,
    quarantine: Annotated[
        float | None,
        typer.Option(
            "--quarantine",
            metavar="S",
            min=0.0,
            max=1.0,
            help="Set candidates aside that score S or more (hidden objects?); off if not given.",
        ),
    ] = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    weights: options.Weights = None,
    recipe: options.Recipe = None,
    settings: options.Settings = None,
    out: options.Out = Path("runs/loop"),
    resume: options.Resume = False,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    seed: options.Seed = 0,
    draws: options.Draws = 1000,
    train_command: external.TrainCommand = None,
    predict_command: external.PredictCommand = None,
    detector: external.DetectorOf = None,
    weights_name: external.WeightsName = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train, mine, add negatives, retrain and measure, round after round."""
    held_out = options.data_or_fraction(val)
    options.share(add, "--add")
    chosen_arms = options.arms(arms)
    import hardmine
    from hardmine.cli.tables import show_loop

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = hardmine.run_loop(
            data,
            pool=pool,
            negatives=negatives,
            val=held_out,
            rounds=rounds,
            add=add,
            accept=accept,
            retrain=retrain,
            arms=chosen_arms,
            stop=stop,
            rank=rank,
            quarantine=quarantine,
            model=model,
            epochs=epochs,
            weights=weights,
            recipe=recipe,
            settings=settings or (),
            out=out,
            resume=resume,
            images=images,
            empty_is_verified=empty_is_verified,
            seed=seed,
            draws=draws,
            device=device,
            train_command=train_command,
            predict_command=predict_command,
            detector=detector,
            weights_name=weights_name,
            progress=step,
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
    """Run the whole loop on a drawn world: no data, no network, a few minutes."""
    chosen_arms = options.arms(arms)
    from hardmine.cli.tables import show_loop
    from hardmine.demo.run_demo import run_demo

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = run_demo(out, seed, arms=chosen_arms, progress=step)
    show_loop(console, result)
