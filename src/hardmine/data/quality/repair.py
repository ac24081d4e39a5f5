"""Writing a repaired copy of a dataset, and a list of all that was changed and why.

What is repaired follows from the labels and files alone: boxes in another form than their format's,
swapped corners, boxes over the edge, objects labelled twice, labels drawn on an unturned or scaled
picture, images that do not decode, training images that repeat an image of a later split. What needs
a person's eye (odd sizes, two classes in one place, whole-image boxes) is left and stays reported.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardmine.data.convert import Conversion, convert
from hardmine.data.formats.image_paths import relative_name
from hardmine.data.formats.label_validation import RawSplit, check_boxes, object_table
from hardmine.data.images import open_picture
from hardmine.data.load_dataset import build_splits
from hardmine.data.quality.box_forms import FORMS, judge_form, to_xyxy, written_numbers
from hardmine.data.quality.image_checks import Inspected, group_copies
from hardmine.data.quality.label_checks import find_suspects
from hardmine.files import write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import F32, Dataset, ImageRecord, ImageState, Mask

CHANGES_FILE = "changes.csv"
COLUMNS = ("split", "file", "index", "change", "before", "after", "reason")
_SAME_ASPECT = 0.01
_ORIENTATION = 0x0112
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
    mended = {name: _mend_boxes(name, raw, changes) for name, raw in raws.items()}
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


def _mend_boxes(split: str, raw: RawSplit, changes: list[Change]) -> RawSplit:
    """Read the boxes in the form that explains them, and put swapped corners in order."""
    table, boxes = object_table(raw), object_table(raw).boxes.copy()
    numbers, sizes = written_numbers(raw)
    verdict = judge_form(raw)
    why = np.full(len(boxes), "", object)
    if verdict is not None and verdict.doubtful:
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


def _judged(split: str, dataset: Dataset) -> list[Change]:
    """Turn what reading and judging left out or altered into changes."""

    return [Change(split, p.file, p.index, p.kind.fix, "", "", p.reason) for p in dataset.problems]


def _leaks(seen: Sequence[Inspected]) -> dict[tuple[str, Path], Inspected]:
    """Return the images to leave out since another split has a copy of them that stays."""
    leaks: dict[tuple[str, Path], Inspected] = {}
    for group in group_copies(seen):
        members = [seen[index] for index in group.members]
        names = {image.split for image in members}
        if len(names) < 2:
            continue
        stays = next((n for n in (*_LAST, *sorted(names - {"train"})) if n in names), "")
        first = next(image for image in members if image.split == stays)
        leaks |= {(m.split, m.record.path): first for m in members if m.split != stays}
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
            reason = f"near-copy of {other.name} ({other.split})"
            changes.append(Change(split, name, -1, "image left out", "", "", reason))
        elif image is not None and image.size != (record.width, record.height):
            mended, change, reason = _to_size(record, image.size)
            sizes = (f"{record.width} x {record.height}", f"{mended.width} x {mended.height}")
            changes.append(Change(split, name, -1, change, *sizes, reason))
            kept.append(mended)
        else:
            kept.append(record)
    return kept


def _to_size(record: ImageRecord, size: tuple[int, int]) -> tuple[ImageRecord, str, str]:
    """Return a record for a picture's true size, what was changed, and why."""
    turn = _turn(record.path)
    state = record.state
    if turn is not None and (record.height, record.width) == size:
        boxes = turn(record.boxes, record.width, record.height)
        change, reason = "size and boxes turned", "drawn on the picture before its EXIF turn"
    elif abs(size[0] * record.height / (size[1] * record.width) - 1) <= _SAME_ASPECT:
        boxes = record.boxes * np.float32(size[0] / record.width)
        change, reason = "size and boxes scaled", "drawn on the picture at another size"
    else:
        boxes, state = record.boxes, ImageState.UNREVIEWED
        change, reason = "size set, image unreviewed", "drawn on a picture of another shape"
    sizes = np.tile(np.array(size, np.float64), (len(boxes), 1))
    clipped, fault, _ = check_boxes(boxes.astype(np.float64), sizes)
    fine = fault == 0
    if len(fine) and not fine.any():
        state = ImageState.UNREVIEWED
    if not fine.all():
        reason += f"; {int((~fine).sum())} boxes outside it removed"
    kept = _keep(replace(record, boxes=clipped), fine)
    return replace(kept, width=size[0], height=size[1], state=state), change, reason


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


Turn = Callable[[F32, int, int], F32]


def _turn(path: Path) -> Turn | None:
    """Return how an image's EXIF orientation moves boxes, where it swaps width and height."""
    with open_picture(path) as image:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))


def _transpose(boxes: F32, width: int, height: int) -> F32:
    del width, height
    return boxes[:, [1, 0, 3, 2]]


def _clockwise(boxes: F32, width: int, height: int) -> F32:
    """(x, y) of a stored picture comes to lie at (height − y, x)."""
    del width
    x0, y0, x1, y1 = boxes.T
    return np.stack([height - y1, x0, height - y0, x1], axis=1)


def _counterclockwise(boxes: F32, width: int, height: int) -> F32:
    """(x, y) of a stored picture comes to lie at (y, width − x)."""
    del height
    x0, y0, x1, y1 = boxes.T
    return np.stack([y0, width - x1, y1, width - x0], axis=1)


def _transverse(boxes: F32, width: int, height: int) -> F32:
    x0, y0, x1, y1 = boxes.T
    return np.stack([height - y1, width - x1, height - y0, width - x0], axis=1)


_TURNS: Mapping[int, Turn] = {5: _transpose, 6: _clockwise, 7: _transverse, 8: _counterclockwise}


def _table(changes: Sequence[Change]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(
        (c.split, c.file, c.index, c.change, c.before, c.after, c.reason) for c in changes
    )
    return text.getvalue()
