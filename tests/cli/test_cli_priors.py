"""``hardmine priors``: what is printed and written, and mistakes in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def planks(tmp_path: Path) -> Path:
    """VOC: 24 pictures of 160 × 160 with one long box each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "planks"
    folder.mkdir()
    for index in range(24):
        coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
        image = Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC)
        x, y = (int(v) for v in rng.integers(0, 60, 2))
        box = (x, y, x + int(rng.integers(80, 100)), y + int(rng.integers(14, 20)))
        image.save(folder / f"{index}.jpg")
        corners = "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        (folder / f"{index}.xml").write_text(
            f"<annotation><filename>{index}.jpg</filename><object><name>plank</name>"
            f"<bndbox>{corners}</bndbox></object></annotation>"
        )
    return folder


def test_show(cli: Cli) -> None:
    code, out, _ = cli("priors show small160 --json")
    shown = json.loads(out)
    assert code == 0
    assert shown["model"] == "small160"
    assert shown["count"] == sum(level["count"] for level in shown["levels"])
    assert len(shown["levels"][0]["shapes"]) == 6
    code, out, _ = cli("priors show small160")
    assert code == 0 and f"{shown['count']} priors on 160 x 160 px" in out


def test_coverage_writes_a_page(cli: Cli, planks: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    code, out, _ = cli("priors coverage", planks, "--model small160 --pictures 2 --out", out_dir)
    assert code == 0
    assert out.splitlines()[-1] == f"page: {out_dir / 'coverage.html'}"
    page = (out_dir / "coverage.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert "the worst covered box" in page and "http" not in page.replace("http-equiv", "")
    with Image.open(out_dir / "priors-0.png") as sheet:
        assert sheet.width > 800
    with Image.open(out_dir / "coverage.png") as plot:
        assert plot.width > 800
    code, out, _ = cli(
        "priors coverage", planks, "--model small160 --pictures 0 --json -q --out", out_dir
    )
    assert code == 0 and json.loads(out)["rows"][-1]["boxes"] == 24


def test_a_fit_trains(cli: Cli, planks: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "fit.yaml"
    code, out, _ = cli("priors fit", planks, "--model small160 --out", fragment)
    assert code == 0 and fragment.exists(), out
    assert "as they are, default" in out and "as they are, fitted" in out
    code, out, err = cli(
        "train",
        planks,
        "--model small160 --epochs 1 --draws 0 --weights none --recipe",
        fragment,
        "--set batch.size=4 --out",
        tmp_path / "run",
        "-q",
    )
    assert code == 0, err
    code, out, _ = cli("priors show --json", tmp_path / "run")
    assert code == 0
    assert json.loads(out)["levels"][0]["shapes"][0] in [
        [float(v) for v in pair] for pair in _first_level(fragment)
    ]


def _first_level(fragment: Path) -> list[list[float]]:
    values: list[list[float]] = yaml.safe_load(fragment.read_text())["model"]["priors"]["levels"][0]
    return values


def test_the_command_of_a_fit_trains_on_the_canvas_of_the_fit(
    cli: Cli, planks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = "--set model.height=96 --set model.width=128 --set augment.preset=none"
    code, out, err = cli("priors fit", planks, f"--model small160 {settings} --force -q")
    assert code == 0, err
    (command,) = re.findall(r"recipe: priors.yaml  \((hardmine train .*)\)", out)
    _, shown, _ = cli("recipe", command.removeprefix(f"hardmine train {planks} --model "))
    recipe = yaml.safe_load(shown)
    assert (recipe["model"]["height"], recipe["model"]["width"]) == (96, 128)
    assert recipe["model"]["priors"]["kind"] == "explicit"
    assert recipe["augment"]["crop"] is False
    # of a run, and of a file
    code, _, err = cli(
        f"train {planks} --model small160 {settings} --epochs 1 --draws 0 --weights none --validate 0 "
        "--out run -q"
    )
    assert code == 0, err
    _, out, _ = cli("priors fit", planks, "--model run --force -q")
    assert (
        f"(hardmine recipe run --recipe priors.yaml > fitted.yaml && hardmine train {planks} --r"
        in out
    )
    _, shown, _ = cli("recipe run --recipe priors.yaml")
    assert yaml.safe_load(shown)["model"]["width"] == 128
    _, out, _ = cli("priors fit", planks, "--recipe run/recipe.yaml --force -q")
    then = f"then: hardmine train {planks} --recipe run/"
    assert f"(copy its keys into run/recipe.yaml, {then}" in out


def test_no_fragment_without_a_gain(cli: Cli, planks: Path, tmp_path: Path) -> None:
    """The second fit starts from the first one's priors: there is nothing left to recommend."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    assert cli("priors fit", planks, "--model small160 --out", first)[0] == 0
    code, out, _ = cli("priors fit", planks, "--model small160 --recipe", first, "--out", second)
    assert code == 0
    assert "not recommended, keep the default: " in out
    assert not second.exists()
    code, _, _ = cli(
        "priors fit", planks, "--model small160 --force --recipe", first, "--out", second
    )
    assert code == 0 and second.exists()


def test_mistakes_are_one_line(cli: Cli, planks: Path, tmp_path: Path) -> None:
    code, _, err = cli("priors show nothing")
    assert code == 2 and err.startswith("hardmine: model: got 'nothing', wanted one of")
    code, _, err = cli("priors coverage", planks, "--model fasterrcnn_mobilenet_v3_large_320_fpn")
    assert code == 2 and "wanted one of the SSD family" in err
    code, _, err = cli("priors fit", planks, "--model small160 --budget 3")
    assert code == 2 and "got a budget of 3, wanted at least" in err.splitlines()[-1]
    code, _, err = cli("priors coverage", planks, "--split test")
    assert code == 1 and err.splitlines()[-1].endswith("has the splits all; not 'test'")
    empty = tmp_path / "empty"
    empty.mkdir()
    Image.new("RGB", (40, 40)).save(empty / "a.jpg")
    (empty / "a.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")
    code, _, err = cli("priors coverage", empty, "--model small160")
    assert code == 1 and err == f"hardmine: {empty}: no labelled box in 1 image\n"
