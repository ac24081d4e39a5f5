"""Priors (default boxes): which shapes lie at every cell of every level, and coding boxes against them.

Sources: Liu et al. 2016, "SSD", section 2.2 (linear); Caffe's ``ssd_pascal.py`` and ``ssd_coco.py``
(caffe); TF's ``multiscale_grid_anchor_generator`` (multiscale). Scales start at k = 1, so the first
level has ``min_scale`` itself; no box is clipped at the input's border, neither for matching nor for
coding.

The box coder (Caffe SSD, ``bbox_util``), with variances v_c = .1 for centres and v_s = .2 for sizes::

    t_x = (cx − p_cx) / p_w / v_c        t_w = ln(w / p_w) / v_s
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hardmine.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from hardmine.errors import ConfigError
from hardmine.tensors import Priors


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
    limit_size: bool = False
    """Cut a shape's width and height at the shorter side of the input, as torchvision does."""

    def __post_init__(self) -> None:
        if not 0.0 < self.min_scale < self.max_scale:
            raise ConfigError(
                f"priors: got min_scale {self.min_scale}, max_scale {self.max_scale}, "
                "wanted 0 < min_scale < max_scale"
            )
        _require_positive("aspect_ratios", self.aspect_ratios)

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        first, following = self._scale(level, num_levels), self._scale(level + 1, num_levels)
        ratios = _of_level(self.aspect_ratios, level, num_levels)
        return _ssd_cell(first, following, ratios, side, self.limit_size)

    def _scale(self, level: int, num_levels: int) -> float:
        if level == num_levels:
            return 1.0
        step = (self.max_scale - self.min_scale) / max(1, num_levels - 1)
        return self.min_scale + level * step


@dataclass(frozen=True, slots=True)
class CaffePriors:
    """The rule of the original SSD: whole percents, and a first level below the line.

    ``first`` is the size of level 0 in percent of the shorter side; levels 1 … go from ``lowest`` in
    steps of floor((``highest`` − ``lowest``) / (levels − 2)). A level's cell holds a square of its
    size, one of √(size · next size), and two boxes for each aspect ratio.
    """

    kind: Literal["caffe"] = "caffe"
    first: int = 7
    lowest: int = 15
    highest: int = 90
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2.0,), *((2.0, 3.0),) * 3, (2.0,), (2.0,))
    """Per level; a single entry serves all levels."""
    steps: tuple[float, ...] = ()
    """Distance of neighbouring cells per level, px, the first centre at half of it; empty: the map's
    cells divide the input evenly."""
    limit_size: bool = False
    """See :class:`LinearPriors`."""

    def __post_init__(self) -> None:
        if not 0 < self.first < self.lowest < self.highest:
            raise ConfigError(
                f"priors: got first {self.first}, lowest {self.lowest}, highest {self.highest}, "
                "wanted 0 < first < lowest < highest"
            )
        _require_positive("aspect_ratios", self.aspect_ratios)
        _require_positive("steps", [self.steps])

    def sizes(self, num_levels: int) -> list[int]:
        """Return the size of each level and the one beyond the last, percent."""
        if num_levels < 3:
            raise ConfigError(f"priors: the caffe rule wants 3 or more levels, got {num_levels}")
        step = (self.highest - self.lowest) // (num_levels - 2)
        return [self.first, *(self.lowest + k * step for k in range(num_levels))]

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        sizes = self.sizes(num_levels)
        ratios = _of_level(self.aspect_ratios, level, num_levels)
        own, following = sizes[level] / 100, sizes[level + 1] / 100
        return _ssd_cell(own, following, ratios, side, self.limit_size)


@dataclass(frozen=True, slots=True)
class MultiscalePriors:
    """Octaves, as TF's FPN models have them.

    Level k has shapes of 2^(``min_level`` + k) · ``anchor_scale`` px times 2^(i / ``per_octave``), each
    in every aspect ratio (width over height) at equal area. With ``octaves`` above 1 a level also has
    the sizes of the coarser ones, so that an object is matched at several resolutions.
    """

    kind: Literal["multiscale"] = "multiscale"
    min_level: int = 3
    """log2 of the finest level's stride."""
    anchor_scale: float = 4.0
    per_octave: int = 2
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    octaves: int = 1
    """Octaves of sizes on each level; 1 in TF's models."""

    def __post_init__(self) -> None:
        counts = self.per_octave, self.octaves, len(self.aspect_ratios)
        if self.anchor_scale <= 0 or min(counts) < 1:
            raise ConfigError(
                f"priors: got anchor_scale {self.anchor_scale}, per_octave {self.per_octave}, octaves "
                f"{self.octaves}, {len(self.aspect_ratios)} aspect ratios, wanted > 0 and >= 1 each"
            )
        _require_positive("aspect_ratios", [self.aspect_ratios])

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        base = self.anchor_scale * 2.0 ** (self.min_level + level)
        steps = range(self.per_octave * self.octaves)
        sizes = [base * 2.0 ** (step / self.per_octave) for step in steps]
        roots = [math.sqrt(ratio) for ratio in self.aspect_ratios]
        return [(size * root, size / root) for size in sizes for root in roots]


@dataclass(frozen=True, slots=True)
class ExplicitPriors:
    """Shapes given in pixels: ``levels[k]`` lists the (width, height) of a cell of level k."""

    kind: Literal["explicit"] = "explicit"
    levels: tuple[tuple[tuple[float, float], ...], ...] = ()

    def __post_init__(self) -> None:
        for index, shapes in enumerate(self.levels):
            if not shapes:
                raise ConfigError(f"priors.levels[{index}]: got no shape, wanted at least one")
            _require_positive(f"levels[{index}]", shapes)

    def shapes(self, level: int, num_levels: int, side: float) -> list[tuple[float, float]]:
        """Return (width, height) in pixels of each prior in a cell of ``level``."""
        if len(self.levels) != num_levels:
            raise ConfigError(f"priors.levels: got {len(self.levels)} levels, wanted {num_levels}")
        return list(self.levels[level])


PriorsConfig = Annotated[
    LinearPriors | CaffePriors | MultiscalePriors | ExplicitPriors, Field(discriminator="kind")
]


def caffe_priors(dataset: Literal["voc", "coco"], side: Literal[300, 512]) -> CaffePriors:
    """Return the priors of Caffe's published SSD300 and SSD512 models."""
    first, lowest = {
        ("voc", 300): (10, 20),
        ("coco", 300): (7, 15),
        ("voc", 512): (7, 15),
        ("coco", 512): (4, 10),
    }[dataset, side]
    steps = (8, 16, 32, 64, 100, 300) if side == 300 else (8, 16, 32, 64, 128, 256, 512)
    ratios = ((2.0,), *((2.0, 3.0),) * (3 if side == 300 else 4), (2.0,), (2.0,))
    return CaffePriors(first=first, lowest=lowest, aspect_ratios=ratios, steps=steps)


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
    steps = cell_steps(config, level_shapes, height, width)
    for index, (rows, columns) in enumerate(level_shapes):
        shapes = torch.tensor(config.shapes(index, len(level_shapes), float(min(height, width))))
        cy = (torch.arange(rows) + 0.5) * steps[index][0]
        cx = (torch.arange(columns) + 0.5) * steps[index][1]
        grid = torch.stack(torch.meshgrid(cy, cx, indexing="ij"), -1).flip(-1)  # [r, c, (x, y)]
        centres = grid[:, :, None].expand(rows, columns, len(shapes), 2)
        sizes = shapes.expand(rows, columns, len(shapes), 2)
        parts.append(torch.cat([centres, sizes], -1).reshape(-1, 4))
        levels.append(torch.full((len(parts[-1]),), index, dtype=torch.int64))
    return Priors(torch.cat(parts), torch.cat(levels), tuple(level_shapes))


def _ssd_cell(
    own: float, following: float, ratios: Sequence[float], side: float, limit: bool
) -> list[tuple[float, float]]:
    """Return a cell's shapes, px, from its level's size and the next one's (shares of ``side``)."""
    shapes = [(own, own), (math.sqrt(own * following),) * 2]
    for ratio in ratios:
        wide, high = own * math.sqrt(ratio), own / math.sqrt(ratio)
        shapes += [(wide, high), (high, wide)]
    if limit:
        shapes = [(min(1.0, width), min(1.0, height)) for width, height in shapes]
    return [(width * side, height * side) for width, height in shapes]


def _require_positive(name: str, values: Sequence[Sequence[float]]) -> None:
    """Raise ConfigError where a number of a table is not above 0: no box has such a shape."""
    for value in (number for row in values for number in row):
        if value <= 0:
            raise ConfigError(f"priors.{name}: got {value:g}, wanted numbers above 0")


def _of_level(
    ratios: tuple[tuple[float, ...], ...], level: int, num_levels: int
) -> tuple[float, ...]:
    if len(ratios) == 1:
        return ratios[0]
    if len(ratios) != num_levels:
        raise ConfigError(
            f"priors.aspect_ratios: got {len(ratios)} levels, wanted 1 or {num_levels}"
        )
    return ratios[level]


def cell_steps(
    config: PriorsConfig, level_shapes: Sequence[tuple[int, int]], height: int, width: int
) -> list[tuple[float, float]]:
    """Return the distance of a level's cells down and across, px.

    Raises:
        ConfigError: given steps for other maps than these: their grid would miss the input.
    """
    if not isinstance(config, CaffePriors) or not config.steps:
        return [(height / rows, width / columns) for rows, columns in level_shapes]
    if len(config.steps) != len(level_shapes):
        raise ConfigError(f"priors.steps: got {len(config.steps)}, wanted {len(level_shapes)}")
    for index, (step, (rows, columns)) in enumerate(zip(config.steps, level_shapes, strict=True)):
        if abs(step * rows - height) >= step or abs(step * columns - width) >= step:
            raise ConfigError(
                f"priors.steps[{index}]: {step:g} px over a map of {rows}x{columns} does not fit "
                f"an input of {height}x{width}; leave steps empty to divide it evenly"
            )
    return [(step, step) for step in config.steps]


CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2

_MAX_LOG = math.log(1000.0 / 16)
"""Limit of a decoded ln(w / p_w): keeps exp finite for an untrained network."""


def encode_boxes(boxes: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Return the deltas that turn each prior into its box.

    Args:
        boxes (Tensor[..., A, 4]): xyxy pixels, positive width and height.
        priors_cxcywh (Tensor[A, 4]): pixels.

    Returns:
        Tensor[..., A, 4]: (t_x, t_y, t_w, t_h).
    """
    coded = xyxy_to_cxcywh(boxes)
    centre = (coded[..., :2] - priors_cxcywh[:, :2]) / priors_cxcywh[:, 2:] / CENTRE_VARIANCE
    size = (coded[..., 2:] / priors_cxcywh[:, 2:]).clamp(min=1e-6).log() / SIZE_VARIANCE
    return torch.cat([centre, size], -1)


def decode_boxes(deltas: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Return xyxy pixels (Tensor[..., A, 4]) of ``deltas`` (Tensor[..., A, 4]); inverse of encoding."""
    centre = deltas[..., :2] * CENTRE_VARIANCE * priors_cxcywh[:, 2:] + priors_cxcywh[:, :2]
    size = (deltas[..., 2:] * SIZE_VARIANCE).clamp(max=_MAX_LOG).exp() * priors_cxcywh[:, 2:]
    return cxcywh_to_xyxy(torch.cat([centre, size], -1))
