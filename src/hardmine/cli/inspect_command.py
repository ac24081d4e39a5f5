"""``inspect``: the debugger for boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, usage_error


def inspect(
    data: options.Data,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="The name or path of one image of DATA. If not given: a few informative images.",
        ),
    ] = None,
    *,
    model: options.Model = None,
    recipe: options.Recipe = None,
    settings: options.Settings = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="CHECKPOINT",
            exists=True,
            help="Weights (or the folder of a run): the page also shows the negatives that the "
            "loss picks, and the detections.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE.html",
            help="The folder that gets inspect.html; a name that ends in .html is the page itself.",
        ),
    ] = Path("runs"),
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split to look at; if not given and there are several: 'train'.",
            rich_help_panel="Data",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws", metavar="N", min=1, help="How many draws of the augmentation to show."
        ),
    ] = 3,
    images: options.Images = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Follow images and boxes through every step, from the label file to the loss, on one page."""
    if checkpoint is not None and (model is not None or recipe is not None):
        raise usage_error(
            "'--checkpoint' has a model of its own: leave out '--model' and '--recipe'"
        )
    from hardmine.inspection.checkpoint_stages import load_trained
    from hardmine.inspection.inspect_image import InspectOptions, inspect_images
    from hardmine.inspection.inspected_image import read_labels

    console = Console(quiet=quiet, verbose=verbose)
    trained = None if checkpoint is None else load_trained(checkpoint)
    chosen = options.any_recipe(model, recipe, settings) if trained is None else trained.recipe
    categories = None if trained is None else trained.model.categories
    labels = read_labels(data, split, images=images, categories=categories)
    with console.progress() as step:
        done = inspect_images(
            labels,
            chosen,
            out,
            trained=trained,
            options=InspectOptions(image, draws, seed),
            progress=lambda now, total: step("images", now, total),
        )
    for warning in done.warnings:
        console.result(f"warning: {warning}")
    console.result(f"page: {done.page}")
