"""The SSD augmentation chain as one window, one resize and one colour matrix.

Expanding and cropping only move a window over the image, so nothing is resampled until the window's
final place is known: one resize of the part that is needed. The photometric steps are linear in RGB
(hue and saturation as rotations and scalings of the chroma plane), so they compose into one 3 × 4
matrix. Both make the chain several times quicker than running its steps one by one.

Source: Liu et al. 2016, "SSD", section 2.2, and the layers of the Caffe release.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.resize import Resize
from hardmine.errors import ConfigError
from hardmine.types import F32, I64, Mask

F64 = NDArray[np.float64]

_INTERPOLATIONS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.NEAREST,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.LANCZOS,
)
_RGB_TO_YIQ: F64 = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
_YIQ_TO_RGB: F64 = np.linalg.inv(_RGB_TO_YIQ).astype(np.float64)


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Which steps run, and how strongly; probabilities in [0, 1]."""

    photometric: float = 0.5
    """Probability of each of brightness ±32, contrast .5–1.5, saturation .5–1.5, hue ±18°."""
    expand: float = 0.5
    max_expand: float = 4.0
    """Largest side of the canvas relative to the image."""
    crop: bool = True
    min_overlaps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    min_crop: float = 0.3
    """Smallest side of a crop relative to the image."""
    crop_trials: int = 50
    mirror: float = 0.5
    random_interpolation: bool = True

    def __post_init__(self) -> None:
        for name in ("photometric", "expand", "mirror"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"augment.{name}: got {getattr(self, name)}, wanted 0..1")
        if self.max_expand < 1.0 or not 0.0 < self.min_crop <= 1.0:
            raise ConfigError(
                f"augment: got max_expand {self.max_expand}, min_crop {self.min_crop}, "
                "wanted max_expand >= 1 and 0 < min_crop <= 1"
            )


NO_AUGMENT = AugmentConfig(
    photometric=0, expand=0, crop=False, mirror=0, random_interpolation=False
)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image on the model's canvas: ``image`` u8[H, W, 3], boxes in canvas pixels."""

    image: NDArray[np.uint8]
    boxes: F32
    labels: I64
    ignore: Mask


def augment(
    image: Image.Image,
    boxes: F32,
    labels: I64,
    ignore: Mask,
    resize: Resize,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Sample:
    """Draw one augmented sample.

    Args:
        image: RGB.
        boxes: f32[N, 4] xyxy pixels of ``image``; N may be 0, the image is then cropped all the same.
        labels: i64[N].
        ignore: bool[N].
        resize: the canvas.
        config: the steps.
        rng: source of all randomness.

    Returns:
        Sample: boxes whose centre left the window are gone, the others are cut at its border.
    """
    window = np.array([0, 0, image.width, image.height], np.float64)
    if config.expand and rng.random() < config.expand:
        window = _expand(window, config.max_expand, rng)
    if config.crop:
        window = sample_crop(window, boxes, config, rng)
    keep = _centre_inside(boxes, window)
    pixels, boxes = _render(image, boxes[keep], window, resize, _interpolation(config, rng))
    if config.mirror and rng.random() < config.mirror:
        pixels = pixels[:, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
        boxes = boxes + np.array([resize.width, 0, resize.width, 0], np.float32)
    if config.photometric:
        pixels = _apply_colour(pixels, photometric_matrix(config.photometric, rng))
    return Sample(np.ascontiguousarray(pixels), boxes, labels[keep], ignore[keep])


def sample_crop(window: F64, boxes: F32, config: AugmentConfig, rng: np.random.Generator) -> F64:
    """Choose a crop of ``window``, uniformly among the samplers that succeeded.

    The samplers are: the whole window, one per minimum overlap, and one without a condition. A sampler
    succeeds when in ``config.crop_trials`` tries *any* box reaches its IoU with the crop. Without boxes
    every crop satisfies every sampler, so an image without objects is cropped as often as others.

    Args:
        window: f64[4] xyxy in image pixels.
        boxes: f32[N, 4].

    Returns:
        f64[4] xyxy in image pixels.
    """
    conditions = np.array([*config.min_overlaps, 0.0])  # [S]
    shape = (len(conditions), config.crop_trials)
    size = window[2:] - window[:2]
    scale = rng.uniform(config.min_crop, 1.0, shape)
    ratio = rng.uniform(np.maximum(0.5, scale**2), np.minimum(2.0, scale**-2))
    sides = np.stack([scale * np.sqrt(ratio), scale / np.sqrt(ratio)], -1).clip(max=1.0) * size
    low = window[:2] + rng.random((*shape, 2)) * (size - sides)
    crops = np.concatenate([low, low + sides], -1)  # [S, T, 4]
    if len(boxes):
        best = _iou(crops.reshape(-1, 4), boxes.astype(np.float64)).max(1).reshape(shape)
        success = best >= conditions[:, None]
    else:
        success = np.ones(shape, bool)
    found = [crops[s, success[s].argmax()] for s in range(len(conditions)) if success[s].any()]
    choice = int(rng.integers(len(found) + 1))
    return window if choice == len(found) else found[choice]


def photometric_matrix(probability: float, rng: np.random.Generator) -> F64:
    """Return a f64[3, 4] affine colour map: brightness, contrast, saturation and hue, each by chance.

    Contrast comes before or after saturation and hue, as in the source. Hue turns and saturation
    scales the chroma plane of YIQ, which is linear, where the source works in HSV.
    """
    on = rng.random(4) < probability
    brightness = rng.uniform(-32, 32) if on[0] else 0.0
    contrast = rng.uniform(0.5, 1.5) if on[1] else 1.0
    saturation = rng.uniform(0.5, 1.5) if on[2] else 1.0
    angle = np.deg2rad(rng.uniform(-18, 18)) if on[3] else 0.0
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    chroma = _YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _RGB_TO_YIQ
    # Grey is a fixed point of the chroma map, so contrast and brightness commute with it up to
    # clipping, which is done once at the end.
    return np.concatenate([contrast * chroma, np.full((3, 1), brightness)], axis=1)


def _apply_colour(pixels: NDArray[np.uint8], matrix: F64) -> NDArray[np.uint8]:
    flat = pixels.reshape(-1, 3).astype(np.float32)
    out = flat @ matrix[:, :3].T.astype(np.float32)
    out += (matrix[:, 3] + 0.5).astype(np.float32)
    return out.clip(0, 255).astype(np.uint8).reshape(pixels.shape)


def _expand(window: F64, max_expand: float, rng: np.random.Generator) -> F64:
    size = window[2:] - window[:2]
    ratio = rng.uniform(1.0, max_expand)
    low = window[:2] - rng.random(2) * (ratio - 1.0) * size
    return np.concatenate([low, low + ratio * size])


def _centre_inside(boxes: F32, window: F64) -> Mask:
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    inside = (centre >= window[:2]) & (centre < window[2:])
    return np.logical_and(inside[:, 0], inside[:, 1])


def _render(
    image: Image.Image, boxes: F32, window: F64, resize: Resize, filter_: Image.Resampling
) -> tuple[NDArray[np.uint8], F32]:
    """Resample the part of the image inside ``window`` onto a canvas of the fill colour.

    A pixel at x of the image lies at x · scale + shift of the canvas.
    """
    width, height = (window[2:] - window[:2]).tolist()
    placement = resize.place(width, height)
    scale = np.array([placement.scale_x, placement.scale_y])
    shift = np.array([placement.offset_x, placement.offset_y]) - window[:2] * scale
    part = np.concatenate(
        [window[:2].clip(min=0), window[2:].clip(max=(image.width, image.height))]
    )
    corners = np.round(part.reshape(2, 2) * scale + shift).astype(int)
    corners = corners.clip(0, (resize.width, resize.height))
    canvas = Image.new("RGB", (resize.width, resize.height), resize.fill)
    target = corners[1] - corners[0]
    if target.min() > 0 and (part[2:] > part[:2]).all():
        piece = image.resize((int(target[0]), int(target[1])), filter_, box=tuple(part.tolist()))
        canvas.paste(piece, (int(corners[0, 0]), int(corners[0, 1])))
    limit = np.concatenate([window[:2], window[:2], window[2:], window[2:]]).reshape(4, 2)
    cut = boxes.reshape(-1, 2, 2).clip(limit[0], limit[2])
    moved = (cut * scale + shift).reshape(-1, 4)
    return np.asarray(canvas), moved.astype(np.float32)


def _interpolation(config: AugmentConfig, rng: np.random.Generator) -> Image.Resampling:
    if not config.random_interpolation:
        return Image.Resampling.BILINEAR
    return _INTERPOLATIONS[int(rng.integers(len(_INTERPOLATIONS)))]


def _iou(a: F64, b: F64) -> F64:
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = size.clip(min=0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inter
    return np.asarray(inter / np.maximum(union, 1e-9))
