"""torchvision's detectors through the commands: trained by us, or as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model

from hardmine.demo.world import WorldSizes, draw_world
from tiny_models import TINY_FASTERRCNN, registered_fasterrcnn

Cli = Callable[..., tuple[int, str, str]]

RECIPE = f"""
model: {{kind: torchvision, name: {TINY_FASTERRCNN}, height: 48, width: 48}}
batch: {{size: 2}}
branch: {{epochs: 1}}
optim: {{lr: 0.003, warmup_steps: 2}}
precision: fp32
"""
TRAIN, VAL = Path("world/train/train.coco.json"), Path("world/val/val.coco.json")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A drawn world of few images and a recipe of a tiny Faster R-CNN; the current folder."""
    monkeypatch.chdir(tmp_path)
    draw_world(tmp_path / "world", 0, sizes=WorldSizes(6, 4, 4, 2))
    Path("tiny.yaml").write_text(RECIPE)
    with registered_fasterrcnn():
        yield tmp_path


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_faster_rcnn_through_every_command(cli: Cli, world: Path) -> None:
    """Trained, measured again from the file alone with the same figures, mined with, predicting."""
    how = "--recipe tiny.yaml --weights none --epochs 1 --draws 5 --negatives world/negatives -q"
    code, _, err = cli("train", TRAIN, "--val", VAL, how, "--validate 1 --out run")
    assert code == 0, err
    code, _, err = cli("val run", VAL, "--negatives world/negatives --draws 5 --out again -q")
    assert code == 0, err
    trained, again = read_json("run/metrics.json"), read_json("again/metrics.json")
    assert trained["measurement"]["images"] == 4
    assert trained["measurement"].pop("training")["images"] == 6
    assert again["measurement"].pop("training") is None  # val knows no training images
    assert trained["measurement"] == again["measurement"]

    code, _, err = cli("mine run world/pool --min-score 0 --out mined -q")
    assert code == 0, err
    lines = Path("mined/candidates.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    code, out, err = cli("predict run world/pool --min-score 0 -q")
    assert code == 0, err
    assert out.count("world/pool") >= 4


def test_faster_rcnn_in_the_loop(cli: Cli, world: Path) -> None:
    how = "--recipe tiny.yaml --weights none --epochs 1 --draws 5 --rounds 1 --min-score 0 -q"
    code, _, err = cli(
        "loop", TRAIN, "--val", VAL, "--pool world/pool --negatives world/negatives --out run", how
    )
    assert code == 0, err
    rows = read_json("run/rounds.json")
    assert len(rows) == 2


def test_a_detector_as_it_comes_mines_and_predicts(cli: Cli, world: Path) -> None:
    """From a state dict, with names of our own; random weights that fire everywhere."""
    torch.manual_seed(0)
    name = "retinanet_resnet50_fpn"
    network = get_model(name, weights=None, weights_backbone=None, num_classes=3)
    torch.nn.init.zeros_(network.head.classification_head.cls_logits.bias)
    torch.save(network.state_dict(), "weights.pth")
    Path("names.txt").write_text("cat\ndog\n")
    spec = f"torchvision:{name}:weights.pth@64 world/pool --classes names.txt -q"
    code, _, err = cli("mine", spec, "--out mined")
    assert code == 0, err
    lines = Path("mined/candidates.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert all("cat" in line or "dog" in line for line in lines[1:])
    code, out, err = cli("predict", spec)
    assert code == 0, err
    assert out.count("world/pool") >= 4
