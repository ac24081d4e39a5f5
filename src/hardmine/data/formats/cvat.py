"""CVAT for images 1.1: one XML file for all images, read and written.

Boxes that a model suggests have the source ``auto``, those of a person ``manual``; read are both, since
a person looked through them. Rotated boxes, polygons, ellipses and masks give the box around them,
points and lines are left out. CVAT lists all images of a task, so that one without shapes is
``unreviewed``. Its subsets are the splits.

Source: CVAT, "XML annotation format", version 1.1, "for images".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hardmine.data.formats.label_format import (
    ALL,
    Box,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    LabelSet,
    Reader,
    Writer,
    parse_xml,
    read_side,
    turned_box,
    turned_radii,
)
from hardmine.data.formats.label_readers import OneFileSource, by_split, one_file_source
from hardmine.errors import MALFORMED, DataError
from hardmine.files import peek_text, write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord, ImageState

_ANNOTATIONS = re.compile(r"<annotations[\s>]")


def read_cvat(path: Path) -> Iterator[ImageLabels]:
    """Yield what the file says of each image.

    Raises:
        DataError: no XML of that kind.
    """
    try:
        root = parse_xml(path, "annotations")
    except (OSError, DataError) as error:
        raise DataError(f"{path}: {error}") from None
    if root.find("image") is None and root.find("track") is not None:
        raise DataError(
            f"{path}: holds tracks of a video; export the task as 'CVAT for images 1.1'"
        )
    place = 0
    for index, image in enumerate(root.iter("image")):
        width, height = (read_side(image.get(key)) for key in ("width", "height"))
        labels = ImageLabels(image.get("name") or "", index, width, height, looked_at=False)
        labels.split = image.get("subset") or ""
        for shape in image:
            if shape.tag in _SHAPES:
                _add_shape(labels, shape, place)
                place += 1
        yield labels


def _add_shape(labels: ImageLabels, shape: Element, place: int) -> None:
    name = (shape.get("label") or "").strip()
    try:
        box = _SHAPES[shape.tag](shape)
    except MALFORMED:
        reason = f"<{shape.tag}> of {labels.image}, wanted its corners as numbers"
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    if box is None:
        reason = f"a shape of type {shape.tag} has no box, left out"
        labels.remarks.append(Fault(FindingKind.SHAPES_LEFT_OUT, place, reason))
    elif not name:
        reason = f"<{shape.tag}> of {labels.image} without a label"
        labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, place, reason))
    else:
        labels.objects.append(LabelledBox(name, *box, place))


def _numbers(shape: Element, *keys: str) -> list[float]:
    return [float(shape.get(key) or "") for key in keys]


def _box(shape: Element) -> Box:
    x0, y0, x1, y1 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    return turned_box((x0, y0, x1, y1), float(shape.get("rotation") or 0))


def _polygon(shape: Element) -> Box:
    points = [point.split(",") for point in (shape.get("points") or "").split(";")]
    xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def _ellipse(shape: Element) -> Box:
    cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    rx, ry = turned_radii(rx, ry, float(shape.get("rotation") or 0))
    return cx - rx, cy - ry, cx + rx, cy + ry


def _mask(shape: Element) -> Box:
    x, y, width, height = _numbers(shape, "left", "top", "width", "height")
    return x, y, x + width, y + height


_SHAPES: Mapping[str, Callable[[Element], Box | None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
    "polyline": lambda shape: None,
    "points": lambda shape: None,
    "skeleton": lambda shape: None,
    "cuboid": lambda shape: None,
}


def _looks_like_cvat(path: Path) -> bool:
    return _ANNOTATIONS.search(peek_text(path)) is not None


def _sources(path: Path, images: Path | None) -> Mapping[str, OneFileSource]:
    return by_split(one_file_source("cvat", path, images, read_cvat))


def write_cvat(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write ``annotations.xml``; images pair by their names with those of a CVAT task."""
    records = [
        ("" if name == ALL else name, record)
        for name, dataset in labels.splits.items()
        for record in dataset.records
    ]
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    job = SubElement(SubElement(root, "meta"), "task")
    SubElement(job, "size").text = str(len(records))
    SubElement(job, "mode").text = "annotation"
    known = SubElement(job, "labels")
    for name in labels.categories:
        label = SubElement(known, "label")
        SubElement(label, "name").text = name
        SubElement(label, "type").text = "rectangle"
        SubElement(label, "attributes")
    for index, (split, record) in enumerate(records):
        _add_image(root, labels, split, record, index)
    indent(root)
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"
    write_text(out / "annotations.xml", text)
    return ()


def _add_image(
    root: Element, labels: LabelSet, split: str, record: ImageRecord, index: int
) -> None:
    head = {"id": str(index), "name": record.path.name}
    head |= {"subset": split} if split else {}
    head |= {"width": str(record.width), "height": str(record.height)}
    image = SubElement(root, "image", head)
    known = record.path in labels.scores or labels.is_said(record)
    for box, name, score in labels.shown_boxes(record) if known else ():
        sides = zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
        corners = {key: f"{value:.2f}" for key, value in sides}
        source = "manual" if score is None else "auto"
        words = {"label": name, "source": source, "occluded": "0", **corners, "z_order": "0"}
        SubElement(image, "box", words)


READER = Reader(files=LabelFiles((".xml",), _looks_like_cvat, _sources))
WRITER = Writer(
    write_cvat,
    lambda split: "images",
    any_split=True,
    states=frozenset({ImageState.LABELLED, ImageState.UNREVIEWED}),
)
