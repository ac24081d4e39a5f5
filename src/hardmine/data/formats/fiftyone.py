"""FiftyOne's image detection dataset: ``labels.json`` beside ``data/``, read and written.

Boxes that a model suggests have a confidence, which is said and not used. An image whose labels are
``null`` is ``unreviewed``, one with an empty list was looked at, with a remark. (FiftyOne's COCO export
has its files in the same places; `coco` reads it.)

Source: FiftyOne, "Importing data", ``FiftyOneImageDetectionDataset``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import list_images, pair_name, read_sizes, relative_name
from hardmine.data.formats.label_format import (
    ALL,
    SAID_BY_PERSONS,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    LabelSet,
    Reader,
    Writer,
    score_left_out,
)
from hardmine.data.formats.label_readers import OneFileSource, one_file_source
from hardmine.errors import MALFORMED, DataError
from hardmine.files import peek_text, read_json, same_text, write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord

EMPTY_LIST = (
    "an empty list of labels counts as looked at and empty; FiftyOne also writes it for images that "
    "came from COCO without annotations, whether or not a person looked"
)
_LABELS = re.compile(r'"labels"\s*:\s*\{')
_CLASSES = re.compile(r'"classes"\s*:\s*(\[|null)')


def read_fiftyone(path: Path, folder: Path) -> Iterator[ImageLabels]:
    """Yield what the file says of each image in a folder; its names have no suffix.

    Raises:
        DataError: not JSON, or not of that form.
    """
    data = read_json(path)
    labels = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, dict):
        raise DataError(f"{path}: wanted an object with 'classes' and 'labels'")
    classes = data.get("classes")
    by_stem = {pair_name(image, folder): image for image in list_images(folder)}
    sizes = read_sizes(list(by_stem.values()))
    size_of = dict(zip(by_stem.values(), sizes, strict=True))
    place = 0
    for index, (name, found) in enumerate(labels.items()):
        image = by_stem.get(same_text(name)) or by_stem.get(same_text(Path(name).stem))
        entry = ImageLabels(name, index, looked_at=found is not None)
        if found == []:
            entry.remarks.append(Fault(FindingKind.EMPTY_LIST, index, EMPTY_LIST))
        size = size_of.get(image) if image is not None else None
        if image is not None and isinstance(size, tuple):
            entry.image = relative_name(image, folder)
            entry.width, entry.height = size
        for item in found if isinstance(found, list) else [found] if found else ():
            _add_object(entry, item, place, classes)
            place += 1
        yield entry


def _add_object(entry: ImageLabels, item: Any, place: int, classes: Any) -> None:
    try:
        label = item["label"]
        name = str(label) if isinstance(label, str) or not classes else _numbered(classes, label)
        x, y, width, height = (float(value) for value in item["bounding_box"])
    except MALFORMED:
        reason = f"object {str(item)[:80]}, wanted a label and a bounding_box of four numbers"
        entry.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    wide, high = entry.width, entry.height
    box = (x * wide, y * high, (x + width) * wide, (y + height) * high)
    entry.remarks += score_left_out(item.get("confidence"), place)
    entry.objects.append(LabelledBox(name, *box, place))


def _numbered(classes: Sequence[str], number: Any) -> str:
    """Return the class of a number; raises where it is none of 0 to the last."""
    if isinstance(number, bool) or int(number) != number or number < 0:
        raise ValueError(number)
    return str(classes[int(number)])


def _looks_like_fiftyone(path: Path) -> bool:
    text = peek_text(path)
    return _LABELS.search(text) is not None and _CLASSES.search(text) is not None


def _sources(path: Path, images: Path | None) -> Mapping[str, OneFileSource]:
    folder = images or path.parent / "data"
    source = one_file_source("fiftyone", path, images, partial(read_fiftyone, folder=folder))
    return {ALL: replace(source, bases=(folder,), form="xywh_shares")}


def write_fiftyone(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write ``labels.json`` beside each folder ``data`` (one per split, where there are several)."""
    del out
    folders: dict[Path, dict[str, Any]] = {}
    for dataset in labels.splits.values():
        for record in dataset.records:
            # An empty list means that a person looked, so a model that saw nothing gives null.
            seen = record.path in labels.scores and len(record.labels) > 0
            known = seen or labels.is_said(record)
            found = folders.setdefault(record.path.parent.parent, {})
            found[record.path.stem] = _objects(labels, record) if known else None
    for folder, objects in folders.items():
        value = {"classes": list(labels.categories), "labels": objects}
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        write_text(folder / "labels.json", text + "\n")
    return ()


def _objects(labels: LabelSet, record: ImageRecord) -> list[dict[str, Any]]:
    """Return an image's boxes; places and sizes are shares of the image."""
    found = []
    for (x0, y0, x1, y1), name, score in labels.shown_boxes(record):
        share = [x0 / record.width, y0 / record.height]
        share += [(x1 - x0) / record.width, (y1 - y0) / record.height]
        item: dict[str, Any] = {
            "label": labels.categories.index(name),
            "bounding_box": share,
        }
        found.append(item | ({} if score is None else {"confidence": score}))
    return found


READER = Reader(files=LabelFiles((".json",), _looks_like_fiftyone, _sources))
WRITER = Writer(
    write_fiftyone,
    lambda split: "data" if split == ALL else f"{split}/data",
    any_split=True,
    states=SAID_BY_PERSONS,
)
