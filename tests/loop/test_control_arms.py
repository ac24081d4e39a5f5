"""An arm is one value: everything that goes through the arms reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hardmine.errors import ConfigError
from hardmine.loop import control_arms
from hardmine.loop.control_arms import ARMS, MINED, NONE, RANDOM, Arm, arms_help, arms_named, leader
from hardmine.loop.loop_options import LoopOptions, read_arms
from loop_fakes import World, rows_of, run, sheet_of


def test_arms_run_in_their_own_order_and_the_first_that_adds_images_leads() -> None:
    options = LoopOptions(arms=("none", "random", "mined"))
    assert options.chosen_arms == (MINED, RANDOM, NONE)
    assert options.leader == MINED
    assert leader(arms_named(["none", "random"])) == RANDOM
    assert leader((NONE,)) == NONE
    assert leader((NONE, RANDOM)) == RANDOM


def test_names_are_read_and_checked() -> None:
    assert read_arms("mined, random,none") == ("mined", "random", "none")
    for text in (" , ", "mined,mined"):
        with pytest.raises(ConfigError, match="wanted some of mined, random, none, each once"):
            read_arms(text)
    with pytest.raises(ConfigError, match=r"got 'mned', wanted one of .*did you mean 'mined'"):
        read_arms("mned,none")


def test_every_arm_it_names_is_there_and_runs_before_it() -> None:
    """An arm that takes as many images as another one needs that one's number first."""
    names = [arm.name for arm in ARMS]
    for place, arm in enumerate(ARMS):
        assert set(arm.compared_with) <= set(names)
        assert arm.as_many_as is None or arm.as_many_as in names[:place]
    assert arms_help().split("; ") == [f"{arm.name}: {arm.help}" for arm in ARMS]


@pytest.mark.usefixtures("no_page")
def test_an_arm_that_is_added_as_a_value_runs_and_is_compared(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second random arm: handed as many as ``mined`` was, compared with ``none`` alone."""
    again = Arm("again", "as many at random", "random", as_many_as="mined", compared_with=("none",))
    monkeypatch.setattr(control_arms, "ARMS", (*ARMS, again))
    monkeypatch.setattr("hardmine.loop.acceptance.ARMS", (*ARMS, again))
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, arms=("again", "none", "mined"), quarantine=0.9, add=0.9)
    added = {row["arm"]: row["negatives_added"] for row in rows_of(out) if row["round"] == 1}
    assert added["again"] == added["mined"] == len(sheet_of(out, "again", 1)) > 0
    assert added["none"] == 0
    rows = json.loads((out / "metrics.json").read_text())["comparisons"]
    pairs = {(row["arm"], row["against_arm"]) for row in rows if row["against_round"] == 1}
    assert pairs == {("mined", "none"), ("again", "none")}


def test_the_command_line_offers_the_arms(capsys: pytest.CaptureFixture[str]) -> None:
    from hardmine.cli.main import run as cli

    assert cli(["loop", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for arm in ARMS:
        assert f"{arm.name}: {arm.help}" in text
