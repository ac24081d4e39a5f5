"""Coverage: what the priors of a model find of a dataset's boxes, before anything is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardmine.prior_design.assigned_priors import count_assigned
from hardmine.prior_design.canvas_boxes import SIZES, CanvasBoxes
from hardmine.prior_design.prior_layout import PriorLayout
from hardmine.prior_design.prior_overlap import BestPrior, find_best, reaching_by_level, shape_iou
from hardmine.types import I64, Mask

ALL = "all"


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """The boxes of one class and size, or of all of them (``"all"``)."""

    category: str
    size: str
    boxes: int
    mean_iou: float
    """Mean over the boxes of the IoU with their best prior; quartiles follow."""
    q25: float
    median: float
    q75: float
    reach: float
    """Share of boxes whose best prior reaches the threshold."""
    matches: float
    """Mean number of priors that the assignment gives a box."""
    forced_only: int
    """Boxes that no prior reaches: all they have is the one prior of the bipartite match."""
    no_level: int
    """Boxes whose size and proportions no shape of any level reaches, wherever the box lies."""
    unmatched: int
    """Boxes that get no prior at all."""


@dataclass(frozen=True, slots=True)
class LevelRow:
    """One level's share of the work."""

    level: int
    priors: int
    best_for: int
    """Boxes whose best prior lies on this level."""
    matches: int
    """Priors of this level that reach the threshold with some box (counted per box)."""


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Figures per box (arrays of N) behind the rows."""

    boxes: CanvasBoxes
    threshold: float
    best: BestPrior
    reaching: I64
    """i64[N, L]: priors of each level that reach the threshold."""
    assigned: I64
    """i64[N]: priors that the assignment gives each box."""
    no_level: Mask
    priors: tuple[int, ...]
    """Priors on each level."""

    @property
    def forced_only(self) -> Mask:
        """bool[N]: boxes that only the bipartite match saves."""
        return np.asarray((self.reaching.sum(axis=1) == 0) & (self.assigned > 0))

    def rows(self) -> list[CoverageRow]:
        """Return a row for each class and size that occurs, each class, each size, and all."""
        size, labels = self.boxes.size_class, self.boxes.labels
        everything = np.ones(len(labels), np.bool_)
        classes = [(ALL, everything)]
        if len(self.boxes.categories) > 1:
            named = enumerate(self.boxes.categories, start=1)
            classes = [(name, labels == label) for label, name in named] + classes
        sizes = [(name, size == index) for index, name in enumerate(SIZES)] + [(ALL, everything)]
        return [
            self._row(category, name, in_class & in_size)
            for category, in_class in classes
            for name, in_size in sizes
            if (in_class & in_size).any()
        ]

    def level_rows(self) -> list[LevelRow]:
        """Return what each level does."""
        best = np.bincount(self.best.level, minlength=len(self.priors))
        matches = self.reaching.sum(axis=0)
        return [
            LevelRow(k, count, int(best[k]), int(matches[k])) for k, count in enumerate(self.priors)
        ]

    def total(self) -> CoverageRow:
        """Return the row of all boxes."""
        return self._row(ALL, ALL, np.ones(len(self.boxes), np.bool_))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "threshold": self.threshold,
            "priors": sum(self.priors),
            "rows": [_rounded(asdict(row)) for row in self.rows()],
            "levels": [asdict(row) for row in self.level_rows()],
        }

    def _row(self, category: str, size: str, chosen: Mask) -> CoverageRow:
        iou = self.best.iou[chosen]
        q25, median, q75 = np.quantile(iou, [0.25, 0.5, 0.75]).tolist()
        reached = self.reaching[chosen].sum(axis=1) > 0
        return CoverageRow(
            category,
            size,
            int(chosen.sum()),
            float(iou.mean()),
            q25,
            median,
            q75,
            float(reached.mean()),
            float(self.assigned[chosen].mean()),
            int(self.forced_only[chosen].sum()),
            int(self.no_level[chosen].sum()),
            int((self.assigned[chosen] == 0).sum()),
        )


def measure_coverage(boxes: CanvasBoxes, layout: PriorLayout, threshold: float = 0.5) -> Coverage:
    """Measure priors against boxes.

    Args:
        boxes: in pixels of the layout's input.
        layout: the priors.
        threshold: IoU at which a prior is positive (inclusive).
    """
    reaching = reaching_by_level(boxes.boxes, layout, threshold)
    best = find_best(boxes.boxes, layout)
    shapes = np.concatenate([grid.shapes for grid in layout.levels])
    no_level = shape_iou(boxes.sizes, shapes).max(axis=1) < threshold * (1 - 1e-9)
    return Coverage(
        boxes,
        threshold,
        best,
        reaching,
        count_assigned(boxes, layout, best, reaching.sum(axis=1), threshold),
        no_level,
        tuple(grid.count for grid in layout.levels),
    )


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
