"""torchvision's models by name: the same boxes as the model gives when called as its manual says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.load_detector import load_detector

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, classes spread out so that some detections pass."""
    torch.manual_seed(5)
    model = get_model(SMALL, weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", [SMALL, "retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_detections_are_those_of_the_model_itself(name: str, tmp_path: Path) -> None:
    """With proposals and without; random weights that fire everywhere."""
    torch.manual_seed(5)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=3)
    owner = model.roi_heads if hasattr(model, "roi_heads") else model
    if owner is model:  # else every class starts at .01
        torch.nn.init.zeros_(model.head.classification_head.cls_logits.bias)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    detector = load_detector(f"torchvision:{name}:{tmp_path}/w.pth@96", "cpu", classes=NAMES)
    assert detector.categories == NAMES
    assert (detector.resize.height, detector.resize.mode) == (96, "letterbox")
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=generator)
    model.eval()
    model.transform.min_size, model.transform.max_size = (96,), 96
    owner.score_thresh = 0.01
    with torch.inference_mode():
        wanted = model(list(images.float() / 255))
    found, scores = detector.detect(images), detector.score(images)
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert len(a) > 0
        np.testing.assert_allclose(a.scores, b["scores"], atol=1e-6)
        np.testing.assert_allclose(a.boxes, b["boxes"], atol=1e-3)
        assert a.labels.tolist() == b["labels"].tolist()
        assert float(scores.scores[i]) == float(a.scores[0])
        assert np.all(np.diff(a.scores) <= 0)


def test_without_a_file_the_weights_are_random_and_the_classes_those_of_coco() -> None:
    detector = load_detector("torchvision:ssdlite320_mobilenet_v3_large", "cpu")
    assert (detector.categories[0], len(detector.categories)) == ("person", 90)
    assert (detector.resize.width, detector.resize.mode) == (320, "stretch")
    again = load_detector("torchvision:ssdlite320_mobilenet_v3_large:none", "cpu")
    assert detector.model_id == again.model_id


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet50", "no such detection model; has .*fasterrcnn_resnet50_fpn"),
        ("torchvision:", "wanted torchvision:NAME"),
        (f"torchvision:{SMALL}:nowhere.pth", "no such file, and not 'none', 'DEFAULT' or one of"),
        ("torchvision:ssdlite320_mobilenet_v3_large:none@96", "takes 320 px only, got @96"),
    ],
)
def test_a_wrong_name_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector(spec, "cpu")


def test_weights_of_something_else(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights do not fit torchvision's"):
        load_detector(f"torchvision:{SMALL}:{weights}", "cpu", classes=("one",))
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="not a readable state dict"):
        load_detector(f"torchvision:{SMALL}:{bad}", "cpu", classes=NAMES)
