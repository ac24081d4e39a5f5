"""The values that flow between the layers.

Boxes are xyxy float pixels everywhere inside the package; every other form carries its form in its
name. Label 0 is background, so ``categories[label - 1]`` names a label. Records and detections are
numpy (they cross process, file and report borders), batches and raw outputs are torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from hardmine.errors import DataError, not_one_of, on_one_line
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted

if TYPE_CHECKING:
    from hardmine.conversions import Conversion

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ImageState(StrEnum):
    """What is known about an image; "not looked at" and "verified empty" are different things.

    Example:
        >>> [state.value for state in ImageState if state.is_trainable]
        ['labelled', 'verified_empty', 'assumed_empty']
    """

    LABELLED = "labelled"
    VERIFIED_EMPTY = "verified_empty"
    """A person looked and found no object."""
    ASSUMED_EMPTY = "assumed_empty"
    """Taken as empty on the user's word for a whole pool (``--accept auto``)."""
    UNREVIEWED = "unreviewed"
    CONTAINS_OBJECT = "contains_object"
    """Holds an object that is not labelled yet: neither a negative nor a training image."""
    IGNORED = "ignored"

    @property
    def is_negative(self) -> bool:
        """True when the image may be trained on and counted as one without objects."""
        return self in (ImageState.VERIFIED_EMPTY, ImageState.ASSUMED_EMPTY)

    @property
    def is_looked_at(self) -> bool:
        """True when a person's word stands behind the labels, or behind their absence."""
        return self in (ImageState.LABELLED, ImageState.VERIFIED_EMPTY)

    @property
    def is_trainable(self) -> bool:
        """True when the image's labels (or their absence) can be relied on."""
        return self is ImageState.LABELLED or self.is_negative


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One image and what is known about it.

    ``boxes`` f32[N, 4] xyxy pixels of the image *as displayed* (EXIF orientation applied), ``labels``
    i64[N] in 1..C, ``ignore`` bool[N] (difficult, crowd). ``source`` names where it came from. A path as
    text, lists and arrays of other kinds are taken too, and turned into these.

    Raises:
        DataError: there is not one label and one ``ignore`` for each box, a box is not finite or ends
            before it begins, or there is no such state.

    Example:
        >>> record = data[0]
        >>> record.width, record.height, record.labels.tolist(), record.state.value
        (64, 48, [1], 'labelled')
        >>> record.with_state(ImageState.IGNORED).state.is_trainable
        False
    """

    path: Path
    width: int
    height: int
    boxes: F32
    labels: I64
    ignore: Mask
    state: ImageState
    source: str = ""

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        if not isinstance(self.path, Path):
            keep("path", Path(self.path))
        if not isinstance(self.state, ImageState):
            keep("state", _state_named(self.state, self.path))
        boxes = array_of(self.boxes, np.float32, "boxes", self.path, columns=4)
        keep("boxes", boxes)
        keep("labels", array_of(self.labels, np.int64, "labels", self.path, rows=len(boxes)))
        keep("ignore", array_of(self.ignore, np.bool_, "ignore", self.path, rows=len(boxes)))
        if len(boxes) and not ((boxes[:, 2:] >= boxes[:, :2]).all() and np.isfinite(boxes).all()):
            sound = (boxes[:, 2:] >= boxes[:, :2]) & np.isfinite(boxes).all(axis=1, keepdims=True)
            raise DataError(
                f"{self.path}: got the box {boxes[~sound.all(axis=1)][0].tolist()}, wanted finite "
                "x1, y1, x2, y2 in pixels with x1 <= x2 and y1 <= y2"
            )

    @staticmethod
    def empty(
        path: Path, width: int, height: int, state: ImageState, source: str = ""
    ) -> ImageRecord:
        """Return a record without boxes."""
        return ImageRecord(
            path,
            width,
            height,
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            state,
            source,
        )

    def with_state(self, state: ImageState) -> ImageRecord:
        """Return the same image in another state."""
        return replace(self, state=state)


def _state_named(given: Any, path: Path) -> ImageState:
    known = [state.value for state in ImageState]
    if given not in known:
        raise DataError(f"{path}: {not_one_of('state', given, known)}")
    return ImageState(given)


def array_of(
    values: Any,
    kind: type[np.generic],
    name: str,
    path: Path | None,
    *,
    rows: int | None = None,
    columns: int = 0,
) -> NDArray[Any]:
    """Return values as an array [N], or [N, columns], of that kind; the array itself where it is one.

    Args:
        name: what they are, and ``path``: whose they are, for the message of an error.
        rows: how many there must be.

    Raises:
        DataError: another shape, or no numbers; no whole ones where ``kind`` is one of these.
    """
    shape = (-1, columns) if columns else (-1,)
    if (
        isinstance(values, np.ndarray)
        and values.dtype == kind
        and values.ndim == len(shape)
        and values.shape[1:] == shape[1:]
        and rows in (None, len(values))
    ):
        return values
    where = name if path is None else f"{path}: {name}"
    wanted = f"[N, {columns}]" if columns else "[N]"
    try:
        got = values if isinstance(values, np.ndarray) else np.asarray(values)
        got = got if got.size else got.reshape(shape)
        found = got if got.dtype == kind else got.astype(kind)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: got {values!r:.80}, wanted numbers {wanted}") from None
    if got.ndim != len(shape) or got.shape[1:] != shape[1:]:
        raise DataError(f"{where}: got an array {list(got.shape)}, wanted {wanted}")
    if rows is not None and rows != len(got):
        raise DataError(f"{where}: got {len(got)}, wanted {rows}, one for each box")
    if found is not got and np.issubdtype(kind, np.integer) and not (found == got).all():
        raise DataError(f"{where}: got {values!r:.80}, wanted whole numbers")
    return found


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in the data that was met and not silently dropped.

    ``kind`` is a row of `FindingKind` (``box_inverted``, ``image_truncated`` …), ``file`` the file
    that holds the fault, ``index`` the object's position in it (−1: the file itself).

    Raises:
        ValueError: there is no such kind.
    """

    kind: FindingKind
    file: str
    index: int
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FindingKind.named(self.kind))

    def __str__(self) -> str:
        where = self.file if self.index < 0 else f"{self.file}[{self.index}]"
        return on_one_line(f"{where}: {self.reason}")


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images with one class list.

    A dataset is a sequence of :class:`ImageRecord`: it has a length, can be iterated, ``data[3]`` is a
    record, and ``data[10:20]`` or ``data[mask]`` a smaller dataset. Nothing changes in place. In a
    notebook it shows its counts and some pictures with their boxes.

    Attributes:
        categories: class names; ``categories[label - 1]`` names a label (0 is background).
        records: the images, in the order of the files.
        root: the folder that the names of the images start from.
        problems: what reading the dataset rejected, and why.

    Raises:
        DataError: a class name stands for two labels, or an image has a label that no class has.

    Example:
        >>> data = hardmine.load_dataset("shelf")
        >>> len(data), data.categories
        (12, ('bottle', 'can'))
        >>> data[0].boxes.shape, data[0].state
        ((1, 4), <ImageState.LABELLED: 'labelled'>)
        >>> data.subset(lambda record: record.state.is_negative)
        Dataset(shelf: 4 images (4 verified_empty), no objects)
    """

    categories: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    root: Path
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.categories, str):
            raise DataError(f"categories: got {self.categories!r}, wanted a list of class names")
        keep = partial(object.__setattr__, self)
        for name in ("categories", "records", "problems"):
            if not isinstance(getattr(self, name), tuple):
                keep(name, tuple(getattr(self, name)))
        if not isinstance(self.root, Path):
            keep("root", Path(self.root))
        if len(set(self.categories)) < len(self.categories):
            twice = next(name for name in self.categories if self.categories.count(name) > 1)
            raise DataError(f"{self.root}: the class name {twice!r} occurs twice, wanted each once")
        if self.records:
            self._check_labels()

    def _check_labels(self) -> None:
        names, most = self.categories, len(self.categories)
        labels = np.concatenate([record.labels for record in self.records])
        if not len(labels) or (labels.min() >= 1 and labels.max() <= most):
            return
        for record in self.records:
            outside = record.labels[(record.labels < 1) | (record.labels > most)]
            if len(outside):
                raise DataError(
                    f"{record.path}: got the label {outside[0]}, wanted 1 to {most} for the classes "
                    f"{', '.join(names[:6])} (label 0 is background)"
                )

    @staticmethod
    def from_coco(
        path: Path | str, *, images: Path | str | None = None, empty_is_verified: bool = False
    ) -> Dataset:
        """Read a COCO file.

        Args:
            path: the ``.json`` file, or a folder that holds one.
            images: the folder of images, where it is not found beside the file.
            empty_is_verified: take images without annotations as verified negatives, not as
                unreviewed.

        Raises:
            DataError: this is no COCO file, or it is broken; :func:`hardmine.load_dataset` reads any
                format and splits.

        Example:
            >>> Dataset.from_coco("shelf/annotations/instances_all.json")
            Dataset(shelf: 12 images (8 labelled, 4 verified_empty), 12 objects (bottle 6, can 6))
        """
        from hardmine.conversions import read_as

        return read_as("coco", path, images, empty_is_verified)

    @staticmethod
    def from_yolo(
        path: Path | str, *, split: str | None = None, images: Path | str | None = None
    ) -> Dataset:
        """Read a YOLO dataset.

        Args:
            path: a ``data.yaml``, or a folder with ``images/`` and ``labels/``.
            split: which part to read (``train``, ``val``, ``test``) where there are several.
            images: the folder of images, where it is not found beside the labels.

        Raises:
            DataError: this is no YOLO dataset, it is broken, or it has no such part.

        Example:
            >>> out = data.to_yolo("as_yolo").out
            >>> len(Dataset.from_yolo(out))
            12
        """
        from hardmine.conversions import read_as

        return read_as("yolo", path, images, split=split)

    @staticmethod
    def from_voc(
        path: Path | str, *, split: str | None = None, images: Path | str | None = None
    ) -> Dataset:
        """Read a Pascal VOC dataset: XML files beside the images or in a folder of their own.

        Args:
            path: the folder.
            split: which list of ``ImageSets/Main`` to read, where there are several.
            images: the folder of images, where it is not found beside the labels.

        Raises:
            DataError: this is no VOC dataset, it is broken, or it has no such list.

        Example:
            >>> out = data.to_voc("as_voc").out
            >>> Dataset.from_voc(out).categories
            ('bottle', 'can')
        """
        from hardmine.conversions import read_as

        return read_as("voc", path, images, split=split)

    @staticmethod
    def from_csv(path: Path | str, *, images: Path | str | None = None) -> Dataset:
        """Read a table with one line per object: image, xmin, ymin, xmax, ymax, label, in pixels.

        Args:
            path: the ``.csv`` or ``.tsv`` file.
            images: the folder that the names of the images start from, where it is not the file's.

        Raises:
            DataError: this is no such table, or it is broken.

        Example:
            >>> Dataset.from_csv("shelf/boxes.csv")
            Dataset(shelf: 2 images (2 labelled), 2 objects (bottle 1, can 1))
        """
        from hardmine.conversions import read_as

        return read_as("csv", path, images)

    def to_coco(self, out: Path | str, *, link: bool = False) -> Conversion:
        """Write the dataset in COCO's format, states included.

        Args:
            out: a file name that ends in ``.json``: only the labels are written, and they name the
                images where they are. Otherwise a new folder, which gets copies of the images too.
            link: make hard links to the images instead of copies.

        Returns:
            Conversion: the place, and how many images and boxes were written.

        Raises:
            DataError: the folder holds something already, or an image cannot be copied.

        Example:
            >>> data.to_coco("labels.json").boxes
            12
            >>> Dataset.from_coco("labels.json").fingerprint == data.fingerprint
            True
        """
        from hardmine.conversions import write_as

        return write_as("coco", self, out, link)

    def to_yolo(self, out: Path | str, *, link: bool = False) -> Conversion:
        """Write the dataset, with its images, as a YOLO folder with a ``data.yaml``.

        Args:
            out: a new folder. ``link`` makes hard links to the images instead of copies.

        Raises:
            DataError: the folder holds something already, or an image cannot be copied.

        Example:
            >>> data[:4].to_yolo("yolo").images
            {'all': 4}
        """
        from hardmine.conversions import write_as

        return write_as("yolo", self, out, link)

    def to_voc(self, out: Path | str, *, link: bool = False) -> Conversion:
        """Write the dataset, with its images, as a Pascal VOC folder.

        Args:
            out: a new folder. ``link`` makes hard links to the images instead of copies.

        Raises:
            DataError: the folder holds something already, or an image cannot be copied.

        Example:
            >>> data[:4].to_voc("voc").boxes
            4
        """
        from hardmine.conversions import write_as

        return write_as("voc", self, out, link)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.records)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice | Mask | I64 | Sequence[int]) -> Dataset: ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | Mask | I64 | Sequence[int]
    ) -> ImageRecord | Dataset:
        if isinstance(index, slice):
            return self.with_records(self.records[index])
        if isinstance(index, int | np.integer):
            return self.records[index]
        return self.subset(index)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, names, sizes, boxes, labels and states (not over pixels)."""
        digest = hashlib.sha256(repr(self.categories).encode())
        for record in self.records:
            head = (str(record.path), record.width, record.height, record.state.value)
            digest.update(repr(head).encode())
            for array in (record.boxes, record.labels, record.ignore):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def subset(self, chosen: Sequence[int] | I64 | Mask | Callable[[ImageRecord], bool]) -> Dataset:
        """Return the dataset of some of the images.

        Args:
            chosen: positions, in the order wanted; or a mask bool[N]; or a function that says of each
                record whether it is wanted.

        Raises:
            IndexError: a position does not exist, or the mask has another length.

        Example:
            >>> [record.path.name for record in data.subset([2, 0])]
            ['02.png', '00.png']
            >>> len(data.subset(lambda record: len(record.boxes) > 0))
            8
        """
        if callable(chosen):
            return self.with_records([record for record in self.records if chosen(record)])
        positions = np.arange(len(self))[rows_of(chosen, len(self))]
        return self.with_records([self.records[index] for index in positions.tolist()])

    def split(
        self,
        fractions: Mapping[str, float],
        *,
        seed: int = 0,
        group: str | None = None,
        by_time: bool = False,
        gap: float | None = None,
    ) -> dict[str, Dataset]:
        """Split the images at random; near-duplicates always stay on one side.

        Args:
            fractions: the share of each part by its name; positive, with the sum 1.
            seed: another seed gives another split.
            group: regular expression; images on whose path its groups match the same (a camera, a
                site) stay together too.
            by_time: keep images together that were taken within ``gap`` of each other.
            gap: seconds, or frame numbers where images have no times.

        Raises:
            ConfigError: the fractions are not positive or do not sum to 1, or options contradict.
            DataError: there are fewer groups of images than parts.

        Example:
            >>> parts = data.split({"train": 0.75, "val": 0.25})
            >>> {name: len(part) for name, part in parts.items()}
            {'train': 9, 'val': 3}
        """
        from hardmine.conversions import split_as

        return split_as(self, fractions, seed, group, by_time, gap)

    def with_records(self, records: Sequence[ImageRecord]) -> Dataset:
        """Return the same class list with other records."""
        return replace(self, records=tuple(records))

    def count_states(self) -> dict[ImageState, int]:
        """Return how many images are in each state that occurs."""
        counts: dict[ImageState, int] = {}
        for record in self.records:
            counts[record.state] = counts.get(record.state, 0) + 1
        return counts

    def count_objects(self) -> dict[str, int]:
        """Return how many objects each class has, ignored ones left out.

        Example:
            >>> data.count_objects()
            {'bottle': 6, 'can': 6}
        """
        counts = np.zeros(len(self.categories) + 1, np.int64)
        for record in self.records:
            real = record.labels[~record.ignore]
            counts += np.bincount(real, minlength=len(counts))
        return dict(zip(self.categories, counts[1:].tolist(), strict=True))

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self.count_states().items())
        classes = self.count_objects()
        objects = ", ".join(f"{name} {count}" for name, count in classes.items())
        total = sum(classes.values())
        parts = [
            counted(len(self), "image") + (f" ({states})" if states else ""),
            f"{counted(total, 'object')} ({objects})" if total else "no objects",
        ]
        ignored = sum(int(record.ignore.sum()) for record in self.records)
        if ignored:
            parts.append(f"{counted(ignored, 'box', 'boxes')} to be ignored")
        if self.problems:
            parts.append(counted(len(self.problems), "problem"))
        return f"Dataset({self.root.name or self.root}: {', '.join(parts)})"

    def _repr_html_(self) -> str:
        from hardmine.conversions import dataset_html

        return dataset_html(self)


def evenly_spread(count: int, most: int) -> list[int]:
    """Return the positions of ``most`` of ``count`` things, evenly spread, or of all if they are fewer.

    Example:
        >>> evenly_spread(7, 4)
        [0, 1, 3, 5]
    """
    chosen = min(count, most)
    return [i * count // chosen for i in range(chosen)]


def rows_of(chosen: Sequence[int] | I64 | Mask, size: int) -> I64 | Mask:
    """Return positions or a mask as an array that numpy can index with."""
    given = np.asarray(chosen)
    if given.dtype == np.bool_:
        if given.shape != (size,):
            raise IndexError(f"got a mask of shape {given.shape}, wanted ({size},)")
        return given
    if given.size and (given.ndim != 1 or not np.issubdtype(given.dtype, np.integer)):
        raise TypeError(f"got {chosen!r}, wanted positions (whole numbers) or a mask")
    return given.astype(np.int64)


@dataclass(frozen=True, slots=True)
class PoolScore:
    """One image of a pool as a detector saw it."""

    image: str
    score: float
    """Highest foreground probability over the priors (or detections), in [0, 1]."""
    label: int
    """Class of that score, 1..C; 0 when nothing fired."""
    num_alarms: int
    """Detections after NMS at or above the scan's score floor; −1 when not decoded."""
    level: int
    """Pyramid level of the top prior; −1 when the detector has none."""
    phash: int
    """64-bit perceptual hash as a signed integer."""
    model_id: str
    exact: bool = True
    """False: ``score`` is a first cut in low precision and nothing was decoded yet."""


def reaches(score: float, limit: float) -> bool:
    """Return whether a score is ``limit`` or more, in the float32 of scores: .7 reaches .7."""
    return bool(np.float32(score) >= np.float32(limit))


class Verdict(StrEnum):
    """What a person says of a candidate."""

    EMPTY = "empty"
    CONTAINS_OBJECT = "contains_object"
    IGNORE = "ignore"
    UNSURE = "unsure"

    @property
    def state(self) -> ImageState:
        """The image state that the verdict leads to."""
        return {
            Verdict.EMPTY: ImageState.VERIFIED_EMPTY,
            Verdict.CONTAINS_OBJECT: ImageState.CONTAINS_OBJECT,
            Verdict.IGNORE: ImageState.IGNORED,
            Verdict.UNSURE: ImageState.UNREVIEWED,
        }[self]


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box with the name of its class: xyxy pixels of the image as displayed."""

    box: tuple[float, float, float, float]
    category: str
    score: float | None = None
    """A model's score, in [0, 1]; ``None`` for a box that a person gave."""

    def to_list(self) -> list[Any]:
        """Return ``[x1, y1, x2, y2, score, class]``, as in ``candidates.json``."""
        return [*self.box, self.score, self.category]

    @staticmethod
    def from_list(values: Sequence[Any]) -> NamedBox:
        """Return the box of ``[x1, y1, x2, y2, score, class]``.

        Raises:
            ValueError: another number of values, or one that is not finite.
        """
        *box, score, category = values
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise ValueError(f"got {list(values)!r}, wanted [x1, y1, x2, y2, score, class]")
        x1, y1, x2, y2 = (float(value) for value in box)
        return NamedBox((x1, y1, x2, y2), str(category), None if score is None else float(score))


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on one pool image; decisions are only ever appended."""

    image: str
    verdict: Verdict
    who: str
    when: str
    """UTC, ISO 8601."""
    model_id: str
    shown: tuple[NamedBox, ...] = ()
    """The alarms that the person saw."""
    boxes: tuple[NamedBox, ...] = ()
    """The objects that the person drew or accepted, with the verdict `contains_object` alone."""

    @property
    def state(self) -> ImageState:
        """The state that the image is in: ``labelled`` when its objects have boxes."""
        return ImageState.LABELLED if self.boxes else self.verdict.state
