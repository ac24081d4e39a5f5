"""The benchmarks run for hours and not here; what is tested is that none has been left behind."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")
    if not path.stem.startswith("__")
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_imports_and_shows_its_options(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        import_module(f"benchmarks.{name}").main(["--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_make_bench_runs_every_benchmark() -> None:
    every = import_module("benchmarks.__main__")
    run = {*every.ALWAYS, *every.WITH_DATA, every.real_goal}
    assert {module.__name__ for module in run} == {f"benchmarks.{name}" for name in BENCHMARKS}
