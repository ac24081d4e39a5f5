"""``recipe``: a recipe as YAML."""

from __future__ import annotations

from typing import Annotated

import typer

from hardmine.cli import options


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
    from hardmine.workflows.cached_training import recipe_text

    typer.echo(recipe_text(options.any_recipe(name, file, settings)), nl=False)
