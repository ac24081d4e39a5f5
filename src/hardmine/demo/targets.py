"""The four classes of the drawn world: water bottle, carton, can, milk bottle.

Every painter takes an empty canvas and a generator and paints one item of its kind.
"""

from __future__ import annotations

import numpy as np

from hardmine.demo.canvas import Canvas, Color, Turned

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
"""The colours of print: shared by objects and look-alikes, so that colour alone tells nothing."""

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
