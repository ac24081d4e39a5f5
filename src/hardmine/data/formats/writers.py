"""Writing YOLO and VOC folders; `hardmine.data.formats.coco` writes COCO.

Both keep what the format cannot say in the side file of `image_states`. The image files are
expected to be where the records say, below ``out``. Files are not synced one by one: the caller
makes the folder appear when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import yaml

from hardmine.data.formats.image_folder import stem_name
from hardmine.data.formats.image_paths import relative_name
from hardmine.data.formats.image_states import Mark, write_marks
from hardmine.types import Dataset, ImageRecord, ImageState


def write_yolo(splits: Mapping[str, Dataset], out: Path) -> None:
    """Write label files beside ``out/images``, and a ``data.yaml``.

    The images of split ``train`` lie in ``out/images/train``; those of ``all`` in ``out/images``,
    which the ``data.yaml`` then calls ``train``.
    """
    config: dict[str, object] = {"path": "."}
    for name, dataset in splits.items():
        part = "" if name == "all" else name
        images, labels = out / "images" / part, out / "labels" / part
        marks: dict[str, Mark] = {}
        labels.mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            if _has_label_file(record):
                path = labels / f"{stem_name(record.path, images)}.txt"
                _write(path, "".join(_yolo_lines(record)))
            ignored = frozenset(record.ignore.nonzero()[0].tolist())
            marks[relative_name(record.path, images)] = _mark(record, ignored)
        write_marks(labels, marks)
        config[name if part else "train"] = f"images/{part}".rstrip("/")
    config["names"] = dict(enumerate(_categories(splits)))
    _write(out / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def write_voc(splits: Mapping[str, Dataset], out: Path) -> None:
    """Write XML files for the images in ``out/JPEGImages``, their splits and ``classes.txt``."""
    images, labels = out / "JPEGImages", out / "Annotations"
    labels.mkdir(parents=True, exist_ok=True)
    marks: dict[str, Mark] = {}
    for name, dataset in splits.items():
        for record in dataset.records:
            if _has_label_file(record):
                path = labels / f"{stem_name(record.path, images)}.xml"
                _write(path, _voc_xml(record, dataset.categories))
            marks[relative_name(record.path, images)] = _mark(record, frozenset())
        if name != "all":
            names = [stem_name(record.path, images) for record in dataset.records]
            text = "".join(f"{stem}\n" for stem in names)
            _write(out / "ImageSets" / "Main" / f"{name}.txt", text)
    write_marks(labels, marks)
    _write(out / "classes.txt", "".join(f"{name}\n" for name in _categories(splits)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _categories(splits: Mapping[str, Dataset]) -> tuple[str, ...]:
    return next(iter(splits.values())).categories


def _has_label_file(record: ImageRecord) -> bool:
    """Return whether other programs may take the image's (lack of) objects at its word."""
    return bool(len(record.labels)) or record.state.is_trainable


def _mark(record: ImageRecord, ignored: frozenset[int]) -> Mark:
    """Return what the label file, or its absence, does not say of an image."""
    implied = ImageState.UNREVIEWED
    if _has_label_file(record):
        implied = ImageState.LABELLED if len(record.labels) else ImageState.VERIFIED_EMPTY
    return Mark(None if record.state is implied else record.state, ignored, record.source)


def _yolo_lines(record: ImageRecord) -> list[str]:
    lines: list[str] = []
    for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        cx, width = (x0 + x1) / 2 / record.width, (x1 - x0) / record.width
        cy, height = (y0 + y1) / 2 / record.height, (y1 - y0) / record.height
        lines.append(f"{label - 1} {cx:.10g} {cy:.10g} {width:.10g} {height:.10g}\n")
    return lines


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
