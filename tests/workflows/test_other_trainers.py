"""LibreYOLO, RF-DETR and Hugging Face as trainers, by stand-ins, and torchvision itself."""

from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.images import image_size
from hardmine.errors import MissingExtraError
from hardmine.inference.load_detector import load_detector
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.external_trainer import make_trainer
from hardmine.workflows.framework_trainer import TRAINERS, FrameworkTrainer, main
from hardmine.workflows.loss_training import Example, draw_batches
from hardmine.workflows.train_options import TrainerCommands

NAMES = ("cat", "dog")
FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write four images, two of them empty, as the loop writes its data."""
    records = []
    for index in range(4):
        path = tmp_path / "images" / f"x{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 60), (40 * index, 90, 30)).save(path)
        boxes = np.array([[10, 20, 30, 50]] if index < 2 else [], np.float32).reshape(-1, 4)
        labels = np.full(len(boxes), 2, np.int64)
        state = ImageState.LABELLED if len(boxes) else ImageState.VERIFIED_EMPTY
        ignore = np.zeros(len(boxes), np.bool_)
        records.append(ImageRecord(path, 80, 60, boxes, labels, ignore, state))
    write_coco(Dataset(NAMES, tuple(records), tmp_path), tmp_path / "data.json")
    return tmp_path / "data.json"


def run(text: str, data: Path, out: Path, start: Path | None = None, **more: object) -> Path:
    """Train as the loop's command does, in this process; return the weights."""
    out.mkdir(exist_ok=True)
    named = FrameworkTrainer.parse(text)
    weights = out / named.trainer.weights_name
    side = [] if named.side is None else ["--side", str(named.side)]
    options = {"steps": 2, "batch": 2, "seed": 5, "device": "cpu", **more}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    files = ["--train-json", str(data), "--val-json", str(data), "--weights-out", str(weights)]
    begin = [] if start is None else ["--init-weights", str(start)]
    assert main([named.trainer.name, named.model, *side, *files, *begin, *words]) == 0
    return weights


def put(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, name, module)


def test_libreyolo_gets_yolo_data_and_its_last_weights_are_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Model:
        def __init__(self, start: str, device: str) -> None:
            asked.update(start=start, on=device)

        def train(self, data: str, **how: Any) -> None:
            root = Path(yaml.safe_load(Path(data).read_text())["path"])
            labels = sorted((root / "labels" / "train").iterdir())
            asked.update(how, lines=[len(path.read_text().splitlines()) for path in labels])
            (Path(how["project"]) / how["name"] / "weights").mkdir(parents=True)
            (Path(how["project"]) / how["name"] / "weights" / "last.pt").write_bytes(b"last")

    put(monkeypatch, "libreyolo", LibreYOLO=Model)
    weights = run("libreyolo:LibreYOLO9t.pt@96", data, tmp_path / "a", steps=6)
    assert weights.read_bytes() == b"last"
    assert asked["lines"] == [1, 1, 0, 0]
    assert (asked["start"], asked["on"], asked["epochs"]) == ("LibreYOLO9t.pt", "cpu", 3)
    assert (asked["imgsz"], asked["batch"], asked["seed"], asked["workers"]) == (96, 2, 5, 0)
    run("libreyolo:LibreYOLO9t.pt", data, tmp_path / "b", weights)
    assert asked["start"] == str(weights)


def test_rfdetr_gets_coco_in_folders_and_its_averaged_weights_are_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class RFDETR:
        def __init__(self, device: str, start: str | None = None) -> None:
            asked.update(start=start)

        @classmethod
        def from_checkpoint(cls, path: str, device: str) -> RFDETR:
            return cls(device, path)

        def train(self, dataset_dir: str, output_dir: str, **how: Any) -> None:
            begun = asked.pop("start")
            asked.clear()
            for part in ("train", "valid"):
                tree = json.loads((Path(dataset_dir) / part / "_annotations.coco.json").read_text())
                places = [Path(dataset_dir) / part / one["file_name"] for one in tree["images"]]
                assert all(image_size(place) == (80, 60) for place in places)
            asked.update(how, tree=tree, start=begun)
            Path(output_dir).mkdir()
            (Path(output_dir) / "last_ema.pth").write_bytes(b"ema")

    put(monkeypatch, "rfdetr", RFDETR=RFDETR, RFDETRNano=RFDETR)
    weights = run("rfdetr:nano@128", data, tmp_path / "a", steps=4)
    assert weights.read_bytes() == b"ema"
    tree = asked["tree"]
    assert [row["image_id"] for row in tree["annotations"]] == [0, 1]
    assert tree["annotations"][0]["bbox"] == [10, 20, 20, 30]
    assert {one["supercategory"] for one in tree["categories"]} == {"object"}
    assert tree["annotations"][0]["category_id"] == tree["categories"][1]["id"]
    assert (asked["resolution"], asked["epochs"], asked["seed"]) == (128, 2, 5)
    assert asked["batch_size"] * asked["grad_accum_steps"] == 2
    run("rfdetr:nano", data, tmp_path / "b", weights)
    assert asked["start"] == str(weights)
    assert "resolution" not in asked


class HuggingFace:
    """A stand-in for transformers: one weight, whose loss is its distance to the number of boxes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.made: list[tuple[str, dict[int, str]]] = []
        outer = self

        class Config:
            def __init__(self) -> None:
                self.id2label: dict[int, str] = {}

            @classmethod
            def from_pretrained(cls, name: str, local_files_only: bool) -> Config:
                return cls()

        class Batch(dict[str, Any]):
            def to(self, device: torch.device) -> Batch:
                return self

        class Processor:
            size: Any = types.MappingProxyType({"height": 640, "width": 640})

            @classmethod
            def from_pretrained(cls, name: str, local_files_only: bool) -> Processor:
                return cls()

            def __call__(self, images: Any, annotations: Any, return_tensors: str) -> Batch:
                outer.seen += annotations
                outer.sizes = dict(self.size)
                counts = [{"n": torch.tensor(len(a["annotations"]))} for a in annotations]
                return Batch(pixels=images, labels=counts)

            def save_pretrained(self, folder: Path) -> None:
                (folder / "preprocessor_config.json").write_text("{}")

        class Model(nn.Module):
            def __init__(self, config: Config) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.rand(1))
                self.config = config

            @classmethod
            def from_config(cls, config: Config, dtype: torch.dtype) -> Model:
                outer.made.append(("config", config.id2label))
                return cls(config)

            @classmethod
            def from_pretrained(cls, name: str, config: Config, **how: Any) -> Model:
                outer.made.append((name, config.id2label))
                model = cls(config)
                values = json.loads((Path(name) / "model.safetensors").read_text())
                model.weight.data = torch.tensor(values)
                return model

            def forward(self, pixels: Any, labels: Any) -> Any:
                loss = sum((self.weight - one["n"]).abs().sum() for one in labels)
                return types.SimpleNamespace(loss=loss)

            def save_pretrained(self, folder: Path, max_shard_size: str) -> None:
                (folder / "model.safetensors").write_text(json.dumps(self.weight.tolist()))

        self.parts = {
            "AutoConfig": Config,
            "AutoImageProcessor": Processor,
            "AutoModelForObjectDetection": Model,
        }
        self.sizes: dict[str, int] = {}


def test_a_hugging_face_model_trains_from_its_configuration_and_from_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = HuggingFace()
    put(monkeypatch, "transformers", **package.parts)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = run(f"hf:{folder}@96", data, tmp_path / "a", steps=4)
    assert package.made == [("config", {0: "cat", 1: "dog"})]
    assert package.sizes == {"height": 96, "width": 96}
    assert sorted(len(one["annotations"]) for one in package.seen) == [0] * 4 + [1] * 4
    rows = [one["annotations"][0] for one in package.seen if one["annotations"]]
    assert {row["category_id"] for row in rows} == {1}
    assert sorted(row["bbox"] for row in rows)[0] == [10, 20, 20, 30]
    assert (first.parent / "preprocessor_config.json").is_file()
    again = run(f"hf:{folder}@96", data, tmp_path / "b", steps=4)
    assert first.read_text() == again.read_text()
    run(f"hf:{folder}", data, tmp_path / "c", first)
    assert package.made[-1][0] == str(first.parent)


def test_a_network_of_torchvision_trains_and_is_loaded(data: Path, tmp_path: Path) -> None:
    """Images without objects are in the batches; a later round starts from the weights."""
    text = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn@64"
    trainer = make_trainer(TrainerCommands(framework=text), tmp_path)
    first = run(text, data, tmp_path / "a")
    spec = trainer.detector.replace("{weights_out}", str(first))
    detector = load_detector(spec, "cpu", fallback=NAMES)
    assert detector.categories == NAMES
    assert detector.resize.width == 64
    state = torch.load(first)
    again = torch.load(run(text, data, tmp_path / "b"))
    assert all(torch.equal(value, again[key]) for key, value in state.items())
    more = torch.load(run(text, data, tmp_path / "c", first, steps=1))
    key = "roi_heads.box_predictor.cls_score.weight"
    change, apart = (more[key] - state[key]).abs().max(), state[key].abs().max()
    assert 0 < change < apart / 10


@pytest.mark.parametrize("kind", ["libreyolo:x.pt", "rfdetr:nano", "torchvision:" + FASTER])
def test_no_image_that_the_trainer_has_a_form_for_is_said(
    data: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(monkeypatch, "libreyolo")
    put(monkeypatch, "rfdetr")
    tree = json.loads(data.read_text())
    box = {"category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1}
    tree["annotations"] += [
        {"id": 100 + number, "image_id": image["id"], **box}
        for number, image in enumerate(tree["images"])
    ]
    data.write_text(json.dumps(tree))
    files = [f"--{name}-json={data}" for name in ("train", "val")]
    words = [*files, f"--weights-out={tmp_path / 'o.pth'}", "--steps=2", "--device=cpu"]
    assert main([*kind.split(":"), *words]) == 1
    said = capsys.readouterr().err
    assert "no image to train on (those with a box that is to be ignored are left out" in said


def test_every_epoch_draws_each_image_once() -> None:
    drawn = [one for batch in draw_batches(6, 4, 6, 0) for one in batch]
    numbers = [number for number, _ in drawn]
    assert all(sorted(numbers[i : i + 6]) == list(range(6)) for i in range(0, 24, 6))
    assert {mirror for _, mirror in drawn} == {True, False}
    assert drawn != [one for batch in draw_batches(6, 4, 6, 1) for one in batch]


def test_a_mirrored_picture_keeps_its_boxes_on_the_object() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[2:5, 3:7] = 255
    one = Example(0, pixels, np.array([[3, 2, 7, 5]], np.float32), np.array([0])).mirrored()
    left, top, right, bottom = one.boxes[0].astype(int)
    assert (one.pixels[top:bottom, left:right] == 255).all()
    assert one.pixels.sum() == pixels.sum()


def test_what_a_stock_ssd_does_not_learn_from_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = Dataset(NAMES, (), tmp_path)
    with caplog.at_level(logging.WARNING, "hardmine"):
        for name in ("fasterrcnn_resnet50_fpn", "ssd300_vgg16"):
            commands = TrainerCommands(framework=f"torchvision:{name}")
            make_trainer(commands, tmp_path).prepare(empty)
    assert [record.message.split(" takes")[0] for record in caplog.records] == [
        "torchvision's own ssd300_vgg16"
    ]


@pytest.mark.parametrize("name", [name for name, row in TRAINERS.items() if row.needs])
def test_a_missing_package_is_said_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardmine.workflows.framework_trainer.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=rf"trainer {name}:x: needs .*; pip install "):
        make_trainer(TrainerCommands(framework=f"{name}:x"), tmp_path)
