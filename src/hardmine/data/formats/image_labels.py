"""What a label file says of one image, in the words of the format, and what is said of a whole set.

The readers of single formats fill `ImageLabels`; the readers that many formats share
(`label_readers`) find the images and turn them into `RawImage` values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from hardmine.data.formats.label_format import split_folder
from hardmine.data.formats.label_validation import LabelError, RawImage
from hardmine.finding_kinds import FindingKind
from hardmine.text import TextError, decode_xml, parse_flag, plain_name, read_lines
from hardmine.types import ImageState, Problem

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
    """Collects what is said once, with a count, however often it was met."""

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
        lines = read_lines(path)
    except TextError as error:
        raise LabelError(FindingKind.LABEL_ENCODING, f"{path}: {error}") from None
    names = {number: plain_name(line) for number, line in enumerate(lines) if line.strip()}
    found = {number: _NUMBERED.fullmatch(name) for number, name in names.items()}
    if len(names) > 1 and all(m and int(m[1]) == number for number, m in found.items()):
        return {number: plain_name(m[2]) for number, m in found.items() if m}
    return names


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
