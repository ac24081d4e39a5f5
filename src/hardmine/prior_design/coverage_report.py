"""Coverage as files: a page, its plots (by matplotlib), and priors drawn over chosen images.

A drawing has a panel per level, the matched priors in the colour of their box.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hardmine.data.data_options import CoverageOptions
from hardmine.data.images import read_picture
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.files import write_bytes, write_text
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.prior_design.coverage import SIZES, CanvasBoxes, Coverage, as_batch
from hardmine.prior_design.prior_layout import LevelGrid, PriorLayout
from hardmine.reports.drawing import bold_box, box_colour, boxed, dashed_box, enlarge, sheet, titled
from hardmine.reports.html_page import data_uri, jpeg_uri, png_bytes, render_page
from hardmine.tensors import Assignment
from hardmine.types import F64, I64, Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hardmine.recipes.recipe import Recipe


_log = logging.getLogger(__name__)

_POINTS = 4000
"""Boxes drawn as points; of more, an even sample."""
_SIZE_COLOURS = ("#0f766e", "#c2570c", "#6d28d9")
_MOST_MATCHES = 20
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e1dc",
    "legend.frameon": False,
    "text.parse_math": False,
}


def coverage_figure(found: Mapping[str, tuple[PriorLayout, Coverage]]) -> bytes:
    """Return a PNG with a row of three plots for each named set of priors.

    The boxes' best IoU by size, the boxes' width and height with the priors' shapes among them, and
    the number of priors that the assignment gives a box.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(13.0, 4.1 * len(found)), layout="constrained")
        table = figure.subplots(len(found), 3, squeeze=False)
        for row, (name, (layout, coverage)) in zip(table, found.items(), strict=True):
            _best_iou(row[0], name, coverage)
            _shapes(row[1], layout, coverage)
            _matches(row[2], coverage)
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _best_iou(axes: Axes, name: str, coverage: Coverage) -> None:
    parts, labels, colours = _by_size(coverage, coverage.best.iou)
    axes.hist(parts, bins=np.linspace(0, 1, 26).tolist(), stacked=True, color=colours, label=labels)
    axes.axvline(coverage.threshold, color="#1c1d21", linewidth=1.2, linestyle="dashed")
    axes.set(
        xlabel="IoU with the best prior (dashed: positive from here)", ylabel="boxes", xlim=(0, 1)
    )
    axes.set_title(f"{name}", loc="left", fontsize=10)
    axes.legend(loc="upper left")


def _shapes(axes: Axes, layout: PriorLayout, coverage: Coverage) -> None:
    import matplotlib
    from matplotlib.ticker import FixedLocator, NullLocator

    every = max(1, -(-len(coverage.boxes) // _POINTS))
    sizes = coverage.boxes.sizes[::every]
    axes.scatter(sizes[:, 0], sizes[:, 1], s=7, color="#9a9ca5", alpha=0.5, linewidths=0)
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(layout.levels)))
    for index, grid in enumerate(layout.levels):
        w, h = grid.shapes.T
        axes.scatter(
            w,
            h,
            s=46,
            marker="s",
            color=colours[index],
            label=f"level {index}",
            ec="#1c1d21",
            lw=0.6,
        )
    axes.set(xscale="log", yscale="log", xlabel="width, px of the input", ylabel="height, px")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([5, 10, 20, 50, 100, 200, 500, 1000, 2000]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_title("boxes (grey) and the priors' shapes", loc="left", fontsize=10)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _matches(axes: Axes, coverage: Coverage) -> None:
    parts, labels, colours = _by_size(coverage, np.minimum(coverage.assigned, _MOST_MATCHES))
    bins = [number - 0.5 for number in range(_MOST_MATCHES + 2)]
    axes.hist(parts, bins=bins, stacked=True, color=colours, label=labels, rwidth=0.9)
    axes.set(xlabel=f"matched priors ({_MOST_MATCHES}: that many or more)", ylabel="boxes")
    axes.set_title("matched priors of a box", loc="left", fontsize=10)


def _by_size(
    coverage: Coverage, values: np.ndarray[Any, Any]
) -> tuple[list[np.ndarray[Any, Any]], list[str], list[str]]:
    size = coverage.boxes.size_class
    present = [index for index in range(len(SIZES)) if (size == index).any()]
    return (
        [values[size == index] for index in present],
        [SIZES[index] for index in present],
        [_SIZE_COLOURS[index] for index in present],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """An image to look at and why: ``rows`` are its boxes."""

    rows: I64
    reason: str


def choose_images(coverage: Coverage, number: int, seed: int = 0) -> list[Choice]:
    """Return up to ``number`` images that show most, each once.

    First one each with the worst covered box, the most boxes, the smallest box, the most and the
    fewest matches for a box; then random ones.
    """
    boxes = coverage.boxes
    area = boxes.sizes.prod(axis=1)
    counts = np.bincount(boxes.image)[boxes.image]
    wanted = [
        (int(coverage.best.iou.argmin()), "the worst covered box"),
        (int(counts.argmax()), "the most boxes"),
        (int(area.argmin()), "the smallest box"),
        (int(coverage.assigned.argmax()), "the box with most matches"),
    ]
    order = np.random.default_rng(seed).permutation(len(boxes)).tolist()
    wanted += [(row, "drawn at random") for row in order]
    chosen: dict[int, Choice] = {}
    for row, reason in wanted:
        image = int(boxes.image[row])
        if len(chosen) == number:
            break
        if image not in chosen:
            chosen[image] = Choice(np.flatnonzero(boxes.image == image), reason)
    return list(chosen.values())


def match_image(boxes: CanvasBoxes, layout: PriorLayout, config: AssignerConfig) -> Matches:
    """Return one image's assignment over all priors; ``boxes`` are those of the image."""
    batch = as_batch(boxes, [np.arange(len(boxes))], max(1, len(boxes)))
    return as_matches(assign_priors(batch, layout.to_priors(), config), config.iou_threshold)


def as_matches(found: Assignment, threshold: float) -> Matches:
    """Return the assignment of a batch of one image in the form that the panels draw."""
    labels = found.labels[0].cpu().numpy()
    box = np.where(labels > 0, found.box_index[0].cpu().numpy(), -1)
    iou = found.iou[0].cpu().double().numpy()
    return Matches(box, iou, iou >= threshold, labels < 0)


def draw_priors(
    dataset: Dataset,
    resize: Resize,
    boxes: CanvasBoxes,
    layout: PriorLayout,
    config: AssignerConfig,
) -> Image.Image:
    """Return the sheet of one image: all its levels; ``boxes`` are those of the image.

    Raises:
        DataError: the image cannot be read.
    """
    record = dataset.records[int(boxes.image[0])]
    pixels, _ = resize.apply(read_picture(record.path, resize.cover))
    names = [dataset.categories[label - 1] for label in boxes.labels.tolist()]
    found = match_image(boxes, layout, config)
    return prior_sheet(pixels, boxes.boxes, names, layout, found)


def describe_choice(dataset: Dataset, coverage: Coverage, choice: Choice) -> str:
    """Return a caption: file, why it is shown, and its boxes' best IoU and matches."""
    record = dataset.records[int(coverage.boxes.image[choice.rows[0]])]
    figures = _figures(coverage, choice.rows)
    return f"{record.path.name}, shown for {choice.reason}: {figures}"


def _figures(coverage: Coverage, rows: Sequence[int] | I64) -> str:
    parts = [
        f"box {i} best IoU {coverage.best.iou[row]:.2f}, {coverage.assigned[row]} matched"
        for i, row in enumerate(list(rows)[:4])
    ]
    return "; ".join(parts) + (" …" if len(rows) > 4 else "")


@dataclass(frozen=True, slots=True)
class _Shown:
    caption: str
    uri: str
    width: int
    height: int


def write_coverage(
    out: Path,
    dataset: Dataset,
    recipe: Recipe,
    layout: PriorLayout,
    coverage: Coverage,
    *,
    options: CoverageOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``coverage.html`` (whole in itself), ``coverage.png`` and ``priors-N.png``; return the page.

    Args:
        out: folder for the files.
        recipe: of the model: its resize, and its name for the title.
        layout: the model's priors.
        coverage: of ``dataset``'s boxes.
        options: how many images are shown with the priors laid over them, and the seed of their choice.
        progress: called with (done, total) after each picture.
    """
    how, model = options or CoverageOptions(), recipe.model.name
    figure = coverage_figure({model: (layout, coverage)})
    write_bytes(out / "coverage.png", figure)
    chosen = choose_images(coverage, how.pictures, how.seed)
    shown = []
    for index, choice in enumerate(chosen):
        boxes = coverage.boxes.take(choice.rows)
        try:
            sheet = draw_priors(dataset, recipe.resize, boxes, layout, recipe.loss.assigner)
        except DataError as error:
            _log.warning("%s", error)
            continue
        write_bytes(out / f"priors-{index}.png", png_bytes(sheet))
        caption = describe_choice(dataset, coverage, choice)
        shown.append(_Shown(caption, jpeg_uri(sheet), sheet.width, sheet.height))
        if progress is not None:
            progress(index + 1, len(chosen))
    title = f"{'/'.join(dataset.root.parts[-2:])} on {model}"
    write_text(out / "coverage.html", _page(title, layout, coverage, figure, shown))
    return out / "coverage.html"


def _page(
    title: str, layout: PriorLayout, coverage: Coverage, figure: bytes, shown: Sequence[_Shown]
) -> str:
    return render_page(
        "hardmine.prior_design",
        "coverage.html",
        title=title,
        layout=layout,
        coverage=coverage,
        rows=coverage.rows(),
        levels=list(zip(layout.levels, coverage.level_rows(), strict=True)),
        figure=data_uri(figure, "png"),
        pictures=shown,
        most_drawn=MOST_DRAWN,
    )


PANEL = 400
"""Longest side of a panel's picture, px."""
MOST_DRAWN = 16
"""Matched priors drawn for a box on a level, best first: more would hide the picture."""
COLUMNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """One image's assignment: for each prior the slot of its box (−1: none) and their IoU.

    ``reached`` marks the priors that meet the threshold; the others are of the bipartite match alone;
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
