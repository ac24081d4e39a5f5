"""The page of a comparison: what differs, the figures per recipe and seed, and recall against alarms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hardmine.comparison.compare_summary import COLUMNS
from hardmine.comparison.compare_values import Comparison
from hardmine.files import write_text
from hardmine.reports.charts import draw_chart, series_color
from hardmine.reports.page_shell import render_page

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
        title="Comparison of recipes",
        sets=comparison.sets,
        statements=comparison.statements,
        heads=[head for _, head in shown],
        rows=[(v.name, [_text(v.means.get(key)) for key, _ in shown]) for v in variants],
        class_heads=[key.removeprefix("AP50 of ") for key in classes] if len(classes) > 1 else [],
        class_rows=[(v.name, [_text(v.means.get(key)) for key in classes]) for v in variants],
        cells=_cells(comparison, [key for key, _ in shown]),
        chart=Markup(pareto_chart(comparison)),
        seeds=comparison.options.seeds,
    )
    write_text(path, page)


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
                    "values": [_text(figures.get(key)) for key in keys],
                }
            )
    return found


def pareto_chart(comparison: Comparison) -> str:
    """Return recall against false alarms per image as inline SVG, a line per recipe; "" without any."""
    known = [item for item in comparison.variants if item.curve]
    if not known:
        return ""

    def draw(axes: Axes) -> None:
        for index, item in enumerate(known):
            xs, ys = zip(*item.curve, strict=True)
            axes.plot(xs, ys, color=series_color(index), label=item.name)
        axes.set(xscale="log", xlabel="false alarms per negative image", ylabel="recall")
        axes.set_ylim(0.0, 1.02)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right", fontsize=9)

    return draw_chart("pareto", "recall against false alarms per image", 4.2, draw)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
