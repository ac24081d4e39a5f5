"""The page of a diagnosis: the answer, a table of all verdicts, and evidence and pictures of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from hardmine.data.images import read_image
from hardmine.diagnosis.diagnosis_result import Answer, Diagnosis, Finding, Verdict
from hardmine.diagnosis.evidence import Evidence
from hardmine.diagnosis.hypotheses import missing_labels
from hardmine.diagnosis.probe import FOUND, TOUCHED, SetProbe
from hardmine.errors import DataError
from hardmine.reports.html_page import draw_chart, jpeg_uri, render_page, series_color
from hardmine.types import Dataset, evenly_spread

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


PICTURES = 8
_SIDE, _MARGIN = 220, 0.6
_LABEL, _DETECTION, _PRIOR = (255, 255, 255), (255, 59, 48), (255, 214, 10)

Boxes = Sequence[tuple[Sequence[float], tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the page."""

    uri: str
    caption: str


def example_pictures(key: str, evidence: Evidence | None) -> Iterator[Shown]:
    """Yield examples of what the verdict on a hypothesis is about.

    Labels are white, detections red, and priors that were trained as background yellow.
    """
    if evidence is None or evidence.data is None or evidence.train is None:
        return
    objects = evidence.data.subset(lambda record: len(record.labels) > 0)
    match key:
        case "labels":
            for each in missing_labels(evidence.train)[:PICTURES]:
                name = evidence.categories[each.label - 1]
                caption = f"{name} {each.score:.2f}, no label"
                yield from _crop(
                    objects, each.image, each.box, [(each.box.tolist(), _DETECTION)], caption
                )
        case "ambiguity":
            half = (evidence.train.object_iou >= TOUCHED) & (evidence.train.object_iou < FOUND)
            yield from _objects(objects, evidence.train, half, "overlap only in part, IoU {:.2f}")
        case "capacity":
            missed = evidence.train.object_iou < TOUCHED
            yield from _objects(objects, evidence.train, missed, "not found")
        case "priors":
            yield from _uncovered(objects, evidence)
        case "floor":
            yield from _empty_images(evidence.data)
        case "levels":
            yield from _of_each_level(objects, evidence)
        case "localisation":
            yield from _badly_balanced(objects, evidence)
        case "gradient":
            yield from _hard_negatives(objects, evidence)
        case _:
            return


def _objects(data: Dataset, probe: SetProbe, chosen: np.ndarray, text: str) -> Iterator[Shown]:
    for row in _shown(np.flatnonzero(chosen)):
        boxes = [(probe.object_box[row].tolist(), _LABEL)]
        if np.isfinite(probe.detected_box[row]).all():
            boxes.append((probe.detected_box[row].tolist(), _DETECTION))
        label = data.categories[int(probe.object_label[row]) - 1]
        caption = f"{label}, {text.format(probe.object_iou[row], probe.object_score[row])}"
        around = np.array([box for box, _ in boxes])
        whole = [*around[:, :2].min(0), *around[:, 2:].max(0)]
        yield from _crop(data, int(probe.object_image[row]), whole, boxes, caption)


def _uncovered(data: Dataset, evidence: Evidence) -> Iterator[Shown]:
    coverage = evidence.coverage
    if coverage is None:
        return
    for row in coverage.best.iou.argsort()[:PICTURES].tolist():
        record = data.records[int(coverage.boxes.image[row])]
        place = evidence.recipe.resize.place(record.width, record.height)
        box = place.inverse(coverage.boxes.boxes[row : row + 1])[0].tolist()
        caption = f"best prior: IoU {coverage.best.iou[row]:.2f}"
        yield from _crop(data, int(coverage.boxes.image[row]), box, [(box, _LABEL)], caption)


def _empty_images(data: Dataset) -> Iterator[Shown]:
    rows = [index for index, record in enumerate(data.records) if not len(record.labels)]
    for row in _shown(np.array(rows, np.int64)):
        record = data.records[row]
        whole = [0.0, 0.0, float(record.width), float(record.height)]
        yield from _crop(data, row, whole, [], "trained on, and teaches nothing")


def _of_each_level(data: Dataset, evidence: Evidence) -> Iterator[Shown]:
    """Yield objects of each level, those first that are not found; few levels give more of each."""
    coverage, probe = evidence.coverage, evidence.train
    if coverage is None or probe is None:
        return
    met = {
        (int(image), *np.round(box, 1).tolist()): float(iou)
        for image, box, iou in zip(
            probe.object_image, probe.object_box, probe.object_iou, strict=True
        )
    }
    levels = np.unique(coverage.best.level)
    each = max(1, PICTURES // max(1, len(levels)))
    for level in levels.tolist():
        shown = []
        for row in np.flatnonzero(coverage.best.level == level).tolist():
            image = int(coverage.boxes.image[row])
            record = data.records[image]
            place = evidence.recipe.resize.place(record.width, record.height)
            box = place.inverse(coverage.boxes.boxes[row : row + 1])[0].tolist()
            iou = met.get((image, *np.round(box, 1).tolist()))
            if iou is not None:  # one of the images that were looked at
                shown.append((iou, image, box))
        for iou, image, box in sorted(shown, key=lambda one: one[0])[:each]:
            said = "found" if iou >= FOUND else "not found"
            caption = f"for level {level}, {said}"
            yield from _crop(data, image, box, [(box, _LABEL)], caption)


def _badly_balanced(data: Dataset, evidence: Evidence) -> Iterator[Shown]:
    """Yield objects whose box is good and whose score is low, or the other way round."""
    probe, found = evidence.train, evidence.gradients
    if probe is None or found is None:
        return
    rows = np.flatnonzero(probe.object_iou >= FOUND)
    boxes_win = found.boxes > found.classification
    order = (probe.object_score if boxes_win else probe.object_iou)[rows].argsort(kind="stable")
    chosen = np.zeros(len(probe.object_iou), bool)
    chosen[rows[order[:PICTURES]]] = True
    yield from _objects(data, probe, chosen, "IoU {:.2f}, score {:.2f}")


def _hard_negatives(data: Dataset, evidence: Evidence) -> Iterator[Shown]:
    """Yield the priors that cost most as background, with the labels that they overlap."""
    for each in evidence.train.hardest[:PICTURES] if evidence.train is not None else ():
        name = evidence.categories[each.label - 1]
        caption = (
            f"background that looks like {name} {each.score:.2f}, IoU {each.iou:.2f} with a label"
        )
        labels = [(box.tolist(), _LABEL) for box in data.records[each.image].boxes]
        boxes = [*labels, (each.box.tolist(), _PRIOR)]
        yield from _crop(data, each.image, each.box, boxes, caption)


def _shown(rows: np.ndarray) -> list[int]:
    """Return up to :data:`PICTURES` rows, evenly spread."""
    return [int(rows[place]) for place in evenly_spread(len(rows), PICTURES)]


def _crop(
    data: Dataset, index: int, box: Sequence[float] | np.ndarray, boxes: Boxes, caption: str
) -> Iterator[Shown]:
    """Yield the surroundings of a box, enlarged; nothing where the image cannot be read."""
    record = data.records[index]
    try:
        image = read_image(record.path)
    except DataError:
        return
    x0, y0, x1, y1 = (float(value) for value in box)
    more = _MARGIN * max(x1 - x0, y1 - y0, 8.0)
    left, top = max(0.0, x0 - more), max(0.0, y0 - more)
    right, bottom = min(float(image.width), x1 + more), min(float(image.height), y1 + more)
    scale = _SIDE / max(1.0, right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = image.convert("RGB").resize(
        size, Image.Resampling.BICUBIC, (left, top, max(right, left + 1), max(bottom, top + 1))
    )
    draw = ImageDraw.Draw(part)
    for each, colour in boxes:
        a, b, c, d = (float(value) for value in each)
        corners = ((a - left) * scale, (b - top) * scale, (c - left) * scale, (d - top) * scale)
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        draw.rectangle(corners, outline=colour, width=2)
    yield Shown(jpeg_uri(part, 82), f"{record.path.name}: {caption}")
