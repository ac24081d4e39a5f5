"""What the drawn world holds: bottles, cartons, cans, milk bottles, and things that look like them.

Each painter takes an empty canvas and a generator and paints one item of its kind. `Canvas` is a
small analytic painter: shapes are coverage masks, so edges are smooth without supersampling. It
covers one item's bounding box (and a margin for its tilt). ``x`` runs from -1 to 1 across the
item's width and ``y`` from 0 (top) to 1 (bottom), both turned with the item. Colours are RGB in [0,
1], premultiplied by coverage. h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


WHITE: Color = (0.95, 0.95, 0.93)
PAPER: Color = (0.93, 0.91, 0.85)
METAL: Color = (0.74, 0.76, 0.78)
DARK: Color = (0.13, 0.13, 0.15)

BRIGHT: tuple[Color, ...] = (
    (0.80, 0.13, 0.15),
    (0.10, 0.32, 0.70),
    (0.12, 0.52, 0.25),
    (0.95, 0.62, 0.10),
    (0.45, 0.16, 0.50),
    (0.08, 0.55, 0.60),
    (0.90, 0.35, 0.50),
    (0.20, 0.20, 0.24),
)
"""The colours of print: shared by objects and look-alikes, so that colour alone separates nothing."""

CAPS: tuple[Color, ...] = ((0.12, 0.35, 0.75), (0.80, 0.15, 0.15), (0.15, 0.55, 0.30), WHITE)


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """Return one of the colours, a little changed."""
    base = colors[int(rng.integers(len(colors)))]
    red, green, blue = np.clip(np.asarray(base) + rng.normal(0, 0.035, 3), 0, 1)
    return float(red), float(green), float(blue)


def mix(a: Color, b: Color, share: float) -> Color:
    """Return ``a`` moved towards ``b``."""
    red, green, blue = (p * (1 - share) + q * share for p, q in zip(a, b, strict=True))
    return red, green, blue


def print_label(
    canvas: Canvas, body: Turned, top: float, bottom: float, rng: np.random.Generator
) -> None:
    """Paint a printed ring: often a border, a spot, up to two lines of text."""
    ground = pick(rng, (*BRIGHT, WHITE, PAPER))
    ink = pick(rng, BRIGHT) if sum(ground) > 1.8 else WHITE
    shade, height = body.shade(canvas.light), bottom - top
    canvas.over(body.band(top, bottom), np.asarray(ground) * shade)
    if rng.random() < 0.5:
        canvas.over(body.band(top, top + 0.1 * height), np.asarray(ink) * shade)
    middle, across = float(rng.uniform(-0.25, 0.25)), float(rng.uniform(0.18, 0.5))
    spot = body.disc(middle, top + 0.42 * height, across, float(rng.uniform(0.14, 0.26)) * height)
    canvas.over(spot, np.asarray(ink) * shade)
    for line in np.arange(0.74, 0.74 + 0.12 * int(rng.integers(0, 3)), 0.12):
        text = body.band(top + line * height, top + (line + 0.06) * height)
        canvas.over(text * (np.abs(body.u - middle) < 0.55) * 0.7, np.asarray(ink) * shade)


def paint_water_bottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A clear, bluish bottle: screw cap, thin neck, label at the waist, ribs."""
    shoulder, waist = rng.uniform(0.27, 0.34), rng.uniform(0.84, 0.97)
    neck = rng.uniform(0.28, 0.36)
    profile = [(0.0, neck + 0.05), (0.085, neck + 0.05), (0.09, neck), (0.13, neck)]
    profile += [(0.6 * shoulder + 0.05, 0.72), (shoulder, 1.0), (0.42, 1.0), (0.46, waist)]
    profile += [(0.58, waist), (0.63, 1.0), (0.96, 1.0), (1.0, 0.88)]
    body = canvas.turned(profile, 0.02)
    tint = pick(rng, ((0.62, 0.80, 0.93), (0.75, 0.88, 0.95), (0.55, 0.78, 0.85)))
    clear = 0.50 + 0.42 * np.abs(body.u) ** 3
    canvas.over(body.cover * clear, np.asarray(tint) * body.shade(canvas.light, 0.35))
    ribs = 0.5 + 0.5 * np.sin(body.v * rng.uniform(75, 95))
    lower = body.band(0.64, 0.95) * ribs * 0.35
    canvas.over(lower, np.asarray(mix(tint, DARK, 0.35)))
    level = float(rng.uniform(0.14, 0.36))
    canvas.over(body.band(level, level + 0.015) * 0.5, mix(tint, DARK, 0.4))
    print_label(canvas, body, 0.42, 0.62, rng)
    canvas.over(body.band(0, 0.085), np.asarray(pick(rng, CAPS)) * body.shade(canvas.light))
    canvas.over(body.gloss(canvas.light) * 0.6, WHITE)


def paint_milk_bottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A white jug: wide cap, sloped shoulders, a grip hole, a label in the cap's colour."""
    shoulder, neck = rng.uniform(0.32, 0.40), rng.uniform(0.34, 0.42)
    profile = [(0.0, neck + 0.04), (0.085, neck + 0.04), (0.09, neck - 0.03), (0.13, neck - 0.03)]
    profile += [(0.17, neck + 0.08), (shoulder, 1.0), (0.96, 1.0), (1.0, 0.92)]
    body = canvas.turned(profile, 0.025)
    shade = body.shade(canvas.light, 0.45)
    milk = pick(rng, (WHITE, (0.93, 0.94, 0.97), (0.96, 0.94, 0.88)))
    canvas.over(body.cover, np.asarray(milk) * shade)
    color = pick(rng, CAPS[:3])
    side = 1 if rng.random() < 0.5 else -1
    grip = canvas.ellipse(side * 0.62, shoulder + 0.1, 0.13, 0.10)
    canvas.over(grip * body.cover * 0.75, mix(milk, DARK, 0.45))
    top = float(rng.uniform(0.52, 0.6))
    bottom = top + float(rng.uniform(0.2, 0.3))
    canvas.over(body.band(top, bottom), np.asarray(color) * shade)
    spot = body.disc(0, (top + bottom) / 2, 0.4, 0.34 * (bottom - top))
    canvas.over(spot, np.asarray(milk) * shade)
    canvas.over(body.band(0, 0.085), np.asarray(color) * shade)
    canvas.over(body.gloss(canvas.light, 0.1) * 0.35, WHITE)


def paint_can(canvas: Canvas, rng: np.random.Generator) -> None:
    """A drink can: rimmed lid seen from above, tapered shoulders, bright print, silver foot."""
    taper = rng.uniform(0.78, 0.86)
    profile = [(0.0, taper), (0.05, taper), (0.14, 1.0), (0.91, 1.0), (1.0, taper)]
    body = canvas.turned(profile, 0.06)
    shade = body.shade(canvas.light, 0.7)
    color = pick(rng, BRIGHT)
    canvas.over(body.cover, np.asarray(METAL) * shade)
    canvas.over(body.band(0.11, 0.94), np.asarray(color) * shade)
    ink = pick(rng, (*BRIGHT, WHITE, WHITE, METAL))
    slant = rng.uniform(-0.14, 0.14)
    sweep = np.abs(body.v - 0.55 - slant * np.sin(2.2 * body.u)) < rng.uniform(0.07, 0.16)
    canvas.over(body.band(0.14, 0.92) * sweep, np.asarray(ink) * shade)
    if rng.random() < 0.6:
        spot = body.disc(rng.uniform(-0.2, 0.2), 0.53, 0.33, 0.15)
        canvas.over(spot, np.asarray(pick(rng, (*BRIGHT, WHITE))) * shade)
    canvas.over(body.gloss(canvas.light, 0.1) * 0.55, WHITE)
    canvas.over(canvas.ellipse(0, 0.055, taper, 0.055), mix(METAL, WHITE, 0.4))
    canvas.over(canvas.ellipse(0, 0.06, taper * 0.86, 0.043), mix(METAL, DARK, 0.25))
    canvas.over(canvas.ellipse(0.05, 0.075, 0.28, 0.02), mix(METAL, DARK, 0.75))


def paint_carton(canvas: Canvas, rng: np.random.Generator) -> None:
    """A gable-top carton: printed front, darker side, sloped roof, fin, often a screw cap."""
    outer = 1.0 if rng.random() < 0.5 else -1.0
    edge = outer * float(rng.uniform(0.35, 0.65))
    roof = float(rng.uniform(0.25, 0.32))
    paper = pick(rng, (WHITE, PAPER, PAPER, *BRIGHT))
    color = pick(rng, BRIGHT if sum(paper) > 2.2 else (WHITE, PAPER))
    side_light = 0.72 + 0.25 * canvas.light * outer
    shade = np.where((canvas.x <= edge) == (outer > 0), 1.0, side_light)[..., None]
    box = canvas.polygon([(-1, roof), (1, roof), (1, 1), (-1, 1)])
    canvas.over(box, np.asarray(paper) * shade)
    foot, slope = float(rng.uniform(0.68, 0.86)), float(rng.uniform(-0.1, 0.1))
    wave = np.clip((canvas.y - foot - slope * canvas.x) / canvas.dy + 0.5, 0, 1)
    canvas.over(box * wave, np.asarray(color) * shade)
    middle, reach = (edge - outer) / 2, 0.6 * (1 + abs(edge)) / 2
    canvas.over(canvas.ellipse(middle, 0.5, reach, 0.12) * box, np.asarray(color) * shade)
    left, right = middle - reach, middle + reach
    text = canvas.polygon([(left, 0.36), (right, 0.36), (right, 0.395), (left, 0.395)])
    canvas.over(text * 0.8, mix(color, DARK, 0.3))
    _paint_gable(canvas, rng, (edge, roof), paper, color)


def _paint_gable(
    canvas: Canvas,
    rng: np.random.Generator,
    corner: tuple[float, float],
    paper: Color,
    color: Color,
) -> None:
    """Paint the carton's roof over the front's upper outer corner: slope, dark side, fin, cap."""
    edge, roof = corner
    outer, fin = (1.0 if edge > 0 else -1.0), float(rng.uniform(0.08, 0.11))
    slope = [(-outer, roof), (-outer * 0.9, fin), (outer * 0.62, fin), (edge, roof)]
    dark = [(edge, roof), (outer * 0.62, fin), (outer, roof)]
    turn = int(outer)
    canvas.over(canvas.polygon(slope[::turn]), mix(paper, DARK, 0.1))
    canvas.over(canvas.polygon(dark[::turn]), mix(paper, DARK, 0.42))
    left, right = sorted((-outer * 0.92, outer * 0.66))
    fold = canvas.polygon([(left, 0.0), (right, 0.0), (right, fin), (left, fin)])
    canvas.over(fold, mix(paper, WHITE, 0.2))
    seam = canvas.polygon([(left, 0.8 * fin), (right, 0.8 * fin), (right, fin), (left, fin)])
    canvas.over(seam * 0.5, DARK)
    if rng.random() < 0.55:
        cx, cy = (edge - outer) * 0.4, (roof + fin) / 2
        canvas.over(canvas.ellipse(cx, cy + 0.012, 0.27, 0.062), mix(color, DARK, 0.5))
        canvas.over(canvas.ellipse(cx, cy, 0.25, 0.055), color)


FOOD: tuple[Color, ...] = (
    (0.62, 0.07, 0.12),
    (0.85, 0.55, 0.12),
    (0.42, 0.50, 0.15),
    (0.94, 0.92, 0.84),
    (0.35, 0.20, 0.12),
)
SAUCE: tuple[Color, ...] = (
    (0.65, 0.10, 0.10),
    (0.16, 0.24, 0.12),
    (0.25, 0.13, 0.08),
    (0.80, 0.65, 0.15),
    (0.72, 0.80, 0.78),
)
CERAMIC: tuple[Color, ...] = (WHITE, (0.55, 0.68, 0.75), (0.80, 0.55, 0.40), (0.35, 0.45, 0.40))
FRUIT: tuple[Color, ...] = ((0.80, 0.15, 0.12), (0.95, 0.55, 0.10), (0.55, 0.70, 0.20))


def paint_jar(canvas: Canvas, rng: np.random.Generator) -> None:
    """A jar: lid nearly as wide as the glass, content shining through; white ones resemble milk."""
    profile = [(0.0, 0.84), (0.15, 0.86), (0.155, 0.78), (0.2, 0.78), (0.28, 1.0)]
    profile += [(0.95, 1.0), (1.0, 0.9)]
    body = canvas.turned(profile, 0.05)
    shade = body.shade(canvas.light)
    canvas.over(body.cover * 0.95, np.asarray(pick(rng, FOOD)) * shade)
    canvas.over(body.cover * np.abs(body.u) ** 6 * 0.6, (0.85, 0.9, 0.92))
    if rng.random() < 0.7:
        print_label(canvas, body, rng.uniform(0.4, 0.48), rng.uniform(0.75, 0.86), rng)
    lid = pick(rng, (METAL, (0.82, 0.68, 0.30), *BRIGHT))
    canvas.over(body.band(0, 0.16), np.asarray(lid) * shade)
    knurl = body.band(0.03, 0.15) * (np.sin(14 * np.arcsin(body.u)) > 0.3) * 0.3
    canvas.over(knurl, mix(lid, DARK, 0.6))
    canvas.over(canvas.ellipse(0, 0.045, 0.84, 0.045), mix(lid, WHITE, 0.35))
    canvas.over(body.gloss(canvas.light, 0.1) * 0.5, WHITE)


def paint_cup(canvas: Canvas, rng: np.random.Generator) -> None:
    """A mug with a handle, one plain colour or ringed, open at the top."""
    side = 1 if rng.random() < 0.5 else -1
    color = pick(rng, (*CERAMIC, *BRIGHT))
    ring = canvas.ellipse(side * 0.6, 0.5, 0.4, 0.32) * (
        1 - canvas.ellipse(side * 0.58, 0.5, 0.24, 0.2)
    )
    canvas.over(ring, mix(color, DARK, 0.2))
    shifted = Canvas(**{**vars(canvas), "x": canvas.x + side * 0.25})
    taper = rng.uniform(0.58, 0.75)
    body = shifted.turned([(0.0, 0.75), (0.9, taper + 0.03), (1.0, taper)], 0.07)
    shade = body.shade(canvas.light)
    canvas.over(body.cover, np.asarray(color) * shade)
    if rng.random() < 0.6:
        top = rng.uniform(0.3, 0.5)
        canvas.over(
            body.band(top, top + rng.uniform(0.08, 0.3)), np.asarray(pick(rng, BRIGHT)) * shade
        )
    canvas.over(body.gloss(canvas.light, 0.1) * 0.4, WHITE)
    canvas.over(shifted.ellipse(0, 0.07, 0.75, 0.07), mix(color, WHITE, 0.3))
    canvas.over(shifted.ellipse(0, 0.08, 0.67, 0.055), mix(color, DARK, 0.55))


def paint_candle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pillar candle: plain wax, sunken rim, wick, sometimes a flame and a ribbon."""
    wax = pick(rng, (WHITE, (0.95, 0.88, 0.70), (0.75, 0.20, 0.20), (0.55, 0.65, 0.55), PAPER))
    top = 0.2
    body = canvas.turned([(0.0, 0.01), (top - 0.001, 0.01), (top, 0.96), (1.0, 1.0)], 0.04)
    body_cover = body.band(top, 1.1)
    shade = body.shade(canvas.light, 0.4)
    canvas.over(body_cover, np.asarray(wax) * shade)
    glow = np.exp(-(((canvas.y - top) / 0.2) ** 2)) * body_cover
    canvas.over(glow * 0.35, (1.0, 0.9, 0.65))
    if rng.random() < 0.4:
        ribbon = rng.uniform(0.5, 0.7)
        canvas.over(body.band(ribbon, ribbon + 0.1), np.asarray(pick(rng, BRIGHT)) * shade)
    canvas.over(canvas.ellipse(0, top + 0.03, 0.96, 0.045), mix(wax, WHITE, 0.3))
    canvas.over(canvas.ellipse(0, top + 0.04, 0.7, 0.03), mix(wax, DARK, 0.2))
    wick = canvas.polygon([(-0.04, 0.11), (0.06, 0.11), (0.06, top + 0.04), (-0.04, top + 0.04)])
    canvas.over(wick, DARK)
    if rng.random() < 0.5:
        canvas.over(canvas.ellipse(0, 0.08, 0.2, 0.08), (1.0, 0.66, 0.15))
        canvas.over(canvas.ellipse(0, 0.1, 0.1, 0.05), (1.0, 0.96, 0.7))


def paint_cereal_box(canvas: Canvas, rng: np.random.Generator) -> None:
    """A flat-topped box: bright front with a bowl, a darker side; a carton without its roof."""
    edge = float(rng.uniform(0.5, 0.75)) * (1 if rng.random() < 0.5 else -1)
    color = pick(rng, (*BRIGHT, PAPER))
    box = canvas.polygon([(-1, 0), (1, 0), (1, 1), (-1, 1)])
    shade = np.where((canvas.x <= edge) == (edge > 0), 1.0, 0.62)[..., None]
    canvas.over(box, np.asarray(color) * shade)
    ink = pick(rng, (WHITE, PAPER, *BRIGHT))
    middle, reach = (edge - np.sign(edge)) / 2, (1 + abs(edge)) / 2
    for top, bottom in ((0.08, 0.15), (0.18, 0.22)):
        left, right = middle - 0.7 * reach, middle + 0.7 * reach
        title = canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
        canvas.over(title, np.asarray(ink) * shade)
    bowl = canvas.ellipse(middle, 0.6, 0.7 * reach, 0.22) * (canvas.y > 0.58)
    canvas.over(bowl, np.asarray(ink) * shade)
    canvas.over(canvas.ellipse(middle, 0.58, 0.7 * reach, 0.06), (0.88, 0.65, 0.30))
    canvas.over(box * (canvas.y < 0.02) * 0.6, mix(color, WHITE, 0.5))


def paint_tin(canvas: Canvas, rng: np.random.Generator) -> None:
    """A food tin: straight ridged sides, a paper label, bare rims; a can without shoulders."""
    body = canvas.turned([(0.0, 1.0), (0.04, 1.0), (0.05, 0.96), (0.95, 0.96), (1.0, 1.0)], 0.07)
    shade = body.shade(canvas.light, 0.7)
    canvas.over(body.cover, np.asarray(METAL) * shade)
    print_label(canvas, body, 0.2, 0.86, rng)
    ridges = body.band(0.2, 0.86) * (np.sin(body.v * 48) > 0.2) * 0.22
    canvas.over(ridges, DARK)
    canvas.over(canvas.ellipse(0, 0.07, 1.0, 0.07), mix(METAL, WHITE, 0.5))
    canvas.over(canvas.ellipse(0, 0.078, 0.88, 0.056), mix(METAL, DARK, 0.15))


def paint_sauce_bottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """An opaque bottle with a long pointed neck: oil, ketchup, soy; a water bottle's outline."""
    shoulder = rng.uniform(0.38, 0.48)
    profile = [(0.0, 0.2), (0.1, 0.26), (0.105, 0.24), (0.2, 0.3), (shoulder - 0.08, 0.6)]
    profile += [(shoulder, 0.98), (0.97, 1.0), (1.0, 0.92)]
    body = canvas.turned(profile, 0.02)
    shade = body.shade(canvas.light, 0.6)
    dark = pick(rng, SAUCE)
    canvas.over(body.cover, np.asarray(dark) * shade)
    print_label(canvas, body, shoulder + 0.06, 0.88, rng)
    canvas.over(body.band(0, 0.1), np.asarray(pick(rng, BRIGHT)) * shade)
    canvas.over(body.gloss(canvas.light, 0.09) * 0.5, WHITE)


def paint_pot(canvas: Canvas, rng: np.random.Generator) -> None:
    """A yoghurt pot: wider at the foil lid than at the foot, white with print."""
    foot = rng.uniform(0.66, 0.78)
    body = canvas.turned(
        [(0.0, 1.0), (0.06, 1.0), (0.07, 0.93), (0.97, foot), (1.0, foot - 0.05)], 0.06
    )
    shade = body.shade(canvas.light, 0.5)
    canvas.over(body.cover, np.asarray(WHITE) * shade)
    print_label(canvas, body, rng.uniform(0.2, 0.35), rng.uniform(0.75, 0.95), rng)
    canvas.over(canvas.ellipse(0, 0.06, 1.0, 0.06), pick(rng, (METAL, WHITE, *BRIGHT)))


def paint_vase(canvas: Canvas, rng: np.random.Generator) -> None:
    """A vase: flared lip, narrow throat, round belly, glaze in rings, sometimes stems."""
    throat, belly = rng.uniform(0.28, 0.42), rng.uniform(0.5, 0.68)
    at = np.linspace(0.12, 1, 24)
    swell = np.exp(-(((at - belly) / 0.24) ** 2))
    lip = np.exp(-(((at - 0.12) / 0.06) ** 2))
    half = np.clip(throat + (1 - throat) * swell + 0.25 * lip, 0, 1)
    body = canvas.turned([(0, 0.01), (0.119, 0.01), *zip(at, half, strict=True)], 0.03)
    if rng.random() < 0.6:
        for lean in rng.uniform(-0.5, 0.5, 3):
            tip = canvas.ellipse(float(lean), 0.05, 0.17, 0.05)
            canvas.over(tip, pick(rng, (*BRIGHT, (0.25, 0.5, 0.2))))
            stem = np.abs(canvas.x - lean * (1 - canvas.y / 0.14)) < 0.05
            canvas.over(stem * (canvas.y < 0.14) * (canvas.y > 0.06) * 1.0, (0.2, 0.42, 0.18))
    glaze, shade = pick(rng, (*CERAMIC, *BRIGHT)), body.shade(canvas.light)
    canvas.over(body.band(0.12, 1.1), np.asarray(glaze) * shade)
    for ring in rng.uniform(0.25, 0.9, int(rng.integers(0, 4))):
        canvas.over(body.band(ring, ring + 0.05), np.asarray(pick(rng, (*BRIGHT, WHITE))) * shade)
    canvas.over(body.gloss(canvas.light, 0.12) * 0.5, WHITE)


def paint_spray_can(canvas: Canvas, rng: np.random.Generator) -> None:
    """A spray can: tall straight cylinder, domed shoulder, plastic cap or bare nozzle."""
    cap = rng.uniform(0.62, 0.8) if rng.random() < 0.6 else 0.22
    profile = [(0.0, cap * 0.95), (0.13, cap), (0.135, 0.5), (0.2, 0.92), (0.21, 1.0), (0.97, 1.0)]
    body = canvas.turned([*profile, (1.0, 0.95)], 0.03)
    shade = body.shade(canvas.light, 0.7)
    canvas.over(body.cover, np.asarray(METAL) * shade)
    canvas.over(body.band(0.22, 0.95), np.asarray(pick(rng, (*BRIGHT, WHITE))) * shade)
    print_label(canvas, body, rng.uniform(0.3, 0.45), rng.uniform(0.7, 0.9), rng)
    canvas.over(body.band(0, 0.13), np.asarray(pick(rng, (*BRIGHT, WHITE))) * shade)
    canvas.over(body.gloss(canvas.light, 0.1) * 0.5, WHITE)


def paint_fruit(canvas: Canvas, rng: np.random.Generator) -> None:
    """An apple or orange with its stalk."""
    color = pick(rng, FRUIT)
    ball = canvas.ellipse(0, 0.52, 1.0, 0.48)
    reach = np.hypot(canvas.x - 0.35 * canvas.light, (canvas.y - 0.35) * 2)
    canvas.over(ball, np.asarray(color) * (1.12 - 0.38 * np.clip(reach, 0, 1.6))[..., None])
    canvas.over(canvas.ellipse(0.4 * canvas.light, 0.3, 0.2, 0.09) * 0.5, WHITE)
    stalk = canvas.polygon([(-0.04, 0.0), (0.08, 0.0), (0.05, 0.12), (-0.05, 0.12)])
    canvas.over(stalk, (0.3, 0.2, 0.1))


def paint_plates(canvas: Canvas, rng: np.random.Generator) -> None:
    """A small stack of plates or bowls."""
    color = pick(rng, CERAMIC)
    for step in range(int(rng.integers(3, 6)), -1, -1):
        y = 0.2 + 0.11 * step
        canvas.over(canvas.ellipse(0, y + 0.08, 0.95, 0.16), mix(color, DARK, 0.45))
        canvas.over(canvas.ellipse(0, y, 0.98, 0.17), mix(color, DARK, 0.04 * step))
    canvas.over(canvas.ellipse(0, 0.22, 0.6, 0.09), mix(color, DARK, 0.18))


def paint_box(canvas: Canvas, rng: np.random.Generator) -> None:
    """A low plastic box with a lid, its content showing dimly."""
    content = pick(rng, (*FOOD, *FRUIT))
    shell = canvas.polygon([(-0.95, 0.12), (0.95, 0.12), (0.86, 1), (-0.86, 1)])
    canvas.over(shell * 0.85, mix(content, WHITE, 0.45))
    canvas.over(shell * np.clip((canvas.y - 0.45) * 9, 0, 1) * 0.6, content)
    lid = canvas.polygon([(-1, 0), (1, 0), (1, 0.2), (-1, 0.2)])
    canvas.over(lid, pick(rng, (*BRIGHT, WHITE, WHITE)))


def paint_cheese(canvas: Canvas, rng: np.random.Generator) -> None:
    """A wedge of cheese with holes."""
    color = pick(rng, ((0.95, 0.80, 0.35), (0.96, 0.90, 0.62)))
    canvas.over(
        canvas.polygon([(-1, 0.5), (0.9, 0.05), (1, 0.4), (1, 0.45), (-1, 0.55)]),
        mix(color, WHITE, 0.3),
    )
    face = canvas.polygon([(-1, 0.5), (1, 0.42), (1, 1), (-1, 1)])
    canvas.over(face, color)
    for _ in range(4):
        hole = canvas.ellipse(rng.uniform(-0.8, 0.8), rng.uniform(0.6, 0.9), 0.12, 0.1)
        canvas.over(hole * face, mix(color, DARK, 0.3))


def paint_greens(canvas: Canvas, rng: np.random.Generator) -> None:
    """A heap of leaves."""
    for _ in range(9):
        color = pick(rng, ((0.25, 0.5, 0.18), (0.40, 0.62, 0.25), (0.55, 0.72, 0.35)))
        cx, cy = rng.uniform(-0.6, 0.6), rng.uniform(0.35, 0.75)
        canvas.over(canvas.ellipse(cx, cy, rng.uniform(0.25, 0.42), rng.uniform(0.15, 0.25)), color)


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of item: ``height`` as a share of the shelf's clear height and ``aspect`` (width over
    height) are ranges; ``paint`` draws one item.
    """

    name: str
    height: tuple[float, float]
    aspect: tuple[float, float]
    paint: Callable[[Canvas, np.random.Generator], None]


TARGETS = (
    Family("water bottle", (0.78, 1.0), (0.29, 0.38), paint_water_bottle),
    Family("carton", (0.70, 0.98), (0.42, 0.58), paint_carton),
    Family("can", (0.46, 0.66), (0.50, 0.60), paint_can),
    Family("milk bottle", (0.70, 0.98), (0.42, 0.54), paint_milk_bottle),
)
"""The classes, in label order (label 1 is the first)."""

CATEGORIES = tuple(family.name for family in TARGETS)

LOOK_ALIKES = (
    Family("jar", (0.45, 0.85), (0.46, 0.80), paint_jar),
    Family("cup", (0.32, 0.48), (0.90, 1.15), paint_cup),
    Family("candle", (0.42, 0.90), (0.36, 0.56), paint_candle),
    Family("cereal box", (0.70, 1.0), (0.52, 0.75), paint_cereal_box),
    Family("tin", (0.40, 0.62), (0.56, 0.85), paint_tin),
    Family("sauce bottle", (0.72, 1.0), (0.27, 0.36), paint_sauce_bottle),
    Family("pot", (0.32, 0.50), (0.75, 0.95), paint_pot),
)
"""Stand in the pool's and the held-out negatives' scenes, never in labelled ones."""

HELD_OUT_ONLY = (
    Family("vase", (0.60, 1.0), (0.42, 0.62), paint_vase),
    Family("spray can", (0.62, 0.96), (0.30, 0.38), paint_spray_can),
)
"""Stand in held-out negatives alone: what is learned from the pool must carry over to them."""

CLUTTER = (
    Family("fruit", (0.20, 0.32), (0.95, 1.1), paint_fruit),
    Family("plates", (0.16, 0.26), (1.8, 2.6), paint_plates),
    Family("box", (0.22, 0.36), (1.2, 1.9), paint_box),
    Family("cheese", (0.16, 0.26), (1.3, 1.9), paint_cheese),
    Family("greens", (0.24, 0.42), (1.2, 1.7), paint_greens),
)
"""Stands anywhere, resembles nothing."""
