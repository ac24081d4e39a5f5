"""``train``, ``val`` and ``predict``: commands around one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.cli.failures import usage_error


def train(
    data: options.Data,
    *,
    val: options.Val = None,
    negatives: options.Negatives = None,
    train_negatives: Annotated[
        Path | None,
        typer.Option(
            "--train-negatives",
            metavar="DIR",
            exists=True,
            help="Images without objects to train on, as the user vouches for.",
        ),
    ] = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    weights: options.Weights = None,
    recipe: options.Recipe = None,
    settings: options.Settings = None,
    out: options.Out = Path("runs/train"),
    resume: options.Resume = False,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    seed: options.Seed = 0,
    draws: options.Draws = 1000,
    validations: Annotated[
        int,
        typer.Option(
            "--validate",
            metavar="N",
            min=0,
            help="Measure AP50 on the validation images N times while training and keep the best "
            "weights as best.safetensors; the last ones are what is reported.",
        ),
    ] = 4,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a detector and measure it on --val, or on a fifth of the data held back."""
    held_out = options.data_or_fraction(val)
    import hardmine
    from hardmine.cli.tables import show_measurement

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = hardmine.train(
            data,
            val=held_out,
            negatives=negatives,
            train_negatives=train_negatives,
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
            validations=validations,
            device=device,
            progress=step,
        )
    show_measurement(console, result.measurement)
    console.result(str(result))


def val(
    checkpoint: options.Checkpoint,
    data: options.Data,
    *,
    negatives: options.Negatives = None,
    out: options.Out = Path("runs/val"),
    max_alarms: Annotated[
        float | None,
        typer.Option(
            "--max-alarms",
            metavar="X",
            min=0.0,
            help="Gate: alarms per negative image at recall .8 must not exceed X, else exit 3.",
        ),
    ] = None,
    min_ap50: Annotated[
        float | None,
        typer.Option(
            "--min-ap50",
            metavar="Y",
            min=0.0,
            max=1.0,
            help="Gate: AP50 must reach Y, else exit 3.",
        ),
    ] = None,
    images: options.Images = None,
    empty_is_verified: options.EmptyIsVerified = False,
    classes: options.Classes = None,
    draws: options.Draws = 1000,
    seed: options.Seed = 0,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure a checkpoint: AP, recall, and alarms on images without objects."""
    if max_alarms is not None and negatives is None:
        raise usage_error("'--max-alarms' needs '--negatives': alarms are counted on those images")
    import hardmine
    from hardmine.cli.tables import show_measurement
    from hardmine.workflows.train_and_evaluate import check_gates

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        measurement = hardmine.evaluate(
            checkpoint,
            data,
            negatives=negatives,
            out=out,
            images=images,
            empty_is_verified=empty_is_verified,
            classes=classes,
            draws=draws,
            seed=seed,
            device=device,
            progress=step,
        )
    show_measurement(console, measurement, as_json=as_json)
    if not as_json:
        console.result(f"report: {out / 'report.html'}")
    check_gates(measurement, max_alarms=max_alarms, min_ap50=min_ap50)


def predict(
    checkpoint: options.Checkpoint,
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE|DIR…", exists=True, help="Images, or folders of them."),
    ],
    *,
    save: Annotated[
        bool, typer.Option("--save", help="Write the pictures with their boxes into --out.")
    ] = False,
    as_json: options.Json = False,
    min_score: options.MinScore = 0.3,
    classes: options.Classes = None,
    tile: options.Tile = None,
    overlap: options.Overlap = None,
    out: options.Out = Path("runs/predict"),
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run a detector over images and print what it finds."""
    from hardmine.cli.predicting import predict_images
    from hardmine.inference.load_detector import open_detector
    from hardmine.inference.tiles import tiled

    console = Console(quiet=quiet, verbose=verbose)
    detector = tiled(open_detector(checkpoint, device, classes=classes), tile, overlap)
    predict_images(
        console,
        detector,
        sources,
        save=out if save else None,
        as_json=as_json,
        min_score=min_score,
    )
