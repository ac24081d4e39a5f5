"""Checkpoints that are not what they should be: one line, nothing executed."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hardmine.errors import CheckpointError
from hardmine.models.backbones import Taps, TapsConfig, Vgg16, VggConfig
from hardmine.models.ssd import SSD
from hardmine.models.state_dict import read_state_dict
from hardmine.recipes.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_state,
    load_weights_into,
    save_checkpoint,
)
from hardmine.recipes.recipe import Recipe


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.mkdir, (self.target,))


def make(path: Path, recipe: Recipe, categories: tuple[str, ...] = ("a",)) -> Path:
    model = SSD(recipe.model, categories)
    save_checkpoint(path, model.state_dict(), recipe, categories)
    return path


def test_round_trip(tmp_path: Path, tiny_recipe: Recipe) -> None:
    model = SSD(tiny_recipe.model, ("a", "b")).eval()
    save_checkpoint(tmp_path / "x.safetensors", model.state_dict(), tiny_recipe, ("a", "b"))
    again, recipe = load_checkpoint(tmp_path / "x.safetensors")
    images = torch.randint(0, 255, (2, 3, 48, 48), dtype=torch.uint8)
    assert torch.equal(model(images).class_logits, again(images).class_logits)
    assert recipe == tiny_recipe


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, tiny_recipe: Recipe) -> None:
    names = ("a", 'quoted "b"\n', "Füchse 🦊")
    state = SSD(tiny_recipe.model, names).state_dict()
    files = [tmp_path / f"{index}.safetensors" for index in range(6)]
    for file in files:
        save_checkpoint(file, state, tiny_recipe, names)
    assert len({file.read_bytes() for file in files}) == 1
    model, _ = load_checkpoint(files[0])
    assert model.categories == names
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_weights_are_not_loaded_into_classes_in_another_order(
    tmp_path: Path, tiny_recipe: Recipe
) -> None:
    path = make(tmp_path / "x.safetensors", tiny_recipe, ("a", "b"))
    with pytest.raises(CheckpointError, match=r"has classes \['a', 'b'\], wanted \['b', 'a'\]"):
        load_weights_into(SSD(tiny_recipe.model, ("b", "a")), path)


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ([("mined", 0, "a"), ("random", 1, "b"), ("mined", 1, "c"), ("random", 2, "d")], "c"),
        ([("none", 0, "a"), ("random", 1, "b"), ("none", 1, "c"), ("random", 2, "d")], "c"),
        ([], None),
    ],
)
def test_the_folder_of_a_loop_names_the_weights_of_its_last_round(
    tmp_path: Path, rows: list[tuple[str, int, str]], key: str | None
) -> None:
    named = [{"arm": arm, "round": number, "model": model} for arm, number, model in rows]
    (tmp_path / "rounds.json").write_text(json.dumps(named))
    expected = tmp_path if key is None else tmp_path / "models" / key
    assert find_checkpoint(tmp_path) == expected / "last.safetensors"
    (tmp_path / "last.safetensors").touch()  # an external trainer may write its own
    assert find_checkpoint(tmp_path) == tmp_path / "last.safetensors"


def test_missing_truncated_foreign(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = make(tmp_path / "x.safetensors", tiny_recipe)
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "y.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(cut)
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a Hardmine checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_other_classes_and_another_architecture(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = make(tmp_path / "x.safetensors", tiny_recipe)
    with pytest.raises(CheckpointError, match=r"has classes \['a'\], wanted \['b'\]"):
        load_weights_into(SSD(tiny_recipe.model, ("b",)), path)
    with pytest.raises(CheckpointError, match="'tiny' do not fit 'ssdlite320_mobilenet_v2'"):
        load_weights_into(SSD(Recipe().model, ("a",)), path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "made_by_code"
    for name in ("weights.pth", "state.pt"):
        torch.save({"w": Bomb(trap)}, tmp_path / name)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb(trap)))
    for name in ("weights.pth", "bare.pth"):
        with pytest.raises(CheckpointError, match="wants to run code") as refused:
            read_state_dict(tmp_path / name)
        assert "PyTorch 2.6" not in str(refused.value)
        assert "torch.save(model.state_dict()" in str(refused.value)
    with pytest.raises(CheckpointError, match="unreadable training state"):
        load_state(tmp_path / "state.pt")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("module", "whose", "way_on"),
    [
        ("ultralytics.nn.tasks", "of Ultralytics", "yolo export"),
        ("models.yolo", "of YOLOv5 or YOLOv7", r"\.onnx file"),
        ("mmengine.logging", "of OpenMMLab", r"\.onnx file"),
        ("somebody.nets", "that wants to run code", r"torch\.save\(model\.state_dict"),
    ],
)
def test_a_checkpoint_of_another_framework_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, whose: str, way_on: str
) -> None:
    """As a detector and as weights to start from; the file is written by a module of that name."""
    made = types.ModuleType(module)
    thing = type("DetectionModel", (), {"__module__": module})
    made.DetectionModel = thing  # type: ignore[attr-defined]
    parts = module.split(".")
    for i in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:i]))
        package.__path__ = []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module, made)
    path = tmp_path / "best.pt"
    torch.save({"model": thing(), "epoch": 3}, path)
    for load in (load_checkpoint, read_state_dict):
        with pytest.raises(CheckpointError, match=f"{whose}.*{module}.DetectionModel.*{way_on}"):
            load(path)


def test_plain_weights_are_no_detector(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"plain weights.*torchvision:NAME:FILE"):
        load_checkpoint(tmp_path / "w.pth")
    assert list(read_state_dict(tmp_path / "w.pth")) == ["w"]


def test_backbone_weights_that_do_not_fit(tmp_path: Path) -> None:
    taps = Taps(TapsConfig())
    torch.save({"features.0.0.weight": torch.zeros(1)}, tmp_path / "few.pth")
    with pytest.raises(CheckpointError, match="not the weights of mobilenet_v2: lacks 311 of its"):
        taps.load_weights(tmp_path / "few.pth")
    with pytest.raises(
        CheckpointError, match="not the weights of vgg16: lacks 26 of its 26 tensors"
    ):
        Vgg16(VggConfig()).load_weights(tmp_path / "few.pth")
    state = dict(taps.rest.state_dict())
    state["features.0.0.weight"] = torch.zeros(2, 3, 3, 3)
    torch.save(state, tmp_path / "shape.pth")
    with pytest.raises(CheckpointError, match=r"has shape \(2, 3, 3, 3\), wanted \(32, 3, 3, 3\)"):
        taps.load_weights(tmp_path / "shape.pth")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("keras.h5", b"\x89HDF\r\n\x1a\n" + b"x" * 99, "an HDF5 file, such as Keras writes"),
        ("model.engine", b"ftrt" + b"x" * 99, "an engine of TensorRT.*export it to ONNX"),
        (
            "last.onnx",
            b"\x08\x0a" + b"x" * 99,
            r"ONNX file; a checkpoint \(\.safetensors\) is wanted",
        ),
        ("last.tflite", b"x" * 99, r"LiteRT model; a checkpoint \(\.safetensors\) is wanted"),
        ("yolov4.weights", bytes(99), "weights of Darknet"),
        ("film.mp4", b"\0\0\0\x18ftypmp42" + b"x" * 99, "a video"),
        ("a.jpg", b"\xff\xd8\xff" + b"x" * 99, "a picture"),
        ("a.pkl", b"\x80\x04" + b"x" * 99, "a Python pickle, which can run code"),
        ("empty.safetensors", b"", "an empty file"),
        ("text.safetensors", b"hello world, no weights", "a text that begins 'hello world, no"),
        ("odd.safetensors", b"\x01\x02\xff\xfe" * 9, r"readable checkpoint \(Error"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_looks_like(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)
