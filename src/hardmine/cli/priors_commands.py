"""``priors``: what a model's priors are, what they cover of a dataset, and fitting them to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console, OutputOptions
from hardmine.cli.option_flags import (
    Command,
    Group,
    expand_options,
    reads_pictures,
)
from hardmine.data.data_options import CoverageOptions, FitOptions
from hardmine.workflows.train_options import RecipeChanges, RecipeOptions

if TYPE_CHECKING:
    from hardmine.prior_design.coverage import Coverage
    from hardmine.prior_design.fit_priors import FittedPriors
    from hardmine.prior_design.prior_layout import PriorLayout

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
    from hardmine.prior_design.canvas_boxes import boxes_on_canvas
    from hardmine.prior_design.coverage import measure_coverage
    from hardmine.prior_design.coverage_report import write_coverage
    from hardmine.prior_design.prior_layout import layout_of_recipe

    console = output.console()
    chosen = options.any_recipe(which.model, which.changes)
    dataset = options.one_split(data, choices.part)
    boxes = boxes_on_canvas(dataset, chosen.resize)
    layout = layout_of_recipe(chosen)
    found = measure_coverage(boxes, layout, chosen.loss.assigner.iou_threshold)
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
        console.result(
            f"recipe: {out}  (hardmine train DATA --model {chosen.model.name} --recipe {out})"
        )


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
