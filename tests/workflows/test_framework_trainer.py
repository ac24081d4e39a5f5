"""Another framework's trainer by name, with a stand-in for its package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hardmine
from hardmine.data.formats.coco_writing import write_coco
from hardmine.errors import CommandError, ConfigError
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.external_trainer import make_trainer
from hardmine.workflows.framework_trainer import FrameworkTrainer
from hardmine.workflows.train_options import TrainerCommands
from hardmine.workflows.trainer_data import TrainingTask, write_yolo
from shelf_world import make_world

STAND_IN = """
import json, os, types
from pathlib import Path
import torch, yaml
from ultralytics.nn.tasks import DetectionModel


class YOLO:
    task = "detect"

    def __init__(self, path):
        self.start, self.overrides = path, {"imgsz": 640}
        if path.endswith(".pt"):
            self.facts = torch.load(path, weights_only=False)["facts"]
            self.names = self.facts["names"]

    def train(self, **how):
        data = yaml.safe_load(Path(how["data"]).read_text())
        root = Path(data["path"])
        labels = sorted((root / data["train"].replace("images", "labels")).iterdir())
        images = sorted((root / data["train"]).iterdir())
        assert [p.stem for p in labels] == [p.stem for p in images]
        assert all(p.resolve().is_file() for p in images)
        if (Path(__file__).parent / "fail").exists():
            raise RuntimeError("CUDA error: out of luck")
        kinds = sorted(p.stem.split("_")[1] for p in labels if not p.read_text())
        facts = {"start": self.start, "empty": kinds, "names": data["names"]}
        facts |= {key: how[key] for key in ("epochs", "imgsz", "seed", "device", "batch")}
        out = Path(how["project"]) / how["name"] / "weights"
        out.mkdir(parents=True)
        torch.save({"model": DetectionModel(), "facts": facts}, out / "last.pt")

    def predict(self, pictures, **how):
        assert how["imgsz"] == self.facts["imgsz"]
        rows = [(0.1 + 0.8 * p.mean() / 255, [8.0, 8.0, 24.0, 24.0]) for p in pictures]
        return [
            types.SimpleNamespace(
                boxes=types.SimpleNamespace(
                    xyxy=torch.tensor([box]), conf=torch.tensor([score]), cls=torch.tensor([0.0])
                )
            )
            for score, box in rows
        ]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package named ultralytics before any other, here and in processes that are started."""
    folder = tmp_path / "site" / "ultralytics"
    (folder / "nn").mkdir(parents=True)
    (folder / "__init__.py").write_text(STAND_IN)
    (folder / "nn" / "__init__.py").write_text("")
    (folder / "nn" / "tasks.py").write_text("class DetectionModel: pass\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    paths = [str(tmp_path / "site"), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name, raising=False)


def facts_of(weights: Path) -> dict[str, Any]:
    found = torch.load(weights, weights_only=False)["facts"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("no_page")
def test_a_loop_with_a_trainer_by_name(tmp_path: Path, package: Path) -> None:
    """Arms start from round 0's weights, and mined images are in the data as background."""
    make_world(tmp_path)
    out = tmp_path / "out"
    loop = partial(hardmine.run_loop, out=out, device="cpu")
    asked: dict[str, Any] = {
        "pool": tmp_path / "pool",
        "val": 0.25,
        "framework": "ultralytics:yolo11n.yaml@64",
        "rounds": 1,
        "add": 0.5,
        "arms": ("mined", "none"),
        "batch": 4,
    }
    (package / "fail").touch()
    with pytest.raises(CommandError, match="out of luck"):
        loop(tmp_path / "shelf", **asked)
    (package / "fail").unlink()
    loop(resume=True)
    made = [facts_of(path) for path in out.glob("models/*/last.pt")]
    assert sorted(Path(one["start"]).name for one in made) == ["last.pt", "last.pt", "yolo11n.yaml"]
    base = next(one for one in made if one["start"] == "yolo11n.yaml")
    assert (base["imgsz"], base["device"], base["batch"]) == (64, "cpu", 4)
    assert base["names"] == {0: "bottle", 1: "can"}
    added = [sorted(set(one["empty"]) - set(base["empty"])) for one in made if one is not base]
    assert sorted(map(bool, added)) == [False, True]
    assert all(name.startswith("p") for name in max(added, key=len))


def test_the_data_are_written_as_the_trainer_wants_them(tmp_path: Path) -> None:
    """Two images of one name, an empty one, and one with a box that is to be ignored."""
    records = []
    for index, (folder, boxes, ignored) in enumerate(
        [("a", [[10, 20, 30, 60]], [False]), ("b", [], []), ("c", [[0, 0, 5, 5]], [True])]
    ):
        path = tmp_path / folder / "x.png"
        path.parent.mkdir()
        Image.new("RGB", (100, 80), (index, 0, 0)).save(path)
        values = np.array(boxes, np.float32).reshape(-1, 4)
        labels = np.full(len(boxes), 2, np.int64)
        state = ImageState.LABELLED if boxes else ImageState.VERIFIED_EMPTY
        records.append(
            ImageRecord(path, 100, 80, values, labels, np.array(ignored, np.bool_), state)
        )
    write_coco(Dataset(("cat", "dog"), tuple(records), tmp_path), tmp_path / "t.json")
    assert write_yolo(tmp_path / "t.json", tmp_path / "t.json", tmp_path / "yolo") == 2
    data = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert data["names"] == {0: "cat", 1: "dog"}
    labels = sorted((tmp_path / "yolo" / "labels" / "train").iterdir())
    assert [path.read_text() for path in labels] == ["1 0.200000 0.500000 0.200000 0.500000\n", ""]
    images = sorted((tmp_path / "yolo" / "images" / "train").iterdir())
    assert [path.stem for path in images] == [path.stem for path in labels]
    assert Image.open(images[1]).getpixel((0, 0)) == (1, 0, 0)


def test_yolos_get_images_in_formats_that_ultralytics_reads(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80), (1, 2, 3)).save(tmp_path / "a.ppm")
    Image.new("RGB", (100, 80)).save(tmp_path / "b.jfif")
    records = [
        ImageRecord.empty(tmp_path / name, 100, 80, ImageState.VERIFIED_EMPTY)
        for name in ("a.ppm", "b.jfif")
    ]
    write_coco(Dataset(("cat",), tuple(records), tmp_path), tmp_path / "t.json")
    write_yolo(tmp_path / "t.json", tmp_path / "t.json", tmp_path / "yolo")
    first, second = sorted((tmp_path / "yolo" / "images" / "train").iterdir())
    assert (first.name, second.name) == ("000000_a.png", "000001_b.jpg")
    assert Image.open(first).getpixel((0, 0)) == (1, 2, 3)
    assert second.samefile(tmp_path / "b.jfif")


@pytest.mark.parametrize(
    ("images", "steps", "epochs", "batch", "wanted"),
    [
        (160, 100, 3.0, 16, (10, 100)),
        (161, 100, 3.0, 16, (9, 100)),
        (161, 100, 3.0, 8, (5, 100)),
        (10, None, 2.6, 4, (3, 6)),
        (160, 1, 1.0, 16, (1, 1)),
    ],
)
def test_steps_are_given_as_epochs(
    images: int, steps: int | None, epochs: float, batch: int, wanted: tuple[int, int]
) -> None:
    """160 images are 10 steps of 16, 161 are 11 (100 / 11 = 9.1); 2.6 · 10 / 4 = 6.5 steps."""
    nowhere = Path("none")
    task = TrainingTask(
        "x", None, None, nowhere, nowhere, nowhere, 0, steps, epochs, batch, torch.device("cpu")
    )
    assert (task.count_epochs(images), task.count_steps(images)) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yolo11n.yaml", r"wanted FRAMEWORK:MODEL\[@SIDE\]"),
        ("ultralytic:x.yaml", r"wanted one of ultralytics, .*; did you mean 'ultralytics'"),
        ("ultralytics:runs/gone.pt", r"runs/gone\.pt: no such file"),
        ("torchvision:ssd300_vgg16@320", r"has an image size of its own"),
    ],
)
def test_a_trainer_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrameworkTrainer.parse(text)


@pytest.mark.usefixtures("package")
def test_a_trainer_and_a_command_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        TrainerCommands(framework="ultralytics:x.yaml", train_command="a {weights_out}")
    trainer = make_trainer(TrainerCommands(framework="ultralytics:x.yaml@320"), tmp_path)
    assert trainer.detector == "{weights_out}@320"
    assert "--side 320" in trainer.train
