"""One command as several processes: ``torchrun`` starts it twice, on the CPU.

Weights are compared with those of one process. AdamW divides each gradient by its own size, so a
gradient near 0 turns the order of summation into a difference of its own: the network here has no
batch norm, which makes such gradients, and that layer is compared on its own in tests/training.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardmine.cli.main import run
from shelf_world import make_world

TOLERANCE = 2e-5
"""Largest difference of a weight after three steps; float32 sums of 12 images in another order."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("several")
    make_world(folder)
    return folder


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start the command twice; words that begin with a file name start that script instead."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    program = [] if words[0].endswith(".py") else ["-m", "hardmine"]
    return subprocess.run(
        [*launch, *program, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def train_words(out: str, *more: str) -> list[str]:
    chosen = ["--val", "0.25", "--recipe", "tiny.yaml", "--draws", "20", "--device", "cpu"]
    return ["train", "shelf", *chosen, "--out", out, *more]


def largest_difference(a: Path, b: Path) -> float:
    left, right = load_file(a), load_file(b)
    assert left.keys() == right.keys()
    return max(float((left[k].double() - right[k].double()).abs().max()) for k in left)


@pytest.fixture(scope="module")
def alone(world: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert run(train_words("alone", "-q")) == 0
    return world / "alone"


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_report_once(world: Path, alone: Path) -> None:
    done = torchrun(world, *train_words("pair"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1
    assert largest_difference(alone / "last.safetensors", world / "pair/last.safetensors") < (
        TOLERANCE
    )
    rows = [(world / name / "log.csv").read_text().splitlines()[1:] for name in ("alone", "pair")]
    for one, two in zip(*rows, strict=True):
        assert [float(v) for v in one.split(",")] == pytest.approx(
            [float(v) for v in two.split(",")], abs=1e-4
        )


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one(world: Path, alone: Path) -> None:
    """Both processes end before the third step, after a state was saved."""
    code = (
        "import sys\n"
        "from hardmine.training.run_state import Run\n"
        "from hardmine.cli.main import main\n"
        "real = Run.prepare_step\n"
        "def step(run):\n"
        "    if run.step == 2:\n"
        "        if run.accelerator.is_main_process:\n"
        "            run.save()\n"
        "        sys.exit(7)\n"
        "    return real(run)\n"
        "Run.prepare_step = step\n"
        "main()\n"
    )
    (world / "stopped.py").write_text(code, encoding="utf-8")
    stopped = torchrun(world, "stopped.py", *train_words("stopped"))
    assert stopped.returncode != 0
    assert torch.load(world / "stopped/state.pt", weights_only=True)["step"] == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert run(["train", "--resume", "--out", "stopped", "-q"]) == 0
    assert (
        largest_difference(alone / "last.safetensors", world / "stopped/last.safetensors")
        < TOLERANCE
    )


@pytest.mark.slow
def test_what_ends_one_process_ends_all_with_its_reason(world: Path) -> None:
    """Only process 1 reads the picture that is gone: each process reads every second of a batch."""
    code = (
        "import os\n"
        "import hardmine.training.batches as b\n"
        "from hardmine.errors import DataError\n"
        "from hardmine.cli.main import main\n"
        "def load(record, augmenter, rng):\n"
        "    raise DataError(f'{record.path.name}: gone from the disk')\n"
        "if os.environ['RANK'] == '1':\n"
        "    b.load_sample = load\n"
        "main()\n"
    )
    (world / "gone.py").write_text(code, encoding="utf-8")
    done = torchrun(world, "gone.py", *train_words("gone"))
    assert done.returncode != 0
    assert re.search(r"hardmine: process 1: \d\d\.png: gone from the disk", done.stderr)


@pytest.mark.slow
def test_two_processes_share_the_trainings_of_a_loop(world: Path) -> None:
    words = ["loop", "shelf", "--pool", "pool", "--val", "0.25", "--recipe", "tiny.yaml"]
    done = torchrun(world, *words, "--rounds", "1", "--draws", "20", "--out", "loop")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert done.stderr.count("round 1, mined: mine: done") == 1
    assert len(list((world / "loop/models").iterdir())) == 2


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["check", "shelf"]) == 2
    assert "process 1: check: got 2 processes, wanted one" in capsys.readouterr().err


def test_processes_that_share_a_run_have_no_device_in_common(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run([*train_words("numbered")[:-4], "--device", "cuda:0", "--out", "numbered"]) == 2
    assert "device: got cuda:0 for 2 processes" in capsys.readouterr().err
