"""Small ``.tflite`` files, written by LiteRT's own schema: a detector that can be computed by hand.

The network averages each channel; a fully connected layer makes class logits of the three means. Boxes
are constant. What it gives is computed again by hand in :func:`expected`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from numpy.typing import NDArray

Array = NDArray[Any]

SIDE, ROWS, CLASSES = 32, 3, 2
ANCHORS = np.array(
    [[0.25, 0.25, 0.3, 0.2], [0.5, 0.5, 0.4, 0.6], [0.75, 0.7, 0.2, 0.3]], np.float32
)
"""y centre, x centre, height, width."""
ENCODED = np.array(
    [[0.5, -1.0, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0], [-0.4, 0.8, 0.5, -0.3]], np.float32
)
"""Encoded y, x, height, width, with the scales 10, 10, 5, 5."""
WEIGHTS = np.linspace(-2.0, 2.0, ROWS * (CLASSES + 1) * 3).astype(np.float32).reshape(-1, 3)

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int8": 9}
_POOL, _DEQUANTIZE, _CONNECTED, _LOGISTIC, _RESHAPE, _QUANTIZE, _CUSTOM = 1, 6, 9, 14, 22, 114, 32
_SHAPES = ((1, ROWS, 4), (1, ROWS), (1, ROWS), (1,))
"""Of boxes, classes, scores and count, the operator's order."""
Kind = Literal["operator", "raw", "shapes", "classifier"]


@dataclass
class Written:
    """What is different in a file.

    ``order``: of the four outputs. ``dtype`` and ``scale`` (with a zero point): of the input.
    ``quantised``: whether raw outputs are uint8. ``anchors``: whether raw files name them so.
    ``labels``: lines of the label file in the zip behind the file. ``mean``, ``std``: in the metadata.
    ``outside``: anchors stand behind the flatbuffer, as ai-edge-quantizer writes all constants.
    """

    kind: Kind = "operator"
    order: Sequence[int] = (0, 1, 2, 3)
    dtype: str = "float32"
    scale: tuple[float, int] = (0.0, 0)
    quantised: bool = False
    anchors: bool = False
    labels: Sequence[str] | None = None
    names: Sequence[str] = ()
    mean: float | None = None
    std: float = 127.5
    floor: float = 0.0
    operator: str = "TFLite_Detection_PostProcess"
    facts: dict[str, bytes] = field(default_factory=dict)
    zip_labels: bool = True
    outside: bool = False


def write_tflite(path: Path, how: Written) -> Path:
    """Write the file."""
    model = _Model()
    image = model.tensor((1, SIDE, SIDE, 3), how.dtype, "image", scale=how.scale)
    pixels = image
    if how.dtype != "float32":
        pixels = model.tensor((1, SIDE, SIDE, 3), "float32", "pixels")
        model.operator(_DEQUANTIZE, [image], [pixels])
    mean = model.tensor((1, 1, 1, 3), "float32", "mean")
    options = schema.Pool2DOptionsT(
        padding=1, strideW=SIDE, strideH=SIDE, filterWidth=SIDE, filterHeight=SIDE
    )
    model.operator(_POOL, [pixels], [mean], (schema.BuiltinOptions.Pool2DOptions, options))
    flat = model.tensor((1, len(WEIGHTS)), "float32", "flat")
    weights = model.constant(WEIGHTS, "weights")
    options = schema.FullyConnectedOptionsT()
    model.operator(
        _CONNECTED,
        [mean, weights, -1],
        [flat],
        (schema.BuiltinOptions.FullyConnectedOptions, options),
    )
    if how.kind == "classifier":
        return model.save(path, image, [flat], how)
    rows = model.tensor((1, ROWS, CLASSES + 1), "float32", "rows")
    shape = model.constant(np.array([1, ROWS, CLASSES + 1], np.int32), "shape")
    model.operator(_RESHAPE, [flat, shape], [rows])
    scores = model.tensor((1, ROWS, CLASSES + 1), "float32", "raw_outputs/class_predictions")
    model.operator(_LOGISTIC, [rows], [scores])
    boxes = model.constant(ENCODED[None], "raw_outputs/box_encodings")
    anchors = model.constant(ANCHORS, "anchors" if how.anchors else "priors_of_it")
    if how.kind == "raw":
        outputs = [boxes, scores]
        if how.quantised:
            small = model.tensor(
                (1, ROWS, CLASSES + 1), "uint8", "class_predictions", scale=(1 / 256, 0)
            )
            model.operator(_QUANTIZE, [scores], [small])
            outputs = [boxes, small]
        return model.save(path, image, outputs, how)
    found = [model.tensor(shape, "float32", f"out:{i}") for i, shape in enumerate(_SHAPES)]
    model.operator(
        _CUSTOM,
        [boxes, scores, anchors],
        found,
        custom=how.operator,
        flex=flexbuffers.Dumps(
            {
                "max_detections": ROWS,
                "max_classes_per_detection": 1,
                "detections_per_class": 100,
                "use_regular_nms": False,
                "nms_score_threshold": how.floor,
                "nms_iou_threshold": 0.6,
                "num_classes": CLASSES,
                "y_scale": 10.0,
                "x_scale": 10.0,
                "h_scale": 5.0,
                "w_scale": 5.0,
            }
        ),
    )
    outputs = [found[i] for i in how.order]
    if (
        how.kind == "shapes"
    ):  # behind the operator stand others, so that its outputs are not the file's
        later = []
        for i, output in zip(how.order, outputs, strict=True):
            kept = model.tensor(_SHAPES[i], "float32", f"result:{i}")
            form = model.constant(np.array(_SHAPES[i], np.int32), f"form:{i}")
            model.operator(_RESHAPE, [output, form], [kept])
            later.append(kept)
        outputs = later
    return model.save(path, image, outputs, how)


def expected(means: Array) -> tuple[Array, Array]:
    """Return boxes f32[N, 4] xyxy (pixels of the canvas) and probabilities f32[N, C], by hand.

    Args:
        means: f32[3], the mean of each channel as the network sees it.
    """
    logits = (WEIGHTS @ means).reshape(ROWS, CLASSES + 1)
    boxes = []
    for (ty, tx, th, tw), (cy, cx, h, w) in zip(ENCODED, ANCHORS, strict=True):
        y, x = ty / 10 * h + cy, tx / 10 * w + cx
        high, wide = np.exp(th / 5) * h, np.exp(tw / 5) * w
        boxes.append([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
    return np.array(boxes) * SIDE, 1 / (1 + np.exp(-logits[:, 1:]))


class _Model:
    """A graph that grows tensor by tensor."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        name: str,
        *,
        buffer: int = 0,
        scale: tuple[float, int] = (0.0, 0),
    ) -> int:
        how = schema.QuantizationParametersT()
        if scale[0]:
            how.scale, how.zeroPoint = [scale[0]], [scale[1]]
        self.tensors.append(
            schema.TensorT(list(shape), _TYPES[dtype], buffer, name, quantization=how)
        )
        return len(self.tensors) - 1

    def constant(self, values: Array, name: str) -> int:
        self.buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        return self.tensor(values.shape, values.dtype.name, name, buffer=len(self.buffers) - 1)

    def operator(
        self,
        code: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: tuple[int, Any] = (0, None),
        *,
        custom: str | None = None,
        flex: bytes | None = None,
    ) -> None:
        self.codes.append(schema.OperatorCodeT(min(code, 127), custom, 1, code))
        made = schema.OperatorT(len(self.codes) - 1, list(inputs), list(outputs))
        made.builtinOptionsType, made.builtinOptions = options
        if flex is not None:
            made.customOptions = np.frombuffer(flex, np.uint8)
        self.operators.append(made)

    def save(self, path: Path, image: int, outputs: Sequence[int], how: Written) -> Path:
        graph = schema.SubGraphT(self.tensors, [image], list(outputs), self.operators)
        facts = dict(how.facts)
        if how.labels is not None or how.mean is not None or how.names:
            facts["TFLITE_METADATA"] = metadata(how, len(outputs))
        entries = []
        for name, value in facts.items():
            self.buffers.append(schema.BufferT(data=np.frombuffer(value, np.uint8)))
            entries.append(schema.MetadataT(name, len(self.buffers) - 1))
        model = schema.ModelT(3, self.codes, [graph], "tiny", self.buffers, metadata=entries)
        behind = b""
        if how.outside:
            behind = ANCHORS.tobytes()
            (anchors,) = (b for b in self.buffers[1:] if b.data.tobytes() == behind)
            anchors.data, anchors.size, anchors.offset = None, len(behind), 1 << 20
            anchors.offset = len(_packed(model))  # numbers are of one width: the length stays
        path.write_bytes(_packed(model) + behind)
        if how.labels is not None and how.zip_labels:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr("labels.txt", "\n".join(how.labels))
        return path


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def metadata(how: Written, outputs: int) -> bytes:
    """Write TFLite's metadata: normalisation of the input, names of the outputs, the label file."""
    builder = flatbuffers.Builder(256)

    def table(fields: dict[int, tuple[str, int]], size: int) -> int:
        builder.StartObject(size)
        for slot, (kind, value) in fields.items():
            if kind == "byte":
                builder.PrependByteSlot(slot, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(builder.EndObject())

    def vector(values: Sequence[int]) -> tuple[str, int]:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependUOffsetTRelative(value)
        return "at", int(builder.EndVector())

    def floats(value: float) -> tuple[str, int]:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return "at", int(builder.EndVector())

    units = []
    if how.mean is not None:
        mean, std = floats(how.mean), floats(how.std)
        options = table({0: mean, 1: std}, 2)
        units.append(table({0: ("byte", 1), 1: ("at", options)}, 2))
    image = table({4: vector(units)}, 7)
    files = []
    if how.labels is not None:
        name = builder.CreateString("labels.txt")
        files.append(table({0: ("at", name), 2: ("byte", 3)}, 5))
    listed = vector(files)
    made = []
    for i in range(outputs):
        name = builder.CreateString(how.names[i] if how.names else "")
        made.append(table({0: ("at", name), **({6: listed} if i == 0 else {})}, 7))
    inputs, results = vector([image]), vector(made)
    graph = table({2: inputs, 3: results}, 9)
    top = table({3: vector([graph])}, 8)
    builder.Finish(top, b"M001")
    return bytes(builder.Output())


def cut(path: Path, keep: float) -> Path:
    """Keep only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
