"""``check``: what is in a dataset and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options
from hardmine.cli.console import Console
from hardmine.cli.option_flags import expand_options
from hardmine.cli.tables import figure
from hardmine.errors import DataError, GateError
from hardmine.workflows.check_options import CheckOptions

if TYPE_CHECKING:
    from hardmine.data.quality.resize_effects import SizeMixture
    from hardmine.evaluation.source_shortcut import ShortcutReport
    from hardmine.workflows.check_data import CheckResult


@expand_options
def check(
    data: options.Data,
    *,
    val: Annotated[
        Path | None,
        typer.Option(
            "--val",
            metavar="DATA",
            exists=True,
            help="More labelled data, to check as one more split.",
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="DATA|DIR",
            exists=True,
            help="Images that must not repeat images of DATA, such as a pool. May be given "
            "several times.",
        ),
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(
            "--negatives",
            metavar="DIR",
            exists=True,
            help="Images without objects, to test whether they differ from the images of DATA in "
            "more than the objects.",
        ),
    ] = None,
    choices: CheckOptions,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            dir_okay=False,
            help="Write one page with pictures of the findings.",
            rich_help_panel="Output",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write a repaired copy (COCO) with the list changes.csv into a new folder.",
            rich_help_panel="Output",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with code 3 when there is any error or warning."),
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what is in a dataset and what is wrong with it; exit with code 1 when there are errors.

    Example: hardmine check raccoon --negatives held_out --html check.html
    """
    import hardmine

    # The report names every problem; the log would name them once more.
    console = Console(quiet=quiet, verbose=verbose, log=verbose)
    with console.progress() as step:
        result = hardmine.check(
            data,
            val=val,
            against=against or (),
            negatives=negatives,
            html=html,
            fix=fix,
            progress=step,
            options=choices,
        )
    if as_json:
        console.json(result.to_dict())
    else:
        show_check(console, result)
    if html is not None:
        console.note(f"page: {html}")
    _judge(result, str(data), strict)


def show_check(console: Console, result: CheckResult) -> None:
    """Print what was found, the image sizes with what resize rules do to them, and the shortcut."""
    console.result("\n".join(result.report.rows()))
    for split, mixture in result.report.mixtures.items():
        _show_sizes(console, split, mixture)
    if result.shortcut is not None:
        _show_shortcut(console, result.shortcut)
    for note in result.notes:
        console.result(note)
    if result.repair is not None:
        done = result.repair.conversion
        images = sum(done.images.values())
        console.result(
            f"repaired copy: {done.out}: {images} images, {done.boxes} boxes "
            f"({done.ignored_boxes} ignored); "
            f"{len(result.repair.changes)} changes, listed in {done.out / 'changes.csv'}"
        )


def _show_sizes(console: Console, split: str, mixture: SizeMixture) -> None:
    common = ", ".join(f"{w} x {h} ({number})" for w, h, number in mixture.common)
    console.result(
        f"\n{split}: {mixture.distinct} image sizes, most often {common}; "
        f"{mixture.landscape:.0%} landscape, {mixture.portrait:.0%} portrait"
    )
    console.table(
        (
            f"resize to {mixture.width} x {mixture.height}",
            "aspect changed (median)",
            "95 %",
            "images by 1.5 or more",
            "canvas unused",
            "input sizes",
            "box side px (5 %)",
            "median",
        ),
        [
            (
                rule.rule,
                f"x {rule.aspect_median:.2f}",
                f"x {rule.aspect_p95:.2f}",
                f"{rule.distorted:.0%}",
                f"{rule.unused:.0%}",
                str(rule.input_sizes),
                figure(rule.box_p5, 0),
                figure(rule.box_median, 0),
            )
            for rule in mixture.rules
        ],
    )


def _show_shortcut(console: Console, shortcut: ShortcutReport) -> None:
    console.result(
        f"positives ({shortcut.positives} images) against negatives ({shortcut.negatives}): do they "
        "differ in more than the objects?"
    )
    rows = [
        (f.family, figure(f.auc, 2), f"{f.low:.2f}–{f.high:.2f}", f"{f.accuracy:.0%}")
        for f in shortcut.families
    ]
    console.table(("features", "AUC", "95 %", "right"), rows)
    answer = "yes: see the warning above" if shortcut.told_apart else "no"
    console.result(f"they differ: {answer} (an AUC of 0.5 is chance)")


def _judge(result: CheckResult, data: str, strict: bool) -> None:
    from hardmine.finding_kinds import Severity

    errors = result.report.count(Severity.ERROR)
    warnings = result.report.count(Severity.WARNING)
    if strict and errors + warnings:
        raise GateError(f"{data}: {errors} errors and {warnings} warnings, wanted none")
    if errors:
        raise DataError(f"{data}: {errors} errors (see the report above)")
