"""What must be known of a foreign graph (ONNX, OpenVINO) to feed it and to read its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from hardmine.data.resize import Align, Mode
from hardmine.detections import OperatingPoint
from hardmine.errors import ConfigError, not_one_of
from hardmine.files import TextError, read_text

BoxForm = Literal["xyxy", "cxcywh", "xywh", "yxyx"]
Coordinates = Literal["pixels", "unit"]
ScoreKind = Literal["probability", "sigmoid", "softmax"]
Sampling = Literal["antialias", "bilinear"]
Column = Literal["image", "x1", "y1", "x2", "y2", "cx", "cy", "w", "h", "score", "label", "skip"]
OutputName = int | str
"""An output by its position or by its name."""

_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class GraphInput:
    """How pixels enter: ``(pixel / divide_by - mean) / std``, in RGB or BGR.

    ``resize``, ``side``, ``fill`` and ``align`` as in ``data.resize``; ``height`` and ``width`` are
    read from the file when they stand there. ``sampling`` says how pixels are resampled: ``bilinear`` as
    OpenCV does, ``antialias`` as Pillow and our own models do. ``size_name`` is a second input,
    i64[B, 2], that takes the canvas's (width, height).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    height: int | None = None
    width: int | None = None
    resize: Mode = "letterbox"
    side: int | None = None
    fill: tuple[int, int, int] = (114, 114, 114)
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    divide_by: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    name: str | None = None
    size_name: str | None = None
    align: Align = "centre"
    sampling: Sampling = "antialias"

    def __post_init__(self) -> None:
        if self.divide_by <= 0 or min(self.std) <= 0:
            raise ConfigError(
                f"input: got divide_by {self.divide_by}, std {self.std}, wanted values above 0"
            )


@dataclass(frozen=True, slots=True)
class JoinedOutput:
    """One output [B, N, 4 (+ 1) + C]: box, objectness if ``objectness``, class scores.

    ``transposed``: [B, 4 + C, N]. With objectness a score is objectness times class score. With
    ``strides`` a box is an offset in a grid of cells, level after level, row by row: centre = (cell +
    offset) × stride, size = exp(value) × stride.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["joined"] = "joined"
    output: OutputName = 0
    transposed: bool = False
    objectness: bool = False
    box_form: BoxForm = "cxcywh"
    coordinates: Coordinates = "pixels"
    score_form: Literal["probability", "sigmoid"] = "probability"
    strides: tuple[int, ...] = ()
    best_class: bool = False
    """Whether a box has one class only, its best one, as Ultralytics decodes it."""

    def __post_init__(self) -> None:
        decodes_itself = (self.box_form, self.coordinates) == ("cxcywh", "pixels")
        if self.strides and (min(self.strides) < 1 or not decodes_itself):
            raise ConfigError(
                f"outputs: got strides {list(self.strides)}, box_form {self.box_form}, coordinates "
                f"{self.coordinates}; wanted strides of 1 px or more with cxcywh in pixels"
            )


@dataclass(frozen=True, slots=True)
class SeparateOutputs:
    """Boxes [B, N, 4] and scores [B, N, C (+ 1)], before NMS.

    ``background`` says where a column for it stands. With ``priors``, a ``.npy`` file of f32[N, 4]
    (cxcywh, in ``coordinates``), boxes are SSD deltas: centre offsets in units of the prior's size
    times ``variances[:2]``, log sizes times ``variances[2:]``. Their order is x, y, w, h; with the
    ``box_form`` yxyx it is y, x, h, w, as TensorFlow has it.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["separate"] = "separate"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    box_form: BoxForm = "xyxy"
    coordinates: Coordinates = "pixels"
    score_form: ScoreKind = "probability"
    background: Literal["none", "first", "last"] = "none"
    priors: str | None = None
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)


@dataclass(frozen=True, slots=True)
class FinalOutputs:
    """NMS is inside: boxes [B, K, 4], scores [B, K], labels [B, K], of which ``count`` [B] are real.

    ``first_label`` is the number that the first class has.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["final"] = "final"
    boxes: OutputName = "boxes"
    scores: OutputName = "scores"
    labels: OutputName = "labels"
    count: OutputName | None = None
    box_form: BoxForm = "xyxy"
    coordinates: Coordinates = "pixels"
    first_label: int = 0


@dataclass(frozen=True, slots=True)
class RowsOutput:
    """NMS is inside: rows of numbers, [B, K, columns], or [K, columns] with a column ``image``.

    Boxes are x1, y1, x2, y2 or cx, cy, w, h.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["rows"] = "rows"
    output: OutputName = 0
    columns: tuple[Column, ...] = ("x1", "y1", "x2", "y2", "score", "label")
    coordinates: Coordinates = "pixels"
    first_label: int = 0

    def __post_init__(self) -> None:
        wanted = {*self.box_columns, "score", "label"}
        missing = wanted - set(self.columns)
        if missing:
            raise ConfigError(f"outputs.columns: got {list(self.columns)}, {sorted(missing)} lack")

    @property
    def box_columns(self) -> tuple[Column, Column, Column, Column]:
        """The columns of a box, in their order."""
        return ("cx", "cy", "w", "h") if "cx" in self.columns else ("x1", "y1", "x2", "y2")

    @property
    def box_form(self) -> BoxForm:
        """What the columns of a box mean."""
        return "cxcywh" if "cx" in self.columns else "xyxy"


Outputs = JoinedOutput | SeparateOutputs | FinalOutputs | RowsOutput


@dataclass(frozen=True, slots=True)
class Suppression:
    """What happens to boxes that come without NMS; ``iou`` none: nothing is suppressed.

    The score threshold is inclusive; ``candidates`` (box, class) pairs per image enter, at most
    ``class_candidates`` of them of one class.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    score_threshold: float = 0.01
    iou: float | None = 0.45
    candidates: int = 1000
    class_candidates: int | None = None
    max_detections: int = 300
    clip: Literal["before", "after"] = "before"
    """Whether boxes are cut to the canvas before others are suppressed by them, or afterwards."""

    def __post_init__(self) -> None:
        iou_fits = self.iou is None or 0 < self.iou <= 1
        if not 0 <= self.score_threshold < 1 or not iou_fits:
            raise ConfigError(
                f"nms: got score_threshold {self.score_threshold}, iou {self.iou}, "
                "wanted 0 <= score_threshold < 1 and 0 < iou <= 1"
            )
        of_class = 1 if self.class_candidates is None else self.class_candidates
        if min(self.candidates, of_class, self.max_detections) < 1:
            raise ConfigError(
                "nms: candidates, class_candidates and max_detections must be 1 or more"
            )


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """All of it; ``classes`` empty: from the file's metadata or ``--classes``.

    ``operating_point`` is the score from which detections count where nothing else is asked for.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    outputs: Outputs = field(default_factory=JoinedOutput)
    input: GraphInput = field(default_factory=GraphInput)
    nms: Suppression = field(default_factory=Suppression)
    classes: tuple[str, ...] = ()
    model: str | None = None
    operating_point: OperatingPoint | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """A known exporter: what its files mean (``values`` of a :class:`GraphConfig`), and in words."""

    values: Mapping[str, Any]
    who: str
    output: str
    pixels: str

    @property
    def docs_row(self) -> str:
        """The row of the table in docs/detectors.md, after the name."""
        iou = self.values["nms"]["iou"]
        return f"{self.who} | {self.output} | {self.pixels} | {'none' if iou is None else iou}"


_TF_INPUT = {
    "resize": "stretch",
    "layout": "nhwc",
    "divide_by": 127.5,
    "mean": [1.0, 1.0, 1.0],
    "sampling": "bilinear",
}
_TF_FINAL = {"kind": "final", "box_form": "yxyx", "coordinates": "unit"}

_YOLOX_INPUT = {
    "align": "upper_left",
    "channels": "bgr",
    "divide_by": 1.0,
    "sampling": "bilinear",
}

PRESETS: Mapping[str, Preset] = {
    "yolov5": Preset(
        {
            "outputs": {"kind": "joined", "objectness": True, "best_class": True},
            "input": {"sampling": "bilinear"},
            "nms": {"iou": 0.45, "clip": "after"},
        },
        "YOLOv5 and YOLOv7",
        "one [B, N, 5 + C], cxcywh pixels, objectness × class",
        "letterbox 114, 0–1, plain bilinear",
    ),
    "yolov8": Preset(
        {
            "outputs": {"kind": "joined", "transposed": True, "best_class": True},
            "input": {"sampling": "bilinear"},
            "nms": {"iou": 0.7, "clip": "after"},
        },
        "YOLOv8 and later ones without NMS inside",
        "one [B, 4 + C, N], cxcywh pixels",
        "letterbox 114, 0–1, plain bilinear",
    ),
    "yolo_rows": Preset(
        {
            "outputs": {"kind": "rows"},
            "input": {"sampling": "bilinear"},
            "nms": {"iou": None},
        },
        "YOLOs with NMS inside, or end to end",
        "one [B, K, 6] of x1, y1, x2, y2 (pixels), score, label",
        "letterbox 114, 0–1, plain bilinear",
    ),
    "yolox": Preset(
        {
            "outputs": {"kind": "joined", "objectness": True, "strides": [8, 16, 32]},
            "input": _YOLOX_INPUT,
            "nms": {"iou": 0.45, "clip": "after"},
        },
        "YOLOX, as its own ONNX export writes it",
        "one [B, N, 5 + C], offsets in grids of strides 8, 16, 32, objectness × class",
        "letterbox 114 at the upper left, BGR, 0–255, plain bilinear",
    ),
    "yolox_decoded": Preset(
        {
            "outputs": {"kind": "joined", "objectness": True},
            "input": _YOLOX_INPUT,
            "nms": {"iou": 0.45, "clip": "after"},
        },
        "YOLOX, exported with `--decode_in_inference`",
        "one [B, N, 5 + C], cxcywh pixels, objectness × class",
        "letterbox 114 at the upper left, BGR, 0–255, plain bilinear",
    ),
    "rtdetr": Preset(
        {
            "outputs": {
                "kind": "rows",
                "columns": ["cx", "cy", "w", "h", "score", "label"],
                "coordinates": "unit",
            },
            "input": {"resize": "stretch", "sampling": "bilinear"},
            "nms": {"iou": None},
        },
        "RT-DETR, as Ultralytics exports it today",
        "one [B, 300, 6] of cx, cy, w, h (unit), score, label",
        "stretch, 0–1, plain bilinear",
    ),
    "rtdetr_scores": Preset(
        {
            "outputs": {"kind": "joined", "coordinates": "unit", "best_class": True},
            "input": {"resize": "stretch", "sampling": "bilinear"},
            "nms": {"iou": None},
        },
        "RT-DETR, as Ultralytics exported it before 8.4",
        "one [B, 300, 4 + C], cxcywh unit",
        "stretch, 0–1, plain bilinear",
    ),
    "ssd": Preset(
        {
            "outputs": {"kind": "separate", "score_form": "softmax", "background": "first"},
            "input": {
                "resize": "stretch",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
            "nms": {"iou": 0.45, "candidates": 400, "max_detections": 200},
        },
        "any SSD",
        "`boxes` deltas, `scores` logits with background first; give `priors`",
        "stretch, ImageNet mean and std",
    ),
    "tf_ssd": Preset(
        {
            "outputs": {**_TF_FINAL, "boxes": 0, "labels": 1, "scores": 2, "count": 3},
            "input": _TF_INPUT,
            "nms": {"iou": None},
        },
        "`.tflite` of TensorFlow's Object Detection API and of Model Maker, in the operator's order",
        "boxes y1, x1, y2, x2 (unit), classes, scores, count",
        "stretch, -1–1 where it takes floats, plain bilinear",
    ),
    "tf_ssd_sorted": Preset(
        {
            "outputs": {**_TF_FINAL, "scores": 0, "boxes": 1, "count": 2, "labels": 3},
            "input": _TF_INPUT,
            "nms": {"iou": None},
        },
        "the same, in the order that the converter of TensorFlow 2 writes",
        "scores, boxes y1, x1, y2, x2 (unit), count, classes",
        "stretch, -1–1 where it takes floats, plain bilinear",
    ),
    "tf_ssd_raw": Preset(
        {
            "outputs": {
                "kind": "separate",
                "boxes": 0,
                "scores": 1,
                "box_form": "yxyx",
                "coordinates": "unit",
                "background": "first",
            },
            "input": _TF_INPUT,
            "nms": {"iou": 0.6, "max_detections": 100},
        },
        "the same without the operator",
        "encoded boxes [1, N, 4], class probabilities [1, N, 1 + C]; give `priors`",
        "stretch, -1–1 where it takes floats, plain bilinear",
    ),
}
"""One row for each known exporter; its name is what ``model.onnx:NAME`` asks for."""


def graph_config(values: Mapping[str, Any], where: str) -> GraphConfig:
    """Build a configuration from plain values, laid over the preset that they name.

    Raises:
        ConfigError: an unknown preset or key, or a wrong value; ``where`` names the file.
    """
    from pydantic import TypeAdapter, ValidationError

    own = dict(values)
    preset = own.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise ConfigError(not_one_of(f"{where}: preset", preset, PRESETS))
    merged = lay_over(PRESETS[preset].values if preset else {}, own)
    if isinstance(merged.get("outputs"), Mapping):
        merged["outputs"] = {"kind": "joined", **merged["outputs"]}
    try:
        return TypeAdapter(GraphConfig).validate_python(merged)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error.errors(), merged)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def read_graph_values(path: Path) -> dict[str, Any]:
    """Read a YAML description as plain values, ``classes`` as a list.

    Raises:
        ConfigError: missing, or no YAML mapping.
    """
    import yaml

    from hardmine.inference.class_names import read_classes

    try:
        values = yaml.safe_load(read_text(path))
    except (OSError, TextError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wanted a mapping, got {type(values).__name__}")
    if isinstance(values.get("classes"), str):
        values["classes"] = list(read_classes(path.parent / values["classes"]))
    return values


def lay_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``over``; mappings are merged unless their kinds differ."""
    merged = {key: dict(v) if isinstance(v, Mapping) else v for key, v in base.items()}
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            replaces = "kind" in value and value["kind"] != old.get("kind")
            merged[key] = dict(value) if replaces else {**old, **value}
        else:
            merged[key] = value
    return merged


def _first(errors: list[Any], values: Mapping[str, Any]) -> str:
    """Return the fault that matters: that of the ``kind`` of outputs which was asked for."""
    outputs = values.get("outputs")
    kind = outputs.get("kind") if isinstance(outputs, Mapping) else None
    names = {
        "joined": "JoinedOutput",
        "separate": "SeparateOutputs",
        "final": "FinalOutputs",
        "rows": "RowsOutput",
    }
    if kind is not None and kind not in names:
        return not_one_of("outputs.kind", kind, names)
    own = [e for e in errors if e["loc"][0] != "outputs" or names.get(str(kind)) in e["loc"]]
    first = (own or errors)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in names.values())
    return f"{where}: {first['msg']}, got {first['input']!r}"
