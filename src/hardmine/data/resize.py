"""One resize for training, evaluation and mining, with an exact inverse for boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.errors import ConfigError
from hardmine.types import F32

Mode = Literal["stretch", "letterbox"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies on the model's canvas: ``x' = x · scale + offset`` on each axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: float
    """Width of the original image, px."""
    height: float
    """Height of the original image, px."""

    def forward(self, boxes: F32) -> F32:
        """Map boxes (f32[N, 4], original pixels) onto the canvas."""
        return (boxes.astype(np.float64) * self._scale + self._offset).astype(np.float32)

    def inverse(self, boxes: F32) -> F32:
        """Map boxes (f32[N, 4], canvas pixels) back onto the original image, limited to it."""
        original = (boxes.astype(np.float64) - self._offset) / self._scale
        limit = np.array([self.width, self.height, self.width, self.height], np.float64)
        return original.clip(0, limit).astype(np.float32)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float64)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y, self.offset_x, self.offset_y], np.float64)


@dataclass(frozen=True, slots=True)
class Resize:
    """Bring any image to ``height`` × ``width``.

    ``stretch`` fills the canvas and changes the aspect ratio; ``letterbox`` scales by
    r = min(W / w, H / h), centres, and pads with ``fill``.
    """

    height: int
    width: int
    mode: Mode = "stretch"
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ConfigError(f"resize: got {self.height}x{self.width}, wanted at least 1x1")
        if self.mode not in ("stretch", "letterbox"):
            raise ConfigError(
                f"resize.mode: got {self.mode!r}, wanted one of 'stretch', 'letterbox'"
            )

    def place(self, width: float, height: float) -> Placement:
        """Return where an image (or a window of one) of ``width`` × ``height`` pixels lies."""
        if self.mode == "stretch":
            return Placement(self.width / width, self.height / height, 0.0, 0.0, width, height)
        ratio = min(self.width / width, self.height / height)
        inner_w, inner_h = self._inner(width, height, ratio)
        offset_x, offset_y = (self.width - inner_w) // 2, (self.height - inner_h) // 2
        return Placement(
            inner_w / width, inner_h / height, float(offset_x), float(offset_y), width, height
        )

    def apply(self, image: Image.Image) -> tuple[NDArray[np.uint8], Placement]:
        """Return the canvas u8[H, W, 3] and the placement that maps boxes onto it."""
        placement = self.place(*image.size)
        if self.mode == "stretch":
            resized = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
            return np.asarray(resized), placement
        ratio = min(self.width / image.width, self.height / image.height)
        inner = self._inner(image.width, image.height, ratio)
        canvas = Image.new("RGB", (self.width, self.height), self.fill)
        resized = image.resize(inner, Image.Resampling.BILINEAR)
        canvas.paste(resized, (int(placement.offset_x), int(placement.offset_y)))
        return np.asarray(canvas), placement

    def _inner(self, width: float, height: float, ratio: float) -> tuple[int, int]:
        inner_w = min(self.width, max(1, round(width * ratio)))
        inner_h = min(self.height, max(1, round(height * ratio)))
        return inner_w, inner_h
