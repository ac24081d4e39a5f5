"""What YOLO and VOC cannot say, kept in a small file beside their labels.

``hardmine.json`` in the label folder holds, for those images that need it, the state, the objects
to ignore and where the image came from, by the image's path below the image folder::

    {"images": {"cam1/0042.jpg": {"state": "assumed_empty", "ignore": [0], "source": "pool"}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import relative_name
from hardmine.errors import DataError
from hardmine.files import read_json, write_json
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord, ImageState, Problem

STATES_FILE = "hardmine.json"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the side file says of one image. ``ignore`` counts objects in the label file's order."""

    state: ImageState | None = None
    ignore: frozenset[int] = frozenset()
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.state or self.ignore or self.source)


NO_MARK = Mark()


def parse_state(value: object) -> ImageState | None:
    """Return the state of that name, or None where there is no such state."""
    return next((state for state in ImageState if state.value == value), None)


def read_marks(folder: Path, root: Path, problems: list[Problem]) -> dict[str, Mark]:
    """Read the side file of a label folder; without one, nothing is marked.

    A broken file or entry is added to ``problems`` and the rest is used.
    """
    path = folder / STATES_FILE
    if not path.is_file():
        return {}
    name = relative_name(path, root)
    try:
        entries = read_json(path)["images"].items()
    except (DataError, KeyError, TypeError, AttributeError) as error:
        problems.append(Problem(FindingKind.STATES_BROKEN, name, -1, f"cannot be read ({error!r})"))
        return {}
    marks: dict[str, Mark] = {}
    for index, (image, entry) in enumerate(entries):
        try:
            marks[image] = _mark(entry)
        except (TypeError, ValueError, AttributeError) as error:
            problems.append(Problem(FindingKind.STATE_UNKNOWN, name, index, f"{image}: {error}"))
    return marks


def write_marks(folder: Path, marks: Mapping[str, Mark]) -> None:
    """Write the side file; without marks there is none."""
    path = folder / STATES_FILE
    if not any(marks.values()):
        path.unlink(missing_ok=True)
        return
    write_json(path, {"images": {name: _entry(mark) for name, mark in marks.items() if mark}})


def has_label_file(record: ImageRecord) -> bool:
    """Return whether other programs may take the image's (lack of) objects at its word."""
    return bool(len(record.labels)) or record.state.is_trainable


def mark_of(record: ImageRecord, ignored: frozenset[int] = frozenset()) -> Mark:
    """Return what the label file, or its absence, does not say of an image."""
    implied = ImageState.UNREVIEWED
    if has_label_file(record):
        implied = ImageState.LABELLED if len(record.labels) else ImageState.VERIFIED_EMPTY
    return Mark(None if record.state is implied else record.state, ignored, record.source)


def write_plain(path: Path, text: str) -> None:
    """Write one of many label files; the caller makes their folder appear when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _mark(entry: Mapping[str, Any]) -> Mark:
    state = ImageState(entry["state"]) if entry.get("state") is not None else None
    ignore = frozenset(int(index) for index in entry.get("ignore", ()))
    return Mark(state, ignore, str(entry.get("source", "")))


def _entry(mark: Mark) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if mark.state is not None:
        entry["state"] = mark.state.value
    if mark.ignore:
        entry["ignore"] = sorted(mark.ignore)
    if mark.source:
        entry["source"] = mark.source
    return entry
