"""How well a grid of priors overlaps boxes, exactly, without visiting every prior.

The IoU of a box with a prior of a given shape never grows as their centres move apart along either
axis. So the best cell for a shape is the nearest column and the nearest row, and the cells that reach
a threshold are, column by column, an interval of rows that has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardmine.prior_design.prior_layout import LevelGrid, PriorLayout
from hardmine.types import F64, I64

_SLACK = 1e-9
"""Relative slack of inclusive comparisons, for what floating point takes from an exact tie."""


@dataclass(frozen=True, slots=True, eq=False)
class BestPrior:
    """The best prior of each box: ``iou`` f64[N], its ``level`` i64[N], and its ``index`` i64[N] among
    all priors.
    """

    iou: F64
    level: I64
    index: I64


def find_best(boxes: F64, layout: PriorLayout) -> BestPrior:
    """Return each box's best prior over all levels (the first of equals).

    Args:
        boxes (f64[N, 4]): xyxy, input pixels.
    """
    ious, indices, start = [], [], 0
    cx, cy, _, _ = _columns(boxes)
    for grid in layout.levels:
        ious.append(best_by_shape(boxes, grid, grid.shapes))
        row = _nearest(cy, grid.top, grid.step_y, grid.rows)
        column = _nearest(cx, grid.left, grid.step_x, grid.columns)
        cell = (row * grid.columns + column).astype(np.int64)
        indices.append(start + cell * len(grid.shapes) + np.arange(len(grid.shapes)))
        start += grid.count
    by_shape = np.concatenate(ious, axis=1)
    rows, top = np.arange(len(boxes)), by_shape.argmax(axis=1)
    index = np.concatenate(indices, axis=1)[rows, top]
    ends = np.cumsum([grid.count for grid in layout.levels])
    return BestPrior(by_shape[rows, top], np.searchsorted(ends, index, side="right"), index)


def best_by_shape(boxes: F64, grid: LevelGrid, shapes: F64) -> F64:
    """Return f64[N, S]: the highest IoU of each box with a prior of each shape on the grid.

    Args:
        boxes (f64[N, 4]): xyxy.
        grid: where the cells are; its own shapes are not looked at.
        shapes (f64[S, 2]): (w, h).
    """
    cx, cy, w, h = _columns(boxes)
    column = _nearest(cx, grid.left, grid.step_x, grid.columns)
    row = _nearest(cy, grid.top, grid.step_y, grid.rows)
    dx = np.abs(cx - grid.left - column * grid.step_x)
    dy = np.abs(cy - grid.top - row * grid.step_y)
    pw, ph = shapes[:, 0], shapes[:, 1]
    inter = _overlap(w, pw, dx) * _overlap(h, ph, dy)  # [N, S]
    return np.asarray(inter / (w * h + pw * ph - inter))


def shape_iou(sizes: F64, shapes: F64) -> F64:
    """Return f64[N, S]: IoU of boxes (f64[N, 2], w and h) with shapes when their centres coincide."""
    w, h = sizes[:, :1], sizes[:, 1:2]
    pw, ph = shapes[:, 0], shapes[:, 1]
    inter = np.minimum(w, pw) * np.minimum(h, ph)
    return np.asarray(inter / (w * h + pw * ph - inter))


def count_reaching(boxes: F64, grid: LevelGrid, shapes: F64, threshold: float) -> I64:
    """Return i64[N, S]: how many cells hold a prior of each shape with IoU >= ``threshold``.

    IoU >= t means an intersection of at least need = t / (1 + t) · (box area + prior area).

    Args:
        boxes (f64[N, 4]): xyxy.
        grid: where the cells are.
        shapes (f64[S, 2]): (w, h).
        threshold: above 0.
    """
    cx, cy, w, h = _columns(boxes)
    pw, ph = shapes[:, 0], shapes[:, 1]
    need = threshold / (1.0 + threshold) * (w * h + pw * ph) * (1.0 - _SLACK)  # [N, S]
    counts = np.zeros(need.shape, np.int64)
    box, shape = np.nonzero(np.minimum(w, pw) * np.minimum(h, ph) >= need)
    if len(box):
        pairs = _Pairs(
            cx[box, 0], cy[box, 0], w[box, 0], h[box, 0], pw[shape], ph[shape], need[box, shape]
        )
        counts[box, shape] = pairs.count(grid)
    return counts


def reaching_by_level(boxes: F64, layout: PriorLayout, threshold: float) -> I64:
    """Return i64[N, L]: the priors of each level with IoU >= ``threshold``."""
    counts = [count_reaching(boxes, g, g.shapes, threshold).sum(axis=1) for g in layout.levels]
    return np.stack(counts, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs of a box and a shape that reach the threshold at some offset; each field is f64[P]."""

    cx: F64
    cy: F64
    w: F64
    h: F64
    pw: F64
    ph: F64
    need: F64

    def count(self, grid: LevelGrid) -> I64:
        """Return how many cells of ``grid`` hold a prior that reaches the threshold, i64[N]."""
        narrow, low = np.minimum(self.w, self.pw), np.minimum(self.h, self.ph)
        reach = (self.w + self.pw) / 2 - self.need / low  # farthest |dx| that can still do
        first, last = _cells_within(self.cx, reach, grid.left, grid.step_x, grid.columns)
        total = np.zeros(len(self.cx), np.int64)
        for offset in range(int((last - first).max(initial=-1)) + 1):
            column = first + offset
            dx = np.abs(grid.left + column * grid.step_x - self.cx)
            across = np.maximum(np.minimum(narrow, (self.w + self.pw) / 2 - dx), 1e-12)
            reach_y = (self.h + self.ph) / 2 - self.need / across
            above, below = _cells_within(self.cy, reach_y, grid.top, grid.step_y, grid.rows)
            total += np.where(column <= last, np.maximum(below - above + 1, 0), 0)
        return total


def _cells_within(
    centre: F64, reach: F64, start: float, step: float, number: int
) -> tuple[I64, I64]:
    """Return the first and the last cell whose centre is within ``reach``; none: last < first."""
    low = np.ceil((centre - reach - start) / step - _SLACK)
    high = np.floor((centre + reach - start) / step + _SLACK)
    return (
        np.clip(low, 0, number).astype(np.int64),
        np.clip(high, -1, number - 1).astype(np.int64),
    )


def _columns(boxes: F64) -> tuple[F64, F64, F64, F64]:
    """Return cx, cy, w, h, each f64[N, 1]."""
    low, high = boxes[:, :2], boxes[:, 2:]
    centre, size = (low + high) / 2, high - low
    return centre[:, :1], centre[:, 1:], size[:, :1], size[:, 1:]


def _nearest(centre: F64, start: float, step: float, number: int) -> F64:
    """Return the row or column (a whole number) whose centre is nearest."""
    return np.asarray(np.clip(np.round((centre - start) / step), 0, number - 1))


def _overlap(a: F64, b: F64, distance: F64) -> F64:
    """Return the common length of two intervals from their lengths and their centres' distance."""
    inside = np.minimum(a, b)
    return np.asarray(np.clip((a + b) / 2 - distance, 0.0, inside))
