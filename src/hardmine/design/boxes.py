"""The boxes of a dataset as a model sees them: on its canvas, with image, class and size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardmine.data.resize import Resize
from hardmine.design.layout import F64
from hardmine.errors import DataError
from hardmine.types import I64, Dataset, ImageState

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
    boxes, labels, images = [], [], []
    for index, record in enumerate(dataset.records):
        if record.state is not ImageState.LABELLED or not len(record.boxes):
            continue
        keep = ~record.ignore
        placed = resize.place(record.width, record.height).forward(record.boxes[keep])
        boxes.append(placed)
        labels.append(record.labels[keep])
        images.append(np.full(len(placed), index, np.int64))
    total = sum(len(part) for part in boxes)
    if not total:
        raise DataError(f"{dataset.root}: no labelled box in {len(dataset)} images")
    return CanvasBoxes(
        np.concatenate(boxes).astype(np.float64),
        np.concatenate(labels),
        np.concatenate(images),
        dataset.categories,
    )
