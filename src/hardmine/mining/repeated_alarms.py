"""The same false alarm in the same place: the rock that a fixed camera sees every day."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.errors import DataError
from hardmine.inference.image_loading import open_item
from hardmine.mining.ranking import RankedImage
from hardmine.mining.ranking_rules import SAME_PLACE
from hardmine.mining.sources.pool_source import open_image
from hardmine.numpy_boxes import box_iou

_log = logging.getLogger("hardmine")

MAX_DISTANCE = 14
"""Bits of 64 by which two looks at one place may differ (inclusive); unlike places differ by 32 on
average. More than for whole pictures: a crop holds less, and the light changes."""


@dataclass
class AlarmPlaces:
    """The alarms that were selected so far, by group and class."""

    known: dict[tuple[str, int], list[_Place]] = field(default_factory=dict)

    def find_repeated(self, image: RankedImage, group: str, label: int) -> str | None:
        """Return the selected image whose alarm this image's best alarm of the class repeats.

        Same group and class, pictures of one size, boxes with an IoU of .5 or more, and alike inside
        the earlier box. The picture is read only when all but the last is so.
        """
        box, opened = _best_box(image, label), None
        for place in self.known.get((group, label), ()):
            if box_iou(place.box[None], box[None])[0, 0] < SAME_PLACE:
                continue
            opened = opened or _open(image.image)
            if opened is None or not place.look():
                continue
            if opened.size != place.size:
                continue
            differing = (_hash(opened, place.box) ^ place.phash) & (2**64 - 1)
            if differing.bit_count() <= MAX_DISTANCE:
                return place.image
        return None

    def add(self, image: RankedImage, group: str, label: int) -> None:
        """Remember a selected image's best alarm of a class."""
        place = _Place(image.image, _best_box(image, label))
        self.known.setdefault((group, label), []).append(place)


@dataclass
class _Place:
    image: str
    box: NDArray[np.float32]
    phash: int = 0
    size: tuple[int, int] | None = None

    def look(self) -> bool:
        """Read the picture once, when a first candidate lies in the same place."""
        if self.size is None:
            picture = _open(self.image)
            if picture is None:
                return False
            self.phash, self.size = _hash(picture, self.box), picture.size
        return True


def _best_box(image: RankedImage, label: int) -> NDArray[np.float32]:
    rows = np.flatnonzero(image.alarms.labels == label)
    box: NDArray[np.float32] = image.alarms.boxes[rows[0] if len(rows) else 0]
    return box


def _open(image: str) -> Image.Image | None:
    try:
        return open_item(open_image(image)).pixels
    except DataError as error:
        _log.warning("%s; whether its alarm repeats another one is not known", error)
        return None


def _hash(picture: Image.Image, box: NDArray[np.float32]) -> int:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    window = (
        max(0, min(x1, picture.width - 1)),
        max(0, min(y1, picture.height - 1)),
        min(picture.width, max(x2, x1 + 1)),
        min(picture.height, max(y2, y1 + 1)),
    )
    return perceptual_hash(picture.crop(window))
