"""What a ``.tflite`` file says of itself: the detection operator, anchors, normalisation, class names.

A file is a flatbuffer. TFLite's metadata are a second flatbuffer inside it; the label file that they
name lies in a zip archive that is appended to the file. Source: ``schema.fbs`` of LiteRT and
``metadata_schema.fbs`` of TFLite Support.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from hardmine.files import TextError, read_text
from hardmine.inference.class_names import is_background, items_of_label_map, read_classes

Array = NDArray[Any]

POST_PROCESS = "TFLite_Detection_PostProcess"
"""The operator that decodes boxes and suppresses; its outputs: boxes, classes, scores, count."""
METADATA = "TFLITE_METADATA"
_EDGE_TPU = "edgetpu-custom-op"
_LABEL_FILE = (2, 3)
"""``TENSOR_AXIS_LABELS`` and ``TENSOR_VALUE_LABELS`` of ``AssociatedFileType``."""
_FLOAT, _UINT8, _INT8 = 0, 3, 9
"""Values of ``TensorType``."""
_NORMALIZATION = 1
"""``NormalizationOptions`` of ``ProcessUnitOptions``."""
_NO_CLASS = frozenset({"???", "unlabeled"})
_NUMBERED = re.compile(r"\s*(\d+)[\s:,]+(\S.*)")


@dataclass(frozen=True, slots=True)
class PostProcess:
    """The detection operator: the places of its outputs among the file's (or none), and its limits."""

    boxes: int | None
    classes: int | None
    scores: int | None
    count: int | None
    num_classes: int
    score_threshold: float
    max_detections: int

    @property
    def is_last(self) -> bool:
        """Whether what it gives is what the file gives."""
        return None not in (self.boxes, self.classes, self.scores)


@dataclass(frozen=True, slots=True)
class TfliteFacts:
    """What stands in a file.

    ``output_names`` are those of the metadata, ``labels`` the lines of its label file, ``mean`` and
    ``std`` of pixels from 0 to 255 (one value or three; empty where nothing says so), ``anchors``
    f32[N, 4] as y centre, x centre, height, width, ``input_scale`` scale and zero point of an int8
    input.
    """

    postprocess: PostProcess | None
    output_names: tuple[str, ...]
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    anchors: Array | None
    input_scale: tuple[float, int] | None


def import_litert(path: Path) -> Any:
    """Return the module ``ai_edge_litert.interpreter``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        raise MissingExtraError(
            f"{path}: needs ai-edge-litert; pip install 'hardmine[litert]'"
        ) from None
    return interpreter


def read_model(path: Path) -> Any:
    """Return the file as ``ModelT`` of LiteRT's schema.

    Raises:
        CheckpointError: no such file, or damaged.
        MissingExtraError: ai-edge-litert is not installed.
    """
    import_litert(path)
    from ai_edge_litert import schema_py_generated as schema

    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if data[4:8] != b"TFL3":
        raise CheckpointError(f"{path}: is no .tflite file: its mark TFL3 is missing")
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        for buffer in model.buffers or ():
            _bring_inside(buffer, data)
        return model
    except (struct.error, IndexError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged or cut short ({error})") from None


def _bring_inside(buffer: Any, data: bytes) -> None:
    """Take in what newer converters write behind the flatbuffer, by its place in the file."""
    if buffer.offset > 1:
        buffer.data = np.frombuffer(data, np.uint8, count=buffer.size, offset=buffer.offset)
        buffer.offset = buffer.size = 0


def operator_names(model: Any) -> list[str]:
    """Return the names of the custom operators, one for each operator code (empty for built-in ones)."""
    return [_text(code.customCode) for code in model.operatorCodes or ()]


def refuse_compiled(path: Path, model: Any) -> None:
    """Refuse a file that was compiled for the Edge TPU.

    Raises:
        CheckpointError: it was; the message says which file is wanted.
    """
    if _EDGE_TPU in operator_names(model):
        wanted = re.sub(r"_edgetpu$", "", path.stem)
        raise CheckpointError(
            f"{path}: is compiled for the Edge TPU (operator {_EDGE_TPU}), which no other processor "
            f"runs; name the file that it was compiled from ({wanted}.tflite): it finds the same"
        )


def read_facts(path: Path) -> TfliteFacts:
    """Return what stands in a ``.tflite`` file.

    Raises:
        CheckpointError: damaged, or the label file that it names is missing from it.
    """
    model = read_model(path)
    post, anchors = _post_process(model)
    names, label_file, mean, std = _metadata(path, model)
    labels = () if label_file is None else _labels(path, label_file)
    if anchors is None:
        anchors = _anchors(model)
    return TfliteFacts(post, names, labels, mean, std, anchors, _input_scale(model))


def metadata_buffer(model: Any, name: str) -> bytes | None:
    """Return what is stored under a name among a model's metadata."""
    for entry in model.metadata or ():
        if _text(entry.name) == name:
            data = model.buffers[entry.buffer].data
            return b"" if data is None else np.asarray(data, np.uint8).tobytes()
    return None


def label_names(text: str) -> tuple[str, ...]:
    """Return the names of a label file by position; a place without a name is ``unnamed N``.

    Lines are names, or ``number name`` as Coral's files have them; a ``label_map.pbtxt`` of the
    TensorFlow Object Detection API has items with an id (from 1) and a name.
    """
    if items_of_label_map(text):
        return _from_items(text)
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        by_number = {int(found[1]): found[2].strip() for found in numbered if found}
        lines = [by_number.get(i, "") for i in range(max(by_number) + 1)]
    return tuple(lines)


def read_label_map(path: Path) -> tuple[str, ...]:
    """Return the names of ``--classes`` for a ``.tflite`` file: also a label map, see ``label_names``.

    Raises:
        DataError: unreadable.
    """
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        return read_classes(path)
    try:
        return label_names(read_text(path))
    except (OSError, TextError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error})") from None


def fit_names(names: Sequence[str], num_classes: int | None, where: str) -> tuple[str, ...]:
    """Return one name for each class, without the first line where that is the background.

    Places without a name (``???``, an empty line) become ``unnamed N``.

    Args:
        num_classes: how many the model has; ``None``: it is not known.
        where: what the message begins with.

    Raises:
        ConfigError: the numbers differ.
    """
    kept = list(names)
    first = kept[0].strip().lower() if kept else ""
    counts_background = is_background(first) or first in _NO_CLASS or not first
    if kept and counts_background and (num_classes is None or len(kept) == num_classes + 1):
        kept = kept[1:]
    if num_classes is not None and len(kept) != num_classes:
        more = "" if len(kept) == len(names) else f" (without the first one, {names[0]!r})"
        raise ConfigError(
            f"{where}: has {num_classes} classes, {len(kept)} names are given{more}: "
            f"{', '.join(kept[:6])}; give --classes FILE with one name a line"
        )
    return tuple(
        f"unnamed {i}" if name.strip() in ("", "???") else name.strip()
        for i, name in enumerate(kept, 1)
    )


def _from_items(text: str) -> tuple[str, ...]:
    found = items_of_label_map(text)
    return tuple(found.get(i, "") for i in range(1, max(found, default=0) + 1))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _post_process(model: Any) -> tuple[PostProcess | None, Array | None]:
    from flatbuffers import flexbuffers

    names, graph = operator_names(model), model.subgraphs[0]
    for operator in graph.operators or ():
        if names[operator.opcodeIndex] != POST_PROCESS:
            continue
        given = [int(i) for i in graph.outputs]
        places = [given.index(int(i)) if int(i) in given else None for i in operator.outputs]
        boxes, classes, scores, count = (*places, None, None, None, None)[:4]
        options = flexbuffers.Loads(np.asarray(operator.customOptions, np.uint8).tobytes())
        post = PostProcess(
            boxes,
            classes,
            scores,
            count,
            num_classes=int(options["num_classes"]),
            score_threshold=float(options.get("nms_score_threshold", 0.0)),
            max_detections=int(options.get("max_detections", 0)),
        )
        tensor = graph.tensors[int(operator.inputs[2])]
        return post, _constant(model, tensor)
    return None, None


def _anchors(model: Any) -> Array | None:
    """Return a constant [N, 4] that is called anchors."""
    for tensor in model.subgraphs[0].tensors or ():
        shape = () if tensor.shape is None else tuple(tensor.shape)
        if "anchor" in _text(tensor.name).lower() and len(shape) == 2 and shape[1] == 4:
            found = _constant(model, tensor)
            if found is not None:
                return found
    return None


def _constant(model: Any, tensor: Any) -> Array | None:
    data = model.buffers[tensor.buffer].data
    types = {_FLOAT: np.float32, _UINT8: np.uint8, _INT8: np.int8}
    if data is None or tensor.type not in types:
        return None
    raw = np.asarray(data, np.uint8).tobytes()
    values = np.frombuffer(raw, types[tensor.type]).reshape(tuple(tensor.shape))
    how = tensor.quantization
    if tensor.type == _FLOAT or how is None or how.scale is None:
        return values.astype(np.float32)
    scaled = (values.astype(np.float32) - float(how.zeroPoint[0])) * float(how.scale[0])
    return np.asarray(scaled, np.float32)


def _input_scale(model: Any) -> tuple[float, int] | None:
    graph = model.subgraphs[0]
    tensor = graph.tensors[int(graph.inputs[0])]
    how = tensor.quantization
    if tensor.type != _INT8 or how is None or how.scale is None or not len(how.scale):
        return None
    return float(how.scale[0]), int(how.zeroPoint[0])


class _Table:
    """A table of a flatbuffer whose classes are not there: fields by their position."""

    def __init__(self, data: bytes, at: int) -> None:
        from flatbuffers.table import Table

        self._table, self._data = Table(data, at), data

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _at(self, field: int) -> int | None:
        offset = int(self._table.Offset(4 + 2 * field))
        return self._table.Pos + offset if offset else None

    def text(self, field: int) -> str:
        at = self._at(field)
        return "" if at is None else _text(bytes(self._table.String(at)))

    def byte(self, field: int) -> int:
        at = self._at(field)
        return 0 if at is None else self._data[at]

    def table(self, field: int) -> _Table | None:
        at = self._at(field)
        return None if at is None else _Table(self._data, int(self._table.Indirect(at)))

    def _vector(self, field: int) -> range:
        at = self._at(field)
        if at is None:
            return range(0)
        offset = at - self._table.Pos
        start = int(self._table.Vector(offset))
        return range(start, start + 4 * int(self._table.VectorLen(offset)), 4)

    def tables(self, field: int) -> Iterator[_Table]:
        for at in self._vector(field):
            yield _Table(self._data, int(self._table.Indirect(at)))

    def floats(self, field: int) -> tuple[float, ...]:
        return tuple(struct.unpack_from("<f", self._data, at)[0] for at in self._vector(field))


def _metadata(
    path: Path, model: Any
) -> tuple[tuple[str, ...], str | None, tuple[float, ...], tuple[float, ...]]:
    """Return names of the outputs, name of the label file, mean and std of the pixels."""
    data = metadata_buffer(model, METADATA)
    if not data:
        return (), None, (), ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    try:
        top = _Table.root(data)
        graph = next(top.tables(3))  # ModelMetadata.subgraph_metadata
        inputs, outputs = list(graph.tables(2)), list(graph.tables(3))
        for unit in (unit for tensor in inputs for unit in tensor.tables(4)):
            options = unit.table(1)
            if unit.byte(0) == _NORMALIZATION and options is not None:
                mean, std = options.floats(0), options.floats(1)
        files = [file for tensor in outputs for file in tensor.tables(6)]
        files += [*graph.tables(4), *top.tables(6)]
        labels = [file.text(0) for file in files if file.byte(2) in _LABEL_FILE]
        named = tuple(tensor.text(0).strip().lower() for tensor in outputs)
    except (struct.error, IndexError, StopIteration) as error:
        raise CheckpointError(f"{path}: its TFLite metadata cannot be read ({error!r})") from None
    return named, labels[0] if labels else None, mean, std


def _labels(path: Path, name: str) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(name).decode("utf-8-sig")
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: its label file {name!r}, which its metadata name, cannot be read ({reason}); is "
            "the file cut short? give the names with --classes FILE"
        ) from None
    return label_names(text)
