"""What augmentation takes and gives: an image with its boxes, before and after it is on the canvas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from hardmine.data.images import Cover, Picture
from hardmine.types import F32, F64, I64, U8, Mask

Rect = tuple[int, int, int, int]
"""xyxy in whole canvas pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image on the model's canvas: ``image`` u8[H, W, 3], boxes in canvas pixels.

    ``inner`` is where the image lies when it does not fill the canvas; the rest is padding, which no
    step touches. ``hidden`` f64[N] is the share of each box that was pasted over (None: nothing).
    """

    image: U8
    boxes: F32
    labels: I64
    ignore: Mask
    inner: Rect | None = None
    hidden: F64 | None = None

    @property
    def area(self) -> Rect:
        """The rectangle of the canvas that the image covers."""
        height, width = self.image.shape[:2]
        return self.inner or (0, 0, width, height)

    @property
    def hidden_share(self) -> F64:
        """The share of each box that was pasted over, f64[N]."""
        return np.zeros(len(self.boxes)) if self.hidden is None else self.hidden

    def with_image(self, image: U8, hidden: F64 | None = None) -> Sample:
        """Return the same boxes on another image, ``hidden`` f64[N] more of them pasted over."""
        if hidden is None:
            return replace(self, image=image)
        return replace(self, image=image, hidden=self.hidden_share + hidden)

    def with_boxes(self, boxes: F32, labels: I64, ignore: Mask) -> Sample:
        """Return the sample with further boxes behind its own."""
        return replace(
            self,
            boxes=np.concatenate([self.boxes, boxes]),
            labels=np.concatenate([self.labels, labels]),
            ignore=np.concatenate([self.ignore, ignore]),
            hidden=np.concatenate([self.hidden_share, np.zeros(len(boxes))]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An image as read, with boxes in its own pixels: ``boxes`` f32[N, 4], ``labels`` i64[N] in
    1..C, ``ignore`` bool[N].
    """

    picture: Picture
    boxes: F32
    labels: I64
    ignore: Mask


class Donors(Protocol):
    """Other images of the training set, for the steps that mix images."""

    def draw(self, rng: np.random.Generator, *, objects: bool, cover: Cover) -> Source:
        """Return one drawn by ``rng``: one that holds objects, or one that holds none.

        Args:
            cover: the size to which it will be resized, as for ``read_picture``.

        Raises:
            DataError: it cannot be read.
        """
        ...


Note = Callable[[str, Sample], None]
"""Called with a step's name and what it left, after each step that did something."""
