"""Exporters by the marks that they leave in a file; each graph gives one hand-made box."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_files import constant_graph, write
from onnx import TensorProto, helper

import hardmine
from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.graph.graph_detector import GraphDetector

SIDE = 64
BOX = [8.0, 16.0, 24.0, 48.0]  # of a canvas of 64; cx, cy, w, h: 16, 32, 16, 32
UNIT = [0.25, 0.5, 0.25, 0.5]
ULTRALYTICS = {
    "author": "Ultralytics",
    "version": "8.4.190",
    "task": "detect",
    "head": "Detect",
    "imgsz": "[64, 64]",
    "names": "{0: 'cat', 1: 'dog'}",
    "args": "{'nms': None}",
    "end2end": "False",
}
CELLS = 8 * 8 + 4 * 4 + 2 * 2


def rows(*row: float) -> dict[str, Any]:
    return {"output0": [[row, [0] * len(row)]]}


def anchors(*box: float, count: int = CELLS) -> list[list[list[float]]]:
    return [[list(box), *[[0.0] * len(box)] * (count - 1)]]


def transposed(*box: float) -> dict[str, Any]:
    return {"output0": np.array(anchors(*box), np.float32).transpose(0, 2, 1)}


FILES: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "Ultralytics before NMS": (transposed(16, 32, 16, 32, 0.1, 0.75), ULTRALYTICS, "before NMS"),
    "Ultralytics with NMS inside": (
        rows(*BOX, 0.75, 1),
        {**ULTRALYTICS, "args": "{'nms': True}"},
        "NMS inside",
    ),
    "Ultralytics end to end": (rows(*BOX, 0.75, 1), {**ULTRALYTICS, "end2end": "True"}, "NMS ins"),
    "RT-DETR of Ultralytics": (
        rows(*UNIT, 0.75, 1),
        {**ULTRALYTICS, "head": "RTDETRDecoder"},
        "rows of cx, cy, w, h",
    ),
    "YOLOv5": (
        {"output0": anchors(16, 32, 16, 32, 1, 0.1, 0.75)},
        {"names": "['cat', 'dog']", "stride": "32"},
        "YOLOv5",
    ),
    "RF-DETR": (
        {"dets": [[UNIT, UNIT]], "labels": [[[-4, 1.0986123, 3], [-9, -9, 3]]]},
        {},
        "background last",
    ),
    "TensorFlow's API": (
        {
            "detection_boxes": [[[0.25, 0.125, 0.75, 0.375]]],
            "detection_scores": [[0.75]],
            "detection_classes": [[2]],
            "num_detections": [1],
        },
        {},
        "TensorFlow",
    ),
    "torchvision": ({"boxes": [BOX], "labels": [2], "scores": [0.75]}, {}, "labels from 1"),
    "YOLOv8 without metadata": (transposed(16, 32, 16, 32, 0.1, 0.75), {}, "YOLOv8"),
    "YOLOv5 without metadata": (
        {"out": anchors(16, 32, 16, 32, 1, 0.1, 0.75, count=3 * CELLS)},
        {},
        "YOLOv5",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_needs_no_description(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outputs, metadata, said = FILES[name]
    arrays = {key: np.array(value, np.float32) for key, value in outputs.items()}
    shape = (1, SIDE, SIDE, 3) if "detection_boxes" in outputs else None
    path = constant_graph(tmp_path / "m.onnx", arrays, metadata=metadata, shape=shape)
    names = None if "names" in metadata else ["cat", "dog"]
    with caplog.at_level(logging.INFO, "hardmine"):
        detector = hardmine.load_detector(path, classes=names)
    assert said in caplog.text
    found = detector.predict(np.zeros((SIDE, SIDE, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-3)
    assert [(one.category, round(one.score, 4)) for one in found] == [("dog", 0.75)]


def opened(path: Path, **how: Any) -> GraphDetector:
    detector = hardmine.load_detector(path, **how)
    assert isinstance(detector, GraphDetector)
    return detector


def test_yolox_is_told_apart_by_a_run(tmp_path: Path) -> None:
    """Decoded centres spread over the canvas (mean 32 of 64); offsets in cells stay near 0."""
    raw = np.zeros((1, CELLS, 7), np.float32)
    path = constant_graph(tmp_path / "raw.onnx", {"output": raw})
    assert opened(path, classes=["a", "b"]).config.outputs.strides == (8, 16, 32)  # type: ignore[union-attr]
    done = raw.copy()
    done[..., :2] = 32
    path = constant_graph(tmp_path / "done.onnx", {"output": done})
    config = opened(path, classes=["a", "b"]).config
    assert config.outputs.strides == ()  # type: ignore[union-attr]
    assert (config.input.channels, config.input.align) == ("bgr", "upper_left")


def test_boxes_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """RT-DETR's and D-FINE's own exports give shares times the second input."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, SIDE, SIDE))
    size = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, (1, 2))
    nodes = [
        helper.make_node("Constant", [], ["unit"], value_floats=[0.125, 0.25, 0.375, 0.75]),
        helper.make_node("Constant", [], ["twice"], value_ints=[1, 2]),
        helper.make_node("Cast", ["orig_target_sizes"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Tile", ["wide", "twice"], ["sides"]),
        helper.make_node("Mul", ["unit", "sides"], ["flat"]),
        helper.make_node("Constant", [], ["as_rows"], value_ints=[1, 1, 4]),
        helper.make_node("Reshape", ["flat", "as_rows"], ["boxes"]),
        helper.make_node("Constant", [], ["one"], value_ints=[1, 1]),
        helper.make_node("Constant", [], ["score"], value_floats=[0.75]),
        helper.make_node("Reshape", ["score", "one"], ["scores"]),
        helper.make_node("Constant", [], ["label"], value_ints=[1]),
        helper.make_node("Reshape", ["label", "one"], ["labels"]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.INT64, (1, 1)),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, 1, 4)),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 1)),
    ]
    path = write(tmp_path / "m.onnx", nodes, [], [image, size], outputs)
    detector = hardmine.load_detector(path, classes=["cat", "dog"])
    found = detector.predict(np.zeros((SIDE, 2 * SIDE, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[16, 16, 48, 48]], atol=1e-3)
    assert found.labels.tolist() == [2]


@pytest.mark.parametrize("background", [False, True])
def test_optimum_is_read_with_the_files_beside_it(tmp_path: Path, background: bool) -> None:
    """With as many logits as classes they are sigmoids, with one more softmax: e^2/(2 + e^2)."""
    logits = [[[0.0, 2.0, 0.0][: 3 if background else 2]]]
    outputs = {"logits": logits, "pred_boxes": [[UNIT]]}
    arrays = {key: np.array(value, np.float32) for key, value in outputs.items()}
    path = constant_graph(tmp_path / "model.onnx", arrays, side=None)
    with pytest.raises(ConfigError, match=r"Optimum writes them.*wanted config\.json"):
        hardmine.load_detector(path, classes=["cat", "dog"])
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    how = {"size": {"height": 64, "width": 128}, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(how))
    detector = hardmine.load_detector(path)
    assert (detector.resize.width, detector.categories) == (128, ("cat", "dog"))
    found = detector.predict(np.zeros((SIDE, SIDE, 3), np.uint8))
    wanted = np.exp(2) / (2 + np.exp(2)) if background else 1 / (1 + np.exp(-2))
    assert found[0].score == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("outputs", "metadata", "error", "message"),
    [
        (
            {"output0": np.zeros((1, 39, 8400))},
            {**ULTRALYTICS, "task": "segment"},
            CheckpointError,
            r"task 'segment'; of its exports only those for 'detect' are read",
        ),
        (
            {"dets": np.zeros((1, 100, 5)), "labels": np.zeros((1, 100))},
            {},
            ConfigError,
            r"as mmdeploy writes them.*pipeline\.json",
        ),
        (
            {"output0": np.zeros((1, 300, 6))},
            {**ULTRALYTICS, "head": "", "description": "Ultralytics rtdetr-l model"},
            ConfigError,
            r"\[1, 300, 6\] fits several layouts; name m\.onnx:rtdetr .* or m\.onnx:rtdetr_scores",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path,
    outputs: dict[str, Any],
    metadata: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    path = constant_graph(tmp_path / "m.onnx", outputs, metadata=metadata)
    with pytest.raises(error, match=message):
        hardmine.load_detector(path, classes=["cat", "dog"])


def test_a_graph_of_any_size_is_given_one(tmp_path: Path) -> None:
    outputs = {"output0": np.zeros((1, 6, CELLS), np.float32)}
    facts = {key: value for key, value in ULTRALYTICS.items() if key != "imgsz"}
    path = constant_graph(tmp_path / "m.onnx", outputs, side=None, metadata=facts)
    with pytest.raises(ConfigError, match=r"takes any size; name one as m\.onnx@640"):
        hardmine.load_detector(path)
    assert hardmine.load_detector(f"{path}@96").resize.height == 96
    fixed = constant_graph(tmp_path / "fixed.onnx", outputs, metadata=facts)
    with pytest.raises(ConfigError, match="takes 64x64"):
        hardmine.load_detector(f"{fixed}@96")


def test_an_image_input_without_a_batch(tmp_path: Path) -> None:
    """torchvision's exports take [3, H, W]: images go in one by one."""
    outputs = {
        "boxes": np.array([BOX], np.float32),
        "labels": np.array([1.0]),
        "scores": np.array([0.5]),
    }
    path = constant_graph(tmp_path / "m.onnx", outputs, shape=(3, SIDE, SIDE))
    detector = hardmine.load_detector(path, classes=["cat"])
    pictures = [np.zeros((SIDE, SIDE, 3), np.uint8)] * 3
    assert [len(found) for found in detector.predict(pictures)] == [1, 1, 1]


def test_the_openvino_folder_of_ultralytics_is_read_by_its_metadata(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    outputs = {"output0": np.array([[[*BOX, 0.75, 1]]], np.float32)}
    path = constant_graph(tmp_path / "m.onnx", outputs)
    folder = tmp_path / "best_openvino_model"
    openvino.save_model(openvino.convert_model(path), folder / "best.xml")
    facts = {"task": "detect", "names": {0: "cat", 1: "dog"}, "end2end": True, "imgsz": [64, 64]}
    (folder / "metadata.yaml").write_text(json.dumps(facts))
    for named in (folder / "best.xml", folder):
        found = hardmine.load_detector(named).predict(np.zeros((64, 64, 3), np.uint8))
        assert [one.category for one in found] == ["dog"]


def test_a_folder_with_several_models_names_them(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.xml", "b.bin"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"with 2 models \(a\.onnx, b\.xml\); name one"):
        hardmine.load_detector(tmp_path)
