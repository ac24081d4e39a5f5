"""Small round signs with letters on photographs: classes of one size that only their details tell apart.

A sign has some 50 px in an image of 640 x 480, so that few of its details are left on a small canvas. In
images without objects there are signs with other letters, and without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

WIDTH, HEIGHT = 640, 480
SIGN_CLASSES = ("B", "E", "H", "K", "P", "R")
OTHERS = ("A", "D", "F", "M", "N", "S", "X", "3", "8", "")
MOST = 9
"""Signs in an image."""
SIDE = (38.0, 62.0)
FINER = 4
"""A sign is drawn so many times larger and then made smaller."""
PLATES = ((240, 240, 235), (245, 200, 40), (30, 80, 170), (190, 40, 40), (40, 120, 70))


def draw_signs(
    rng: np.random.Generator, photographs: Sequence[Path], *, labelled: bool
) -> tuple[Image.Image, list[list[float]], list[int]]:
    """Return a photograph with signs, their boxes (xyxy, px) and their labels (1 to 6).

    Args:
        labelled: False for an image with signs of no class, and no boxes.
    """
    with Image.open(photographs[int(rng.integers(len(photographs)))]) as image:
        canvas = ImageOps.fit(image.convert("RGB"), (WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    boxes: list[list[float]] = []
    labels: list[int] = []
    centres: list[tuple[float, float]] = []
    for _ in range(int(rng.integers(2, MOST + 1))):
        side = math.exp(rng.uniform(*np.log(SIDE)))
        x, y = rng.uniform(side / 2, WIDTH - side / 2), rng.uniform(side / 2, HEIGHT - side / 2)
        if any(math.dist((x, y), other) < SIDE[1] for other in centres):
            continue
        centres.append((x, y))
        label = int(rng.integers(len(SIGN_CLASSES)))
        letter = SIGN_CLASSES[label] if labelled else OTHERS[rng.integers(len(OTHERS))]
        box = _put(rng, canvas, letter, side, (x, y))
        if labelled:
            boxes.append(box)
            labels.append(label + 1)
    return canvas, boxes, labels


def _put(
    rng: np.random.Generator,
    canvas: Image.Image,
    letter: str,
    side: float,
    centre: tuple[float, float],
) -> list[float]:
    """Paint a sign on the canvas and return its box."""
    large, narrow = round(side * FINER), rng.uniform(0.75, 1.0)
    plate = np.array(PLATES[rng.integers(len(PLATES))]) * rng.uniform(0.55, 1.0)
    dark = plate.mean() > 110
    ink = np.array((25, 25, 25) if dark else (235, 235, 235)) * rng.uniform(0.8, 1.0)
    sign = Image.new("RGBA", (large, large))
    draw = ImageDraw.Draw(sign)
    draw.ellipse((0, 0, large - 1, large - 1), fill=(*_bytes(plate), 255))
    font = ImageFont.load_default(large * 0.62)
    draw.text((large / 2, large / 2), letter, (*_bytes(ink), 255), font, anchor="mm")
    sign = sign.rotate(rng.uniform(-18, 18), Image.Resampling.BICUBIC)
    width, height = max(1, round(side * narrow)), max(1, round(side))
    sign = sign.resize((width, height), Image.Resampling.LANCZOS)
    sign = sign.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
    canvas.paste(sign, (left, top), sign)
    return [left, top, left + width, top + height]


def _bytes(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(colour, 0, 255))
