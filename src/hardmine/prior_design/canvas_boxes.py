"""The boxes of a dataset as a model sees them: on its canvas, with image, class and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardmine.augment.geometry import draw_view
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.types import F64, I64, Dataset, ImageRecord, ImageState

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32.0**2, 96.0**2)
"""COCO's borders of area, in pixels of the model's input: small below the first, large from the
second on.
"""


@dataclass(frozen=True, slots=True, eq=False)
class CanvasBoxes:
    """``boxes`` f64[N, 4] xyxy input pixels, ``labels`` i64[N], ``image`` i64[N] (index of the
    record, ascending) and the class names; boxes to ignore are left out.
    """

    boxes: F64
    labels: I64
    image: I64
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sizes(self) -> F64:
        """Width and height, f64[N, 2]."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def size_class(self) -> I64:
        """Index into ``SIZES``, i64[N]."""
        area = self.sizes.prod(axis=1)
        return np.asarray(np.digitize(area, SIZE_LIMITS), np.int64)

    def take(self, index: I64) -> CanvasBoxes:
        """Return the boxes at ``index``."""
        return CanvasBoxes(
            self.boxes[index], self.labels[index], self.image[index], self.categories
        )


def boxes_on_canvas(dataset: Dataset, resize: Resize) -> CanvasBoxes:
    """Return every labelled box where ``resize`` puts it.

    Raises:
        DataError: no labelled box.
    """
    parts = []
    for index, record in _labelled(dataset):
        keep = ~record.ignore
        placed = resize.place(record.width, record.height).forward(record.boxes[keep])
        parts.append((placed, record.labels[keep], index))
    found = _join(parts, dataset.categories)
    if not len(found):
        raise DataError(f"{dataset.root}: no labelled box in {len(dataset)} images")
    return found


def augmented_boxes(
    dataset: Dataset, recipe: Recipe, draws: int, seed: int = 0, *, most: int = 2000
) -> CanvasBoxes:
    """Return the boxes of ``draws`` random windows (expand, crop, resize) of each image.

    Of more than ``most`` images, that many are drawn. Cut boxes of no extent are left out; mirroring
    and the steps that mix images are not applied.
    """
    labelled = _labelled(dataset)
    if len(labelled) > most:
        order = np.random.default_rng(seed).permutation(len(labelled))[:most]
        labelled = [labelled[i] for i in sorted(order.tolist())]
    parts = []
    for index, record in labelled:
        for draw in range(draws):
            rng = np.random.default_rng([seed, index, draw])
            boxes, labels = _in_window(record, recipe, rng)
            parts.append((boxes, labels, index * draws + draw))
    return _join(parts, dataset.categories)


def join(parts: Sequence[CanvasBoxes]) -> CanvasBoxes:
    """Return several sets of boxes as one; their images stay apart."""
    rows, start = [], 0
    for part in parts:
        rows.append((part, part.image + start))
        start += int(part.image.max(initial=-1)) + 1
    return CanvasBoxes(
        np.concatenate([part.boxes for part, _ in rows]),
        np.concatenate([part.labels for part, _ in rows]),
        np.concatenate([image for _, image in rows]),
        parts[0].categories,
    )


def _in_window(record: ImageRecord, recipe: Recipe, rng: np.random.Generator) -> tuple[F64, I64]:
    """Return the boxes and labels in a random window of an image, on the canvas."""
    size = (record.width, record.height)
    window = draw_view(*size, record.boxes, recipe.resize, recipe.augment, rng).window
    low, high = window[:2], window[2:]
    boxes = record.boxes.astype(np.float64).reshape(-1, 2, 2)
    centre = boxes.mean(axis=1)
    keep = ~record.ignore & ((centre >= low) & (centre < high)).all(axis=1)
    cut = boxes[keep].clip(low, high) - low
    placed = recipe.resize.place(*(high - low).tolist()).forward(cut.reshape(-1, 4))
    whole = (placed[:, 2:] - placed[:, :2]).min(axis=1, initial=np.inf) >= 1.0
    return placed[whole], record.labels[keep][whole]


def _labelled(dataset: Dataset) -> list[tuple[int, ImageRecord]]:
    return [
        (index, record)
        for index, record in enumerate(dataset.records)
        if record.state is ImageState.LABELLED and len(record.boxes)
    ]


def _join(parts: Sequence[tuple[np.ndarray, I64, int]], categories: tuple[str, ...]) -> CanvasBoxes:
    if not parts:
        empty = np.zeros(0, np.int64)
        return CanvasBoxes(np.zeros((0, 4)), empty, empty, categories)
    return CanvasBoxes(
        np.concatenate([boxes for boxes, _, _ in parts]).astype(np.float64),
        np.concatenate([labels for _, labels, _ in parts]),
        np.concatenate([np.full(len(boxes), image) for boxes, _, image in parts]),
        categories,
    )
