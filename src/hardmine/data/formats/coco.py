"""COCO: one JSON file for many images.

``iscrowd`` becomes ``ignore``. Category ids are arbitrary; labels follow the order of the list.
The key ``hardmine_state`` of an image holds its `ImageState`; without it, an image without
annotations is ``unreviewed``, since COCO cannot say whether anybody looked.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hardmine.data.formats.coco_fast import read_fast
from hardmine.data.formats.image_folder import measure
from hardmine.data.formats.image_paths import ImageFinder, OutsideRootError, relative_name
from hardmine.data.formats.image_states import parse_state
from hardmine.data.formats.label_validation import ObjectTable, RawImage, RawSplit
from hardmine.errors import DataError
from hardmine.types import ImageState, Problem

STATE_KEY = "hardmine_state"
SOURCE_KEY = "hardmine_source"

_BULK = ("segmentation", "keypoints", "caption")
_PROBES = 200
"""Image names that are looked up to find out which folder the file names start from."""


@dataclass(frozen=True, slots=True)
class CocoSource:
    """One COCO file and the folders, below ``root``, that its file names may start from."""

    root: Path
    file: Path
    bases: tuple[Path, ...]

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the file; ``empty_is_verified``: an image without annotations is a negative.

        Raises:
            DataError: not JSON, not COCO, or none of its images is found.
        """
        reader = _CocoReader(self, empty_is_verified)
        with _collector_paused():
            fast = read_fast(self.file, reader.file, partial(_choose_base, self), reader.empty)
            if fast is not None:
                return self._from_columns(*fast)
            data = _load(self.file)
            reader.read_images(data["images"])
            names = reader.read_annotations(data["annotations"], data["categories"])
        images = measure(reader.images, self.root, reader.problems)
        return RawSplit(self.root, names, images, reader.problems, form="xywh")

    def _from_columns(
        self, names: list[str], images: list[RawImage], table: ObjectTable
    ) -> RawSplit:
        problems: list[Problem] = []
        known = measure(images, self.root, problems)
        if len(known) < len(images):
            table = table.of_images([image.width > 0 and image.height > 0 for image in images])
        return RawSplit(self.root, names, known, problems, form="xywh", table=table)


class _CocoReader:
    def __init__(self, source: CocoSource, empty_is_verified: bool) -> None:
        self.source = source
        self.file = relative_name(source.file, source.root)
        self.images: list[RawImage] = []
        self.problems: list[Problem] = []
        self.by_id: dict[Any, RawImage] = {}
        self.empty = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED

    def read_images(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the ``images`` list: one raw image a path, faults noted by index."""
        find = _choose_base(self.source, [_name(entry) for entry in entries])
        by_path: dict[Path, RawImage] = {}
        for index, entry in enumerate(entries):
            name = _name(entry)
            image_id = entry.get("id") if isinstance(entry, dict) else None
            if not name or not isinstance(image_id, int | str):
                reason = f"image {name!r} with id {image_id!r}, wanted a file_name and an id"
                self._report("image_malformed", index, reason)
                continue
            raw = self._image(entry, name, index, find)
            if raw is None:
                # Its annotations are collected and forgotten with it: one problem, not hundreds.
                self.by_id.setdefault(image_id, RawImage(Path(name), self.file))
            elif raw.path in by_path:
                self._report("file_repeated", index, f"{name} is listed before; objects are merged")
                self.by_id.setdefault(image_id, by_path[raw.path])
            else:
                by_path[raw.path] = raw
                self.images.append(raw)
                self._claim(image_id, raw, index)
        if entries and not self.images:
            raise DataError(_none_found(self.source, self.problems))

    def _claim(self, image_id: int | str, raw: RawImage, index: int) -> None:
        """Give an image its id; when two images share one, nobody knows whose objects are whose."""
        other = self.by_id.setdefault(image_id, raw)
        if other is raw:
            return
        reason = (
            f"id {image_id} of {raw.path.name} is also that of {other.path.name}: their objects "
            "cannot be told apart, both are unreviewed"
        )
        self._report("image_id_repeated", index, reason)
        other.rejected += 1
        raw.rejected += 1
        self.by_id[image_id] = RawImage(raw.path, self.file)

    def _image(
        self, entry: Mapping[str, Any], name: str, index: int, find: Callable[[str], Path | None]
    ) -> RawImage | None:
        try:
            path = find(name)
        except OutsideRootError as error:
            self._report("path_outside", index, str(error))
            return None
        if path is None:
            self._report("image_missing", index, f"no image {name}")
            return None
        raw = RawImage(path, self.file, state_if_empty=self.empty)
        raw.width, raw.height = _pixels(entry.get("width")), _pixels(entry.get("height"))
        raw.source = str(entry.get(SOURCE_KEY, ""))
        state = entry.get(STATE_KEY)
        raw.state = None if state is None else parse_state(state)
        if state is not None and raw.state is None:
            wanted = ", ".join(ImageState)
            self._report("state_unknown", index, f"{name}: state {state!r}, wanted one of {wanted}")
        return raw

    def read_annotations(
        self, entries: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Give each image its objects; return the class names."""
        names, class_of = self._categories(categories)
        for index, entry in enumerate(entries):
            try:
                x, y, width, height = map(float, entry["bbox"])
                label, ignore = class_of[entry["category_id"]], bool(entry.get("iscrowd"))
                self.by_id[entry["image_id"]].objects.append(
                    (x, y, x + width, y + height, label, ignore, index)
                )
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                self._reject(entry, index, class_of)
        return names

    def _categories(self, entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[Any, int]]:
        names: dict[str, int] = {}
        class_of: dict[Any, int] = {}
        for index, entry in enumerate(entries):
            try:
                category_id, name = entry["id"], str(entry["name"])
                repeated = category_id in class_of or name in names
                class_of.setdefault(category_id, names.setdefault(name, len(names)))
            except (KeyError, TypeError):
                self._report("category_malformed", index, f"category {entry!r} lacks id or name")
                continue
            if repeated:
                reason = f"category {name!r} with id {category_id} repeats a name or an id"
                self._report("category_repeated", index, reason)
        return list(names), class_of

    def _reject(self, entry: Any, index: int, class_of: Mapping[Any, int]) -> None:
        """Say what is wrong with an annotation; its image must not become a negative."""
        if not isinstance(entry, dict):
            self._report("box_malformed", index, f"annotation {entry!r}, wanted an object")
            return
        image_id = entry.get("image_id")
        raw = self.by_id.get(image_id) if isinstance(image_id, int | str) else None
        if raw is None:
            self._report("image_id_unknown", index, f"image_id {image_id!r} is that of no image")
            return
        raw.rejected += 1
        category = entry.get("category_id")
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and category not in list(class_of):
            known = ", ".join(map(str, class_of)) or "(no categories)"
            reason = f"category_id {category!r} of image {raw.path.name}, wanted one of {known}"
            self._report("class_unknown", index, reason)
        else:
            reason = f"bbox {box!r} of image {raw.path.name}, wanted four numbers x y width height"
            self._report("box_malformed", index, reason)

    def _report(self, kind: str, index: int, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, index, reason))


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes(), object_hook=_without_bulk)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
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
    """Forget at once what is not used and most of the file: outlines."""
    for key in _BULK:
        entry.pop(key, None)
    return entry


def _choose_base(source: CocoSource, names: Sequence[str]) -> Callable[[str], Path | None]:
    """Return the look-up in the folder below which most of a sample of the names are found."""

    def hits(find: Callable[[str], Path | None]) -> int:
        return sum(_is_found(find, name) for name in sample)

    sample = names[:: max(1, len(names) // _PROBES)]
    return max((ImageFinder(source.root, [base]).find for base in source.bases), key=hits)


def _is_found(find: Callable[[str], Path | None], name: str) -> bool:
    try:
        return bool(name) and find(name) is not None
    except OutsideRootError:
        return False


def _name(entry: Any) -> str:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _pixels(value: Any) -> int:
    """Return a size, 0 where it is missing or senseless (then the image's header is read)."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1e9 else 0


def _none_found(source: CocoSource, problems: Sequence[Problem]) -> str:
    bases = ", ".join(str(base) for base in source.bases)
    return (
        f"{source.file}: none of its {len(problems)} images can be used (first: "
        f"{problems[0].reason}; looked in {bases}); name their folder with images= (--images)"
    )
