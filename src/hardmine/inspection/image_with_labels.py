"""One image with its labels, as written and as understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hardmine.data.formats.label_validation import OBJECT_REFUSED, RawSplit, object_table
from hardmine.data.images import open_picture, read_image
from hardmine.data.load_dataset import build_splits, read_splits, split_to_look_at
from hardmine.data.quality.label_coordinates import (
    FORMS,
    FormVerdict,
    is_sound,
    judge_form,
    to_xyxy,
    written_numbers,
)
from hardmine.errors import DataError
from hardmine.types import F64, I64, Dataset, ImageRecord, Mask, Problem

_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A split with the numbers of its boxes as written: ``numbers`` f64[N, 4], ``owner`` i64[N] (index
    of the image), ``names`` of the classes of the N boxes, ``places`` i64[N] in the label file.
    """

    dataset: Dataset
    raw: RawSplit
    numbers: F64
    sizes: F64
    owner: I64
    names: tuple[str, ...]
    places: I64
    verdict: FormVerdict | None

    def sound(self, form: str) -> float:
        """Return the share of all boxes that are sound when read under a form."""
        boxes = to_xyxy(form, self.numbers, self.sizes)
        return float(is_sound(boxes, self.sizes).mean()) if len(boxes) else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class InspectedImage:
    """One image of a split. ``numbers`` f64[M, 4] are its boxes as written, rejected ones too;
    ``record`` has those that are used. ``turn`` is the EXIF orientation.
    """

    labels: Labels
    index: int
    record: ImageRecord
    picture: Image.Image
    turn: int
    file: str
    numbers: F64
    names: tuple[str, ...]
    fate: tuple[str, ...]
    """What became of each written box: "used", or what is wrong with it."""
    problems: tuple[Problem, ...]

    @property
    def sizes(self) -> F64:
        """The image's width and height for each written box, f64[M, 2]."""
        size = np.array([[self.record.width, self.record.height]], np.float64)
        return np.repeat(size, len(self.numbers), axis=0)

    def read_as(self, form: str) -> F64:
        """Return the written boxes, xyxy pixels, under a form."""
        return to_xyxy(form, self.numbers, self.sizes)

    def soundness(self, boxes: F64) -> Mask:
        """Return which of as many boxes as are written lie in the image."""
        return is_sound(boxes, self.sizes)


def read_labels(
    data: Path,
    split: str | None = None,
    *,
    images: Path | None = None,
    categories: tuple[str, ...] | None = None,
) -> Labels:
    """Read one split, with what its label files say unjudged beside it.

    Args:
        split: its name; of several "train" if not given.
        categories: the class list, where it is that of a checkpoint.

    Raises:
        DataError: unreadable data, no such split, or no image.
    """
    raws = read_splits(data, images=images)
    chosen = split_to_look_at(raws, split, data)
    dataset, raw = build_splits(raws, categories)[chosen], raws[chosen]
    if not dataset.records:
        raise DataError(f"{data}: no image in split {chosen!r}")
    table = object_table(raw)
    numbers, sizes = written_numbers(raw)
    names = tuple(raw.names[k] for k in table.classes.tolist())
    return Labels(dataset, raw, numbers, sizes, table.owner, names, table.places, judge_form(raw))


def open_image(labels: Labels, index: int) -> InspectedImage:
    """Return one image of a split.

    Raises:
        DataError: the image cannot be read.
    """
    record, raw = labels.dataset.records[index], labels.raw.images[index]
    rows = np.flatnonzero(labels.owner == index)
    # A file of many images counts its images, too: number 3 may be an image or an object.
    mine = [
        p
        for p in labels.dataset.problems
        if p.file == raw.file
        and (p.index < 0 or (p.index in labels.places[rows] and not p.kind.startswith("image_")))
    ]
    faults = {p.index: p for p in mine if p.kind in OBJECT_REFUSED}
    fate = tuple(
        f"left out: {faults[place].kind}" if place in faults else "used"
        for place in labels.places[rows].tolist()
    )
    return InspectedImage(
        labels,
        index,
        record,
        read_image(record.path),
        _turn(record.path),
        raw.file,
        labels.numbers[rows],
        tuple(labels.names[row] for row in rows.tolist()),
        fate,
        tuple(mine),
    )


def find_image(dataset: Dataset, name: str) -> int:
    """Return the index of the image called ``name``: a path, the end of one, or a name without suffix.

    Raises:
        DataError: none or several are called so.
    """
    wanted = Path(name)
    found = [i for i, r in enumerate(dataset.records) if r.path == wanted.absolute()]
    if not found:
        parts = wanted.parts
        found = [
            i
            for i, r in enumerate(dataset.records)
            if r.path.parts[-len(parts) :] == parts
            or (r.path.parent / r.path.stem).parts[-len(parts) :] == parts
        ]
    if len(found) == 1:
        return found[0]
    if not found:
        first = dataset.records[0].path.name
        raise DataError(
            f"{dataset.root}: no image {name!r} among {len(dataset)} (the first is {first})"
        )
    paths = ", ".join(str(dataset.records[i].path) for i in found[:3])
    raise DataError(f"{dataset.root}: {len(found)} images are called {name!r}: {paths}")


def choose_images(labels: Labels, seed: int = 0) -> list[tuple[int, str]]:
    """Return images worth a look and why: an unsound or rejected box, the most boxes, the smallest
    box, one at random; each image once, and images with boxes only, where there are any.
    """
    owner = labels.owner
    if not len(owner):
        return [(0, "the first image (none has a box)")]
    declared = to_xyxy(labels.raw.form, labels.numbers, labels.sizes)
    unsound = np.flatnonzero(~is_sound(declared, labels.sizes))
    area = np.abs((declared[:, 2:] - declared[:, :2]).prod(axis=1))
    counts = np.bincount(owner)
    wanted = [(int(owner[row]), "a box that does not fit its image") for row in unsound[:1]]
    wanted += [
        (int(counts.argmax()), "the most boxes"),
        (
            int(owner[int(np.nanargmin(np.where(np.isfinite(area), area, np.inf)))]),
            "the smallest box",
        ),
        (int(owner[np.random.default_rng(seed).integers(len(owner))]), "drawn at random"),
    ]
    chosen: dict[int, str] = {}
    for index, reason in wanted:
        chosen.setdefault(index, reason)
    return list(chosen.items())


def form_words(form: str) -> str:
    """Return a form in words."""
    return FORMS[form][0]


def _turn(path: Path) -> int:
    try:
        with open_picture(path) as image:
            return int(image.getexif().get(_ORIENTATION, 1) or 1)
    except (OSError, UnidentifiedImageError):
        return 1
