"""Drawn blood smears: many overlapping objects, and one class that is small, rare and easily confused.

Red cells (some 13 per picture, about 100 px of 640 x 480) overlap; a white cell is about 200 px, a
platelet about 40 px, one per picture. An empty smear shows bubbles (like red cells without colour),
drops of stain (like platelets) and folds of the film (of a white cell's colours).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SMEAR_CLASSES = ("platelet", "red cell", "white cell")
PLATELET, RED, WHITE = 1, 2, 3
WIDTH, HEIGHT = 640, 480

Color = tuple[float, float, float]


@dataclass(eq=False)
class _Smear:
    """A picture in the making, with the boxes (xyxy, pixels) and labels of what was drawn."""

    canvas: Image.Image
    tint: Color
    rng: np.random.Generator
    boxes: list[list[float]]
    labels: list[int]

    def spot(self) -> tuple[float, float]:
        return self.rng.uniform(0, WIDTH), self.rng.uniform(0, HEIGHT)

    def keep(self, label: int, x: float, y: float, radius: float) -> None:
        """Note the box of what is drawn there, if at least half of its width and height show."""
        left, right = max(0.0, x - radius), min(float(WIDTH), x + radius)
        top, bottom = max(0.0, y - radius), min(float(HEIGHT), y + radius)
        if min(right - left, bottom - top) >= radius:
            self.boxes.append([left, top, right, bottom])
            self.labels.append(label)

    def disc(self, x: float, y: float, radius: float, color: Color, strength: float) -> None:
        """Lay a soft, slightly lobed disc of so much opacity (0 to 1) over the picture."""
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        lobes, start = int(self.rng.integers(2, 5)), self.rng.uniform(0, 6)
        reach = radius * (1 + 0.07 * np.sin(turn * lobes + start))
        half = int(radius * 1.3) + 3
        left, top = int(x) - half, int(y) - half
        outline = np.stack([x - left + reach * np.cos(turn), y - top + reach * np.sin(turn)], 1)
        mask = Image.new("L", (2 * half + 1, 2 * half + 1), 0)
        points = [(float(a), float(b)) for a, b in outline]
        ImageDraw.Draw(mask).polygon(points, fill=round(255 * strength))
        mask = mask.filter(ImageFilter.GaussianBlur(max(0.8, radius / 14)))
        shade = [int(np.clip(c + t, 0, 255)) for c, t in zip(color, self.tint, strict=True)]
        patch = Image.new("RGB", mask.size, (shade[0], shade[1], shade[2]))
        self.canvas.paste(patch, (left, top), mask)


def draw_smear(
    rng: np.random.Generator, cells: bool
) -> tuple[Image.Image, list[list[float]], list[int]]:
    """Draw a smear with cells, or one without any; return the picture, boxes (xyxy) and labels."""
    ground = np.array([233, 214, 205]) + rng.normal(0, 6, 3)
    red, green, blue = (int(value) for value in ground)
    tint = rng.normal(0, 6, 3).tolist()
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (red, green, blue))
    smear = _Smear(canvas, (tint[0], tint[1], tint[2]), rng, [], [])
    if cells:
        _draw_cells(smear)
    else:
        _draw_bubbles_and_folds(smear, (red - tint[0], green - tint[1], blue - tint[2]))
    for _ in range(int(rng.integers(1, 5))):  # stain, of a platelet's colours
        x, y = smear.spot()
        smear.disc(
            x, y, rng.uniform(4, 12 if cells else 20), (150, 110, 165), rng.uniform(0.3, 0.8)
        )
    noise = rng.normal(0, 4, (HEIGHT, WIDTH, 1)) + rng.normal(0, 2, (HEIGHT, WIDTH, 3))
    shot = np.clip(np.asarray(smear.canvas, np.float32) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(shot), smear.boxes, smear.labels


def _draw_cells(smear: _Smear) -> None:
    rng = smear.rng
    there = rng.random() < 0.97
    center, wide = smear.spot(), rng.uniform(80, 115)
    for _ in range(int(rng.integers(8, 21))):
        radius = rng.uniform(42, 56)
        x, y = smear.spot()
        if there and np.hypot(x - center[0], y - center[1]) < wide:
            continue  # the white cell would hide it
        smear.keep(RED, x, y, radius)
        smear.disc(x, y, radius, (205, 142, 145), 0.8)
        smear.disc(x, y, radius * 0.45, (228, 190, 185), 0.6)
    if there:
        smear.keep(WHITE, *center, wide)
        smear.disc(*center, wide, (190, 165, 200), 0.85)
        for _ in range(int(rng.integers(1, 4))):  # the lobes of its nucleus
            x, y = rng.normal(center, wide / 4)
            smear.disc(x, y, wide * 0.5, (105, 60, 150), 0.95)
    for _ in range(int(rng.poisson(1.2))):
        radius = rng.uniform(14, 24)
        x, y = smear.spot()
        smear.keep(PLATELET, x, y, radius)
        smear.disc(x, y, radius, (140, 95, 165), 0.85)


def _draw_bubbles_and_folds(smear: _Smear, ground: Color) -> None:
    rng = smear.rng
    for _ in range(int(rng.integers(0, 6))):
        x, y = smear.spot()
        radius = rng.uniform(30, 70)
        smear.disc(x, y, radius, (196, 168, 164), 0.8)
        smear.disc(x, y, radius * 0.8, ground, 0.9)
    if rng.random() < 0.4:
        x, y = smear.spot()
        for step in range(6):
            wide = rng.uniform(25, 60)
            smear.disc(x + 22 * step, y + rng.normal(0, 8), wide, (160, 120, 175), 0.6)
