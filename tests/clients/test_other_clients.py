"""RF-DETR's and LibreYOLO's own packages against our use of them: `make test-clients` installs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_models import (
    assert_same,
    drawn_data,
    drawn_pictures,
    pictures,
    raised,
    sorted_rows,
    train,
)

import hardmine

NAMES = ["cat", "dog"]
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs: warnings are errors here


def test_an_rfdetr_checkpoint_finds_what_its_own_predict_finds(tmp_path: Path) -> None:
    """Its file is recognised without being told; its background is no class."""
    rfdetr = pytest.importorskip("rfdetr")
    path = random_rfdetr(rfdetr, tmp_path)
    detector = hardmine.load_detector(path, "cpu")
    assert detector.categories == tuple(NAMES)
    model = rfdetr.RFDETR.from_checkpoint(str(path), device="cpu")
    assert compare_rfdetr(detector, model, pictures(tmp_path), 0.2) > 10


def random_rfdetr(rfdetr: Any, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = rfdetr.RFDETRNano(pretrain_weights=None, num_classes=2, device="cpu", resolution=128)
    raised(made.model.model.class_embed, 0.0, 4)
    path = tmp_path / "checkpoint_best_total.pth"
    content = {
        "model": made.model.model.state_dict(),
        "args": {"num_classes": 2, "class_names": NAMES, "pretrain_weights": "rf-detr-nano.pth"},
        "model_name": "RFDETRNano",
        "model_config": made.model_config.model_dump(),
        "rfdetr_version": "1.11.2",
    }
    torch.save(content, path)
    return path


def compare_rfdetr(detector: Any, model: Any, images: list[Path], score: float) -> int:
    total = 0
    for image in images:
        found = model.predict(str(image), threshold=score)
        known = np.isin(found.data["class_name"], NAMES)
        numbers = [NAMES.index(name) for name in found.data["class_name"][known]]
        wanted = sorted_rows(found.xyxy[known], found.confidence[known], numbers)
        assert_same(detector.predict(image, score_threshold=score), wanted)
        total += len(wanted[1])
    return total


def test_rfdetr_trains_from_a_checkpoint(tmp_path: Path) -> None:
    """Two rounds by ``--trainer``; the second one's weights find what its own predict finds."""
    rfdetr = pytest.importorskip("rfdetr")
    pytest.importorskip("pytorch_lightning")
    torch.manual_seed(0)
    path = random_rfdetr(rfdetr, tmp_path)
    data = drawn_data(tmp_path, 4)
    first = Path(train(f"rfdetr:{path}", data, 1).removeprefix("rfdetr:"))
    spec = train(f"rfdetr:{path}", data, 1, first)
    detector = hardmine.load_detector(spec, "cpu")
    assert detector.categories == tuple(NAMES)
    model = rfdetr.RFDETR.from_checkpoint(spec.removeprefix("rfdetr:"), device="cpu")
    compare_rfdetr(detector, model, drawn_pictures(data)[:3], 0.05)


def test_libreyolo_trains_from_a_checkpoint(tmp_path: Path) -> None:
    """As RF-DETR."""
    libreyolo = pytest.importorskip("libreyolo")
    path = random_libreyolo(libreyolo, tmp_path)
    data = drawn_data(tmp_path)
    first = Path(
        train(f"libreyolo:{path}@96", data, 4).removeprefix("libreyolo:").rpartition("@")[0]
    )
    spec = train(f"libreyolo:{path}@96", data, 2, first)
    detector = hardmine.load_detector(spec, "cpu")
    assert detector.categories == tuple(NAMES)
    weights = spec.removeprefix("libreyolo:").rpartition("@")[0]
    model = libreyolo.LibreYOLO(weights, device="cpu")
    compare_libreyolo(detector, model, drawn_pictures(data)[:6], 0.05, 96)


def test_a_libreyolo_checkpoint_finds_what_its_own_predict_finds(tmp_path: Path) -> None:
    libreyolo = pytest.importorskip("libreyolo")
    path = random_libreyolo(libreyolo, tmp_path)
    detector = hardmine.load_detector(f"{path}@160", "cpu")
    assert detector.categories == tuple(NAMES)
    model = libreyolo.LibreYOLO(str(path), device="cpu")
    assert compare_libreyolo(detector, model, pictures(tmp_path), 0.3, 160) > 10


def random_libreyolo(libreyolo: Any, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = libreyolo.LibreYOLO9(None, size="t", nb_classes=2, device="cpu")
    made.names = dict(enumerate(NAMES))
    for level in made.model.head.cv3:
        raised(level[-1], -0.5, 40)
    path = tmp_path / "weights.pt"
    made.save(str(path))
    return path


def compare_libreyolo(
    detector: Any, model: Any, images: list[Path], score: float, side: int
) -> int:
    total = 0
    for image in images:
        boxes = model(str(image), conf=score, imgsz=side).boxes
        wanted = sorted_rows(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy())
        assert_same(detector.predict(image, score_threshold=score), wanted)
        total += len(wanted[1])
    return total
