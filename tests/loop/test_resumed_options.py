"""A resumed run goes on with the data and the options that it began with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hardmine import run_loop, train
from hardmine.data.formats.coco_writing import write_coco
from hardmine.errors import CheckpointError, ConfigError
from hardmine.loop.loop_options import LoopOptions
from hardmine.mining.mine_options import RankOptions
from hardmine.option_fields import changed_options, option
from hardmine.workflows.run_record import read_record
from hardmine.workflows.train_options import TrainOptions
from loop_fakes import World, rows_of, run

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture
def on_disk(inputs: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The inputs of a small loop, all of them as paths."""
    for name in ("data", "val"):
        write_coco(inputs[name], tmp_path / name / "labels.json")
        inputs[name] = tmp_path / name / "labels.json"
    return inputs


def test_a_loop_goes_on_by_its_folder_alone(on_disk: dict[str, Any], tmp_path: Path) -> None:
    given = {
        "rounds": 2,
        "arms": ("mined", "none"),
        "rank": RankOptions(group=r"^(k\d)", quota_group=1),
        "epochs": 3,
        "set": ("batch.size=8",),
        "seed": 5,
    }
    run(on_disk, tmp_path / "whole", World(), **given)
    run(on_disk, tmp_path / "cut", World(), **{**given, "rounds": 1})
    world = World()
    result = world.call(run_loop, out=tmp_path / "cut", resume=True, rounds=2)
    assert world.calls.count("fit") == 1  # round 2 of "mined"; nothing else is done again
    assert list(result.rows) == rows_of(tmp_path / "whole")
    assert World().call(run_loop, out=tmp_path / "cut", resume=True).rows == result.rows


def test_what_was_asked_for_is_written_and_read_back(
    on_disk: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(on_disk, out, World(), rounds=1, quarantine=0.9, weights="none", repeats=False)
    record = read_record(out / "loop.json", LoopOptions)
    assert record is not None
    options = record.options
    assert (options.rounds, options.stop, options.draws) == (1, "never", 5)
    assert (options.quarantine, options.rank.repeats) == (0.9, False)
    assert options.network.weights == "none"
    assert record.inputs == {
        name: str(on_disk[name]) for name in ("data", "pool", "negatives", "val")
    }


def test_a_choice_that_differs_is_named(
    on_disk: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    run(on_disk, out, World(), rounds=1, epochs=3)
    with caplog.at_level(logging.WARNING):
        World().call(run_loop, out=out, resume=True)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        run(on_disk, out, World(), rounds=2, epochs=4, resume=True)
    assert "rounds is 2, and was 1 when the run began" in caplog.text
    assert "epochs of the recipe is 4.0, and was 3.0 when the run began" in caplog.text
    assert "stop" not in caplog.text  # given again as it was
    assert "recipe.yaml" not in caplog.text


def test_a_default_that_is_named_counts(on_disk: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(on_disk, out, World(), rounds=1)
    result = World().call(run_loop, out=out, resume=True, rounds=3)
    assert len(result.rows) == 4
    again = World().call(run_loop, out=out, resume=True, options=LoopOptions(rounds=1))
    assert len(again.rows) == 2


def test_another_model_is_not_hidden_by_the_recipe_of_the_run(
    on_disk: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(on_disk, out, World(), rounds=1, model="small160")
    world = World()
    world.call(run_loop, out=out, resume=True, model="ssdlite320_mobilenet_v2")
    assert world.calls.count("fit") == 2
    assert "ssdlite320_mobilenet_v2" in (out / "recipe.yaml").read_text()


def test_data_in_memory_must_be_given_again(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1)
    with pytest.raises(ConfigError, match="data: the run began with a dataset in memory"):
        World().call(run_loop, out=out, resume=True)


@pytest.mark.parametrize("work", [run_loop, train])
def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path, work: Callable[..., Any]) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(
        ConfigError, match=f"^{nothing}: holds no run to resume; give its folder, or begin"
    ):
        work(None, out=nothing, resume=True)
    with pytest.raises(ConfigError, match="data: not given, wanted labelled images"):
        work(None, out=nothing)


def test_a_record_of_an_earlier_version_is_read(on_disk: dict[str, Any], tmp_path: Path) -> None:
    """Then the options stood side by side, and neither data nor network were among them."""
    out = tmp_path / "run"
    run(on_disk, out, World(), rounds=1, add=0.15)
    former = {"rounds": 1, "add": 0.15, "accept": "auto", "arms": ["mined"], "min_score": 0.05}
    former |= {"seed": 0, "draws": 5, "stop": "never", "rank": {"rule": "score", "diverse": False}}
    (out / "loop.json").write_text(json.dumps(former))
    world = World()
    run(on_disk, out, world, resume=True)
    assert world.calls == []
    (out / "loop.json").write_text(json.dumps({**former, "speed": 3}))
    with pytest.raises(ConfigError, match=r"loop\.json: not a readable record of a run .*'speed'"):
        run(on_disk, out, World(), resume=True)


def test_a_training_goes_on_by_its_folder_alone(on_disk: dict[str, Any], tmp_path: Path) -> None:
    out, first, second = tmp_path / "run", World(), World()
    keywords = {"val": on_disk["val"], "negatives": on_disk["negatives"], "out": out}
    first.call(train, on_disk["data"], **keywords, model="small160", seed=3, draws=5)
    whole = json.loads((out / "metrics.json").read_text())
    second.call(train, out=out, resume=True)
    assert second.trainings == first.trainings
    assert json.loads((out / "metrics.json").read_text()) == whole
    record = read_record(out / "train.json", TrainOptions)
    assert record is not None
    assert (record.options.seed, record.options.draws) == (3, 5)


def test_a_training_that_cannot_go_on_says_which_choice_differs(
    on_disk: dict[str, Any], tmp_path: Path
) -> None:
    world, out = World(), tmp_path / "run"
    world.call(train, on_disk["data"], out=out, draws=5)

    def refuse(*args: Any, **more: Any) -> Path:
        raise CheckpointError("state.pt: belongs to a run with other data, recipe, seed")

    world.fit = refuse  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"belongs to .*seed is 4, and was 0 when the run"):
        world.call(train, out=out, resume=True, seed=4)


@pytest.mark.parametrize(("former", "now"), [("settings", "set"), ("validations", "validate")])
def test_former_names_are_accepted_with_a_warning(
    on_disk: dict[str, Any], tmp_path: Path, former: str, now: str
) -> None:
    value: Any = ("batch.size=4",) if now == "set" else 2
    keywords: dict[str, Any] = {"out": tmp_path / "run", "draws": 5}
    with pytest.warns(DeprecationWarning, match=f"{former} is now called {now}"):
        World().call(train, on_disk["data"], **keywords, **{former: value})
    if now == "set":
        assert "size: 4" in (tmp_path / "run" / "recipe.yaml").read_text()


# A field that is added later.


@dataclass(frozen=True)
class LaterRank(RankOptions):
    flavour: str = option("plain", "A choice that a later version brings.")


@dataclass(frozen=True)
class LaterLoop(LoopOptions):
    rank: LaterRank = option(LaterRank, "How images are ranked.")
    taste: int = option(7, "A choice that a later version brings.")


def test_a_later_field_changes_no_identity_until_it_is_used() -> None:
    now = LoopOptions(rank=RankOptions(quota_class=2), rounds=5)
    later = LaterLoop(rank=LaterRank(quota_class=2), rounds=5)
    assert (
        changed_options(now) == changed_options(later) == {"rank": {"quota_class": 2}, "rounds": 5}
    )
    assert changed_options(LaterLoop(taste=8)) == {"taste": 8}


def test_a_later_field_mines_nothing_again(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, rank=RankOptions(quota_class=2))
    stamp = (out / "rounds" / "mined-1" / "mine.step.json").read_text()
    assert json.loads(stamp)["inputs"]["rank"] == {"quota_class": 2}
    world = World()
    run(inputs, out, world, resume=True, rounds=1, rank=LaterRank(quota_class=2))
    assert world.calls == []
    assert (out / "rounds" / "mined-1" / "mine.step.json").read_text() == stamp
