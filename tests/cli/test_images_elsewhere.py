"""Labels in one folder, images in another: commands that read labels find them by ``--images``."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import hardmine
from hardmine.cli.main import run as run_command
from hardmine.comparison import compare_recipes
from hardmine.comparison.compare_figures import CellResult
from hardmine.data.images import split_crop
from hardmine.errors import ConfigError
from hardmine.mining.mine_options import MineOptions
from shelf_world import make_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``shelf`` holds images alone, ``labels/a.json`` their labels; the folder is the working one."""
    make_world(tmp_path)
    (tmp_path / "labels").mkdir()
    made = tmp_path / "shelf" / "annotations" / "instances_all.json"
    shutil.move(made, tmp_path / "labels" / "a.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return run_command([*words, "--quiet"])


IMAGES = ("--images", "shelf/images")


def test_parts_of_labelled_images_are_mined(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("mine", "torchvision:ssdlite320_mobilenet_v3_large:none", "labels/a.json")
    command = (*command, "--pool-from-labelled", "--top", "3", "--min-score", "0", "--out", "out")
    assert run(*command) == 1
    assert "(--images)" in capsys.readouterr().err
    assert run(*command, *IMAGES) == 0
    with (world / "out" / "candidates.csv").open() as file:
        parts = [split_crop(row["image"]) for row in csv.DictReader(file)]
    assert len(parts) == 3
    assert all(part is not None and part[0].endswith(".png") for part in parts)


def test_what_label_files_name_is_left_out(world: Path) -> None:
    images = world / "shelf" / "images"
    command = ("mine", "shelf/predictions.json", str(images), "--exclude", "labels/a.json")
    assert run(*command, "--out", "out") == 1
    assert run(*command, *IMAGES, "--out", "out") == 0
    assert len(json.loads((world / "out" / "candidates.json").read_text())["leaks"]) == 12


def test_a_folder_of_images_without_labels_to_go_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="--pool-from-labelled"):
        MineOptions(images=Path())


@pytest.mark.parametrize("role", ["--val", "--against", "--negatives"])
def test_check_finds_those_of_every_file(
    role: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (world / "labels" / "a.json").read_text()
    (world / "labels" / "b.json").write_text(text)
    assert run("check", "labels/a.json", role, "labels/b.json", *IMAGES) == 1
    assert "are the same 12 files" in capsys.readouterr().out


@pytest.mark.usefixtures("world")
def test_compare_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the trainings, which are left out."""
    sizes: list[int] = []

    def no_cells(cells: Sequence[Any], jobs: int, notify: object) -> list[CellResult]:
        sizes.append(len(cells[0].sets.train))
        return [CellResult("", 0, Path(), error="left out")]

    monkeypatch.setattr(compare_recipes, "_run_all", no_cells)
    command = ("compare", "tiny.yaml", "tiny.yaml+optim.lr=0.002", "labels/a.json", "--val", "0.3")
    assert run(*command) == 1
    assert not sizes
    run(*command, *IMAGES)
    assert sizes == [9]


def test_the_call_takes_them(world: Path) -> None:
    images = world / "shelf" / "images"
    source = hardmine.mine(
        world / "shelf" / "predictions.json",
        world / "pool",
        exclude=[world / "labels" / "a.json"],
        images=images,
    )
    assert source.scanned == 6
