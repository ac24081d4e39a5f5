"""Killed anywhere and started again, a loop gives what it gives when it is left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hardmine import files
from hardmine.types import Dataset
from hardmine.workflows.step_cache import Steps
from loop_fakes import World, draw, run

pytestmark = pytest.mark.usefixtures("no_page")

OPTIONS: dict[str, Any] = {"rounds": 2, "arms": ("mined", "random")}


def outcome(out: Path) -> dict[str, Any]:
    """Return all that a run leaves for people and programs, without its own path."""
    names = ["rounds.json", "metrics.json", "metrics.csv", "recipe.yaml"]
    names += [
        f"rounds/{arm}-{number}/{name}"
        for arm in ("mined", "random")
        for number in (1, 2)
        for name in ("candidates.csv", "candidates.json", "decisions.csv", "train.coco.json")
    ]
    return {name: (out / name).read_text().replace(str(out), "OUT") for name in names}


@pytest.fixture
def undisturbed(inputs: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    run(inputs, tmp_path / "whole", World(), **OPTIONS)
    return outcome(tmp_path / "whole")


def test_killed_in_every_piece_of_work(
    inputs: dict[str, Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    deaths = 0
    while True:
        # Six calls are enough for the longest step, and each attempt dies in the next one.
        world = World(die_at=6 if deaths % 2 else 7)
        try:
            run(inputs, out, world, resume=True, **OPTIONS)
            break
        except KeyboardInterrupt:
            deaths += 1
            assert deaths < 60
    assert deaths >= 5
    assert outcome(out) == undisturbed


def test_killed_before_and_after_every_third_write(
    inputs: dict[str, Any],
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, real = tmp_path / "run", files.write_atomic
    budget, deaths = 1, 0

    def dies(path: Path, write: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and deaths % 2:
            raise KeyboardInterrupt
        real(path, write)
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomic", dies)
    while True:
        left = budget
        try:
            run(inputs, out, World(), resume=True, **OPTIONS)
            break
        except KeyboardInterrupt:
            deaths, budget = deaths + 1, budget + 3
    assert deaths >= 5
    assert outcome(out) == undisturbed


def test_a_finished_run_does_no_work_again(inputs: dict[str, Any], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", World(), **OPTIONS)
    before = outcome(tmp_path / "run")
    world = World()
    run(inputs, tmp_path / "run", world, resume=True, **OPTIONS)
    assert world.calls == []
    assert outcome(tmp_path / "run") == before


def test_a_lost_model_is_made_again(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), **OPTIONS)
    before = outcome(out)
    model = json.loads((out / "rounds.json").read_text())[-1]["model"]
    (out / "models" / model / "last.safetensors").unlink()
    world = World()
    run(inputs, out, world, resume=True, **OPTIONS)
    assert world.calls == ["fit"]
    assert outcome(out) == before


def test_other_weights_at_the_start_train_everything_again(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    run(inputs, tmp_path / "run", World(), weights=weights, **OPTIONS)
    save_file({"x": torch.ones(1)}, weights)
    world = World()
    run(inputs, tmp_path / "run", world, weights=weights, resume=True, **OPTIONS)
    assert world.calls.count("fit") == 5  # round 0, then two rounds of two arms


def test_another_seed_in_the_same_directory_mixes_nothing(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    run(inputs, tmp_path / "run", World(), **OPTIONS)
    run(inputs, tmp_path / "run", World(), resume=True, seed=1, **OPTIONS)
    run(inputs, tmp_path / "other", World(), seed=1, **OPTIONS)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "other")


def redraw(folder: Path) -> None:
    """Draw other pictures of the same size under the same names."""
    for number, path in enumerate(sorted(folder.iterdir())):
        draw(path, sum(map(ord, folder.name)) * 1000 + number)


@pytest.mark.parametrize(
    ("folder", "trained", "measured"),
    [
        ("data", 5, 5),  # round 0, then two rounds of two arms
        ("val", 0, 5),
        ("held", 0, 5),
        ("pool", 4, 5),  # round 0 has seen none of it; its last part is for the stop rules
    ],
)
def test_what_was_made_of_replaced_pictures_is_made_anew(
    inputs: dict[str, Any], tmp_path: Path, folder: str, trained: int, measured: int
) -> None:
    run(inputs, tmp_path / "run", World(), **OPTIONS)
    redraw(tmp_path / folder)
    world = World()
    run(inputs, tmp_path / "run", world, resume=True, **OPTIONS)
    assert world.calls.count("fit") == trained
    sets = world.calls.count("detect") // measured
    assert world.calls.count("detect") == sets * measured > 0
    run(inputs, tmp_path / "other", World(), **OPTIONS)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "other")


def test_new_dates_alone_make_nothing_anew(inputs: dict[str, Any], tmp_path: Path) -> None:
    """Such as those of a copy, or of what a version control wrote."""
    run(inputs, tmp_path / "run", World(), **OPTIONS)
    for path in [*tmp_path.rglob("*.png")]:
        os.utime(path, (1, 1))
    world = World()
    run(inputs, tmp_path / "run", world, resume=True, **OPTIONS)
    assert world.calls == []


def test_a_run_that_did_not_note_its_pictures_keeps_its_models(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_labels_alone(steps: Steps, data: Dataset) -> str:
        return data.fingerprint

    with monkeypatch.context() as former:
        former.setattr(Steps, "identity", by_labels_alone)
        run(inputs, tmp_path / "run", World(), **OPTIONS)
    before = outcome(tmp_path / "run")
    world = World()
    run(inputs, tmp_path / "run", world, resume=True, **OPTIONS)
    assert "fit" not in world.calls
    assert outcome(tmp_path / "run") == before
