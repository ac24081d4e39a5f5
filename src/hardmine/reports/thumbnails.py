"""Pictures small enough to live inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hardmine.data.images import read_image
from hardmine.errors import DataError
from hardmine.reports.content import Gallery, Picture
from hardmine.reports.drawing import draw_boxes
from hardmine.reports.page_shell import jpeg_uri
from hardmine.types import Detections

LONGEST_SIDE = 420
BOXES_DRAWN = 5
LEAST_OF_BEST = 0.5
"""A box is drawn when its score is at least this share of the picture's highest: the rest is clutter."""
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A picture on the page: ``uri`` is empty when the image could not be read."""

    uri: str
    width: int
    height: int
    caption: str
    fault: str = ""


@dataclass(frozen=True)
class Section:
    """A gallery ready for the page; ``left_out`` says how many of its pictures are not shown."""

    title: str
    note: str
    thumbnails: tuple[Thumbnail, ...]
    left_out: int


class Budget:
    """Bytes of picture that a page may still take."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Spend ``size`` bytes; False, and nothing spent, when there are not as many left."""
        if size > self.left:
            return False
        self.left -= size
        return True


def shrink_gallery(
    gallery: Gallery, categories: Sequence[str], budget: Budget, *, limit: int
) -> Section:
    """Return up to ``limit`` thumbnails, fewer when the page's budget ends first."""
    shown: list[Thumbnail] = []
    for picture in gallery.pictures[:limit]:
        thumbnail = shrink(picture, categories)
        if not budget.take(len(thumbnail.uri)):
            break
        shown.append(thumbnail)
    return Section(gallery.title, gallery.note, tuple(shown), gallery.total - len(shown))


def shrink(picture: Picture, categories: Sequence[str]) -> Thumbnail:
    """Return a JPEG thumbnail with the clearest few boxes drawn at the thumbnail's own size."""
    try:
        image = read_image(picture.path)
    except DataError as error:
        return Thumbnail("", 0, 0, picture.caption, str(error))
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    stretch = np.array([width / image.width, height / image.height] * 2, np.float32)
    best = _best(picture.detections, BOXES_DRAWN)
    drawn = draw_boxes(small, replace(best, boxes=best.boxes * stretch), categories)
    uri = jpeg_uri(drawn, QUALITY, sharp_colours=False)
    return Thumbnail(uri, width, height, picture.caption)


def _best(found: Detections, count: int) -> Detections:
    clear = found.scores >= LEAST_OF_BEST * found.scores.max(initial=0.0)
    order = np.argsort(-found.scores, kind="stable")[: min(count, int(clear.sum()))]
    return Detections(found.boxes[order], found.scores[order], found.labels[order])
