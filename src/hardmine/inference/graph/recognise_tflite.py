"""What the outputs of a ``.tflite`` file mean, from its operators, metadata, names and shapes.

The TensorFlow Object Detection API and Model Maker write files that end in one operator which decodes
and suppresses; converters put its four outputs in different orders. Files without it give encoded boxes
and class predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardmine.errors import CheckpointError, ConfigError
from hardmine.inference.graph.graph_config import PRESETS
from hardmine.inference.graph.recognise_graph import Graph, Layout, Shape
from hardmine.inference.graph.tflite_file import Array, TfliteFacts, fit_names, read_facts

_NAMES: Mapping[str, tuple[str, ...]] = {
    "boxes": ("location", "locations", "detection_boxes", "boxes"),
    "labels": ("category", "categories", "detection_classes", "classes", "class"),
    "scores": ("score", "scores", "detection_scores"),
    "count": ("number of detections", "num_detections", "count"),
}
"""How metadata and converters call the four outputs."""
_HIDES_FROM = 0.05
"""An operator that leaves out scores below a threshold as high as this hides hard negatives."""
_MOBILENET_LEVELS = 6
_FIRST_STRIDE = 16


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file with what stands in it, its outputs in order, and the class names that are known."""

    graph: Graph
    facts: TfliteFacts
    names: tuple[str, ...]

    @property
    def shapes(self) -> list[Shape]:
        return list(self.graph.outputs.values())

    @property
    def where(self) -> str:
        return str(self.graph.path)


def recognise_tflite(graph: Graph, names: Sequence[str]) -> Layout:
    """Return what a file's outputs mean.

    Args:
        names: the class names that the user gave; those of the file's label file where empty.

    Raises:
        ConfigError: it fits several layouts, or classes or anchors are missing.
        CheckpointError: it is no detector that is known.
    """
    facts = read_facts(graph.path)
    seen = _Seen(graph, facts, tuple(names) or facts.labels)
    for rule in (_operator, _named, _four, _raw):
        found = rule(seen)
        if found is not None:
            return found
    raise CheckpointError(
        f"{graph.path}: is no detector that is known: its outputs are {_outputs(seen)}; wanted boxes "
        "[1, N, 4], classes [1, N], scores [1, N] and a count, or encoded boxes [1, N, 4] and class "
        "predictions [1, N, C]. A YOLO is read as .pt or .onnx; else describe it by a YAML "
        f"({graph.path.stem}.yaml, see docs/detectors.md)"
    )


def fed_pixels(seen_type: str, facts: TfliteFacts) -> tuple[dict[str, Any], str]:
    """Return how pixels enter, as values of a ``GraphInput``, and in words.

    A quantised input takes pixels: as they are in ``uint8``, less 128 in ``int8``; the file's
    normalisation is then inside its scale. TFLite's metadata define it so.
    """
    how: dict[str, Any] = {
        "resize": "stretch",
        "layout": "nhwc",
        "divide_by": 1.0,
        "sampling": "bilinear",
    }
    if seen_type == "uint8":
        return how, "pixels 0 to 255"
    if facts.mean and facts.std:
        mean, std = (list(v) * (3 if len(v) == 1 else 1) for v in (facts.mean, facts.std))
        return {**how, "mean": mean, "std": std}, "pixels normalised as its metadata say"
    if facts.input_scale is not None:
        scale, zero = facts.input_scale
        as_bytes = {"divide_by": 1 / scale, "mean": [(128 + zero) * scale] * 3}
        return {**how, **as_bytes}, "pixels less 128"
    return {**how, "mean": [127.5] * 3, "std": [127.5] * 3}, (
        "pixels as -1 to 1, as SSD MobileNet takes them (nothing in the file says so)"
    )


def _outputs(seen: _Seen) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in seen.graph.outputs.items())


def _input(seen: _Seen) -> tuple[dict[str, Any], str]:
    shapes = list(seen.graph.input_shapes.values())
    shape = shapes[0] if shapes else ()
    if len(shapes) != 1 or len(shape) != 4 or shape[3] != 3:
        shown = ", ".join(str(list(s)) for s in shapes)
        raise CheckpointError(
            f"{seen.where}: wanted one input [1, H, W, 3], got {shown}; no detector"
        )
    if shape[1:3] == (1, 1):
        raise CheckpointError(f"{seen.where}: its input has no fixed size; convert it with one")
    return fed_pixels(seen.graph.input_types[0], seen.facts)


def _final(seen: _Seen, who: str, places: Mapping[str, int], num_classes: int | None) -> Layout:
    pixels, words = _input(seen)
    names = fit_names(seen.names, num_classes, seen.where) if seen.names else ()
    post = seen.facts.postprocess
    limits = ""
    if post is not None and post.score_threshold > _HIDES_FROM:
        limits = (
            f"; it gives no detection below score {post.score_threshold:.2g}, which hides alarms "
            "from mining"
        )
    return Layout(
        f"{who}: classes counted from 0 without background; {words}{limits}",
        {
            "outputs": {
                "kind": "final",
                **places,
                "box_form": "yxyx",
                "coordinates": "unit",
                "first_label": 0,
            },
            "input": pixels,
            "nms": {"iou": None},
        },
        names,
        num_classes=num_classes,
    )


def _operator(seen: _Seen) -> Layout | None:
    """The operator's outputs are those of the file: their order is that of the operator."""
    post = seen.facts.postprocess
    if post is None or not post.is_last:
        return None
    found = {"boxes": post.boxes, "labels": post.classes, "scores": post.scores}
    places = {name: place for name, place in found.items() if place is not None}
    if post.count is not None:
        places["count"] = post.count
    order = sorted(places, key=lambda name: places[name])
    who = f"TensorFlow Object Detection API with its operator inside ({', '.join(order)})"
    return _final(seen, who, places, post.num_classes)


def _named(seen: _Seen) -> Layout | None:
    """The metadata or the tensors carry the names of the four outputs."""
    written = (seen.facts.output_names, tuple(seen.graph.outputs))
    for names in written:
        plain = [name.lower().split(":")[0].split("/")[-1] for name in names]
        places = {
            what: next((i for i, name in enumerate(plain) if name in words), None)
            for what, words in _NAMES.items()
        }
        known = {what: place for what, place in places.items() if place is not None}
        if {"boxes", "labels", "scores"} <= set(known) and len(plain) == len(seen.shapes):
            if not _is_four(seen.shapes) or len(seen.shapes[known["scores"]]) != 2:
                continue
            post = seen.facts.postprocess
            who = "TensorFlow Object Detection API or Model Maker, by the names of its outputs"
            return _final(seen, who, known, None if post is None else post.num_classes)
    return None


def _is_four(shapes: Sequence[Shape]) -> bool:
    ranks = sorted((len(shape) for shape in shapes), reverse=True)
    return len(shapes) in (3, 4) and ranks[:3] == [3, 2, 2]


def _four(seen: _Seen) -> Layout | None:
    """Boxes, classes, scores and a count without names: an empty picture is run to distinguish them."""
    shapes = seen.shapes
    if len(shapes) != 4 or not _is_four(shapes):
        return None
    boxes = next(i for i, shape in enumerate(shapes) if len(shape) == 3)
    rows = shapes[boxes][1]
    pair = [i for i, shape in enumerate(shapes) if len(shape) == 2 and shape[1] == rows]
    if shapes[boxes][2] != 4 or len(pair) != 2:
        return None
    count = next(i for i in range(4) if i != boxes and i not in pair)
    values = list(seen.graph.run_grey().values())
    real = int(values[count].reshape(-1)[0])  # what lies behind is whatever the memory held
    whole = [bool((values[i][:, :real] == np.round(values[i][:, :real])).all()) for i in pair]
    if whole[0] == whole[1]:
        forms = " or ".join(
            f"{seen.graph.path.name}:{name} ({PRESETS[name].output})"
            for name in ("tf_ssd", "tf_ssd_sorted")
        )
        raise ConfigError(
            f"{seen.where}: its outputs {_outputs(seen)} fit several layouts; name {forms}"
        )
    labels, scores = pair if whole[0] else reversed(pair)
    places = {"boxes": boxes, "labels": labels, "scores": scores, "count": count}
    post = seen.facts.postprocess
    who = "TensorFlow Object Detection API or Model Maker, by shapes and an empty picture"
    return _final(seen, who, places, None if post is None else post.num_classes)


def _raw(seen: _Seen) -> Layout | None:
    """Encoded boxes [1, N, 4] and class predictions [1, N, C] (as TF writes them without operator)."""
    places = _raw_places(seen)
    if places is None:
        return None
    box, score, flat = places
    pixels, words = _input(seen)
    columns = int(seen.shapes[score][2] or 0)
    values = list(seen.graph.run_grey().values())
    background, kept = _background(seen, columns)
    if values[score].min() < 0 or values[score].max() > 1:
        raise ConfigError(
            f"{seen.where}: its class predictions are logits; say by {seen.graph.path.stem}.yaml "
            "(preset: tf_ssd_raw) whether outputs.score_form is sigmoid or softmax"
        )
    anchors = seen.facts.anchors if flat is None else values[flat]
    count = int(seen.shapes[box][1] or 0)
    priors, whose = _priors(seen, anchors, count, f"boxes: {box}, scores: {score}")
    return Layout(
        f"SSD of the TensorFlow Object Detection API without operator: boxes against {whose}, "
        f"{'column 0 of the scores is the background' if background else 'no column of background'}; "
        f"{words}",
        {
            "preset": "tf_ssd_raw",
            "outputs": {
                "boxes": box,
                "scores": score,
                "background": "first" if background else "none",
                "priors": whose,
            },
            "input": pixels,
        },
        kept,
        num_classes=columns - background,
        priors=priors,
    )


def _raw_places(seen: _Seen) -> tuple[int, int, int | None] | None:
    """Return which outputs are the boxes, the class predictions and the anchors (where there are any).

    Raises:
        ConfigError: nothing says which of two outputs holds the boxes.
    """
    shapes, names = seen.shapes, [name.lower() for name in seen.graph.outputs]
    three = [i for i, shape in enumerate(shapes) if len(shape) == 3]
    flat = [i for i, shape in enumerate(shapes) if len(shape) == 2 and shape[1] == 4]
    if len(three) != 2 or len(three) + len(flat) != len(shapes):
        return None
    boxes = [i for i in three if shapes[i][2] == 4]
    if shapes[three[0]][1] != shapes[three[1]][1] or not boxes:
        return None
    if len(boxes) == 2:
        named = [i for i in boxes if "box" in names[i]]
        if len(named) != 1:
            raise ConfigError(
                f"{seen.where}: its outputs {_outputs(seen)} fit several layouts; say by "
                f"{seen.graph.path.stem}.yaml which are the boxes (preset: tf_ssd_raw, outputs: "
                "{boxes: 0, scores: 1})"
            )
        boxes = named
    score = next(i for i in three if i != boxes[0])
    return boxes[0], score, flat[0] if flat else None


def _background(seen: _Seen, columns: int) -> tuple[bool, tuple[str, ...]]:
    """Return whether column 0 is the background, and the names without it."""
    given = seen.names
    if not given:
        raise ConfigError(
            f"{seen.where}: has {columns} class scores per box and no names; give --classes FILE with "
            f"{columns - 1} names where the first score is that of the background, else with {columns}"
        )
    kept = fit_names(given, None, seen.where)
    if len(kept) == columns - 1 or len(given) == columns - 1:
        return True, fit_names(given, columns - 1, seen.where)
    return False, fit_names(given, columns, seen.where)


def _priors(seen: _Seen, inside: Array | None, count: int, places: str) -> tuple[Array, str]:
    """Return priors f32[N, 4] (cxcywh, shares of the input), and whose they are."""
    if inside is not None and inside.shape == (count, 4):
        return np.asarray(inside, np.float32)[:, [1, 0, 3, 2]], "the anchors in the file"
    shape = next(iter(seen.graph.input_shapes.values()))
    own = mobilenet_anchors(int(shape[1] or 0)) if shape[1] == shape[2] else None
    if own is not None and len(own) == count:
        return own[:, [1, 0, 3, 2]], "the anchors that SSD MobileNet has at this size"
    raise ConfigError(
        f"{seen.where}: its {count} boxes are encoded against anchors that do not stand in the file; "
        f"give them by {seen.graph.path.stem}.yaml (preset: tf_ssd_raw, outputs: {{{places}, "
        "priors: anchors.npy}, f32[N, 4] as x centre, y centre, width, height)"
    )


def mobilenet_anchors(side: int) -> Array:
    """Return the anchors of TF's SSD MobileNet, f32[N, 4]: y centre, x centre, height, width, shares.

    Six levels from stride 16 on, scales linear from .2 to .95; the first level has three shapes, the
    others six. 1,917 at 300 px. Source: ``multiple_grid_anchor_generator.create_ssd_anchors`` of the
    TensorFlow Object Detection API with ``reduce_boxes_in_lowest_layer``.
    """
    scales = [*np.linspace(0.2, 0.95, _MOBILENET_LEVELS), 1.0]
    rows = []
    cells = -(-side // _FIRST_STRIDE)
    for level in range(_MOBILENET_LEVELS):
        scale, following = scales[level], scales[level + 1]
        shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
        shapes.append((float(np.sqrt(scale * following)), 1.0))
        if level == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        for y in range(cells):
            for x in range(cells):
                rows += [
                    ((y + 0.5) / cells, (x + 0.5) / cells, s / np.sqrt(ratio), s * np.sqrt(ratio))
                    for s, ratio in shapes
                ]
        cells = -(-cells // 2)
    return np.array(rows, np.float32)
