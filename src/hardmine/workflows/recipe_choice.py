"""Which recipe a run trains by, and the file beside its weights that says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import ConfigError
from hardmine.files import write_text
from hardmine.workflows.train_options import NetworkOptions

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

DEFAULT_MODEL = "ssdlite320_mobilenet_v2"
RECIPE = "recipe.yaml"
"""The file of a run directory that holds the whole recipe."""


def choose_recipe(options: NetworkOptions) -> Recipe:
    """Return the recipe that the options name.

    Raises:
        ConfigError: unknown name, unreadable file, unknown key, a value of the wrong type; a ready
            recipe and a name; ``epochs`` or ``batch`` given twice.
    """
    from hardmine.recipes.named_recipes import named_recipe
    from hardmine.recipes.recipe import Recipe, apply_settings, load_recipe

    model, recipe = options.model, options.recipe
    if isinstance(recipe, Recipe):
        if model is not None:
            raise ConfigError(f"model {model!r} and a ready recipe are both given: give one")
        chosen = recipe
    elif recipe is None:
        chosen = named_recipe(model or DEFAULT_MODEL)
    else:
        chosen = load_recipe(Path(recipe), named_recipe(model or DEFAULT_MODEL))
    short = {"epochs": options.epochs, "batch.size": options.batch}
    given = [f"{key}={value:g}" for key, value in short.items() if value is not None]
    return apply_settings(chosen, [*options.set, *given])


def start_from(weights: Path | str | None, recipe: Recipe) -> tuple[Recipe, Path | None]:
    """Return the file to start the recipe's network from, and the recipe that fits it; see
    ``recipes.pretrained_weights``.
    """
    from hardmine.recipes.pretrained_weights import find_weights, match_recipe

    path = find_weights(weights, recipe.model)
    return match_recipe(recipe, path), path


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``, which ``--recipe`` reads back."""
    write_text(folder / RECIPE, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML."""
    import yaml

    from hardmine.recipes.recipe import recipe_to_dict

    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)
