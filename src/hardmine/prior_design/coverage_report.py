"""Coverage as files: a page, its plots (by matplotlib), and priors drawn over chosen images."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hardmine.data.data_options import CoverageOptions
from hardmine.data.images import read_picture
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.files import write_bytes, write_text
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.prior_design.canvas_boxes import SIZES, CanvasBoxes
from hardmine.prior_design.coverage import Coverage, as_batch
from hardmine.prior_design.prior_drawing import MOST_DRAWN, Matches, prior_sheet
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.reports.page_shell import data_uri, jpeg_uri, png_bytes, render_page
from hardmine.tensors import Assignment
from hardmine.types import I64, Dataset

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


def match_image(boxes: CanvasBoxes, layout: PriorLayout, threshold: float) -> Matches:
    """Return one image's assignment over all priors; ``boxes`` are those of the image."""
    batch = as_batch(boxes, [np.arange(len(boxes))], max(1, len(boxes)))
    config = AssignerConfig(iou_threshold=threshold)
    return as_matches(assign_priors(batch, layout.to_priors(), config), threshold)


def as_matches(found: Assignment, threshold: float) -> Matches:
    """Return the assignment of a batch of one image in the form that the panels draw."""
    labels = found.labels[0].cpu().numpy()
    box = np.where(labels > 0, found.box_index[0].cpu().numpy(), -1)
    iou = found.iou[0].cpu().double().numpy()
    return Matches(box, iou, iou >= threshold, labels < 0)


def draw_priors(
    dataset: Dataset, resize: Resize, boxes: CanvasBoxes, layout: PriorLayout, threshold: float
) -> Image.Image:
    """Return the sheet of one image: all its levels; ``boxes`` are those of the image.

    Raises:
        DataError: the image cannot be read.
    """
    record = dataset.records[int(boxes.image[0])]
    pixels, _ = resize.apply(read_picture(record.path, resize.cover))
    names = [dataset.categories[label - 1] for label in boxes.labels.tolist()]
    found = match_image(boxes, layout, threshold)
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
            sheet = draw_priors(dataset, recipe.resize, boxes, layout, coverage.threshold)
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
