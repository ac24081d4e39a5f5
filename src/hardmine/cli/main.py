"""The ``hardmine`` command: parses, calls, prints.

Exit codes: 0 done, 1 failure, 2 usage, 3 a gate not met, 130 interrupted. A user's mistake is one
line on stderr; a fault of the program shows its traceback with ``--debug``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import hardmine
from hardmine.cli import (
    data_commands,
    export_commands,
    loop_commands,
    model_commands,
    priors_commands,
    recipe_commands,
)
from hardmine.cli.check_command import check
from hardmine.cli.console import DONE, USAGE, exit_code, explain, is_expected
from hardmine.cli.inspect_command import inspect
from hardmine.cli.options import fill_in_ray

_EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 usage, 3 a gate not met, 130 interrupted."

app = typer.Typer(
    name="hardmine",
    help="Train object detectors that stop over-firing.",
    epilog=_EXIT_CODES,
    invoke_without_command=True,
    add_completion=False,
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
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


app.command()(loop_commands.demo)
app.command()(check)
app.command()(model_commands.train)
app.command()(model_commands.val)
app.command()(loop_commands.mine)
app.command()(loop_commands.loop)
app.command()(model_commands.predict)
app.command()(data_commands.convert)
app.command()(data_commands.split)
app.command()(export_commands.export)
app.command("check-detector")(export_commands.check_detector)
app.command()(recipe_commands.recipe)
app.command()(recipe_commands.models)
app.add_typer(priors_commands.priors)
app.command()(inspect)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure has been told on stderr."""
    debug = "--debug" in arguments
    try:
        words = [item for item in fill_in_ray(arguments) if item != "--debug"]
        code = app(words, "hardmine", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _tell(error)
    if code == exit_code(KeyboardInterrupt()):
        return _tell(KeyboardInterrupt())
    return code if isinstance(code, int) else DONE


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def _tell(error: BaseException) -> int:
    prefix = "hardmine:" if is_expected(error) else "hardmine: fault:"
    typer.echo(f"{prefix} {explain(error)}", err=True)
    return exit_code(error)
