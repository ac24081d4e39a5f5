"""What a fridge holds beside the four classes: look-alikes, near and far, and plain clutter."""

from __future__ import annotations

import numpy as np

from hardmine.demo.canvas import Canvas, Color
from hardmine.demo.targets import BRIGHT, DARK, METAL, PAPER, WHITE, mix, pick, print_label

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
