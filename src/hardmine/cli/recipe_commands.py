"""``models`` and ``recipe``: what can be trained, how large it is, and all choices of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, ConsoleOptions, OutputOptions, usage_error
from hardmine.cli.option_flags import expand_options, recipe_names, starting_with
from hardmine.workflows.train_options import RecipeChanges

if TYPE_CHECKING:
    from hardmine.recipes.model_catalogue import LevelCard, ModelCard
    from hardmine.recipes.recipe import Recipe


@expand_options
def recipe(
    name: options.NameOrCheckpoint = None,
    *,
    changes: RecipeChanges,
    pipeline: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="pipeline.config",
            exists=True,
            dir_okay=False,
            help="Translate a configuration of the TensorFlow Object Detection API. What is not "
            "carried over is named in comments.",
        ),
    ] = None,
    talk: ConsoleOptions,
) -> None:
    """Print a whole recipe as YAML, which '--recipe' reads back.

    Example: hardmine recipe ssd300_vgg16 --set epochs=20

    Example: hardmine recipe runs/first --recipe priors.yaml > fitted.yaml

    Example: hardmine recipe --from pipeline.config > recipe.yaml
    """
    from hardmine.workflows.cached_models import recipe_text

    talk.console()  # sets how much is logged
    if pipeline is None:
        typer.echo(recipe_text(options.any_recipe(name, changes)), nl=False)
        return
    if name is not None:
        raise usage_error("'--from' takes the place of a name: give one of them")
    from hardmine.recipes.recipe import apply_settings, load_recipe
    from hardmine.recipes.tf_pipeline import describe_translation, read_tf_pipeline

    found = read_tf_pipeline(pipeline)
    for line in describe_translation(found):
        typer.echo(f"# {line}")
    file, base = changes.recipe, found.recipe
    chosen = base if file is None else load_recipe(file, base)
    typer.echo(recipe_text(apply_settings(chosen, changes.set)), nl=False)


_COLUMNS = (
    "model",
    "input",
    "parameters",
    "GMAC",
    "priors",
    "levels",
    "weights it starts from",
    "licence",
)
_LEVEL_COLUMNS = ("level from", "channels", "map", "stride", "per cell", "priors", "sizes, px")


@expand_options
def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|CHECKPOINT",
            autocompletion=starting_with(recipe_names),
            help="Show one model in detail. If not given: list all models.",
        ),
    ] = None,
    *,
    changes: RecipeChanges,
    classes: Annotated[
        int,
        typer.Option("--classes", metavar="N", min=1, help="Compute the sizes for N classes."),
    ] = 90,
    nodes: Annotated[
        bool,
        typer.Option("--nodes", help="List the layers of the backbone that may be taps."),
    ] = False,
    output: OutputOptions,
) -> None:
    """List the models, or show one model: its levels, strides, priors per cell, taps and licence.

    Example: hardmine models ssdlite320_mobilenet_v2
    """
    console = output.console()
    single = name is not None or changes != RecipeChanges()
    if nodes:
        if not single:
            raise usage_error("'--nodes' needs a model: a name, '--recipe' or '--set'")
        _show_nodes(console, options.any_recipe(name, changes), as_json=output.as_json)
    elif single:
        from hardmine.recipes.model_catalogue import describe

        card = describe(options.any_recipe(name, changes), classes)
        if output.as_json:
            console.json(card.to_dict())
        else:
            _show_one(console, card)
    else:
        _show_all(console, classes, as_json=output.as_json)


def _show_all(console: Console, classes: int, *, as_json: bool) -> None:
    from hardmine.recipes.model_catalogue import describe
    from hardmine.recipes.named_recipes import RECIPES

    cards = []
    with console.progress() as step:
        for index, make in enumerate(RECIPES.values()):
            cards.append(describe(make(), classes))
            step("models", index + 1, len(RECIPES))
    if as_json:
        console.json([card.to_dict() for card in cards])
        return
    console.table(_COLUMNS, [_row(card) for card in cards])
    console.result(
        f"Sizes for {classes} classes. Any other torchvision or timm network: model.backbone in a "
        "recipe, with taps from 'hardmine models --nodes --set model.backbone.name=NAME'."
    )


def _row(card: ModelCard) -> tuple[str, ...]:
    return (
        card.name,
        f"{card.height}x{card.width}",
        f"{card.parameters / 1e6:.1f} M",
        "–" if card.gmacs is None else f"{card.gmacs:.2f}",
        "–" if card.num_priors is None else f"{card.num_priors:,}",
        "–" if not card.levels else str(len(card.levels)),
        card.weights,
        card.licence,
    )


def _show_one(console: Console, card: ModelCard) -> None:
    console.table(_COLUMNS, [_row(card)])
    if not card.levels:
        console.result(
            "one of torchvision's own detectors: its levels and anchors are torchvision's"
        )
        return
    console.result(
        f"backbone {card.backbone}, frozen up to {card.frozen_to or 'nothing'} "
        f"({card.trained / 1e6:.1f} M trained) · neck {card.neck} · head {card.head} · "
        f"priors {card.priors}"
    )
    console.table(_LEVEL_COLUMNS, [_level_row(level) for level in card.levels])


def _level_row(level: LevelCard) -> tuple[str, ...]:
    return (
        level.source,
        str(level.channels),
        f"{level.rows}x{level.columns}",
        f"{level.stride:.4g}",
        str(level.priors_per_cell),
        f"{level.num_priors:,}",
        ", ".join(f"{width:.0f}x{height:.0f}" for width, height in level.shapes),
    )


def _show_nodes(console: Console, recipe: Recipe, *, as_json: bool) -> None:
    from dataclasses import asdict

    from hardmine.models.backbones import TapsConfig, TimmConfig, list_nodes
    from hardmine.models.ssd import SSDConfig

    model = recipe.model
    if not isinstance(model, SSDConfig) or not isinstance(model.backbone, TapsConfig | TimmConfig):
        raise usage_error(
            f"'--nodes': the backbone of {model.name} has fixed taps, not chosen nodes"
        )
    cards = list_nodes(model.backbone, model.height, model.width)
    if as_json:
        console.json([asdict(card) for card in cards])
        return
    rows = [
        (c.name, str(c.channels), f"{c.rows}x{c.columns}", f"{model.height / c.rows:.4g}")
        for c in cards
    ]
    console.table(("node", "channels", "map", "stride"), rows)
