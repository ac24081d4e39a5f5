"""Parts of labelled images that hold no object, as a pool: for those who have no images without any.

They are the rectangles of ``evaluation/object_free_crops.py``. A name says where one comes from,
``images/00.png#xywh=64,0,320,240``, and gives the same pixels again wherever it is read; a file is made
of it when it is handed out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hardmine.data.images import crop_name, read_crop
from hardmine.errors import DataError
from hardmine.evaluation.object_free_crops import object_free_crops
from hardmine.inference.image_loading import ImageItem
from hardmine.types import Dataset, Problem

_PER_IMAGE = 4
"""At most so many parts per image, none of them smaller than this share of its shorter side:"""
_MIN_SIDE = 0.3


class LabelledCrops:
    """The object-free parts of the labelled images of a dataset; the same for the same seed."""

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        """Choose the rectangles; no picture is read.

        Raises:
            DataError: the objects leave no room for any.
        """
        windows = object_free_crops(dataset, seed, per_image=_PER_IMAGE, min_side=_MIN_SIDE)
        paths = [dataset.records[window.position].path.absolute() for window in windows]
        self._names = [
            crop_name(path, (window.left, window.top, window.right, window.bottom))
            for path, window in zip(paths, windows, strict=True)
        ]
        self.name = str(dataset.root)
        if not self._names:
            raise DataError(f"{self.name}: no labelled image has a part without an object")
        self.prefix = os.path.join(os.path.commonpath([path.parent for path in paths]), "")  # noqa: PTH118
        self._known = frozenset(self._names)

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the parts in the order of the images."""
        yield from (ImageItem(name, partial(read_crop, name)) for name in self._names)

    def count(self) -> int:
        """Count the parts."""
        return len(self._names)

    def holds(self, image: str) -> bool:
        """Say whether a name is that of a part."""
        return image in self._known


def open_labelled(data: Dataset | Path | str, seed: int = 0) -> LabelledCrops:
    """Return the object-free parts of the training images of a dataset, or of what names one.

    Raises:
        DataError: unreadable data, or the objects leave no room for any.
    """
    from hardmine.data.quality.usable_data import load_usable, usable

    if isinstance(data, Dataset):
        return LabelledCrops(usable(data), seed)
    parts = load_usable(Path(data).resolve())
    return LabelledCrops(parts.get("train") or parts.get("all") or next(iter(parts.values())), seed)
