"""What a training selected, level by level: the part of a report that is made from ``telemetry.csv``.

Sentences say how the levels shared the work at the end of the training; charts show its whole course.
What the figures mean for hard mining is tested by ``hardmine diagnose``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from hardmine.reports.charts import draw_chart, series_color
from hardmine.reports.content import SIDES, TrainingCourse
from hardmine.reports.wording import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class TelemetryPart:
    """A training on the page: sentences, and charts as elements of the page."""

    name: str
    sentences: tuple[str, ...]
    charts: tuple[tuple[str, Markup], ...]
    """Each a heading and the chart."""


def telemetry_part(course: TrainingCourse, index: int = 0) -> TelemetryPart:
    """Return what the page says of a training.

    Args:
        index: of the part on its page, so that no two charts share a name.
    """
    return TelemetryPart(
        course.name,
        tuple(_sentences(course)),
        tuple((heading, Markup(svg)) for heading, svg in _charts(course, f"telemetry{index}")),
    )


def _sentences(course: TrainingCourse) -> list[str]:
    said = []
    shares = {name: course.level_shares(name) for name in ("priors", "positives", "negatives")}
    gradient = course.gradient_shares()
    if sum(shares["positives"]) and course.num_levels > 1:
        top = max(range(course.num_levels), key=lambda level: shares["negatives"][level])
        said.append(
            f"Level {top}{_place(top, course.num_levels)} gave the largest share of the selected "
            f"negatives, {share(shares['negatives'][top])}. It has "
            f"{share(shares['priors'][top])} of the priors, "
            f"{share(shares['positives'][top])} of the positives and {share(gradient[top])} of the "
            "gradient of the classes."
        )
    idle = [str(level) for level, value in enumerate(shares["positives"]) if not value]
    if idle and len(idle) < course.num_levels:
        which = f"level {idle[0]} has" if len(idle) == 1 else f"levels {' and '.join(idle)} have"
        said.append(f"At the end {which} no positive: what is learnt there is background alone.")
    positives, negatives = (
        sum(course.at_end(f"level{level}.{side}s") or 0.0 for level in range(course.num_levels))
        for side in SIDES
    )
    if positives:
        said.append(f"Each positive stands against {negatives / positives:.1f} selected negatives.")
    images, empty = course.at_end("images"), course.at_end("images_without_objects")
    part = course.at_end("gradient_share_without_objects")
    if images and empty:
        said.append(
            f"{share(empty / images)} of the images hold no object; they give {share(part)} of the "
            "gradient of the classes."
        )
    elif images:
        said.append("No image without objects was trained on.")
    floor = course.at_end("floor_share")
    if floor is not None:
        said.append(
            f"{share(floor)} of the images got their number of negatives from the floor, not from "
            "the ratio."
        )
    return said


def _place(level: int, count: int) -> str:
    return {0: " (the finest)", count - 1: " (the coarsest)"}.get(level, "")


def _charts(course: TrainingCourse, name: str) -> list[tuple[str, str]]:
    """Return a chart of each figure over the steps, a line per level, and one of whole images."""
    levels = range(course.num_levels)
    labels = [f"level {level}{_place(level, course.num_levels)}" for level in levels]
    by_level = {
        "Positives per image": [_per_image(course, f"level{level}.positives") for level in levels],
        "Selected negatives per image": [
            _per_image(course, f"level{level}.negatives") for level in levels
        ],
        "Share of the gradient of the classes": _gradient_courses(course),
    }
    made = [
        (heading, _line_chart(f"{name}-{number}", heading, dict(zip(labels, lines, strict=True))))
        for number, (heading, lines) in enumerate(by_level.items())
        if any(lines)
    ]
    whole = {
        "negatives from the floor": _points(course, "floor_share"),
        "without objects": _per_image(course, "images_without_objects"),
        "their gradient": _points(course, "gradient_share_without_objects"),
    }
    heading = "Shares of images and of the gradient"
    if any(whole.values()):
        made.append((heading, _line_chart(f"{name}-images", heading, whole)))
    return made


def _points(course: TrainingCourse, column: str) -> Points:
    found = []
    for row in course.rows:
        step, value = row.get("step"), row.get(column)
        if isinstance(step, float) and isinstance(value, float):
            found.append((step, value))
    return found


def _per_image(course: TrainingCourse, column: str) -> Points:
    images = dict(_points(course, "images"))
    return [(step, v / images[step]) for step, v in _points(course, column) if images.get(step)]


def _gradient_courses(course: TrainingCourse) -> list[Points]:
    """Return each level's share over the steps; a step is left out where no level has a gradient."""
    lines: list[Points] = [[] for _ in range(course.num_levels)]
    for row in course.rows:
        step = row.get("step")
        norms: list[float] = []
        for level in range(course.num_levels):
            values = (row.get(f"level{level}.{side}_gradient") for side in SIDES)
            norms.append(math.fsum(value for value in values if isinstance(value, float)))
        total = math.fsum(norms)
        if isinstance(step, float) and total:
            for line, norm in zip(lines, norms, strict=True):
                line.append((step, norm / total))
    return lines


def _line_chart(name: str, title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    def draw(axes: Axes) -> None:
        """Draw a line for each row over the steps."""
        for index, (label, points) in enumerate(lines.items()):
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, color=series_color(index), linewidth=1.6, label=label)
        axes.set(xlabel="step")
        axes.set_ylim(0.0, 1.35 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="upper right", fontsize=9, ncols=3)

    return draw_chart(name, title, 2.9, draw)
