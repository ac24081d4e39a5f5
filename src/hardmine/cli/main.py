"""The ``hardmine`` command: parses, calls, prints.

Exit codes: 0 done, 1 failure, 2 usage, 3 a gate not met, 130 interrupted. A user's mistake is one
line on stderr; a fault of the program shows its traceback with ``--debug``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import hardmine
from hardmine.cli import (
    data_commands,
    loop_commands,
    model_commands,
    recipe_commands,
)
from hardmine.cli.console import DONE, USAGE, exit_code, explain, is_expected, usage_error
from hardmine.cli.experiment_commands import compare, diagnose
from hardmine.cli.option_flags import Command, Group, reads_pictures
from hardmine.cli.options import fill_in_ray
from hardmine.device import process_count, process_index
from hardmine.workflows.several_processes import ReportedError

_EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 usage, 3 a gate not met, 130 interrupted."
_THE_LOOP = """\
Usage: hardmine COMMAND …

The loop, step by step:
  1. train     hardmine train DATA --val 0.2 --out runs/first
  2. mine      hardmine mine runs/first POOL --top 30 --out runs/mined
  3. confirm   hardmine review runs/mined
  4. retrain   hardmine apply runs/mined DATA
               hardmine train DATA --val 0.2 --out runs/second
  5. measure   hardmine val runs/second TEST --negatives HELD_OUT

All steps, round after round:   hardmine loop DATA --pool POOL --negatives HELD_OUT
A demonstration without data:   hardmine demo
All commands, all options:      hardmine -h, hardmine COMMAND -h"""
_SHARED = ("train", "loop")
"""The commands that several processes can share."""
_LOOP, _DATA, _MODELS = "The loop", "Data", "Models and detectors"

app = typer.Typer(
    name="hardmine",
    cls=Group,
    help="Train object detectors that stop over-firing.",
    epilog=_EXIT_CODES,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hardmine {hardmine.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback on failure (anywhere on the line).")
    ] = False,
) -> None:
    """Train object detectors that stop over-firing."""
    del version, debug  # --version has acted; run() has taken --debug off the line
    if context.invoked_subcommand is None:
        typer.echo(_THE_LOOP)
        raise typer.Exit(USAGE)
    if process_count() > 1 and context.invoked_subcommand not in _SHARED:
        raise usage_error(
            f"{context.invoked_subcommand}: got {process_count()} processes, wanted one; torchrun and "
            f"accelerate launch can start {' and '.join(_SHARED)}"
        )


def _add(
    command: Callable[..., None],
    panel: str,
    name: str | None = None,
    *,
    pictures: bool = True,
    workers: bool = False,
) -> None:
    """Add a command; ``pictures``: it reads pictures that the user gives, ``workers``: by threads."""
    given = reads_pictures(command, workers=workers) if pictures else command
    app.command(name, cls=Command, rich_help_panel=panel)(given)


_add(loop_commands.demo, _LOOP, pictures=False)
_add(model_commands.train, _LOOP, workers=True)
_add(model_commands.val, _LOOP, workers=True)
_add(loop_commands.mine, _LOOP, workers=True)
_add(loop_commands.review, _LOOP)
_add(loop_commands.loop, _LOOP, workers=True)
_add(loop_commands.apply, _DATA)
_add(data_commands.check, _DATA)
_add(data_commands.convert, _DATA)
_add(data_commands.split, _DATA)
_add(data_commands.inspect, _DATA)
_add(compare, _MODELS, workers=True)
_add(diagnose, _MODELS)
_add(model_commands.predict, _MODELS, workers=True)
_add(model_commands.threshold, _MODELS, workers=True)
_add(model_commands.export, _MODELS)
_add(model_commands.check_detector, _MODELS, "check-detector")
_add(recipe_commands.models, _MODELS, pictures=False)
_add(recipe_commands.recipe, _MODELS, pictures=False)
app.add_typer(recipe_commands.priors, rich_help_panel=_MODELS)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a failure is one line on stderr."""
    debug = "--debug" in arguments
    command = next((item for item in arguments if not item.startswith("-")), "")
    try:
        words = [item for item in fill_in_ray(arguments) if item != "--debug"]
        code = app(words, "hardmine", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _tell(KeyboardInterrupt() if _is_interrupted(error) else error, command)
    if code == exit_code(KeyboardInterrupt()):
        return _tell(KeyboardInterrupt(), command)
    return code if isinstance(code, int) else DONE


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def _is_interrupted(error: BaseException | None) -> bool:
    """True when the user's interruption is behind it: compiled libraries make an ImportError of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _tell(error: BaseException, command: str) -> int:
    if isinstance(error, ReportedError):
        return DONE  # process 0 says it and fails; an earlier failure here could cut it short
    prefix = "hardmine:" if is_expected(error) else "hardmine: fault:"
    process = f"process {process_index()}: " if process_index() > 0 else ""
    said = explain(error, command)
    if said:  # nothing where help was shown instead
        typer.echo(f"{prefix} {process}{said}", err=True)
    return exit_code(error)
