"""The steps before any model: as read, in every convention, and as if in another form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardmine.data.quality.box_forms import FORMS
from hardmine.data.quality.picture_sizes import turn_boxes
from hardmine.inspection.inspected_image import InspectedImage, form_words
from hardmine.inspection.inspection_page import Figure, Stage, Table
from hardmine.reports.drawing import boxed, reading
from hardmine.types import F64, ImageState

_LARGE, _SMALL = 620, 300
_READINGS = 6
"""Forms that are drawn beside the declared one."""
_SIDEWAYS = 5
"""EXIF orientations from here on exchange width and height."""
_WORTH = 0.2
"""A reading is drawn when at least this share of the split's boxes is sound under it."""


def as_read(subject: InspectedImage) -> Stage:
    """Return the image as a person sees it, with the boxes that are used."""
    record = subject.record
    names = [subject.labels.dataset.categories[label - 1] for label in record.labels.tolist()]
    picture = boxed(
        subject.picture, record.boxes.astype(np.float64), names, _LARGE, dashed=record.ignore
    )
    used = f"{len(record.boxes)} of {len(subject.numbers)} written boxes are used"
    turned = (
        f"; EXIF orientation {subject.turn}: turned upright, boxes are on the turned picture"
        if subject.turn != 1
        else "; no EXIF turn"
    )
    size = f"{record.width} x {record.height} px"
    dashes = ", dashed: ignored in training" if record.ignore.any() else ""
    warning = ""
    if record.state is not ImageState.LABELLED and len(subject.numbers):
        warning = f"the image is {record.state.value}: it is not trained on"
    elif len(record.boxes) < len(subject.numbers):
        warning = f"written boxes that are left out: {len(subject.numbers) - len(record.boxes)}"
    if subject.picture.size != (record.width, record.height):
        warning = f"the label says {size}, the picture is {subject.picture.size}"
    return Stage(
        "read",
        "As read",
        f"{size}{turned}. {used}{dashes}.",
        (Figure(picture, record.path.name),),
        (_convention_table(subject),),
        warning,
    )


def conventions(boxes: F64, width: float, height: float) -> dict[str, F64]:
    """Return boxes (xyxy pixels, f64[N, 4]) in each convention that label files use."""
    size = np.array([width, height, width, height], np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    xywh = np.concatenate([low, high - low], 1)
    cxcywh = np.concatenate([(low + high) / 2, high - low], 1)
    return {
        "xyxy px": boxes,
        "xywh px (COCO)": xywh,
        "cxcywh px": cxcywh,
        "xyxy shares": boxes / size,
        "cxcywh shares (YOLO)": cxcywh / size,
    }


def _convention_table(subject: InspectedImage) -> Table:
    form = subject.labels.raw.form
    boxes = subject.read_as(form)
    coded = conventions(boxes, subject.record.width, subject.record.height)
    columns = ("box", "class", "fate", f"written ({form})", *coded, "YOLO line")
    label_of = {name: k for k, name in enumerate(subject.labels.dataset.categories)}
    rows = []
    for index, name in enumerate(subject.names):
        shares = coded["cxcywh shares (YOLO)"][index]
        line = f"{label_of.get(name, '?')} " + " ".join(f"{v:.6f}" for v in shares.tolist())
        cells = [_numbers(values[index]) for values in coded.values()]
        written = _numbers(subject.numbers[index])
        rows.append((str(index), name, subject.fate[index], written, *cells, line))
    return Table(columns, tuple(rows))


def readings(subject: InspectedImage) -> Stage | None:
    """Return the same numbers read in other forms, as small pictures; none without boxes."""
    if not len(subject.numbers):
        return None
    labels, declared = subject.labels, subject.labels.raw.form
    shares = {form: labels.sound(form) for form in FORMS}
    best = labels.verdict.best if labels.verdict is not None else declared
    others = _distinct(subject, declared, sorted(shares, key=lambda f: (f != best, -shares[f])))
    shown = [form for form in others if shares[form] >= _WORTH or form == best][:_READINGS]
    figures = [_reading(subject, declared, shares[declared], _mark(declared, best, declared))]
    figures += [
        _reading(subject, form, shares[form], _mark(form, best, declared)) for form in shown
    ]
    if subject.turn != 1:
        figures.append(_unturned(subject))
    doubtful = labels.verdict is not None and labels.verdict.doubtful
    note = (
        "The same four numbers of each box, read as the label file declares them and as if they "
        "were in another form. Red and dashed: inside out, thinner than 2 px, or outside the image. "
        "Below each: how many boxes of this image and what share of the whole split fit. Where "
        "several forms fit, the picture decides."
    )
    warning = f"the labels look mixed up: {labels.verdict}" if doubtful else ""
    return Stage("forms", "Read in another form", note, tuple(figures), (), warning)


def _distinct(subject: InspectedImage, declared: str, order: Sequence[str]) -> list[str]:
    """Return the forms that draw other boxes than the declared one and those before them."""
    seen, kept = [subject.read_as(declared)], []
    for form in order:
        boxes = subject.read_as(form)
        if any(np.allclose(boxes, other, atol=0.5, equal_nan=True) for other in seen):
            continue
        seen.append(boxes)
        kept.append(form)
    return kept


def _reading(subject: InspectedImage, form: str, share: float, mark: str) -> Figure:
    boxes = subject.read_as(form)
    sound = subject.soundness(boxes)
    declared = "as declared: " if form == subject.labels.raw.form else "as if "
    fits = {"good": " · fits best", "bad": " · does not fit"}.get(mark, "")
    caption = (
        f"{declared}{form_words(form)} · {int(sound.sum())} of {len(boxes)} here, "
        f"{share:.0%} of the split{fits}"
    )
    return Figure(reading(subject.picture, boxes, sound, _SMALL), caption, mark)


def _mark(form: str, best: str, declared: str) -> str:
    if best != declared and form == declared:
        return "bad"
    return "good" if form == best else ""


def _unturned(subject: InspectedImage) -> Figure:
    """Return the boxes as if they were drawn on the picture before it was turned upright."""
    written = subject.read_as(subject.labels.raw.form)
    displayed = np.array([subject.record.width, subject.record.height], np.float64)
    stored = displayed[::-1] if subject.turn >= _SIDEWAYS else displayed
    number = len(written)
    boxes = turn_boxes(written, np.full(number, subject.turn), np.tile(stored, (number, 1)))
    sound = subject.soundness(boxes)
    caption = (
        f"as if drawn on the picture as stored, before EXIF {subject.turn} turned it · "
        f"{int(sound.sum())} of {len(boxes)} here"
    )
    return Figure(reading(subject.picture, boxes, sound, _SMALL), caption)


def _numbers(values: F64) -> str:
    small = np.abs(values).max(initial=0.0) <= 2.0
    return " ".join(f"{v:.4f}" if small else f"{v:.1f}" for v in values.tolist())
