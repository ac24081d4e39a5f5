"""The page of a diagnosis: the answer, a table of all verdicts, and the evidence of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from hardmine.diagnosis.diagnosis_result import Diagnosis, Finding
from hardmine.diagnosis.example_pictures import Shown, example_pictures
from hardmine.diagnosis.hypotheses import Answer, Verdict
from hardmine.reports.charts import draw_chart, series_color
from hardmine.reports.page_shell import render_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLASS = {Answer.SUPPORTED: "worse", Answer.NOT_SUPPORTED: "better", Answer.UNKNOWN: ""}


@dataclass(frozen=True, slots=True)
class Section:
    """A finding ready for the page."""

    finding: Finding
    css: str
    chart: Markup
    pictures: tuple[Shown, ...]
    is_first: bool


def render_diagnosis(found: Diagnosis) -> str:
    """Return the page as text; it runs no script and fetches nothing."""
    sections = [
        Section(
            each,
            _CLASS[each.verdict.answer],
            Markup(_chart(each.hypothesis.key, each.hypothesis.title, each.verdict)),
            tuple(example_pictures(each.hypothesis.key, found.evidence))
            if each.is_supported
            else (),
            index == 0 and each.is_supported,
        )
        for index, each in enumerate(found.findings)
    ]
    return render_page(
        "hardmine.diagnosis",
        "diagnosis.html",
        subject=found.subject,
        summary=found.summary(),
        limits=found.limits,
        compare=found.compare,
        sections=sections,
        first=sections[0] if sections and sections[0].is_first else None,
        recipe=None if found.evidence is None else found.evidence.recipe.model.name,
    )


def _chart(key: str, title: str, verdict: Verdict) -> str:
    if not verdict.bars and not any(verdict.lines.values()):
        return ""

    def draw(axes: Axes) -> None:
        """Draw the bars and lines of the verdict."""
        width = 0.8 / max(1, len(verdict.bars))
        for index, (name, values) in enumerate(verdict.bars.items()):
            places = np.arange(len(values)) + (index - (len(verdict.bars) - 1) / 2) * width
            axes.bar(places, values, width, color=series_color(index), label=name)
        if verdict.bars:
            axes.set_xticks(np.arange(len(verdict.ticks)), verdict.ticks)
        for index, (name, points) in enumerate(verdict.lines.items()):
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, color=series_color(index), label=name)
        axes.set_xlabel("step" if verdict.lines else verdict.axis)
        axes.set_ylim(0.0, 1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="best", fontsize=9)

    return draw_chart(key, title, 3.2, draw)
