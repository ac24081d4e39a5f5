"""Ultralytics' own package against our use of it: `make test-clients` installs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_models import (
    Rows,
    assert_same,
    assert_spread,
    drawn_data,
    drawn_pictures,
    normalised,
    pictures,
    raised,
    sorted_rows,
    train,
)
from typer.testing import CliRunner

import hardmine
from hardmine.cli.main import app
from hardmine.errors import ConfigError

ultralytics = pytest.importorskip("ultralytics")

SIDE, SCORE = 160, 0.3


def checkpoint(
    folder: Path,
    config: str,
    *,
    to_train: bool = False,
    names: tuple[str, str] = ("cat", "dog"),
) -> Path:
    """Write a checkpoint of two classes as the trainer does: in half precision.

    Args:
        to_train: scores are still spread after a few steps of training.
    """
    torch.manual_seed(0)
    data = {"nc": 2, "names": dict(enumerate(names))}
    model = ultralytics.YOLO(config)
    made = type(model.model)(model.model.yaml | {"nc": 2}, ch=3, nc=2, verbose=False)
    made.names = data["names"]
    made.args = {"imgsz": SIDE, "task": "detect", "model": config}
    if to_train:
        normalised(made, SIDE)
    bias, spread = (-1.0, 0.15) if to_train else (-0.5, 40.0)
    head = made.model[-1]
    for convs in [head.cv3, *([head.one2one_cv3] if hasattr(head, "one2one_cv3") else [])]:
        for level in convs:
            raised(level[-1], bias, spread)
    path = folder / "best.pt"
    torch.save({"model": made.half(), "train_args": made.args, "date": "", "version": "8"}, path)
    return path


def own(model: Any, path: Path, side: int = SIDE, score: float = SCORE) -> Rows:
    boxes = model.predict(path, conf=score, imgsz=side, verbose=False, device="cpu")[0].boxes
    return sorted_rows(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy())


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml"])
def test_a_checkpoint_finds_what_its_own_predict_finds(config: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, config)
    detector = hardmine.load_detector(path, "cpu")
    assert detector.categories == ("cat", "dog")
    model = ultralytics.YOLO(path)
    images = pictures(tmp_path)
    wanted = [own(model, image) for image in images]
    assert sum(len(scores) for _, scores, _ in wanted) > 50
    for image, found, rows in zip(
        images, detector.predict(images, score_threshold=SCORE), wanted, strict=True
    ):
        assert_same(found, rows)
        assert_same(detector.predict(image, score_threshold=SCORE), rows)  # whatever its neighbours


@pytest.mark.filterwarnings("ignore")  # theirs, while training
def test_a_trained_model_finds_what_its_own_predict_finds(tmp_path: Path) -> None:
    """Trained by ``--trainer`` from a checkpoint, and once more from the weights of the first round."""
    data = drawn_data(tmp_path)
    start = checkpoint(tmp_path, "yolo11n.yaml", to_train=True)
    spec = train(f"ultralytics:{start}@96", data, 6)
    weights = Path(spec.rpartition("@")[0])
    detector, model = hardmine.load_detector(spec, "cpu"), ultralytics.YOLO(weights)
    assert detector.categories == ("cat", "dog")
    scores: list[float] = []
    for image in drawn_pictures(data):
        wanted = own(model, image, 96, 0.02)
        assert_same(detector.predict(image, score_threshold=0.02), wanted)
        scores += wanted[1].tolist()
    assert_spread(scores, 0.1)
    spec = train("ultralytics:yolo11n.yaml@96", data, 2, weights)
    again = hardmine.load_detector(spec, "cpu")
    assert again.model_id != detector.model_id


@pytest.mark.filterwarnings("ignore")  # theirs, while exporting
@pytest.mark.parametrize(
    ("config", "how"),
    [("yolo11n.yaml", {"nms": True}), ("yolo26n.yaml", {"nms": False})],
)
def test_an_export_finds_what_its_own_predict_of_it_finds(
    config: str, how: dict[str, bool], tmp_path: Path
) -> None:
    """With NMS inside and end to end (random scores tie too often to compare NMS outside)."""
    pytest.importorskip("onnxruntime")
    made = checkpoint(tmp_path, config)
    options = {"format": "onnx", "imgsz": SIDE, "device": "cpu", "simplify": False, **how}
    path = ultralytics.YOLO(made).export(verbose=False, **options)
    detector = hardmine.load_detector(path, "cpu")
    model = ultralytics.YOLO(path, task="detect")
    total = 0
    for image in pictures(tmp_path):
        wanted = own(model, image)
        assert_same(detector.predict(image, score_threshold=SCORE), wanted)
        total += len(wanted[1])
    assert total > 30


def test_a_half_precision_file_runs_in_float32_and_classes_are_counted(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "yolo11n.yaml")
    assert torch.load(path, weights_only=False)["model"].model[0].conv.weight.dtype == torch.float16
    assert hardmine.load_detector(path, "cpu", classes=["a", "b"]).categories == ("a", "b")
    with pytest.raises(ConfigError, match="has 2 classes"):
        hardmine.load_detector(path, "cpu", classes=["a"])


def test_the_commands_take_a_checkpoint(tmp_path: Path) -> None:
    """mine, predict and check-detector; the reference is what the package's own results print."""
    path = checkpoint(tmp_path, "yolo11n.yaml")
    pool = tmp_path / "pool"
    pool.mkdir()
    images = pictures(pool)
    model = ultralytics.YOLO(path)
    results = {
        image.name: json.loads(
            model.predict(image, conf=0.05, imgsz=SIDE, verbose=False, device="cpu")[0].to_json()
        )
        for image in images
    }
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps(results))
    run = CliRunner().invoke
    check = ["check-detector", str(path), str(pool), "--reference", str(reference), "--quiet"]
    limits = ["--max-score", "0.01", "--max-box", "1", "--device", "cpu"]
    checked = run(app, [*check, *limits])
    assert checked.exit_code == 0, checked.output
    assert "0 missing, 0 extra" in checked.output
    mined = run(app, ["mine", str(path), str(pool), "--out", str(tmp_path / "mined")])
    assert mined.exit_code == 0, mined.output
    predicted = run(app, ["predict", f"{path}@{SIDE}", str(pool), "--json", "--quiet"])
    assert predicted.exit_code == 0, predicted.output
    assert {row["category"] for row in json.loads(predicted.output)} <= {"cat", "dog"}
