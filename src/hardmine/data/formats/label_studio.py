"""Label Studio: its tasks as JSON (or JSON-MIN), read and written.

Boxes of labelled images become annotations; boxes that a model suggests become predictions, which a
person accepts, moves or removes. Read are annotations only, of several the one that is the ground
truth, else the last. Rectangles (turned ones too), ellipses and polygons give the box around them. A
task with an annotation that holds nothing was looked at; one without, or skipped, is ``unreviewed``.
``image_rotation`` says how the page showed the picture; shapes are those of the picture as it is stored.

Source: Label Studio, "Import pre-annotated data", "Local storage" and "Export annotations"; of the
rotation, ``serialize`` of its regions (label-studio-frontend), which takes natural width and height.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hardmine.data.formats.label_format import (
    ALL,
    SAID_BY_PERSONS,
    Box,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    LabelSet,
    Reader,
    Writer,
    read_side,
    turned_box,
    turned_radii,
)
from hardmine.data.formats.label_readers import OneFileSource, one_file_source
from hardmine.data.images import has_picture_name
from hardmine.errors import MALFORMED, DataError
from hardmine.files import peek_text, read_json, write_text
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord

_TASKS = re.compile(
    r'"(annotations|predictions|rectanglelabels)"\s*:\s*\[|"data"\s*:\s*\{|"annotation_id"\s*:'
)
_IMAGE = re.compile(r"[/\\.]")
_NOT_DRAWN = ("choices", "rating", "textarea", "taxonomy", "number", "relation", "labels")


def read_label_studio(path: Path) -> Iterator[ImageLabels]:
    """Yield what each task says.

    Raises:
        DataError: not JSON, or not a list of tasks.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise DataError(f"{path}: got {type(tasks).__name__}, wanted a list of tasks")
    place = 0
    for index, task in enumerate(tasks):
        labels = ImageLabels("", index, looked_at=False)
        for item in _results(task, labels):
            _add_result(labels, item, place)
            place += 1
        yield labels


def _results(task: Any, labels: ImageLabels) -> list[Any]:
    """Return what was drawn in a task, after noting its image and whether a person looked."""
    if not isinstance(task, dict):
        return []
    data = task["data"] if isinstance(task.get("data"), dict) else task
    labels.image = _image_name(data)
    if "data" not in task:  # JSON-MIN
        labels.looked_at = True
        lists = [value for value in task.values() if isinstance(value, list)]
        return [item for value in lists for item in value if isinstance(item, dict) and "x" in item]
    written = _objects(task.get("annotations"), labels, "annotation")
    done = [entry for entry in written if not entry.get("was_cancelled")]
    if not done:
        return []
    labels.looked_at = True
    if len(done) > 1:
        reason = "a task with several annotations; the ground truth or the last one is used"
        labels.remarks.append(Fault(FindingKind.LABEL_AMBIGUOUS, labels.place, reason))
    chosen = next((a for a in done if a.get("ground_truth")), done[-1])
    results = _objects(chosen.get("result"), labels, "result")
    return [item for item in results if item.get("type") not in _NOT_DRAWN]


def _objects(value: Any, labels: ImageLabels, what: str) -> list[dict[str, Any]]:
    """Return the objects of a list; what is none is noted, so that its image is no negative."""
    entries = value if isinstance(value, list) else [] if value is None else [value]
    for entry in entries:
        if not isinstance(entry, dict):
            reason = f"{what} {str(entry)[:80]}, wanted an object"
            labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, labels.place, reason))
    return [entry for entry in entries if isinstance(entry, dict)]


def _image_name(data: Mapping[str, Any]) -> str:
    texts = [data.get("image"), *data.values()]
    found = [text for text in texts if isinstance(text, str) and _IMAGE.search(text)]
    pictures = (
        text
        for text in found
        if text == data.get("image") or has_picture_name(text.partition("?")[0])
    )
    name = next(pictures, found[0] if found else "")
    try:
        local = parse_qs(urlsplit(name).query).get("d")
    except ValueError:  # it only looks like a URL
        return name
    return local[0] if local else name


def _add_result(labels: ImageLabels, item: Mapping[str, Any], place: int) -> None:
    value = item.get("value", item)
    try:
        if not isinstance(value, dict):
            raise TypeError(value)
        kind = str(item.get("type") or next((k for k in value if k.endswith("labels")), ""))
        width, height = (float(item[key]) for key in ("original_width", "original_height"))
        box = _box(value, width, height)
    except MALFORMED:
        reason = f"result {str(item)[:80]}, wanted a shape and the size of the image"
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    if box is None:
        reason = f"a shape of type {kind} has no box, left out"
        labels.remarks.append(Fault(FindingKind.SHAPES_LEFT_OUT, place, reason))
        return
    names = value.get(kind) or value.get("labels")
    if not isinstance(names, list) or len(names) != 1:
        reason = f"labels {names!r} of a shape in {labels.image}, wanted one class"
        labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, place, reason))
        return
    labels.width, labels.height = read_side(width), read_side(height)
    labels.objects.append(LabelledBox(str(names[0]), *box, place))


def _box(value: Mapping[str, Any], width: float, height: float) -> Box | None:
    """Return the box, in pixels, around a shape whose numbers are percentages of the image."""
    if "points" in value:
        xs = [float(x) / 100 * width for x, _ in value["points"]]
        ys = [float(y) / 100 * height for _, y in value["points"]]
        return min(xs), min(ys), max(xs), max(ys)
    x, y = float(value["x"]) / 100 * width, float(value["y"]) / 100 * height
    if "radiusX" in value:
        rx, ry = (float(value[k]) / 100 * s for k, s in (("radiusX", width), ("radiusY", height)))
        rx, ry = turned_radii(rx, ry, float(value.get("rotation") or 0))
        return x - rx, y - ry, x + rx, y + ry
    if "height" not in value:
        return None  # a point
    wide, high = float(value["width"]) / 100 * width, float(value["height"]) / 100 * height
    turn = float(value.get("rotation") or 0)
    # Label Studio turns about the upper left corner, which moves the centre.
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    cx, cy = x + (wide * cos - high * sin) / 2, y + (wide * sin + high * cos) / 2
    return turned_box((cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2), turn)


def _looks_like_label_studio(path: Path) -> bool:
    text = peek_text(path).lstrip()
    return text.startswith("[") and _TASKS.search(text) is not None


def _sources(path: Path, images: Path | None) -> Mapping[str, OneFileSource]:
    return {ALL: one_file_source("labelstudio", path, images, read_label_studio)}


def write_label_studio(labels: LabelSet, out: Path) -> Sequence[str]:
    """Write ``tasks.json`` and the set-up ``labels.xml`` for the images in ``out/images``."""
    entries = [
        _task(labels, "" if name == ALL else name, record, out)
        for name, dataset in labels.splits.items()
        for record in dataset.records
    ]
    text = json.dumps(entries, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(out / "tasks.json", text + "\n")
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image")
    choices = SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in labels.categories:
        SubElement(choices, "Label", value=name)
    indent(view)
    write_text(out / "labels.xml", tostring(view, encoding="unicode") + "\n")
    return ()


def _task(labels: LabelSet, split: str, record: ImageRecord, out: Path) -> dict[str, Any]:
    """Return one task; places and sizes are percentages of the image."""
    name = record.path.relative_to(out).as_posix()
    data = {"image": f"/data/local-files/?d={quote(name)}", "state": record.state.value}
    entry: dict[str, Any] = {"data": data | ({"split": split} if split else {})}
    result = []
    for index, (box, label, score) in enumerate(labels.shown_boxes(record)):
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
    scores = labels.scores.get(record.path)
    if scores is not None:
        best = float(scores.max(initial=0.0))
        entry["predictions"] = [{"model_version": labels.model, "score": best, "result": result}]
    elif labels.is_said(record):
        entry["annotations"] = [{"result": result}]
    return entry


READER = Reader(files=LabelFiles((".json",), _looks_like_label_studio, _sources))
WRITER = Writer(
    write_label_studio,
    lambda split: "images",
    any_split=True,
    states=SAID_BY_PERSONS,
)
