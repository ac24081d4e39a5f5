"""Artificial occlusion: patches laid over part of an object, never over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardmine.augment.sample import Rect, Sample
from hardmine.errors import ConfigError
from hardmine.numpy_boxes import box_intersection
from hardmine.types import F32, F64, U8

Fill = Literal["noise", "mean", "image"]
_FILLS: tuple[Fill, ...] = ("noise", "mean", "image")
_TRIALS = 10


@dataclass(frozen=True, slots=True)
class OcclusionConfig:
    """Patches on boxes.

    What they show: noise, the canvas's fill colour, or another part of the same image.
    """

    probability: float = 0.0
    """Of each box."""
    min_cover: float = 0.1
    """Smallest and largest share of a box's area that a patch hides."""
    max_cover: float = 0.4
    """No box loses more than this in all, other patches and what was pasted before included."""
    fills: tuple[Fill, ...] = _FILLS

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"augment.occlusion.probability: got {self.probability}, wanted 0..1")
        if not 0.0 < self.min_cover <= self.max_cover < 1.0:
            raise ConfigError(
                f"augment.occlusion: got min_cover {self.min_cover}, max_cover {self.max_cover}, "
                "wanted 0 < min_cover <= max_cover < 1"
            )
        if not self.fills or not set(self.fills) <= set(_FILLS):
            raise ConfigError(
                f"augment.occlusion.fills: got {list(self.fills)}, wanted some of {list(_FILLS)}"
            )


def occlude(
    sample: Sample, config: OcclusionConfig, mean: tuple[int, int, int], rng: np.random.Generator
) -> Sample:
    """Lay at most one patch on each box; boxes, labels and their order stay.

    Args:
        mean: the colour of the fill "mean".
    """
    image, hidden = sample.image, np.zeros(len(sample.boxes))
    allowed = config.max_cover - sample.hidden_share + 1e-6
    for box in sample.boxes[rng.permutation(len(sample.boxes))]:
        if rng.random() >= config.probability:
            continue
        for _ in range(_TRIALS):
            patch = _draw_patch(box, config, rng)
            x0, y0, x1, y1 = patch
            loss = covered_share(sample.boxes, np.array(patch, np.float64))
            if min(x1 - x0, y1 - y0) < 1 or ((loss > 0) & (hidden + loss > allowed)).any():
                continue
            if image is sample.image:
                image = image.copy()
            fill = config.fills[int(rng.integers(len(config.fills)))]
            image[y0:y1, x0:x1] = _content(sample.image, patch, fill, mean, rng)
            hidden += loss
            break
    return sample if image is sample.image else sample.with_image(image, hidden)


def covered_share(boxes: F32, patch: F64) -> F64:
    """Return f64[N]: the share of each box's area (xyxy) that a patch f64[4] hides."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    hidden = box_intersection(boxes, patch[None])[:, 0]
    return np.asarray(hidden / np.maximum(area, 1e-9), np.float64)


def _draw_patch(box: F32, config: OcclusionConfig, rng: np.random.Generator) -> Rect:
    """Return a rectangle inside the box that hides the wanted share, in whole pixels."""
    share = rng.uniform(config.min_cover, config.max_cover)
    wide = rng.uniform(share, 1.0)  # of the box's width; the height follows
    width, height = (box[2] - box[0]) * wide, (box[3] - box[1]) * share / wide
    x = box[0] + rng.random() * (box[2] - box[0] - width)
    y = box[1] + rng.random() * (box[3] - box[1] - height)
    # Rounded inwards, so that no more is hidden than was drawn.
    return int(np.ceil(x)), int(np.ceil(y)), int(x + width), int(y + height)


def _content(
    image: U8, patch: Rect, fill: Fill, mean: tuple[int, int, int], rng: np.random.Generator
) -> U8:
    width, height = patch[2] - patch[0], patch[3] - patch[1]
    if fill == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if fill == "mean":
        return np.broadcast_to(np.array(mean, np.uint8), (height, width, 3))
    x = int(rng.integers(image.shape[1] - width + 1))
    y = int(rng.integers(image.shape[0] - height + 1))
    return image[y : y + height, x : x + width]
