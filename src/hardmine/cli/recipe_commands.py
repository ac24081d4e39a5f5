"""``models``, ``recipe`` and ``priors``: what can be trained, all choices of a training, and its priors.

The priors of a model are shown, measured on a dataset (what they cover of it), and fitted to it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, ConsoleOptions, OutputOptions, usage_error
from hardmine.cli.option_flags import (
    Command,
    Group,
    expand_options,
    reads_pictures,
    recipe_names,
    starting_with,
)
from hardmine.data.data_options import CoverageOptions, FitOptions
from hardmine.workflows.train_options import DataOptions, RecipeChanges, RecipeOptions

if TYPE_CHECKING:
    from hardmine.prior_design.coverage import Coverage
    from hardmine.prior_design.fit_priors import FittedPriors
    from hardmine.prior_design.prior_layout import PriorLayout
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


priors = typer.Typer(
    name="priors",
    cls=Group,
    help="Show, measure and fit the priors (default boxes) of a model.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@priors.command(cls=Command)
@expand_options
def show(
    model: options.NameOrCheckpoint = None,
    *,
    changes: RecipeChanges,
    output: OutputOptions,
) -> None:
    """Print the priors of a model: levels, sizes, ratios and number.

    Example: hardmine priors show ssdlite320_mobilenet_v2
    """
    from hardmine.prior_design.prior_layout import layout_of_recipe

    chosen = options.any_recipe(model, changes)
    layout = layout_of_recipe(chosen)
    console = output.console()
    if output.as_json:
        console.json({"model": chosen.model.name, **layout.to_dict()})
    else:
        show_layout(console, chosen.model.name, layout)


@priors.command(cls=Command)
@reads_pictures
@expand_options
def coverage(
    data: options.Data,
    *,
    which: RecipeOptions,
    choices: CoverageOptions,
    out: options.Out = Path("runs/priors"),
    output: OutputOptions,
) -> None:
    """Measure how well the priors cover the boxes of a dataset; write plots and pictures into --out.

    Example: hardmine priors coverage raccoon --model ssdlite320_mobilenet_v2
    """
    from hardmine.prior_design.coverage import boxes_on_canvas, measure_coverage
    from hardmine.prior_design.coverage_report import write_coverage
    from hardmine.prior_design.prior_layout import layout_of_recipe

    console = output.console()
    chosen = options.any_recipe(which.model, which.changes)
    dataset = options.one_split(data, choices.part)
    boxes = boxes_on_canvas(dataset, chosen.resize)
    layout = layout_of_recipe(chosen)
    assigner = chosen.loss.assigner
    found = measure_coverage(boxes, layout, assigner.iou_threshold, assigner.max_positives)
    with console.progress() as step:
        page = write_coverage(
            out,
            dataset,
            chosen,
            layout,
            found,
            options=choices,
            progress=lambda done, total: step("pictures", done, total),
        )
    if output.as_json:
        console.json({"model": chosen.model.name, **found.to_dict(), "page": str(page)})
    else:
        show_coverage(console, found, layout)
        console.result(f"page: {page}")


@priors.command(cls=Command)
@reads_pictures
@expand_options
def fit(
    data: options.Data,
    *,
    which: RecipeOptions,
    choices: FitOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help="The file to write: a part of a recipe, for 'hardmine train --recipe'.",
        ),
    ] = Path("priors.yaml"),
    force: Annotated[
        bool,
        typer.Option("--force", help="Write the file even if the fitted priors are not better."),
    ] = False,
    output: OutputOptions,
) -> None:
    """Fit sizes and ratios to a dataset, and compare them with the model's own on held-out boxes.

    Example: hardmine priors fit raccoon --budget 3000 --out priors.yaml
    """
    from hardmine.files import write_text
    from hardmine.prior_design.fit_priors import fit_priors, recipe_fragment

    console = output.console()
    chosen = options.any_recipe(which.model, which.changes)
    dataset = options.one_split(data, choices.part)
    with console.progress() as step:
        step("fit", 0, 1)
        found = fit_priors(dataset, chosen, choices)
        step("fit", 1, 1)
    written = found.recommended or force
    if written:
        write_text(out, recipe_fragment(found.fitted, chosen.model.name, str(data)))
    if output.as_json:
        console.json({**found.to_dict(), "recipe": str(out) if written else None})
        return
    show_fitted(console, found, f"{chosen.model.name}, fitted to {data}")
    if written:
        words = DataOptions(images=choices.part.images).words(data)
        console.result(f"recipe: {out}  ({_train_with(out, chosen.model.name, which, words)})")


def _train_with(fitted: Path, name: str, which: RecipeOptions, data: str) -> str:
    """Return what trains with fitted priors and the other choices that they were fitted with."""
    if which.changes.recipe is not None:
        part = shlex.quote(str(which.changes.recipe))
        return f"copy its keys into {part}, then: hardmine train {data} --recipe {part}"
    choices = [text for text in which.changes.set if not text.startswith("model.priors.")]
    words = ["--recipe", str(fitted), *(word for text in choices for word in ("--set", text))]
    if which.model is None or not Path(which.model).exists():
        return f"hardmine train {data} {shlex.join(['--model', name, *words])}"
    whole = shlex.join(["hardmine", "recipe", which.model, *words])
    return f"{whole} > fitted.yaml && hardmine train {data} --recipe fitted.yaml"


def show_fitted(console: Console, found: FittedPriors, title: str) -> None:
    """Print fitted priors, what they cover beside the model's own, and whether they are better."""
    show_layout(console, title, found.fitted)
    show_beside(console, found)
    gain = found.gain
    console.result(
        f"gain on held-out boxes (best IoU + half the matches): {gain.mean:+.3f}, "
        f"95 % {gain.low:+.3f} to {gain.high:+.3f}"
    )
    if not found.recommended:
        console.result("not recommended, keep the default: " + "; ".join(found.reasons_against))


def show_layout(console: Console, name: str, layout: PriorLayout) -> None:
    """Print a table of levels."""
    rows = [
        [
            str(index),
            f"{g.rows} x {g.columns}",
            f"{g.step_x:.4g} x {g.step_y:.4g}",
            str(len(g.shapes)),
            str(g.count),
            " ".join(f"{w:.4g}x{h:.4g}" for w, h in g.shapes.tolist()),
            " ".join(dict.fromkeys(f"{w / h:.3g}" for w, h in g.shapes.tolist())),
        ]
        for index, g in enumerate(layout.levels)
    ]
    columns = ["level", "cells", "step, px", "shapes", "priors", "w x h, px", "ratios w/h"]
    title = f"{name}: {layout.count} priors on {layout.width} x {layout.height} px"
    console.table(columns, rows, title)


def show_coverage(console: Console, found: Coverage, layout: PriorLayout) -> None:
    """Print a coverage by class and size, and by level."""
    rows = [
        [
            row.category,
            row.size,
            str(row.boxes),
            f"{row.mean_iou:.3f}",
            f"{row.q25:.2f} {row.median:.2f} {row.q75:.2f}",
            f"{100 * row.reach:.1f} %",
            f"{row.matches:.1f}",
            str(row.forced_only),
            str(row.no_level),
            str(row.unmatched),
        ]
        for row in found.rows()
    ]
    columns = ["class", "size", "boxes", "best IoU", "quartiles", f"reach {found.threshold:g}"]
    columns += ["matched a box", "forced only", "no level", "unmatched"]
    console.table(columns, rows, "coverage of the boxes")
    levels = [
        [str(r.level), f"{grid.step_x:.4g}", str(r.priors), str(r.best_for), str(r.matches)]
        for r, grid in zip(found.level_rows(), layout.levels, strict=True)
    ]
    console.table(["level", "step, px", "priors", "best for boxes", "matches"], levels)


def show_beside(console: Console, found: FittedPriors) -> None:
    """Print the default and the fitted priors side by side on the held-out boxes."""
    rows = []
    for name, pair in (("as they are", found.plain), ("as training sees them", found.augmented)):
        for side, coverage in zip(("default", "fitted"), pair, strict=True):
            row = coverage.total()
            rows.append(
                [
                    f"{name}, {side}",
                    str(sum(coverage.priors)),
                    str(row.boxes),
                    f"{row.mean_iou:.3f}",
                    f"{100 * row.reach:.1f} %",
                    f"{row.matches:.1f}",
                    str(row.forced_only),
                    str(row.no_level),
                ]
            )
    reach = f"reach {found.plain[0].threshold:g}"
    columns = ["held-out boxes", "priors", "boxes", "best IoU", reach]
    columns += ["matched a box", "forced only", "no level"]
    console.table(columns, rows)
