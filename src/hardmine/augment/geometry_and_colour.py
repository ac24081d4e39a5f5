"""Expanding, cropping, resizing, mosaic and the two flips, and colour as one 3 × 4 matrix.

Expanding and cropping only move a window over the image, so nothing is resampled until the window's
final place is known: one resize of the part that is needed, decoded no larger than that. Mosaic shows
four images on one canvas, each through a window of its own.

Brightness, contrast, saturation and hue are linear in RGB (hue and saturation as rotations and
scalings of the chroma plane), so they compose into one matrix and are clipped once.

Source: Liu et al. 2016, "SSD", section 2.2, and the layers of the Caffe release.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from hardmine.augment.sample import Donors, Sample, Source
from hardmine.data.resize import Resize
from hardmine.errors import ConfigError
from hardmine.numpy_boxes import box_intersection, box_iou
from hardmine.types import F32, F64, U8, Mask

_INTERPOLATIONS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.NEAREST,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.LANCZOS,
)


class WindowConfig(Protocol):
    """The settings of ``AugmentConfig`` that decide the window."""

    @property
    def expand(self) -> float:
        """How often the image is put on a larger canvas, 0 to 1."""
        ...

    @property
    def max_expand(self) -> float:
        """The largest canvas, in sides of the image."""
        ...

    @property
    def crop(self) -> bool:
        """Whether windows are cut out of the image."""
        ...

    @property
    def min_overlaps(self) -> tuple[float, ...]:
        """The IoU that a crop must reach with an object, one of these by chance."""
        ...

    @property
    def min_crop(self) -> float:
        """The shortest side of a crop, as a share of the image's side."""
        ...

    @property
    def crop_trials(self) -> int:
        """How many windows are tried for each overlap."""
        ...

    @property
    def random_interpolation(self) -> bool:
        """Whether each image is resampled by a filter drawn at random."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The window of an image that comes onto the canvas; ``window`` f64[4] xyxy, image pixels."""

    width: float
    """Width of the image, px."""
    height: float
    window: F64
    resize: Resize
    resample: Image.Resampling
    expanded: F64
    """The window before it was cropped."""

    @property
    def cover(self) -> tuple[float, float]:
        """The size to which the whole image would be resized, at least that of the plain resize."""
        placement = self.resize.place(*(self.window[2:] - self.window[:2]).tolist())
        wide, high = self.resize.cover(self.width, self.height)
        return (
            max(wide, self.width * placement.scale_x),
            max(high, self.height * placement.scale_y),
        )

    def render(self, source: Source) -> Sample:
        """Resample the part of the image inside the window onto a canvas of the fill colour.

        Boxes whose centre left the window are gone, the others are cut at its border. A region to be
        ignored stays where any of it is shown: what is shown there is no background.
        """
        shown = box_intersection(source.boxes, self.window[None])[:, 0] > 0
        keep = _centre_inside(source.boxes, self.window) | (source.ignore & shown)
        return _render(
            Source(source.picture, source.boxes[keep], source.labels[keep], source.ignore[keep]),
            self.window,
            self.resize,
            self.resample,
        )

    def steps(self, source: Source, longest: int = 960) -> list[tuple[str, Sample]]:
        """Return what expanding and cropping alone would show, no side longer than ``longest``."""
        whole = np.array([0.0, 0.0, self.width, self.height])
        shown: list[tuple[str, Sample]] = []
        for name, window, before in (
            ("expand", self.expanded, whole),
            ("crop", self.window, self.expanded),
        ):
            if np.array_equal(window, before):
                continue
            size = window[2:] - window[:2]
            wide, high = (size * min(1.0, longest / size.max())).round().clip(1).astype(int)
            canvas = Resize(int(high), int(wide), fill=self.resize.fill)
            bilinear = Image.Resampling.BILINEAR
            view = replace(self, window=window, resize=canvas, resample=bilinear)
            shown.append((name, view.render(source)))
        return shown


def draw_view(
    width: float,
    height: float,
    boxes: F32,
    resize: Resize,
    config: WindowConfig,
    rng: np.random.Generator,
) -> View:
    """Draw the window and the interpolation for an image of ``width`` × ``height`` pixels."""
    window = np.array([0, 0, width, height], np.float64)
    if config.expand and rng.random() < config.expand:
        window = _expand(window, config.max_expand, rng)
    expanded = window
    if config.crop:
        window = sample_crop(window, boxes, config, rng)
    resample = Image.Resampling.BILINEAR
    if config.random_interpolation:
        resample = _INTERPOLATIONS[int(rng.integers(len(_INTERPOLATIONS)))]
    return View(width, height, window, resize, resample, expanded)


def sample_crop(window: F64, boxes: F32, config: WindowConfig, rng: np.random.Generator) -> F64:
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
        best = box_iou(crops.reshape(-1, 4), boxes).max(1).reshape(shape)
        success = best >= conditions[:, None]
    else:
        success = np.ones(shape, bool)
    found = [crops[s, success[s].argmax()] for s in range(len(conditions)) if success[s].any()]
    choice = int(rng.integers(len(found) + 1))
    return window if choice == len(found) else found[choice]


def _expand(window: F64, max_expand: float, rng: np.random.Generator) -> F64:
    size = window[2:] - window[:2]
    ratio = rng.uniform(1.0, max_expand)
    low = window[:2] - rng.random(2) * (ratio - 1.0) * size
    return np.concatenate([low, low + ratio * size])


def _centre_inside(boxes: F32, window: F64) -> Mask:
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    inside = (centre >= window[:2]) & (centre < window[2:])
    return np.logical_and(inside[:, 0], inside[:, 1])


def _render(source: Source, window: F64, resize: Resize, resample: Image.Resampling) -> Sample:
    """Draw a window's content. A pixel at x of the image lies at x · scale + shift of the canvas."""
    picture, (width, height) = source.picture, (window[2:] - window[:2]).tolist()
    placement = resize.place(width, height)
    scale = np.array([placement.scale_x, placement.scale_y])
    shift = np.array([placement.offset_x, placement.offset_y]) - window[:2] * scale
    part = np.concatenate(
        [window[:2].clip(min=0), window[2:].clip(max=(picture.width, picture.height))]
    )
    corners = np.round(part.reshape(2, 2) * scale + shift).astype(int)
    corners = corners.clip(0, (resize.width, resize.height))
    canvas = Image.new("RGB", (resize.width, resize.height), resize.fill)
    target = corners[1] - corners[0]
    if target.min() > 0 and (part[2:] > part[:2]).all():
        x0, y0, x1, y1 = part.tolist()
        piece = picture.resize((int(target[0]), int(target[1])), resample, (x0, y0, x1, y1))
        canvas.paste(piece, (int(corners[0, 0]), int(corners[0, 1])))
    inner = resize.inner(width, height)
    if inner is not None and resize.padding != resize.fill:
        padded = Image.new("RGB", canvas.size, resize.padding)
        padded.paste(canvas.crop(inner), inner[:2])
        canvas = padded
    limit = np.concatenate([window[:2], window[:2], window[2:], window[2:]]).reshape(4, 2)
    cut = source.boxes.reshape(-1, 2, 2).clip(limit[0], limit[2])
    moved = (cut * scale + shift).reshape(-1, 4).astype(np.float32)
    return Sample(np.asarray(canvas), moved, source.labels, source.ignore, inner)


_SMALLEST = 2.0
"""Canvas pixels: what is left of a box below this is no box."""


@dataclass(frozen=True, slots=True)
class MosaicConfig:
    """Four images about a centre. Images with objects are joined by such, others by others."""

    probability: float = 0.0
    centre: float = 0.3
    """The centre lies between this share of the canvas and one minus it."""
    max_zoom: float = 1.0
    """Largest scale relative to the size at which an image alone would be shown."""
    min_visible: float = 0.3
    """A box of which a smaller share is left (inclusive) is marked as to be ignored."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"augment.mosaic.probability: got {self.probability}, wanted 0..1")
        if not 0.0 < self.centre <= 0.5 or self.max_zoom <= 0:
            raise ConfigError(
                f"augment.mosaic: got centre {self.centre}, max_zoom {self.max_zoom}, wanted "
                "0 < centre <= .5, max_zoom > 0"
            )
        if not 0.0 <= self.min_visible <= 1.0:
            raise ConfigError(f"augment.mosaic.min_visible: got {self.min_visible}, wanted 0..1")


def mosaic(
    first: Source, config: MosaicConfig, resize: Resize, rng: np.random.Generator, donors: Donors
) -> Sample:
    """Return a canvas of four images, the first of them given."""
    objects = len(first.boxes) > 0
    sources = [first]
    sources += [donors.draw(rng, objects=objects, cover=resize.cover) for _ in range(3)]
    low, high = config.centre, 1.0 - config.centre
    column = round(resize.width * rng.uniform(low, high))
    row = round(resize.height * rng.uniform(low, high))
    tiles = [
        (x0, y0, x1, y1)
        for y0, y1 in ((0, row), (row, resize.height))
        for x0, x1 in ((0, column), (column, resize.width))
    ]
    canvas = np.empty((resize.height, resize.width, 3), np.uint8)
    parts: list[Source] = []
    for place, source in zip(rng.permutation(4).tolist(), sources, strict=True):
        x0, y0, x1, y1 = tiles[place]
        if x1 > x0 and y1 > y0:
            window, scale = _draw_window(source, (x1 - x0, y1 - y0), resize, config, rng)
            wx0, wy0, wx1, wy1 = window.tolist()
            shown = source.picture.resize((x1 - x0, y1 - y0), window=(wx0, wy0, wx1, wy1))
            canvas[y0:y1, x0:x1] = np.asarray(shown)
            parts.append(_move(source, window, scale, (x0, y0), config.min_visible))
    return Sample(
        canvas,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )


def _draw_window(
    source: Source,
    tile: tuple[int, int],
    resize: Resize,
    config: MosaicConfig,
    rng: np.random.Generator,
) -> tuple[F64, F64]:
    """Return the part of an image f64[4] that a tile shows, and its scale f64[2].

    The aspect ratio is that of the resize; when the image holds objects, one of them is centred in
    the window or as near to that as the image's border lets it, before the window is shaken.
    """
    picture = source.picture
    whole = np.array([picture.width, picture.height], np.float64)
    placement = resize.place(picture.width, picture.height)
    scale = np.array([placement.scale_x, placement.scale_y])
    smallest = float((np.array(tile) / (scale * whole)).max())  # the image just fills the tile
    scale = scale * rng.uniform(smallest, max(smallest, config.max_zoom))
    size = np.minimum(np.array(tile) / scale, whole)
    low = rng.random(2) * (whole - size)
    shown = np.flatnonzero(~source.ignore)
    if len(shown):
        box = source.boxes[shown[int(rng.integers(len(shown)))]].astype(np.float64)
        low = (box[:2] + box[2:]) / 2 - size * rng.uniform(0.3, 0.7, 2)
    low = low.clip(0, whole - size)
    return np.concatenate([low, low + size]), scale


def _move(
    source: Source, window: F64, scale: F64, corner: tuple[int, int], min_visible: float
) -> Source:
    """Cut the boxes at the window and move them onto the canvas."""
    pairs = source.boxes.astype(np.float64).reshape(-1, 2, 2)
    cut = pairs.clip(window[:2], window[2:])
    visible = (cut[:, 1] - cut[:, 0]).prod(1) / np.maximum(
        (pairs[:, 1] - pairs[:, 0]).prod(1), 1e-9
    )
    boxes = ((cut - window[:2]) * scale + np.array(corner)).reshape(-1, 4).astype(np.float32)
    keep = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= _SMALLEST
    ignore = source.ignore | (visible <= min_visible)
    return Source(source.picture, boxes[keep], source.labels[keep], ignore[keep])


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
