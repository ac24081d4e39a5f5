"""What a foreign graph's outputs mean, from its metadata, names and shapes.

Each exporter leaves marks: Ultralytics writes its task and head into the file, others name outputs.
Where the marks fit one layout it is taken, and where they fit several none is.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.graph.graph_config import PRESETS

Shape = tuple[int | None, ...]
_STRIDES = (8, 16, 32)
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_MOST_ROWS = 1000
"""Rows of a graph with NMS inside have at most so many places per image."""


class Graph(Protocol):
    """What is looked at: names and shapes (``None`` where dynamic), and the exporter's metadata."""

    @property
    def input_shapes(self) -> Mapping[str, Shape]:
        """The shape of each input."""
        ...

    @property
    def input_types(self) -> Sequence[str]:
        """The numpy type of each input."""
        ...

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """The shape of each output."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the exporter wrote beside the graph."""
        ...

    @property
    def path(self) -> Path:
        """The file."""
        ...

    def run_grey(self) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for one empty picture."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """A known exporter's outputs: in words, the values of a ``GraphConfig``, and class names if any.

    ``num_classes`` is how many classes the file has where it says so, ``priors`` f32[N, 4] (cxcywh) of
    boxes that are encoded against priors which stand in the file.
    """

    who: str
    values: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    num_classes: int | None = None
    priors: NDArray[Any] | None = None


def recognise(graph: Graph, count: int | None) -> Layout | None:
    """Return the layout that a graph's marks fit; ``None`` where they fit none.

    Args:
        count: the number of classes, where it is known.

    Raises:
        ConfigError: they fit several, which are named, or one that more must be said of.
        CheckpointError: it is no detector.
    """
    for rule in _RULES:
        found = rule(graph, count)
        if found is not None:
            return found
    return None


def names_inside(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Read the class names that Ultralytics writes as the text of a Python dict or list."""
    names = _literal(metadata.get("names", ""))
    if isinstance(names, dict):
        return tuple(str(names[key]) for key in sorted(names))
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _preset(name: str, who: str | None = None) -> Layout:
    return Layout(who or PRESETS[name].who, {"preset": name})


def _ambiguous(graph: Graph, *presets: str) -> ConfigError:
    forms = " or ".join(f"{graph.path.name}:{name} ({PRESETS[name].who})" for name in presets)
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in graph.outputs.items())
    return ConfigError(f"{graph.path}: its output {shapes} fits several layouts; name {forms}")


def _ultralytics(graph: Graph, count: int | None) -> Layout | None:
    facts = graph.metadata
    if "names" not in facts:
        return None
    version = f"Ultralytics {facts.get('version', '')}".strip()
    task = facts.get("task", "detect")
    if task != "detect":
        raise CheckpointError(
            f"{graph.path}: {version}, task {task!r}; of its exports only those for 'detect' are read. "
            "Name the .pt instead"
        )
    shape = next(iter(graph.outputs.values()), ())
    wide = shape[2] if len(shape) == 3 else None
    classes = len(names_inside(facts))
    inside = "NMS inside: rows of x1, y1, x2, y2, score, label"
    if facts.get("head") == "RTDETRDecoder":
        return _preset("rtdetr", f"{version}, RT-DETR: rows of cx, cy, w, h, score, label")
    if _true(facts.get("end2end")) or _true(_arguments(facts).get("nms")):
        return _preset("yolo_rows", f"{version}, {inside}")
    if "detr" in facts.get("description", "").lower():
        if wide == 4 + classes and classes == 2:
            raise _ambiguous(graph, "rtdetr", "rtdetr_scores")
        return _preset("rtdetr_scores" if wide == 4 + classes else "rtdetr")
    if wide == 6 and classes != 2 and _few(shape[1]):
        return _preset("yolo_rows", f"{version}, {inside}")
    if wide == 6 and _few(shape[1]):
        raise _ambiguous(graph, "yolo_rows", "rtdetr", "rtdetr_scores")
    if len(shape) == 3 and shape[1] == 4 + classes:
        return _preset("yolov8", f"{version}, {facts.get('head', 'Detect')}: boxes before NMS")
    if wide == 5 + classes:
        return _preset("yolov5", "YOLOv5: boxes before NMS")
    if len(shape) == 3 and "head" in facts and wide != 6:
        return _preset("yolov8", f"{version}, {facts['head']}: boxes before NMS")
    return None


def _true(value: Any) -> bool:
    return str(value).lower() in ("true", "1")


def _arguments(facts: Mapping[str, str]) -> Mapping[str, Any]:
    found = _literal(facts.get("args", ""))
    return found if isinstance(found, dict) else {}


def _few(rows: int | None) -> bool:
    return rows is not None and rows <= _MOST_ROWS


def _with_target_sizes(graph: Graph, count: int | None) -> Layout | None:
    size = "orig_target_sizes"
    if size not in graph.input_shapes or set(graph.outputs) != {"labels", "boxes", "scores"}:
        return None
    image = next(name for name in graph.input_shapes if name != size)
    return Layout(
        "RT-DETR or D-FINE, as their own exporters write it: boxes of the size that is asked for",
        {
            "outputs": {"kind": "final"},
            "input": {"resize": "stretch", "name": image, "size_name": size},
        },
    )


def _rfdetr(graph: Graph, count: int | None) -> Layout | None:
    dets, labels = graph.outputs.get("dets", ()), graph.outputs.get("labels", ())
    if len(dets) != 3 or len(labels) != 3 or dets[2] != 4:
        return None
    return Layout(
        "RF-DETR: unit boxes, class logits with background last",
        {
            "outputs": {
                "kind": "separate",
                "boxes": "dets",
                "scores": "labels",
                "box_form": "cxcywh",
                "coordinates": "unit",
                "score_form": "sigmoid",
                "background": "last",
            },
            "input": {"resize": "stretch", "sampling": "bilinear", **_IMAGENET},
            "nms": {"iou": None},
        },
    )


def _mmdeploy(graph: Graph, count: int | None) -> Layout | None:
    dets = graph.outputs.get("dets", ())
    if "labels" not in graph.outputs or len(dets) != 3 or dets[2] != 5:
        return None
    raise ConfigError(
        f"{graph.path}: outputs as mmdeploy writes them (dets of 5 columns, labels); pipeline.json "
        "beside it says how pixels are prepared, and is not read. Predict with mmdetection "
        "and name its results instead"
    )


def _hugging_face(graph: Graph, count: int | None) -> Layout | None:
    """Optimum's export; its folder holds ``config.json`` and ``preprocessor_config.json``."""
    logits, boxes = graph.outputs.get("logits", ()), graph.outputs.get("pred_boxes", ())
    if len(logits) != 3 or len(boxes) != 3:
        return None
    labels = _beside(graph, "config.json").get("id2label", {})
    classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
    how = _beside(graph, "preprocessor_config.json")
    size = how.get("size", {})
    known = len(classes) or count
    if logits[2] not in (known, (known or -2) + 1) or not {"height", "width"} <= set(size):
        raise ConfigError(
            f"{graph.path}: outputs as Hugging Face Optimum writes them (logits, pred_boxes); wanted "
            "config.json and preprocessor_config.json (with a size of height and width) beside it"
        )
    background = logits[2] != known
    scale = float(how.get("rescale_factor", 1 / 255)) if how.get("do_rescale", True) else 1.0
    normal = how.get("do_normalize", False)
    pixels = {"mean": how["image_mean"], "std": how["image_std"]} if normal else {}
    return Layout(
        f"Hugging Face, exported by Optimum: {'softmax with background' if background else 'sigmoid'}",
        {
            "outputs": {
                "kind": "separate",
                "boxes": "pred_boxes",
                "scores": "logits",
                "box_form": "cxcywh",
                "coordinates": "unit",
                "score_form": "softmax" if background else "sigmoid",
                "background": "last" if background else "none",
            },
            "input": {
                "resize": "stretch",
                "height": size["height"],
                "width": size["width"],
                "divide_by": round(1 / scale, 6),
                **pixels,
            },
            "nms": {"iou": None},
        },
        classes,
    )


def _beside(graph: Graph, name: str) -> dict[str, Any]:
    try:
        values = json.loads((graph.path.parent / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _tf_object_detection(graph: Graph, count: int | None) -> Layout | None:
    names = {"detection_boxes", "detection_scores", "detection_classes"}
    found = {name.split(":")[0]: name for name in graph.outputs}
    if not names <= set(found):
        return None
    counted = {"count": found["num_detections"]} if "num_detections" in found else {}
    return Layout(
        "TensorFlow Object Detection API: unit boxes y1, x1, y2, x2, classes from 1",
        {
            "outputs": {
                "kind": "final",
                "boxes": found["detection_boxes"],
                "scores": found["detection_scores"],
                "labels": found["detection_classes"],
                "box_form": "yxyx",
                "coordinates": "unit",
                "first_label": 1,
                **counted,
            },
            "input": {
                "resize": "stretch",
                "layout": "nhwc",
                "divide_by": 1.0,
                "sampling": "bilinear",
            },
        },
    )


def _torchvision(graph: Graph, count: int | None) -> Layout | None:
    if len(graph.input_shapes) != 1 or set(graph.outputs) != {"boxes", "labels", "scores"}:
        return None
    return Layout(
        "torchvision: boxes in pixels, labels from 1",
        {"outputs": {"kind": "final", "first_label": 1}},
    )


def _cells(graph: Graph, count: int | None) -> Layout | None:
    """One output with a box per cell of strides 8, 16 and 32: YOLOs of several makers."""
    image = next((shape for shape in graph.input_shapes.values() if len(shape) == 4), ())
    shapes = list(graph.outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3 or len(image) != 4 or None in image[2:]:
        return None
    height, width = int(image[2] or 0), int(image[3] or 0)
    cells = sum((height // stride) * (width // stride) for stride in _STRIDES)
    _, rows, columns = shapes[0]
    if columns == cells and rows is not None and count in (None, rows - 4):
        return _preset("yolov8")
    if rows == 3 * cells:
        return _preset("yolov5")
    if rows != cells or columns is None:
        return None
    if count is None or count == columns - 5:
        (values,) = graph.run_grey().values()
        decoded = float(np.abs(values[..., 0]).mean()) > 0.25 * width
        return _preset("yolox_decoded" if decoded else "yolox")
    return None


_RULES: Sequence[Callable[[Graph, int | None], Layout | None]] = (
    _ultralytics,
    _with_target_sizes,
    _rfdetr,
    _mmdeploy,
    _hugging_face,
    _tf_object_detection,
    _torchvision,
    _cells,
)
