"""How well a recipe fits the data, measured on the training boxes as the model sees them, on its canvas.

How many boxes of each class some prior reaches, how large and how long they are, how many of them
overlap, and how many objects an image holds. Of many images some are measured, spread evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardmine.errors import ConfigError
from hardmine.numpy_boxes import box_iou
from hardmine.types import F32, Dataset, ImageRecord, ImageState

if TYPE_CHECKING:
    from hardmine.prior_design.coverage import Coverage
    from hardmine.recipes.recipe import Recipe


LONG = 3.0
"""A box is long from this ratio of its longer to its shorter side on."""
OVERLAP = 0.3
"""IoU from which on a box overlaps another of its class."""
LEAST_REACH = 0.9
"""Share of a class's boxes that some prior must reach."""
FEW_BOXES = 5
"""Classes with fewer boxes say too little."""
MOST_IMAGES = 2000
"""Images with objects that are measured; of a larger dataset, so many spread over it evenly."""


@dataclass(frozen=True, slots=True)
class ClassFit:
    """The boxes of one class on a model's canvas."""

    name: str
    boxes: int
    median_side: float
    """Median of the square root of the area, px."""
    reach: float
    """Share of the boxes that some prior reaches at the assigner's IoU."""
    long: float = 0.0
    """Of the boxes out of reach, the share that is long."""
    side_in_images: float = 0.0
    """``median_side`` in the images themselves, px."""
    near: float = 0.0
    """Mean IoU of the boxes with their best prior, also where that is too low for a match."""


@dataclass(frozen=True, slots=True)
class RecipeFit:
    """How a recipe's priors fit the boxes of a dataset."""

    model: str
    width: int
    height: int
    boxes: int
    objects_per_image: float
    reach: float
    classes: tuple[ClassFit, ...]
    images: int = 0
    """Images that were measured, of ``all_images`` with objects."""
    all_images: int = 0

    @property
    def smallest(self) -> ClassFit:
        """The class with the smallest median side, of those that have enough boxes."""
        return min(self.known, key=lambda item: item.median_side)

    @property
    def missed(self) -> tuple[ClassFit, ...]:
        """The classes with too few boxes in reach, the worst first."""
        bad = [item for item in self.known if item.reach < LEAST_REACH]
        return tuple(sorted(bad, key=lambda item: item.reach))

    @property
    def worst_reach(self) -> float:
        """The lowest share over the classes that have enough boxes."""
        return min(item.reach for item in self.known)

    @property
    def rank(self) -> tuple[float, float, float]:
        """Larger for a model that fits better; where all reach nothing, for one that comes nearer."""
        return self.worst_reach, self.reach, min(item.near for item in self.known)

    @property
    def known(self) -> tuple[ClassFit, ...]:
        """The classes that have enough boxes; all, where none has."""
        return tuple(c for c in self.classes if c.boxes >= FEW_BOXES) or self.classes


def measure_fit(data: Dataset, recipe: Recipe) -> RecipeFit | None:
    """Measure a recipe's priors against the labelled boxes; None for a model without priors of its own.

    Of many images some are measured, spread evenly over all (``MOST_IMAGES``).

    Raises:
        DataError: no labelled box.
    """
    from hardmine.prior_design.coverage import boxes_on_canvas, measure_coverage
    from hardmine.prior_design.prior_layout import layout_of_recipe, ssd_config

    try:
        config = ssd_config(recipe)
    except ConfigError:
        return None
    labelled = _measured(every := _with_boxes(data))
    boxes = boxes_on_canvas(data.with_records(labelled), recipe.resize)
    found = measure_coverage(boxes, layout_of_recipe(recipe), recipe.loss.assigner.iou_threshold)
    own = [np.zeros(0, np.float32), *(_sides(r.boxes[~r.ignore]) for r in labelled)]
    return RecipeFit(
        config.name,
        config.width,
        config.height,
        len(boxes),
        len(boxes) / max(1, len(labelled)),
        float((found.reaching.sum(axis=1) > 0).mean()),
        _fits_of_classes(data.categories, found, np.concatenate(own)),
        len(labelled),
        len(every),
    )


def _fits_of_classes(
    categories: Sequence[str], found: Coverage, own_sides: F32
) -> tuple[ClassFit, ...]:
    """Return the fit of each class that has a box; ``own_sides`` f32[N] are those in the images."""
    boxes, reached = found.boxes, found.reaching.sum(axis=1) > 0
    sides = np.sqrt(boxes.sizes.prod(axis=1))
    long = boxes.sizes.max(axis=1) >= LONG * boxes.sizes.min(axis=1)
    classes = []
    for label, name in enumerate(categories, start=1):
        mine = boxes.labels == label
        if mine.any():
            classes.append(
                ClassFit(
                    name,
                    int(mine.sum()),
                    float(np.median(sides[mine])),
                    float(reached[mine].mean()),
                    float(long[mine & ~reached].mean()) if (mine & ~reached).any() else 0.0,
                    float(np.median(own_sides[mine])),
                    float(found.best.iou[mine].mean()),
                )
            )
    return tuple(classes)


def overlapping_share(data: Dataset) -> float:
    """Return the share of the labelled boxes that overlap another of their class by IoU .3 or more.

    Of many images some are measured, spread evenly over all (``MOST_IMAGES``).
    """
    boxes, overlapping = 0, 0
    for record in _measured(_with_boxes(data)):
        mine, labels = record.boxes[~record.ignore], record.labels[~record.ignore]
        other = (labels[:, None] == labels) & ~np.eye(len(mine), dtype=bool)
        boxes += len(mine)
        overlapping += int(((box_iou(mine, mine) >= OVERLAP) & other).any(axis=1).sum())
    return overlapping / max(1, boxes)


def _measured(labelled: list[ImageRecord]) -> list[ImageRecord]:
    return labelled[:: -(-len(labelled) // MOST_IMAGES) or 1]


def _with_boxes(data: Dataset) -> list[ImageRecord]:
    return [r for r in data.records if r.state is ImageState.LABELLED and len(r.boxes) > 0]


def median_shape(data: Dataset) -> float:
    """Return width over height of the labelled images, the median."""
    labelled = _with_boxes(data)
    return float(np.median([r.width / r.height for r in labelled])) if labelled else 1.0


def _sides(boxes: F32) -> F32:
    """Return the square roots of the areas of boxes f32[N, 4] xyxy."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(np.sqrt(sizes.prod(axis=1)), np.float32)


def objects_and_room(data: Dataset, recipe: Recipe) -> tuple[int, int, float]:
    """Return how many detections of an image are kept, the most objects of one, and the share of all
    objects that lie beyond.
    """
    limits = recipe.decode.limits
    kept = min(limits.max_detections, limits.candidates)
    counts = np.array([int((~r.ignore).sum()) for r in _measured(_with_boxes(data))], np.int64)
    if not counts.any():
        return kept, 0, 0.0
    return kept, int(counts.max()), float((counts - kept).clip(0).sum() / counts.sum())
