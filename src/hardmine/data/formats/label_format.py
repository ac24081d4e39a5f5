"""What the module of a label format offers, and the words in which it says what a label file holds.

Each format's module has a ``READER``, a ``WRITER`` or both: how its data are found and read, and
how they are written; `format_table` has its row. What a file says of one image goes into
`ImageLabels`; the readers that many formats share (`label_readers`) find the images and turn them
into `RawImage` values.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from hardmine.data.formats.label_validation import LabelError, RawImage, RawSplit
from hardmine.errors import DataError
from hardmine.files import TextError, decode_xml, parse_flag, plain_name, read_lines
from hardmine.finding_kinds import FindingKind
from hardmine.types import F32, Dataset, ImageRecord, ImageState, Problem

_log = logging.getLogger(__name__)

ALL = "all"
"""The name of the only split of data without splits."""
SPLITS = ("train", "val", "test")

_CANONICAL = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_CANONICAL)})(?![a-z])")


class Source(Protocol):
    """One split of a dataset that has been found and not read yet."""

    @property
    def format(self) -> str:
        """The name of its format in `format_table`."""
        ...

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read it."""
        ...


Sources = Mapping[str, Source]
"""The sources by the name of their split; the name is `ALL` where there are no splits."""


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Files that hold the labels of many images each: of a split (COCO) or a dataset (data.yaml).

    Attributes:
        suffixes: of such a file, lower case.
        looks_right: whether a file with one of the suffixes is of this format.
        sources: the splits in a file; called with the folder of images where the user named one.
        preferred: files whose names start so are taken in place of any others.
        whole: one file holds all splits; of several, the first is taken.
        after_pairs: looked for only where no image has a label file of its own.
    """

    suffixes: tuple[str, ...]
    looks_right: Callable[[Path], bool]
    sources: Callable[[Path, Path | None], Sources]
    preferred: str = ""
    whole: bool = False
    after_pairs: bool = False


@dataclass(frozen=True, slots=True)
class LabelPerImage:
    """A label file for each image, paired by their names.

    Attributes:
        suffix: of the label files, lower case.
        looks_right: whether a file with that suffix is of this format; an empty file is of any.
        source: a split from its root, its folder of images and its folder of label files; the root is
            the folder of images where the user named that.
    """

    suffix: str
    looks_right: Callable[[Path], bool]
    source: Callable[[Path, Path, Path], Source]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffix, as `LabelFiles` has several."""
        return (self.suffix,)


@dataclass(frozen=True, slots=True)
class Reader:
    """How data of one format are found and read.

    Attributes:
        layout: the splits in a folder that is laid out as only this format is; empty if it is not.
            Called with the folder of images too where the user named one.
    """

    layout: Callable[[Path, Path | None], Sources] | None = None
    files: LabelFiles | None = None
    per_image: LabelPerImage | None = None


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What is written: splits with one class list, whose images already lie where they belong.

    ``scores`` f32[N] by image: its boxes are a model's, and these are their scores. ``model`` names
    the model.
    """

    splits: Mapping[str, Dataset]
    scores: Mapping[Path, F32] = field(default_factory=dict)
    model: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """The class list."""
        return next(iter(self.splits.values())).categories

    def is_said(self, record: ImageRecord) -> bool:
        """Return whether a labelling program is told what a person said of an image.

        Not where all boxes are to be ignored: without them the image would be called empty.
        """
        only_ignored = len(record.ignore) > 0 and bool(record.ignore.all())
        return record.state.is_looked_at and not only_ignored

    def shown_boxes(self, record: ImageRecord) -> Iterator[tuple[list[float], str, float | None]]:
        """Yield (xyxy pixels, class, score) of each box that is not to be ignored.

        The score is None where a person drew the box.
        """
        given = self.scores.get(record.path)
        scores = [None] * len(record.labels) if given is None else given.tolist()
        rows = zip(record.boxes.tolist(), record.labels, scores, record.ignore, strict=True)
        for box, label, score, ignore in rows:
            if not ignore:
                yield box, self.categories[label - 1], score


SAID_BY_PERSONS = frozenset({ImageState.LABELLED, ImageState.VERIFIED_EMPTY, ImageState.UNREVIEWED})
"""The states that a labelling program can hold which tells an empty image from one not looked at."""


@dataclass(frozen=True, slots=True)
class Writer:
    """How data are written in one format.

    Attributes:
        write: writes the labels below a folder in which the images already lie; returns what to say
            of it, in whole sentences.
        image_folder: where the images of a split lie below that folder; ``""`` is the folder itself.
        any_split: splits may have any name; else only those in `SPLITS` and `ALL`.
        states: the states that the format can hold; an image in another one is read back as
            ``unreviewed``.
        bare_is_empty: other programs take every image that lies there, one without labels as empty.
    """

    write: Callable[[LabelSet, Path], Sequence[str]]
    image_folder: Callable[[str], str]
    any_split: bool = False
    states: frozenset[ImageState] = frozenset(ImageState)
    bare_is_empty: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NewImage:
    """An image that is added to a dataset: the name of its file, its size as displayed, its objects.

    ``boxes`` f32[N, 4] xyxy pixels with the ``classes`` of the same length; without any, the image is a
    verified negative. With ``place`` it stays where it is, and the labels name it there.
    """

    name: str
    width: int
    height: int
    boxes: F32
    classes: tuple[str, ...] = ()
    place: Path | None = None

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem


@dataclass(slots=True)
class Additions:
    """What adding images to a split changes: ``pictures`` says where each image goes, by its name;
    ``new_files`` and ``edits`` hold the content of label files that are new and of those that are there.
    """

    pictures: dict[str, Path] = field(default_factory=dict)
    new_files: dict[Path, str] = field(default_factory=dict)
    edits: dict[Path, bytes] = field(default_factory=dict)


Appender = Callable[[Any, Dataset, Sequence[NewImage]], Additions]
"""``append(source, split, images)``: says what adding images to a split that was read changes.

The format's module has it as ``APPENDER``. It writes nothing. Raises ``DataError`` where it cannot be.
"""


def usual_folder(split: Dataset) -> Path:
    """Return the folder that holds most images of a split.

    Raises:
        DataError: the split has no image.
    """
    if not split.records:
        raise DataError(f"{split.root}: has no image, so that nothing says where further ones go")
    return Counter(record.path.parent for record in split.records).most_common(1)[0][0]


def written_beside(written: Iterable[str], known: Path, name: str) -> str:
    """Return how a label file is to name a new file that lies beside a known one.

    Args:
        written: the names of images in the label file.
    """
    for text in written:
        plain = text.strip().replace("\\", "/")
        if plain.rpartition("/")[2] == known.name:
            return plain[: len(plain) - len(known.name)] + name
    return name


def pictures_in(folder: Path, images: Sequence[NewImage]) -> dict[str, Path]:
    """Return where new images go, by name; those that stay where they are left out."""
    return {image.name: folder / image.name for image in images if image.place is None}


def written_as(image: NewImage, written: Sequence[str], known: Path, root: Path) -> str:
    """Return how a label file is to name a new image.

    One that stays where it is has a path relative to where the other names start if it lies below
    ``root``, else its absolute path.

    Args:
        written: the names of images in the label file.
        known: an image that is among them.
    """
    if image.place is None:
        return written_beside(written, known, image.name)
    if image.place.is_relative_to(root):
        for text in written:
            plain = "/" + text.strip().replace("\\", "/").removeprefix("./")
            if known.as_posix().endswith(plain):
                start = Path(known.as_posix().removesuffix(plain))
                return Path(os.path.relpath(image.place, start)).as_posix()
    return image.place.as_posix()


def with_lines(path: Path, lines: Iterable[str]) -> bytes:
    """Return the content of a text file with more lines, ended as its others are.

    Raises:
        DataError: the file is in an encoding of several bytes per character.
    """
    text = path.read_bytes()
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16, wanted UTF-8; nothing can be added to it")
    end = b"\r\n" if b"\r\n" in text else b"\n"
    joined = b"".join(line.encode() + end for line in lines)
    return text + (b"" if not text or text.endswith(b"\n") else end) + joined


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for (``train2017`` → ``train``), or None."""
    words = [_CANONICAL[word] for word in _SPLIT_WORD.findall(name.lower())]
    return words[0] if words else None


def split_folder(name: str) -> str | None:
    """Return the split that a folder with exactly that name holds, or None."""
    return _CANONICAL.get(name.lower())


def below_images(split: str) -> str:
    """Return ``images/train`` for the split ``train``, ``images`` for data without splits."""
    return "images" if split == ALL else f"images/{split}"


_CLASS_FILES = (
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
    "images/classes.txt",
    "_darknet.labels",
)
_LARGEST_SIDE = 1e9
_NUMBERED = re.compile(r"(\d+)\s*[:;,.)]?\s+(.+)")


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


class LabelledBox(NamedTuple):
    """One object: its class, its corners in pixels, and its place in the label file."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    place: int
    ignore: bool = False


class Fault(NamedTuple):
    """What is wrong with an object, or worth saying of it: kind, place in the label file, reason."""

    kind: FindingKind
    place: int
    reason: str


@dataclass(slots=True)
class ImageLabels:
    """What a label file says of one image.

    Attributes:
        image: the name of the image as written; empty where the label file's name pairs them.
        place: of the image in the label file; −1 where the file is about one image only.
        width, height: pixels as written, 0 where they are not.
        objects: in the order of the label file.
        rejected: objects that cannot be read; the image is no negative then.
        remarks: what was read and is worth saying, once for all images with the same reason.
        state: where the file states one.
        looked_at: an image without objects was looked at by a person.
        split: the part of the data that the file says it belongs to; empty where it does not.
    """

    image: str = ""
    place: int = -1
    width: int = 0
    height: int = 0
    objects: list[LabelledBox] = field(default_factory=list)
    rejected: list[Fault] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)
    state: ImageState | None = None
    source: str = ""
    looked_at: bool = True
    split: str = ""

    def flag(self, value: object, what: str, place: int) -> bool:
        """Return what a flag says; a value without a meaning counts as no, and is remarked on."""
        meaning = parse_flag(value)
        if meaning is None:
            reason = f"{what} is {value!r}, wanted 0 or 1, true or false, yes or no; taken as no"
            self.remarks.append(Fault(FindingKind.FLAG_UNKNOWN, place, reason))
        return bool(meaning)


class Remarks:
    """Collects findings that are reported once each, with a count."""

    def __init__(self) -> None:
        self._met: dict[tuple[FindingKind, str], list[tuple[str, int]]] = {}

    def add(self, kind: FindingKind, reason: str, file: str, place: int = -1) -> None:
        """Note one more case of a reason."""
        self._met.setdefault((kind, reason), []).append((file, place))

    def problems(self) -> list[Problem]:
        """Return one problem per reason, at the place where it was met first."""
        return [
            Problem(kind, *places[0], f"{reason}{_times(len(places))}")
            for (kind, reason), places in self._met.items()
        ]


class ClassList:
    """Class names in the order in which they were declared or met, one number each."""

    def __init__(self, declared: tuple[str, ...] | None = None) -> None:
        self.declared = declared is not None
        self._numbers: dict[str, int] = {}
        for name in declared or ():
            self.number(name)

    def number(self, name: str) -> int:
        """Return the number of a class, counted from 0; a new one where it was not met before."""
        return self._numbers.setdefault(plain_name(name), len(self._numbers))

    @property
    def names(self) -> list[str]:
        """All names, by number."""
        return list(self._numbers)


def fill_image(
    raw: RawImage, labels: ImageLabels, classes: ClassList, ignored: frozenset[int], notes: Remarks
) -> list[Problem]:
    """Give an image what its label file says; return what is wrong with single objects.

    Args:
        ignored: places of objects to ignore whatever the label file says.
    """
    raw.width, raw.height = raw.width or labels.width, raw.height or labels.height
    raw.state = raw.state or labels.state
    raw.source = raw.source or labels.source
    for item in labels.objects:
        ignore = item.ignore or item.place in ignored
        number = classes.number(item.name)
        raw.objects.append((item.x0, item.y0, item.x1, item.y1, number, ignore, item.place))
    raw.rejected += len(labels.rejected)
    if not labels.objects:  # what a point or a line marks is there, though nothing can be learnt
        raw.rejected += any(r.kind is FindingKind.SHAPES_LEFT_OUT for r in labels.remarks)
    for remark in labels.remarks:
        notes.add(remark.kind, remark.reason, raw.file, remark.place)
    return [Problem(fault.kind, raw.file, fault.place, fault.reason) for fault in labels.rejected]


def read_side(value: object) -> int:
    """Return a width or height in pixels, written as a number or as text.

    0 where it is missing or senseless; then the image's header is read.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0
    return round(number) if 0 < number < _LARGEST_SIDE else 0


def is_number(text: str) -> bool:
    """True for what Python reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def said_name(name: object) -> str:
    """Return a class name, written as text or as a number.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
        raise TypeError(name)
    return str(name)


def score_left_out(value: object, place: int) -> list[Fault]:
    """Return the remark that an object has a score (a model made it), which is not used."""
    if value is None or value == "":
        return []
    return [Fault(FindingKind.COLUMNS_LEFT_OUT, place, "an object with a score, left out")]


def turned_box(box: Box, degrees: float) -> Box:
    """Return the box around one that is turned about its centre."""
    if not degrees:
        return box
    x0, y0, x1, y1 = box
    turn = math.radians(degrees)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    half_x = ((x1 - x0) * cos + (y1 - y0) * sin) / 2
    half_y = ((x1 - x0) * sin + (y1 - y0) * cos) / 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return cx - half_x, cy - half_y, cx + half_x, cy + half_y


def turned_radii(rx: float, ry: float, degrees: float) -> tuple[float, float]:
    """Return half the width and height of the box around an ellipse that is turned."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)


def class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the names in a folder's ``classes.txt`` (``obj.names`` …), None where it has none.

    Raises:
        LabelError: it is not UTF-8 text.
    """
    found = numbered_classes(folder)
    return None if found is None else tuple(found.values())


def numbered_classes(folder: Path) -> Mapping[int, str] | None:
    """Return those names by their number, which is their line; empty lines name no class.

    The list of a split's folder may lie in the folder above it.

    Raises:
        LabelError: it is not UTF-8 text.
    """
    for place in [folder, folder.parent] if split_folder(folder.name) else [folder]:
        for name in _CLASS_FILES:
            files = (place / name, _in_any_case(place / name))
            path = next((p for p in files if p.is_file()), None)
            if path is not None:
                return read_class_list(path)
        lists = sorted(place.glob("*.names"))
        if len(lists) == 1:
            return read_class_list(lists[0])
    return None


def read_class_list(path: Path) -> Mapping[int, str]:
    """Return the class names in a text file by their number, which is their line.

    Where every line begins with its own number (``0 cat``, ``1: dog``), that is no part of the name.

    Raises:
        LabelError: it is not UTF-8 text.
    """
    try:
        lines = without_comments(read_lines(path), path)
    except TextError as error:
        raise LabelError(FindingKind.LABEL_ENCODING, f"{path}: {error}") from None
    names = {number: plain_name(line) for number, line in enumerate(lines) if line.strip()}
    found = {number: _NUMBERED.fullmatch(name) for number, name in names.items()}
    if len(names) > 1 and all(m and int(m[1]) == number for number, m in found.items()):
        return {number: plain_name(m[2]) for number, m in found.items() if m}
    return names


def without_comments(lines: Sequence[str], path: Path) -> list[str]:
    """Return the lines of a list of classes that are no comments (``#``), which are said."""
    comments = [line for line in lines if line.lstrip().startswith("#")]
    if comments:
        _log.warning(
            "%s: lines that begin with # are comments and no classes, such as %r",
            path,
            comments[0].strip()[:60],
        )
    return [line for line in lines if not line.lstrip().startswith("#")]


def _in_any_case(path: Path) -> Path:
    if not path.parent.is_dir():
        return path
    alike = [p for p in path.parent.iterdir() if p.name.lower() == path.name]
    return alike[0] if alike else path


def _times(number: int) -> str:
    return "" if number == 1 else f" ({number} times, here first)"


def parse_xml(path: Path, tag: str) -> Element:
    """Return the root element of an XML file, which must have that tag.

    Raises:
        OSError: it cannot be read.
        TextError: it is in another encoding than it says.
        LabelError: no XML, another tag, or XML that defines entities.
    """
    text = decode_xml(path.read_bytes())
    try:
        root: Element | None = fromstring(text)
    except DefusedXmlException as error:
        kind = FindingKind.LABEL_ENTITIES
        raise LabelError(kind, f"XML with entities is refused ({error})") from None
    except (ParseError, ValueError, LookupError) as error:
        raise LabelError(FindingKind.LABEL_BROKEN, f"not readable as XML ({error})") from None
    if root is None or root.tag != tag:
        found = "nothing" if root is None else f"<{root.tag}>"
        raise LabelError(FindingKind.LABEL_BROKEN, f"holds {found}, wanted <{tag}>")
    return root
