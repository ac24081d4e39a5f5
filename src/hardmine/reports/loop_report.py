"""The report: one HTML file that needs nothing else.

A part of it is made from ``telemetry.csv``: what a training selected, level by level. Sentences say
how the levels shared the work at the end of the training; charts show its whole course. What the
figures mean for hard mining is tested by ``hardmine diagnose``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hardmine.files import write_text
from hardmine.plurals import counted
from hardmine.reports import advice, wording
from hardmine.reports.content import SIDES, ReportData, TrainingCourse
from hardmine.reports.drawing import Budget, Section, shrink_gallery
from hardmine.reports.html_page import (
    alarms_figure,
    ap50_figure,
    arm_order,
    draw_chart,
    miss_rate_figure,
    recall_figure,
    render_page,
    score_figure,
    series_color,
)
from hardmine.reports.round_columns import ALARMS, SHOWN, RoundRow
from hardmine.reports.wording import Comparison, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PICTURE_BYTES = 6_000_000
PICTURES_PER_GALLERY = 24
PROBLEMS_LISTED = 200
LINES_LISTED = 500


@dataclass(frozen=True)
class Tile:
    """A headline figure: ``before`` is empty when there is nothing to compare with."""

    label: str
    value: str
    before: str = ""
    detail: str = ""


def write_report(path: Path, data: ReportData) -> None:
    """Write ``data`` as one HTML page, atomically.

    The page holds its pictures and styles, runs no script and fetches nothing. Unreadable pictures
    are named in place; pictures stop at about 6 MB, and what is left out is counted.
    """
    write_text(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Return the page as text."""
    budget = Budget(PICTURE_BYTES)
    hardly = [row["name"] for row in advice.hardly_found(_figures(data.rows))]
    filters = {
        name: getattr(wording, name) for name in ("number", "score", "rate", "limits", "count")
    }
    return render_page(
        "hardmine.reports",
        "report.html",
        filters=filters,
        data=data,
        wording=wording,
        worst=_section(data, budget),
        mined=[
            shrink_gallery(gallery, data.categories, budget, limit=PICTURES_PER_GALLERY)
            for gallery in data.mined
        ],
        telemetry=[
            telemetry_part(course, index, classes=hardly)
            for index, course in enumerate(data.courses)
        ],
        **_draw_charts(data),
        **_page_values(data),
    )


def _draw_charts(data: ReportData) -> dict[str, Any]:
    """Return the charts of the page, by the names that the template has for them."""
    from markupsafe import Markup

    arms = arm_order([row.arm for row in data.rows])
    return {
        "arms": arms,
        "charts": [Markup(chart) for chart in _round_charts(data.rows)],
        "recall_chart": Markup(recall_figure(data.curves, arms)) if data.curves else "",
        "score_charts": [(number, Markup(chart)) for number, chart in _score_charts(data.rows)],
        "miss_rate": Markup(miss_rate_figure(data.curves, arms)) if data.curves else "",
    }


def _page_values(data: ReportData) -> dict[str, Any]:
    """Return the figures, tables and lists of the page, by the names of the template."""
    rows = data.rows
    return {
        "tiles": headline(rows),
        "steps": advice.next_steps(last_row(rows)),
        "is_weak": advice.is_weak,
        "hardly_found": {row["name"] for row in advice.hardly_found(_figures(rows))},
        "low_scored": {row["name"] for row in advice.low_scored(_figures(rows))},
        "unmeasured": _unmeasured(_figures(rows)),
        "ends": [row for row in _ends(rows) if row.figures.get("errors")],
        "operating": [row for row in _ends(rows) if _main_set(row).get("alarms_at_recalls")],
        "class_points": _class_points(rows),
        "main_set": _main_set,
        "main_name": _main_name(rows),
        "error_kinds": ERROR_KINDS,
        "error_bounds": ERROR_BOUNDS,
        "sets": _set_names(rows),
        "video_sets": _video_sets(rows),
        "per_hour": alarms_per_hour(rows),
        "columns": SHOWN,
        "alarms_key": ALARMS,
        "verdicts": sort_verdicts(data),
        "lines_listed": LINES_LISTED,
        "problem_kinds": Counter(problem.kind for problem in data.problems).most_common(),
        "problems": data.problems[:PROBLEMS_LISTED],
        "recipe": json.dumps(data.recipe, indent=2, ensure_ascii=False, default=str),
    }


ERROR_KINDS = {
    "background": "a detection where there is no object (IoU of at most 0.1 with every one)",
    "localisation": "the right class, but the box is badly placed (IoU 0.1 to 0.5)",
    "classification": "a box around an object of another class (IoU of 0.5 or more)",
    "both": "the wrong class and a badly placed box",
    "duplicate": "a further detection of an object that is found already",
    "missed": "an object that no detection is near",
}
"""The kinds of ``evaluation.error_breakdown`` in the words of the page."""
ERROR_BOUNDS = {
    "false_positive": "all false detections together: no false one scores above a right one",
    "false_negative": "all objects that are not found together",
}
"""The two gains that bound those of the kinds."""


def last_row(rows: Sequence[RoundRow]) -> RoundRow | None:
    """Return the last round of the first arm."""
    ends = _ends(rows)
    return ends[-1] if ends else None


def _ends(rows: Sequence[RoundRow]) -> list[RoundRow]:
    """Return the first and the last round of the first arm; one row where there is no other."""
    if not rows:
        return []
    arm = arm_order([row.arm for row in rows])[0]
    first = min(rows, key=lambda row: (row.round, row.arm != arm))
    last = max((row for row in rows if row.arm == arm), key=lambda row: row.round)
    return [first] if last is first else [first, last]


def _figures(rows: Sequence[RoundRow]) -> Mapping[str, Any]:
    row = last_row(rows)
    return {} if row is None else row.figures


def _unmeasured(figures: Mapping[str, Any]) -> list[str]:
    """Return the classes of which the validation images hold no object."""
    rows = (figures.get("errors") or {}).get("classes") or []
    return [row["name"] for row in rows if not row["objects"]]


def _main_set(row: RoundRow) -> Mapping[str, Any]:
    """Return the figures of the negatives that the main figures use."""
    sets: Mapping[str, Mapping[str, Any]] = row.figures.get("negatives") or {}
    return sets.get("held_out") or next(iter(sets.values()), {})


def _class_points(rows: Sequence[RoundRow]) -> list[tuple[RoundRow, Mapping[str, Any]]]:
    """Return the points at which each class is counted at its own recall.

    Of one measurement these are all its recalls; of a loop recall .8 in the first and the last round.
    """
    ends = _ends(rows)
    points = [(row, at) for row in ends for at in _main_set(row).get("alarms_at_class_recalls", ())]
    return points if len(ends) < 2 else [(row, at) for row, at in points if at["recall"] == 0.8]


def _main_name(rows: Sequence[RoundRow]) -> str:
    """Return the name of that set."""
    names = _set_names(rows)
    return "held_out" if "held_out" in names or not names else names[0]


def _score_charts(rows: Sequence[RoundRow]) -> list[tuple[int, str]]:
    return [
        (
            row.round,
            score_figure(
                f"scores{row.round}",
                f"scores of objects and of images without objects, round {row.round}",
                histogram,
                row.figures.get("score_threshold"),
            ),
        )
        for row in _ends(rows)
        if (histogram := _main_set(row).get("score_histogram")) is not None
    ]


@dataclass(frozen=True)
class Verdicts:
    """Comparisons by where the page has them: open, or folded for one of two reasons."""

    shown: tuple[Comparison, ...]
    without_claim: tuple[Comparison, ...]
    earlier: tuple[Comparison, ...]


def sort_verdicts(data: ReportData) -> Verdicts:
    """Return which comparisons stand open: of the last rounds those that allow a claim.

    What became of the first arm since round 0 comes first and stands open in any case, since it is what
    a reader wants to know.
    """
    last = {name: max(c.round for c in data.comparisons if c.arm == name) for name in _arms(data)}
    current = [c for c in data.comparisons if c.round == last[c.arm]]
    earlier = tuple(c for c in data.comparisons if c.round != last[c.arm])
    sets = list(dict.fromkeys(c.negatives for c in current))
    leader = arm_order([row.arm for row in data.rows])[:1]
    lead = [c for c in current if [c.arm] == leader and c.with_itself and c.negatives == sets[0]]
    rest = sorted(
        (c for c in current if c not in lead), key=lambda c: ([c.arm] != leader, c.with_itself)
    )
    shown = [c for c in rest if wording.allows_claim(c)]
    without_claim = tuple(c for c in rest if not wording.allows_claim(c))
    return Verdicts((*lead, *shown), without_claim, earlier)


def verdict_lines(data: ReportData) -> list[str]:
    """Return what the open verdicts on the first arm and the first negative set say, a line for each."""
    verdicts = sort_verdicts(data)
    shown = [c for c in verdicts.shown if _with_the_same(c, verdicts.shown[0])]
    lines = [f"{wording.what_happened(c)} {wording.claim(c)}" for c in shown]
    open_ = [c for c in verdicts.without_claim if shown and _with_the_same(c, shown[0])]
    controls = [c for c in open_ if not c.with_itself and c.against_arm]
    if against := [c.against_arm for c in controls if wording.is_measured(c)]:
        lines.append(
            f"No difference between arm {shown[0].arm} and {wording.arms_phrase(against)} is shown."
        )
    unknown = [c for c in controls if not wording.is_measured(c)]
    if unknown:
        others = wording.arms_phrase([c.against_arm for c in unknown])
        why = unknown[0].ratio.get("note") or "the alarms are not known"
        lines.append(f"Arm {shown[0].arm} cannot be compared with {others}: {why}.")
    return lines


def _with_the_same(comparison: Comparison, other: Comparison) -> bool:
    """Return whether both are of one arm on one set of negatives."""
    return (comparison.arm, comparison.negatives) == (other.arm, other.negatives)


def _arms(data: ReportData) -> list[str]:
    return list(dict.fromkeys(c.arm for c in data.comparisons))


def headline(rows: Sequence[RoundRow]) -> list[Tile]:
    """Return the figures for the top of the page: first round against the last of one arm."""
    if not rows:
        return []
    first, last = _ends(rows)[0], _ends(rows)[-1]
    was, now = first.figures, last.figures
    before = was if last is not first else None

    def earlier(key: str, show: Any) -> str:
        """Return the figure before, as text; empty where there is none."""
        return "" if before is None else str(show(before.get(key)))

    interval = now.get("interval")
    tiles = [
        Tile(
            "false alarms per image at recall 0.8",
            wording.rate(now.get(ALARMS)),
            earlier(ALARMS, wording.rate),
            f"95 %: {wording.limits(interval)}"
            if interval
            else "recall not reached, or no negatives",
        ),
        Tile("AP50", wording.number(now.get("AP50")), earlier("AP50", wording.number)),
        Tile("AP", wording.number(now.get("AP")), earlier("AP", wording.number)),
        Tile(
            "score threshold",
            wording.score(now.get("score_threshold")),
            earlier("score_threshold", wording.score),
            f"recall {wording.number(now.get('recall'))}"
            + (", weak: below 0.2" if advice.is_weak(now.get("score_threshold")) else ""),
        ),
    ]
    added = [row.negatives_added for row in rows if row.arm == last.arm and row.negatives_added]
    if added:
        rounds = counted(len(added), "round")
        tiles.append(Tile("negatives added", str(sum(added)), "", f"arm {last.arm}, in {rounds}"))
    return tiles


def _round_charts(rows: Sequence[RoundRow]) -> list[str]:
    if len({row.round for row in rows}) < 2:
        return []
    charts = [ap50_figure(rows)]
    if any(row.figures.get(ALARMS) is not None for row in rows):
        charts.insert(0, alarms_figure(rows))
    return charts


def _set_names(rows: Sequence[RoundRow]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.figures.get("negatives", {}))
    return list(names)


def _video_sets(rows: Sequence[RoundRow]) -> list[str]:
    """Return the sets whose images are frames of videos."""
    names = _set_names(rows)
    return [n for n in names if any(r.of_set(n).get("frames_per_hour") is not None for r in rows)]


def alarms_per_hour(rows: Sequence[RoundRow]) -> list[str]:
    """Return a sentence for each set of frames: alarms per hour of video after the last round."""
    lines = []
    for name in _video_sets(rows):
        ends = [row.of_set(name) for row in _ends(rows)]
        rates = [part.get("alarms_per_hour") for part in ends]
        every = 3600 / ends[-1]["frames_per_hour"]
        if rates[-1] is None:
            lines.append(
                f"How many false alarms there are per hour of video is not known, because the recall "
                f"that was asked for was not reached ({wording.set_title(name)})."
            )
            continue
        before = f", {wording.rate(rates[0])} in round 0" if len(rates) > 1 else ""
        lines.append(
            f"Per hour of video there are {wording.rate(rates[-1])} false alarms{before} "
            f"({wording.set_title(name)}, a frame looked at every {every:.3g} s)."
        )
    return lines


def _section(data: ReportData, budget: Budget) -> Section | None:
    if data.worst is None:
        return None
    return shrink_gallery(data.worst, data.categories, budget, limit=PICTURES_PER_GALLERY)


Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class TelemetryPart:
    """A training on the page: sentences, and charts as elements of the page."""

    name: str
    sentences: tuple[str, ...]
    charts: tuple[tuple[str, Markup], ...]
    """Each a heading and the chart."""


def telemetry_part(
    course: TrainingCourse, index: int = 0, classes: Sequence[str] = ()
) -> TelemetryPart:
    """Return what the page says of a training.

    Args:
        index: of the part on its page, so that no two charts share a name.
        classes: those that are almost never detected; each gets a sentence.
    """
    said = (*_sentences(course), *(_of_class(course, name) for name in classes))
    return TelemetryPart(
        course.name,
        tuple(filter(None, said)),
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
        said.append(f"At the end {which} no positive, so only background is learnt there.")
    positives, negatives = (
        sum(course.at_end(f"level{level}.{side}s") or 0.0 for level in range(course.num_levels))
        for side in SIDES
    )
    if positives:
        said.append(f"For each positive, {negatives / positives:.1f} negatives were selected.")
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


def _of_class(course: TrainingCourse, name: str) -> str:
    """Return what a class's positives and the negatives beside them say; "" where nothing is known."""
    parts = [course.class_at_end(name, level) for level in range(course.num_levels)]
    images = course.at_end("images")
    if not images or course.at_end(f"level0.own.{name}.positives") is None:
        return ""
    counts = [0.0 if part is None else part.positives for part in parts]
    start = f"Class {name!r}, which is almost never detected, "
    if not sum(counts):
        return f"{start}has no positive at the end: no image with it was drawn, or no prior reaches it."
    top = max(range(course.num_levels), key=lambda level: counts[level])
    own = sum(part.own * part.positives for part in parts if part is not None) / sum(counts)
    others = course.other_classes_at_end(name)
    against = "" if others is None else f" (the other classes {wording.number(others, 2)})"
    negatives = course.at_end(f"level{top}.negatives") or 0.0
    return (
        f"{start}has {wording.rate(sum(counts) / images)} positives per image, "
        f"{share(counts[top] / sum(counts))} of them on level {top}{_place(top, course.num_levels)}, "
        f"where {negatives / counts[top]:.1f} negatives are selected for each of them. The detector "
        f"gives its positives a probability of {wording.number(own, 2)} for it{against}."
    )


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
