"""RF-DETR's and LibreYOLO's own packages against our use of them: `make test-clients` installs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
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
from PIL import Image

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


@pytest.mark.timeout(600)
def test_rfdetr_trains_from_a_checkpoint(tmp_path: Path) -> None:
    """Two rounds by ``--trainer``; the second one's weights find what its own predict finds.

    The package draws five batches from data that has fewer, so batches are small.
    """
    rfdetr = pytest.importorskip("rfdetr")
    pytest.importorskip("pytorch_lightning")
    torch.manual_seed(0)
    path = random_rfdetr(rfdetr, tmp_path)
    data = drawn_data(tmp_path, 4)
    first = Path(train(f"rfdetr:{path}", data, 1, batch=1).removeprefix("rfdetr:"))
    spec = train(f"rfdetr:{path}", data, 1, first, batch=1)
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


def test_labelme_loads_what_is_written_for_it(tmp_path: Path) -> None:
    """Its own reader takes a file with objects, one with an object to ignore, and one without any."""
    labelme = pytest.importorskip("labelme")
    data = drawn_labels(tmp_path / "in")
    out = hardmine.convert(data, tmp_path / "out", "labelme").out
    loaded = {path.stem: labelme.LabelFile(str(path)) for path in sorted(out.glob("[ab].json"))}
    assert [(s["label"], s["points"], s["shape_type"]) for s in loaded["a"].shapes] == [
        ("cat", [[4.0, 5.0], [20.0, 15.0]], "rectangle"),
        ("dög", [[1.0, 2.0], [9.0, 8.0]], "rectangle"),
    ]
    assert [s["flags"] for s in loaded["a"].shapes] == [{}, {"difficult": True}]
    assert loaded["b"].shapes == []
    assert loaded["a"].imagePath == "a.png"
    assert loaded["a"].imageData, "it finds the picture beside the file"


def test_rfdetrs_own_loader_reads_what_is_written_for_it(tmp_path: Path) -> None:
    coco = pytest.importorskip("rfdetr.datasets.coco")
    data = hardmine.load_dataset(drawn_labels(tmp_path / "in"))
    out = hardmine.convert({"train": data, "val": data}, tmp_path / "out", "rfdetr").out
    assert coco.is_valid_coco_dataset(str(out))
    how = {
        "dataset_dir": str(out),
        "square_resize_div_64": True,
        "segmentation_head": False,
        "multi_scale": False,
        "expanded_scales": False,
        "patch_size": 16,
        "num_windows": 2,
    }
    loaded = coco.build_roboflow_from_coco("val", SimpleNamespace(**how), 128)
    assert len(loaded) == 2
    targets = [target for _, target in (loaded[0], loaded[1])]
    assert sorted(len(target["labels"]) for target in targets) == [0, 1], "one is to be ignored"
    found = next(target for target in targets if len(target["labels"]))
    assert found["labels"].tolist() == [0]
    assert np.allclose(found["boxes"].numpy(), [[12 / 40, 10 / 30, 16 / 40, 10 / 30]], atol=1e-4)


def drawn_labels(folder: Path) -> Path:
    """Write a picture with two objects, of which one is to be ignored, and an empty one, as VOC."""
    corners = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    rows = (("cat", 0, (4, 5, 20, 15)), ("dög", 1, (1, 2, 9, 8)))
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners.format(*box)}</bndbox></object>"
        for name, difficult, box in rows
    )
    folder.mkdir()
    for name, content in (("a", objects), ("b", "")):
        Image.new("RGB", (40, 30), (9, 99, 199)).save(folder / f"{name}.png")
        text = f"<annotation>{content}</annotation>"
        (folder / f"{name}.xml").write_text(text, encoding="utf-8")
    return folder
