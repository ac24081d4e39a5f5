"""Small models of other frameworks, made without a download, and their own answers on pictures.

Weights are random and the biases of the classes raised, so that there are many detections of different
scores; what is compared is how pictures go in and how boxes come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Boxes, scores and class numbers from 0 of one image, best first, as the framework itself says."""


def pictures(folder: Path) -> list[Path]:
    """Write pictures of several sizes with shapes in them; wide, upright, small and grey ones."""
    noise = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(320, 240), (200, 300), (90, 70), (400, 130)]):
        small = noise.integers(0, 255, (height // 20 + 2, width // 20 + 2, 3), np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{i}.png")
        (image.convert("L") if i == 2 else image).save(paths[-1])
    return paths


def sorted_rows(boxes: Any, scores: Any, numbers: Any) -> Rows:
    """Put the best first and leave out boxes without area."""
    boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    return boxes[order], scores[order], np.asarray(numbers).astype(np.int64)[order]


def raised(module: torch.nn.Module, bias: float, spread: float) -> None:
    """Set the bias of a classifying layer and widen its weights."""
    torch.nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]
    module.weight.data.mul_(spread)  # type: ignore[union-attr, operator]


def assert_same(found: Any, wanted: Rows) -> None:
    """Hold a detector to its framework: boxes within 1 px, scores within .01, none more or less."""
    boxes, scores, numbers = wanted
    found = found[(found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)]  # not in the padding alone
    assert len(found) == len(scores)
    np.testing.assert_allclose(found.scores, scores, atol=0.01)
    np.testing.assert_allclose(found.boxes, boxes, atol=1)
    np.testing.assert_array_equal(found.labels, numbers + 1)
