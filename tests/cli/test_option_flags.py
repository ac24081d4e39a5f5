"""Flags made from options values: what is typed becomes the value, help and completion show it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from hardmine.cli.option_flags import Command, expand_options
from hardmine.errors import ConfigError
from hardmine.option_fields import option


def words(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    found = tuple(text.split(","))
    if "" in found:
        raise ConfigError(f"names: got {text!r}, wanted names")
    return found


@dataclass(frozen=True)
class Rank:
    rule: Literal["score", "sum"] = option(
        "score", "Which rule ranks.", flags=("--rank",), panel="Ranking"
    )
    repeats: bool = option(
        True, "Hand out repeats.", flags=("--keep-repeats",), negated=True, panel="Ranking"
    )


@dataclass(frozen=True)
class Options:
    top: int | None = option(None, "Hand out N.", flags=("--top", "-t"), metavar="N", minimum=1)
    min_score: float = option(0.05, "Lowest score.", minimum=0, maximum=1)
    share: float = option(0.5, "A share.", above=0, maximum=1)
    diverse: bool = option(False, "Different ones.")
    model: str | None = option(
        None, "A model.", complete=lambda: ["small160", "ssd300", "ssd512"], panel="Advanced"
    )
    arms: tuple[str, ...] = option(("mined",), "Arms.", parse=words)
    exclude: tuple[Path, ...] = option((), "Images to leave out.")
    hidden: int = option(7, "Not on the line.", on_command_line=False)
    plain: int = 3
    rank: Rank = field(default_factory=Rank)


Run = Callable[[str], Options]


@pytest.fixture
def app() -> tuple[typer.Typer, list[tuple[str, Options, bool]]]:
    made: list[tuple[str, Options, bool]] = []
    app = typer.Typer(add_completion=True)

    @app.command(cls=Command)
    @expand_options
    def mine(pool: str, *, options: Options, quiet: bool = False) -> None:
        """Mine a pool."""
        made.append((pool, options, quiet))

    return app, made


@pytest.fixture
def run(app: tuple[typer.Typer, list[tuple[str, Options, bool]]]) -> Run:
    command, made = app

    def call(line: str) -> Options:
        command(["pool", *line.split()], "mine", standalone_mode=False)
        pool, options, _ = made[-1]
        assert pool == "pool"
        return options

    return call


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", Options()),
        ("--top 3 --min-score 0 --diverse", Options(3, 0.0, diverse=True)),
        ("-t 3", Options(3)),
        ("--share 1", Options(share=1.0)),
        ("--rank sum --keep-repeats", Options(rank=Rank("sum", False))),
        ("--arms mined,none", Options(arms=("mined", "none"))),
        ("--exclude a --exclude b/c", Options(exclude=(Path("a"), Path("b/c")))),
        ("--model other", Options(model="other")),
        ("--quiet", Options()),
    ],
)
def test_what_is_typed_becomes_the_value(run: Run, line: str, wanted: Options) -> None:
    assert run(line) == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--top 0", "--top' / '-t': Input should be greater than or equal to 1"),
        ("--min-score 1.5", "--min-score': Input should be less than or equal to 1"),
        ("--share 0", "--share': 0.0 is not above 0 and at most 1"),
        ("--share 1.1", "--share': 1.1 is not above 0 and at most 1"),
        ("--share nan", "--share': nan is not above 0 and at most 1"),
        ("--rank best", "--rank': Value error, 'best' is not one of 'score', 'sum'"),
        ("--hidden 3", "No such option: --hidden"),
        ("--plain 3", "No such option: --plain"),
        ("--no-diverse", "No such option: --no-diverse"),
    ],
)
def test_what_may_not_be_typed(run: Run, line: str, message: str) -> None:
    with pytest.raises(typer.TyperException) as caught:
        run(line)
    assert message in caught.value.format_message()
    assert caught.value.exit_code == 2


def test_a_reader_of_text_may_refuse_it(run: Run) -> None:
    with pytest.raises(ConfigError, match="names: got 'mined,', wanted names"):
        run("--arms mined,")


def test_help_shows_flags_defaults_and_groups(
    app: tuple[typer.Typer, list[tuple[str, Options, bool]]],
) -> None:
    text = CliRunner().invoke(app[0], ["--help"], env={"COLUMNS": "100"}).output
    boxes = [line.split()[1] for line in text.splitlines() if line.startswith("╭")]
    assert boxes == ["Arguments", "Options", "Ranking", "Advanced"]
    one = " ".join(text.split())
    assert "--top -t N [x>=1] Hand out N. │" in one
    assert "[0<=x<=1] Lowest score. [default: 0.05]" in one
    assert "--diverse Different ones. │" in one
    assert "Arms. [default: mined]" in one
    assert "--hidden" not in one
    assert "--keep-repeats Hand out repeats. │" in one


def completions(command: typer.Typer, line: str) -> list[str]:
    count = len(line.split(" ")) - 1
    environment = {"_MINE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(count)}
    result = CliRunner().invoke(command, [], prog_name="mine", env={**os.environ, **environment})
    return result.output.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("mine pool --model ss", ["ssd300", "ssd512"]),
        ("mine pool --model ", ["small160", "ssd300", "ssd512"]),
        ("mine pool --rank s", ["score", "sum"]),
        ("mine pool --keep", ["--keep-repeats"]),
    ],
)
def test_completion_offers_the_values(
    app: tuple[typer.Typer, list[tuple[str, Options, bool]]], line: str, wanted: list[str]
) -> None:
    assert completions(app[0], line) == wanted
