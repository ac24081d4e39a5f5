"""``diagnose``: why hard mining does not help in a run, or is likely to hurt with a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardmine.cli.console import Console, OutputOptions
from hardmine.cli.option_flags import expand_options
from hardmine.option_fields import option
from hardmine.workflows.train_options import device_option

if TYPE_CHECKING:
    from hardmine.diagnosis.diagnosis_result import Diagnosis


@dataclass(frozen=True, slots=True)
class DiagnoseOptions:
    """What is looked at beside the run itself, and where the page goes."""

    data: Path | None = option(
        None,
        "The labelled training images. If not given: those that the run names.",
        metavar="DATA",
        path="any",
    )
    negatives: Path | None = option(
        None,
        "The images without objects that were trained on. If not given: those that the run names.",
        metavar="DIR",
        path="any",
    )
    out: Path | None = option(
        None,
        "Where diagnosis.html and diagnosis.json go. If not given: into the run, or into "
        "runs/diagnosis for a configuration.",
        flags=("--out", "-o"),
        metavar="DIR",
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
        from hardmine.diagnosis.config_diagnosis import diagnose_configuration

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
                progress=step,
            )
    if output.as_json:
        console.json(found.to_dict())
        return
    _show(console, found)


def _show(console: Console, found: Diagnosis) -> None:
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
