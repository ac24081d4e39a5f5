"""What each command hands to the library: names that the real call accepts, values unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hardmine.cli import console as failures
from hardmine.errors import ConfigError
from hardmine.evaluation.measurement import Measurement
from hardmine.loop.acceptance import Waiting
from hardmine.loop.loop import LoopResult
from hardmine.mining.mine import MiningResult
from hardmine.mining.mine_options import MineOptions, RankOptions
from hardmine.workflows.train_and_evaluate import TrainResult

Cli = Callable[..., tuple[int, str, str]]


@dataclass
class Spy:
    """Stands in for a function: refuses arguments that the real one would refuse, keeps them."""

    real: Callable[..., Any]
    result: Any
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.arguments = dict(inspect.signature(self.real).bind(*args, **kwargs).arguments)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Spy]:
    def install(name: str, result: Any) -> Spy:
        module, _, attribute = name.rpartition(".")
        stand_in = Spy(getattr(import_module(module), attribute), result)
        monkeypatch.setattr(name, stand_in)
        return stand_in

    return install


def test_loop_hands_over_its_options(cli: Cli, files: Path, spy: Callable[[str, Any], Spy]) -> None:
    called = spy("hardmine.loop.loop.run_loop", LoopResult(Path("runs/x"), ()))
    code, out, _ = cli(
        "loop data --pool pool --val 0.3 --rounds 2 --add 0.1 --retrain fresh",
        "--arms mined,none --min-score 0 --weights none --epochs 4 --seed 7 --out runs/x",
        "--accept verdicts.csv --resume --draws 50 --stop never --device cpu",
        "--set loss.selection.floor=32 --set decode.max_detections=7",
        "--rank sum --per-class --quota-class 3 --group folder --quota-group 2 --keep-repeats",
        "--threshold 0.25 --diverse",
    )
    assert (code, out.splitlines()[-1]) == (0, "written: runs/x")
    got = called.arguments
    assert callable(got.pop("progress"))
    assert got == {
        "data": Path("data"),
        "pool": "pool",
        "negatives": None,
        "val": 0.3,
        "rounds": 2,
        "add": 0.1,
        "accept": Path("verdicts.csv"),
        "retrain": "fresh",
        "arms": ("mined", "none"),
        "stop": "never",
        "min_score": 0.0,
        "rule": "sum",
        "per_class": True,
        "quota_class": 3,
        "group": "folder",
        "quota_group": 2,
        "repeats": False,
        "threshold": 0.25,
        "diverse": True,
        "set": ("loss.selection.floor=32", "decode.max_detections=7"),
        "epochs": 4,
        "weights": "none",
        "out": Path("runs/x"),
        "resume": True,
        "seed": 7,
        "draws": 50,
        "device": "cpu",
    }


def test_loop_hands_over_only_what_is_written(
    cli: Cli, files: Path, spy: Callable[[str, Any], Spy]
) -> None:
    called = spy("hardmine.loop.loop.run_loop", LoopResult(Path("runs/loop"), ()))
    assert cli("loop", "data", "--pool pool --rounds 3")[0] == 0
    assert called.arguments.pop("progress")
    assert called.arguments == {
        "data": Path("data"),
        "pool": "pool",
        "negatives": None,
        "val": None,
        "out": Path("runs/loop"),
        "resume": False,
        "rounds": 3,  # the default, but written: a resumed run must go by it
    }


def test_a_run_is_resumed_by_its_folder_alone(
    cli: Cli, files: Path, spy: Callable[[str, Any], Spy]
) -> None:
    called = spy("hardmine.loop.loop.run_loop", LoopResult(Path("r"), ()))
    assert cli("loop --out r --resume")[0] == 0
    given = {name: value for name, value in called.arguments.items() if value is not None}
    assert given.pop("progress")
    assert given == {"out": Path("r"), "resume": True}


def test_loop_says_what_it_waits_for_and_why_it_stopped(
    cli: Cli, files: Path, spy: Callable[[str, Any], Spy]
) -> None:
    waiting = Waiting(1, Path("out/rounds/candidates.csv"), Path("verdicts.csv"), 24)
    spy("hardmine.loop.loop.run_loop", LoopResult(Path("out"), (), waiting=waiting))
    code, out, _ = cli("loop", "data", "--pool pool", "--accept", "verdicts.csv")
    assert code == 0
    assert "out/rounds/candidates.csv" in out
    assert "--resume" in out
    report = Path("out/report.html")
    spy("hardmine.loop.loop.run_loop", LoopResult(Path("out"), (), "no fall", report=report))
    code, out, _ = cli("loop", "data", "--pool pool")
    assert out.splitlines()[-2:] == ["stopped: no fall", "report: out/report.html"]


def test_a_contradiction_found_by_the_library_is_a_usage_error(
    cli: Cli, files: Path, spy: Callable[[str, Any], Spy]
) -> None:
    spy("hardmine.loop.loop.run_loop", ConfigError("out: holds a run already"))
    code, _, err = cli("loop", "data", "--pool pool")
    assert (code, err) == (failures.USAGE, "hardmine: out: holds a run already\n")


def test_train_hands_over_its_options(
    cli: Cli, files: Path, spy: Callable[[str, Any], Spy], measurement: Measurement
) -> None:
    result = TrainResult(Path("t/last.safetensors"), measurement, Path("t/report.html"))
    called = spy("hardmine.workflows.train_and_evaluate.train", result)
    code, out, _ = cli(
        "train data --val data --negatives pool --train-negatives pool --model small160",
        "--epochs 2 --weights none --out t --resume --images pool --empty-is-verified --seed 3",
    )
    assert code == 0
    assert out.splitlines()[-2:] == ["checkpoint: t/last.safetensors", "report: t/report.html"]
    got = called.arguments
    assert callable(got.pop("progress"))
    assert got == {
        "data": Path("data"),
        "val": Path("data"),
        "negatives": "pool",
        "train_negatives": "pool",
        "model": "small160",
        "epochs": 2,
        "weights": "none",
        "out": Path("t"),
        "resume": True,
        "images": Path("pool"),
        "empty_is_verified": True,
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("gates", "code", "part"),
    [
        ("--max-alarms 0.5 --min-ap50 1", failures.DONE, ""),
        ("--max-alarms 0.49", failures.GATE, "got 0.5, wanted at most 0.49"),
    ],
)
def test_val_prints_what_it_measured_even_when_a_gate_is_missed(
    cli: Cli,
    files: Path,
    spy: Callable[[str, Any], Spy],
    measurement: Measurement,
    gates: str,
    code: int,
    part: str,
) -> None:
    spy("hardmine.workflows.train_and_evaluate.evaluate", measurement)
    got, out, err = cli("val weights.safetensors data --negatives pool", gates)
    assert got == code
    assert "held_out" in out
    assert "report: runs/val/report.html" in out
    assert part in err


@pytest.mark.parametrize(("given", "wanted"), [("", 0.05), ("--min-score 0", 0.0)])
def test_mine_tells_a_floor_of_zero_from_none_given(
    cli: Cli,
    files: Path,
    spy: Callable[[str, Any], Spy],
    given: str,
    wanted: float,
) -> None:
    detector = SimpleNamespace(categories=("raccoon",))
    loaded = spy("hardmine.inference.checkpoint_detector.load_checkpoint_detector", detector)
    called = spy("hardmine.mining.mine.mine", MiningResult((), 3, (), 0, ()))
    code, out, _ = cli("mine weights.safetensors pool --fraction 0.5 --exclude data", given)
    assert code == 0
    assert "0 handed out: 3 scanned" in out
    assert loaded.arguments == {
        "path": Path("weights.safetensors"),
        "device": None,
        "names": None,
    }
    assert called.arguments["options"] == MineOptions(
        fraction=0.5, exclude=("data",), rank=RankOptions(min_score=wanted)
    )
    assert called.arguments["out"] == Path("runs/mine")


def test_demo_hands_over_its_options(cli: Cli, files: Path, spy: Callable[[str, Any], Spy]) -> None:
    result = LoopResult(Path("d/run"), (), report=Path("d/run/report.html"))
    called = spy("hardmine.demo.run_demo.run_demo", result)
    code, out, _ = cli("demo --out d --seed 4 --arms mined,none")
    assert (code, out.splitlines()[-1]) == (0, "report: d/run/report.html")
    assert callable(called.arguments.pop("progress"))
    assert called.arguments == {"out": Path("d"), "seed": 4, "arms": ("mined", "none")}
