"""Coverage as curves and points, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.prior_design.canvas_boxes import SIZES
from hardmine.prior_design.coverage import Coverage
from hardmine.prior_design.prior_layout import PriorLayout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
