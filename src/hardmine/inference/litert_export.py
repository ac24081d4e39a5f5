"""Our checkpoints as ``.tflite`` files for small devices, by ``litert-torch`` and ``ai-edge-quantizer``.

The file carries how to use it, as our ONNX exports do. With NMS inside it ends in the operator of the
TensorFlow Object Detection API, so that programs which run its SSD MobileNets run this file, too.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardmine.boxes import clip_boxes
from hardmine.detections import OperatingPoint
from hardmine.errors import MissingExtraError
from hardmine.files import write_atomic
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.export import ExportNetwork, describe, with_point
from hardmine.inference.fast_scoring import quiet_export
from hardmine.inference.graph.graph_detector import METADATA_KEY
from hardmine.inference.graph.tflite_file import POST_PROCESS, metadata_buffer, read_model
from hardmine.models.priors import CENTRE_VARIANCE, SIZE_VARIANCE, decode_boxes, encode_boxes
from hardmine.tensors import ScoreForm

Batches = Callable[[], Iterable[NDArray[np.uint8]]]

_INSTALL = (
    "needs litert-torch: pip install litert-torch (docs/export.md says how to install it with a newer "
    "torch)"
)
_NETWORK = r"SSD_network"
"""What the converter puts into the names of all that is computed inside the network."""
_LEAST = 0.01
"""Pixels: the operator refuses boxes without area."""
_FLOAT = 0
_CUSTOM = 32
_LABELS = "labels.txt"


class _Decoded(nn.Module):
    """f32[1, H, W, 3] RGB 0 to 255 to ``boxes`` and ``scores``, as :class:`ExportNetwork` gives them."""

    def __init__(self, detector: TorchDetector) -> None:
        super().__init__()
        self.inner = ExportNetwork(detector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.inner(images.permute(0, 3, 1, 2))
        return boxes, scores


class _Encoded(nn.Module):
    """f32[1, H, W, 3] to encoded boxes f32[1, A, 4] (y, x, h, w) and all probabilities f32[1, A, …].

    The operator suppresses boxes as they were decoded. A detector suppresses what is left of them on the
    canvas, so boxes are cut to it first and encoded again. What lies outside altogether scores 0.
    """

    def __init__(self, detector: TorchDetector) -> None:
        super().__init__()
        self.network = detector.network
        self.height, self.width = detector.resize.height, detector.resize.width

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded boxes and all probabilities of one image."""
        output = self.network(images.permute(0, 3, 1, 2))
        priors = self.network.priors.cxcywh
        boxes = clip_boxes(decode_boxes(output.box_deltas, priors), self.height, self.width)
        corner, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
        inside = ((size[..., :1] > 0) & (size[..., 1:] > 0)).to(size.dtype)
        whole = torch.cat([corner, corner + size.clamp(min=_LEAST)], -1)
        x, y, w, h = torch.split(encode_boxes(whole, priors), 1, -1)
        logits = output.class_logits
        softmax = output.score_form is ScoreForm.SOFTMAX
        scores = logits.softmax(-1) if softmax else logits.sigmoid()
        return torch.cat([y, x, h, w], -1), scores * inside


def export_litert(
    detector: TorchDetector, path: Path, *, with_nms: bool = False, calibrate: Batches | None = None
) -> Path:
    """Write a ``.tflite`` file for one image at a time, whole or not at all.

    Its input is f32[1, H, W, 3] RGB from 0 to 255, or int8 (pixels less 128) when calibrated. The
    outputs are ``boxes`` f32[1, A, 4] (xyxy canvas pixels) and ``scores`` f32[1, A, C].

    Args:
        with_nms: end in ``TFLite_Detection_PostProcess``; its outputs are boxes f32[1, K, 4] (y1, x1,
            y2, x2, shares of the canvas), classes (from 0), scores and their count. The class names lie
            in the file as ``labels.txt``.
        calibrate: compute the network in 8 bits; called once, it yields u8[1, 3, H, W] canvases. What
            follows the network (softmax, boxes) stays in float32.

    Raises:
        ConfigError: a decoder that has no counterpart outside.
        MissingExtraError: litert-torch is not installed.
    """
    facts = _facts(detector, with_nms=with_nms)
    network = (_Encoded if with_nms else _Decoded)(detector).eval()
    shape = (1, detector.resize.height, detector.resize.width, 3)
    with tempfile.TemporaryDirectory() as folder, quiet_export(), _silent():
        part = Path(folder) / "part.tflite"
        converter = _import("litert_torch")
        with torch.no_grad():
            converter.convert(network, (torch.zeros(shape),)).export(str(part))
        if calibrate is not None:
            part = _quantise(part, calibrate)
        model = read_model(part)
    _name_ports(model, ("raw_boxes", "raw_scores") if with_nms else ("boxes", "scores"))
    if with_nms:
        _add_post_process(model, detector)
    _set_facts(model, facts)
    labels = {_LABELS: "\n".join(detector.categories)} if with_nms else {}
    write_atomic(path, lambda where: _save(model, where, labels))
    return path


def write_point_into_tflite(path: Path, point: OperatingPoint) -> None:
    """Write a score threshold into a ``.tflite`` file of ours; all else stays.

    Raises:
        ConfigError: the file is no export of ours.
    """
    model = read_model(path)
    known = metadata_buffer(model, METADATA_KEY)
    _set_facts(model, with_point(path, None if known is None else known.decode(), point))
    appended: dict[str, str] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            appended = {name: archive.read(name).decode() for name in archive.namelist()}
    write_atomic(path, lambda where: _save(model, where, appended))


def _facts(detector: TorchDetector, *, with_nms: bool) -> str:
    values = describe(detector, with_nms=with_nms)
    values["input"] |= {"layout": "nhwc", "divide_by": 1.0}
    if with_nms:
        values["outputs"] = {
            "kind": "final",
            "boxes": "boxes",
            "labels": "classes",
            "scores": "scores",
            "count": "count",
            "box_form": "yxyx",
            "coordinates": "unit",
        }
    return json.dumps(values)


def _quantise(source: Path, batches: Batches) -> Path:
    """Return an int8 copy: everything inside the network, weights per channel, and the input."""
    _import("ai_edge_quantizer")
    from ai_edge_quantizer import qtyping, quantizer

    names = qtyping.TFLOperationName
    quantiser = quantizer.Quantizer(str(source))
    for where, what in ((".*", names.INPUT), (_NETWORK, names.ALL_SUPPORTED)):
        quantiser.add_static_config(
            regex=where, operation_name=what, activation_num_bits=8, weight_num_bits=8
        )
    model = read_model(source)
    (image,) = model.signatureDefs[0].inputs
    tensor = model.subgraphs[0].tensors[image.tensorIndex].name.decode()
    images = [
        {image.name.decode(): np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).astype(np.float32)}
        for batch in batches()
    ]
    found = quantiser.calibrate({"serving_default": images})
    for side, value in (("min", 0.0), ("max", 255.0)):  # a step is a pixel's, whatever was seen
        found[tensor][side] = np.full_like(np.asarray(found[tensor][side], np.float32), value)
    path = source.with_name("int8.tflite")
    quantiser.quantize(found).export_model(str(path))
    return path


def _name_ports(model: Any, names: tuple[str, str]) -> None:
    """Give the input and the outputs names by which they are found; the outputs in this order."""
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    by_name = {port.name: port for port in signature.outputs}
    ports = [by_name[name] for name in sorted(by_name)]  # output_0, output_1
    graph.outputs = [port.tensorIndex for port in ports]
    for port, name in zip(ports, names, strict=True):
        port.name = name
        graph.tensors[port.tensorIndex].name = name
    (image,) = signature.inputs
    image.name = "images"
    graph.tensors[image.tensorIndex].name = "images"


def _add_post_process(model: Any, detector: TorchDetector) -> None:
    """Put the operator behind the outputs: it decodes against anchors and suppresses within classes."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers

    graph, decode = model.subgraphs[0], detector.decode
    height, width = detector.resize.height, detector.resize.width
    priors = detector.network.priors.cxcywh.cpu().numpy() / np.array(
        [width, height, width, height], np.float32
    )
    anchors = np.ascontiguousarray(priors[:, [1, 0, 3, 2]], np.float32)
    model.buffers.append(schema.BufferT(data=np.frombuffer(anchors.tobytes(), np.uint8)))
    most = decode.limits.max_detections

    def tensor(name: str, shape: tuple[int, ...], buffer: int = 0) -> int:
        graph.tensors.append(schema.TensorT(list(shape), _FLOAT, buffer, name))
        return len(graph.tensors) - 1

    constant = tensor("anchors", anchors.shape, len(model.buffers) - 1)
    shapes = {"boxes": (1, most, 4), "classes": (1, most), "scores": (1, most), "count": (1,)}
    found = [tensor(name, shape) for name, shape in shapes.items()]
    model.operatorCodes.append(schema.OperatorCodeT(_CUSTOM, POST_PROCESS, 1, _CUSTOM))
    options = {
        "max_detections": most,
        "max_classes_per_detection": 1,
        "detections_per_class": most,
        "use_regular_nms": True,
        "nms_score_threshold": decode.limits.score_threshold,
        "nms_iou_threshold": getattr(decode, "nms_iou", 1.0),
        "num_classes": len(detector.categories),
        "y_scale": 1 / CENTRE_VARIANCE,
        "x_scale": 1 / CENTRE_VARIANCE,
        "h_scale": 1 / SIZE_VARIANCE,
        "w_scale": 1 / SIZE_VARIANCE,
    }
    graph.operators.append(
        schema.OperatorT(
            len(model.operatorCodes) - 1,
            [*graph.outputs, constant],
            found,
            customOptions=np.frombuffer(flexbuffers.Dumps(options), np.uint8),
        )
    )
    graph.outputs = found
    model.signatureDefs[0].outputs = [
        schema.TensorMapT(name, index) for name, index in zip(shapes, found, strict=True)
    ]


def _set_facts(model: Any, facts: str) -> None:
    from ai_edge_litert import schema_py_generated as schema

    entries = [
        e for e in model.metadata or () if e.name not in (METADATA_KEY, METADATA_KEY.encode())
    ]
    model.buffers.append(schema.BufferT(data=np.frombuffer(facts.encode(), np.uint8)))
    model.metadata = [*entries, schema.MetadataT(METADATA_KEY, len(model.buffers) - 1)]


def _save(model: Any, path: Path, appended: Mapping[str, str]) -> None:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    if appended:
        with zipfile.ZipFile(path, "a") as archive:
            for name, text in appended.items():
                archive.writestr(name, text)


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(f"export to litert {_INSTALL}") from None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the converter's progress off the terminal; it is written by C++ and by Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
