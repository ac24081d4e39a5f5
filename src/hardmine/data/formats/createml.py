"""CreateML: one JSON file beside the images, a list with an entry for each, read and written.

Boxes are centre and size in pixels. An entry without annotations says that a person looked and found
nothing; an image that the file does not name is ``unreviewed``.

Source: Apple, "Building an object detector data source".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import relative_name
from hardmine.data.formats.image_states import Mark, has_label_file, mark_of, write_marks
from hardmine.data.formats.label_format import (
    ALL,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    LabelSet,
    Reader,
    Writer,
    class_names,
)
from hardmine.data.formats.label_readers import OneFileSource, one_file_source
from hardmine.errors import MALFORMED, DataError
from hardmine.files import peek_text, read_json, write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord

_FILE = "_annotations.createml.json"
_ENTRY = re.compile(
    r'^\s*\[\s*\{[^{}\[\]]*"(image|imagefilename|imageURL|filename|file_name|annotations?)"\s*:'
)
_OBJECTS = re.compile(r'"annotations?"\s*:\s*\[\s*(\]|\{\s*"(label|coordinates)"\s*:)')
_TASK = re.compile(r'"data"\s*:\s*\{')
"""What a task of Label Studio has, whose ``annotations`` may be an empty list too."""
_IMAGE_KEYS = ("image", "imagefilename", "imageURL", "filename", "file_name")
_SIZES = ("x", "y", "width", "height")


def read_createml(path: Path) -> Iterator[ImageLabels]:
    """Yield what each entry says.

    Raises:
        DataError: not JSON, or not a list.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(
            f"{path}: got {type(entries).__name__}, wanted a list with an entry per image"
        )
    place = 0
    for index, entry in enumerate(entries):
        labels = _image(entry, index, place)
        place += len(labels.objects) + len(labels.rejected)
        yield labels


def _image(entry: Any, index: int, first: int) -> ImageLabels:
    if not isinstance(entry, dict):
        reason = f"entry {str(entry)[:80]}, wanted an object with image and annotations"
        return ImageLabels("", index, remarks=[Fault(FindingKind.IMAGE_MALFORMED, index, reason)])
    name = next((entry[key] for key in _IMAGE_KEYS if entry.get(key)), "")
    objects = entry.get("annotations", entry.get("annotation"))
    labels = ImageLabels(str(name), index)
    if not isinstance(objects, list):
        labels.looked_at = False
        objects = []
    for place, item in enumerate(objects, start=first):
        try:
            label, at = item["label"], item["coordinates"]
            cx, cy, width, height = (float(at[key]) for key in _SIZES)
        except MALFORMED:
            reason = f"annotation {str(item)[:80]}, wanted a label and coordinates x y width height"
            labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
            continue
        if label is None or not str(label).strip():
            reason = f"label {label!r}, wanted a class name"
            labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, place, reason))
            continue
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        labels.objects.append(LabelledBox(str(label), *box, place))
    return labels


def _looks_like_createml(path: Path) -> bool:
    text = peek_text(path)
    entries = _ENTRY.match(text) is not None and _OBJECTS.search(text) is not None
    return path.name == _FILE or (entries and _TASK.search(text) is None)


def _sources(path: Path, images: Path | None) -> Mapping[str, OneFileSource]:
    names = class_names(path.parent) or class_names(path.parent.parent)
    source = one_file_source("createml", path, images, read_createml, names=names)
    folder = path.parent if images is None else images
    return {ALL: replace(source, folder=folder, form="cxcywh")}


def write_createml(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write the JSON file beside the images of each split, and ``classes.txt`` in ``out``.

    Create ML wants a folder with nothing but images and that file: ``out/train`` (``out/images`` for
    data without splits). What it cannot say is kept in ``out``.
    """
    marks: dict[str, Mark] = {}
    for name, dataset in labels.splits.items():
        entries: list[dict[str, Any]] = []
        place = 0
        for record in dataset.records:
            ignored = frozenset((record.ignore.nonzero()[0] + place).tolist())
            marks[relative_name(record.path, out)] = mark_of(record, ignored)
            if has_label_file(record):
                entries.append(_entry(record, labels.categories))
                place += len(record.labels)
        text = json.dumps(entries, indent=1, ensure_ascii=False)
        write_text(out / _folder(name) / _FILE, text + "\n")
    write_marks(out, marks)
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in labels.categories))
    return ()


def _entry(record: ImageRecord, categories: Sequence[str]) -> dict[str, Any]:
    found = []
    for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        at = dict(zip(_SIZES, values, strict=True))
        found.append({"label": categories[label - 1], "coordinates": at})
    return {"image": record.path.name, "annotations": found}


def _folder(split: str) -> str:
    return "images" if split == ALL else split


READER = Reader(files=LabelFiles((".json",), _looks_like_createml, _sources))
WRITER = Writer(write_createml, _folder)
