"""From what label files say to checked records: the one place where boxes are judged.

Readers (COCO, YOLO, VOC) collect `RawImage` values without judging them; `build_dataset` rejects or
mends what cannot be trained on and reports every such case as a `Problem`.

An image that loses *some* of its boxes stays ``labelled``; one that loses *all* of them becomes
``unreviewed``, because it holds objects and must not be taken for a negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import F32, F64, I64, Dataset, ImageRecord, ImageState, Mask, Problem

CLIP_TOLERANCE = 1.0
"""Pixels by which a box may pass the image's edge (rounding of label tools) unreported."""

_MIX = np.random.default_rng(0).integers(1, 2**62, 6) | 1
"""Odd multipliers that spread a row of six integers over 64 bits."""

_FINE, _NAN, _INFINITE, _INVERTED, _EMPTY, _OUTSIDE, _CLASS, _REPEATED = range(8)
_KINDS: tuple[FindingKind | None, ...] = (
    None,
    FindingKind.BOX_NAN,
    FindingKind.BOX_INFINITE,
    FindingKind.BOX_INVERTED,
    FindingKind.BOX_EMPTY,
    FindingKind.BOX_OUTSIDE,
    FindingKind.CLASS_UNKNOWN,
    FindingKind.BOX_REPEATED,
)
OBJECT_REFUSED = frozenset(kind for kind in _KINDS if kind is not None)
"""Kinds of problems for which an object that was read is left out."""


class LabelError(DataError):
    """A label file that cannot be used at all; ``kind`` is the kind of `Problem` it becomes."""

    def __init__(self, kind: FindingKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


Form = Literal["xyxy", "xywh", "xywh_shares", "cxcywh", "cxcywh_shares"]
"""How label files write a box: corners, corner and size, or centre and size; in pixels, or as shares of
the image.
"""

RawObject = tuple[float, float, float, float, int, bool, int]
"""x0, y0, x1, y1 in pixels, index into `RawSplit.names`, ignore, place in the label file."""


@dataclass(slots=True)
class RawImage:
    """What a label file says of one image, unchecked."""

    path: Path
    file: str
    """The label file, as problems name it."""
    width: int = 0
    height: int = 0
    objects: list[RawObject] = field(default_factory=list)
    state: ImageState | None = None
    """The state that the label file gives; None where it gives none."""
    state_if_empty: ImageState = ImageState.UNREVIEWED
    rejected: int = 0
    """Objects that the reader could not even parse."""
    source: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTable:
    """All objects of a split, those of one image together, in the images' order.

    ``owner`` i64[N] (index of the image), ``boxes`` f64[N, 4] (xyxy pixels as written), ``classes``
    i64[N] (index into `RawSplit.names`), ``ignore`` bool[N], ``places`` i64[N] (in the label file).
    """

    owner: I64
    boxes: F64
    classes: I64
    ignore: Mask
    places: I64

    def of_images(self, kept: Sequence[bool]) -> ObjectTable:
        """Return the objects of those images that are kept, which close ranks."""
        keep = np.array(kept, np.bool_)
        rows = keep[self.owner]
        owner = (np.cumsum(keep) - 1)[self.owner[rows]]
        return ObjectTable(
            owner, self.boxes[rows], self.classes[rows], self.ignore[rows], self.places[rows]
        )


@dataclass(slots=True)
class RawSplit:
    """One split as read: class names, images, and what went wrong so far."""

    root: Path
    names: list[str]
    images: list[RawImage]
    problems: list[Problem]
    names_declared: bool = True
    """False when the names were gathered from the objects, so that their order means nothing."""
    form: Form = "xyxy"
    """What the four numbers of a box are in the label files."""
    table: ObjectTable | None = None
    """The objects, where the reader has them as columns; those of the images are then empty."""


def merge_names(splits: Sequence[RawSplit]) -> tuple[str, ...]:
    """Return one class list for all splits: declared order where there is one, else sorted."""
    names = dict.fromkeys(name for split in splits for name in split.names)
    return tuple(names) if all(s.names_declared for s in splits) else tuple(sorted(names))


def object_table(raw: RawSplit) -> ObjectTable:
    """Return all objects of a split as columns."""
    if raw.table is not None:
        return raw.table
    counts = [len(image.objects) for image in raw.images]
    fields = chain.from_iterable(chain.from_iterable(image.objects for image in raw.images))
    table = np.fromiter(fields, np.float64, 7 * sum(counts)).reshape(-1, 7)
    return ObjectTable(
        np.repeat(np.arange(len(raw.images)), counts),
        table[:, :4],
        table[:, 4].astype(np.int64),
        table[:, 5] != 0,
        table[:, 6].astype(np.int64),
    )


def build_dataset(raw: RawSplit, categories: Sequence[str]) -> Dataset:
    """Check every box and return the records, with all problems.

    Args:
        categories: the class list to use; a name of ``raw.names`` that is not in it is a
            ``class_unknown`` problem for each of its objects.
    """
    images, table = raw.images, object_table(raw)
    label_of = {name: label for label, name in enumerate(categories, start=1)}
    labels = np.array([label_of.get(name, 0) for name in raw.names] or [0], np.int64)[table.classes]
    sizes = np.array([(i.width, i.height) for i in images], np.float64).reshape(-1, 2)[table.owner]

    boxes, fault, overhang = check_boxes(table.boxes, sizes)
    fault[(fault == _FINE) & (labels == 0)] = _CLASS
    fault[_repeated(table.owner, labels, boxes, fault == _FINE)] = _REPEATED

    problems = [*raw.problems]
    for row in np.flatnonzero((fault != _FINE) | (overhang > CLIP_TOLERANCE)).tolist():
        image = images[table.owner[row]]
        kind = _KINDS[fault[row]] or FindingKind.BOX_CLIPPED
        name = raw.names[table.classes[row]]
        reason = _reason(kind, table.boxes[row], sizes[row], name, categories)
        place = int(table.places[row])
        problems.append(Problem(kind, image.file, place, _with_image(reason, image)))

    kept = np.flatnonzero(fault == _FINE)
    objects = _Objects(table.owner[kept], boxes[kept], labels[kept], table.ignore[kept])
    totals = np.bincount(table.owner, minlength=len(images)).tolist()
    records = _cut(images, objects, totals, problems)
    return Dataset(tuple(categories), tuple(records), raw.root, tuple(problems))


def check_boxes(written: F64, sizes: F64) -> tuple[F32, I64, F64]:
    """Clip boxes to their images and find those that cannot be used.

    Args:
        written (f64[N, 4]): xyxy pixels as the label file gives them.
        sizes (f64[N, 2]): width and height of each box's image.

    Returns:
        Clipped boxes f32[N, 4] (meaningless where rejected), the fault i64[N] (0: fine), and by how
        many pixels each accepted box passed its image's edge f64[N].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        high = np.tile(sizes, 2)  # [N, 4]
        boxes = written.astype(np.float32)
        clipped = np.clip(boxes, 0, high.astype(np.float32))
        extent = boxes[:, 2:] - boxes[:, :2]  # [N, 2]
        fault = np.full(len(written), _FINE, np.int64)
        fault[(clipped[:, 2:] <= clipped[:, :2]).any(axis=1)] = _OUTSIDE
        fault[(extent == 0).any(axis=1)] = _EMPTY
        fault[(extent < 0).any(axis=1)] = _INVERTED
        fault[np.isinf(boxes).any(axis=1)] = _INFINITE
        fault[np.isnan(boxes).any(axis=1)] = _NAN
        overhang = np.maximum(-written, written - high).max(axis=1, initial=0.0)
    overhang[fault != _FINE] = 0.0
    return clipped, fault, overhang


def _repeated(owner: I64, labels: I64, boxes: F32, fine: Mask) -> I64:
    """Return the rows that repeat an earlier row: same image, class and box."""
    rows = np.flatnonzero(fine)
    if len(rows) < 2:
        return rows[:0]
    keys = np.empty((len(rows), 6), np.int64)
    keys[:, 0], keys[:, 1] = owner[rows], labels[rows]
    keys[:, 2:] = (boxes[rows] + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0
    mixed = keys @ _MIX  # wraps around; equal rows have equal sums
    _, group, sizes = np.unique(mixed, return_inverse=True, return_counts=True)
    suspects = rows[sizes[group] > 1]
    if not len(suspects):
        return suspects
    _, first = np.unique(keys[sizes[group] > 1], axis=0, return_index=True)
    return np.delete(suspects, first)


@dataclass(slots=True)
class _Objects:
    """The accepted objects of all images, in the images' order; ``owner`` is the image's index."""

    owner: I64
    boxes: F32
    labels: I64
    ignore: Mask


def _cut(
    images: Sequence[RawImage], objects: _Objects, totals: Sequence[int], problems: list[Problem]
) -> Iterator[ImageRecord]:
    """Give each image its share of the accepted objects, and its state."""
    ends = np.searchsorted(objects.owner, np.arange(len(images)), side="right").tolist()
    start = 0
    for image, total, end in zip(images, totals, ends, strict=True):
        state = _state(image, total + image.rejected, end - start, problems)
        yield ImageRecord(
            image.path,
            image.width,
            image.height,
            objects.boxes[start:end],
            objects.labels[start:end],
            objects.ignore[start:end],
            state,
            image.source,
        )
        start = end


def _state(image: RawImage, total: int, kept: int, problems: list[Problem]) -> ImageState:
    if image.state is not None and image.state.is_negative and total:
        reason = (
            f"state is {image.state.value} but {counted(total, 'object is', 'objects are')} "
            "labelled; now unreviewed"
        )
        problems.append(
            Problem(FindingKind.STATE_CONTRADICTED, image.file, -1, _with_image(reason, image))
        )
        return ImageState.UNREVIEWED
    if total and not kept and image.state in (None, ImageState.LABELLED):
        return ImageState.UNREVIEWED
    if image.state is not None:
        return image.state
    return ImageState.LABELLED if kept else image.state_if_empty


def _with_image(reason: str, image: RawImage) -> str:
    """Name the image too where one label file serves many."""
    stem = Path(image.file).stem
    return reason if stem == image.path.stem else f"{reason} (image {image.path.name})"


def _reason(kind: FindingKind, box: F64, size: F64, name: str, categories: Sequence[str]) -> str:
    x0, y0, x1, y1 = (f"{value:.7g}" for value in box)
    where = f"box {x0} {y0} {x1} {y1}"
    if kind is FindingKind.CLASS_UNKNOWN:
        return f"class {name!r}, wanted one of {', '.join(categories) or '(no classes)'}"
    if kind in (FindingKind.BOX_INVERTED, FindingKind.BOX_EMPTY):
        sign = "<" if kind == FindingKind.BOX_INVERTED else "="
        bad_x = box[2] < box[0] or (kind == FindingKind.BOX_EMPTY and box[2] == box[0])
        return f"xmax {x1} {sign} xmin {x0}" if bad_x else f"ymax {y1} {sign} ymin {y0}"
    image = f"the image of {size[0]:.0f} x {size[1]:.0f}"
    return {
        FindingKind.BOX_NAN: f"{where} is not a number",
        FindingKind.BOX_INFINITE: f"{where} is infinite",
        FindingKind.BOX_OUTSIDE: f"{where} lies outside {image}",
        FindingKind.BOX_CLIPPED: f"{where} clipped to {image}",
        FindingKind.BOX_REPEATED: f"{where} repeats an earlier object of this image",
    }[kind]
