"""A score threshold and its promise: the rows, what they say in words, and the page with its charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.operating_promise import (
    AlarmPromise,
    Hits,
    RecallFigures,
    RecallPromise,
    promised_by_none,
    share_limits,
)
from hardmine.files import write_text
from hardmine.plurals import counted
from hardmine.reports.html_page import draw_chart, render_page, series_color
from hardmine.reports.wording import ABSENT, score_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 60
_LINES = 6
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class FiringShare:
    """How many of ``images`` empty images fire at a score, with exact two-sided limits."""

    firing: int
    images: int
    low: float
    high: float


def firing_share(alarms: AlarmScores, score: float | None, confidence: float) -> FiringShare | None:
    """Return how many empty images fire at a score; None without a score or images."""
    if score is None or not alarms.num_images:
        return None
    firing = len(np.unique(alarms.image[: int(alarms.count_at(score))]))
    low, high = share_limits(firing, alarms.num_images, confidence)
    return FiringShare(firing, alarms.num_images, low, high)


@dataclass(frozen=True)
class ThresholdRow:
    """One line of a table: all classes, one class, or one group of images (a camera).

    ``firing`` and ``recall`` are measured at the row's own threshold, ``firing_at_common`` at that of
    the first row.
    """

    name: str
    kind: Literal["all", "class", "group"]
    promise: AlarmPromise | RecallPromise
    firing: FiringShare | None
    firing_at_common: FiringShare | None
    recall: RecallFigures
    alarms: AlarmScores = field(repr=False)
    hits: Hits = field(repr=False)

    @property
    def score(self) -> float | None:
        """The threshold, inclusive; None where the promise cannot be given."""
        return self.promise.score_threshold

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {
            "name": self.name,
            "kind": self.kind,
            "promise": asdict(self.promise),
            "firing": None if self.firing is None else asdict(self.firing),
            "firing_at_common": None
            if self.firing_at_common is None
            else asdict(self.firing_at_common),
            "recall": asdict(self.recall),
        }


HEADINGS = (
    "",
    "threshold",
    "empty images",
    "fire there",
    "limits",
    "fire at the common threshold",
    "limits",
    "objects",
    "recall there",
    "limits",
    "images found",
    "missing images",
)


def cells(row: ThresholdRow) -> list[str]:
    """Return one row of the table, for terminal and page."""
    recall, at_common = row.recall, row.firing_at_common
    reached = row.score is not None
    return [
        row.name,
        shown_score(row.promise),
        str(row.alarms.num_images),
        ABSENT if row.firing is None else str(row.firing.firing),
        ABSENT if row.firing is None else _range(row.firing.low, row.firing.high),
        ABSENT if at_common is None else str(at_common.firing),
        ABSENT if at_common is None else _range(at_common.low, at_common.high),
        str(recall.objects),
        f"{recall.recall:.3f}" if reached and recall.recall is not None else ABSENT,
        f"{recall.limits[0]:.3f} to {recall.limits[1]:.3f}" if reached else ABSENT,
        f"{recall.images_found} of {recall.images}" if reached else ABSENT,
        f"{row.promise.further_images:,}" if row.promise.further_images else ABSENT,
    ]


def percent(share: float) -> str:
    """Return a measured share in percent with digits that suit its size: 0.33 %, 12 % or 99.7 %."""
    value = 100.0 * share
    if 10 <= value <= 99 or value in (0, 1, 2, 5, 100):
        return f"{value:.0f} %"
    return f"{value:.{1 if 1 <= value <= 99.9 else 2}f} %"


def exact_percent(share: float) -> str:
    """Return a share that was asked for in percent, never rounded: 99.9 % is no promise of 100 %."""
    return f"{100.0 * share:.10g} %"


def _range(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def statements(row: ThresholdRow) -> list[str]:
    """Return what a row says, in whole sentences: the promise first, then what it costs."""
    promise = row.promise
    if isinstance(promise, AlarmPromise):
        said, filters = _of_alarms(row, promise), False
    else:
        said, filters = _of_recall(promise), True
    if row.score is None:
        return said
    said.append(_recall_sentence(row.recall, promise.confidence))
    if filters and row.firing is not None:
        quiet = row.firing.images - row.firing.firing
        limits = _range(1 - row.firing.high, 1 - row.firing.low)
        said.append(
            f"With this score {quiet} of {row.firing.images} empty images have no detection and are "
            f"filtered out ({percent(quiet / row.firing.images)}, {_interval(promise)} {limits})."
        )
    return said


def promise_sentence(promise: AlarmPromise | RecallPromise) -> str:
    """Return what a threshold promises, as it is kept in the model."""
    sure = f"with a confidence of {exact_percent(promise.confidence)}"
    score = shown_score(promise)
    if isinstance(promise, RecallPromise):
        what = (
            "objects are found"
            if promise.unit == "object"
            else "images that hold an object have one found"
        )
        return f"At score {score}, at least {exact_percent(promise.limit)} of new {what}, {sure}."
    if promise.unit == "alarms":
        return (
            f"At score {score} new empty images have at most {promise.limit:g} alarms each on average "
            f"(of one image at most {promise.cap} count), {sure}."
        )
    return (
        f"At score {score} at most {exact_percent(promise.limit)} of new empty images fire, {sure}."
    )


def shown_score(promise: AlarmPromise | RecallPromise) -> str:
    """Return the threshold with four digits or more, rounded to the side on which the promise holds."""
    if promise.score_threshold is None:
        return ABSENT
    round_ = math.ceil if isinstance(promise, AlarmPromise) else math.floor
    digits = score_digits(promise.score_threshold, 4)
    return f"{round_(promise.score_threshold * 10**digits) / 10**digits:.{digits}f}"


def _of_alarms(row: ThresholdRow, promise: AlarmPromise) -> list[str]:
    if promise.score_threshold is None:
        return [_cannot(promise)]
    firing = promise.firing or 0
    seen = (
        f"On these {promise.images} images {counted(firing, 'fires', 'fire')}"
        f" ({percent(firing / promise.images)}), with {counted(promise.alarms or 0, 'alarm')}."
    )
    said = [promise_sentence(promise), seen]
    sample = promise.sample_threshold
    if sample is not None and sample < promise.score_threshold:
        by_share = promise.unit == "images"
        wanted = exact_percent(promise.limit) if by_share else f"{promise.limit:g}"
        said.append(
            f"The sample alone reaches {wanted} at score {sample:.3f}; the difference is what the "
            "promise costs, and more empty images make it smaller."
        )
    return said


def _cannot(promise: AlarmPromise) -> str:
    unit = "share of images that fire" if promise.unit == "images" else "number of alarms per image"
    best = promised_by_none(promise.images, promise.confidence)
    limit = f"{promise.limit:g}"
    without = counted(
        promise.images,
        "image without a single alarm promises",
        "images without a single alarm promise",
    )
    able = (
        f"{without} a share of {best:.2g}, and {limit} is asked for"
        if promise.unit == "images"
        else f"{counted(promise.images, 'image is', 'images are')} too few for a {unit} of {limit}"
    )
    needed = _needed(promise.further_images, "further empty image", "further empty images")
    return f"The promise cannot be given at any score: {able}. {needed}, and more if one of them fires."


def _needed(number: int, one: str, many: str) -> str:
    """Say how many images are needed at least."""
    return f"At least {number:,} {f'{one} is' if number == 1 else f'{many} are'} needed"


def _of_recall(promise: RecallPromise) -> list[str]:
    if promise.score_threshold is not None:
        return [promise_sentence(promise)]
    what = "objects" if promise.unit == "object" else "images with an object"
    if promise.further_images:
        have = f"{counted(promise.images, 'image')} with {counted(promise.objects, 'object')}"
        few = "is" if promise.images == 1 else "are"
        needed = _needed(
            promise.further_images, "further image with objects", "further images with objects"
        )
        return [
            f"The promise cannot be given at any score: {have} {few} too few for "
            f"{exact_percent(promise.limit)}. {needed}, and more if an object in them is missed."
        ]
    highest = 0.0 if promise.highest is None else promise.highest
    way = "A better detector is needed, or a lower recall."
    if highest > promise.limit:
        way = "More images with objects are needed, a better detector, or a lower recall."
    return [
        f"The promise cannot be given at any score: even when every detection counts, the detector "
        f"finds {percent(highest)} of the {what}, and {exact_percent(promise.limit)} is asked for with "
        f"a confidence of {exact_percent(promise.confidence)}. {way}"
    ]


def _recall_sentence(recall: RecallFigures, confidence: float) -> str:
    if recall.recall is None:
        return "There is no object of this kind to measure recall on."
    low, high = recall.limits
    image_low, image_high = recall.image_limits
    return (
        f"There it finds {recall.found} of {recall.objects} objects: recall {recall.recall:.3f} "
        f"({exact_percent(confidence)} interval {low:.3f} to {high:.3f}), and an object in "
        f"{recall.images_found} of {recall.images} images ({image_low:.3f} to {image_high:.3f})."
    )


def _interval(promise: AlarmPromise | RecallPromise) -> str:
    return f"{exact_percent(promise.confidence)} interval"


def write_threshold_page(
    path: Path, tables: Sequence[Sequence[ThresholdRow]], notes: Sequence[str]
) -> None:
    """Write the tables, what they say and their charts as one HTML page, atomically."""
    from markupsafe import Markup

    sections = [
        {
            "heading": _heading(rows[0].promise),
            "statements": statements(rows[0]),
            "rows": [cells(row) for row in rows],
            "charts": [Markup(chart) for chart in _charts(rows, f"table{number}")],
        }
        for number, rows in enumerate(tables)
    ]
    page = render_page(
        "hardmine.reports",
        "threshold.html",
        title="Score threshold",
        sections=sections,
        headings=HEADINGS,
        notes=list(notes),
    )
    write_text(path, page)


def _heading(promise: AlarmPromise | RecallPromise) -> str:
    if isinstance(promise, RecallPromise):
        what = "objects" if promise.unit == "object" else "images with an object"
        return f"At least {exact_percent(promise.limit)} of {what} found"
    if promise.unit == "alarms":
        return (
            f"At most {promise.limit:g} alarms per empty image (at most {promise.cap} of one count)"
        )
    return f"At most {exact_percent(promise.limit)} of empty images fire"


def _charts(rows: Sequence[ThresholdRow], name: str) -> list[str]:
    found = []
    if rows[0].alarms.num_images:
        found.append(_firing_chart(rows, f"{name}-fires"))
    if len(rows[0].hits.objects):
        found.append(_recall_chart(rows, f"{name}-recall"))
    return found


def _firing_chart(rows: Sequence[ThresholdRow], name: str) -> str:
    """Return the share of empty images that fire against the score, with the limits of all."""

    def draw(axes: Axes) -> None:
        """Draw the share of images that fire over the threshold, with limits for the first row."""
        for index, row in enumerate(rows[:_LINES]):
            scores, shares = _firing_curve(row.alarms)
            label = f"{row.name} ({row.alarms.num_images})"
            axes.plot(scores, shares, color=series_color(index), label=label)
            if index == 0:
                total, count = row.alarms.num_images, np.rint(shares * row.alarms.num_images)
                confidence = row.promise.confidence
                limits = [share_limits(int(k), total, confidence) for k in count.tolist()]
                low, high = (np.maximum(part, _LEAST_SHARE) for part in zip(*limits, strict=True))
                axes.fill_between(scores, low, high, color=series_color(0), alpha=0.16, linewidth=0)
        _mark(axes, rows[0])
        promise = rows[0].promise
        if isinstance(promise, AlarmPromise) and promise.unit == "images":
            axes.axhline(promise.limit, color=series_color(4), linestyle="dashed", linewidth=1.4)
        axes.set(yscale="log", ylim=(_LEAST_SHARE * 5, 1.1), xlim=(0, 1.03))
        axes.set(xlabel="score threshold", ylabel="share of empty images that fire")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(loc="upper right")

    return draw_chart(name, "share of empty images that fire against the score", 3.8, draw)


def _firing_curve(alarms: AlarmScores) -> tuple[Any, Any]:
    _, first = np.unique(alarms.image, return_index=True)
    best = np.sort(alarms.score[first])
    scores = np.unique(np.concatenate([np.linspace(0.02, 1.0, _POINTS), [0.999]]))
    firing = len(best) - np.searchsorted(best, scores.astype(np.float32), side="left")
    return scores, np.maximum(firing / max(1, alarms.num_images), _LEAST_SHARE)


def _recall_chart(rows: Sequence[ThresholdRow], name: str) -> str:
    """Return the share of objects found against the score."""

    def draw(axes: Axes) -> None:
        """Draw the share of objects found over the threshold."""
        scores = np.linspace(0.0, 1.0, 2 * _POINTS)
        for index, row in enumerate(rows[:_LINES]):
            objects = int(row.hits.objects.sum())
            if not objects:
                continue
            found = len(row.hits.score) - np.searchsorted(
                np.sort(row.hits.score), scores.astype(np.float32), side="left"
            )
            label = f"{row.name} ({objects})"
            axes.plot(scores, found / objects, color=series_color(index), label=label)
        _mark(axes, rows[0])
        if isinstance(rows[0].promise, RecallPromise):
            limit = rows[0].promise.limit
            axes.axhline(limit, color=series_color(4), linestyle="dashed", linewidth=1.4)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.02), xlabel="score threshold", ylabel="recall")
        axes.legend(loc="lower left")

    return draw_chart(name, "recall against the score", 3.8, draw)


def _mark(axes: Axes, row: ThresholdRow) -> None:
    if row.score is not None:
        axes.axvline(row.score, color=series_color(2), linestyle="dotted", linewidth=1.6)
