"""Coverage: what the priors of a model find of a dataset's boxes, before anything is trained.

The boxes are taken as the model sees them: on its canvas, with image, class and size
(`CanvasBoxes`). Two questions are asked of each: how well its best prior overlaps it, and how many
priors the training's own assignment gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hardmine.augment.geometry_and_colour import draw_view
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.losses.matcher import AssignerConfig, assign_priors
from hardmine.numpy_boxes import box_iou
from hardmine.plurals import counted
from hardmine.prior_design.prior_layout import (
    BestPrior,
    PriorLayout,
    find_best,
    reaching_by_level,
    shape_iou,
)
from hardmine.tensors import Batch
from hardmine.types import F64, I64, Dataset, ImageRecord, ImageState, Mask

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe


SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32.0**2, 96.0**2)
"""COCO's borders of area, in pixels of the model's input: small below the first, large from the
second on.
"""


@dataclass(frozen=True, slots=True, eq=False)
class CanvasBoxes:
    """``boxes`` f64[N, 4] xyxy input pixels, ``labels`` i64[N], ``image`` i64[N] (index of the
    record, ascending) and the class names; boxes to ignore are left out.
    """

    boxes: F64
    labels: I64
    image: I64
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sizes(self) -> F64:
        """Width and height, f64[N, 2]."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def size_class(self) -> I64:
        """Index into ``SIZES``, i64[N]."""
        area = self.sizes.prod(axis=1)
        return np.asarray(np.digitize(area, SIZE_LIMITS), np.int64)

    def take(self, index: I64) -> CanvasBoxes:
        """Return the boxes at ``index``."""
        return CanvasBoxes(
            self.boxes[index], self.labels[index], self.image[index], self.categories
        )


def boxes_on_canvas(dataset: Dataset, resize: Resize) -> CanvasBoxes:
    """Return every labelled box where ``resize`` puts it.

    Raises:
        DataError: no labelled box.
    """
    parts = []
    for index, record in _labelled(dataset):
        keep = ~record.ignore
        placed = resize.place(record.width, record.height).forward(record.boxes[keep])
        parts.append((placed, record.labels[keep], index))
    found = _join(parts, dataset.categories)
    if not len(found):
        raise DataError(f"{dataset.root}: no labelled box in {counted(len(dataset), 'image')}")
    return found


def augmented_boxes(
    dataset: Dataset, recipe: Recipe, draws: int, seed: int = 0, *, most: int = 2000
) -> CanvasBoxes:
    """Return the boxes of ``draws`` random windows (expand, crop, resize) of each image.

    Of more than ``most`` images, that many are drawn. Cut boxes of no extent are left out; mirroring
    and the steps that mix images are not applied.
    """
    labelled = _labelled(dataset)
    if len(labelled) > most:
        order = np.random.default_rng(seed).permutation(len(labelled))[:most]
        labelled = [labelled[i] for i in sorted(order.tolist())]
    parts = []
    for index, record in labelled:
        for draw in range(draws):
            rng = np.random.default_rng([seed, index, draw])
            boxes, labels = _in_window(record, recipe, rng)
            parts.append((boxes, labels, index * draws + draw))
    return _join(parts, dataset.categories)


def join(parts: Sequence[CanvasBoxes]) -> CanvasBoxes:
    """Return several sets of boxes as one; their images stay apart."""
    rows, start = [], 0
    for part in parts:
        rows.append((part, part.image + start))
        start += int(part.image.max(initial=-1)) + 1
    return CanvasBoxes(
        np.concatenate([part.boxes for part, _ in rows]),
        np.concatenate([part.labels for part, _ in rows]),
        np.concatenate([image for _, image in rows]),
        parts[0].categories,
    )


def _in_window(record: ImageRecord, recipe: Recipe, rng: np.random.Generator) -> tuple[F64, I64]:
    """Return the boxes and labels in a random window of an image, on the canvas."""
    size = (record.width, record.height)
    window = draw_view(*size, record.boxes, recipe.resize, recipe.augment, rng).window
    low, high = window[:2], window[2:]
    boxes = record.boxes.astype(np.float64).reshape(-1, 2, 2)
    centre = boxes.mean(axis=1)
    keep = ~record.ignore & ((centre >= low) & (centre < high)).all(axis=1)
    cut = boxes[keep].clip(low, high) - low
    placed = recipe.resize.place(*(high - low).tolist()).forward(cut.reshape(-1, 4))
    whole = (placed[:, 2:] - placed[:, :2]).min(axis=1, initial=np.inf) >= 1.0
    return placed[whole], record.labels[keep][whole]


def _labelled(dataset: Dataset) -> list[tuple[int, ImageRecord]]:
    return [
        (index, record)
        for index, record in enumerate(dataset.records)
        if record.state is ImageState.LABELLED and len(record.boxes)
    ]


def _join(parts: Sequence[tuple[np.ndarray, I64, int]], categories: tuple[str, ...]) -> CanvasBoxes:
    if not parts:
        empty = np.zeros(0, np.int64)
        return CanvasBoxes(np.zeros((0, 4)), empty, empty, categories)
    return CanvasBoxes(
        np.concatenate([boxes for boxes, _, _ in parts]).astype(np.float64),
        np.concatenate([labels for _, labels, _ in parts]),
        np.concatenate([np.full(len(boxes), image) for boxes, _, image in parts]),
        categories,
    )


ALL = "all"
LEAST_OVERLAP = 1e-6
"""IoU below which the bipartite match gives a box nothing."""
_PAIRS_AT_ONCE = 1_000_000
_ABOUT = 1.0 + 1e-6


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


def measure_coverage(
    boxes: CanvasBoxes,
    layout: PriorLayout,
    threshold: float = 0.5,
    max_positives: int | None = None,
) -> Coverage:
    """Measure priors against boxes.

    Args:
        boxes: in pixels of the layout's input.
        layout: the priors.
        threshold: IoU at which a prior is positive (inclusive).
        max_positives: how many of them a box keeps; all, if none.
    """
    reaching = reaching_by_level(boxes.boxes, layout, threshold)
    best = find_best(boxes.boxes, layout)
    shapes = np.concatenate([grid.shapes for grid in layout.levels])
    no_level = shape_iou(boxes.sizes, shapes).max(axis=1) < threshold * (1 - 1e-9)
    assigned = count_assigned(boxes, layout, best, reaching.sum(axis=1), threshold)
    return Coverage(
        boxes,
        threshold,
        best,
        reaching,
        assigned if max_positives is None else np.minimum(assigned, max_positives),
        no_level,
        tuple(grid.count for grid in layout.levels),
    )


def count_assigned(
    boxes: CanvasBoxes, layout: PriorLayout, best: BestPrior, reaching: I64, threshold: float
) -> I64:
    """Return i64[N]: the positives of each box after the assignment.

    A box that competes with no other gets all priors that reach it, or else its best one. Only boxes
    that do compete go through ``assign_priors``, with those that they compete with.

    Args:
        boxes: of all images.
        best: of each box.
        reaching: i64[N], priors that reach the threshold with each box.
        threshold: IoU, inclusive.
    """
    counts = np.where(reaching > 0, reaching, (best.iou > LEAST_OVERLAP).astype(np.int64))
    centres = layout.to_priors().cxcywh.double().numpy()[best.index]
    corners = np.concatenate(
        [centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2], axis=1
    )
    rivals: list[I64] = []
    for rows in _groups(boxes.image):
        if len(rows) < 2:
            continue
        if threshold < 0.5 or len(np.unique(best.index[rows])) < len(rows):
            rivals.append(rows)  # several want one prior: who loses it may take it from any other
        else:
            edges = _compete(boxes.boxes[rows], corners[rows], reaching[rows] > 0, threshold)
            rivals += [rows[part] for part in _components(edges)]
    _assign(boxes, rivals, layout, threshold, counts)
    return counts


def _compete(boxes: F64, best_priors: F64, reached: Mask, threshold: float) -> Mask:
    """Return bool[G, G]: which boxes of an image may want the same prior.

    Two boxes that both reach .5 with one prior touch, and differ in area by a factor of 4 at most.
    Any other prior wanted by two is the best one of a box that none reaches, taken from a box that
    reaches it.
    """
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alike = area[:, None] <= 4.0 * _ABOUT * area
    edges = (high >= low).all(axis=-1) & alike & alike.T & reached & reached[:, None]
    if not reached.all():
        lost = ~reached[:, None] & (box_iou(best_priors, boxes) * _ABOUT >= threshold)
        edges |= lost | lost.T
    np.fill_diagonal(edges, False)
    return np.asarray(edges)


def _components(edges: Mask) -> list[I64]:
    """Return the connected parts of a graph that have more than one member."""
    waiting = set(np.flatnonzero(edges.any(axis=1)).tolist())
    parts = []
    while waiting:
        part, front = set(), {min(waiting)}
        while front:
            part |= front
            front = set(np.flatnonzero(edges[list(front)].any(axis=0)).tolist()) - part
        waiting -= part
        parts.append(np.array(sorted(part), np.int64))
    return parts


def _groups(image: I64) -> list[I64]:
    """Return the rows of each image; ``image`` is ascending."""
    starts = np.flatnonzero(np.diff(image, prepend=-1))
    return np.split(np.arange(len(image)), starts[1:]) if len(image) else []


def _assign(
    boxes: CanvasBoxes, groups: list[I64], layout: PriorLayout, threshold: float, counts: I64
) -> None:
    """Run the training's assignment over groups of rows, and write each row's positives."""
    priors, config = layout.to_priors(), AssignerConfig(iou_threshold=threshold)
    groups = sorted(groups, key=len)
    while groups:
        slots = len(groups[-1])
        together = max(1, _PAIRS_AT_ONCE // (slots * layout.count))
        chosen, groups = groups[-together:], groups[:-together]
        found = assign_priors(as_batch(boxes, chosen, slots), priors, config)
        for row, members in enumerate(chosen):
            positive = found.box_index[row][found.labels[row] > 0].numpy()
            counts[members] = np.bincount(positive, minlength=slots)[: len(members)]


def as_batch(boxes: CanvasBoxes, groups: Sequence[I64], slots: int) -> Batch:
    """Return boxes as a batch of images without pixels: group k is image k, padded to ``slots``."""
    batch = Batch(
        torch.zeros(len(groups), 3, 1, 1, dtype=torch.uint8),
        torch.zeros(len(groups), slots, 4),
        torch.zeros(len(groups), slots, dtype=torch.int64),
        torch.zeros(len(groups), slots, dtype=torch.bool),
        torch.arange(len(groups)),
    )
    for row, members in enumerate(groups):
        batch.boxes[row, : len(members)] = torch.from_numpy(boxes.boxes[members]).float()
        batch.labels[row, : len(members)] = torch.from_numpy(boxes.labels[members])
    return batch


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
