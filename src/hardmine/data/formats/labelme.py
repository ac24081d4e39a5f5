"""LabelMe: one JSON file beside each picture, read and written; X-AnyLabeling writes the same.

Rectangles have two corners in any order (or four), polygons and the other shapes with an extent give the
box around them; points and lines have none and are left out. A file without shapes says that a person
looked and found nothing; a picture without a file is ``unreviewed``.

Source: LabelMe, ``labelme/label_file.py`` and ``shape.py`` (version 5); X-AnyLabeling, user guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import list_images, relative_name
from hardmine.data.formats.image_states import (
    Mark,
    has_label_file,
    mark_of,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import (
    ALL,
    Fault,
    ImageLabels,
    LabelledBox,
    LabelPerImage,
    LabelSet,
    Reader,
    Writer,
    read_side,
    said_name,
    score_left_out,
    split_folder,
)
from hardmine.data.formats.label_readers import PerImageSource
from hardmine.data.formats.label_validation import LabelError
from hardmine.errors import MALFORMED, DataError
from hardmine.files import TextError, decode_text, json_value, peek_text, read_lines
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord

_AROUND = frozenset({"rectangle", "polygon", "rotation", "quadrilateral", "mask", "ellipse", ""})
"""Shapes whose points lie around the object."""
_NO_BOX = frozenset({"point", "points", "line", "linestrip", "cuboid3d"})
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')
_IMAGE_PATH = re.compile(r'"imagePath"\s*:')
_CLASSES = "labels.txt"
_IGNORE, _BACKGROUND = "__ignore__", "_background_"
_NO_CLASSES = (_IGNORE, _BACKGROUND)
"""What LabelMe writes at the beginning of its list of classes: a region to ignore, and no object."""
_VERSION = "5.5.0"
"""The version of LabelMe whose files these are."""


def parse_labelme(path: Path) -> ImageLabels:
    """Return what a JSON file says of its picture.

    Raises:
        OSError: it cannot be read.
        TextError: it is not UTF-8.
        LabelError: no JSON, or no list of shapes.
    """
    text = decode_text(path.read_bytes())
    try:
        data = json_value(text, object_hook=_without_pixels)
    except (ValueError, RecursionError) as error:
        reason = f"cannot be read as JSON ({error})"
        raise LabelError(FindingKind.LABEL_BROKEN, reason) from None
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list):
        found = f"keys {', '.join(data)}" if isinstance(data, dict) else type(data).__name__
        reason = f"holds {found}, wanted a list under 'shapes'"
        raise LabelError(FindingKind.LABEL_BROKEN, reason)
    width, height = (read_side(data.get(key)) for key in ("imageWidth", "imageHeight"))
    labels = ImageLabels(str(data.get("imagePath") or ""), width=width, height=height)
    for place, shape in enumerate(shapes):
        _add_shape(labels, shape, place)
    return labels


def _without_pixels(entry: dict[str, Any]) -> dict[str, Any]:
    """Forget the picture itself, which LabelMe may store in the file, and masks."""
    entry.pop("imageData", None)
    entry.pop("mask", None)
    return entry


def _add_shape(labels: ImageLabels, shape: Any, place: int) -> None:
    try:
        kind = str(shape.get("shape_type") or "").lower()
        name = shape["label"]
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except MALFORMED:
        reason = f"shape {str(shape)[:80]}, wanted a label and points"
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    if kind in _NO_BOX:
        reason = f"a shape of type {kind} has no box, left out"
        labels.remarks.append(Fault(FindingKind.SHAPES_LEFT_OUT, place, reason))
        return
    wanted = {"circle": 2, "rectangle": 2, "mask": 2}.get(kind, 3)
    if len(points) < wanted or (kind not in _AROUND and kind != "circle"):
        reason = (
            f"shape of type {kind!r} with {len(points)} points, wanted a rectangle or a polygon"
        )
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    try:
        name = said_name(name)
    except TypeError:
        reason = f"label {name!r}, wanted a class name"
        labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, place, reason))
        return
    if name == _BACKGROUND:
        reason = f"a shape that is labelled {name} is no object, left out"
        labels.remarks.append(Fault(FindingKind.SHAPES_LEFT_OUT, place, reason))
        return
    if kind == "circle":  # its centre, and a point on it
        (x, y), (rim_x, rim_y) = points[:2]
        radius = ((rim_x - x) ** 2 + (rim_y - y) ** 2) ** 0.5
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    flags = shape.get("flags")
    difficult = shape.get("difficult", flags.get("difficult") if isinstance(flags, dict) else None)
    ignore = labels.flag(difficult, "difficult", place) or name == _IGNORE
    labels.remarks += score_left_out(shape.get("score"), place)
    labels.objects.append(LabelledBox(name, min(xs), min(ys), max(xs), max(ys), place, ignore))


def _looks_like_labelme(path: Path) -> bool:
    """Return whether a file has shapes; they may come after a picture that is stored in the file."""
    text = peek_text(path)
    if _SHAPES.search(text):
        return True
    if '"imageData"' not in text and not _IMAGE_PATH.search(text):
        return False
    try:
        return bool(_SHAPES.search(peek_text(path, path.stat().st_size)))
    except OSError:
        return False


def _source(root: Path, images: Path, labels: Path) -> PerImageSource:
    return PerImageSource(
        "labelme",
        root,
        images,
        labels,
        ".json",
        parse_labelme,
        names=_classes(labels),
        by_base_name=root == images != labels,
        is_label=_looks_like_labelme,
        region=_IGNORE,
    )


def _layout(path: Path, named: Path | None = None) -> dict[str, PerImageSource]:
    """Return a folder of pictures with LabelMe's own list of classes, labelled or not."""
    file = _class_file(path)
    if (
        named
        or file is None
        or not peek_text(file).startswith(_NO_CLASSES[0])
        or not list_images(path)
    ):
        return {}
    if any(split_folder(folder.name) for folder in path.iterdir() if folder.is_dir()):
        return {}
    return {ALL: _source(path, path, path)}


def _class_file(folder: Path) -> Path | None:
    """Return LabelMe's ``labels.txt``, in the folder or, of a split's folder, in the one above."""
    folders = [folder, folder.parent] if split_folder(folder.name) else [folder]
    return next((p for f in folders if (p := f / _CLASSES).is_file()), None)


def _classes(folder: Path) -> tuple[str, ...] | None:
    path = _class_file(folder)
    if path is None:
        return None
    try:
        names = [line.strip() for line in read_lines(path)]
    except (OSError, TextError) as error:
        raise DataError(f"{path}: {error}") from None
    return tuple(name for name in names if name and name not in _NO_CLASSES)


def write_labelme(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write a JSON file beside each picture, and ``labels.txt`` with the classes.

    The pictures of split ``train`` lie in ``out/train``, those of ``all`` in ``out``.
    """
    for name, dataset in labels.splits.items():
        folder = out / _folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        marks: dict[str, Mark] = {}
        for record in dataset.records:
            if has_label_file(record):
                text = json.dumps(_file_of(record, labels.categories), indent=2, ensure_ascii=False)
                write_plain(record.path.with_suffix(".json"), text + "\n")
            marks[relative_name(record.path, folder)] = mark_of(record)
        write_marks(folder, marks)
    write_plain(out / _CLASSES, "".join(f"{name}\n" for name in (*_NO_CLASSES, *labels.categories)))
    return ()


def _file_of(record: ImageRecord, categories: Sequence[str]) -> dict[str, Any]:
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True)
    shapes = [
        {
            "label": categories[label - 1],
            "points": [[x0, y0], [x1, y1]],
            "group_id": None,
            "description": "",
            "shape_type": "rectangle",
            "flags": {"difficult": True} if ignore else {},
            "mask": None,
        }
        for (x0, y0, x1, y1), label, ignore in rows
    ]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": record.path.name,
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }


def _folder(split: str) -> str:
    return "" if split == ALL else split


READER = Reader(layout=_layout, per_image=LabelPerImage(".json", _looks_like_labelme, _source))
WRITER = Writer(write_labelme, _folder)
