"""Priors (default boxes): which shapes lie at every cell of every level.

Source: Liu et al. 2016, "SSD", section 2.2. Scales start at k = 1, so the first level has
``min_scale`` itself; nothing is clipped, neither for matching nor for coding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from hardmine.errors import ConfigError
from hardmine.types import Priors


@dataclass(frozen=True, slots=True)
class LinearPriors:
    """The paper's rule: scales linear from ``min_scale`` to ``max_scale`` of the shorter input side.

    Each cell of level k holds a square of s_k, a square of √(s_k · s_{k+1}), and for every aspect
    ratio r the pair √r : 1/√r and its transpose.
    """

    kind: Literal["linear"] = "linear"
    min_scale: float = 0.2
    max_scale: float = 0.95
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2.0, 3.0),)
    """Per level; a single entry serves all levels."""

    def __post_init__(self) -> None:
        if not 0.0 < self.min_scale < self.max_scale:
            raise ConfigError(
                f"priors: got min_scale {self.min_scale}, max_scale {self.max_scale}, "
                "wanted 0 < min_scale < max_scale"
            )

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        first, following = self._scale(level, num_levels), self._scale(level + 1, num_levels)
        shapes = [(first, first), (math.sqrt(first * following),) * 2]
        for ratio in self._ratios(level, num_levels):
            wide, high = first * math.sqrt(ratio), first / math.sqrt(ratio)
            shapes += [(wide, high), (high, wide)]
        return [(width * side, height * side) for width, height in shapes]

    def _scale(self, level: int, num_levels: int) -> float:
        if level == num_levels:
            return 1.0
        step = (self.max_scale - self.min_scale) / max(1, num_levels - 1)
        return self.min_scale + level * step

    def _ratios(self, level: int, num_levels: int) -> tuple[float, ...]:
        if len(self.aspect_ratios) == 1:
            return self.aspect_ratios[0]
        if len(self.aspect_ratios) != num_levels:
            raise ConfigError(
                f"priors.aspect_ratios: got {len(self.aspect_ratios)} levels, "
                f"wanted 1 or {num_levels}"
            )
        return self.aspect_ratios[level]


@dataclass(frozen=True, slots=True)
class ExplicitPriors:
    """Shapes given in pixels: ``levels[k]`` lists the (width, height) of a cell of level k."""

    kind: Literal["explicit"] = "explicit"
    levels: tuple[tuple[tuple[float, float], ...], ...] = ()

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        if len(self.levels) != num_levels:
            raise ConfigError(f"priors.levels: got {len(self.levels)} levels, wanted {num_levels}")
        return list(self.levels[level])


PriorsConfig = Annotated[LinearPriors | ExplicitPriors, Field(discriminator="kind")]


def make_priors(
    config: PriorsConfig, level_shapes: Sequence[tuple[int, int]], height: int, width: int
) -> Priors:
    """Lay the priors over the input.

    Order: level, row, column, shape, which is the order of a head's output after it is moved to
    channels-last. The centre's x belongs to the column, its y to the row.

    Args:
        level_shapes: (rows, columns) of each feature map.
        height, width: input size, px.

    Returns:
        Priors: ``cxcywh`` f32[A, 4] in input pixels.
    """
    parts, levels = [], []
    for index, (rows, columns) in enumerate(level_shapes):
        shapes = torch.tensor(config.shapes(index, len(level_shapes), float(min(height, width))))
        cy = (torch.arange(rows) + 0.5) * (height / rows)
        cx = (torch.arange(columns) + 0.5) * (width / columns)
        grid = torch.stack(torch.meshgrid(cy, cx, indexing="ij"), -1).flip(-1)  # [r, c, (x, y)]
        centres = grid[:, :, None].expand(rows, columns, len(shapes), 2)
        sizes = shapes.expand(rows, columns, len(shapes), 2)
        parts.append(torch.cat([centres, sizes], -1).reshape(-1, 4))
        levels.append(torch.full((len(parts[-1]),), index, dtype=torch.int64))
    return Priors(torch.cat(parts), torch.cat(levels), tuple(level_shapes))
