"""The priors of a model as grids, and how well a grid overlaps boxes, exactly.

A grid is one set of shapes, laid at every cell of a level. The IoU of a box with a prior of a given
shape never grows as their centres move apart along either axis. So the best cell for a shape is the
nearest column and the nearest row, and the cells that reach a threshold are, column by column, an
interval of rows that has a closed form; no prior is visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.errors import ConfigError
from hardmine.tensors import Priors
from hardmine.types import F64, I64

if TYPE_CHECKING:
    from hardmine.models.ssd import SSDConfig
    from hardmine.recipes.recipe import Recipe

_GRID_TOLERANCE = 1e-2
"""Pixels by which a centre or a size may miss the grid (float32 rounding)."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelGrid:
    """One level: ``rows`` × ``columns`` cells, each with the same ``shapes`` f64[S, 2] (w, h), px.

    The centre of cell (i, j) lies at x = left + j · step_x, y = top + i · step_y.
    """

    rows: int
    columns: int
    left: float
    top: float
    step_x: float
    step_y: float
    shapes: F64

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns

    @property
    def count(self) -> int:
        """Number of priors."""
        return self.cells * len(self.shapes)


@dataclass(frozen=True, slots=True, eq=False)
class PriorLayout:
    """All levels, finest first, on an input of ``height`` × ``width`` pixels."""

    levels: tuple[LevelGrid, ...]
    height: int
    width: int

    @property
    def count(self) -> int:
        """Number of priors."""
        return sum(level.count for level in self.levels)

    def with_shapes(self, shapes: Sequence[F64]) -> PriorLayout:
        """Return the same grids with other shapes: one f64[S, 2] (w, h) a level."""
        levels = [replace(g, shapes=s) for g, s in zip(self.levels, shapes, strict=True)]
        return replace(self, levels=tuple(levels))

    def evenly(self) -> PriorLayout:
        """Return cells that divide the input evenly, which is where explicit priors lie."""
        levels = []
        for grid in self.levels:
            x, y = self.width / grid.columns, self.height / grid.rows
            levels.append(replace(grid, left=x / 2, top=y / 2, step_x=x, step_y=y))
        return replace(self, levels=tuple(levels))

    def to_priors(self) -> Priors:
        """Return the priors one by one, as a model lays them."""
        import torch

        parts, levels = [], []
        for index, grid in enumerate(self.levels):
            x = grid.left + grid.step_x * np.arange(grid.columns)
            y = grid.top + grid.step_y * np.arange(grid.rows)
            centres = np.stack(np.meshgrid(x, y), -1)[:, :, None]  # [rows, columns, 1, 2]
            shape = (grid.rows, grid.columns, len(grid.shapes), 2)
            cells = [np.broadcast_to(centres, shape), np.broadcast_to(grid.shapes, shape)]
            parts.append(np.concatenate(cells, -1).reshape(-1, 4))
            levels.append(np.full(grid.count, index, np.int64))
        return Priors(
            torch.from_numpy(np.concatenate(parts)).float(),
            torch.from_numpy(np.concatenate(levels)),
            tuple((grid.rows, grid.columns) for grid in self.levels),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what ``hardmine priors show --json`` prints."""
        return {
            "height": self.height,
            "width": self.width,
            "count": self.count,
            "levels": [
                {
                    "rows": g.rows,
                    "columns": g.columns,
                    "step": [round(g.step_x, 3), round(g.step_y, 3)],
                    "count": g.count,
                    "shapes": [[round(w, 2), round(h, 2)] for w, h in g.shapes.tolist()],
                }
                for g in self.levels
            ],
        }


def layout_from_priors(priors: Priors, height: int, width: int) -> PriorLayout:
    """Read the grids back from priors in the order level, row, column, shape.

    Raises:
        ConfigError: the priors are not the same shapes on a regular grid (as clipped ones are not).
    """
    cxcywh = priors.cxcywh.detach().cpu().double().numpy()
    level = priors.level.cpu().numpy()
    grids = [
        _read_grid(cxcywh[level == index], rows, columns, index, height, width)
        for index, (rows, columns) in enumerate(priors.level_shapes)
    ]
    return PriorLayout(tuple(grids), height, width)


def layout_of_recipe(recipe: Recipe) -> PriorLayout:
    """Return the priors of a recipe's model.

    Raises:
        ConfigError: the model has no priors on a grid.
    """
    from hardmine.models.ssd import SSD

    config = ssd_config(recipe)
    if (key := repr(config)) not in _LAYOUTS:  # a list in a config of the library has no hash
        priors = SSD(config, ("object",)).priors
        _LAYOUTS[key] = layout_from_priors(priors, config.height, config.width)
    return _LAYOUTS[key]


_LAYOUTS: dict[str, PriorLayout] = {}
"""By the model: only the network knows the size of its levels, and building it takes nearly a second."""


def ssd_config(recipe: Recipe) -> SSDConfig:
    """Return the recipe's model, which must be of the SSD family.

    Raises:
        ConfigError: it is another detector.
    """
    from hardmine.models.ssd import SSDConfig

    if not isinstance(recipe.model, SSDConfig):
        raise ConfigError(
            f"model {recipe.model.name!r} has no priors of its own, wanted one of the SSD family"
        )
    return recipe.model


def _read_grid(
    priors: F64, rows: int, columns: int, index: int, height: int, width: int
) -> LevelGrid:
    per_cell, rest = divmod(len(priors), rows * columns)
    if rest or not per_cell:
        raise ConfigError(
            f"priors of level {index}: got {len(priors)}, "
            f"wanted a multiple of {rows} x {columns} cells"
        )
    table = priors.reshape(rows, columns, per_cell, 4)
    left, top = table[0, 0, 0, :2].tolist()
    step_x = float(table[0, 1, 0, 0] - left) if columns > 1 else float(width)
    step_y = float(table[1, 0, 0, 1] - top) if rows > 1 else float(height)
    shapes = table[0, 0, :, 2:].copy()
    x = (left + step_x * np.arange(columns))[None, :, None]
    y = (top + step_y * np.arange(rows))[:, None, None]
    off = [np.abs(table[..., 0] - x), np.abs(table[..., 1] - y), np.abs(table[..., 2:] - shapes)]
    if max(float(part.max()) for part in off) > _GRID_TOLERANCE:
        raise ConfigError(f"priors of level {index}: wanted the same shapes on a regular grid")
    return LevelGrid(rows, columns, left, top, step_x, step_y, shapes)


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
