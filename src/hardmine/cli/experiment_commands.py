"""``compare`` and ``diagnose``: several recipes on one data set, and why hard mining does not help in
a run.

``diagnose`` takes a run, or a configuration of which it says what is likely to hurt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli import options as shared
from hardmine.cli.console import Console, OutputOptions, usage_error
from hardmine.cli.option_flags import expand_options, pool_spec
from hardmine.comparison.compare_options import (
    CompareOptions,
    mining_variants,
    parse_variant,
)
from hardmine.option_fields import option
from hardmine.workflows.train_options import data_option, device_option

if TYPE_CHECKING:
    from hardmine.comparison.compare_summary import Comparison
    from hardmine.diagnosis.diagnosis_result import Diagnosis


_SHOWN = (
    "AP",
    "AP50",
    "AP_small",
    "recall_at_0.1",
    "alarms_at_0.8",
    "alarms_at_0.8_each_class",
    "minutes",
)


_Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE…",
        help="Two or more recipes (one or none with --preset), then the labelled data. A recipe "
        "is a name, a YAML file or 'default', with changes after '+': "
        "'default+loss.selection.kind=level_quota'. With --pool, 'loop.' options too: "
        "'default+loop.add=0.5'. A label and a colon in front name it in tables ('mine:recipe.yaml'). "
        "The first is the reference.",
    ),
]
_Pool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        callback=pool_spec,
        help="The images to mine from. With this option, whole loops are compared, not trainings.",
    ),
]
_TrainNegatives = Annotated[
    str | None,
    typer.Option(
        "--train-negatives",
        metavar="DIR",
        callback=pool_spec,
        help="Images without objects that every recipe is trained on too. With --preset each variant "
        "is trained without them and with them. Not with --pool: a loop adds images itself.",
    ),
]


@expand_options
def compare(
    recipes: _Recipes,
    *,
    val: shared.Val = None,
    negatives: shared.Negatives = None,
    pool: _Pool = None,
    train_negatives: _TrainNegatives = None,
    settings: shared.Settings = None,
    options: CompareOptions,
    out: shared.Out = Path("runs/compare"),
    output: OutputOptions,
) -> None:
    """Train several recipes with the same data, steps and seeds, and say which differences are real.

    Example: hardmine compare default default+loss.selection.kind=level_quota raccoon

    Example: hardmine compare --preset mining raccoon --negatives EMPTY

    Example: hardmine compare default auto raccoon --negatives EMPTY --train-negatives MINED
    """
    *names, data = recipes
    held_out = shared.data_or_fraction(val)
    more = settings or []
    variants = [parse_variant(name, more) for name in names]
    _require_data(data)
    if train_negatives is not None and pool is not None:
        raise usage_error(
            "got '--train-negatives' and '--pool', wanted one of them: with a pool whole loops are "
            "compared, and what a loop trains on without objects it mines from the pool"
        )
    if options.preset is not None:
        if len(variants) > 1:
            raise usage_error(f"'--preset' compares variants of one recipe, got {len(variants)}")
        base = variants[0] if variants else parse_variant("default", more)
        variants = mining_variants(base, with_negatives=train_negatives is not None)
    elif train_negatives is not None:
        variants = [replace(variant, with_negatives=True) for variant in variants]
    from hardmine.comparison.compare_recipes import ComparedData, compare_recipes

    console = output.console()
    with console.progress() as step:
        found = compare_recipes(
            variants,
            ComparedData(data, held_out, negatives, pool, train_negatives),
            options=options,
            out=out,
            progress=step,
        )
    if output.as_json:
        console.json(found.to_dict())
        return
    _show_comparison(console, found)


def _require_data(path: str) -> None:
    if not Path(path).exists():
        raise typer.BadParameter(
            f"path {path!r} does not exist; the labelled data come last", param_hint="'DATA'"
        )


def _show_comparison(console: Console, found: Comparison) -> None:
    from hardmine.comparison.compare_figures import COLUMNS, figure_text

    heads = dict(COLUMNS)
    shown = [key for key in _SHOWN if any(v.means.get(key) is not None for v in found.variants)]
    rows = [
        [item.name, *(figure_text(item.means.get(key)) for key in shown)] for item in found.variants
    ]
    console.table(["recipe", *(heads[key] for key in shown)], rows)
    for line in found.statements:
        console.result(line)
    console.result(f"page: {found.out / 'compare.html'}")


@dataclass(frozen=True, slots=True)
class DiagnoseOptions:
    """What is looked at beside the run itself, and where the page goes."""

    data: Path | None = data_option(
        "The labelled training images. If not given: those that the run names."
    )
    negatives: str | None = option(
        None,
        "The images without objects that were trained on: a folder, or anything else that --pool of "
        "'loop' takes. If not given: those that the run names.",
        metavar="DIR",
        path="pool",
    )
    out: Path | None = option(
        None,
        "Where diagnosis.html and diagnosis.json go. If not given: into the run, or into "
        "runs/diagnosis for a configuration.",
        flags=("--out", "-o"),
        metavar="DIR",
    )
    images: int = option(
        1000,
        "Look at N training images with objects at most, evenly spread: missing labels are listed on "
        "these alone.",
        metavar="N",
        minimum=1,
    )
    device: str | None = device_option("Options")


@expand_options
def diagnose(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|pipeline.config",
            exists=True,
            help="The folder of a training. For a configuration of the TensorFlow Object Detection "
            "API, the command says which of its settings are likely to hurt.",
        ),
    ],
    *,
    choices: DiagnoseOptions,
    output: OutputOptions,
) -> None:
    """Say which known cause makes hard mining hurt in a run, and what command tries the remedy.

    Example: hardmine diagnose runs/first

    Example: hardmine diagnose pipeline.config --data DATA
    """
    console = output.console()
    if run.is_file():
        from hardmine.diagnosis.diagnose import diagnose_configuration

        found = diagnose_configuration(
            run, data=choices.data, out=choices.out or Path("runs/diagnosis")
        )
    else:
        from hardmine.diagnosis.diagnose import diagnose as diagnose_run

        with console.progress() as step:
            found = diagnose_run(
                run,
                data=choices.data,
                negatives=choices.negatives,
                out=choices.out,
                device=choices.device,
                images=choices.images,
                progress=step,
            )
    if output.as_json:
        console.json(found.to_dict())
        return
    _show_diagnosis(console, found)


def _show_diagnosis(console: Console, found: Diagnosis) -> None:
    rows = [
        [each.hypothesis.title, each.verdict.answer.value, each.verdict.effect]
        for each in found.findings
    ]
    console.table(["question", "answer", "measured"], rows)
    for line in found.limits:
        console.note(line)
    console.result(found.summary())
    supported = [each for each in found.findings if each.is_supported]
    if supported and supported[0].command:
        console.result(f"try: {supported[0].command}")
    console.result(f"page: {found.page}")
