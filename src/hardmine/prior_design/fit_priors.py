"""Fitted priors beside the default ones, judged on boxes that the fit has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.prior_design.canvas_boxes import CanvasBoxes, augmented_boxes, boxes_on_canvas, join
from hardmine.prior_design.coverage import Coverage, measure_coverage
from hardmine.prior_design.prior_layout import PriorLayout, layout_of_recipe, ssd_config
from hardmine.prior_design.prior_search import (
    SearchConfig,
    allowed,
    box_values,
    cluster_sizes,
    search_shapes,
)
from hardmine.prior_design.priors_options import FitOptions
from hardmine.types import F64, Dataset, ImageState

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

_CLUSTERS = (4, 8, 16, 32)
_FIT_BOXES = 6000
"""Boxes that the search looks at; of more, a random sample."""
_DRAWS = 2000
_AUGMENTED_IMAGES = 1500


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean over held-out boxes of the search's value, fitted less default; 95 % interval over images."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class FittedPriors:
    """A fit and its judgement. ``default`` and ``fitted`` are layouts on the model's grid; their
    coverages are of the held-out boxes, as they are and as training augments them.
    """

    default: PriorLayout
    fitted: PriorLayout
    plain: tuple[Coverage, Coverage]
    augmented: tuple[Coverage, Coverage]
    gain: Gain
    fit_boxes: int

    @property
    def reasons_against(self) -> list[str]:
        """What speaks against the fit; nothing: it is better."""
        was, now = (coverage.total() for coverage in self.plain)
        reasons = []
        if self.gain.low <= 0:
            reasons.append(
                f"the gain on held-out boxes is {self.gain.mean:+.3f} "
                f"(95 % {self.gain.low:+.3f} to {self.gain.high:+.3f}), not surely above 0"
            )
        if now.reach < was.reach:
            reasons.append(
                f"fewer held-out boxes reach the threshold ({now.reach:.1%}, were {was.reach:.1%})"
            )
        if now.mean_iou < was.mean_iou:
            reasons.append(f"the mean best IoU falls ({now.mean_iou:.3f}, was {was.mean_iou:.3f})")
        seen_was, seen_now = (coverage.total() for coverage in self.augmented)
        if seen_now.reach < seen_was.reach - 0.01:
            reasons.append(
                "fewer boxes reach the threshold as training sees them "
                f"({seen_now.reach:.1%}, were {seen_was.reach:.1%})"
            )
        return reasons

    @property
    def recommended(self) -> bool:
        """True when the fit is better on the held-out boxes."""
        return not self.reasons_against

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "recommended": self.recommended,
            "reasons_against": self.reasons_against,
            "fit_boxes": self.fit_boxes,
            "gain": {"mean": self.gain.mean, "low": self.gain.low, "high": self.gain.high},
            "default": self._side(0, self.default),
            "fitted": self._side(1, self.fitted),
        }

    def _side(self, index: int, layout: PriorLayout) -> dict[str, Any]:
        return {
            "priors": layout.to_dict(),
            "held_out": self.plain[index].to_dict(),
            "held_out_augmented": self.augmented[index].to_dict(),
        }


def fit_priors(dataset: Dataset, recipe: Recipe, options: FitOptions | None = None) -> FittedPriors:
    """Design priors for a dataset and judge them beside the recipe's own.

    The images are split with near-duplicates on one side. The search sees the boxes of one part, as
    they are and as the recipe's augmentation moves them (training sees the latter, inference the
    former); the other part judges.

    Raises:
        DataError: no boxes, or too few images to split.
        ConfigError: the budget is below one shape on every level.
    """
    from hardmine.data.splits.split import split_dataset

    how = options or FitOptions()
    labelled = [r for r in dataset.records if r.state is ImageState.LABELLED]
    default = layout_of_recipe(recipe)
    grids = default.evenly()
    config = SearchConfig(
        budget=how.budget or default.count,
        threshold=recipe.loss.assigner.iou_threshold,
        max_shapes=how.max_shapes,
        equal=ssd_config(recipe).head.kind == "shared",
    )
    boxes_on_canvas(dataset, recipe.resize)  # says so where there is no box at all
    parts = split_dataset(
        dataset.with_records(labelled),
        {"fit": 1.0 - how.held_out, "held_out": how.held_out},
        how.seed,
    )
    seen = [_boxes(parts["fit"], recipe, augmented, how.seed) for augmented in (False, True)]
    sample = _sample(join(seen), how.seed)
    candidates = _candidates(sample.sizes, default, config, how.seed)
    fitted = search_shapes(sample.boxes, grids, candidates, config)
    fitted = fitted.with_shapes([grid.shapes.round(1) for grid in fitted.levels])
    judges = [_boxes(parts["held_out"], recipe, augmented, how.seed) for augmented in (False, True)]
    plain, augmented = (
        (
            measure_coverage(boxes, default, config.threshold),
            measure_coverage(boxes, fitted, config.threshold),
        )
        for boxes in judges
    )
    gain = paired_gain(judges[0], default, fitted, config, how.seed)
    return FittedPriors(default, fitted, plain, augmented, gain, len(sample))


def paired_gain(
    boxes: CanvasBoxes, a: PriorLayout, b: PriorLayout, config: SearchConfig, seed: int = 0
) -> Gain:
    """Return the mean value with ``b`` less that with ``a``; images are drawn again for the interval."""
    difference = box_values(boxes.boxes, b, config) - box_values(boxes.boxes, a, config)
    _, image = np.unique(boxes.image, return_inverse=True)
    sums, counts = np.bincount(image, difference), np.bincount(image)
    rng = np.random.default_rng(seed)
    means = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        chosen = rng.integers(len(sums), size=len(sums))
        means[draw] = sums[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return Gain(float(difference.mean()), low, high)


def _boxes(dataset: Dataset, recipe: Recipe, augmented: bool, seed: int) -> CanvasBoxes:
    plain = boxes_on_canvas(dataset, recipe.resize)
    if not augmented:
        return plain
    draws = max(1, min(4, _AUGMENTED_IMAGES // len(dataset)))
    moved = augmented_boxes(dataset, recipe, draws, seed, most=_AUGMENTED_IMAGES)
    return moved if len(moved) else plain


def _sample(boxes: CanvasBoxes, seed: int) -> CanvasBoxes:
    if len(boxes) <= _FIT_BOXES:
        return boxes
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:_FIT_BOXES]
    return boxes.take(np.sort(chosen))


def _candidates(sizes: F64, default: PriorLayout, config: SearchConfig, seed: int) -> list[F64]:
    """Return shapes for each level: clusters of several finenesses, and the level's own."""
    clusters = np.concatenate([cluster_sizes(sizes, k, seed) for k in _CLUSTERS])
    found = []
    for grid in default.levels:
        shapes = np.concatenate([clusters[allowed(grid, clusters, config)], grid.shapes])
        found.append(np.unique(shapes, axis=0))
    return found


def recipe_fragment(fitted: PriorLayout, model: str, source: str) -> str:
    """Return the YAML that ``train --recipe`` lays over the model's recipe."""
    lines = [
        f"# Priors fitted to {source}: {fitted.count} on {fitted.width} x {fitted.height} px.",
        f"# For: hardmine train DATA --model {model} --recipe THIS_FILE",
        "model:",
        "  priors:",
        "    kind: explicit",
        "    levels:  # (width, height) of each prior in a cell, px; finest level first",
    ]
    for grid in fitted.levels:
        pairs = ", ".join(f"[{w:g}, {h:g}]" for w, h in grid.shapes.tolist())
        lines.append(f"      - [{pairs}]")
    return "\n".join(lines) + "\n"
