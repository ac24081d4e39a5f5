"""Handing images to labelling programs: Label Studio, CVAT and FiftyOne, in what they import.

Boxes of labelled images become annotations; boxes that a model suggests become predictions, which a
person accepts, moves or removes. The images are copied (or linked) beside the labels.

Sources: Label Studio, "Import pre-annotated data" and "Local storage"; CVAT, "XML annotation format",
version 1.1, "for images"; FiftyOne, "Importing data", ``FiftyOneImageDetectionDataset``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hardmine.data.convert import copy_image, unique_names
from hardmine.errors import ConfigError, DataError
from hardmine.files import write_text
from hardmine.types import F32, Dataset, ImageRecord

LABELLING = ("labelstudio", "cvat", "fiftyone")


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """An image to look at: ``scores`` f32[N] where its boxes are a model's, None where a person's."""

    record: ImageRecord
    split: str = ""
    scores: F32 | None = None


def tasks_of(splits: Mapping[str, Dataset]) -> list[Task]:
    """Return the images of all splits with their labels as annotations."""
    return [
        Task(record, "" if name == "all" else name)
        for name, dataset in splits.items()
        for record in dataset.records
    ]


def write_tasks(
    tasks: Sequence[Task],
    categories: Sequence[str],
    out: Path | str,
    to: str,
    *,
    link: bool = False,
    model: str = "hardmine",
) -> Path:
    """Write images and their boxes for a labelling program; the folder appears whole or not at all.

    Args:
        out: a folder that is missing or empty.
        to: ``labelstudio`` (``tasks.json``, ``labels.xml``, ``images``), ``cvat``
            (``annotations.xml``, ``images``) or ``fiftyone`` (``labels.json``, ``data``; a folder
            per split where there are several).
        link: hard links instead of copies, where the file system can.
        model: named as the source of predictions.

    Raises:
        ConfigError: an unknown program.
        DataError: ``out`` holds something, an image cannot be copied, or the disk is full.
    """
    target = Path(out)
    if to not in LABELLING:
        raise ConfigError(f"format {to!r}, wanted one of {', '.join(LABELLING)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is not empty, wanted a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        try:
            _WRITERS[to](_placed(tasks, part, to, link), categories, part, model)
            part.chmod(0o755)
            part.replace(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(f"{target}: not written ({error})") from error
    return target


def _placed(tasks: Sequence[Task], out: Path, to: str, link: bool) -> list[Task]:
    """Copy the images and return the tasks with their new paths."""
    several = len({task.split for task in tasks}) > 1
    placed: list[Task] = []
    for task, name in zip(tasks, unique_names([t.record.path for t in tasks]), strict=True):
        folder = out / "images"
        if to == "fiftyone":
            folder = (out / task.split if several else out) / "data"
        copy_image(task.record.path, folder / name, link)
        placed.append(replace(task, record=replace(task.record, path=folder / name)))
    return placed


def _boxes(task: Task, categories: Sequence[str]) -> list[tuple[list[float], str, float | None]]:
    """Return (xyxy, class, score) of each box that is not to be ignored."""
    record = task.record
    scores: list[float | None] = [None] * len(record.labels)
    if task.scores is not None:
        scores = [*task.scores.tolist()]
    rows = zip(record.boxes.tolist(), record.labels.tolist(), scores, record.ignore, strict=True)
    return [(box, categories[label - 1], score) for box, label, score, ignore in rows if not ignore]


def _write_label_studio(
    tasks: Sequence[Task], categories: Sequence[str], out: Path, model: str
) -> None:
    entries = [_label_studio_task(task, categories, out, model) for task in tasks]
    _dump(out / "tasks.json", entries)
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image")
    choices = SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in categories:
        SubElement(choices, "Label", value=name)
    indent(view)
    write_text(out / "labels.xml", tostring(view, encoding="unicode") + "\n")


def _label_studio_task(
    task: Task, categories: Sequence[str], out: Path, model: str
) -> dict[str, Any]:
    """Return one task; places and sizes are percentages of the image."""
    record = task.record
    name = record.path.relative_to(out).as_posix()
    data = {"image": f"/data/local-files/?d={quote(name)}", "state": record.state.value}
    entry: dict[str, Any] = {"data": data | ({"split": task.split} if task.split else {})}
    result = []
    for index, (box, label, score) in enumerate(_boxes(task, categories)):
        x0, y0, x1, y1 = box
        x, width = (100 * value / record.width for value in (x0, x1 - x0))
        y, height = (100 * value / record.height for value in (y0, y1 - y0))
        value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
        item = {
            "id": f"box{index}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": record.width,
            "original_height": record.height,
            "image_rotation": 0,
            "value": {**value, "rectanglelabels": [label]},
        }
        result.append(item | ({} if score is None else {"score": score}))
    if task.scores is not None:
        best = float(task.scores.max(initial=0.0))
        entry["predictions"] = [{"model_version": model, "score": best, "result": result}]
    elif record.state.is_trainable:
        entry["annotations"] = [{"result": result}]
    return entry


def _write_cvat(tasks: Sequence[Task], categories: Sequence[str], out: Path, model: str) -> None:
    """Write CVAT for images 1.1; images pair by their names with those of a CVAT task."""
    del model
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    job = SubElement(SubElement(root, "meta"), "task")
    SubElement(job, "size").text = str(len(tasks))
    SubElement(job, "mode").text = "annotation"
    labels = SubElement(job, "labels")
    for name in categories:
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "type").text = "rectangle"
        SubElement(label, "attributes")
    for index, task in enumerate(tasks):
        record = task.record
        head = {"id": str(index), "name": record.path.name}
        head |= {"subset": task.split} if task.split else {}
        head |= {"width": str(record.width), "height": str(record.height)}
        image = SubElement(root, "image", head)
        for box, name, score in _boxes(task, categories):
            sides = zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
            corners = {key: f"{value:.2f}" for key, value in sides}
            source = "manual" if score is None else "auto"
            words = {"label": name, "source": source, "occluded": "0", **corners, "z_order": "0"}
            SubElement(image, "box", words)
    indent(root)
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"
    write_text(out / "annotations.xml", text)


def _write_fiftyone(
    tasks: Sequence[Task], categories: Sequence[str], out: Path, model: str
) -> None:
    """Write one `FiftyOneImageDetectionDataset` for each split; boxes are shares of the image."""
    del model
    folders: dict[Path, dict[str, Any]] = {}
    for task in tasks:
        record = task.record
        found = []
        for (x0, y0, x1, y1), name, score in _boxes(task, categories):
            share = [x0 / record.width, y0 / record.height]
            share += [(x1 - x0) / record.width, (y1 - y0) / record.height]
            item: dict[str, Any] = {"label": categories.index(name), "bounding_box": share}
            found.append(item | ({} if score is None else {"confidence": score}))
        known = task.scores is not None or record.state.is_trainable
        labels = folders.setdefault(record.path.parent.parent, {})
        labels[record.path.stem] = found if known else None
    for folder, labels in folders.items():
        _dump(folder / "labels.json", {"classes": list(categories), "labels": labels})


def _dump(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + os.linesep)


_WRITERS: Mapping[str, Callable[[Sequence[Task], Sequence[str], Path, str], None]] = {
    "labelstudio": _write_label_studio,
    "cvat": _write_cvat,
    "fiftyone": _write_fiftyone,
}
