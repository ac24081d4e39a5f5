"""From finished cells to a statement and a page: means over the seeds and paired intervals.

The values of a comparison come first, then what is computed of them, then ``compare.html``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from hardmine.comparison.compare_options import CompareOptions, Variant
from hardmine.evaluation.alarms import (
    count_alarms,
    find_threshold,
    negatives_curve,
    recall_at_alarms,
)
from hardmine.evaluation.average_precision import average_precision
from hardmine.evaluation.intervals import ArmScores, ap50_statistic
from hardmine.evaluation.measurement import LEARNED
from hardmine.evaluation.paired import (
    ENOUGH_SEEDS,
    paired_difference_over_seeds,
    paired_ratio_over_seeds,
)
from hardmine.evaluation.scored_images import load_detections
from hardmine.files import write_text
from hardmine.option_fields import plain
from hardmine.plurals import counted
from hardmine.reports import wording
from hardmine.reports.html_page import (
    draw_chart,
    legend_rows,
    render_page,
    series_color,
    series_style,
)
from hardmine.types import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECALLS = (0.5, 0.8, 0.9)
"""Recalls at which alarms are counted."""


RATES = (0.01, 0.1, 1.0)
"""Alarms per image at which recall is given."""


COLUMNS = (
    ("AP", "AP"),
    ("AP50", "AP50"),
    ("AP50_training", "AP50 on training images"),
    ("AP_small", "AP small"),
    ("AP_medium", "AP medium"),
    ("AP_large", "AP large"),
    ("AP50_small", "AP50 small"),
    ("AP50_medium", "AP50 medium"),
    ("AP50_large", "AP50 large"),
    ("recall_at_0.1", "recall at .1 alarms per image"),
    ("alarms_at_0.5", "alarms per image at recall .5"),
    ("alarms_at_0.8", "alarms per image at recall .8"),
    ("alarms_at_0.9", "alarms per image at recall .9"),
    ("threshold", "score at recall .8"),
    ("minutes", "minutes"),
)
"""Figures of a recipe: key and heading, in the order in which they are shown."""

LEAST_AP50 = 0.1
"""Where no recipe reaches it, the networks have hardly learned, and their differences say little."""


_CURVE_POINTS = np.geomspace(1e-3, 10.0, 60)


@dataclass(frozen=True)
class CellResult:
    """One recipe trained with one seed: its figures, or why it failed."""

    variant: str
    seed: int
    folder: Path
    minutes: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    """What the cell wrote; :mod:`compare_summary` adds what is shown under ``"shown"``."""
    error: str | None = None


@dataclass(frozen=True)
class Contrast:
    """A recipe against the first one, paired over images and seeds.

    ``difference`` and ``ratio`` carry 95 % limits; ``verdict`` is "better", "worse", "no difference
    shown" or "not measured".
    """

    figure: str
    value: float | None
    reference: float | None
    low: float | None
    high: float | None
    kind: str
    """``difference`` (value - reference) or ``ratio`` (value / reference)."""
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class VariantSummary:
    """The means of a recipe over its seeds, and how it compares with the first recipe."""

    name: str
    recipe: dict[str, Any]
    cells: tuple[CellResult, ...]
    means: dict[str, float | None]
    contrasts: tuple[Contrast, ...]
    curve: tuple[tuple[float, float], ...] = ()
    """(alarms per image, recall), the mean over the seeds."""
    settings: tuple[str, ...] = ()
    """What is laid over the base recipe, as ``--set`` takes it."""
    with_negatives: bool = False
    """It trained on the images of ``train_negatives`` too."""
    base: str = ""
    """The recipe that the settings are laid over; "" is the default one."""
    loop: tuple[str, ...] = ()
    """Options of its loop, each as ``loop.add=0.5``."""


@dataclass(frozen=True)
class Comparison:
    """All recipes, the first of which is the reference."""

    out: Path
    variants: tuple[VariantSummary, ...]
    options: CompareOptions
    sets: dict[str, Any]
    statements: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``compare.json``."""
        return {
            "options": plain(self.options),
            "sets": self.sets,
            "statements": list(self.statements),
            "variants": [
                {
                    "name": item.name,
                    "base": item.base or "default",
                    "settings": list(item.settings),
                    "loop": list(item.loop),
                    "with_negatives": item.with_negatives,
                    "means": item.means,
                    "contrasts": [asdict(contrast) for contrast in item.contrasts],
                    "cells": [{**asdict(cell), "folder": str(cell.folder)} for cell in item.cells],
                    "curve": [list(point) for point in item.curve],
                    "recipe": item.recipe,
                }
                for item in self.variants
            ],
        }


@dataclass(frozen=True)
class Sets:
    """The data of a comparison: readable images; no negative repeats an image of the other parts."""

    train: Dataset
    val: Dataset
    negatives: Dataset | None
    pool: str | None
    names: dict[str, Any]
    fingerprint: str
    train_negatives: Dataset | None = None
    """Images without objects for the variants that train on them."""
    fingerprint_of_train_negatives: str = ""


NO_NEGATIVES = (
    "False alarms were not counted: that needs images without objects that nothing trains on "
    "(--negatives)."
)


def scores_of(cell: CellResult, sets: Sets) -> ArmScores:
    """Return what a finished cell detected on the validation images and on the negatives."""

    folder = cell.folder / cell.figures["detections"]
    val = load_detections(folder / "val.json", sets.val)
    if sets.negatives is None:
        return ArmScores(val, val.subset([]))
    return ArmScores(val, load_detections(folder / "held_out.json", sets.negatives))


def summarise(
    variants: Sequence[Variant],
    recipes: Mapping[str, dict[str, Any]],
    results: Sequence[CellResult],
    sets: Sets,
    root: Path,
    options: CompareOptions,
) -> Comparison:
    """Return the comparison of all finished cells; the first variant is the reference."""
    scored = {
        (cell.variant, cell.seed): scores_of(cell, sets) for cell in results if cell.error is None
    }
    figures = {key: figures_of(arm) for key, arm in scored.items()}
    summaries = []
    for variant in variants:
        cells = tuple(
            _shown(cell, figures.get((cell.variant, cell.seed)))
            for cell in results
            if cell.variant == variant.name
        )
        done = [cell for cell in cells if cell.error is None]
        rows = [_row(cell, figures[cell.variant, cell.seed]) for cell in done]
        pairs = [
            (scored[variant.name, cell.seed], scored[variants[0].name, cell.seed])
            for cell in done
            if (variants[0].name, cell.seed) in scored
        ]
        contrasts = () if variant is variants[0] else contrasts_of(pairs, options.draws)
        summaries.append(
            VariantSummary(
                variant.name,
                recipes[variant.name],
                cells,
                _means(rows),
                contrasts,
                mean_curve([scored[variant.name, cell.seed] for cell in done]),
                variant.settings,
                variant.with_negatives,
                variant.base,
                tuple(f"loop.{name}={value}" for name, value in variant.loop.items()),
            )
        )
    statements = _all_statements(summaries, preset=options.preset is not None)
    if sets.negatives is None:
        statements.append(NO_NEGATIVES)
    return Comparison(root, tuple(summaries), options, sets.names, tuple(statements))


def _all_statements(summaries: Sequence[VariantSummary], *, preset: bool) -> list[str]:
    """Return what differs, with the conclusion of a preset first, and last that nothing was compared."""
    statements = statements_of(summaries)
    if preset:
        return [conclusion(summaries), *statements]
    return statements if _measured(summaries) else [*statements, conclusion(summaries)]


def _shown(cell: CellResult, figures: dict[str, float | None] | None) -> CellResult:
    if figures is None:
        return cell
    return replace(cell, figures={**cell.figures, "shown": _row(cell, figures)})


def _row(cell: CellResult, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the figures of a cell's detections with those that only the training knew."""
    fit = cell.figures.get("measurement", {}).get("training") or {}
    return {**figures, "AP50_training": fit.get("AP50"), "minutes": cell.minutes}


def figures_of(arm: ArmScores) -> dict[str, float | None]:
    """Return the figures of one trained detector, by the keys of ``COLUMNS``; None where undefined."""
    ap = average_precision(arm.val)
    found: dict[str, float | None] = {
        "AP": ap.ap,
        "AP50": ap.ap50,
        "AP_small": ap.small,
        "AP_medium": ap.medium,
        "AP_large": ap.large,
        "AP50_small": ap.small50,
        "AP50_medium": ap.medium50,
        "AP50_large": ap.large50,
        "threshold": find_threshold(arm.matches, 0.8),
    }
    for row in ap.per_class:
        found[f"AP50 of {row.name}"] = row.ap50
    if not arm.alarms.num_images:
        return found
    for recall in RECALLS:
        threshold = find_threshold(arm.matches, recall)
        rate = None if threshold is None else count_alarms(arm.alarms, threshold).alarms_per_image
        found[f"alarms_at_{recall:g}"] = rate
    for limit in RATES:
        found[f"recall_at_{limit:g}"] = recall_at_alarms(arm.matches, arm.alarms, limit).recall
    return found


def contrasts_of(pairs: Sequence[tuple[ArmScores, ArmScores]], draws: int) -> tuple[Contrast, ...]:
    """Return AP50 and the alarms at equal recall against the reference, one pair per seed."""
    if not pairs:
        return ()
    gap = paired_difference_over_seeds(pairs, ap50_statistic, draws=draws)
    found = [
        Contrast(
            "AP50",
            gap.value_a,
            gap.value_b,
            gap.low,
            gap.high,
            "difference",
            _verdict(gap.low, gap.high, none=0.0, higher_is_better=True),
        )
    ]
    if all(arm.alarms.num_images for pair in pairs for arm in pair):
        for recall in RECALLS:
            ratio = paired_ratio_over_seeds(pairs, recall=recall, draws=draws)
            found.append(
                Contrast(
                    f"alarms_at_{recall:g}",
                    ratio.per_image_a,
                    ratio.per_image_b,
                    ratio.low,
                    ratio.high,
                    "ratio",
                    _verdict(ratio.low, ratio.high, none=1.0, higher_is_better=False),
                    ratio.note,
                )
            )
    return tuple(found)


def _verdict(low: float | None, high: float | None, *, none: float, higher_is_better: bool) -> str:
    if low is None and high is None:
        return "not measured"
    above = low is not None and low > none
    below = high is not None and high < none
    if not above and not below:
        return "no difference shown"
    return "better" if above == higher_is_better else "worse"


def mean_curve(arms: Sequence[ArmScores]) -> tuple[tuple[float, float], ...]:
    """Return recall against alarms per image, the mean over the seeds; nothing without negatives."""
    curves = [negatives_curve(arm.matches, arm.alarms) for arm in arms if arm.alarms.num_images]
    known = [curve for curve in curves if curve is not None]
    if not known:
        return ()
    points = []
    for rate in _CURVE_POINTS:
        recalls = [
            recall_at_alarms(arm.matches, arm.alarms, float(rate)).recall
            for arm in arms
            if arm.alarms.num_images
        ]
        values = [value for value in recalls if value is not None]
        if values:
            points.append((float(rate), float(np.mean(values))))
    return tuple(points)


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    keys = dict.fromkeys(key for row in rows for key in row)
    found: dict[str, float | None] = {}
    for key in keys:
        values = [row.get(key) for row in rows]
        known = [value for value in values if value is not None and math.isfinite(value)]
        # A mean over some of the seeds would compare unlike things.
        found[key] = float(np.mean(known)) if known and len(known) == len(rows) else None
    return found


def statements_of(summaries: Sequence[VariantSummary]) -> list[str]:
    """Return a sentence for each recipe and figure: what differs from the reference beyond noise."""
    first, seeds = summaries[0], _seeds_compared(summaries)
    said, where = [], ""
    if _few_seeds(summaries):
        where = " with this seed" if seeds == 1 else f" with these {seeds} seeds"
        said.append(
            f"{counted(seeds, 'seed')} only: the intervals cover the choice of images, not the luck "
            f"of a training; {ENOUGH_SEEDS} or more seeds are needed for a claim."
        )
    said += _too_short(summaries)
    trained: dict[tuple[Path, ...], str] = {}
    for item in summaries:
        failed = [cell for cell in item.cells if cell.error is not None]
        if failed:
            which = f"{item.name}, the reference" if item is first else item.name
            said.append(
                f"{which}: {len(failed)} of {len(item.cells)} trainings failed: {failed[0].error}"
            )
        same = trained.setdefault(tuple(cell.folder for cell in item.cells), item.name)
        if same != item.name:
            said.append(f"{item.name} is the same recipe as {same}: both have the same trainings.")
        for contrast in item.contrasts:
            said.append(_sentence(item.name, first.name, contrast, where))
    return said


def _few_seeds(summaries: Sequence[VariantSummary]) -> bool:
    """Return whether there are intervals, and too few seeds stand behind them."""
    compared = any(item.contrasts for item in summaries)
    return compared and _seeds_compared(summaries) < ENOUGH_SEEDS


def _seeds_compared(summaries: Sequence[VariantSummary]) -> int:
    """Return how many seeds stand behind the comparison that has the fewest."""
    done = [{cell.seed for cell in item.cells if cell.error is None} for item in summaries]
    shared = [len(done[0] & mine) for mine in done[1:]]
    return min(filter(None, shared), default=len(summaries[0].cells))


def _too_short(summaries: Sequence[VariantSummary]) -> list[str]:
    """Name the recipes whose detectors have not learned their own training images."""
    known = [(item.name, item.means.get("AP50_training")) for item in summaries]
    low = [
        f"{name} ({value:.3f})" for name, value in known if value is not None and value < LEARNED
    ]
    if not low:
        return []
    return [
        f"AP50 on the training images themselves is below {LEARNED:g} with {', '.join(low)}: these "
        "trainings ended before the detector had learned their images, and with more epochs the "
        "recipes may compare otherwise (--epochs)."
    ]


def conclusion(summaries: Sequence[VariantSummary]) -> str:
    """Return which variant is worth it: better than the reference in a figure and worse in none.

    Of several, the one with the fewest alarms at recall .8 against the reference, or, without images
    to count alarms on, the highest AP50.
    """
    good, first = worth_it(summaries), summaries[0]
    if not _measured(summaries):
        return f"Nothing could be compared with {first.name}."
    if _hardly_learned(summaries):
        return (
            f"Nothing is shown to be worth it: no recipe reaches an AP50 of {LEAST_AP50:g}, so the "
            "networks have hardly learned. Train longer (--epochs), then ask again."
        )
    if not good:
        return (
            f"None of the {len(summaries) - 1} others is shown to be worth it against {first.name}."
        )
    best = good[0]
    others = ", ".join(_with_figures(item) for item in good if item is not best)
    more = f" Also better in some figure and worse in none: {others}." if others else ""
    sure = "Worth it" if _seeds_compared(summaries) >= ENOUGH_SEEDS else "Perhaps worth it"
    return f"{sure} on these data: {_with_figures(best)}, against {_with_figures(first)}.{more}"


def worth_it(summaries: Sequence[VariantSummary]) -> list[VariantSummary]:
    """Return the variants that are better than the first in a figure and worse in none, best first.

    None is where no variant has learned much.
    """
    if _hardly_learned(summaries):
        return []
    good = []
    for item in summaries[1:]:
        answers = {contrast.verdict for contrast in item.contrasts}
        if "better" in answers and "worse" not in answers:
            good.append(item)
    return sorted(good, key=_worth)


def chance_note(summaries: Sequence[VariantSummary]) -> str:
    """Return how many of the intervals name something better by chance alone; "" where hardly one."""
    answers = _measured(summaries)
    count = len(answers)
    if count < 10:
        return ""
    by_chance = f"{count * 0.025:.1f}".lstrip("0").removesuffix(".0")
    return (
        f"{count} intervals of 95 % are compared, {answers.count('better')} of which say better and "
        f"{answers.count('worse')} worse; on average {by_chance} would say better, and as many worse, "
        "if all recipes were equal. Compare what you choose with the first recipe alone and with more "
        "seeds before you rely on it."
    )


def _measured(summaries: Sequence[VariantSummary]) -> list[str]:
    """Return the verdicts of all contrasts that could be measured."""
    found = [each.verdict for item in summaries for each in item.contrasts]
    return [verdict for verdict in found if verdict != "not measured"]


def _hardly_learned(summaries: Sequence[VariantSummary]) -> bool:
    known = [value for item in summaries if (value := item.means.get("AP50")) is not None]
    return bool(known) and max(known) < LEAST_AP50


def _with_figures(item: VariantSummary) -> str:
    """Return a variant's name with the two figures between which a reader has to weigh."""
    heads = (("AP50", "AP50"), ("alarms_at_0.8", "alarms at recall .8"))
    known = [
        f"{head} {figure_text(item.means[key])}"
        for key, head in heads
        if item.means.get(key) is not None
    ]
    return f"{item.name} ({', '.join(known)})" if known else item.name


def _worth(item: VariantSummary) -> tuple[float, float]:
    alarms, ap50 = item.means.get("alarms_at_0.8"), item.means.get("AP50")
    return (math.inf if alarms is None else alarms, -(ap50 or 0.0))


def _sentence(name: str, reference: str, found: Contrast, where: str) -> str:
    what = dict(COLUMNS).get(found.figure, found.figure)
    if found.value is None or found.reference is None:
        return f"{name}: {what} is not defined for every seed" + (
            f" ({found.note})" if found.note else ""
        )
    now, before = figure_text(found.value), figure_text(found.reference)
    values = f"{now} against {before} of {reference}"
    limits = f"95 % of the {found.kind}: {_limit(found.low)} to {_limit(found.high)}"
    if found.verdict == "not measured" and found.note:
        limits = found.note
    if found.verdict in ("better", "worse"):
        return f"{name} is {found.verdict} in {what}{where}: {values} ({limits})"
    return f"{name}: no difference in {what} is shown: {values} ({limits})"


def _limit(value: float | None) -> str:
    return "unknown" if value is None else figure_text(value)


def write_compare_report(path: Path, comparison: Comparison) -> None:
    """Write ``compare.html``: one file that needs nothing else."""
    variants = comparison.variants
    shown = [
        (key, head) for key, head in COLUMNS if any(v.means.get(key) is not None for v in variants)
    ]
    classes = [
        key
        for key in dict.fromkeys(key for v in variants for key in v.means)
        if key.startswith("AP50 of ")
    ]
    page = render_page(
        "hardmine.comparison",
        "compare.html",
        title="Which way of selecting negatives is worth it here"
        if comparison.options.preset
        else "Comparison of recipes",
        sets=comparison.sets,
        **_answer(comparison),
        changes=[
            (v.name, v.base or "default", " ".join((*v.settings, *v.loop)), v.with_negatives)
            for v in variants
        ],
        verdicts=_verdicts(variants),
        heads=[head for _, head in shown],
        rows=[(v.name, [figure_text(v.means.get(key)) for key, _ in shown]) for v in variants],
        class_heads=[key.removeprefix("AP50 of ") for key in classes] if len(classes) > 1 else [],
        class_rows=[(v.name, [figure_text(v.means.get(key)) for key in classes]) for v in variants],
        cells=_cells(comparison, [key for key, _ in shown]),
        chart=Markup(pareto_chart(comparison)),
        lines=legend_rows([v.name for v in variants if v.curve]),
        seeds=comparison.options.seeds,
        arm=comparison.options.arm,
    )
    write_text(path, page)


def _answer(comparison: Comparison) -> dict[str, Any]:
    """Return what stands at the top of the page: of a preset the conclusion and what to change."""
    statements, variants = list(comparison.statements), comparison.variants
    found: dict[str, Any] = {"conclusion": "", "best": None, "caution": chance_note(variants)}
    if comparison.options.preset is not None:
        found["conclusion"] = statements.pop(0)
        found["best"] = best = next(iter(worth_it(variants)), None)
        words = [word for setting in best.settings for word in ("--set", setting)] if best else []
        found["change"] = shlex.join(words)
        found["keep"] = bool(_measured(variants)) and not _hardly_learned(variants)
    if _few_seeds(variants):
        found["caution"] = f"{statements.pop(0)} {found['caution']}".strip()
    return {**found, "statements": statements}


def _verdicts(variants: Sequence[VariantSummary]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each variant but the first what is said of AP50 and of the alarms at recall .8."""
    rows = []
    for item in variants[1:]:
        known = {each.figure: each for each in item.contrasts}
        shown = []
        for figure in ("AP50", "alarms_at_0.8"):
            each = known.get(figure)
            if each is None or each.verdict == "not measured":
                why = f": {each.note}" if each is not None and each.note else ""
                shown.append((f"not measured{why}", ""))
                continue
            form = "× {:.3f}" if each.kind == "ratio" else "{:+.3f}"
            low, high = ("unknown" if v is None else form.format(v) for v in (each.low, each.high))
            shown.append((f"{each.verdict} ({low} to {high})", each.verdict))
        failed = sum(cell.error is not None for cell in item.cells)
        name = (
            f"{item.name}: {failed} of {len(item.cells)} trainings failed" if failed else item.name
        )
        rows.append((name, shown))
    return rows


def _cells(comparison: Comparison, keys: list[str]) -> list[dict[str, Any]]:
    found = []
    for item in comparison.variants:
        for cell in item.cells:
            figures = cell.figures.get("shown", {})
            found.append(
                {
                    "name": item.name,
                    "seed": cell.seed,
                    "error": cell.error,
                    "values": [figure_text(figures.get(key)) for key in keys],
                }
            )
    return found


def pareto_chart(comparison: Comparison) -> str:
    """Return recall against false alarms per image as inline SVG, a line per recipe; "" without any.

    The page has the names below it.
    """
    known = [item for item in comparison.variants if item.curve]
    if not known:
        return ""

    def draw(axes: Axes) -> None:
        """Draw each variant's recall over its false alarms."""
        for index, item in enumerate(known):
            xs, ys = zip(*item.curve, strict=True)
            axes.plot(xs, ys, color=series_color(index), linestyle=series_style(index))
        axes.set(xscale="log", xlabel="false alarms per negative image", ylabel="recall")
        axes.set_ylim(0.0, 1.02)
        axes.xaxis.set_major_formatter("{x:g}")

    return draw_chart("pareto", "recall against false alarms per image", 4.2, draw)


def figure_text(value: float | None) -> str:
    """Return a figure with three digits, or more where it is so small that these would be zeros."""
    return wording.rate(value) if value is None or abs(value) < 1e-3 else f"{value:.3f}"
