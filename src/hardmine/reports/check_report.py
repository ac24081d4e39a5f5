"""The page of ``hardmine check``: one HTML file with a picture of everything that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hardmine.data.images import read_image
from hardmine.data.quality.check_dataset import CheckReport
from hardmine.data.quality.findings import Finding, by_severity
from hardmine.errors import DataError
from hardmine.evaluation.source_shortcut import ShortcutReport
from hardmine.files import write_text
from hardmine.finding_kinds import FindingKind, Severity
from hardmine.reports.drawing import QUALITY, Budget, Thumbnail, strip, with_margin
from hardmine.reports.page_shell import jpeg_uri, render_page

PICTURE_BYTES = 8_000_000
PICTURES_PER_KIND = 12
LISTED_PER_KIND = 500
_SIDE = 320
_SIDES_BY_SIDE = 4


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
    budget = Budget(PICTURE_BYTES)
    return render_page(
        "hardmine.reports",
        "check.html",
        report=report,
        shortcut=shortcut,
        notes=notes,
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
            panels.append(with_margin(read_image(path), boxes, side))
    except DataError as error:
        return Thumbnail("", 0, 0, str(finding), str(error))
    picture = strip(panels)
    uri = jpeg_uri(picture, QUALITY, sharp_colours=False)
    return Thumbnail(uri, *picture.size, str(finding))


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
