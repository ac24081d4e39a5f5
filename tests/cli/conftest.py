"""Running command lines in the test's own process."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hardmine.cli.main import run

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
