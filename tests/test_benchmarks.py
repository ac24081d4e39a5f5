"""The benchmarks run for hours and not here; what is tested is that none has been left behind."""

import json
import re
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.comparison.compare_options import CompareOptions
from hardmine.types import Dataset, ImageRecord, ImageState

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
def test_the_quick_ablation_runs_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert import_module("benchmarks.ablation").main(["--quick"]) == 0
    out = capsys.readouterr().out
    for variant in (
        "normaliser | batch",
        "decoding | per class",
        "resize, turned by 90° | letterbox",
        "priors | fitted",
        "alarm-paste | alarm-paste",
    ):
        assert f"| {variant} | 1 |" in out
    assert out.count("not run") >= 6


def test_a_table_is_put_between_the_marks_of_a_page_or_into_a_new_one(tmp_path: Path) -> None:
    ablation = import_module("benchmarks.ablation")
    page = tmp_path / "new" / "table.md"
    ablation.write_table(page, ["| one |"], "make it")
    first = page.read_text()
    assert first.startswith("# Ablation\n")
    assert first.count("| one |") == 1
    page.write_text(f"before\n{first}after\n")
    ablation.write_table(page, ["| two |"], "make it")
    again = page.read_text()
    assert again.startswith("before\n# Ablation\n")
    assert again.endswith("after\n")
    assert "| one |" not in again
    assert again.count("| two |") == again.count(ablation.BEGIN) == again.count(ablation.END) == 1


def test_an_ablation_goes_on_after_a_failed_cell_and_after_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Two cells: the second fails, then the command is killed in it, then it is trained alone."""
    ablation = import_module("benchmarks.ablation")
    module = import_module("hardmine.workflows.train_and_evaluate")
    given = ablation.quick(tmp_path)
    line = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    line += ["--only", "normaliser", "--variants", "batch", "--seeds", "1", "--epochs", "0.5"]
    line += ["--out", str(tmp_path / "out"), "--table", str(tmp_path / "table.md")]
    train, trained = module.train, []

    def stopped_by(error: BaseException | None):
        def run(*args: object, **options: object) -> object:
            kind = options["recipe"].loss.normaliser.kind
            if kind == "batch" and error is not None:
                raise error
            trained.append(kind)
            return train(*args, **options)

        return run

    monkeypatch.setattr(module, "train", stopped_by(RuntimeError("no memory")))
    assert ablation.main(line) == 1
    assert "batch: 1 of 1 trainings failed: RuntimeError: no memory" in capsys.readouterr().out
    assert "| normaliser | batch | 0 (1 failed) | – |" in (tmp_path / "table.md").read_text()
    monkeypatch.setattr(module, "train", stopped_by(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ablation.main(line)
    monkeypatch.setattr(module, "train", stopped_by(None))
    assert ablation.main(line) == 0
    assert trained == ["image", "batch"]
    assert "| normaliser | batch | 1 | 0." in (tmp_path / "table.md").read_text()


def test_a_contrast_that_cannot_be_run_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    ablation = import_module("benchmarks.ablation")
    setup = ablation.Setup("data", "ssd320_mobilenet_v2_fpnlite", tmp_path, CompareOptions())
    row = ablation.AblationRow("odd", "a claim", ("a:model.init.kind=strange", "b:epochs=1"))
    assert ablation.run_contrast(row, setup, None) is False
    assert "odd failed: " in capsys.readouterr().out
    assert not list(tmp_path.glob("odd*"))
    with pytest.raises(SystemExit):
        ablation.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert "nowhere" in capsys.readouterr().err


def test_turned_boxes_lie_on_the_turned_picture(tmp_path: Path) -> None:
    """A white box of 10 × 6 px in a black picture of 40 × 30 px is found again where its box says."""
    ablation = import_module("benchmarks.ablation")
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[20:26, 5:15] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = np.array([[5, 20, 15, 26]], np.float32)
    one = np.ones(1, np.int64)
    record = ImageRecord(
        tmp_path / "a.png", 40, 30, boxes, one, np.zeros(1, bool), ImageState.LABELLED
    )
    turned = ablation.turn_images(Dataset(("a",), (record,), tmp_path), tmp_path / "turned")
    assert (turned[0].width, turned[0].height) == (30, 40)
    assert turned[0].boxes.tolist() == [[20.0, 25.0, 26.0, 35.0]]
    white = np.asarray(Image.open(turned[0].path).convert("L"))
    assert white[25:35, 20:26].min() == 255
    assert int(white.sum()) == 255 * 60


def test_every_contrast_has_a_reference_and_another_variant_of_a_valid_recipe(
    tmp_path: Path,
) -> None:
    """Priors are fitted and alarms are found on data; the test of the quick ablation has these."""
    ablation = import_module("benchmarks.ablation")
    setup = ablation.Setup("data", "ssd320_mobilenet_v2_fpnlite", tmp_path, CompareOptions())
    for row in ablation.CONTRASTS:
        if row.name in ("priors", "alarm-paste"):
            continue
        made = ablation.variants_of(row, setup)
        recipes = [ablation.recipe_of(variant, setup.how) for variant in made]
        assert len(made) >= 2
        assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i]), row.name


def test_hidden_labels_are_the_share_that_was_asked_for_and_no_image_loses_its_last() -> None:
    hidden = import_module("benchmarks.hidden_labels")
    records = tuple(
        ImageRecord(
            Path(f"{i}.png"),
            100,
            100,
            np.tile(np.array([[0, 0, 9, 9]], np.float32), (1 + i % 4, 1)),
            np.ones(1 + i % 4, np.int64),
            np.zeros(1 + i % 4, bool),
            ImageState.LABELLED,
        )
        for i in range(40)
    )
    whole = Dataset(("a",), records, Path())  # 100 labels
    rest = hidden.hide_share(whole, 0.1, seed=3)
    assert sum(len(record.labels) for record in rest) == 90
    assert min(len(record.labels) for record in rest) == 1
    again = hidden.hide_share(whole, 0.1, seed=3)
    assert [len(a.labels) for a in rest] == [len(b.labels) for b in again]
    assert [len(a.labels) for a in rest] != [
        len(b.labels) for b in hidden.hide_share(whole, 0.1, seed=4)
    ]


def test_a_list_is_counted_by_the_different_labels_that_it_finds() -> None:
    """Four places, three right, one of them twice the same label, of four hidden: 3 / 4 and 2 / 4."""
    listed = import_module("benchmarks.hidden_labels").Listed(
        4, (True, True, False, True), (1, 1, 1, 2)
    )
    found = listed.to_dict()
    assert (found["precision"], found["recall"]) == (0.75, 0.5)
    assert found["first"][1] == {"places": 2, "precision": 1.0, "recall": 0.25}


def test_the_table_of_planted_causes_is_that_of_the_results() -> None:
    """Each row of docs/diagnosis.md: the cause that is named first, and the figure, for each seed."""
    root = Path(__file__).parents[1]
    kept = json.loads((root / "benchmarks/results/diagnosis.json").read_text())["rows"]
    lines = (root / "docs/diagnosis.md").read_text().splitlines()
    start = lines.index(
        "| planted | named first in the runs of seeds 0, 1, 2 | measured with seeds 0, 1, 2 "
        "| in the healthy runs | limit |"
    )
    plants = [plant.name for plant in import_module("benchmarks.diagnosis").PLANTS]
    for name, line in zip(plants, lines[start + 2 :], strict=False):
        rows = sorted((row for row in kept if row["planted"] == name), key=lambda row: row["seed"])
        assert [row["seed"] for row in rows] == [0, 1, 2]
        _, _, named, measured, *_ = (cell.strip() for cell in line.split("|"))
        assert named.split(", ") == [(row["causes"] or ["nothing"])[0] for row in rows]
        shown = re.findall(r"\d*\.?\d+", measured)[:3]
        for text, row in zip(shown, rows if name != "healthy" else [], strict=True):
            step = 10.0 ** -len(text.partition(".")[2])
            figure = float(re.findall(r"\d+\.?\d*", row["effect"])[0])
            assert abs(float(text) - figure) <= 0.51 * step, (line, row["effect"])
