"""YOLO: one text file per image, a line ``class cx cy w h`` (shares of the image) per object.

A missing label file says ``unreviewed``, an empty one ``verified_empty``; other states, and objects
to ignore, live in a side file (see `image_states`). What lines of another length mean is judged over
the whole set; that and ``data.yaml`` are in `yolo_config`. Whole sets are written by `yolo_writing`.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hardmine.data.formats.image_files import (
    ImageFinder,
    OutsideRootError,
    list_files,
    list_images,
    measure,
    relative_name,
    stem_name,
)
from hardmine.data.formats.image_states import (
    NO_MARK,
    Mark,
    read_marks,
)
from hardmine.data.formats.label_format import (
    Additions,
    LabelFiles,
    LabelPerImage,
    NewImage,
    Reader,
    Remarks,
    Writer,
    below_images,
    numbered_classes,
    split_folder,
    usual_folder,
    with_lines,
    written_beside,
)
from hardmine.data.formats.label_readers import none_found
from hardmine.data.formats.label_validation import RawImage, RawSplit
from hardmine.data.formats.yolo_config import (
    BOX,
    DARKNET,
    Columns,
    Keypoints,
    judge_columns,
    load_config,
    read_config,
)
from hardmine.data.formats.yolo_writing import warn_of_suffixes, write_yolo
from hardmine.errors import DataError
from hardmine.files import TextError, peek_text, read_lines, same_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageState, Problem

_log = logging.getLogger(__name__)
MAX_UNNAMED = 1000
"""Class numbers from here on are taken for an error where no list of names says otherwise."""


@dataclass(frozen=True, slots=True)
class YoloSource:
    """One split.

    Attributes:
        root: the folder that names of files are seen from.
        entries: folders of images, and text files that list images.
        names: class names by number; None where the data come without names.
        labels: the folder of labels (by the same path below it), or None: the format's own rule, the
            last ``images`` in an image's path turned into ``labels``, else beside the image.
        keypoints: as data.yaml declares them.
        roots: further folders that list files may name images in.
        by_base_name: the user named the folder of images, see `ImageFinder`.
        remarks: what is to be said of the data.yaml.
    """

    root: Path
    entries: tuple[Path, ...]
    names: Mapping[int, str] | None
    labels: Path | None = None
    keypoints: Keypoints | None = None
    roots: tuple[Path, ...] = ()
    by_base_name: bool = False
    remarks: tuple[Problem, ...] = ()

    @property
    def format(self) -> str:
        """The name of its format in `format_table`."""
        return "yolo"

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the split; ``empty_is_verified``: an image without label file is a negative."""
        return _YoloReader(self, empty_is_verified).read()


class _Line(NamedTuple):
    place: int
    text: str
    number: int
    values: list[float]


class _YoloReader:
    def __init__(self, source: YoloSource, empty_is_verified: bool) -> None:
        self.source = source
        self.problems: list[Problem] = list(source.remarks)
        self.notes = Remarks()
        self.highest = -1
        self.missing = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED
        self.folders = _LabelFolders(source)
        self.marks: dict[Path, dict[str, Mark]] = {}

    def read(self) -> RawSplit:
        """Return the images of every listed folder and list file, each once."""
        labels: dict[Path, Path | None] = {}
        for entry in self.source.entries:
            images = list_images(entry) if entry.is_dir() else [*self._list(entry)]
            labels |= {path: self.folders.label_of(path) for path in images}
        if not labels and any(not entry.is_dir() for entry in self.source.entries):
            folders = (self.source.root, *self.source.roots)
            raise DataError(
                none_found(self.source.entries[0], dict.fromkeys(folders), self.problems)
            )
        raws = [self._raw(path, label) for path, label in labels.items()]
        raws = measure(raws, self.source.root, self.problems)
        lines = [self._lines(raw, labels[raw.path]) for raw in raws]
        columns = self._columns(lines)
        for raw, written in zip(raws, lines, strict=True):
            self._fill(raw, written, labels[raw.path], columns)
        self._strays(labels)
        self.problems += self.notes.problems()
        names = self.source.names
        known = list(names.values()) if names is not None else [*map(str, range(self.highest + 1))]
        return RawSplit(self.source.root, known, raws, self.problems, form="cxcywh_shares")

    def _raw(self, path: Path, label: Path | None) -> RawImage:
        mark = self._mark(path)
        return RawImage(path, self._name(label or path), state=mark.state, source=mark.source)

    def _list(self, entry: Path) -> Iterator[Path]:
        """Yield the images that a text file names."""
        source = self.source
        finder = ImageFinder(
            source.root,
            [entry.parent, source.root],
            by_base_name=source.by_base_name,
            by_tail=True,
            more_roots=(*source.roots, entry.parent),
        )
        try:
            lines = read_lines(entry)
        except (OSError, TextError) as error:
            raise DataError(f"{entry}: cannot be read as a list of images ({error})") from None
        for index, line in enumerate(lines):
            name = line.strip()
            if not name:
                continue
            try:
                path = finder.find(name)
            except OutsideRootError as error:
                self._report(FindingKind.PATH_OUTSIDE, entry, str(error), index)
                continue
            if path is None:
                reason = f"no image {name}{finder.hint(name)}"
                self._report(FindingKind.IMAGE_MISSING, entry, reason, index)
            else:
                yield path
        self.problems += finder.remarks(self._name(entry))

    def _lines(self, raw: RawImage, label: Path | None) -> list[_Line]:
        """Return the lines of a label file that are a class and numbers."""
        if label is None:
            raw.state_if_empty = self.missing
            return []
        raw.state_if_empty = ImageState.VERIFIED_EMPTY
        try:
            lines = read_lines(label)
        except TextError as error:
            self._reject(raw, FindingKind.LABEL_ENCODING, label, str(error))
            return []
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            self._reject(raw, FindingKind.LABEL_BROKEN, label, reason)
            return []
        found: list[_Line] = []
        for index, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                found.append(_Line(index, line.strip()[:80], *parse_line(line)))
            except ValueError as error:
                self._reject(raw, FindingKind.BOX_MALFORMED, label, str(error), index)
        return found

    def _columns(self, lines: list[list[_Line]]) -> dict[int, Columns | str]:
        by_count: dict[int, list[list[float]]] = defaultdict(list)
        for written in lines:
            for line in written:
                by_count[len(line.values)].append(line.values)
        if set(by_count) <= {4} and self.source.keypoints is None:
            return {4: BOX}
        return judge_columns(by_count, self.source.keypoints)

    def _fill(
        self,
        raw: RawImage,
        lines: list[_Line],
        label: Path | None,
        columns: Mapping[int, Columns | str],
    ) -> None:
        if label is None:
            return
        ignored = self._mark(raw.path).ignore
        for index, text, number, values in lines:
            reading = columns[len(values)]
            try:
                if isinstance(reading, str):
                    raise ValueError(reading)
                x0, y0, x1, y1 = reading.box(values)
            except ValueError as error:
                reason = f"line {text!r}, {error}"
                self._reject(raw, FindingKind.BOX_MALFORMED, label, reason, index)
                continue
            place = self._class(number)
            if place is None:
                reason = f"class {number}, wanted {self._wanted()}"
                self._reject(raw, FindingKind.CLASS_UNKNOWN, label, reason, index)
                continue
            if reading.left_out:
                reason = f"a line of {len(values) + 1} numbers, {reading.left_out} left out"
                self.notes.add(FindingKind.COLUMNS_LEFT_OUT, reason, raw.file, index)
            width, height = raw.width, raw.height
            box = (x0 * width, y0 * height, x1 * width, y1 * height)
            raw.objects.append((*box, place, index in ignored, index))

    def _class(self, number: int) -> int | None:
        """Return the place of a class in the list of names, None where there is no such class."""
        names = self.source.names
        if names is None:
            if not 0 <= number < MAX_UNNAMED:
                return None
            self.highest = max(self.highest, number)
            return number
        return list(names).index(number) if number in names else None

    def _wanted(self) -> str:
        names = self.source.names
        if names is None:
            return f"0 to {MAX_UNNAMED - 1}"
        gaps = len(names) < max(names) + 1
        return ", ".join(map(str, names)) if gaps else f"0 to {max(names)}"

    def _strays(self, labels: Mapping[Path, Path | None]) -> None:
        """Name label files that serve two images, and those of the folders that serve none."""
        owners: dict[Path, Path] = {}
        for image, label in labels.items():
            if label is None:
                continue
            first = owners.setdefault(label, image)
            if first != image:
                reason = f"serves {first.name} and {image.name}"
                self._report(FindingKind.LABEL_AMBIGUOUS, label, reason)
        stems: dict[Path, set[str]] = defaultdict(set)
        for image in labels:
            for folder in self.folders.places(image.parent):
                stems[folder].add(same_text(image.stem))
        seen = set(owners)
        for root in self.folders.roots():
            for label in list_files(root, {".txt"}):
                if label in seen or not looks_like_labels(label):
                    continue
                seen.add(label)
                if same_text(label.stem) in stems[label.parent]:
                    reason = "not read: its image has another label file"
                    self.notes.add(FindingKind.LABELS_NOT_READ, reason, self._name(label))
                else:
                    reason = f"no image {stem_name(label, root)}.*"
                    self._report(FindingKind.IMAGE_MISSING, label, reason)

    def _mark(self, path: Path) -> Mark:
        for folder, name in self.folders.mark_places(path):
            if folder not in self.marks:
                self.marks[folder] = read_marks(folder, self.source.root, self.problems)
            if name in self.marks[folder]:
                return self.marks[folder][name]
        return NO_MARK

    def _name(self, path: Path) -> str:
        return relative_name(path, self.source.root)

    def _reject(
        self, raw: RawImage, kind: FindingKind, file: Path, reason: str, index: int = -1
    ) -> None:
        raw.rejected += 1
        self._report(kind, file, reason, index)

    def _report(self, kind: FindingKind, file: Path, reason: str, index: int = -1) -> None:
        self.problems.append(Problem(kind, self._name(file), index, reason))


class _LabelFolders:
    """Where the label file of an image lies: in the labels' folder, else beside the image."""

    def __init__(self, source: YoloSource) -> None:
        self.source = source
        self._entries = [entry for entry in source.entries if entry.is_dir()]
        self._places: dict[Path, tuple[Path, ...]] = {}
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def label_of(self, image: Path) -> Path | None:
        """Return an image's label file: ``a.txt`` or ``a.jpg.txt`` of ``a.jpg``.

        Capital letters and the spelling of accents may differ.
        """
        places = self.places(image.parent)
        for place in places:
            beside = len(places) > 1 and place == image.parent
            for name in (image.stem, image.name):  # some programs write a.jpg.txt
                alike = self._labels_in(place).get(same_text(name).casefold(), [])
                exact = [path for path in alike if same_text(path.stem) == same_text(name)]
                found = exact or (alike if len(alike) == 1 else [])
                if found and (not beside or looks_like_labels(found[0])):
                    return found[0]
        return None

    def places(self, folder: Path) -> tuple[Path, ...]:
        """Return the folders that may hold the labels of the images in a folder."""
        if folder not in self._places:
            found = [place for place in (self._beyond(folder), folder) if place is not None]
            self._places[folder] = tuple(p for p in dict.fromkeys(found) if p.is_dir())
        return self._places[folder]

    def home(self, folder: Path) -> Path:
        """Return the folder where the label of a new image of a folder belongs."""
        beyond = self._beyond(folder)
        places = self.places(folder)
        return beyond if beyond is not None and (beyond in places or not places) else places[0]

    def roots(self) -> list[Path]:
        """Return the folders below which all labels of the split's folders should have an image."""
        found: list[Path] = []
        for entry in self._entries:
            images = entry / "images" if (entry / "images").is_dir() else entry
            found += [place for place in (self._beyond(images), images) if place is not None]
        return [place for place in dict.fromkeys(found) if place.is_dir()]

    def mark_places(self, image: Path) -> Iterator[tuple[Path, str]]:
        """Yield the folders whose side file may speak of an image, and its name there."""
        for folder in (image.parent, *image.parent.parents):
            for place in self.places(folder):
                yield place, relative_name(image, folder)
            last = folder.name == "images" or folder in self._entries
            if last or folder == self.source.root or not folder.is_relative_to(self.source.root):
                return

    def _beyond(self, folder: Path) -> Path | None:
        """Return the folder of labels that belongs to a folder of images, whether or not it exists."""
        labels = self.source.labels
        if labels is not None:
            entry = next((e for e in self._entries if folder.is_relative_to(e)), None)
            return None if entry is None else labels / folder.relative_to(entry)
        parts = list(folder.parts)
        if "images" not in parts:
            return None
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        return Path(*parts)

    def _labels_in(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            listed: dict[str, list[Path]] = defaultdict(list)
            with os.scandir(folder) as entries:
                for name in sorted(entry.name for entry in entries):
                    stem, suffix = os.path.splitext(name)  # noqa: PTH122
                    if suffix.lower() == ".txt" and not name.startswith("."):
                        listed[same_text(stem).casefold()].append(folder / name)
            self._listed[folder] = listed
        return self._listed[folder]


def parse_line(line: str) -> tuple[int, list[float]]:
    """Return the class number and the numbers after it.

    Raises:
        ValueError: not a whole number and further numbers.
    """
    wanted = f"line {line.strip()[:80]!r}, wanted 'class cx cy w h'"
    try:
        number, *values = (float(value) for value in line.split())
    except ValueError:
        raise ValueError(wanted) from None
    if not number.is_integer():
        raise ValueError(f"{wanted} with a whole number as the class")
    return int(number), values


def looks_like_labels(path: Path) -> bool:
    """Return whether the first written line of a text file may be a YOLO object."""
    first = next((line for line in peek_text(path).split("\n") if line.strip()), "")
    try:
        return len(parse_line(first)[1]) >= 4
    except ValueError:
        return False


def _splits_of_config(path: Path, images: Path | None) -> dict[str, YoloSource]:
    """Return the splits that a ``data.yaml`` names."""
    config = read_config(path, images)
    kind, name = FindingKind.CONFIG_REMARK, path.name
    remarks = tuple(Problem(kind, name, -1, remark) for remark in config.remarks)
    roots = [e if e.is_dir() else e.parent for found in config.splits.values() for e in found]
    sources: dict[str, YoloSource] = {}
    for split, entries in config.splits.items():
        sources[split] = YoloSource(
            _common_root(config.root, entries),
            entries,
            config.names,
            keypoints=config.keypoints,
            roots=(config.root, *roots),
            by_base_name=images is not None,
            remarks=() if sources else remarks,
        )
    return sources


def _common_root(root: Path, entries: tuple[Path, ...]) -> Path:
    """Return ``root``, or where an entry lies elsewhere the deepest folder that holds them all."""
    if all(entry.is_relative_to(root) for entry in entries):
        return root
    return Path(os.path.commonpath([e if e.is_dir() else e.parent for e in entries]))


def _looks_like_config(path: Path) -> bool:
    if path.suffix.lower() == DARKNET:
        try:
            return bool(read_config(path).splits)
        except DataError:
            return False
    return path.stem == "data" or "names" in load_config(path)


def _in_folders(root: Path, images: Path, labels: Path) -> YoloSource:
    return YoloSource(
        root, (images,), _classes(root, labels), labels, by_base_name=root == images != labels
    )


def _classes(root: Path, labels: Path) -> Mapping[int, str] | None:
    """Return the class names in the root, else those beside labels whose images lie elsewhere."""
    home = labels.parent if split_folder(labels.name) else labels
    above = [home.parent] if home.name.lower() == "labels" else []
    found = (numbered_classes(folder) for folder in (root, home, *above))
    return next((names for names in found if names is not None), None)


READER = Reader(
    files=LabelFiles(
        (".yaml", ".yml", DARKNET),
        _looks_like_config,
        _splits_of_config,
        preferred="data.",
        whole=True,
    ),
    per_image=LabelPerImage(".txt", looks_like_labels, _in_folders),
)
WRITER = Writer(write_yolo, below_images, bare_is_empty=True)


def append_yolo(source: YoloSource, split: Dataset, images: Sequence[NewImage]) -> Additions:
    """Add images with a label file each, an empty one for a negative; a list file gets their names.

    Objects are written as lines of the kind that the others are: as boxes, or as outlines of four
    corners among outlines, or with keypoints that are not labelled. Ultralytics leaves out all outlines
    where one line is a box, and all images whose lines have no keypoints where others have.
    """
    folder = usual_folder(split)
    home = _LabelFolders(source).home(folder)
    any_object = any(image.classes for image in images)
    outlined = any_object and _has_outlines(source, split)
    points = _unlabelled_points(source) if any_object else ""
    numbers = {name: number for number, name in (source.names or {}).items()}
    for words in warn_of_suffixes(image.name for image in images):
        _log.warning("%s: %s", source.root, words)
    found = Additions()
    for image in images:
        found.pictures[image.name] = folder / image.name
        lines = []
        for (x0, y0, x1, y1), name in zip(image.boxes.tolist(), image.classes, strict=True):
            number = numbers.get(name, int(name) if name.isdigit() and not numbers else None)
            if number is None:
                raise DataError(
                    f"{source.root}: has no class {name!r}, wanted {', '.join(numbers)}"
                )
            values = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            if outlined:
                values = [x0, y0, x1, y0, x1, y1, x0, y1]
            sides = (image.width, image.height) * (len(values) // 2)
            shares = (f"{v / side:.10g}" for v, side in zip(values, sides, strict=True))
            lines.append(f"{number} {' '.join(shares)}{points}\n")
        found.new_files[home / f"{image.stem}.txt"] = "".join(lines)
    if not any(entry.is_dir() and folder.is_relative_to(entry) for entry in source.entries):
        entry = next(e for e in source.entries if not e.is_dir())
        known = next(r.path for r in split.records if r.path.parent == folder)
        written = read_lines(entry)
        names = [written_beside(written, known, image.name) for image in images]
        found.edits[entry] = with_lines(entry, names)
    return found


def _has_outlines(source: YoloSource, split: Dataset) -> bool:
    """Return whether objects of a split are written as outlines."""
    folders = _LabelFolders(source)
    by_count: dict[int, list[list[float]]] = defaultdict(list)
    for label in filter(None, (folders.label_of(record.path) for record in split.records)):
        for line in read_lines(label):
            with suppress(ValueError):  # a broken line was named when the split was read
                values = parse_line(line)[1]
                by_count[len(values)].append(values)
    readings = judge_columns(by_count, source.keypoints).values()
    return any(isinstance(each, Columns) and each.outline for each in readings)


def _unlabelled_points(source: YoloSource) -> str:
    """Return the rest of a line of an object whose keypoints nobody has labelled.

    Raises:
        DataError: the keypoints have no visibility, so that they cannot be left open.
    """
    number, size = source.keypoints or (0, 3)
    if size != 3:
        raise DataError(
            f"{source.root}: kpt_shape [{number}, {size}] wants the keypoints of each object, and the "
            "decisions have boxes alone; nothing can be added as long as one of them has boxes"
        )
    return " 0 0 0" * number


APPENDER = append_yolo
