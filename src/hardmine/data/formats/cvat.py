"""CVAT for images 1.1: one XML file for all images; written only.

Boxes that a model suggests have the source ``auto``, those of a person ``manual``.

Source: CVAT, "XML annotation format", version 1.1, "for images".
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hardmine.data.formats.label_format import ALL, LabelSet, Writer
from hardmine.files import write_text
from hardmine.types import ImageRecord


def write_cvat(labels: LabelSet, out: Path) -> None:
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


def _add_image(
    root: Element, labels: LabelSet, split: str, record: ImageRecord, index: int
) -> None:
    head = {"id": str(index), "name": record.path.name}
    head |= {"subset": split} if split else {}
    head |= {"width": str(record.width), "height": str(record.height)}
    image = SubElement(root, "image", head)
    for box, name, score in labels.shown_boxes(record):
        sides = zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
        corners = {key: f"{value:.2f}" for key, value in sides}
        source = "manual" if score is None else "auto"
        words = {"label": name, "source": source, "occluded": "0", **corners, "z_order": "0"}
        SubElement(image, "box", words)


WRITER = Writer(write_cvat, lambda split: "images", any_split=True)
