"""Writing a repaired copy of a dataset, and a list of all that was changed and why.

What is repaired follows from the labels and files alone: boxes in another form than their format's,
swapped corners, boxes over the edge, objects labelled twice, labels drawn on an unturned or scaled
picture (where the boxes of the whole set decide; else they stay where they are), images that do not
decode, training images that repeat an image of a later split. What a person must look at (odd sizes,
two classes in one place, whole-image boxes) is left and stays reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardmine.data.convert import Conversion, convert
from hardmine.data.formats.image_files import relative_name
from hardmine.data.formats.label_validation import RawSplit, check_boxes, object_table
from hardmine.data.load_dataset import build_splits
from hardmine.data.quality.image_checks import Inspected, group_copies
from hardmine.data.quality.label_checks import find_suspects
from hardmine.data.quality.label_coordinates import (
    FORMS,
    FormVerdict,
    Reading,
    judge_units,
    to_xyxy,
    written_numbers,
)
from hardmine.data.quality.usable_data import PlacedSplit, judge_forms, place_splits
from hardmine.files import csv_text, write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageRecord, ImageState, Mask

CHANGES_FILE = "changes.csv"
COLUMNS = ("split", "file", "index", "change", "before", "after", "reason")
_LAST = ("test", "val")
"""Of copies in several splits, the one in the first of these stays (then any but train's)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that the copy has otherwise than the data; ``index`` −1: the whole file."""

    split: str
    file: str
    index: int
    change: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What was written where, and all changes, also in ``changes.csv``."""

    conversion: Conversion
    changes: tuple[Change, ...]


def repair(
    raws: Mapping[str, RawSplit],
    seen: Sequence[Inspected],
    out: Path | str,
    *,
    link: bool = False,
) -> Repair:
    """Write a repaired copy in COCO's format, images and states included.

    Args:
        raws: the splits as `read_splits` gives them.
        seen: their images as `inspect_images` gives them.
        out: a folder that is missing or empty.
        link: hard links to the images instead of copies. Images are never re-encoded.

    Raises:
        DataError: ``out`` holds something, or the copy cannot be written.
    """
    changes: list[Change] = []
    headers = {i.record.path: (i.size, i.turn) for i in seen if i.hash is not None}
    forms = judge_forms(raws, headers)
    mended = {name: _mend_boxes(name, raw, forms.get(name), changes) for name, raw in raws.items()}
    for name, placed in place_splits(mended, headers).items():
        mended[name] = _mend_sizes(name, mended[name], placed, changes)
    splits = build_splits(mended)
    for name, dataset in splits.items():
        changes += _judged(name, dataset)
    opened = {(image.split, image.record.path): image for image in seen}
    leaks = _leaks([image for image in seen if image.split in splits])
    for name, dataset in splits.items():
        kept = _mend_records(name, dataset, opened, leaks, changes)
        splits[name] = _without_doubles(name, dataset.with_records(kept), changes)
    done = convert(splits, out, "coco", link=link)
    write_text(done.out / CHANGES_FILE, _table(changes))
    return Repair(done, tuple(changes))


def _mend_boxes(
    split: str, raw: RawSplit, verdict: FormVerdict | None, changes: list[Change]
) -> RawSplit:
    """Read the boxes in the form that explains them, and put swapped corners in order."""
    table, boxes = object_table(raw), object_table(raw).boxes.copy()
    numbers, sizes = written_numbers(raw)
    mixed = judge_units(raw)
    why = np.full(len(boxes), "", object)
    if mixed is not None:
        boxes[mixed.rows] = to_xyxy(mixed.other, numbers, sizes)[mixed.rows]
        why[mixed.rows] = f"read as {FORMS[mixed.other][0]}"
    elif verdict is not None and verdict.decided:
        boxes = to_xyxy(verdict.best, numbers, sizes)
        why[:] = f"read as {FORMS[verdict.best][0]}"
    ordered = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), boxes[:, :2]], axis=1)
    ordered[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
    _, fault, _ = check_boxes(ordered, sizes)
    swapped = (ordered != boxes).any(axis=1) & (fault == 0)
    boxes[swapped] = ordered[swapped]
    why[swapped & (why == "")] = "corners were swapped"
    for row in np.flatnonzero(why != "").tolist():
        image = raw.images[table.owner[row]]
        before, after = (" ".join(f"{v:.7g}" for v in b) for b in (table.boxes[row], boxes[row]))
        place = int(table.places[row])
        changes.append(Change(split, image.file, place, "box read anew", before, after, why[row]))
    return replace(raw, table=replace(table, boxes=boxes))


_PLACED = {
    Reading.AS_WRITTEN: "size set",
    Reading.SCALED: "size and boxes scaled",
    Reading.UPRIGHT: "size set",
    Reading.TURNED: "size and boxes turned",
    Reading.UNKNOWN: "size set, image unreviewed",
}


def _mend_sizes(split: str, raw: RawSplit, placed: PlacedSplit, changes: list[Change]) -> RawSplit:
    """List the images whose labels said another size; those that cannot be placed are unreviewed."""
    lost = set(placed.unplaced())
    for index, verdict in enumerate(placed.verdicts):
        if verdict is None:
            continue
        was, now = raw.images[index], placed.raw.images[index]
        before, after = ((i.width, i.height) for i in (was, now))
        reading = Reading.AS_WRITTEN if verdict.reading is Reading.UNKNOWN else verdict.reading
        change = _PLACED[Reading.UNKNOWN if index in lost else reading]
        if before == after:
            change = "boxes turned"
        name = relative_name(was.path, raw.root)
        sizes = (f"{before[0]} x {before[1]}", f"{after[0]} x {after[1]}")
        changes.append(Change(split, name, -1, change, *sizes, verdict.describe(before, after)))
        if index in lost:
            now.state = ImageState.UNREVIEWED
    return placed.raw


def _judged(split: str, dataset: Dataset) -> list[Change]:
    """Turn what reading and judging left out or altered into changes."""
    fixed = (p for p in dataset.problems if p.kind.fix)
    return [Change(split, p.file, p.index, p.kind.fix, "", "", p.reason) for p in fixed]


def _leaks(seen: Sequence[Inspected]) -> dict[tuple[str, Path], Inspected]:
    """Return the images to leave out since another split has a copy of them that stays."""
    leaks: dict[tuple[str, Path], Inspected] = {}
    for group in group_copies(seen):
        members = [seen[index] for index in group.members]
        sides = {image.split for image in members}
        if len(sides) < 2:
            continue
        stays = next((n for n in (*_LAST, *sorted(sides - {"train"})) if n in sides), "")
        kept = [image for image in members if image.split == stays]
        for m in members:
            if m.split != stays:
                copy = next((image for image in kept if image.file == m.file), kept[0])
                leaks[m.split, m.record.path] = copy
    for name in dict.fromkeys(image.split for image in seen):
        whole = {(image.split, image.record.path) for image in seen if image.split == name}
        if whole <= leaks.keys():  # a split that repeats another as a whole: a person decides
            leaks = {key: value for key, value in leaks.items() if key not in whole}
    return leaks


def _mend_records(
    split: str,
    dataset: Dataset,
    opened: Mapping[tuple[str, Path], Inspected],
    leaks: Mapping[tuple[str, Path], Inspected],
    changes: list[Change],
) -> list[ImageRecord]:
    kept: list[ImageRecord] = []
    for record in dataset.records:
        name = relative_name(record.path, dataset.root)
        image = opened.get((split, record.path))
        other = leaks.get((split, record.path))
        if image is not None and image.hash is None:
            reason = image.findings[0].reason
            changes.append(Change(split, name, -1, "image left out", "", "", reason))
        elif other is not None:
            same = other.record.path == record.path
            words = f"the same file is in {other.split}"
            reason = words if same else f"near-copy of {other.name} ({other.split})"
            changes.append(Change(split, name, -1, "image left out", "", "", reason))
        else:
            kept.append(record)
    return kept


def _keep(record: ImageRecord, rows: Mask) -> ImageRecord:
    boxes, labels, ignore = record.boxes[rows], record.labels[rows], record.ignore[rows]
    return replace(record, boxes=boxes, labels=labels, ignore=ignore)


def _without_doubles(split: str, dataset: Dataset, changes: list[Change]) -> Dataset:
    """Remove the second label of objects that are labelled twice with one class."""
    double: dict[Path, dict[int, str]] = {}
    for problem in find_suspects(split, dataset):
        if problem.kind is FindingKind.BOX_TWICE and problem.image is not None:
            double.setdefault(problem.image, {})[problem.index] = problem.reason
    records: list[ImageRecord] = []
    for record in dataset.records:
        places = double.get(record.path, {})
        keep = np.array([index not in places for index in range(len(record.labels))], np.bool_)
        name = relative_name(record.path, dataset.root)
        for place, reason in places.items():
            before = " ".join(f"{value:.7g}" for value in record.boxes[place].tolist())
            changes.append(Change(split, name, place, "box removed", before, "", reason))
        records.append(_keep(record, keep) if places else record)
    return dataset.with_records(records)


def _table(changes: Sequence[Change]) -> str:
    rows = ((c.split, c.file, c.index, c.change, c.before, c.after, c.reason) for c in changes)
    return csv_text([COLUMNS, *rows])
