"""Fitted priors beside the default ones, judged on boxes that the fit has not seen.

The search chooses shapes for the levels under a budget, then refines them. What is maximised is the
mean over boxes of

    best IoU + weight · min(expected matches, enough) / enough

where the expected matches are the priors that reach the threshold: a box needs one very good prior to
be localised well and a few good ones to be learnt. The candidates come from clusters of box sizes
under the distance 1 − IoU.

Source of the clustering: Redmon and Farhadi 2017, "YOLO9000", section 2 (k-means with IoU); the
medians are ours, since a few odd boxes pull a mean away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.data.data_options import FitOptions
from hardmine.errors import ConfigError
from hardmine.plurals import counted
from hardmine.prior_design.coverage import (
    CanvasBoxes,
    Coverage,
    augmented_boxes,
    boxes_on_canvas,
    join,
    measure_coverage,
)
from hardmine.prior_design.prior_layout import (
    LevelGrid,
    PriorLayout,
    best_by_shape,
    count_reaching,
    layout_of_recipe,
    reaching_by_level,
    shape_iou,
    ssd_config,
)
from hardmine.types import F64, Dataset, ImageState

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

_CLUSTERS = (4, 8, 16, 32)
_FIT_BOXES = 6000
"""Boxes that the search looks at; of more, a random sample."""
_DRAWS = 2000
LEAST_IMAGES = 6
"""Held-out images that a fit is judged by, at least: of fewer, all may show a gain by chance alone
(½⁵ > .025), and an interval of images drawn again says nothing."""
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
        if (images := len(np.unique(self.plain[0].boxes.image))) < LEAST_IMAGES:
            reasons.append(
                f"{counted(images, 'held-out image with boxes is', 'held-out images with boxes are')} "
                f"too few to judge by, wanted {LEAST_IMAGES} or more"
            )
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
        f"  height: {fitted.height}  # the priors are made for this canvas",
        f"  width: {fitted.width}",
        "  priors:",
        "    kind: explicit",
        "    levels:  # (width, height) of each prior in a cell, px; finest level first",
    ]
    for grid in fitted.levels:
        pairs = ", ".join(f"[{w:g}, {h:g}]" for w, h in grid.shapes.tolist())
        lines.append(f"      - [{pairs}]")
    return "\n".join(lines) + "\n"


_MOVES = np.array([(w, h) for w in (-1, 0, 1) for h in (-1, 0, 1) if (w, h) != (0, 0)], np.float64)
_STEPS = (0.2, 0.1, 0.05, 0.025)
"""How far a shape moves in a round of refining, in ln(w) and ln(h)."""


def cluster_sizes(sizes: F64, number: int, seed: int = 0, rounds: int = 30) -> F64:
    """Return up to ``number`` typical sizes, f64[K, 2] (w, h), by area.

    Starts are drawn in proportion to 1 − IoU with those drawn before; then each box joins its most
    similar centre and each centre moves to the medians of its boxes, until nothing moves.

    Args:
        sizes (f64[N, 2]): widths and heights, positive.
        number: at least 1; no more than there are different sizes come back.
        seed: of the starts.
        rounds: most rounds.
    """
    rng = np.random.default_rng(seed)
    centres = sizes[rng.integers(len(sizes))][None]
    while len(centres) < number:
        distance = 1.0 - shape_iou(sizes, centres).max(axis=1)
        if distance.max() < 1e-9:
            break
        centres = np.concatenate([centres, sizes[rng.choice(len(sizes), p=_share(distance))][None]])
    for _ in range(rounds):
        nearest = shape_iou(sizes, centres).argmax(axis=1)
        members = [sizes[nearest == k] for k in range(len(centres))]
        moved = np.stack([np.median(part, axis=0) for part in members if len(part)])
        if moved.shape == centres.shape and np.allclose(moved, centres):
            break
        centres = moved
    return np.asarray(centres[centres.prod(axis=1).argsort(kind="stable")])


def _share(distance: F64) -> F64:
    return np.asarray(distance / distance.sum())


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """Limits of the search and the weights of what it looks for."""

    budget: int
    """The most priors that the result may have."""
    threshold: float = 0.5
    weight: float = 0.5
    """The weight of the number of matches, where that of the best IoU is 1."""
    enough: int = 4
    """More matches of a box than these do not count."""
    max_shapes: int = 8
    """The most shapes per cell: coarse levels cost few priors, but each shape adds to every head."""
    equal: bool = False
    """The same number of shapes on every level, which a head shared by the levels needs."""
    least_gain: float = 5e-4
    """A shape that adds less than this to the mean over boxes is not worth its priors."""
    least_scale: float = 0.5
    most_scale: float = 6.0
    """Between how many steps of a level's grid the side √(w · h) of its shapes lies: below, boxes
    fall between the cells; above, the level does not see enough of the image around a cell."""

    def __post_init__(self) -> None:
        if self.budget < 1 or self.max_shapes < 1 or self.enough < 1:
            raise ConfigError(
                f"priors: got budget {self.budget}, max_shapes {self.max_shapes}, enough "
                f"{self.enough}, wanted each >= 1"
            )
        if not 0 < self.threshold < 1 or not 0 < self.least_scale < self.most_scale:
            raise ConfigError(
                f"priors: got threshold {self.threshold}, scales {self.least_scale} to "
                f"{self.most_scale}, wanted 0 < threshold < 1 and 0 < least < most"
            )


def box_values(boxes: F64, layout: PriorLayout, config: SearchConfig) -> F64:
    """Return f64[N]: what the search maximises the mean of."""
    best = np.stack([best_by_shape(boxes, g, g.shapes).max(axis=1) for g in layout.levels], 1)
    matches = reaching_by_level(boxes, layout, config.threshold).sum(axis=1)
    return _value(best.max(axis=1), matches.astype(np.float64), config)


def search_shapes(
    boxes: F64, layout: PriorLayout, candidates: Sequence[F64], config: SearchConfig
) -> PriorLayout:
    """Return the layout's grids with the shapes that suit ``boxes`` best.

    Shapes are taken one by one, each time the one with the largest gain for its priors; then each is
    moved as long as that helps, those that the others have made superfluous go, and the room is
    filled again.

    Args:
        boxes (f64[N, 4]): xyxy, pixels of the layout's input.
        layout: the grids; the number of its shapes does not matter.
        candidates: f64[K, 2] (w, h) of each level to start from, at least one each.
        config: budget and weights.

    Raises:
        ConfigError: one shape on every level is more than the budget.
    """
    least = sum(grid.cells for grid in layout.levels)
    if config.budget < least:
        raise ConfigError(
            f"priors: got a budget of {config.budget}, wanted at least {least}: "
            f"one shape on each of the {len(layout.levels)} levels"
        )
    state = _State(boxes, layout.levels, config)
    pool = _Pool.of(state, candidates)
    for _ in range(2):
        state.fill(pool)
        for step in _STEPS:
            state.refine(step)
        state.prune()
    state.fill(pool)
    for step in _STEPS[1:]:
        state.refine(step)
    return layout.with_shapes(state.by_level())


@dataclass(slots=True, eq=False)
class _Pool:
    """Candidate shapes with what they do for each box: ``iou`` and ``matches`` f64[N, M]."""

    level: np.ndarray
    shapes: F64
    iou: F64
    matches: F64

    @staticmethod
    def of(state: _State, candidates: Sequence[F64]) -> _Pool:
        """Judge the candidates of each level on all boxes."""
        parts = [state.judge(k, shapes) for k, shapes in enumerate(candidates)]
        return _Pool(
            np.concatenate([np.full(len(s), k) for k, s in enumerate(candidates)]),
            np.concatenate(list(candidates)),
            np.concatenate([iou for iou, _ in parts], axis=1),
            np.concatenate([matches for _, matches in parts], axis=1),
        )


@dataclass(slots=True, eq=False)
class _State:
    """The shapes chosen so far; ``iou`` and ``matches`` have a column f64[N] for each."""

    boxes: F64
    grids: tuple[LevelGrid, ...]
    config: SearchConfig
    level: list[int] = field(default_factory=list)
    shapes: list[F64] = field(default_factory=list)
    iou: list[F64] = field(default_factory=list)
    matches: list[F64] = field(default_factory=list)

    def judge(self, level: int, shapes: F64) -> tuple[F64, F64]:
        """Return the best IoU and the matches of every box with each shape on a level."""
        grid = self.grids[level]
        counts = count_reaching(self.boxes, grid, shapes, self.config.threshold)
        return best_by_shape(self.boxes, grid, shapes), counts.astype(np.float64)

    def fill(self, pool: _Pool) -> None:
        """Add shapes of the pool, each level's first one whatever it brings, up to the budget."""
        for level in range(len(self.grids)):
            if level not in self.level:
                self._add(pool, self._best_of(pool, np.flatnonzero(pool.level == level)))
        while True:
            if self.config.equal:
                if not self._fits(range(len(self.grids))):
                    return
                before = self.value()
                for level in range(len(self.grids)):
                    self._add(pool, self._best_of(pool, np.flatnonzero(pool.level == level)))
                if self.value() - before < self.config.least_gain:
                    return
                continue
            open_ = [k for k in range(len(self.grids)) if self._fits([k])]
            members = np.flatnonzero(np.isin(pool.level, open_))
            if not len(members):
                return
            gain = self._gains(pool, members)
            cost = np.array([self.grids[k].cells for k in pool.level[members]], np.float64)
            gain[gain < self.config.least_gain] = 0.0
            top = int((gain / np.sqrt(cost)).argmax())
            if gain[top] <= 0:
                return
            self._add(pool, int(members[top]))

    def refine(self, step: float) -> None:
        """Move each shape once to its best neighbour, ``step`` away in ln(w), ln(h)."""
        for index in range(len(self.shapes)):
            level = self.level[index]
            moved = self.shapes[index] * np.exp(step * _MOVES)
            moved = moved[self._allowed(level, moved)]
            if not len(moved):
                continue
            iou, matches = self.judge(level, moved)
            rest_iou, rest_matches = self._without(index)
            values = self._mean(rest_iou, rest_matches, iou, matches)
            now = self._mean(
                rest_iou, rest_matches, self.iou[index][:, None], self.matches[index][:, None]
            )[0]
            top = int(values.argmax())
            if values[top] > now:
                self.shapes[index] = moved[top]
                self.iou[index], self.matches[index] = iou[:, top], matches[:, top]

    def prune(self) -> None:
        """Drop shapes that add too little, the least useful first; each level keeps one."""
        if self.config.equal:
            return
        while True:
            value = self.value()
            loss = [
                value - float(_value(*self._without(i), self.config).mean())
                if self.level.count(self.level[i]) > 1
                else np.inf
                for i in range(len(self.shapes))
            ]
            least = int(np.argmin(loss))
            if loss[least] >= self.config.least_gain:
                return
            for part in (self.level, self.shapes, self.iou, self.matches):
                del part[least]

    def value(self) -> float:
        """Return the mean over boxes."""
        return float(_value(*self._without(None), self.config).mean())

    def by_level(self) -> list[F64]:
        """Return the chosen shapes of each level, by area."""
        chosen = []
        for level in range(len(self.grids)):
            shapes = np.stack(
                [s for s, k in zip(self.shapes, self.level, strict=True) if k == level]
            )
            chosen.append(shapes[shapes.prod(axis=1).argsort(kind="stable")])
        return chosen

    def _without(self, index: int | None) -> tuple[F64, F64]:
        """Return the best IoU and the matches f64[N] of all shapes but one."""
        kept = [i for i in range(len(self.shapes)) if i != index]
        best, total = np.zeros(len(self.boxes)), np.zeros(len(self.boxes))
        for i in kept:
            best = np.maximum(best, self.iou[i])
            total = total + self.matches[i]
        return best, total

    def _gains(self, pool: _Pool, members: np.ndarray) -> F64:
        iou, matches = self._without(None)
        values = self._mean(iou, matches, pool.iou[:, members], pool.matches[:, members])
        return values - float(_value(iou, matches, self.config).mean())

    def _best_of(self, pool: _Pool, members: np.ndarray) -> int:
        return int(members[int(self._gains(pool, members).argmax())])

    def _mean(self, iou: F64, matches: F64, more_iou: F64, more_matches: F64) -> F64:
        """Return f64[M]: the mean value when each of M columns is added."""
        best = np.maximum(iou[:, None], more_iou)
        return np.asarray(_value(best, matches[:, None] + more_matches, self.config).mean(axis=0))

    def _add(self, pool: _Pool, index: int) -> None:
        self.level.append(int(pool.level[index]))
        self.shapes.append(pool.shapes[index])
        self.iou.append(pool.iou[:, index])
        self.matches.append(pool.matches[:, index])

    def _fits(self, levels: Sequence[int] | range) -> bool:
        used = sum(self.grids[k].cells for k in self.level)
        more = sum(self.grids[k].cells for k in levels)
        room = all(self.level.count(k) < self.config.max_shapes for k in levels)
        return room and used + more <= self.config.budget

    def _allowed(self, level: int, shapes: F64) -> np.ndarray:
        return allowed(self.grids[level], shapes, self.config)


def allowed(grid: LevelGrid, shapes: F64, config: SearchConfig) -> np.ndarray:
    """Return bool[S]: which shapes are of a scale that suits the level."""
    scale = np.sqrt(shapes.prod(axis=1) / (grid.step_x * grid.step_y))
    return np.asarray((scale >= config.least_scale) & (scale <= config.most_scale))


def _value(iou: F64, matches: F64, config: SearchConfig) -> F64:
    return np.asarray(iou + config.weight * np.minimum(matches, config.enough) / config.enough)
