"""Small models of other frameworks, made without a download, and their own answers on pictures.

Weights are random, with the biases of the classes raised so that there are many detections of different
scores, or trained for a moment by our own trainers on drawn rectangles. What is compared is how pictures
go in and how boxes come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.formats.coco_writing import write_coco
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.framework_trainer import FrameworkTrainer, main

NAMES = ("cat", "dog")
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


def normalised(network: torch.nn.Module, side: int) -> None:
    """Fit the running statistics of a random network to noise, so that what it computes is spread."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # the mean over what is seen
        layer.reset_running_stats()
    network.train()
    with torch.no_grad():
        for _ in range(2):
            coarse = torch.rand(2, 3, side // 16, side // 16)
            network(torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear"))
    network.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def assert_same(found: Any, wanted: Rows) -> None:
    """Hold a detector to its framework: boxes within 1 px, scores within .01, none more or less."""
    boxes, scores, numbers = wanted
    found = found[(found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)]  # not in the padding alone
    assert len(found) == len(scores)
    np.testing.assert_allclose(found.scores, scores, atol=0.01)
    np.testing.assert_allclose(found.boxes, boxes, atol=1)
    np.testing.assert_array_equal(found.labels, numbers + 1)


def drawn_data(folder: Path, number: int = 16) -> Path:
    """Write pictures with one large red (cat) or blue (dog) rectangle each, every fourth one empty.

    Returns:
        The COCO file, as a loop gives it to a trainer.
    """
    noise = np.random.default_rng(1)
    records = []
    for index in range(number):
        coarse = Image.fromarray(noise.integers(60, 200, (6, 8, 3), np.uint8))
        image = coarse.resize((128, 96), Image.Resampling.BICUBIC)
        left, top = int(noise.integers(4, 50)), int(noise.integers(4, 30))
        box = (left, top, left + int(noise.integers(40, 70)), top + int(noise.integers(40, 60)))
        label = 1 + index % 2
        empty = index % 4 == 3
        if not empty:
            image.paste(((220, 30, 30), (30, 30, 220))[label - 1], box)
        path = folder / "drawn" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        boxes = np.array([] if empty else [box], np.float32).reshape(-1, 4)
        labels, ignore = np.full(len(boxes), label, np.int64), np.zeros(len(boxes), np.bool_)
        state = ImageState.VERIFIED_EMPTY if empty else ImageState.LABELLED
        records.append(ImageRecord(path, 128, 96, boxes, labels, ignore, state))
    write_coco(Dataset(NAMES, tuple(records), folder), folder / "drawn.json")
    return folder / "drawn.json"


def drawn_pictures(data: Path) -> list[Path]:
    """Return the pictures of :func:`drawn_data`."""
    return sorted((data.parent / "drawn").iterdir())


def train(text: str, data: Path, steps: int, start: Path | None = None, batch: int = 8) -> str:
    """Train as ``loop --trainer`` does and return the text that names the detector."""
    named = FrameworkTrainer.parse(text)
    folder = data.parent / f"trained-{'first' if start is None else 'again'}"
    folder.mkdir()
    weights = folder / named.trainer.weights_name
    side = [] if named.side is None else ["--side", str(named.side)]
    begin = [] if start is None else ["--init-weights", str(start)]
    how = ["--steps", str(steps), "--batch", str(batch), "--seed", "3", "--device", "cpu"]
    files = ["--train-json", str(data), "--val-json", str(data), "--weights-out", str(weights)]
    assert main([named.trainer.name, named.model, *side, *begin, *how, *files]) == 0
    return named.detector.replace("{weights_out}", str(weights))


def assert_spread(scores: list[float], lowest: float) -> None:
    """Hold that scores differ so much that a comparison of them says something."""
    assert len(scores) > 8
    assert max(scores) - min(scores) > lowest, f"scores {min(scores):.3f} to {max(scores):.3f}"
