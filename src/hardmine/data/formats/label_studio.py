"""Label Studio: tasks for pictures that it serves from a local folder; written only.

Boxes of labelled images become annotations; boxes that a model suggests become predictions, which a
person accepts, moves or removes.

Source: Label Studio, "Import pre-annotated data" and "Local storage".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hardmine.data.formats.label_format import ALL, LabelSet, Writer
from hardmine.files import write_text
from hardmine.types import ImageRecord


def write_label_studio(labels: LabelSet, out: Path) -> None:
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
    elif record.state.is_trainable:
        entry["annotations"] = [{"result": result}]
    return entry


WRITER = Writer(write_label_studio, lambda split: "images", any_split=True)
