"""Boxes, classes and scores drawn onto a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from hardmine.types import Detections

if TYPE_CHECKING:
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PALETTE = (
    (230, 57, 70),
    (255, 183, 3),
    (33, 158, 188),
    (106, 176, 76),
    (155, 93, 229),
    (241, 91, 181),
    (0, 187, 167),
    (251, 133, 0),
)
"""Box colours (RGB); class ``label`` takes entry ``(label - 1) % 8``."""


def draw_boxes(
    image: Image.Image, detections: Detections, categories: Sequence[str]
) -> Image.Image:
    """Return a copy of ``image`` with every detection's box, class and score.

    Args:
        image: RGB; the boxes are in its pixels.
        detections: any order; the best are drawn last, on top.
        categories: ``categories[label - 1]`` names a label.
    """
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    draw = ImageDraw.Draw(canvas)
    line = max(2, round(min(canvas.size) / 130))
    font = ImageFont.load_default(max(12.0, min(canvas.size) / 17))
    order = detections.scores.argsort(kind="stable")
    for index in order.tolist():
        label = int(detections.labels[index])
        box = _inside(detections.boxes[index].tolist(), canvas.size)
        color = PALETTE[(label - 1) % len(PALETTE)]
        draw.rectangle(box, outline=color, width=line)
        text = f"{categories[label - 1]} {detections.scores[index]:.2f}"
        _draw_label(draw, text, box, color, font)
    return canvas


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    left, top = (min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0))
    right = min(max(box[2], left), width - 1.0)
    bottom = min(max(box[3], top), height - 1.0)
    return left, top, right, bottom


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, float, float, float],
    color: tuple[int, int, int],
    font: Font,
) -> None:
    """Write the text on a patch above the box, or inside its top where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, round((bottom - top) / 5))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    image_width, image_height = draw.im.size
    x = max(0.0, min(box[0], image_width - width))
    y = box[1] - height if box[1] >= height else box[1]
    y = max(0.0, min(y, image_height - height))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    # ITU-R BT.601 luma decides between dark and light lettering.
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if luma > 140 else (255, 255, 255)
    draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)
