"""Priors laid over an image: one panel a level, the matched ones in the colour of their box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hardmine.prior_design.prior_layout import LevelGrid, PriorLayout
from hardmine.reports.drawing import bold_box, box_colour, boxed, dashed_box, enlarge, sheet, titled
from hardmine.types import F64, I64

PANEL = 400
"""Longest side of a panel's picture, px."""
MOST_DRAWN = 16
"""Matched priors drawn for a box on a level, best first: more would hide the picture."""
COLUMNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """One image's assignment: for each prior the slot of its box (−1: none) and their IoU.

    ``reached`` tells the priors that meet the threshold from those of the bipartite match alone;
    ``ignored`` are neither positive nor background.
    """

    box: I64
    iou: F64
    reached: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    def on(self, start: int, count: int) -> Matches:
        """Return the part of one level's priors."""
        part = slice(start, start + count)
        return Matches(self.box[part], self.iou[part], self.reached[part], self.ignored[part])


def prior_sheet(
    pixels: NDArray[np.uint8], boxes: F64, names: Sequence[str], layout: PriorLayout, found: Matches
) -> Image.Image:
    """Return one picture: the image with its boxes, then a panel for each level.

    Args:
        pixels: u8[H, W, 3], the model's canvas.
        boxes: f64[G, 4] xyxy canvas pixels.
        names: of the boxes' classes, G of them.
        found: over all priors of the layout.
    """
    overview = boxed(Image.fromarray(pixels), boxes, names, PANEL)
    panels = [titled(overview, "boxes on the model's canvas", _counts(found))]
    start = 0
    for index, grid in enumerate(layout.levels):
        here = found.on(start, grid.count)
        start += grid.count
        title = (
            f"level {index}: {grid.rows} x {grid.columns} cells of "
            f"{grid.step_x:.4g} x {grid.step_y:.4g} px, {len(grid.shapes)} shapes"
        )
        panels.append(titled(level_panel(pixels, boxes, grid, here), title, _counts(here)))
    return sheet(panels, COLUMNS)


def level_panel(
    pixels: NDArray[np.uint8], boxes: F64, grid: LevelGrid, found: Matches
) -> Image.Image:
    """Return one level: its cells hinted, matched cells filled, matched priors outlined.

    A solid outline reaches the threshold, a dashed one is the bipartite match alone; grey cells hold
    ignored priors. On a level
    without a match the shapes of one cell are drawn in white, to show what there is.
    """
    picture, scale = enlarge(Image.fromarray(pixels), PANEL)
    picture = Image.blend(picture, Image.new("RGB", picture.size, (40, 42, 48)), 0.45)
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    _draw_cells(draw, grid, scale, picture.size)
    matched = np.flatnonzero(found.box >= 0)
    _fill_cells(draw, grid, scale, matched, found)
    if len(matched):
        _draw_matched(draw, grid, scale, _strongest(found), found)
    else:
        _draw_one_cell(draw, grid, scale, boxes)
    picture = Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")
    top = ImageDraw.Draw(picture)
    for index, box in enumerate(boxes):
        bold_box(top, box * scale, box_colour(index))
    return picture


def _counts(found: Matches) -> str:
    total = int((found.box >= 0).sum())
    forced = int(((found.box >= 0) & ~found.reached).sum())
    if not total:
        return "no match here; in white: the shapes of one cell"
    per_box = np.bincount(found.box[found.box >= 0])
    parts = [f"box {i}: {n}" for i, n in enumerate(per_box.tolist()) if n]
    shown = ", ".join(parts[:4]) + (" …" if len(parts) > 4 else "")
    return f"{total} matched ({shown})" + (f", {forced} forced" if forced else "")


def _draw_cells(
    draw: ImageDraw.ImageDraw, grid: LevelGrid, scale: float, size: tuple[int, int]
) -> None:
    line = (255, 255, 255, 46)
    for column in range(1, grid.columns):
        x = (grid.left + (column - 0.5) * grid.step_x) * scale
        draw.line((x, 0, x, size[1]), fill=line)
    for row in range(1, grid.rows):
        y = (grid.top + (row - 0.5) * grid.step_y) * scale
        draw.line((0, y, size[0], y), fill=line)


def _fill_cells(
    draw: ImageDraw.ImageDraw, grid: LevelGrid, scale: float, matched: I64, found: Matches
) -> None:
    per_cell = len(grid.shapes)
    fills = {int(i) // per_cell: (160, 160, 160, 90) for i in np.flatnonzero(found.ignored)}
    for index in matched.tolist():
        fills[index // per_cell] = (*box_colour(int(found.box[index])), 50)
    for cell, fill in fills.items():
        x, y = _centre(grid, cell)
        half_x, half_y = grid.step_x / 2, grid.step_y / 2
        corners = np.array([x - half_x, y - half_y, x + half_x, y + half_y]) * scale
        draw.rectangle(tuple(corners.tolist()), fill=fill)


def _draw_matched(
    draw: ImageDraw.ImageDraw, grid: LevelGrid, scale: float, chosen: I64, found: Matches
) -> None:
    for index in chosen[::-1].tolist():
        box = prior_box(grid, index) * scale
        colour = (*box_colour(int(found.box[index])), 225)
        if found.reached[index]:
            draw.rectangle(tuple(box.tolist()), outline=colour, width=2)
        else:
            dashed_box(draw, box, colour)
        x, y = (box[:2] + box[2:]) / 2
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(255, 255, 255, 230))


def _draw_one_cell(draw: ImageDraw.ImageDraw, grid: LevelGrid, scale: float, boxes: F64) -> None:
    centre = np.array([grid.left, grid.top])
    if len(boxes):
        centre = (boxes[0, :2] + boxes[0, 2:]) / 2
    column = np.clip(round((centre[0] - grid.left) / grid.step_x), 0, grid.columns - 1)
    row = np.clip(round((centre[1] - grid.top) / grid.step_y), 0, grid.rows - 1)
    first = int(row * grid.columns + column) * len(grid.shapes)
    for index in range(first, first + len(grid.shapes)):
        box = prior_box(grid, index) * scale
        draw.rectangle(tuple(box.tolist()), outline=(255, 255, 255, 150), width=1)


def _strongest(found: Matches) -> I64:
    """Return the priors to draw: the best ``MOST_DRAWN`` of each box."""
    order = np.argsort(-found.iou, kind="stable")
    order = order[found.box[order] >= 0]
    chosen = [order[found.box[order] == box][:MOST_DRAWN] for box in np.unique(found.box[order])]
    return np.concatenate(chosen).astype(np.int64)


def prior_box(grid: LevelGrid, index: int) -> F64:
    """Return prior ``index`` of a level as xyxy pixels."""
    cell, shape = divmod(index, len(grid.shapes))
    x, y = _centre(grid, cell)
    w, h = grid.shapes[shape] / 2
    return np.array([x - w, y - h, x + w, y + h])


def _centre(grid: LevelGrid, cell: int) -> tuple[float, float]:
    row, column = divmod(cell, grid.columns)
    return grid.left + column * grid.step_x, grid.top + row * grid.step_y
