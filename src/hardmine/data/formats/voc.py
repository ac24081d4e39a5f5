"""Pascal VOC: one XML file per image, read and written.

Boxes are taken as written, as the edges of the object in pixels counted from 0: so LabelImg, CVAT
and most converters write them, and so a box survives a round trip exactly. The files of the VOC
challenges themselves (``<source><annotation>PASCAL VOC…``) count pixels from 1 and include the last
one; for those, 1 is taken from xmin and ymin.

An XML file without objects says ``verified_empty``; an image without XML is ``unreviewed``. Images
and XML files pair by their names; ``<filename>`` only helps where no name fits, and ``<path>``,
which is the path on the machine of whoever labelled, is never followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from hardmine.data.formats.image_files import list_files, relative_name, stem_name
from hardmine.data.formats.image_states import (
    Mark,
    has_label_file,
    mark_of,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import (
    ALL,
    SPLITS,
    Additions,
    Box,
    Fault,
    ImageLabels,
    LabelledBox,
    LabelPerImage,
    LabelSet,
    NewImage,
    Reader,
    Writer,
    class_names,
    parse_xml,
    read_side,
    turned_box,
    with_lines,
)
from hardmine.data.formats.label_readers import PerImageSource
from hardmine.files import peek_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import Dataset, ImageRecord, ImageState

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CHALLENGE = "PASCAL VOC"
_COORDINATE = re.compile(r"[xy]\d*")
_ANNOTATION = re.compile(r"<annotation[\s>/]")


def parse_voc(path: Path) -> ImageLabels:
    """Return what an XML file says of its image.

    Raises:
        OSError: it cannot be read.
        TextError: it is in another encoding than it says.
        LabelError: no XML, no annotation, or XML that defines entities (which can grow without end
            or read other files).
    """
    annotation = parse_xml(path, "annotation")
    labels = ImageLabels(
        (annotation.findtext("filename") or "").strip(),
        width=read_side(annotation.findtext("size/width")),
        height=read_side(annotation.findtext("size/height")),
    )
    base = annotation.findtext("source/annotation") or ""
    first = 1.0 if base.strip().upper().startswith(_CHALLENGE) else 0.0
    for index, item in enumerate(annotation.findall("object")):
        if labels.flag(item.findtext("deleted"), "<deleted>", index):
            continue  # the web version of LabelMe keeps what was removed
        name = (item.findtext("name") or "").strip()
        try:
            x0, y0, x1, y1 = _box_of(item, first)
        except ValueError as error:
            reason = f"object {name!r}: {error}"
            labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, index, reason))
            continue
        if not name:
            labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, index, "object without <name>"))
            continue
        ignore = labels.flag(item.findtext("difficult"), "<difficult>", index)
        labels.objects.append(LabelledBox(name, x0, y0, x1, y1, index, ignore))
    return labels


def _box_of(item: Element, first: float) -> Box:
    """Return the box of an object, or that around its turned box (roLabelImg) or its outline.

    Args:
        first: the number of the first pixel in corners.

    Raises:
        ValueError: it has none, or several that differ.
    """
    boxes = {
        tuple(box.findtext(key, "").strip() for key in _CORNERS) for box in item.findall("bndbox")
    }
    if len(boxes) > 1:
        raise ValueError(f"{len(boxes)} different <bndbox>, wanted one for each object")
    for corners in boxes:
        try:
            x0, y0, x1, y1 = map(float, corners)
        except ValueError:
            wanted = ", ".join(_CORNERS)
            raise ValueError(f"<bndbox> lacks one of {wanted} as a number") from None
        return x0 - first, y0 - first, x1, y1
    turned, outline = item.find("robndbox"), item.find("polygon")
    try:
        if turned is not None:
            sides = (float(turned.findtext(key, "")) for key in ("cx", "cy", "w", "h", "angle"))
            cx, cy, width, height, angle = sides
            box = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
            return turned_box(box, math.degrees(angle))
        if outline is not None:
            nodes = [node for node in outline.iter() if _COORDINATE.fullmatch(node.tag)]
            xs, ys = ([float(n.text or "") for n in nodes if n.tag[0] == axis] for axis in "xy")
            return min(xs), min(ys), max(xs), max(ys)
    except ValueError:
        raise ValueError("its turned box or outline lacks numbers") from None
    raise ValueError(f"has no <bndbox> with {', '.join(_CORNERS)}")


def _source(
    root: Path,
    images: Path,
    labels: Path,
    list_file: Path | None = None,
    names: tuple[str, ...] | None = None,
) -> PerImageSource:
    return PerImageSource(
        "voc",
        root,
        images,
        labels,
        ".xml",
        parse_voc,
        list_file,
        names,
        by_base_name=root == images != labels,
    )


def _layout(path: Path, named: Path | None = None) -> dict[str, PerImageSource]:
    """Return the splits of a folder laid out as the VOC challenges do.

    Args:
        named: the folder of images, where the user named it.
    """
    images, labels = named or path / "JPEGImages", path / "Annotations"
    if not (images.is_dir() and labels.is_dir()) or (named and not list_files(labels, {".xml"})):
        return {}
    root = named or path
    files = sorted((path / "ImageSets" / "Main").glob("*.txt"))
    lists = {file.stem: file for file in files if "_" not in file.stem}  # not aeroplane_train.txt
    chosen: dict[str, Path] = {name: lists[name] for name in SPLITS if name in lists}
    if "trainval" in lists and "train" not in chosen:
        chosen["train"] = lists["trainval"]
    names = class_names(path)
    lists = chosen or lists
    if not lists:
        return {ALL: _source(root, images, labels, None, names)}
    return {name: _source(root, images, labels, file, names) for name, file in lists.items()}


def _looks_like_voc(path: Path) -> bool:
    return _ANNOTATION.search(peek_text(path)) is not None


def write_voc(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write XML files for the images in ``out/JPEGImages``, their splits and ``classes.txt``."""
    images, folder = out / "JPEGImages", out / "Annotations"
    folder.mkdir(parents=True, exist_ok=True)
    marks: dict[str, Mark] = {}
    for name, dataset in labels.splits.items():
        for record in dataset.records:
            if has_label_file(record):
                path = folder / f"{stem_name(record.path, images)}.xml"
                write_plain(path, _voc_xml(record, dataset.categories))
            marks[relative_name(record.path, images)] = mark_of(record, frozenset())
        if name != ALL:
            names = [stem_name(record.path, images) for record in dataset.records]
            text = "".join(f"{stem}\n" for stem in names)
            write_plain(out / "ImageSets" / "Main" / f"{name}.txt", text)
    write_marks(folder, marks)
    write_plain(out / "classes.txt", "".join(f"{name}\n" for name in labels.categories))
    return ()


def _voc_xml(record: ImageRecord, categories: Sequence[str]) -> str:
    root = Element("annotation")
    _add(root, "filename", record.path.name)
    size = SubElement(root, "size")
    for key, value in (("width", record.width), ("height", record.height), ("depth", 3)):
        _add(size, key, value)
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True)
    for box, label, ignore in rows:
        item = SubElement(root, "object")
        _add(item, "name", categories[label - 1])
        _add(item, "difficult", int(ignore))
        corners = SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            _add(corners, key, int(value) if value.is_integer() else value)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, key: str, value: object) -> None:
    SubElement(parent, key).text = str(value)


READER = Reader(layout=_layout, per_image=LabelPerImage(".xml", _looks_like_voc, _source))
WRITER = Writer(write_voc, lambda split: "JPEGImages")


def append_voc(source: PerImageSource, split: Dataset, images: Sequence[NewImage]) -> Additions:
    """Add images with an XML file each, one without objects for a negative, and list them.

    An image of ``train.txt`` is listed in ``trainval.txt`` too, where that is. Where all boxes of the
    split are whole pixels, those that are added are rounded to them, since many readers of this format
    take no others.
    """
    whole = all(bool((record.boxes % 1 == 0).all()) for record in split.records)
    found = Additions()
    for image in images:
        rounded = image.boxes.round()
        fits = whole and bool((rounded[:, 2:] > rounded[:, :2]).all())
        boxes = rounded if fits else image.boxes
        classes = tuple(dict.fromkeys(image.classes))
        labels = np.array([classes.index(name) + 1 for name in image.classes], np.int64)
        place = source.images / image.name
        ignore, state = np.zeros(len(labels), np.bool_), ImageState.LABELLED
        record = ImageRecord(place, image.width, image.height, boxes, labels, ignore, state)
        found.pictures[image.name] = place
        found.new_files[source.labels / f"{image.stem}.xml"] = _voc_xml(record, classes)
    if source.list_file is not None:
        names = [image.stem for image in images]
        for lines in (source.list_file, *_lists_around(source.list_file)):
            found.edits[lines] = with_lines(lines, names)
    return found


def _lists_around(part: Path) -> Sequence[Path]:
    """Return ``trainval.txt`` beside the list of a part of it; many programs train on that one."""
    both = part.with_name("trainval.txt")
    return (both,) if part.stem in ("train", "val") and both.is_file() else ()


APPENDER = append_voc
