"""The page of a comparison, ``compare.html``: tables, verdicts and recall against false alarms."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hardmine.comparison.compare_figures import (
    COLUMNS,
    VariantSummary,
    cell_text,
    figure_text,
)
from hardmine.comparison.compare_options import base_shown
from hardmine.comparison.compare_statements import (
    chance_note,
    few_seeds,
    hardly_learned,
    measured,
    worth_it,
)
from hardmine.comparison.compare_summary import Comparison
from hardmine.files import write_text
from hardmine.reports.html_page import (
    draw_chart,
    legend_rows,
    render_page,
    series_color,
    series_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
            (
                v.name,
                base_shown(v.base, v.recipe, v.settings),
                " ".join((*v.settings, *v.loop)),
                v.with_negatives,
            )
            for v in variants
        ],
        verdicts=_verdicts(variants),
        heads=[head for _, head in shown],
        rows=[(v.name, [cell_text(key, v.means.get(key)) for key, _ in shown]) for v in variants],
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
        found["keep"] = bool(measured(variants)) and not hardly_learned(variants)
    if few_seeds(variants):
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
            span = f"{low} to {high}".replace("-", "−")
            shown.append((f"{each.verdict} ({span})", each.verdict))
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
                    "values": [cell_text(key, figures.get(key)) for key in keys],
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
