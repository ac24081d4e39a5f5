"""What a comparison says in words: which differences are real, and which recipe is worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hardmine.comparison.compare_figures import COLUMNS, Contrast, VariantSummary, figure_text
from hardmine.evaluation.measurement import LEARNED
from hardmine.evaluation.paired import (
    ENOUGH_SEEDS,
)
from hardmine.plurals import counted

LEAST_AP50 = 0.1
"""Where no recipe reaches it, the networks have hardly learned, and their differences say little."""


def statements_of(summaries: Sequence[VariantSummary]) -> list[str]:
    """Return a sentence for each recipe and figure: what differs from the reference beyond noise."""
    first, seeds = summaries[0], _seeds_compared(summaries)
    said, where = [], ""
    if few_seeds(summaries):
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


def few_seeds(summaries: Sequence[VariantSummary]) -> bool:
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
    if not measured(summaries):
        return f"Nothing could be compared with {first.name}."
    if hardly_learned(summaries):
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
    if hardly_learned(summaries):
        return []
    good = []
    for item in summaries[1:]:
        answers = {contrast.verdict for contrast in item.contrasts}
        if "better" in answers and "worse" not in answers:
            good.append(item)
    return sorted(good, key=_worth)


def chance_note(summaries: Sequence[VariantSummary]) -> str:
    """Return how many of the intervals name something better by chance alone; "" where hardly one."""
    answers = measured(summaries)
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


def measured(summaries: Sequence[VariantSummary]) -> list[str]:
    """Return the verdicts of all contrasts that could be measured."""
    found = [each.verdict for item in summaries for each in item.contrasts]
    return [verdict for verdict in found if verdict != "not measured"]


def hardly_learned(summaries: Sequence[VariantSummary]) -> bool:
    """Return whether no recipe reaches an AP50 of ``LEAST_AP50``."""
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
