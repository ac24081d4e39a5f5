"""The priors of a model as grids: one set of shapes, laid at every cell of each level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.errors import ConfigError
from hardmine.tensors import Priors
from hardmine.types import F64

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
    model = SSD(config, ("object",))
    return layout_from_priors(model.priors, config.height, config.width)


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
