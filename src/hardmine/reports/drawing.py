"""Pictures with boxes on them, at the size at which a person looks at them.

`draw_boxes` draws detections with class and score. `boxed`, `reading`, `overlaid` and `by_loss` draw
the boxes of one image for the pages that follow it through each step; `with_margin` shows boxes that
leave their image; `strip`, `titled` and `sheet` put pictures together; `shrink` makes thumbnails that
are small enough to live inside a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from hardmine.data.images import read_image
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.reports.content import Gallery, Picture
from hardmine.reports.html_page import jpeg_uri
from hardmine.reports.lettering import font_for, on_one_line, shorten
from hardmine.types import F64, Mask

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 57, 70),
    (255, 183, 3),
    (33, 158, 188),
    (106, 176, 76),
    (155, 93, 229),
    (241, 91, 181),
    (0, 187, 167),
    (251, 133, 0),
)
"""Box colours (RGB); class ``label`` takes entry ``(label - 1) % 8``, box number ``n`` of an image
entry ``n % 8``."""
INK, PAPER, QUIET = (28, 29, 33), (255, 255, 255), (91, 94, 104)

_MARGIN = 0.18
"""The margin around a picture whose boxes may leave it, as a share of its longer side."""
_OVERHANG = 0.3
"""Boxes that leave their image are shown on a margin of up to this share of its sides."""
_OUTLINED = 10
"""Priors whose outline `by_loss` draws."""
_OUTSIDE = (74, 77, 86)
_BESIDE = (214, 214, 214)
_WRONG = (255, 59, 48)
_GAP, _TITLE = 10, 40


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
    size = max(12.0, min(canvas.size) / 17)
    order = detections.scores.argsort(kind="stable")
    for index in order.tolist():
        label = int(detections.labels[index])
        box = _inside(detections.boxes[index].tolist(), canvas.size)
        color = palette_colour(label)
        draw.rectangle(box, outline=color, width=line)
        score = f" {detections.scores[index]:.2f}"
        _draw_label(draw, categories[label - 1], score, box, color, size)
    return canvas


def palette_colour(label: int) -> tuple[int, int, int]:
    """Return the colour of class ``label`` (1..C)."""
    return PALETTE[(label - 1) % len(PALETTE)]


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    left, top = (min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0))
    right = min(max(box[2], left), width - 1.0)
    bottom = min(max(box[3], top), height - 1.0)
    return left, top, right, bottom


def _draw_label(
    draw: ImageDraw.ImageDraw,
    name: str,
    score: str,
    box: tuple[float, float, float, float],
    color: Colour,
    size: float,
) -> None:
    """Write name and score on a patch above the box, or inside its top where there is no room above."""
    name = on_one_line(name)
    font = font_for(name, size)
    text = shorten(name, score, font, draw.im.size[0] - size)
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


def boxed(
    image: Image.Image,
    boxes: F64,
    names: Sequence[str],
    longest: int,
    *,
    dashed: Mask | None = None,
    numbers: Sequence[int] | None = None,
) -> Image.Image:
    """Return ``image`` with bold, numbered boxes (xyxy, its pixels), its longest side ``longest``.

    ``dashed`` are boxes that are not trained on; ``numbers`` (default 0, 1 …) also decide the colours.
    """
    known = range(len(boxes)) if numbers is None else numbers
    picture, scale = enlarge(image, longest)
    draw = ImageDraw.Draw(picture)
    size = max(11, longest / 36)
    for index, (number, box) in enumerate(zip(known, boxes, strict=True)):
        if dashed is not None and dashed[index]:
            dashed_box(draw, box * scale, box_colour(number))
        else:
            bold_box(draw, box * scale, box_colour(number))
    for number, box, name in zip(known, boxes, names, strict=True):
        tag_box(draw, f"{number} {name}".strip(), box * scale, box_colour(number), size)
    return picture


def reading(image: Image.Image, boxes: F64, sound: Mask, longest: int) -> Image.Image:
    """Return ``image`` inside a grey margin with boxes that may leave it or be inside out.

    A sound box is drawn in its colour; any other in red and dashed, from corner to corner as its
    numbers have it, with a diagonal where it is inside out.
    """
    margin = _MARGIN * max(image.size)
    scale = longest / (max(image.size) + 2 * margin)
    size = [max(1, round((side + 2 * margin) * scale)) for side in image.size]
    picture = Image.new("RGB", (size[0], size[1]), _OUTSIDE)
    inner = [max(1, round(side * scale)) for side in image.size]
    shift = round(margin * scale)
    picture.paste(image.resize((inner[0], inner[1]), Image.Resampling.BICUBIC), (shift, shift))
    draw = ImageDraw.Draw(picture)
    for index, box in enumerate(boxes):
        if not np.isfinite(box).all():
            continue
        placed = (box * scale + shift).clip(-4 * longest, 5 * longest)
        if sound[index]:
            bold_box(draw, placed, box_colour(index))
            continue
        low, high = np.minimum(placed[:2], placed[2:]), np.maximum(placed[:2], placed[2:])
        visible = np.concatenate([low, high]).clip(-8, max(size) + 8)
        dashed_box(draw, visible, _WRONG)
        if (placed[2:] <= placed[:2]).any():
            draw.line(tuple(placed.tolist()), fill=_WRONG, width=2)
    return picture


def overlaid(image: Image.Image, boxes: F64, decoded: F64, longest: int) -> Image.Image:
    """Return ``image`` with boxes in bold and, in thin white over them, what was decoded."""
    picture = boxed(image, boxes, [""] * len(boxes), longest)
    scale = longest / max(image.size)
    draw = ImageDraw.Draw(picture)
    for box in decoded:
        x0, y0, x1, y1 = (box * scale).tolist()
        draw.rectangle((x0, y0, x1, y1), outline=(255, 255, 255), width=1)
    return picture


def by_loss(
    image: Image.Image, priors: F64, losses: F64, highest: float, boxes: F64, longest: int
) -> Image.Image:
    """Return ``image`` with priors (xyxy) drawn from dark blue (no loss) to yellow (``highest``).

    The priors come in ascending order of loss; the last few are outlined, the others are the dots at
    their centres. The boxes are white.
    """
    picture, scale = enlarge(image, longest)
    picture = Image.blend(picture, Image.new("RGB", picture.size, (20, 20, 24)), 0.55)
    draw = ImageDraw.Draw(picture)
    plain = len(priors) - _OUTLINED
    for index, (prior, loss) in enumerate(zip(priors, losses.tolist(), strict=True)):
        colour = heat(loss / max(highest, 1e-9))
        x0, y0, x1, y1 = (prior * scale).tolist()
        if index >= plain:
            draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(255, 255, 255))
    for box in boxes:
        bold_box(draw, box * scale, (255, 255, 255))
    return picture


def heat(share: float) -> Colour:
    """Return the colour of a share 0..1, dark blue over red to yellow."""
    stops = np.array([[40, 60, 190], [150, 40, 170], [235, 60, 60], [255, 160, 30], [255, 245, 90]])
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    mixed = stops[low] + (stops[low + 1] - stops[low]) * (place - low)
    return int(mixed[0]), int(mixed[1]), int(mixed[2])


def with_margin(image: Image.Image, boxes: Sequence[Sequence[float]], longest: int) -> Image.Image:
    """Return ``image``, shrunk to ``longest`` where larger, with thin boxes (xyxy, its pixels).

    Boxes that leave the image get a margin; boxes inside out are drawn as if they were not; boxes
    with a side that is not finite are left out.
    """
    scale = min(1.0, longest / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    drawn = [_ordered(box, scale) for box in boxes if all(map(math.isfinite, box))]
    left = _overhang([-box[0] for box in drawn], width)
    top = _overhang([-box[1] for box in drawn], height)
    right = _overhang([box[2] - width for box in drawn], width)
    bottom = _overhang([box[3] - height for box in drawn], height)
    canvas = Image.new("RGB", (left + width + right, top + height + bottom), _BESIDE)
    canvas.paste(small, (left, top))
    draw = ImageDraw.Draw(canvas)
    for index, (x0, y0, x1, y1) in enumerate(drawn):
        corners = (left + x0, top + y0, max(left + x1, left + x0 + 1), max(top + y1, top + y0 + 1))
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        draw.rectangle(corners, outline=box_colour(index), width=2)
    return canvas


def strip(panels: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Return pictures side by side, centred, with grey between them."""
    if len(panels) == 1:
        return panels[0]
    height = max(panel.height for panel in panels)
    width = sum(panel.width for panel in panels) + gap * (len(panels) - 1)
    canvas = Image.new("RGB", (width, height), _BESIDE)
    x = 0
    for panel in panels:
        canvas.paste(panel, (x, (height - panel.height) // 2))
        x += panel.width + gap
    return canvas


def titled(picture: Image.Image, title: str, below: str) -> Image.Image:
    """Return a picture under two lines of text."""
    framed = Image.new("RGB", (picture.width, picture.height + _TITLE), PAPER)
    framed.paste(picture, (0, _TITLE))
    draw = ImageDraw.Draw(framed)
    title, below = on_one_line(title), on_one_line(below)
    draw.text((1, 2), title, fill=INK, font=font_for(title, 14))
    draw.text((1, 20), below, fill=QUIET, font=font_for(below, 13))
    return framed


def sheet(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    """Return panels side by side, row after row, on white."""
    columns = min(columns, len(panels))
    width = max(panel.width for panel in panels) + _GAP
    height = max(panel.height for panel in panels) + _GAP
    rows = -(-len(panels) // columns)
    whole = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), PAPER)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        whole.paste(panel, (_GAP + column * width, _GAP + row * height))
    return whole


def _ordered(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (value * scale for value in box)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _overhang(values: Sequence[float], length: int) -> int:
    most = max(values, default=0.0)
    return 0 if most <= 1 else min(round(most) + 3, round(_OVERHANG * length))


def enlarge(image: Image.Image, longest: int) -> tuple[Image.Image, float]:
    """Return an RGB copy whose longest side is ``longest``, and the scale of boxes on it."""
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC), scale


def box_colour(index: int) -> Colour:
    """Return the colour of an image's box number ``index``."""
    return PALETTE[index % len(PALETTE)]


def bold_box(draw: ImageDraw.ImageDraw, box: F64, colour: Colour) -> None:
    """Draw a box (xyxy) four pixels wide with a white rim."""
    x0, y0, x1, y1 = box.tolist()
    draw.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline=(255, 255, 255), width=1)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=colour, width=4)


def dashed_box(draw: ImageDraw.ImageDraw, box: F64, colour: tuple[int, ...]) -> None:
    """Draw a box (xyxy) in dashes."""
    x0, y0, x1, y1 = box.tolist()
    for start in np.arange(x0, x1, 10.0).tolist():
        end = min(start + 6, x1)
        draw.line((start, y0, end, y0), fill=colour, width=2)
        draw.line((start, y1, end, y1), fill=colour, width=2)
    for start in np.arange(y0, y1, 10.0).tolist():
        end = min(start + 6, y1)
        draw.line((x0, start, x0, end), fill=colour, width=2)
        draw.line((x1, start, x1, end), fill=colour, width=2)


def tag_box(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: F64,
    colour: Colour,
    size: float,
) -> None:
    """Write a text inside a box's upper left corner, on its colour, all of it in the picture."""
    text = on_one_line(text)
    font = font_for(text, size)
    text = shorten(text, "", font, draw.im.size[0] - size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0.0, min(float(box[0]), draw.im.size[0] - (right - left + 7)))
    y = max(0.0, float(box[1]))
    draw.rectangle((x, y, x + right - left + 6, y + bottom - top + 6), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), text, fill=(0, 0, 0), font=font)


LONGEST_SIDE = 420


BOXES_DRAWN = 5


LEAST_OF_BEST = 0.5
"""A box is drawn when its score is at least this share of the picture's highest: the rest is clutter."""


QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A picture on the page: ``uri`` is empty when the image could not be read."""

    uri: str
    width: int
    height: int
    caption: str
    fault: str = ""


@dataclass(frozen=True)
class Section:
    """A gallery ready for the page; ``left_out`` says how many of its pictures are not shown."""

    title: str
    note: str
    thumbnails: tuple[Thumbnail, ...]
    left_out: int


class Budget:
    """Bytes of picture that a page may still take."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Spend ``size`` bytes; False, and nothing spent, when there are not as many left."""
        if size > self.left:
            return False
        self.left -= size
        return True


def shrink_gallery(
    gallery: Gallery, categories: Sequence[str], budget: Budget, *, limit: int
) -> Section:
    """Return up to ``limit`` thumbnails, fewer when the page's budget ends first."""
    shown: list[Thumbnail] = []
    for picture in gallery.pictures[:limit]:
        thumbnail = shrink(picture, categories)
        if not budget.take(len(thumbnail.uri)):
            break
        shown.append(thumbnail)
    return Section(gallery.title, gallery.note, tuple(shown), gallery.total - len(shown))


def shrink(picture: Picture, categories: Sequence[str]) -> Thumbnail:
    """Return a JPEG thumbnail with the clearest few boxes drawn at the thumbnail's own size."""
    try:
        image = read_image(picture.path)
    except DataError as error:
        return Thumbnail("", 0, 0, picture.caption, str(error))
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    stretch = np.array([width / image.width, height / image.height] * 2, np.float32)
    best = _best(picture.detections, BOXES_DRAWN)
    drawn = draw_boxes(small, replace(best, boxes=best.boxes * stretch), categories)
    uri = jpeg_uri(drawn, QUALITY, sharp_colours=False)
    return Thumbnail(uri, width, height, picture.caption)


def _best(found: Detections, count: int) -> Detections:
    clear = found.scores >= LEAST_OF_BEST * found.scores.max(initial=0.0)
    order = np.argsort(-found.scores, kind="stable")[: min(count, int(clear.sum()))]
    return Detections(found.boxes[order], found.scores[order], found.labels[order])
