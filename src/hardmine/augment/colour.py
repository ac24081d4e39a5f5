"""Brightness, contrast, saturation and hue as one 3 × 4 colour matrix, and the two flips.

The photometric steps are linear in RGB (hue and saturation as rotations and scalings of the chroma
plane), so they compose into one matrix and are clipped once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hardmine.augment.sample import Sample
from hardmine.types import F64, U8

_RGB_TO_YIQ: F64 = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
_YIQ_TO_RGB: F64 = np.linalg.inv(_RGB_TO_YIQ).astype(np.float64)


def photometric_matrix(probability: float, rng: np.random.Generator, strength: float = 1.0) -> F64:
    """Return a f64[3, 4] affine colour map: brightness, contrast, saturation and hue, each by chance.

    Contrast comes before or after saturation and hue, as in the source. Hue turns and saturation
    scales the chroma plane of YIQ, which is linear, where the source works in HSV.

    Args:
        strength: multiplies the ranges ±32, 1 ± .5, 1 ± .5 and ±18°.
    """
    on = rng.random(4) < probability
    factor, turn = 0.5 * strength, 18 * strength
    brightness = rng.uniform(-32 * strength, 32 * strength) if on[0] else 0.0
    contrast = rng.uniform(1 - factor, 1 + factor) if on[1] else 1.0
    saturation = rng.uniform(1 - factor, 1 + factor) if on[2] else 1.0
    angle = np.deg2rad(rng.uniform(-turn, turn)) if on[3] else 0.0
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    chroma = _YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _RGB_TO_YIQ
    # Grey is a fixed point of the chroma map, so contrast and brightness commute with it up to
    # clipping, which is done once at the end.
    return np.concatenate([contrast * chroma, np.full((3, 1), brightness)], axis=1)


def apply_colour(pixels: U8, matrix: F64) -> U8:
    """Return u8[H, W, 3] ``pixels`` under an affine colour map f64[3, 4], rounded and clipped."""
    flat = pixels.reshape(-1, 3).astype(np.float32)
    out = flat @ matrix[:, :3].T.astype(np.float32)
    out += (matrix[:, 3] + 0.5).astype(np.float32)
    return out.clip(0, 255).astype(np.uint8).reshape(pixels.shape)


def distort(
    sample: Sample, probability: float, strength: float, rng: np.random.Generator
) -> Sample:
    """Draw a colour map and apply it to the image; padding keeps its colour."""
    matrix = photometric_matrix(probability, rng, strength)
    if sample.inner is None:
        return sample.with_image(apply_colour(sample.image, matrix))
    x0, y0, x1, y1 = sample.inner
    image = sample.image.copy()
    image[y0:y1, x0:x1] = apply_colour(image[y0:y1, x0:x1], matrix)
    return sample.with_image(image)


def mirror(sample: Sample) -> Sample:
    """Exchange left and right."""
    width = sample.image.shape[1]
    boxes = sample.boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
    boxes = boxes + np.array([width, 0, width, 0], np.float32)
    x0, y0, x1, y1 = sample.area
    inner = None if sample.inner is None else (width - x1, y0, width - x0, y1)
    return replace(sample, image=sample.image[:, ::-1], boxes=boxes, inner=inner)


def flip(sample: Sample) -> Sample:
    """Exchange top and bottom."""
    height = sample.image.shape[0]
    boxes = sample.boxes[:, [0, 3, 2, 1]] * np.array([1, -1, 1, -1], np.float32)
    boxes = boxes + np.array([0, height, 0, height], np.float32)
    x0, y0, x1, y1 = sample.area
    inner = None if sample.inner is None else (x0, height - y1, x1, height - y0)
    return replace(sample, image=sample.image[::-1], boxes=boxes, inner=inner)
