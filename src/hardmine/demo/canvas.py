"""A small analytic painter: shapes are coverage masks, so edges are smooth without supersampling.

A canvas covers one item's bounding box (and a margin for its tilt). ``x`` runs from -1 to 1 across
the item's width and ``y`` from 0 (top) to 1 (bottom), both turned with the item. Colours are RGB in
[0, 1], premultiplied by coverage. h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardmine.types import F32

Plane = NDArray[np.floating[Any]]
Color = tuple[float, float, float]
Profile = Sequence[tuple[float, float]]
"""(y, half width) pairs from the top down; half widths in units of half the item's width."""

MARGIN = 3
"""Pixels around an item's upright box, so that its soft edge is not cut."""


@dataclass(eq=False)
class Canvas:
    """What is painted so far: ``rgb`` f32[h, w, 3] premultiplied and ``alpha`` f32[h, w].

    ``dx`` and ``dy`` are a pixel's size in item units; ``light`` is the horizontal direction that
    the light comes from, -1 (left) to 1 (right).
    """

    x: F32
    y: F32
    dx: float
    dy: float
    light: float
    rgb: F32
    alpha: F32
    left: int
    top: int

    @staticmethod
    def for_item(
        *, center: float, base: float, width: float, height: float, tilt: float, light: float
    ) -> Canvas:
        """Return an empty canvas for an item that stands on its base's centre.

        Args:
            center: column of the base's centre, pixels of the image.
            base: row of the base, pixels of the image.
            width: the upright item's width, pixels.
            height: the upright item's height, pixels.
            tilt: turn about the base's centre, radians, clockwise.
            light: where the light comes from, -1 to 1.
        """
        sine, cosine = abs(np.sin(tilt)), abs(np.cos(tilt))
        half = width / 2 * cosine + height * sine + MARGIN
        left, right = int(np.floor(center - half)), int(np.ceil(center + half))
        top = int(np.floor(base - height * cosine - width / 2 * sine - MARGIN))
        bottom = int(np.ceil(base + width / 2 * sine + MARGIN))
        columns = np.arange(left, right, dtype=np.float32) + 0.5 - center
        rows = (np.arange(top, bottom, dtype=np.float32) + 0.5 - base)[:, None]
        across = np.cos(tilt) * columns + np.sin(tilt) * rows
        down = np.cos(tilt) * rows - np.sin(tilt) * columns
        shape = across.shape
        return Canvas(
            (across / (width / 2)).astype(np.float32),
            (1 + down / height).astype(np.float32),
            2 / width,
            1 / height,
            light,
            np.zeros((*shape, 3), np.float32),
            np.zeros(shape, np.float32),
            left,
            top,
        )

    def over(self, cover: Plane, color: Color | Plane) -> None:
        """Lay a colour (one, or [h, w, 3]) over what is there, as opaque as ``cover`` [h, w]."""
        cover = cover.astype(np.float32)[..., None]
        self.rgb = np.asarray(color, np.float32) * cover + self.rgb * (1 - cover)
        self.alpha = cover[..., 0] + self.alpha * (1 - cover[..., 0])

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> F32:
        """Return the coverage f32[h, w] of an ellipse given in item units."""
        across, down = (self.x - cx) / rx, (self.y - cy) / ry
        reach = np.maximum(np.hypot(across, down), 1e-6)
        per_pixel = np.hypot(across * (self.dx / rx), down * (self.dy / ry)) / reach
        cover = np.clip((1 - reach) / np.maximum(per_pixel, 1e-6) + 0.5, 0, 1)
        return np.asarray(cover, np.float32)

    def polygon(self, points: Sequence[tuple[float, float]]) -> F32:
        """Return the coverage f32[h, w] of a convex polygon, corners clockwise in item units."""
        cover = np.ones_like(self.x)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            ex, ey = (x1 - x0) / self.dx, (y1 - y0) / self.dy
            inside = ex * ((self.y - y0) / self.dy) - ey * ((self.x - x0) / self.dx)
            cover = np.minimum(cover, np.clip(inside / np.hypot(ex, ey) + 0.5, 0, 1))
        return cover

    def turned(self, profile: Profile, bend: float = 0.03) -> Turned:
        """Return the surface that a profile sweeps around the upright axis.

        Args:
            profile: half widths from the top (y = 0) down to the base (y = 1).
            bend: how far the front of a circle hangs below its sides (the look from above), as a
                share of the height.
        """
        half = np.interp(self.y, [y for y, _ in profile], [r for _, r in profile])
        u = np.clip(self.x / half, -1, 1).astype(np.float32)
        front = np.sqrt(1 - u * u)
        sides = np.clip((half - np.abs(self.x)) / self.dx + 0.5, 0, 1)
        v = self.y + bend * (1 - front)
        ends = np.clip(self.y / self.dy + 0.5, 0, 1) * np.clip((1 - v) / self.dy + 0.5, 0, 1)
        return Turned(u, v.astype(np.float32), (sides * ends).astype(np.float32), self.dy)


@dataclass(frozen=True, eq=False)
class Turned:
    """A surface of revolution: ``u`` -1 to 1 across, ``v`` 0 to 1 down along the curved front,
    ``cover`` f32[h, w].
    """

    u: F32
    v: F32
    cover: F32
    dy: float

    def band(self, top: float, bottom: float) -> F32:
        """Return the coverage of the ring between two heights."""
        upper = np.clip((self.v - top) / self.dy + 0.5, 0, 1)
        lower = np.clip((bottom - self.v) / self.dy + 0.5, 0, 1)
        return np.asarray(self.cover * np.minimum(upper, lower), np.float32)

    def disc(self, u: float, v: float, ru: float, rv: float) -> F32:
        """Return the coverage of a spot printed on the surface (narrower towards the sides)."""
        angle = np.arcsin(self.u) / (np.pi / 2)
        reach = np.hypot((angle - u) / ru, (self.v - v) / rv)
        spot = np.clip((1 - reach) * rv / self.dy + 0.5, 0, 1)
        return np.asarray(self.cover * spot, np.float32)

    def shade(self, light: float, contrast: float = 0.55) -> F32:
        """Return the brightness f32[h, w, 1] of a matt round surface, about 0.4 to 1.1."""
        facing = np.sqrt(1 - self.u**2) * np.sqrt(1 - light**2) + self.u * light
        bright = 1.08 - contrast * (1 - np.clip(facing, 0, 1))
        return np.asarray(bright[..., None], np.float32)

    def gloss(self, light: float, width: float = 0.13) -> F32:
        """Return the coverage of an upright streak of reflected light."""
        streak = np.exp(-(((self.u - 0.75 * light) / width) ** 2))
        return np.asarray(self.cover * streak, np.float32)
