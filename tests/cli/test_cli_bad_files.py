"""Checkpoints and recipes that are not what they should be, through every command that takes one.

One clear line, exit 1 for a checkpoint and 2 for a recipe, and nothing in the file is executed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hardmine.cli import console as failures
from hardmine.data.formats.coco_writing import write_coco
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.neck_and_head import ExtraLayersConfig
from hardmine.models.ssd import SSDConfig, make_network
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe, recipe_to_dict
from hardmine.types import Dataset, ImageRecord, ImageState

Cli = Callable[..., tuple[int, str, str]]
COMMANDS = ("val {} labels.json", "mine {} images", "predict {} images", "recipe {}")


class Bomb:
    """Unpickling it makes a folder called ``ran``."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.mkdir, (Path("ran"),))


@pytest.fixture
def recipe() -> Recipe:
    small = named_recipe("small160")
    assert isinstance(small.model, SSDConfig)
    model = replace(
        small.model,
        name="tiny",
        height=48,
        width=48,
        backbone=SmallNetConfig(widths=(4, 4, 8), depths=(1, 1, 1), num_taps=1),
        neck=ExtraLayersConfig(widths=(), depthwise=False),
    )
    return replace(small, model=model, precision="fp32")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> Path:
    """Images, labels, a sound checkpoint ``good.safetensors``; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    records = []
    for index in range(6):
        path = tmp_path / "images" / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        box = np.array([[4, 4, 40, 40]], np.float32)
        one, none = np.ones(1, np.int64), np.zeros(1, np.bool_)
        records.append(ImageRecord(path, 48, 48, box, one, none, ImageState.LABELLED))
    write_coco(Dataset(("cat",), tuple(records), tmp_path), tmp_path / "labels.json")
    write(tmp_path / "good.safetensors", recipe)
    return tmp_path


def write(path: Path, recipe: Recipe, built: Recipe | None = None) -> None:
    """Write a checkpoint that says ``recipe`` and holds the weights of ``built``."""
    network = make_network((built or recipe).model, ("cat",))
    save_checkpoint(path, network.state_dict(), recipe, ("cat",))


def with_metadata(path: Path, built: Recipe, **changed: str) -> None:
    metadata = {
        "format": "hardmine-1",
        "version": "0.1.0",
        "recipe": json.dumps(recipe_to_dict(built)),
        "categories": '["cat"]',
    }
    network = make_network(built.model, ("cat",))
    save_file(network.state_dict(), path, {**metadata, **changed})


def spoil(name: str, recipe: Recipe) -> str:
    """Write a bad checkpoint and return what must be said of it."""
    path, whole = Path("bad.safetensors"), Path("good.safetensors").read_bytes()
    values = recipe_to_dict(recipe)
    if name == "truncated":
        path.write_bytes(whole[:-64])
        return "not a readable checkpoint"
    if name == "cut in its header":
        path.write_bytes(whole[:40])
        return "not a readable checkpoint"
    if name == "empty":
        path.write_bytes(b"")
        return "not a readable checkpoint"
    if name == "pickle":
        torch.save({"model": Bomb()}, path)
        return "wants to run code"
    if name == "bare pickle":
        path.write_bytes(pickle.dumps(Bomb()))
        return "not a readable checkpoint"
    if name == "foreign":
        save_file({"w": torch.zeros(3)}, path)
        return "not a Hardmine checkpoint"
    if name == "unknown key":
        with_metadata(path, recipe, recipe=json.dumps({**values, "epoch": 3}))
        return "unknown key 'epoch'"
    if name == "no recipe":
        with_metadata(path, recipe, recipe="[1, 2]")
        return "unreadable recipe or classes"
    if name == "odd classes":
        with_metadata(path, recipe, categories='{"cat": 1}')
        return "unreadable recipe or classes"
    if name == "another network":
        values["model"] = {"kind": "torchvision", "name": "../../../tmp/code"}
        values["loss"] = recipe_to_dict(Recipe())["loss"]
        with_metadata(path, recipe, recipe=json.dumps(values))
        return "no model of torchvision's"
    assert name == "another architecture"
    assert isinstance(recipe.model, SSDConfig)
    wide = SmallNetConfig(widths=(4, 4, 16), depths=(1, 1, 1), num_taps=1)
    write(path, recipe, replace(recipe, model=replace(recipe.model, backbone=wide)))
    return "weights of 'tiny' do not fit 'tiny'"


FAULTS = (
    "truncated",
    "cut in its header",
    "empty",
    "pickle",
    "bare pickle",
    "foreign",
    "unknown key",
    "no recipe",
    "odd classes",
    "another network",
    "another architecture",
)
ONLY_WHERE_BUILT = ("another network", "another architecture")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.split()[0])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_one_line(
    cli: Cli, work: Path, recipe: Recipe, command: str, fault: str
) -> None:
    message = spoil(fault, recipe)
    if command.startswith("recipe") and fault in ONLY_WHERE_BUILT:
        return  # it reads the metadata alone
    code, out, err = cli(command.format("bad.safetensors"))
    assert (code, out) == (failures.FAILURE, ""), err
    assert err.count("\n") == 1
    assert err.startswith("hardmine: ")
    assert "fault" not in err
    assert "bad.safetensors" in err
    assert message in err
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.split()[0])
def test_a_folder_without_weights(cli: Cli, work: Path, command: str) -> None:
    Path("run").mkdir()
    code, out, err = cli(command.format("run"))
    assert (code, out) == (failures.FAILURE, "")
    if command.startswith("recipe"):
        assert err == "hardmine: run/last.safetensors: no such file\n"
    else:
        assert err.startswith("hardmine: run: a folder without a model or predictions; wanted ")


def test_a_checkpoint_of_another_class_list(cli: Cli, work: Path, recipe: Recipe) -> None:
    network = make_network(recipe.model, ("dog",))
    save_checkpoint(work / "dog.safetensors", network.state_dict(), recipe, ("dog",))
    code, _, err = cli("val dog.safetensors labels.json -q")
    assert (code, err.count("\n")) == (failures.FAILURE, 1)
    assert "class of the data: cat; it knows dog" in err


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.pt", "bomb.safetensors"])
def test_starting_weights_that_would_run_code(cli: Cli, work: Path, name: str) -> None:
    torch.save({"features.0.0.weight": Bomb()}, name)
    code, _, err = cli(
        "train labels.json --val labels.json -o t -q",
        f"--model ssdlite320_mobilenet_v2 --weights {name}",
    )
    assert (code, err.count("\n")) == (failures.FAILURE, 1)
    assert name in err
    assert not Path("ran").exists()


def test_a_training_state_that_would_run_code(cli: Cli, work: Path, recipe: Recipe) -> None:
    import yaml

    Path("r.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    line = "train labels.json --val labels.json --recipe r.yaml --set epochs=1 -o t -q"
    assert cli(line, "--draws 0 --validate 0")[0] == 0
    torch.save({"identity": Bomb()}, "t/state.pt")
    code, _, err = cli(line, "--resume --draws 0 --validate 0")
    assert (code, err.count("\n")) == (failures.FAILURE, 1)
    assert "t/state.pt: unreadable training state" in err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("epoch: 3", "unknown key 'epoch'"),
        ("decode: {kind: argmax, sigma: 1}", "unknown key 'decode.sigma'"),
        ("decode: {kind: best}", "decode: "),
        ("augment: {max_expand: 0.5}", "max_expand >= 1"),
        ("batch: {size: 0}", "batch.size: got 0"),
        ("model: {kind: torchvision}\ndecode: {kind: soft_nms}", "torchvision"),
        ("!!python/object/apply:os.mkdir [ran]", "not a readable recipe"),
        ("[1, 2]", "wanted a mapping"),
        ("a: &a [*a]", "unknown key 'a'"),
        ("\x00", "not a readable recipe"),
    ],
)
@pytest.mark.parametrize("command", ["train labels.json", "loop labels.json --pool images"])
def test_a_bad_recipe_is_one_line(cli: Cli, work: Path, command: str, text: str, part: str) -> None:
    Path("bad.yaml").write_text(text)
    code, out, err = cli(command, "--recipe bad.yaml -o out -q")
    assert (code, out) == (failures.USAGE, ""), err
    assert err.startswith("hardmine: bad.yaml: ")
    assert err.count("\n") == 1
    assert part in err
    assert not Path("ran").exists()
    assert not Path("out").exists()


def test_validation_keeps_the_best_and_changes_nothing(
    cli: Cli, work: Path, recipe: Recipe
) -> None:
    import yaml
    from safetensors.torch import load_file

    Path("r.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    line = "train labels.json --val labels.json --recipe r.yaml --set batch.size=2"
    weights: list[Any] = []
    for times in (0, 3):
        out = f"t{times}"
        code, text, err = cli(line, f"--epochs 2 --draws 0 --validate {times} -o {out} -q")
        assert code == 0, err
        assert ("best.safetensors" in text) == (times > 0)
        weights.append(load_file(f"{out}/last.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    rows = Path("t3/validation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4", "6"]
    assert not Path("t0/validation.csv").exists()
    assert Path("t3/best.safetensors").exists()
