"""COCO: one JSON file for many images, read; `coco_writing` writes it and adds to it.

``iscrowd`` becomes ``ignore``. Category ids are arbitrary; labels follow the order of the list.
The key ``hardmine_state`` of an image holds its `ImageState`; without it, an image without
annotations is ``unreviewed``, since COCO cannot say whether anybody looked.

A file without faults is read by typed decoding (`read_fast`): objects go straight into columns, and
outlines and everything else that is not used are skipped while the text is parsed. What does not fit
(a missing key, a box of three numbers, an unknown id, a repeated name) makes it give up; the careful
reader then names each fault.
"""

from __future__ import annotations

import gc
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hardmine.data.formats.coco_writing import (
    INSTANCES,
    SOURCE_KEY,
    STATE_KEY,
    append_coco,
    entry_name,
    write_splits,
)
from hardmine.data.formats.foreign_json import whose_json
from hardmine.data.formats.image_files import ImageFinder, OutsideRootError, measure, relative_name
from hardmine.data.formats.image_states import parse_state
from hardmine.data.formats.label_format import (
    ALL,
    Additions,
    LabelFiles,
    NewImage,
    Reader,
    Remarks,
    Writer,
    below_images,
    read_side,
    said_name,
    score_left_out,
    turned_box,
)
from hardmine.data.formats.label_readers import likely_folders, none_found
from hardmine.data.formats.label_validation import ObjectTable, RawImage, RawSplit
from hardmine.errors import MALFORMED, DataError
from hardmine.files import parse_flag, peek_text, plain_name, read_json
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageState, Problem

_FLAGS = ("iscrowd", "ignore")
_BULK = ("segmentation", "keypoints", "caption")
_PROBES = 200
"""Image names that are looked up to find out which folder the file names start from."""

Find = Callable[[str], Path | None]
FastSplit = tuple[list[str], list[RawImage], ObjectTable]

_KEYS = re.compile(r'"(images|annotations)"\s*:\s*\[')


def looks_like_coco(path: Path) -> bool:
    """Return whether the beginning of a file is an object with a list of images or annotations."""
    text = peek_text(path)
    return text.lstrip().startswith("{") and _KEYS.search(text) is not None


def find_coco(path: Path, images: Path | None = None) -> dict[str, CocoSource]:
    """Return a COCO file as the only split, with the folders that its images may lie in."""
    if images is not None:
        return {ALL: CocoSource(images, path, (images,), by_base_name=True)}
    root, bases = likely_folders(path)
    return {ALL: CocoSource(root, path, bases)}


@dataclass(frozen=True, slots=True)
class CocoSource:
    """One COCO file and the folders, below ``root``, that its file names may start from.

    ``by_base_name``: the user named the folder of images, see `ImageFinder`.
    """

    root: Path
    file: Path
    bases: tuple[Path, ...]
    by_base_name: bool = False

    @property
    def format(self) -> str:
        """The name of its format in `format_table`."""
        return "coco"

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the file; ``empty_is_verified``: an image without annotations is a negative.

        Raises:
            DataError: not JSON, not COCO, or none of its images is found.
        """
        reader = _CocoReader(self, empty_is_verified)
        with _collector_paused():
            fast = read_fast(self.file, reader.file, reader.choose_base, reader.empty)
            if fast is not None:
                return self._from_columns(*fast, reader.finder.remarks(reader.file))
            data = _load(self.file)
            reader.read_images(data["images"])
            names = reader.read_annotations(data["annotations"], data["categories"])
        images = measure(reader.images, self.root, reader.problems)
        problems = reader.problems + reader.notes.problems() + reader.finder.remarks(reader.file)
        return RawSplit(self.root, names, images, problems, form="xywh")

    def _from_columns(
        self,
        names: list[str],
        images: list[RawImage],
        table: ObjectTable,
        remarks: Sequence[Problem],
    ) -> RawSplit:
        problems: list[Problem] = []
        known = measure(images, self.root, problems)
        if len(known) < len(images):
            table = table.of_images([image.width > 0 and image.height > 0 for image in images])
        return RawSplit(self.root, names, known, [*problems, *remarks], form="xywh", table=table)


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: float = 0
    height: float = 0
    hardmine_state: str | None = None
    hardmine_source: str = ""


class _Attributes(msgspec.Struct, gc=False):
    rotation: float = 0


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    ignore: int = 0
    score: float | None = None
    attributes: _Attributes | None = None


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Coco(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []


def read_fast(
    file: Path, name: str, choose: Callable[[Sequence[str]], Find], empty: ImageState
) -> FastSplit | None:
    """Return class names, images and objects; None where anything is out of the ordinary.

    Args:
        name: the file, as problems name it.
        choose: gives the function that finds images, from the names in the file.
        empty: state of an image without annotations that has none written.
    """
    try:
        data = _decode(file)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    names = [plain_name(category.name) for category in data.categories]
    class_of = {category.id: index for index, category in enumerate(data.categories)}
    position = {image.id: index for index, image in enumerate(data.images)}
    if not len(set(names)) == len(class_of) == len(names) or len(position) != len(data.images):
        return None
    try:
        owner = [position[entry.image_id] for entry in data.annotations]
        classes = [class_of[entry.category_id] for entry in data.annotations]
    except KeyError:
        return None
    images = _images(data.images, name, choose([image.file_name for image in data.images]), empty)
    table = _table(data.annotations, owner, classes)
    return None if images is None or table is None else (names, images, table)


def _decode(file: Path) -> _Coco:
    """Parse the file where the system keeps it, without a copy of the bytes."""
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        return msgspec.json.decode(text, type=_Coco)


def _images(
    entries: Sequence[_Image], file: str, find: Find, empty: ImageState
) -> list[RawImage] | None:
    images: list[RawImage] = []
    for entry in entries:
        try:
            path = find(entry.file_name) if entry.file_name else None
        except OutsideRootError:
            return None
        state = None if entry.hardmine_state is None else parse_state(entry.hardmine_state)
        if path is None or (state is None) != (entry.hardmine_state is None):
            return None
        width, height = (int(side) if 0 < side < 1e9 else 0 for side in (entry.width, entry.height))
        raw = RawImage(path, file, width, height, state=state, source=entry.hardmine_source)
        raw.state_if_empty = empty
        images.append(raw)
    distinct = {os.fspath(image.path) for image in images}
    return images if images and len(distinct) == len(images) else None


def _table(
    entries: Sequence[_Annotation], owner: Sequence[int], classes: Sequence[int]
) -> ObjectTable | None:
    values = (value for entry in entries for value in entry.bbox)
    boxes = np.fromiter(values, np.float64, 4 * len(entries)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    flags = [(entry.iscrowd, entry.ignore) for entry in entries if entry.iscrowd or entry.ignore]
    if not all(value in (0, 1) for pair in flags for value in pair):
        return None
    if any(e.score is not None or (e.attributes and e.attributes.rotation) for e in entries):
        return None
    ignored = (entry.iscrowd + entry.ignore > 0 for entry in entries)
    crowd = np.fromiter(ignored, np.bool_, len(entries))
    owners = np.array(owner, np.int64)
    order = np.argsort(owners, kind="stable")
    return ObjectTable(
        owners[order], boxes[order], np.array(classes, np.int64)[order], crowd[order], order
    )


class _CocoReader:
    def __init__(self, source: CocoSource, empty_is_verified: bool) -> None:
        self.source = source
        self.file = relative_name(source.file, source.root)
        self.images: list[RawImage] = []
        self.problems: list[Problem] = []
        self.notes = Remarks()
        self.finder = self._finder(source.bases)
        self.by_id: dict[Any, RawImage] = {}
        self.empty = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED

    def choose_base(self, names: Sequence[str]) -> Find:
        """Return the look-up in the folder below which most of a sample of the names are found."""
        sample = names[:: max(1, len(names) // _PROBES)]

        def hits(base: Path) -> int:
            """Return how many of the sampled names a folder has."""
            find = self._finder([base], by_base_name=False).find
            return sum(_is_found(find, name) for name in sample)

        found = {base: hits(base) for base in self.source.bases}
        best = max(found, key=lambda base: found[base])
        # Where none has any, all are asked, so that what is wrong with the first of them is said.
        self.finder = self._finder([best] if found[best] else self.source.bases)
        return self.finder.find

    def _finder(self, bases: Sequence[Path], by_base_name: bool | None = None) -> ImageFinder:
        source = self.source
        if by_base_name is None:
            by_base_name = source.by_base_name
        return ImageFinder(  # each of the folders may be a link to where the images are
            source.root,
            bases,
            by_base_name=by_base_name,
            more_roots=source.bases,
            labels=source.file,
        )

    def read_images(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the ``images`` list: one raw image a path, faults noted by index."""
        find = self.choose_base([entry_name(entry) for entry in entries])
        by_path: dict[Path, RawImage] = {}
        for index, entry in enumerate(entries):
            name = entry_name(entry)
            image_id = entry.get("id") if isinstance(entry, dict) else None
            if not name or not _is_id(image_id):
                reason = f"image {name!r} with id {image_id!r}, wanted a file_name and an id"
                self._report(FindingKind.IMAGE_MALFORMED, index, reason)
                continue
            raw = self._image(entry, name, index, find)
            if raw is None:
                # Its annotations are collected and forgotten with it: one problem, not hundreds.
                self.by_id.setdefault(image_id, RawImage(Path(name), self.file))
            elif raw.path in by_path:
                self._report(
                    FindingKind.FILE_REPEATED, index, f"{name} is listed before; objects are merged"
                )
                self.by_id.setdefault(image_id, by_path[raw.path])
            else:
                by_path[raw.path] = raw
                self.images.append(raw)
                self._claim(image_id, raw, index)
        if entries and not self.images:
            raise DataError(none_found(self.source.file, self.source.bases, self.problems))

    def _claim(self, image_id: Any, raw: RawImage, index: int) -> None:
        """Give an image its id; when two images share one, nobody knows whose objects are whose."""
        other = self.by_id.setdefault(image_id, raw)
        if other is raw:
            return
        reason = (
            f"id {image_id} of {raw.path.name} is also that of {other.path.name}, so nobody "
            "can say whose objects are whose; both are unreviewed"
        )
        self._report(FindingKind.IMAGE_ID_REPEATED, index, reason)
        other.rejected += 1
        raw.rejected += 1
        self.by_id[image_id] = RawImage(raw.path, self.file)

    def _image(
        self, entry: Mapping[str, Any], name: str, index: int, find: Callable[[str], Path | None]
    ) -> RawImage | None:
        try:
            path = find(name)
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, index, str(error))
            return None
        if path is None:
            reason = f"no image {name}{self.finder.hint(name)}"
            self._report(FindingKind.IMAGE_MISSING, index, reason)
            return None
        raw = RawImage(path, self.file, state_if_empty=self.empty)
        raw.width, raw.height = read_side(entry.get("width")), read_side(entry.get("height"))
        raw.source = str(entry.get(SOURCE_KEY, ""))
        state = entry.get(STATE_KEY)
        raw.state = None if state is None else parse_state(state)
        if state is not None and raw.state is None:
            wanted = ", ".join(ImageState)
            self._report(
                FindingKind.STATE_UNKNOWN, index, f"{name}: state {state!r}, wanted one of {wanted}"
            )
        return raw

    def read_annotations(
        self, entries: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Give each image its objects; return the class names."""
        names, class_of = self._categories(categories)
        classes, images = _Ids(class_of), _Ids(self.by_id)
        for index, entry in enumerate(entries):
            try:
                x0, y0, x1, y1 = _corners(entry)
                category, image = classes.find(entry["category_id"]), images.find(entry["image_id"])
                ignore = self._ignored(entry, index)
                self.by_id[image].objects.append(
                    (x0, y0, x1, y1, class_of[category], ignore, index)
                )
                for remark in score_left_out(entry.get("score"), index):
                    self.notes.add(remark.kind, remark.reason, self.file, index)
            except MALFORMED:
                self._reject(entry, index, classes, images)
        for key, ids in (("category_id", classes), ("image_id", images)):
            if ids.as_text:
                reason = (
                    f"{key} is text where the ids are numbers, or otherwise, {ids.as_text} times"
                )
                self._report(FindingKind.ID_AS_TEXT, -1, f"{reason}; taken as the same")
        if (said := _counts_otherwise(classes)) is not None:
            self._report(FindingKind.CLASS_UNKNOWN, -1, said)
        return names

    def _ignored(self, entry: Mapping[str, Any], index: int) -> bool:
        """Return whether an object is to be ignored; a flag without a meaning counts as no."""
        ignore = False
        for key in _FLAGS:
            meaning = parse_flag(entry.get(key))
            if meaning is None:
                reason = (
                    f"{key} is {entry[key]!r}, wanted 0 or 1, true or false, yes or no; taken as no"
                )
                self.notes.add(FindingKind.FLAG_UNKNOWN, reason, self.file, index)
            ignore = ignore or bool(meaning)
        return ignore

    def _categories(self, entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[Any, int]]:
        names: dict[str, int] = {}
        class_of: dict[Any, int] = {}
        for index, entry in enumerate(entries):
            try:
                category_id, name = entry["id"], plain_name(said_name(entry["name"]))
                repeated = category_id in class_of or name in names
                class_of.setdefault(category_id, names.setdefault(name, len(names)))
            except (KeyError, TypeError):
                self._report(
                    FindingKind.CATEGORY_MALFORMED, index, f"category {entry!r} lacks id or name"
                )
                continue
            if repeated:
                reason = f"category {name!r} with id {category_id} repeats a name or an id"
                self._report(FindingKind.CATEGORY_REPEATED, index, reason)
        return list(names), class_of

    def _reject(self, entry: Any, index: int, classes: _Ids, images: _Ids) -> None:
        """Say what is wrong with an annotation; its image must not become a negative."""
        if not isinstance(entry, dict):
            reason = f"annotation {entry!r}, wanted an object"
            self._report(FindingKind.BOX_MALFORMED, index, reason)
            return
        image_id = images.find(entry.get("image_id"))
        raw = None if image_id is None else self.by_id[image_id]
        if raw is None:
            reason = f"image_id {entry.get('image_id')!r} is that of no image"
            self._report(FindingKind.IMAGE_ID_UNKNOWN, index, reason)
            return
        raw.rejected += 1
        category, box = entry.get("category_id"), entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and classes.find(category) is None:
            known = ", ".join(map(str, classes.known)) or "(no categories)"
            reason = f"category_id {category!r} of image {raw.path.name}, wanted one of {known}"
            self._report(FindingKind.CLASS_UNKNOWN, index, reason)
        else:
            reason = f"bbox {box!r} of image {raw.path.name}, wanted four numbers x y width height"
            self._report(FindingKind.BOX_MALFORMED, index, reason)

    def _report(self, kind: FindingKind, index: int, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, index, reason))


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def _corners(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the box of an annotation, xyxy; around the turned one where its attributes turn it."""
    x, y, width, height = map(float, entry["bbox"])
    attributes = entry.get("attributes")
    turn = attributes.get("rotation") if isinstance(attributes, dict) else None
    box = (x, y, x + width, y + height)
    return turned_box(box, float(turn)) if turn else box


def _counts_otherwise(classes: _Ids) -> str | None:
    """Return what to say where the ids of all objects count from another number than the list's."""
    known = {key for key in classes.known if isinstance(key, int)}
    unknown = {key for key in classes.unknown if isinstance(key, int)}
    if (
        not known
        or len(known) < len(classes.known)
        or len(unknown) != 1
        or len(classes.unknown) > 1
    ):
        return None
    other = unknown.pop()
    for step, unused in ((1, max(known)), (-1, min(known))):
        if unused not in classes.used and all(
            key + step in known for key in (*classes.used, other)
        ):
            return (
                f"no object has category_id {unused}, and {other} is that of no class: the ids may be "
                f"{'one less' if step == 1 else 'one more'} than in the list, so that all classes "
                "would be wrong"
            )
    return None


class _Ids:
    """Finds ids by what they say: ``"7"`` is 7 where only one of the known ids says so.

    ``used`` and ``unknown`` are the ids that were asked for.
    """

    def __init__(self, known: Mapping[Any, Any]) -> None:
        self.known = known
        self.as_text = 0
        self.used: set[Any] = set()
        self.unknown: set[Any] = set()
        self._by_text: dict[str, list[Any]] | None = None

    def find(self, value: Any) -> Any:
        """Return the known id that a value stands for, None where there is none."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        if value in self.known:
            self.used.add(value)
            return value
        if self._by_text is None:
            self._by_text = {}
            for key in self.known:
                self._by_text.setdefault(_said(key), []).append(key)
        alike = self._by_text.get(_said(value), [])
        self.as_text += len(alike) == 1
        if len(alike) != 1:
            self.unknown.add(value)
            return None
        self.used.add(alike[0])
        return alike[0]


def _said(value: Any) -> str:
    text = str(value).strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text


def _load(path: Path) -> dict[str, Any]:
    data = read_json(path, object_hook=_without_bulk)
    is_coco = isinstance(data, dict) and "images" in data and "annotations" in data
    if not is_coco and (whose := whose_json(data)):
        raise DataError(f"{path}: not a COCO file: it {whose}")
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        found = f"keys {', '.join(data)}" if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: not a COCO file (got {found}, wanted a list under 'images')")
    for key in ("annotations", "categories"):
        if not isinstance(data.setdefault(key, []), list):
            raise DataError(f"{path}: got {type(data[key]).__name__} under {key!r}, wanted a list")
    return data


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python from searching millions of new objects for cycles: JSON has none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _without_bulk(entry: dict[str, Any]) -> dict[str, Any]:
    """Forget at once what is not used and most of the file: outlines, where there is a box."""
    outlines = entry.get("segmentation")
    if outlines and not entry.get("bbox") and "image_id" in entry:
        box = _around(outlines)
        if box is not None:
            entry["bbox"] = box
    for key in _BULK:
        entry.pop(key, None)
    return entry


def _around(outlines: Any) -> list[float] | None:
    """Return the box x y width height around an object's polygons or mask, None where it has none."""
    try:
        if isinstance(outlines, dict):
            return _around_mask(outlines["size"], outlines["counts"])
        xs = [float(value) for outline in outlines for value in outline[0::2]]
        ys = [float(value) for outline in outlines for value in outline[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (*MALFORMED, ZeroDivisionError):
        return None


def _around_mask(size: Sequence[int], counts: str | Sequence[int]) -> list[float] | None:
    """Return the box around a mask in run lengths: columns from the left, the first run is empty.

    Source: pycocotools, ``maskApi.c`` (``rleFrString``, ``rleToBbox``).
    """
    height = int(size[0])
    runs = _runs(counts) if isinstance(counts, str) else [int(count) for count in counts]
    place, columns, rows = 0, [], []
    for index, length in enumerate(runs):
        if index % 2 and length > 0:
            last = place + length - 1
            columns += [place // height, last // height]
            one = columns[-1] == columns[-2]
            rows += [place % height, last % height] if one else [0, height - 1]
        place += length
    if not columns:
        return None
    x, y = min(columns), min(rows)
    return [x, y, max(columns) + 1 - x, max(rows) + 1 - y]


def _runs(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text: five bits per letter."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


def _is_found(find: Callable[[str], Path | None], name: str) -> bool:
    try:
        return bool(name) and find(name) is not None
    except OutsideRootError:
        return False


READER = Reader(
    files=LabelFiles((".json",), looks_like_coco, find_coco, preferred=INSTANCES),
)
WRITER = Writer(write_splits, below_images, any_split=True, bare_is_empty=True)


def _append(source: CocoSource, split: Dataset, images: Sequence[NewImage]) -> Additions:
    return append_coco(source.file, split, images)


APPENDER = _append
