"""The page of ``hardmine check``: one HTML file with a picture of everything that was found."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw

from hardmine.data.images import read_image
from hardmine.data.quality.check_dataset import CheckReport
from hardmine.data.quality.findings import Box, Finding, by_severity
from hardmine.errors import DataError
from hardmine.evaluation.source_shortcut import ShortcutReport
from hardmine.files import write_text
from hardmine.finding_kinds import FindingKind, Severity
from hardmine.reports.drawing import PALETTE
from hardmine.reports.thumbnails import QUALITY, Budget, Thumbnail

PICTURE_BYTES = 8_000_000
PICTURES_PER_KIND = 12
LISTED_PER_KIND = 500
_SIDE = 320
_SIDES_BY_SIDE = 4
_MARGIN = 0.3
"""Boxes outside their image are shown on a margin of up to this share of its sides."""
_PAPER = (214, 214, 214)


@dataclass(frozen=True, slots=True)
class KindSection:
    """All findings of one kind, ready for the page."""

    kind: FindingKind
    count: int
    thumbnails: tuple[Thumbnail, ...]
    lines: tuple[str, ...]
    more: int


def write_check_page(
    path: Path,
    report: CheckReport,
    shortcut: ShortcutReport | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, atomically; it runs no script and fetches nothing.

    Pictures stop at about 8 MB and at `PICTURES_PER_KIND` a kind; what is left out is listed.
    """
    write_text(path, render_check_page(report, shortcut, notes))


def render_check_page(
    report: CheckReport, shortcut: ShortcutReport | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the page as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    budget = Budget(PICTURE_BYTES)
    return environment.from_string(_resource("check.html")).render(
        report=report,
        shortcut=shortcut,
        notes=notes,
        style=Markup(_resource("report.css")),
        sections=[_section(kind, found, budget) for kind, found in by_severity(report.problems)],
        counts={severity: report.count(severity) for severity in Severity},
    )


def picture_of(finding: Finding) -> Thumbnail | None:
    """Return a finding's image with its boxes, near-copies beside it; None where it has no image."""
    if finding.image is None:
        return None
    paths = (finding.image, *finding.others[: _SIDES_BY_SIDE - 1])
    panels: list[Image.Image] = []
    side = _SIDE if len(paths) == 1 else _SIDE * 2 // 3
    try:
        for path in paths:
            boxes = finding.boxes if path == finding.image else ()
            panels.append(_panel(read_image(path), boxes, side))
    except DataError as error:
        return Thumbnail("", 0, 0, str(finding), str(error))
    strip = _side_by_side(panels)
    buffer = io.BytesIO()
    strip.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{code}", *strip.size, str(finding))


def _section(kind: FindingKind, found: Sequence[Finding], budget: Budget) -> KindSection:
    shown: list[Thumbnail] = []
    for finding in found:
        if len(shown) == PICTURES_PER_KIND:
            break
        thumbnail = picture_of(finding)
        if thumbnail is not None and budget.take(len(thumbnail.uri)):
            shown.append(thumbnail)
    lines = tuple(_line(finding) for finding in found[:LISTED_PER_KIND])
    more = max(0, len(found) - LISTED_PER_KIND)
    return KindSection(kind, len(found), tuple(shown), lines, more)


def _line(finding: Finding) -> str:
    return str(finding) if finding.file == finding.split else f"{finding.split}: {finding}"


def _panel(image: Image.Image, boxes: Sequence[Box], side: int) -> Image.Image:
    """Return the image, shrunk, on a margin wide enough for boxes that leave it."""
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    drawn = [_ordered(box, scale) for box in boxes if all(map(math.isfinite, box))]
    left = _overhang([-box[0] for box in drawn], width)
    top = _overhang([-box[1] for box in drawn], height)
    right = _overhang([box[2] - width for box in drawn], width)
    bottom = _overhang([box[3] - height for box in drawn], height)
    canvas = Image.new("RGB", (left + width + right, top + height + bottom), _PAPER)
    canvas.paste(small, (left, top))
    draw = ImageDraw.Draw(canvas)
    for index, (x0, y0, x1, y1) in enumerate(drawn):
        corners = (left + x0, top + y0, max(left + x1, left + x0 + 1), max(top + y1, top + y0 + 1))
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        draw.rectangle(corners, outline=PALETTE[index % len(PALETTE)], width=2)
    return canvas


def _ordered(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (value * scale for value in box)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _overhang(values: Sequence[float], length: int) -> int:
    most = max(values, default=0.0)
    return 0 if most <= 1 else min(round(most) + 3, round(_MARGIN * length))


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    if len(panels) == 1:
        return panels[0]
    height = max(panel.height for panel in panels)
    canvas = Image.new(
        "RGB", (sum(p.width for p in panels) + 4 * (len(panels) - 1), height), _PAPER
    )
    x = 0
    for panel in panels:
        canvas.paste(panel, (x, (height - panel.height) // 2))
        x += panel.width + 4
    return canvas


def _resource(name: str) -> str:
    return (files("hardmine.reports") / "templates" / name).read_text(encoding="utf-8")
