"""Crowds of half-hidden raccoons, cut from photographs and laid over others, and images without any.

Cut-outs of animals and things that are no raccoons are laid over the images in the same way, so that
neither the edge of a cut-out nor the photograph behind it says which images hold raccoons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hardmine.numpy_boxes import box_intersection
from hardmine.types import ImageRecord

CROWD_CLASSES = ("raccoon",)
WIDTH, HEIGHT = 480, 360
RACCOONS, OTHERS = (2, 5), (1, 3)
"""The smallest and largest number of cut-outs per image."""
SIDE = (70, 210)
"""The longer side of a cut-out, in pixels, drawn evenly by its logarithm."""
MOST_HIDDEN = 0.6
"""Largest share of a raccoon's box that later cut-outs may hide, counted one by one."""
HIDER = 0.5
"""How probable it is that a patch of another photograph hides a part of a raccoon."""
FADED = 0.08
"""Width of the faded edge of a cut-out, relative to its sides."""
TRIALS = 30


@dataclass(frozen=True)
class CutOuts:
    """What a crowd is made of; raccoons and photographs of one split must not serve in another."""

    raccoons: Sequence[tuple[Path, tuple[float, float, float, float]]]
    """A picture and a box in it, xyxy in pixels; none for images without raccoons."""
    photographs: Sequence[Path]
    """Without raccoons: what lies behind, and what else is cut out."""


def raccoons_of(records: Sequence[ImageRecord]) -> list[tuple[Path, tuple[float, ...]]]:
    """Return the picture and box of each object that counts."""
    return [
        (record.path, tuple(box))
        for record in records
        for box in record.boxes[~record.ignore].tolist()
    ]


def draw_crowd(
    rng: np.random.Generator, parts: CutOuts
) -> tuple[Image.Image, list[list[float]], list[int]]:
    """Return an image of 480 x 360 pixels, its boxes (xyxy, around hidden parts too) and labels."""
    canvas = _photograph(_one(rng, parts.photographs)).resize((WIDTH, HEIGHT))
    boxes: list[list[float]] = []
    wanted = ["other"] * int(rng.integers(OTHERS[0], OTHERS[1] + 1))
    if parts.raccoons:
        wanted += ["raccoon"] * int(rng.integers(RACCOONS[0], RACCOONS[1] + 1))
    for index in rng.permutation(len(wanted)).tolist():
        raccoon = wanted[index] == "raccoon"
        cut = _raccoon(rng, parts) if raccoon else _other(rng, parts)
        place = _place(rng, cut.size, boxes)
        if place is None:
            continue
        _lay(canvas, cut, place)
        if raccoon:
            boxes.append([*place, place[0] + cut.width, place[1] + cut.height])
            if rng.random() < HIDER:
                _hide(rng, canvas, boxes, parts)
    return canvas, boxes, [1] * len(boxes)


def _one(rng: np.random.Generator, of: Sequence[Path]) -> Path:
    return of[int(rng.integers(len(of)))]


def _photograph(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _raccoon(rng: np.random.Generator, parts: CutOuts) -> Image.Image:
    path, box = parts.raccoons[int(rng.integers(len(parts.raccoons)))]
    return _sized(rng, _photograph(path).crop(tuple(round(value) for value in box)))


def _other(rng: np.random.Generator, parts: CutOuts) -> Image.Image:
    """Return the middle of a photograph, where its subject mostly is."""
    image = _photograph(_one(rng, parts.photographs))
    wide, high = (round(side * rng.uniform(0.5, 0.8)) for side in image.size)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return _sized(rng, image.crop((left, top, left + wide, top + high)))


def _sized(rng: np.random.Generator, cut: Image.Image) -> Image.Image:
    side = float(np.exp(rng.uniform(*np.log(SIDE))))
    scale = side / max(cut.size)
    cut = cut.resize((max(8, round(cut.width * scale)), max(8, round(cut.height * scale))))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def _place(
    rng: np.random.Generator, size: tuple[int, int], boxes: list[list[float]]
) -> tuple[int, int] | None:
    """Return where a cut-out hides no raccoon by more than is allowed, or None."""
    wide, high = size
    for _ in range(TRIALS):
        left, top = (int(rng.integers(0, max(1, room))) for room in (WIDTH - wide, HEIGHT - high))
        if not boxes:
            return left, top
        new = np.array([[left, top, left + wide, top + high]], np.float64)
        there = np.array(boxes, np.float64)
        area = np.prod(there[:, 2:] - there[:, :2], axis=1)
        if (box_intersection(there, new)[:, 0] / area).max() <= MOST_HIDDEN:
            return left, top
    return None


def _lay(canvas: Image.Image, cut: Image.Image, place: tuple[int, int]) -> None:
    """Lay a cut-out over the canvas; its edge fades."""
    sides = []
    for length in cut.size:
        inside = np.minimum(np.arange(length) + 1, length - np.arange(length))
        sides.append(np.clip(inside / max(1.0, FADED * length), 0.0, 1.0))
    opacity = Image.fromarray(np.round(255 * np.outer(sides[1], sides[0])).astype(np.uint8))
    canvas.paste(cut, place, opacity)


def _hide(
    rng: np.random.Generator, canvas: Image.Image, boxes: list[list[float]], parts: CutOuts
) -> None:
    """Cover one side of the last raccoon by a patch of a photograph."""
    x0, y0, x1, y1 = boxes[-1]
    share = rng.uniform(0.2, 0.45)
    wide, high = x1 - x0, y1 - y0
    covers = {
        "left": (x0, y0, share * wide, high),
        "right": (x1 - share * wide, y0, share * wide, high),
        "below": (x0, y1 - share * high, wide, share * high),
    }
    left, top, across, down = covers[str(rng.choice(list(covers)))]
    patch = _photograph(_one(rng, parts.photographs))
    _lay(
        canvas,
        patch.resize((max(2, round(across)), max(2, round(down)))),
        (round(left), round(top)),
    )
