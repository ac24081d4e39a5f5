"""The benchmarks run for hours and not here; what is tested is that none has been left behind."""

import json
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
    run = {*every.ALWAYS, *every.WITH_DATA, every.real_goal, *every.ALONE}
    assert {module.__name__ for module in run} == {f"benchmarks.{name}" for name in BENCHMARKS}


def test_one_benchmark_is_run_by_its_name(capsys) -> None:
    every = import_module("benchmarks.__main__")
    with pytest.raises(SystemExit):
        every.main(["gpu", "--help"])
    assert "--tiny" in capsys.readouterr().out
    assert every.main(["cpu"]) == 2
    assert "wanted one of ablation, augment, decode" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_with_tiny_sizes(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu = import_module("benchmarks.gpu")
    assert gpu.main(["--tiny", "--no-compile", "--no-tests", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    for model in gpu.MODELS:
        training = found[f"training {model}"]
        assert training["images_per_second"] > 0
        assert training["share_of_matrix_rate"] > 0
        assert training["synchronisations_per_step"] == 0
        for what in ("fast_scoring", "detections"):
            assert found[f"inference {model}"][what].keys() >= {"1", "2"}
    assert found["mining"]["scanned"] == found["mining"]["images"] == 24
    assert found["mining"]["handed_out"] > 0
    assert found["training from disk"]["images_per_second"] > 0


def test_a_part_that_fails_or_has_no_time_is_recorded_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    report = import_module("benchmarks.gpu").Report(tmp_path / "r.json", limit=5.0)
    report.part("broken", 0, lambda: 1 / 0)
    report.part("long", 1000, lambda: "never")
    report.part("good", 0, lambda: 3)
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["broken"]["error"].startswith("ZeroDivisionError")
    assert "wanted 1000" in found["long"]["left out"]
    assert found["good"] == 3
    assert report.failed == ["broken", "long"]


@pytest.mark.slow
def test_the_quick_ablation_runs_to_its_end(capsys) -> None:
    assert import_module("benchmarks.ablation").main(["--quick"]) == 0
    out = capsys.readouterr().out
    assert "| normaliser | batch | 1 |" in out
    assert "| decoding | per class | 1 |" in out
    assert out.count("not run") >= 8
