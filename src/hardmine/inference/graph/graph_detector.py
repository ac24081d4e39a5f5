"""Graphs of any origin (ONNX, OpenVINO, ``.tflite``) as detectors."""

from __future__ import annotations

import ast
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hardmine.data.resize import PlainBilinear, Resize
from hardmine.detections import Detections
from hardmine.errors import NOTICE, CheckpointError, ConfigError, HardmineError, not_one_of
from hardmine.inference.detector import BatchScores, make_model_id, top_scores
from hardmine.inference.graph.graph_config import (
    PRESETS,
    GraphConfig,
    JoinedOutput,
    SeparateOutputs,
    graph_config,
    lay_over,
    read_graph_values,
)
from hardmine.inference.graph.graph_outputs import (
    Array,
    boxes_and_scores,
    final_detections,
    suppress,
)
from hardmine.inference.graph.recognise_graph import names_inside, recognise
from hardmine.inference.graph.recognise_tflite import recognise_tflite
from hardmine.inference.graph.tflite_file import fit_names
from hardmine.inference.predict import PredictMixin
from hardmine.recipes.checkpoint import file_digest

_log = logging.getLogger("hardmine")

METADATA_KEY = "hardmine"
"""The key of the metadata under which Hardmine's exports hold their configuration."""
TFLITE = ".tflite"
IDENTITY = "identity"
"""The key in that configuration for the digest of the file before a threshold was written into it."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a graph: its name, shape (``None`` where dynamic) and numpy type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Session(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs in order."""
        ...

    @property
    def output_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """The shapes of the outputs in order, ``None`` where dynamic."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs in order."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the exporter wrote into the file."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether the network runs on the CPU."""
        ...

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in order."""
        ...


class GraphDetector(PredictMixin):
    """A graph with what must be known of it."""

    def __init__(
        self, session: Session, config: GraphConfig, path: Path, priors: Array | None = None
    ) -> None:
        self._session = session
        self._path = path
        self._priors = priors
        self._image, self._size = _ports(session.inputs, config, path)
        height, width = _canvas(self._image, config, session.metadata, path)
        self._config = config
        self.categories = config.classes
        how = config.input
        kind = PlainBilinear if how.sampling == "bilinear" else Resize
        self.resize = kind(height, width, how.resize, how.fill, how.side, how.align)
        self.operating_point = config.operating_point
        finds = replace(config, operating_point=None)  # what it finds does not depend on it
        self.model_id = make_model_id(_identity(session, path), finds, height, width)

    @property
    def config(self) -> GraphConfig:
        """The configuration with classes."""
        return self._config

    @property
    def images_per_run(self) -> int | None:
        """How many images a run takes; None: as many as are given.

        It is the graph's own batch size, or 1 where it takes an image as [3, H, W]. A graph that takes
        any number gets one at a time on a CPU, where more are no quicker and a score would depend on
        them.
        """
        shape = self._image.shape
        fixed = 1 if len(shape) == 3 else shape[0] if len(shape) == 4 else None
        return fixed or (1 if self._session.on_cpu else None)

    def score(self, images: Tensor) -> BatchScores:
        """Return the highest class probability of each image; no NMS where the graph has none."""
        return self.score_and_detect(images, math.inf)[0]

    def detect(self, images: Tensor) -> list[Detections]:
        """Return detections in canvas pixels."""
        return self.score_and_detect(images, -1.0)[1]

    def score_and_detect(
        self, images: Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        """Return scores, and the detections of the images that reach ``floor``, from one run."""
        parts = []
        with _about(self._path):
            for found, size in self._runs(images):
                parts.append(self._read(found, size, floor))
        scores = torch.cat([part for part, _, _ in parts])[: len(images)]
        labels = torch.cat([part for _, part, _ in parts])[: len(images)]
        detections = [item for _, _, part in parts for item in part][: len(images)]
        if len(detections) < len(images):
            raise CheckpointError(f"{self._path}: {len(detections)} results, {len(images)} images")
        return BatchScores(scores, labels, torch.full_like(labels, -1)), detections

    def _read(
        self, found: dict[str, Array], size: int, floor: float
    ) -> tuple[Tensor, Tensor, list[Detections]]:
        """Return scores and labels of a run's images, and detections of those that reach a floor."""
        height, width = self.resize.height, self.resize.width
        if not isinstance(self._config.outputs, JoinedOutput | SeparateOutputs):
            done = final_detections(found, self._config, height, width, size)
            top = top_scores(done)
            reached = (top.scores >= floor).tolist()
            kept = [d if r else Detections.none() for d, r in zip(done, reached, strict=True)]
            return top.scores, top.labels, kept
        boxes, scores = boxes_and_scores(found, self._config, height, width, self._priors)
        best, label = torch.from_numpy(np.ascontiguousarray(scores.max(axis=1))).max(1)
        kept = [
            suppress(b, s, height, width, self._config.nms) if top >= floor else Detections.none()
            for b, s, top in zip(boxes, scores, best.tolist(), strict=True)
        ]
        return best, label + 1, kept

    def _runs(self, images: Tensor) -> list[tuple[dict[str, Array], int]]:
        """Run the graph, in pieces of its own batch size when that is fixed (the last one filled)."""
        pixels = _pixels(images, self._config, self._image)
        size = self.images_per_run or len(pixels)
        alone = len(self._image.shape) == 3  # torchvision's exports take one image, [3, H, W]
        results = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            lacking = size - len(part)
            if lacking:
                part = np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)])
            feed = {self._image.name: part[0] if alone else part}
            if self._size is not None:
                canvas = np.array([self.resize.width, self.resize.height], self._size.dtype)
                feed[self._size.name] = np.tile(canvas, (len(part), 1))
            results.append((self._session.run(feed), len(part)))
        return results


def _identity(session: Session, path: Path) -> str:
    own = json.loads(session.metadata.get(METADATA_KEY, "{}"))
    return str(own.get(IDENTITY) or file_digest(path))


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Put the file's name before what is said of its outputs."""
    try:
        yield
    except HardmineError as error:
        raise CheckpointError(f"{path}: {error}") from None


def open_graph(
    session: Session,
    path: Path,
    description: str | Path | None = None,
    classes: Sequence[str] | None = None,
    fallback: Sequence[str] = (),
    *,
    side: int | None = None,
) -> GraphDetector:
    """Make a detector of a loaded graph.

    Args:
        path: the graph's file.
        description: a preset's name or a YAML file; when not given, the YAML beside the graph
            (``model.yaml`` for ``model.onnx``), or what our own export wrote into it.
        classes: names in the order of the model's numbers; over those of the description, which go
            over those in the file (Ultralytics writes ``names``).
        fallback: names where there are none of these.
        side: the canvas's side in pixels, for a graph that takes any size.

    Raises:
        ConfigError: nothing describes the graph, or the description is faulty.
        CheckpointError: the graph is not as described.
    """
    known = tuple(classes or names_inside(session.metadata) or fallback)
    config, priors, num_classes = _describe(session, path, description, known)
    _refuse_contradiction(session, path, description, config, known)
    if path.suffix.lower() == TFLITE:
        classes = None if classes is None else fit_names(classes, num_classes, str(path))
        if not config.classes and fallback:
            fallback = fit_names(fallback, num_classes, str(path))
    if classes is not None:
        if config.classes and len(config.classes) != len(classes):
            raise ConfigError(
                f"{path}: described with {len(config.classes)} classes, "
                f"--classes gives {len(classes)}"
            )
        config = replace(config, classes=tuple(classes))
    if not config.classes:
        config = replace(config, classes=names_inside(session.metadata) or tuple(fallback))
    if side is not None:
        config = replace(config, input=replace(config.input, height=side, width=side))
    if not config.classes:
        more = "" if num_classes is None else f" for its {num_classes} classes"
        raise ConfigError(
            f"{path}: has no class names{more}; give 'classes' in its YAML or --classes"
        )
    return GraphDetector(session, config, path, priors)


def _describe(
    session: Session, path: Path, description: str | Path | None, names: Sequence[str]
) -> tuple[GraphConfig, Array | None, int | None]:
    """Return the configuration, priors where boxes are encoded, and the number of classes if known."""
    if description is not None and str(description) in PRESETS:
        config = graph_config({"preset": str(description)}, str(path))
        return config, _priors(config, path.parent), None
    if description is not None and not Path(description).suffix:
        raise ConfigError(not_one_of(f"{path}: preset", str(description), PRESETS))
    beside = path.with_suffix(".yaml")
    if description is not None or beside.exists():
        chosen = Path(description) if description is not None else beside
        values = read_graph_values(chosen)
        if path.suffix.lower() == TFLITE and not {"outputs", "preset"} & set(values):
            return _recognised(session, path, names or tuple(values.get("classes", ())), values)
        config = graph_config(values, str(chosen))
        return config, _priors(config, chosen.parent), None
    if METADATA_KEY in session.metadata:
        values = json.loads(session.metadata[METADATA_KEY])
        values.pop(IDENTITY, None)
        config = graph_config(values, f"{path} (metadata)")
        return config, _priors(config, path.parent), len(config.classes) or None
    return _recognised(session, path, names, {})


def _recognised(
    session: Session, path: Path, names: Sequence[str], over: Mapping[str, Any]
) -> tuple[GraphConfig, Array | None, int | None]:
    """Describe a graph by its own marks; the values of a YAML lie over what they say."""
    marks = _Marks(session, path)
    is_tflite = path.suffix.lower() == TFLITE
    found = recognise_tflite(marks, names) if is_tflite else recognise(marks, len(names) or None)
    if found is not None:
        _log.log(NOTICE, "%s: recognised as %s", path, found.who)
        config = graph_config(lay_over(found.values, over), str(path))
        if found.classes:
            config = replace(config, classes=found.classes)
        priors = _priors(config, path.parent) if found.priors is None else found.priors
        return config, priors, found.num_classes
    beside = path.with_suffix(".yaml")
    outputs = zip(session.output_names, session.output_shapes, strict=True)
    shapes = ", ".join(f"{name} {_shown(shape)}" for name, shape in outputs)
    raise ConfigError(
        f"{path}: nothing says what its outputs mean ({shapes}); put {beside.name} beside it, or name a "
        f"preset as {path.name}:{'|'.join(PRESETS)} (see docs/detectors.md)"
    )


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


@dataclass(frozen=True)
class _Marks:
    """A loaded graph as the rules of recognition look at it."""

    session: Session
    path: Path

    @property
    def input_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of each input by its name; None for a free side."""
        return {port.name: port.shape for port in self.session.inputs}

    @property
    def input_types(self) -> Sequence[str]:
        """The number type of each input."""
        return [port.dtype for port in self.session.inputs]

    @property
    def outputs(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of each output by name."""
        return dict(zip(self.session.output_names, self.session.output_shapes, strict=True))

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the exporter wrote into the file."""
        return self.session.metadata

    def run_grey(self) -> Mapping[str, Array]:
        """Return the outputs for inputs that are all zero."""
        feed = {
            port.name: np.full([side or 1 for side in port.shape], 0, port.dtype)
            for port in self.session.inputs
        }
        return self.session.run(feed)


def _refuse_contradiction(
    session: Session,
    path: Path,
    description: str | Path | None,
    config: GraphConfig,
    names: Sequence[str],
) -> None:
    """Refuse a description that says otherwise than a file which holds rows of finished boxes.

    Raises:
        ConfigError: so.
    """
    if METADATA_KEY in session.metadata or path.suffix.lower() == TFLITE:
        return
    try:
        found = recognise(_Marks(session, path), len(names) or None)
    except HardmineError:
        return
    if found is None:
        return
    own, said = graph_config(found.values, str(path)).outputs, config.outputs
    if own.kind != "rows" or (said.kind == "rows" and said.box_form == own.box_form):
        return
    raise ConfigError(
        f"{path}: is described by {description or path.with_suffix('.yaml').name} as outputs of "
        f"kind {said.kind!r} with {said.box_form} boxes, but NMS is inside: its output "
        f"{_shown(session.output_shapes[0])} is that of {found.who}; name {path.name} without a preset"
    )


def _priors(config: GraphConfig, folder: Path) -> Array | None:
    outputs = config.outputs
    if not isinstance(outputs, SeparateOutputs) or outputs.priors is None:
        return None
    path = folder / outputs.priors
    try:
        priors = np.load(path, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as priors ({error})") from None
    if priors.ndim != 2 or priors.shape[1] != 4:
        raise ConfigError(f"{path}: got priors of shape {priors.shape}, wanted [N, 4] (cxcywh)")
    return np.asarray(priors, np.float32)


def _ports(inputs: Sequence[Port], config: GraphConfig, path: Path) -> tuple[Port, Port | None]:
    by_name = {port.name: port for port in inputs}
    size_name, name = config.input.size_name, config.input.name
    for wanted in (name, size_name):
        if wanted is not None and wanted not in by_name:
            raise CheckpointError(f"{path}: no input {wanted!r}; has {', '.join(by_name)}")
    size = by_name[size_name] if size_name else None
    images = [port for port in inputs if port is not size]
    image = by_name[name] if name else images[0]
    if len(images) > 1:
        raise CheckpointError(
            f"{path}: has inputs {', '.join(by_name)}; one image input is supported, and "
            "'input.size_name' for one that takes the size"
        )
    return image, size


def _canvas(
    image: Port, config: GraphConfig, metadata: Mapping[str, str], path: Path
) -> tuple[int, int]:
    """Return (height, width): as configured, else as the graph or its metadata fixes them."""
    at = (-2, -1) if config.input.layout == "nchw" else (-3, -2)
    known = len(image.shape) in (3, 4)
    inside = [image.shape[i] if known else None for i in at]
    if None in inside:
        try:
            sides = ast.literal_eval(metadata.get("imgsz", ""))
            inside = [int(sides[0]), int(sides[1])]
        except (ValueError, SyntaxError, TypeError, IndexError):
            pass
    given = (config.input.height, config.input.width)
    chosen = [g or i for g, i in zip(given, inside, strict=True)]
    fixed = [image.shape[i] if known else None for i in at]
    for side, want in zip(chosen, fixed, strict=True):
        if side is None:
            raise ConfigError(
                f"{path}: takes any size; name one as {path.name}@640, or give input.height and "
                "input.width in a YAML"
            )
        if want is not None and side != want:
            raise ConfigError(f"{path}: takes {fixed[0]}x{fixed[1]}, described as {given}")
    return int(chosen[0] or 0), int(chosen[1] or 0)


def _pixels(images: Tensor, config: GraphConfig, port: Port) -> Array:
    """Return u8[B, 3, H, W] as the graph wants it."""
    how = config.input
    values: Array = images.cpu().numpy()
    if how.channels == "bgr":
        values = values[:, ::-1]
    if port.dtype != "uint8":
        mean = np.array(how.mean, np.float32).reshape(3, 1, 1)
        std = np.array(how.std, np.float32).reshape(3, 1, 1)
        values = ((values.astype(np.float32) / how.divide_by - mean) / std).astype(port.dtype)
    if how.layout == "nhwc":
        values = values.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(values)
