"""Running command lines in the test's own process."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardmine.cli.main import run
from hardmine.detections import Detections
from hardmine.evaluation.measurement import Measurement, measure
from hardmine.evaluation.scored_images import Scored
from hardmine.types import Dataset, ImageRecord, ImageState

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process; return its exit code, stdout and stderr.

    Text is split as a shell does; paths are taken whole.
    """

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        parts = [[str(a)] if isinstance(a, Path) else shlex.split(a) for a in arguments]
        code = run([word for part in parts for word in part])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, a pool, a file that is no checkpoint; the current folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "pool").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all, only some text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def measurement() -> Measurement:
    """Two objects, both found with .9 and .5; two negative images, one of which fires with .7."""
    box = np.array([[10.0, 10.0, 50.0, 50.0]], np.float32)

    def found(score: float) -> Detections:
        return Detections(box, np.array([score], np.float32), np.ones(1, np.int64))

    labelled = ImageRecord(
        Path("a.jpg"),
        100,
        100,
        box,
        np.ones(1, np.int64),
        np.zeros(1, np.bool_),
        ImageState.LABELLED,
    )
    records = (labelled, replace(labelled, path=Path("b.jpg")))
    val = Scored(Dataset(("raccoon",), records, Path()), (found(0.9), found(0.5)))
    empty = [ImageRecord.empty(Path(n), 9, 9, ImageState.VERIFIED_EMPTY) for n in ("c", "d")]
    negatives = Scored(Dataset(("raccoon",), tuple(empty), Path()), (found(0.7), Detections.none()))
    return measure(val, {"held_out": negatives}, draws=20)
