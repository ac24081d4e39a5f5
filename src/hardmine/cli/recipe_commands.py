"""``recipe``: a recipe as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardmine.cli import options
from hardmine.cli.failures import usage_error


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|CHECKPOINT",
            help="A named recipe, or weights (or a run folder) whose recipe is wanted; the default "
            "recipe if not given.",
        ),
    ] = None,
    *,
    file: options.Recipe = None,
    settings: options.Settings = None,
) -> None:
    """Print a whole recipe as YAML, which '--recipe' reads back."""
    from hardmine.loop.learning import choose_recipe, recipe_text
    from hardmine.training.checkpoint import find_checkpoint, read_metadata

    if name is not None and Path(name).exists():
        if file is not None:
            raise usage_error("'--recipe' and a checkpoint exclude each other: give one of them")
        base, _ = read_metadata(find_checkpoint(Path(name)))
        chosen = choose_recipe(None, base, None, settings or ())
    else:
        chosen = choose_recipe(name, file, None, settings or ())
    typer.echo(recipe_text(chosen), nl=False)
