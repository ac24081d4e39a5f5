"""From an encoded image to the model's canvas: what every pass over images begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardmine.data.images import decode_image, read_picture
from hardmine.data.resize import Placement, Resize
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.errors import DataError
from hardmine.types import Detections, Problem

UNREACHABLE = "image_unreachable"
"""The kind of problem that may be gone another time."""


class UnreachableError(DataError):
    """Storage that does not answer: the image itself may be fine."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageItem:
    """An image that can be read: ``name`` is what the store and people call it; ``read`` returns the
    encoded file (``None``: a file on this machine of that name) or raises ``DataError``; ``held``
    says that it is in memory already.
    """

    name: str
    read: Callable[[], bytes] | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """``pixels`` u8[H, W, 3] on the model's canvas; ``phash`` 0 when it was not asked for."""

    name: str
    pixels: NDArray[np.uint8]
    placement: Placement
    phash: int

    def undo(self, detections: Detections) -> Detections:
        """Return detections in pixels of the original image."""
        return replace(detections, boxes=self.placement.inverse(detections.boxes))


def load_item(item: ImageItem, resize: Resize, *, hashed: bool) -> Loaded | Problem:
    """Read, decode and resize one image, or say why it cannot be."""
    try:
        if item.read is None:
            picture = read_picture(Path(item.name), resize.cover)
        else:
            picture = decode_image(item.read(), item.name, resize.cover)
    except DataError as error:
        reason = str(error).removeprefix(f"{item.name}: ")
        kind = UNREACHABLE if isinstance(error, UnreachableError) else "image_unreadable"
        return Problem(kind, item.name, -1, reason)
    pixels, placement = resize.apply(picture)
    return Loaded(item.name, pixels, placement, perceptual_hash(picture.pixels) if hashed else 0)


def stack(loaded: Sequence[Loaded]) -> Tensor:
    """Return u8[B, 3, H, W] (a view of a channels-last block)."""
    return torch.from_numpy(np.stack([item.pixels for item in loaded])).permute(0, 3, 1, 2)
