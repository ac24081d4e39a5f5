"""RF-DETR's and LibreYOLO's own packages against our use of them: `make test-clients` installs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import assert_same, pictures, raised, sorted_rows

import hardmine

NAMES = ["cat", "dog"]
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs: warnings are errors here


def test_an_rfdetr_checkpoint_finds_what_its_own_predict_finds(tmp_path: Path) -> None:
    """Its file is recognised without being told; its background is no class."""
    rfdetr = pytest.importorskip("rfdetr")
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
    detector = hardmine.load_detector(path, "cpu")
    assert detector.categories == tuple(NAMES)
    model = rfdetr.RFDETR.from_checkpoint(str(path), device="cpu")
    total = 0
    for image in pictures(tmp_path):
        found = model.predict(str(image), threshold=0.2)
        known = np.isin(found.data["class_name"], NAMES)
        numbers = [NAMES.index(name) for name in found.data["class_name"][known]]
        wanted = sorted_rows(found.xyxy[known], found.confidence[known], numbers)
        assert_same(detector.predict(image, score_threshold=0.2), wanted)
        total += len(wanted[1])
    assert total > 10


def test_a_libreyolo_checkpoint_finds_what_its_own_predict_finds(tmp_path: Path) -> None:
    libreyolo = pytest.importorskip("libreyolo")
    torch.manual_seed(0)
    made = libreyolo.LibreYOLO9(None, size="t", nb_classes=2, device="cpu")
    made.names = dict(enumerate(NAMES))
    for level in made.model.head.cv3:
        raised(level[-1], -0.5, 40)
    path = tmp_path / "weights.pt"
    made.save(str(path))
    detector = hardmine.load_detector(f"{path}@160", "cpu")
    assert detector.categories == tuple(NAMES)
    model = libreyolo.LibreYOLO(str(path), device="cpu")
    total = 0
    for image in pictures(tmp_path):
        boxes = model(str(image), conf=0.3, imgsz=160).boxes
        wanted = sorted_rows(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy())
        assert_same(detector.predict(image, score_threshold=0.3), wanted)
        total += len(wanted[1])
    assert total > 10
