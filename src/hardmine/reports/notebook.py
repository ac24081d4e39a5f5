"""How values show themselves in a notebook: small pieces of HTML with everything inside.

All text that comes from files is escaped, pictures are small JPEGs inside the page, and nothing is
fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.inference.image_loading import open_item, path_of
from hardmine.mining.mine import MiningResult
from hardmine.mining.sources.pool_source import open_image
from hardmine.plurals import counted
from hardmine.reports.drawing import draw_boxes, palette_colour
from hardmine.reports.html_page import jpeg_uri
from hardmine.reports.round_columns import table_of
from hardmine.types import F32, I64, Dataset, ImageRecord

SMALL, LARGE = 160, 400
"""Longest side in pixels of one picture among many, and of a picture alone."""
PICTURES = 8
ROWS = 20
_QUALITY = 75
_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top"


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture to show: boxes f32[N, 4] in its pixels, labels i64[N], and the line below it.

    ``path``: a file, or the name that a pool's source gave the image.
    """

    path: Path | str
    boxes: F32
    labels: I64
    caption: str


def show_dataset(dataset: Dataset) -> str:
    """Return counts per class and state, and some pictures with their boxes, evenly spread."""
    classes = table(("class", "objects"), list(dataset.count_objects().items()))
    states = ", ".join(f"{count} {state}" for state, count in dataset.count_states().items())
    lines = [
        f"<b>{counted(len(dataset), 'image')}</b> in {escape(str(dataset.root))} ({states or 'none'})"
    ]
    if dataset.problems:
        first = f"{counted(len(dataset.problems), 'problem')}, the first: {dataset.problems[0]}"
        lines.append(escape(first))
    places = np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).round().astype(int)
    records = [dataset.records[place] for place in places.tolist()]
    pictures = gallery(_shown(record, dataset.categories) for record in records)
    return "<div>" + "<br>".join(lines) + classes + pictures + "</div>"


def _shown(record: ImageRecord, categories: Sequence[str]) -> Shown:
    names = ", ".join(dict.fromkeys(categories[label - 1] for label in record.labels.tolist()))
    return Shown(
        record.path, record.boxes, record.labels, f"{record.path.name}: {names or record.state}"
    )


def show_detections(found: Detections) -> str:
    """Return the picture with its boxes, where the file is known, and a table of the detections."""
    rows = [
        (one.category or one.label, f"{one.score:.3f}", " ".join(f"{v:.0f}" for v in one.box))
        for one in found[:ROWS]
    ]
    more = f"<div>and {len(found) - ROWS} more</div>" if len(found) > ROWS else ""
    head = f"<b>{counted(len(found), 'detection')}</b>"
    if found.path is not None:
        head += f" in {escape(found.path.name)}"
    picture = "" if found.path is None else _large(found, found.path)
    text = table(("class", "score", "x1 y1 x2 y2"), rows) if rows else ""
    return f"<div>{head}{picture}{text}{more}</div>"


def _large(found: Detections, path: Path) -> str:
    try:
        small, scale = _read_small(path, LARGE)
    except DataError as error:
        return f"<div>{escape(str(error))}</div>"
    shown = replace(found, boxes=(found.boxes * scale).astype(np.float32))
    return _img(draw_boxes(small, shown, names_of(found)), found)


def names_of(found: Detections) -> tuple[str, ...]:
    """Return the class names of detections, their numbers where the names are not known."""
    if found.categories:
        return found.categories
    return tuple(f"class {label}" for label in range(1, int(found.labels.max(initial=0)) + 1))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table; a float is shown with three digits, ``None`` as a dash."""
    cells = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(_text(v))}</td>' for v in row) + "</tr>"
        for row in rows
    )
    return f'<table style="border-collapse:collapse"><tr>{cells}</tr>{body}</table>'


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def gallery(pictures: Iterable[Shown]) -> str:
    """Return small pictures with their boxes side by side; one that cannot be read says why."""
    parts = []
    for shown in pictures:
        try:
            image, scale = _read_small(shown.path, SMALL)
        except DataError as error:
            inside = f"<div>{escape(str(error))}</div>"
        else:
            _outline(image, shown.boxes * scale, shown.labels)
            inside = _img(image, shown.caption)
        caption = f'<figcaption style="font-size:11px;width:{SMALL}px;overflow-wrap:anywhere">'
        parts.append(
            f'<figure style="margin:4px">{inside}{caption}{escape(shown.caption)}</figcaption></figure>'
        )
    if not parts:
        return ""
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(parts)}</div>'


def _read_small(path: Path | str, longest: int) -> tuple[Image.Image, float]:
    """Return a picture whose longest side is at most ``longest``, and its scale."""

    def wanted(width: int, height: int) -> tuple[float, float]:
        """Return the size at which the picture is read, pixels."""
        scale = min(1.0, longest / max(width, height))
        return max(1.0, width * scale), max(1.0, height * scale)

    picture = open_item(open_image(str(path)), wanted)
    width, height = (round(side) for side in wanted(picture.width, picture.height))
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    return small.convert("RGB"), min(1.0, longest / max(picture.width, picture.height))


def _outline(image: Image.Image, boxes: F32, labels: I64) -> None:
    pen = ImageDraw.Draw(image)
    for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        pen.rectangle(corners, outline=palette_colour(label), width=2)


def _img(image: Image.Image, what: object) -> str:
    return (
        f'<img src="{jpeg_uri(image, _QUALITY)}" width="{image.width}" height="{image.height}" '
        f'style="display:block" alt="{escape(str(what))}">'
    )


def show_mining(result: MiningResult) -> str:
    """Return the hardest images with their alarms, and a table of them."""
    shown = [
        Shown(name, found.boxes, found.labels, _caption(found))
        for name, found in list(result.detections.items())[:PICTURES]
    ]
    rows = [
        (number, path_of(one.image).name, one.score, result.alarms.get(one.image))
        for number, one in enumerate(result.candidates[:ROWS], start=1)
    ]
    more = len(result.candidates) - len(rows)
    return (
        f"<div><b>{escape(repr(result))}</b>{gallery(shown)}"
        + table(("", "image", "score", "alarms"), rows)
        + (f"<div>and {more} more</div>" if more else "")
        + "</div>"
    )


def _caption(found: Detections) -> str:
    best = found[0]
    return (
        f"{best.category or best.label} {best.score:.2f}: {found.path.name if found.path else ''}"
    )


def show_loop(
    title: str, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Shown], report: Path | None
) -> str:
    """Return a loop's table, as in its report, and the hardest images of its last round.

    Args:
        rows: as in ``rounds.json``.
    """
    headings, cells = table_of(rows)
    where = f"<div>{escape(str(report))}</div>" if report else ""
    return f"<div><b>{escape(title)}</b>{table(headings, cells)}{gallery(pictures)}{where}</div>"
