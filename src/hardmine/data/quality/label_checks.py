"""Labels that can be used but look wrong: rare classes, odd sizes, copies, boxes without an object."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hardmine.data.formats.image_files import relative_name
from hardmine.data.quality.findings import Finding, Notes
from hardmine.finding_kinds import FindingKind
from hardmine.numpy_boxes import box_iou
from hardmine.types import F32, F64, I64, Dataset, Mask

RARE = 0.1
"""A class with fewer objects than this share of the most common one's is rare."""
MAX_ROBUST_Z = 4.5
"""Boxes whose log area is further from their class's median, in robust deviations, are odd."""
MIN_OF_CLASS = 20
"""With fewer boxes of a class no size is called odd."""
LEAST_SPREAD = 0.25
"""Least robust deviation of log area: a class of one size has no outliers at 20 % more."""
WHOLE = 0.98
"""A box that covers this share of the width and of the height covers the whole image."""
SAME_IOU = 0.95
"""Two boxes of an image that overlap so much are one object labelled twice."""
COPIED = (5, 0.1)
"""A box that repeats to the pixel in so many images, and in this share of them, is suspicious."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxTable:
    """All boxes of a dataset, flat: ``boxes`` f32[N, 4], ``labels`` i64[N], ``ignore`` bool[N],
    ``owner`` i64[N] (the record), ``place`` i64[N] (among the record's boxes), ``sizes`` f64[N, 2]
    (width and height of the record).
    """

    boxes: F32
    labels: I64
    ignore: Mask
    owner: I64
    place: I64
    sizes: F64


def flatten(dataset: Dataset) -> BoxTable:
    """Return the boxes of all records in one table."""
    records = dataset.records
    counts = np.array([len(record.labels) for record in records], np.int64)
    owner = np.repeat(np.arange(len(records)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    sizes = np.array([(r.width, r.height) for r in records], np.float64).reshape(-1, 2)
    return BoxTable(
        np.concatenate([np.zeros((0, 4), np.float32), *(r.boxes for r in records)]),
        np.concatenate([np.zeros(0, np.int64), *(r.labels for r in records)]),
        np.concatenate([np.zeros(0, np.bool_), *(r.ignore for r in records)]),
        owner,
        np.arange(len(owner)) - first,
        sizes[owner],
    )


def find_suspects(split: str, dataset: Dataset) -> list[Finding]:
    """Return what looks wrong about the labels of one split, without opening an image."""
    seen = _Suspects(split, dataset)
    seen.classes()
    seen.sizes()
    seen.whole_images()
    seen.specks()
    seen.pairs()
    seen.copies()
    return seen.notes.found


def robust_z(values: F64, least_spread: float = LEAST_SPREAD) -> F64:
    """Return how far each value is from the median, in robust standard deviations.

    The deviation is 1.4826 times the median absolute deviation (Gaussian data: the standard
    deviation), at least ``least_spread``.
    """
    centre = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - centre))
    scores: F64 = (values - centre) / max(float(spread), least_spread)
    return scores


class _Suspects:
    def __init__(self, split: str, dataset: Dataset) -> None:
        self.dataset = dataset
        self.table = flatten(dataset)
        self.notes = Notes(split)

    def classes(self) -> None:
        """Note classes without objects, and those far rarer than the commonest."""
        counts = Counter(self.table.labels.tolist())
        most = max(counts.values(), default=0)
        for label, name in enumerate(self.dataset.categories, start=1):
            if counts[label] == 0:
                self.notes.add(
                    FindingKind.CLASS_EMPTY, self.notes.split, f"no object of class {name!r}"
                )
            elif counts[label] < RARE * most:
                common = self.dataset.categories[counts.most_common(1)[0][0] - 1]
                reason = f"{counts[label]} of class {name!r} against {most} of {common!r}"
                self.notes.add(FindingKind.CLASS_RARE, self.notes.split, reason)

    def sizes(self) -> None:
        """Compare each box's share of its image with those of its class."""
        extent = (self.table.boxes[:, 2:] - self.table.boxes[:, :2]).astype(np.float64)
        share = extent.prod(axis=1) / np.maximum(self.table.sizes.prod(axis=1), 1.0)
        for label, name in enumerate(self.dataset.categories, start=1):
            rows = np.flatnonzero((self.table.labels == label) & ~self.table.ignore)
            if len(rows) < MIN_OF_CLASS:
                continue
            z = robust_z(np.log(share[rows]))
            usual = float(np.median(share[rows]))
            for row, score in zip(rows.tolist(), z.tolist(), strict=True):
                if abs(score) > MAX_ROBUST_Z:
                    times = max(share[row] / usual, usual / share[row])
                    word = "larger" if score > 0 else "smaller"
                    reason = f"{name} {times:.0f} times {word} than usual (robust z {score:+.1f})"
                    self._note(FindingKind.BOX_SIZE_ODD, row, reason)

    def whole_images(self) -> None:
        """Note boxes that cover the whole image."""
        extent = self.table.boxes[:, 2:] - self.table.boxes[:, :2]
        covers = (extent >= WHOLE * self.table.sizes).all(axis=1)
        for row in np.flatnonzero(covers).tolist():
            self._note(
                FindingKind.BOX_WHOLE_IMAGE, row, f"{self._name(row)} covers the whole image"
            )

    def specks(self) -> None:
        """Find boxes below one pixel: numbers that may be shares of the image."""
        extent = self.table.boxes[:, 2:] - self.table.boxes[:, :2]
        for row in np.flatnonzero((extent < 1).all(axis=1)).tolist():
            width, height = extent[row].tolist()
            reason = f"{self._name(row)} of {width:.2g} x {height:.2g} px"
            self._note(FindingKind.BOX_BELOW_PIXEL, row, reason)

    def pairs(self) -> None:
        """Find objects labelled twice: boxes of one image that are nearly the same."""
        start = 0
        for owner, number in zip(*np.unique(self.table.owner, return_counts=True), strict=True):
            rows, start = np.arange(start, start + number), start + number
            if number < 2:
                continue
            boxes = self.table.boxes[rows]
            same = np.triu(box_iou(boxes, boxes) >= SAME_IOU, 1)
            for a, b in zip(*np.nonzero(same), strict=True):
                self._pair(int(rows[a]), int(rows[b]), int(owner))

    def _pair(self, a: int, b: int, owner: int) -> None:
        one, two = self._name(a), self._name(b)
        kind = FindingKind.BOX_TWICE if one == two else FindingKind.BOX_TWO_CLASSES
        place = int(self.table.place[a])
        reason = f"{two} on the place of object {place}" + ("" if one == two else f" ({one})")
        record = self.dataset.records[owner]
        boxes = self.table.boxes[[a, b]].tolist()
        name = relative_name(record.path, self.dataset.root)
        place = int(self.table.place[b])
        self.notes.add(kind, name, reason, index=place, image=record.path, boxes=boxes)

    def copies(self) -> None:
        """Find one box, to the pixel, in many images: a default that nobody moved."""
        if not len(self.table.boxes):
            return
        keys = np.concatenate([self.table.boxes.round(), self.table.sizes.astype(np.float32)], 1)
        rows, first, number = np.unique(keys, axis=0, return_index=True, return_counts=True)
        least = max(COPIED[0], COPIED[1] * len(np.unique(self.table.owner)))
        for key, row, times in zip(rows, first.tolist(), number.tolist(), strict=True):
            whole = (key[2:4] - key[:2] >= WHOLE * key[4:]).all()
            if times >= least and not whole:
                self._note(FindingKind.BOX_COPIED, row, f"the same box in {times} images")

    def _name(self, row: int) -> str:
        return self.dataset.categories[int(self.table.labels[row]) - 1]

    def _note(self, kind: FindingKind, row: int, reason: str) -> None:
        record = self.dataset.records[int(self.table.owner[row])]
        self.notes.add(
            kind,
            relative_name(record.path, self.dataset.root),
            reason,
            index=int(self.table.place[row]),
            image=record.path,
            boxes=[self.table.boxes[row].tolist()],
        )
