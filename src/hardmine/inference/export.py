"""Our checkpoints as ONNX files and OpenVINO models that carry how to use them, and whether they agree.

:func:`compare` gives the largest differences between two detectors, not an average.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardmine.boxes import clip_boxes
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import ConfigError, MissingExtraError
from hardmine.files import write_atomic
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.fast_scoring import import_openvino, quiet_export
from hardmine.inference.graph.graph_detector import IDENTITY, METADATA_KEY
from hardmine.models.postprocess import DecodeConfig, foreground_scores
from hardmine.models.priors import decode_boxes
from hardmine.numpy_boxes import box_iou
from hardmine.recipes.checkpoint import file_digest
from hardmine.types import Mask

_COLUMNS = ("image", "x1", "y1", "x2", "y2", "score", "label")
_OPSET = 18


class ExportNetwork(nn.Module):
    """u8[B, 3, H, W] RGB to ``boxes`` f32[B, A, 4], xyxy canvas pixels, and ``scores`` f32[B, A, C].

    Normalisation, softmax and box decoding are inside.
    """

    def __init__(self, detector: TorchDetector) -> None:
        super().__init__()
        self.network = detector.network
        self.height, self.width = detector.resize.height, detector.resize.width

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores."""
        output = self.network(images)
        boxes = decode_boxes(output.box_deltas.float(), self.network.priors.cxcywh)
        return clip_boxes(boxes, self.height, self.width), foreground_scores(output)


def export_onnx(detector: TorchDetector, path: Path, *, with_nms: bool = False) -> Path:
    """Write an ONNX file of any batch size, whole or not at all.

    Args:
        with_nms: suppress inside; the output is then ``detections`` f32[K, 7]: image, x1, y1, x2,
            y2, score, label (from 0).

    Raises:
        ConfigError: a decoder that has no counterpart outside.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    limits = _limits(detector)
    model = _to_onnx(detector)
    if with_nms:
        _add_nms(model, limits)
    facts = {METADATA_KEY: json.dumps(describe(detector, with_nms=with_nms))}
    onnx = _onnx()
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    write_atomic(path, lambda part: onnx.save(model, str(part)))
    return path


def onnx_to_openvino(source: Path, path: Path, metadata: str) -> Path:
    """Convert an ONNX file to OpenVINO IR (``.xml`` and ``.bin``).

    Args:
        metadata: what the ONNX file carries about its use.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    openvino = import_openvino()
    with quiet_export():
        model = openvino.convert_model(str(source))
    model.set_rt_info(metadata, [METADATA_KEY])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        openvino.save_model(model, str(part), compress_to_fp16=False)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)
    return path


def write_into_export(path: Path, point: OperatingPoint) -> None:
    """Write a score threshold into an ONNX file or OpenVINO model of ours; all else stays.

    Raises:
        ConfigError: the file is no export of ours.
        MissingExtraError: onnx or openvino is not installed.
    """
    if path.suffix.lower() == ".onnx":
        onnx = _onnx()
        model = onnx.load(str(path))
        facts = {entry.key: entry.value for entry in model.metadata_props}
        facts[METADATA_KEY] = with_point(path, facts.get(METADATA_KEY), point)
        onnx.helper.set_model_props(model, facts)
        write_atomic(path, lambda part: onnx.save(model, str(part)))
        return
    openvino = import_openvino()
    model = openvino.Core().read_model(path)
    known = model.get_rt_info([METADATA_KEY]).astype(str) if _has_facts(model) else None
    model.set_rt_info(with_point(path, known, point), [METADATA_KEY])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        openvino.save_model(model, str(part), compress_to_fp16=False)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)


def _has_facts(model: Any) -> bool:
    return bool(model.has_rt_info([METADATA_KEY]))


def with_point(path: Path, facts: str | None, point: OperatingPoint) -> str:
    """Return what an export carries about its use, with a score threshold.

    Raises:
        ConfigError: there is nothing: the file is no export of ours.
    """
    if facts is None:
        raise ConfigError(
            f"{path}: was not exported by Hardmine, so that no threshold can be written into it"
        )
    values = json.loads(facts)
    values.setdefault(IDENTITY, file_digest(path))
    values["operating_point"] = point.to_dict()
    return json.dumps(values)


def describe(detector: TorchDetector, *, with_nms: bool) -> dict[str, Any]:
    """Return what must be known to use the export, as ``inference.graph.graph_config`` reads it."""
    resize, decode = detector.resize, _limits(detector)
    separate = {"kind": "separate", "boxes": "boxes", "scores": "scores"}
    rows = {"kind": "rows", "output": "detections", "columns": list(_COLUMNS)}
    point, of_class = detector.operating_point, decode.class_candidates
    return {
        **({} if point is None else {"operating_point": point.to_dict()}),
        "classes": list(detector.categories),
        "input": {
            "height": resize.height,
            "width": resize.width,
            "resize": resize.mode,
            "side": resize.side,
            "fill": list(resize.padding),
        },
        "outputs": rows if with_nms else separate,
        "nms": {
            "score_threshold": decode.score_threshold,
            "iou": decode.nms_iou,
            "candidates": decode.candidates,
            **({} if of_class is None else {"class_candidates": of_class}),
            "max_detections": decode.max_detections,
        },
    }


def _limits(detector: TorchDetector) -> DecodeConfig:
    decode = detector.decode
    if not isinstance(decode, DecodeConfig) or decode.kind != "per_class":
        raise ConfigError(f"export: the decoder {decode.kind!r} cannot be exported, only per_class")
    return decode


def _to_onnx(detector: TorchDetector) -> Any:
    _onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError("export needs onnxscript; pip install 'hardmine[onnx]'") from None
    size = (2, 3, detector.resize.height, detector.resize.width)
    with torch.no_grad(), quiet_export():
        program = torch.onnx.export(
            ExportNetwork(detector).eval(),
            (torch.zeros(size, dtype=torch.uint8),),
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _add_nms(model: Any, decode: DecodeConfig) -> None:
    """Put NonMaxSuppression behind the outputs.

    ONNX keeps scores *above* its threshold; ours is inclusive, so it gets the next number below.
    """
    onnx = _onnx()
    graph, make = model.graph, onnx.helper.make_node
    floor = np.nextafter(np.float32(decode.score_threshold), np.float32(-1))
    constants = {
        "nms_most": np.array([decode.max_detections], np.int64),
        "nms_iou": np.array([decode.nms_iou], np.float32),
        "nms_floor": np.array([min(float(floor), decode.score_threshold)], np.float32),
        "nms_image": np.array([0], np.int64),
        "nms_class": np.array([1], np.int64),
        "nms_prior": np.array([0, 2], np.int64),
    }
    graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    found = ["boxes", "scores_by_class", "nms_most", "nms_iou", "nms_floor"]
    graph.node.extend(
        [
            make("Transpose", ["scores"], ["scores_by_class"], perm=[0, 2, 1]),
            make("NonMaxSuppression", found, ["kept"]),  # [K, 3]: image, class, prior
            make("Gather", ["kept", "nms_prior"], ["kept_priors"], axis=1),
            make("GatherND", ["boxes", "kept_priors"], ["kept_boxes"]),
            make("GatherND", ["scores_by_class", "kept"], ["flat_scores"]),
            make("Unsqueeze", ["flat_scores", "nms_class"], ["kept_scores"]),
            make("Gather", ["kept", "nms_image"], ["image_index"], axis=1),
            make("Gather", ["kept", "nms_class"], ["class_index"], axis=1),
            make("Cast", ["image_index"], ["kept_images"], to=onnx.TensorProto.FLOAT),
            make("Cast", ["class_index"], ["kept_labels"], to=onnx.TensorProto.FLOAT),
            make(
                "Concat",
                ["kept_images", "kept_boxes", "kept_scores", "kept_labels"],
                ["detections"],
                axis=1,
            ),
        ]
    )
    del graph.output[:]
    rows = onnx.helper.make_tensor_value_info(
        "detections", onnx.TensorProto.FLOAT, ("detections_found", len(_COLUMNS))
    )
    graph.output.append(rows)


def quantize_onnx(source: Path, path: Path, batches: Callable[[], Any]) -> Path:
    """Write an int8 copy of an ONNX file (QDQ form, weights per channel), convolutions only.

    Args:
        batches: called once; yields u8[1, 3, H, W] canvases to calibrate on.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    _onnx()
    try:
        from onnxruntime import quantization
    except ImportError:
        raise MissingExtraError("int8 needs onnxruntime; pip install 'hardmine[onnx]'") from None

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Batches of pictures as ONNX Runtime asks for them."""

        def __init__(self) -> None:
            self._batches = iter(batches())

        def get_next(self) -> dict[str, Any] | None:
            """Return the next batch by the input's name, None at the end."""
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    def write(part: Path) -> None:
        """Write the quantised graph."""
        with quiet_export(), _quiet_root_log():
            quantization.quantize_static(
                str(source),
                str(part),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )

    write_atomic(path, write)
    return path


class _quiet_root_log:  # noqa: N801
    """Keep the quantiser's advice off the terminal."""

    def __enter__(self) -> None:
        import logging

        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        import logging

        logging.disable(self._before)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("export needs onnx; pip install 'hardmine[onnx]'") from None
    return onnx


SAME_BOX = 0.5
"""IoU from which two boxes of a class may be the same detection."""


@dataclass(frozen=True, slots=True)
class Parity:
    """``matched`` detections, their largest differences, and those that only one side has.

    ``score`` is a probability, ``box`` pixels of the original image.
    """

    images: int
    matched: int
    score: float
    box: float
    missing: int
    extra: int

    def __str__(self) -> str:
        if not self.matched + self.missing + self.extra:
            return f"no detection on {self.images} images on either side: nothing was compared"
        return (
            f"{self.matched} detections on {self.images} images agree; largest difference: score "
            f"{self.score:.2g}, box {self.box:.2g} px; {self.missing} missing, {self.extra} extra"
        )


def compare(
    reference: Sequence[Detections], found: Sequence[Detections], min_score: float
) -> Parity:
    """Match detections of one class by IoU, best score first, and compare them.

    Detections just below ``min_score`` on one side may match those just above on the other; only
    those above count as missing or extra.

    Args:
        reference, found: one entry an image, in the same order.
        min_score: lowest score of a detection that must be there, inclusive.

    Raises:
        ValueError: they differ in length.
    """
    matched, missing, extra = 0, 0, 0
    score, box = 0.0, 0.0
    for wanted, got in zip(map(_with_area, reference), map(_with_area, found), strict=True):
        free = np.ones(len(got), np.bool_)
        for i in np.flatnonzero(wanted.scores >= min_score):
            j = _best(wanted, int(i), got, free)
            if j is None:
                missing += 1
                continue
            free[j] = False
            matched += 1
            score = max(score, abs(float(wanted.scores[i]) - float(got.scores[j])))
            box = max(box, float(np.abs(wanted.boxes[i] - got.boxes[j]).max()))
        extra += int((free & (got.scores >= min_score)).sum()) - _near_floor(
            wanted, got, free, min_score
        )
    return Parity(len(reference), matched, score, box, missing, extra)


def _with_area(found: Detections) -> Detections:
    """Leave out boxes that lay in the padding of a letterbox: on the image they have no area."""
    keep = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def _best(wanted: Detections, i: int, got: Detections, free: Mask) -> int | None:
    same = free & (got.labels == wanted.labels[i])
    if not same.any():
        return None
    overlap = np.where(same, box_iou(wanted.boxes[i : i + 1], got.boxes)[0], -1.0)
    j = int(overlap.argmax())
    return j if overlap[j] >= SAME_BOX else None


def _near_floor(wanted: Detections, got: Detections, free: Mask, min_score: float) -> int:
    """Count found detections that the reference has too, a little below the floor."""
    below = wanted.scores < min_score
    count = 0
    for j in np.flatnonzero(free & (got.scores >= min_score)):
        same = below & (wanted.labels == got.labels[j])
        count += bool((box_iou(got.boxes[j : j + 1], wanted.boxes[same]) >= SAME_BOX).any())
    return count
