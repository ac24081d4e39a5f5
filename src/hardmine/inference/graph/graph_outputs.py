"""From a foreign graph's outputs to detections on the canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from hardmine.detections import Detections
from hardmine.errors import CheckpointError
from hardmine.inference.graph.graph_config import (
    BoxForm,
    Coordinates,
    FinalOutputs,
    GraphConfig,
    JoinedOutput,
    OutputName,
    RowsOutput,
    SeparateOutputs,
    Suppression,
)

_MAX_LOG = math.log(1000.0 / 16)
"""Limit of a decoded ln(w / p_w): keeps exp finite."""
_MAX_GRID_LOG = 20.0
"""Limit of ln(w / stride), for the same reason: far beyond any canvas."""

Array = NDArray[Any]
Found = Mapping[str, Array]
"""A graph's outputs by name, in its order."""


def final_detections(
    found: Found, config: GraphConfig, height: int, width: int, batch: int
) -> list[Detections]:
    """Return each image's detections in canvas pixels, best first, of a graph with NMS inside.

    Args:
        found: the outputs of one batch of ``batch`` images.
        height, width: of the canvas.

    Raises:
        CheckpointError: outputs that are not as the configuration says.
    """
    outputs = config.outputs
    classes, most = len(config.classes), config.nms.max_detections
    match outputs:
        case FinalOutputs():
            results = _final(found, outputs, height, width, classes)
        case RowsOutput():
            results = _rows(found, outputs, height, width, classes, batch)
        case JoinedOutput() | SeparateOutputs():
            raise TypeError(f"{outputs.kind}: comes without NMS; see boxes_and_scores")
        case _:
            assert_never(outputs)
    return [Detections(d.boxes[:most], d.scores[:most], d.labels[:most]) for d in results]


def boxes_and_scores(
    found: Found, config: GraphConfig, height: int, width: int, priors: Array | None = None
) -> tuple[Array, Array]:
    """Return f32[B, N, 4] xyxy canvas pixels and f32[B, N, C] probabilities, before NMS."""
    outputs = config.outputs
    match outputs:
        case JoinedOutput():
            boxes, scores = _split(pick(found, outputs.output), outputs)
            if outputs.strides:
                boxes = _undo_grid(boxes, outputs.strides, height, width)
        case SeparateOutputs():
            boxes = _rank3(pick(found, outputs.boxes), "boxes")
            scores = _probabilities(_rank3(pick(found, outputs.scores), "scores"), outputs)
            if outputs.priors is not None:
                if outputs.box_form == "yxyx":
                    boxes = boxes[..., [1, 0, 3, 2]]
                boxes = _undo_deltas(boxes, priors, outputs.variances)
        case FinalOutputs() | RowsOutput():
            raise TypeError(f"{outputs.kind}: suppresses inside the graph; see final_detections")
        case _:
            assert_never(outputs)
    if boxes.shape[:2] != scores.shape[:2] or boxes.shape[2] != 4:
        raise CheckpointError(f"boxes {boxes.shape} and scores {scores.shape} do not go together")
    if scores.shape[2] != len(config.classes):
        raise CheckpointError(
            f"the model gives {scores.shape[2]} class scores, the configuration names "
            f"{len(config.classes)} classes: {', '.join(config.classes[:6])}"
        )
    form: BoxForm = "cxcywh" if _has_priors(outputs) else outputs.box_form
    return to_xyxy_pixels(boxes, form, outputs.coordinates, height, width), scores


def _has_priors(outputs: Any) -> bool:
    return isinstance(outputs, SeparateOutputs) and outputs.priors is not None


def pick(found: Found, name: OutputName) -> Array:
    """Return an output by name or position, as float32.

    Raises:
        CheckpointError: there is none; the message lists those that are there.
    """
    names = list(found)
    if isinstance(name, int) and 0 <= name < len(names):
        name = names[name]
    if name not in found:
        raise CheckpointError(f"no output {name!r}; has {', '.join(names)}")
    return np.asarray(found[str(name)], np.float32)


def _rank3(values: Array, what: str) -> Array:
    if values.ndim == 4 and values.shape[2] == 1:  # [B, N, 1, 4], as some exporters write it
        values = values[:, :, 0]
    if values.ndim != 3:
        raise CheckpointError(f"{what}: got shape {values.shape}, wanted [B, N, values]")
    return values


def _split(values: Array, outputs: JoinedOutput) -> tuple[Array, Array]:
    values = _rank3(values, "output")
    if outputs.transposed:
        values = values.transpose(0, 2, 1)
    start = 5 if outputs.objectness else 4
    if values.shape[2] <= start:
        raise CheckpointError(
            f"got {values.shape[2]} values a box, wanted more than {start}; is it transposed?"
        )
    scores = values[..., start:]
    if outputs.score_form == "sigmoid":
        scores = _sigmoid(scores)
    if outputs.objectness:
        objectness = values[..., 4:5]
        scores = scores * (_sigmoid(objectness) if outputs.score_form == "sigmoid" else objectness)
    if outputs.best_class:
        best = scores.argmax(axis=-1, keepdims=True)  # the first one where two are equal
        scores = np.where(np.arange(scores.shape[-1]) == best, scores, 0)
    return values[..., :4], scores


def _probabilities(values: Array, outputs: SeparateOutputs) -> Array:
    match outputs.score_form:
        case "softmax":
            shifted = np.exp(values - values.max(axis=-1, keepdims=True))
            values = shifted / shifted.sum(axis=-1, keepdims=True)
        case "sigmoid":
            values = _sigmoid(values)
        case "probability":
            pass
        case _:
            assert_never(outputs.score_form)
    match outputs.background:
        case "none":
            return values
        case "first":
            return values[..., 1:]
        case "last":
            return values[..., :-1]
        case _:
            assert_never(outputs.background)


def _sigmoid(values: Array) -> Array:
    return torch.from_numpy(np.ascontiguousarray(values)).sigmoid().numpy()


def _undo_deltas(
    deltas: Array, priors: Array | None, variances: tuple[float, float, float, float]
) -> Array:
    if priors is None or priors.shape != deltas.shape[1:]:
        got = None if priors is None else priors.shape
        raise CheckpointError(f"priors {got} for deltas {deltas.shape}, wanted {deltas.shape[1:]}")
    scaled = deltas * np.array(variances, np.float32)
    centre = priors[:, :2] + scaled[..., :2] * priors[:, 2:]
    size = priors[:, 2:] * np.exp(np.minimum(scaled[..., 2:], _MAX_LOG))
    return np.concatenate([centre, size], axis=-1)


def _undo_grid(values: Array, strides: Sequence[int], height: int, width: int) -> Array:
    """Return cxcywh in canvas pixels of boxes that are offsets in cells (see ``JoinedOutput``)."""
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        sizes.append(np.full((len(cells[-1]), 1), stride))
    cell, stride_of = np.concatenate(cells), np.concatenate(sizes)
    if values.shape[1] != len(cell):
        raise CheckpointError(
            f"got {values.shape[1]} boxes per image, wanted {len(cell)}: the cells of {width}x{height} "
            f"px at strides {', '.join(map(str, strides))}"
        )
    centre = (values[..., :2] + cell) * stride_of
    size = np.exp(np.minimum(values[..., 2:], _MAX_GRID_LOG)) * stride_of
    return np.concatenate([centre, size], axis=-1).astype(np.float32)


def to_xyxy_pixels(
    boxes: Array, form: BoxForm, coordinates: Coordinates, height: int, width: int
) -> Array:
    """Return boxes [..., 4] of any form as xyxy canvas pixels, f32."""
    a, b = boxes[..., :2], boxes[..., 2:]
    match form:
        case "cxcywh":
            low, high = a - b / 2, a + b / 2
        case "xywh":
            low, high = a, a + b
        case "yxyx":
            low, high = a[..., ::-1], b[..., ::-1]
        case "xyxy":
            low, high = a, b
        case _:
            assert_never(form)
    scale = (width, height) if coordinates == "unit" else (1, 1)
    return np.concatenate([low, high], axis=-1) * np.array([*scale, *scale], np.float32)


def suppress(
    boxes: Array, scores: Array, height: int, width: int, limits: Suppression
) -> Detections:
    """Return one image's detections after class-wise NMS.

    Args:
        boxes: f32[N, 4] xyxy canvas pixels.
        scores: f32[N, C]; every class counts at every box, not only the best one.
    """
    from torchvision.ops import batched_nms

    num_classes = scores.shape[1]
    flat = _best_of_class(scores, limits.class_candidates).flatten()
    top, index = flat.topk(min(limits.candidates, flat.numel()))
    passed = top >= limits.score_threshold
    top, index = top[passed], index[passed]
    first = limits.clip == "before"
    inside = _clip(boxes, height, width) if first else boxes.astype(np.float32)
    chosen = torch.from_numpy(inside)[index // num_classes]
    label = index % num_classes + 1
    real = (chosen[:, 2:] > chosen[:, :2]).all(1)
    top, label, chosen = top[real], label[real], chosen[real]
    if limits.iou is None:
        keep = torch.arange(len(top))[: limits.max_detections]
    else:
        keep = batched_nms(chosen, top, label, limits.iou)[: limits.max_detections]
    corners, scores_kept, labels = chosen[keep].numpy(), top[keep].numpy(), label[keep].numpy()
    if first:
        return Detections(corners, scores_kept, labels)
    corners = _clip(corners, height, width)
    seen = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return Detections(corners[seen], scores_kept[seen], labels[seen])


def _best_of_class(scores: Array, count: int | None) -> torch.Tensor:
    """Return scores [N, C] with -1 in place of all but the ``count`` highest of each class."""
    every = torch.from_numpy(np.ascontiguousarray(scores))
    if count is None or count >= len(every):
        return every
    top, index = every.topk(count, dim=0)
    return torch.full_like(every, -1.0).scatter_(0, index, top)


def _clip(boxes: Array, height: int, width: int) -> Array:
    limit = np.array([width, height, width, height], np.float32)
    clipped: Array = np.clip(boxes, 0, limit).astype(np.float32)
    return clipped


def _final(
    found: Found, outputs: FinalOutputs, height: int, width: int, num_classes: int
) -> list[Detections]:
    boxes, scores = pick(found, outputs.boxes), pick(found, outputs.scores)
    labels = pick(found, outputs.labels)
    if scores.ndim == 1:  # an exporter of one image at a time leaves the batch out
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    if boxes.shape != (*scores.shape, 4) or labels.shape != scores.shape:
        raise CheckpointError(
            f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape} do not go together"
        )
    count = None if outputs.count is None else pick(found, outputs.count).reshape(-1)
    results = []
    for i in range(len(scores)):
        stop = scores.shape[1] if count is None else int(count[i])
        corners = to_xyxy_pixels(
            boxes[i, :stop], outputs.box_form, outputs.coordinates, height, width
        )
        label = labels[i, :stop].round().astype(np.int64) - outputs.first_label + 1
        results.append(_sorted(corners, scores[i, :stop], label, height, width, num_classes))
    return results


def _rows(
    found: Found, outputs: RowsOutput, height: int, width: int, num_classes: int, batch: int
) -> list[Detections]:
    values = pick(found, outputs.output)
    by_name = {name: i for i, name in enumerate(outputs.columns)}
    if values.shape[-1] != len(outputs.columns):
        raise CheckpointError(
            f"got {values.shape[-1]} values a row, wanted {len(outputs.columns)}: "
            f"{', '.join(outputs.columns)}"
        )
    if "image" in by_name:
        flat = values.reshape(-1, values.shape[-1])
        parts: Sequence[Array] = [flat[flat[:, by_name["image"]] == i] for i in range(batch)]
    else:
        parts = list(values if values.ndim == 3 else values[None])
    results = []
    for part in parts:
        values = part[:, [by_name[name] for name in outputs.box_columns]]
        boxes = to_xyxy_pixels(values, outputs.box_form, outputs.coordinates, height, width)
        label = part[:, by_name["label"]].round().astype(np.int64) - outputs.first_label + 1
        score = part[:, by_name["score"]]
        results.append(_sorted(boxes, score, label, height, width, num_classes))
    return results


def _sorted(
    boxes: Array, scores: Array, labels: Array, height: int, width: int, num_classes: int
) -> Detections:
    """Put the best first; empty places (score 0 or no area) are left out."""
    inside = _clip(boxes, height, width)
    real = (scores > 0) & (inside[:, 2:] > inside[:, :2]).all(axis=1)
    inside, scores, labels = inside[real], scores[real], labels[real]
    if len(labels) and not 1 <= labels.min() <= labels.max() <= num_classes:
        raise CheckpointError(
            f"the model gives labels {int(labels.min())}..{int(labels.max())} (counted from 1), "
            f"the configuration names {num_classes} classes; see 'first_label'"
        )
    order = np.argsort(-scores, kind="stable")
    return Detections(inside[order], scores[order].astype(np.float32), labels[order])
