"""Tiny ONNX graphs whose outputs do not depend on what a framework makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

Array = NDArray[Any]


def constant_graph(
    path: Path,
    outputs: Mapping[str, Array],
    *,
    side: int | None = 64,
    dtype: int = TensorProto.FLOAT,
    batch: int | None = 1,
    metadata: Mapping[str, str] | None = None,
    shape: Sequence[int | str | None] | None = None,
) -> Path:
    """Write a graph whose outputs are constants, plus the mean of each image on the first value.

    ``outputs`` hold what one image gives; the image's mean (over all values) times zero is added, so
    that the input is used.
    """
    dims = shape or (batch, 3, side, side)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    inside = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    results = []
    for name, value in outputs.items():
        inside.append(numpy_helper.from_array(value.astype(np.float32), f"{name}_value"))
        nodes.append(helper.make_node("Add", [f"{name}_value", "nothing"], [name]))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    image = helper.make_tensor_value_info("images", dtype, dims)
    return write(path, nodes, inside, [image], results, metadata)


def write(
    path: Path,
    nodes: Sequence[Any],
    inside: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Save a graph."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, inside)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata:
        helper.set_model_props(model, dict(metadata))
    save(model, str(path))
    return path
