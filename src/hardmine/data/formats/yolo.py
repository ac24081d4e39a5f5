"""YOLO: one text file per image, a line ``class cx cy w h`` (shares of the image) per object.

A missing label file says ``unreviewed``, an empty one ``verified_empty``; other states, and objects
to ignore, live in a side file (see `image_states`). Lines of outlines (``class x y x y …``)
give their bounding box.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hardmine.data.formats.image_folder import list_files, list_images, measure, stem_name
from hardmine.data.formats.image_paths import ImageFinder, OutsideRootError, relative_name
from hardmine.data.formats.image_states import (
    NO_MARK,
    Mark,
    has_label_file,
    mark_of,
    read_marks,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import (
    ALL,
    LabelFiles,
    LabelPerImage,
    LabelSet,
    Reader,
    Writer,
    below_images,
)
from hardmine.data.formats.label_validation import RawImage, RawSplit
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord, ImageState, Problem

logger = logging.getLogger(__name__)

_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")


def read_config(path: Path, images: Path | None = None) -> dict[str, YoloSource]:
    """Return the splits that a ``data.yaml`` names.

    The root is the folder under ``path`` (seen from the yaml's folder), or the yaml's folder when
    there is none or it does not exist here; no entry may leave it.

    Args:
        images: takes the place of ``path``.

    Raises:
        DataError: broken, without names or splits, or an entry is missing or leaves the root.
    """
    config = load_yaml(path)
    names = _names(path, config)
    root = images or path.parent / str(config.get("path") or "")
    if not root.is_dir():
        logger.warning("%s: path %s is not here, using %s", path, root, path.parent)
        root = path.parent
    sources: dict[str, YoloSource] = {}
    for key, split in _KEYS.items():
        value = config.get(key)
        entries = [value] if isinstance(value, str) else value or []
        if not isinstance(entries, list):
            raise DataError(f"{path}: {key} is {value!r}, wanted a path or a list of paths")
        found = [_locate(path, root, key, str(entry)) for entry in entries]
        present = tuple(entry for entry in found if entry is not None)
        if present:
            sources[split] = YoloSource(root, present, names)
    if not sources:
        raise DataError(f"{path}: none of train, val, test names a folder or list below {root}")
    return sources


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a yaml file.

    Raises:
        DataError: not readable, not yaml, or not a mapping.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as YAML ({reason})") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: got {type(config).__name__}, wanted keys such as train and names")
    return config


def looks_like_config(path: Path) -> bool:
    """Return whether a yaml file is called ``data`` or names classes."""
    return path.stem == "data" or "names" in load_yaml(path)


def class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the names in a folder's ``classes.txt`` (or ``obj.names``), None where it has none."""
    for name in _CLASS_FILES:
        path = folder / name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None


def _names(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("names")
    if isinstance(names, dict):
        try:
            by_number = {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            by_number = {}
        if sorted(by_number) != list(range(len(names))):
            raise DataError(f"{path}: names has the keys {list(names)}, wanted 0, 1, 2 …")
        names = [by_number[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names is {names!r}, wanted a list of class names")
    return tuple(str(name) for name in names)


def _locate(path: Path, root: Path, key: str, entry: str) -> Path | None:
    """Return the file or folder that an entry names, None where there is none.

    Some exports write ``../train/images`` for what lies beside the yaml, so the ``../`` is dropped
    where it leads nowhere.
    """
    plain = entry.replace("\\", "/")
    for spelling in (plain, plain.removeprefix("../")):
        found = Path(os.path.normpath(root / spelling))
        if found.exists():
            if not Path(os.path.realpath(found)).is_relative_to(os.path.realpath(root)):
                raise DataError(f"{path}: {key} names {found}, outside {root}")
            return found
    logger.warning("%s: %s names %s, which is not in %s", path, key, entry, root)
    return None


MAX_UNNAMED = 1000
"""Class numbers from here on are taken for an error where no list of names says otherwise."""


@dataclass(frozen=True, slots=True)
class YoloSource:
    """One split.

    ``entries`` are folders of images and text files that list images. Labels lie in ``labels`` (by
    the same path below it), or where that is None by the format's own rule: the last ``images`` in
    an image's path turned into ``labels``, else beside the image.
    """

    root: Path
    entries: tuple[Path, ...]
    names: tuple[str, ...] | None
    labels: Path | None = None

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the split; ``empty_is_verified``: an image without label file is a negative."""
        return _YoloReader(self, empty_is_verified).read()


def _in_folders(root: Path, images: Path, labels: Path) -> YoloSource:
    return YoloSource(root, (images,), class_names(root), labels)


class _YoloReader:
    def __init__(self, source: YoloSource, empty_is_verified: bool) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.highest = -1
        self.limit = MAX_UNNAMED if source.names is None else len(source.names)
        self.missing = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED

    def read(self) -> RawSplit:
        """Return the images of every listed folder and list file, each once."""
        found: dict[Path, tuple[Path, Mark]] = {}
        for entry in self.source.entries:
            found.update(self._folder(entry) if entry.is_dir() else self._list(entry))
        raws = [
            RawImage(path, self._name(label), state=mark.state, source=mark.source)
            for path, (label, mark) in found.items()
        ]
        raws = measure(raws, self.source.root, self.problems)
        for raw in raws:
            self._fill(raw, *found[raw.path])
        names = self.source.names or tuple(map(str, range(self.highest + 1)))
        return RawSplit(self.source.root, list(names), raws, self.problems, form="cxcywh_shares")

    def _folder(self, entry: Path) -> Iterator[tuple[Path, tuple[Path, Mark]]]:
        """Yield the images of a folder, each with its label file and mark."""
        images = entry / "images" if (entry / "images").is_dir() else entry
        labels = self.source.labels or _label_folder(images)
        marks = read_marks(labels, self.source.root, self.problems)
        stems: dict[str, Path] = {}
        for path in list_images(images):
            stem = stem_name(path, images)
            label = labels / f"{stem}.txt"
            if stem in stems and label.is_file():
                self._report(
                    FindingKind.LABEL_AMBIGUOUS, label, f"serves {stems[stem].name} and {path.name}"
                )
            stems[stem] = path
            yield path, (label, marks.get(relative_name(path, images), NO_MARK))
        for label in list_files(labels, {".txt"}):
            if stem_name(label, labels) not in stems and looks_like_labels(label):
                self._report(
                    FindingKind.IMAGE_MISSING, label, f"no image {stem_name(label, labels)}.*"
                )

    def _list(self, entry: Path) -> Iterator[tuple[Path, tuple[Path, Mark]]]:
        """Yield the images that a text file names."""
        finder = ImageFinder(self.source.root, [entry.parent, self.source.root])
        for index, line in enumerate(_lines(entry)):
            try:
                path = finder.find(line.strip())
            except OutsideRootError as error:
                self._report(FindingKind.PATH_OUTSIDE, entry, str(error), index)
                continue
            if path is None:
                self._report(FindingKind.IMAGE_MISSING, entry, f"no image {line.strip()}", index)
            else:
                yield path, (_label_folder(path.parent) / f"{path.stem}.txt", NO_MARK)

    def _fill(self, raw: RawImage, label: Path, mark: Mark) -> None:
        try:
            lines = label.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            raw.state_if_empty = self.missing
            raw.file = self._name(raw.path)
            return
        except OSError as error:
            self._report(FindingKind.LABEL_BROKEN, label, f"cannot be read ({error.strerror})")
            raw.rejected += 1
            return
        raw.state_if_empty = ImageState.VERIFIED_EMPTY
        for index, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                number, (x0, y0, x1, y1) = parse_line(line)
            except ValueError as error:
                self._report(FindingKind.BOX_MALFORMED, label, str(error), index)
                raw.rejected += 1
                continue
            if not 0 <= number < self.limit:
                reason = f"class {number}, wanted 0 to {self.limit - 1}"
                self._report(FindingKind.CLASS_UNKNOWN, label, reason, index)
                raw.rejected += 1
                continue
            self.highest = max(self.highest, number)
            width, height, ignore = raw.width, raw.height, index in mark.ignore
            box = (x0 * width, y0 * height, x1 * width, y1 * height)
            raw.objects.append((*box, number, ignore, index))

    def _name(self, path: Path) -> str:
        return relative_name(path, self.source.root)

    def _report(self, kind: FindingKind, file: Path, reason: str, index: int = -1) -> None:
        self.problems.append(Problem(kind, self._name(file), index, reason))


def parse_line(line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class number and the box of one line, xyxy in shares of the image.

    Raises:
        ValueError: neither ``class cx cy w h`` nor ``class`` and three or more points.
    """
    wanted = f"line {line.strip()[:80]!r}, wanted 'class cx cy w h'"
    try:
        number, *values = (float(value) for value in line.split())
    except ValueError:
        raise ValueError(wanted) from None
    if not number.is_integer():
        raise ValueError(f"{wanted} with a whole number as the class")
    if len(values) == 4:
        cx, cy, width, height = values
        return int(number), (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        return int(number), (min(xs), min(ys), max(xs), max(ys))
    raise ValueError(f"{wanted} (5 numbers), got {len(values) + 1}")


def looks_like_labels(path: Path) -> bool:
    """Return whether the first written line of a text file is a YOLO object."""
    first = next((line for line in _lines(path) if line.strip()), "")
    try:
        return bool(first) and bool(parse_line(first))
    except ValueError:
        return False


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()


def _label_folder(images: Path) -> Path:
    """Return where the labels of a folder of images lie: the last ``images`` as ``labels``."""
    parts = list(images.parts)
    if "images" not in parts:
        return images
    last = len(parts) - 1 - parts[::-1].index("images")
    parts[last] = "labels"
    folder = Path(*parts)
    return folder if folder.is_dir() or images.name == "images" else images


def write_yolo(labels: LabelSet, out: Path) -> None:
    """Write label files beside ``out/images``, and a ``data.yaml``.

    The images of split ``train`` lie in ``out/images/train``; those of ``all`` in ``out/images``,
    which the ``data.yaml`` then calls ``train``.
    """
    config: dict[str, object] = {"path": "."}
    for name, dataset in labels.splits.items():
        part = "" if name == ALL else name
        images, folder = out / below_images(name), out / "labels" / part
        marks: dict[str, Mark] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            if has_label_file(record):
                path = folder / f"{stem_name(record.path, images)}.txt"
                write_plain(path, "".join(_yolo_lines(record)))
            ignored = frozenset(record.ignore.nonzero()[0].tolist())
            marks[relative_name(record.path, images)] = mark_of(record, ignored)
        write_marks(folder, marks)
        config[name if part else "train"] = f"images/{part}".rstrip("/")
    config["names"] = dict(enumerate(labels.categories))
    write_plain(out / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _yolo_lines(record: ImageRecord) -> list[str]:
    lines: list[str] = []
    for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        cx, width = (x0 + x1) / 2 / record.width, (x1 - x0) / record.width
        cy, height = (y0 + y1) / 2 / record.height, (y1 - y0) / record.height
        lines.append(f"{label - 1} {cx:.10g} {cy:.10g} {width:.10g} {height:.10g}\n")
    return lines


READER = Reader(
    files=LabelFiles(
        (".yaml", ".yml"), looks_like_config, read_config, preferred="data.", whole=True
    ),
    per_image=LabelPerImage(".txt", looks_like_labels, _in_folders),
)
WRITER = Writer(write_yolo, below_images)
