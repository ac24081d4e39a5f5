"""What a model's input does to the images and boxes of a dataset: aspect ratios, sizes, padding."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.data.formats.image_files import relative_name
from hardmine.data.quality.findings import Finding, Notes
from hardmine.data.quality.label_checks import flatten
from hardmine.data.resize import Resize
from hardmine.finding_kinds import FindingKind
from hardmine.types import F64, Dataset

COMMON_SIZES = 5
DISTORTED = 1.5
"""Change of aspect ratio from which an image counts as distorted."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model sees: its canvas and the pixels between neighbouring cells of its finest map."""

    name: str
    resize: Resize
    stride: float


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What one resize rule would do to the images of a dataset."""

    rule: str
    aspect_median: float
    """Factor by which the aspect ratio changes, 1 or more."""
    aspect_p95: float
    distorted: float
    """Share of images whose aspect ratio changes by `DISTORTED` or more."""
    unused: float
    """Mean share of the canvas that no image covers (padding)."""
    input_sizes: int
    """Number of different input sizes."""
    box_p5: float | None
    """Side (square root of the area) in input pixels that 5 % of the boxes stay below."""
    box_median: float | None


@dataclass(frozen=True, slots=True)
class SizeMixture:
    """Image sizes and what resize rules would do to them at ``height`` × ``width``."""

    images: int
    common: tuple[tuple[int, int, int], ...]
    """(width, height, number of images), the most common first."""
    distinct: int
    landscape: float
    portrait: float
    aspect_p5: float
    aspect_p95: float
    height: int
    width: int
    rules: tuple[RuleEffect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return asdict(self)


def size_mixture(dataset: Dataset, height: int, width: int) -> SizeMixture | None:
    """Describe the sizes of a dataset's images; None where there is no image."""
    records = dataset.records
    if not records:
        return None
    sizes = np.array([(r.width, r.height) for r in records], np.float64)
    counts = Counter((r.width, r.height) for r in records)
    aspect = sizes[:, 0] / sizes[:, 1]
    low, high = np.percentile(aspect, [5, 95])
    table = flatten(dataset)
    extent = (table.boxes[:, 2:] - table.boxes[:, :2]).astype(np.float64)
    rules = tuple(
        _effect(rule, sizes, scale, unused, extent, table.owner)
        for rule, scale, unused in _scales(sizes, height, width)
    )
    return SizeMixture(
        len(records),
        tuple((*size, number) for size, number in counts.most_common(COMMON_SIZES)),
        len(counts),
        float((aspect > 1).mean()),
        float((aspect < 1).mean()),
        float(low),
        float(high),
        height,
        width,
        rules,
    )


def find_small(split: str, dataset: Dataset, model: ModelInput) -> list[Finding]:
    """Return the boxes that after resizing cover less than one cell of the model's finest map."""
    notes = Notes(split)
    for record in dataset.records:
        if not len(record.boxes):
            continue
        placed = model.resize.place(record.width, record.height).forward(record.boxes)
        extent = placed[:, 2:] - placed[:, :2]
        small = np.sqrt(extent.prod(axis=1)) < model.stride
        for place in np.flatnonzero(small & ~record.ignore).tolist():
            width, height = extent[place].tolist()
            reason = (
                f"{dataset.categories[int(record.labels[place]) - 1]} of {width:.1f} x {height:.1f}"
                f" px in the input of {model.name}, whose finest map has a stride of "
                f"{model.stride:g}"
            )
            name = relative_name(record.path, dataset.root)
            boxes = [record.boxes[place].tolist()]
            notes.add(
                FindingKind.BOX_BELOW_STRIDE,
                name,
                reason,
                index=place,
                image=record.path,
                boxes=boxes,
            )
    return notes.found


def _scales(sizes: F64, height: int, width: int) -> list[tuple[str, F64, F64]]:
    """Return each rule's name, scale in x and y [N, 2], and unused share of the canvas [N]."""
    canvas = np.array([width, height], np.float64)
    stretch = canvas / sizes
    letterbox = np.repeat(stretch.min(axis=1, keepdims=True), 2, axis=1)
    shortest = np.repeat((canvas.min() / sizes.min(axis=1))[:, None], 2, axis=1)
    square = canvas.min() / sizes  # inscribe: onto a square S <= min(H, W), laid into the canvas
    padding = 1 - (sizes * letterbox).prod(axis=1) / canvas.prod()
    none = np.zeros(len(sizes))
    return [
        ("stretch", stretch, none),
        ("letterbox", letterbox, padding),
        ("shortest side", shortest, none),
        ("inscribe", square, none + 1 - canvas.min() ** 2 / canvas.prod()),
    ]


def _effect(
    rule: str, sizes: F64, scale: F64, unused: F64, extent: F64, owner: NDArray[np.int64]
) -> RuleEffect:
    change = np.exp(np.abs(np.log(scale[:, 0] / scale[:, 1])))
    sides = np.sqrt((extent * scale[owner]).prod(axis=1))
    low, middle = np.percentile(sides, [5, 50]).tolist() if len(sides) else (None, None)
    shapes = len(np.unique((sizes * scale).round(), axis=0)) if rule == "shortest side" else 1
    return RuleEffect(
        rule,
        float(np.median(change)),
        float(np.percentile(change, 95)),
        float((change >= DISTORTED).mean()),
        float(unused.mean()),
        shapes,
        low,
        middle,
    )
