"""Models that run inside another framework, by stand-ins; tests/clients has the real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from framework_stand_ins import ASKED, CALLS, CLASSES, foreign_pickle, install, ultralytics
from PIL import Image
from torchvision.models import get_model

import hardmine
from hardmine.detections import Detections
from hardmine.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from hardmine.inference.detector import ClassTable
from hardmine.inference.framework_detectors import FrameworkDetector
from hardmine.inference.tiles import tiled

KINDS = ["ultralytics", "libreyolo", "rfdetr", "transformers"]
REDS = {"a.png": (40, 30, 51), "b.png": (20, 60, 204), "c.png": (40, 30, 102)}
"""Width, height and red value of each picture of the pool."""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, (width, height, red) in REDS.items():
        pixels = noise.integers(0, 255, (height, width, 3), np.uint8)
        pixels[..., 0] = red
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_run_by_its_own_package(
    kind: str, tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = hardmine.load_detector(install(kind, tmp_path, monkeypatch), "cpu")
    assert detector.categories == CLASSES
    found = detector.predict([pool / name for name in REDS], score_threshold=0.1)
    for one, (width, height, red) in zip(found, REDS.values(), strict=True):
        np.testing.assert_allclose(one.boxes, [[0, 0, width, height]])
        np.testing.assert_allclose(one.scores, [red / 255], atol=1e-6)
        assert one.labels.tolist() == [2 if red > 127 else 1]
    asked = [next(v for k, v in one.items() if k in ("conf", "threshold")) for one in ASKED]
    assert asked == [0.01] * 3  # below the frameworks' own thresholds, for ranking
    picture = detector.predict(np.full((8, 9, 3), 128, np.uint8))
    assert picture.boxes.tolist() == [[0, 0, 9, 8]]


@pytest.mark.parametrize("kind", KINDS)
def test_mining_runs_the_network_once_per_image(
    kind: str, tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool / "broken.png").write_bytes(b"no picture")
    spec = install(kind, tmp_path, monkeypatch)
    mined = hardmine.mine(spec, pool, out=tmp_path / "out")
    names = [Path(one.image).name for one in mined.candidates]
    assert names == ["b.png", "c.png", "a.png"]
    assert sum(CALLS) == 3
    assert [Path(problem.file).name for problem in mined.problems] == ["broken.png"]
    assert hardmine.load_detector(spec).model_id == hardmine.load_detector(spec).model_id
    hardmine.mine(spec, pool, out=tmp_path / "out")
    assert sum(CALLS) == 3  # scored before


def test_a_broken_image_is_an_error_for_measuring(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = hardmine.load_detector(install("ultralytics", tmp_path, monkeypatch), "cpu")
    (pool / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        detector.predict(pool / "broken.png")


def test_the_image_size_is_that_of_the_training_or_the_one_named(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = install("ultralytics", tmp_path, monkeypatch)
    own, other = hardmine.load_detector(spec), hardmine.load_detector(f"{spec}@192")
    for detector in (own, other, hardmine.load_detector(f"ultralytics:{spec}@96")):
        detector.predict(pool / "a.png")
    assert [asked["imgsz"] for asked in ASKED] == [320, 192, 96]
    assert own.model_id != other.model_id
    folder = install("transformers", tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="image size of its own"):
        hardmine.load_detector(f"hf:{folder}@320")


def test_the_folder_of_a_training_names_its_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Path(install("ultralytics", tmp_path, monkeypatch))
    run = tmp_path / "runs" / "detect" / "train"
    (run / "weights").mkdir(parents=True)
    (run / "results.csv").touch()
    for name in ("best.pt", "last.pt"):
        (run / "weights" / name).write_bytes(best.read_bytes())
    named = hardmine.load_detector(run / "weights" / "best.pt", "cpu")
    assert hardmine.load_detector(run, "cpu").model_id == named.model_id


def test_tiles_are_pictures_of_their_own(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = hardmine.load_detector(install("ultralytics", tmp_path, monkeypatch), "cpu")
    Image.new("RGB", (40, 20), (204, 0, 0)).save(pool / "wide.png")
    found = tiled(detector, 20, 0.0).detect_images([pool / "wide.png"])  # type: ignore[attr-defined]
    assert sorted(found[0].boxes.tolist()) == [[0, 0, 20, 20], [20, 0, 40, 20]]


def test_class_names_are_held_to_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = install("transformers", tmp_path, monkeypatch)
    assert hardmine.load_detector(spec, classes=["x", "y"]).categories == ("x", "y")
    with pytest.raises(ConfigError, match=r"has 2 classes \(cat, dog\), --classes gives 1"):
        hardmine.load_detector(spec, classes=["x"])
    with pytest.raises(ConfigError, match="occurs twice"):
        ClassTable.of({0: "a", 1: "a"}, None, "model")


@pytest.mark.parametrize("task", ["obb", "classify"])
def test_a_model_without_upright_boxes_is_refused(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = install("ultralytics", tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "ultralytics", ultralytics(task))
    with pytest.raises(CheckpointError, match=f"task '{task}', wanted one of detect"):
        hardmine.load_detector(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named_with_its_command(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = install(kind, tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingExtraError, match=f"package {kind}.*; pip install") as told:
        hardmine.load_detector(spec)
    assert "\n" not in str(told.value)


def test_an_unreadable_checkpoint_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = install("ultralytics", tmp_path, monkeypatch)

    def broken(path: str) -> None:
        raise AttributeError("Can't get attribute 'C3k2'\non <module>")

    monkeypatch.setattr(sys.modules["ultralytics"], "YOLO", broken)
    with pytest.raises(CheckpointError, match=r"ultralytics cannot load it.*'C3k2' on") as told:
        hardmine.load_detector(spec)
    assert "\n" not in str(told.value)


def test_a_checkpoint_of_a_framework_that_is_not_run_says_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign_pickle(tmp_path / "yolov5.pt", "models.yolo", monkeypatch)
    with pytest.raises(CheckpointError, match=r"of YOLOv5 or YOLOv7.*Export it to ONNX"):
        hardmine.load_detector(path)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"cut\.pt: not a readable weights file"):
        hardmine.load_detector(tmp_path / "cut.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_named_with_the_way_on(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    with pytest.raises(CheckpointError, match=r"best\.pt: TorchScript, .* Export it to ONNX"):
        hardmine.load_detector(path)


def test_a_folder_without_its_image_processor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(install("transformers", tmp_path, monkeypatch))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="how images are prepared"):
        hardmine.load_detector(folder)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        hardmine.load_detector(f"hf:{tmp_path}")
    with pytest.raises(CheckpointError, match="no such folder"):
        hardmine.load_detector("hf:gone")


def test_nothing_is_imported_that_nobody_named() -> None:
    script = (
        "import sys, hardmine, hardmine.cli.main\n"
        "from hardmine.inference import load_detector, framework_detectors\n"
        f"print([name for name in {KINDS} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_pictures_that_do_not_fit_the_device_are_run_in_smaller_parts() -> None:
    sizes = []

    class Small(FrameworkDetector):
        def run(self, pictures: list[np.ndarray]) -> list[Detections]:  # type: ignore[override]
            sizes.append(len(pictures))
            if len(pictures) > 2:
                raise torch.OutOfMemoryError
            box = np.array([[0, 0, 1, 1]], np.float32)
            scores = [np.array([p[0, 0, 0] / 100], np.float32) for p in pictures]
            return [Detections(box, score, np.array([1])) for score in scores]

    detector = Small(("a",), "small", torch.device("meta"))
    pictures = [np.full((4, 4, 3), i, np.uint8) for i in range(8)]
    found = detector.detect_pictures(pictures)
    np.testing.assert_allclose([float(one.scores[0]) for one in found], np.arange(8) / 100)
    assert sizes[:4] == [8, 4, 2, 2]


def test_a_plain_state_dict_of_torchvision_is_recognised(tmp_path: Path, pool: Path) -> None:
    """By its tensors' names and shapes, inside what training scripts save around it."""
    torch.manual_seed(0)
    network = get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=3)
    path = tmp_path / "model.pth"
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"model": state, "epoch": 2}, path)
    with pytest.raises(
        ConfigError, match=r"ssdlite320_mobilenet_v3_large for 2 classes.*--classes"
    ):
        hardmine.load_detector(path)
    detector = hardmine.load_detector(path, "cpu", classes=["cat", "dog"])
    named = hardmine.load_detector(
        f"torchvision:ssdlite320_mobilenet_v3_large:{path}", "cpu", classes=["cat", "dog"]
    )
    one, other = (d.predict(pool / "a.png", score_threshold=0.02) for d in (detector, named))
    assert len(one) > 0
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert detector.model_id == named.model_id


def test_weights_that_fit_two_networks_are_refused_with_both(tmp_path: Path) -> None:
    network = get_model("fasterrcnn_mobilenet_v3_large_fpn", weights_backbone=None, num_classes=3)
    path = tmp_path / "model.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ConfigError, match="fit several networks") as told:
        hardmine.load_detector(path, classes=["cat", "dog"])
    assert f"torchvision:fasterrcnn_mobilenet_v3_large_320_fpn:{path}" in str(told.value)
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="do not say what network"):
        hardmine.load_detector(path)
