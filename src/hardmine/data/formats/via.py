"""VGG Image Annotator (VIA): a project or its exported annotations, as JSON or CSV; read only.

Rectangles, circles, ellipses and polygons give the box around them; points and lines have none and are
left out. The class is the region's attribute, of several the one that is called so. VIA lists all
images that were loaded, so that one without regions is ``unreviewed``.

Source: VIA 2 and 3 "user guide" and ``via.js`` (``_via_img_metadata``, export to JSON and CSV).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hardmine.data.formats.label_format import (
    ALL,
    Fault,
    ImageLabels,
    LabelFiles,
    LabelledBox,
    Reader,
    turned_radii,
)
from hardmine.data.formats.label_readers import OneFileSource, one_file_source
from hardmine.errors import MALFORMED, DataError
from hardmine.files import TextError, json_value, peek_text, read_json, read_text
from hardmine.finding_kinds import FindingKind

_JSON = re.compile(
    r'"(_via_img_metadata|_via_settings|fid_list)"|"regions"\s*:\s*[\[{]|"data_format_version"\s*:\s*"3'
)
_SHAPES_3 = ("", "point", "rect", "circle", "ellipse", "line", "polyline", "polygon")
"""Shapes by their numbers in version 3; further ones have no box."""
_NUMBERS_3 = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
_VERSION_3 = ("file", "view", "metadata", "attribute")
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_CLASS_KEYS = ("class", "label", "category", "name", "type", "object")
_NO_CLASS = "object"
_NO_BOX = ("point", "line", "polyline", "extreme_rect")
_Box = tuple[float, float, float, float]


def read_via(path: Path) -> Iterator[ImageLabels]:
    """Yield what the file says of each image.

    Raises:
        DataError: neither JSON nor CSV that VIA writes.
    """
    if path.suffix.lower() == ".csv":
        yield from _read_csv(path)
        return
    data = read_json(path)
    images = data.get("_via_img_metadata", data) if isinstance(data, dict) else None
    if isinstance(data, dict) and all(isinstance(data.get(k), dict) for k in _VERSION_3):
        images = _from_version_3(data)
    if not isinstance(images, dict):
        raise DataError(f"{path}: got {type(data).__name__}, wanted VIA's images by their keys")
    entries = [e for e in images.values() if isinstance(e, dict) and "filename" in e]
    regions = [_regions(entry) for entry in entries]
    named = any(_class(region) for found in regions for region in found)
    place = 0
    for index, (entry, found) in enumerate(zip(entries, regions, strict=True)):
        labels = ImageLabels(str(entry["filename"]), index, looked_at=False)
        for region in found:
            _add_region(labels, region, place, named)
            place += 1
        yield labels


def _from_version_3(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the images of a project of version 3 as version 2 has them."""
    images: dict[str, dict[str, Any]] = {}
    for key, view in data["view"].items():
        files = view.get("fid_list") if isinstance(view, dict) else None
        one = data["file"].get(str(files[0])) if isinstance(files, list) and files else None
        if isinstance(one, dict) and "fname" in one:
            images[key] = {"filename": one["fname"], "regions": []}
    for region in data["metadata"].values():
        if not isinstance(region, dict):
            continue
        image = images.get(str(region.get("vid")))
        if image is not None and region.get("xy"):  # without, it speaks of the image
            image["regions"].append(_region_3(region, data["attribute"]))
    return images


def _region_3(region: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """Return a region of version 3 as version 2 has it; as it is where it is broken."""
    try:
        number, *values = region["xy"]
        kind = _SHAPES_3[number] if 0 < number < len(_SHAPES_3) else _NO_BOX[0]
        shape: dict[str, Any] = {"name": kind}
        if kind == "polygon":
            shape |= {"all_points_x": values[0::2], "all_points_y": values[1::2]}
        else:
            shape |= dict(zip(_NUMBERS_3.get(kind, ()), values, strict=False))
        said: dict[str, Any] = {}
        for key, value in (region.get("av") or {}).items():
            attribute = attributes.get(key) or {}
            options = attribute.get("options") or {}
            said[str(attribute.get("aname", key))] = options.get(str(value), value)
        return {"shape_attributes": shape, "region_attributes": said}
    except MALFORMED:
        return dict(region)


def _regions(entry: Mapping[str, Any]) -> list[Any]:
    regions = entry.get("regions") or []
    if isinstance(regions, dict):
        return list(regions.values())
    return regions if isinstance(regions, list) else [regions]


def _read_csv(path: Path) -> Iterator[ImageLabels]:
    try:
        text = read_text(path).removeprefix("#")  # version 1 wrote #filename
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    except TextError as error:
        raise DataError(f"{path}: {error}") from None
    regions = [_region_of(row) for row in rows]
    named = any(_class(region) for region in regions)
    for place, (row, region) in enumerate(zip(rows, regions, strict=True)):
        labels = ImageLabels((row.get("filename") or "").strip(), place, looked_at=False)
        if region is not None:
            _add_region(labels, region, place, named)
        yield labels


def _region_of(row: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the region of a line, None where it has none; an empty one where it is broken."""
    try:
        shape, attributes = (json_value(row.get(key) or "{}") for key in _COLUMNS[1:])
    except ValueError:
        return {}
    return {"shape_attributes": shape, "region_attributes": attributes} if shape else None


def _add_region(labels: ImageLabels, region: Any, place: int, named: bool) -> None:
    """Add a region; ``named``: regions of the file have classes, so that one without is at fault."""
    try:
        shape = region["shape_attributes"]
        kind = str(shape["name"])
        box = None if kind in _NO_BOX else _box(shape, kind)
    except MALFORMED:
        reason = f"region {str(region)[:80]}, wanted a shape with its numbers"
        labels.rejected.append(Fault(FindingKind.BOX_MALFORMED, place, reason))
        return
    name = _class(region) or ("" if named else _NO_CLASS)
    if box is None:
        reason = f"a shape of type {kind} has no box, left out"
        labels.remarks.append(Fault(FindingKind.SHAPES_LEFT_OUT, place, reason))
    elif not name:
        reason = f"a region of {labels.image} without a class"
        labels.rejected.append(Fault(FindingKind.CLASS_UNKNOWN, place, reason))
    else:
        labels.objects.append(LabelledBox(name, *box, place))


def _box(shape: Mapping[str, Any], kind: str) -> _Box:
    """Return the box around a shape.

    Raises:
        KeyError, TypeError, ValueError: numbers are missing, or the shape is unknown.
    """
    if kind == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return x, y, x + width, y + height
    if kind in ("circle", "ellipse"):
        cx, cy = float(shape["cx"]), float(shape["cy"])
        rx = float(shape["r"] if kind == "circle" else shape["rx"])
        ry = float(shape["r"] if kind == "circle" else shape["ry"])
        if shape.get("theta"):  # turned: the box around it
            rx, ry = turned_radii(rx, ry, math.degrees(float(shape["theta"])))
        return cx - rx, cy - ry, cx + rx, cy + ry
    if kind == "polygon":
        xs = [float(value) for value in shape["all_points_x"]]
        ys = [float(value) for value in shape["all_points_y"]]
        return min(xs), min(ys), max(xs), max(ys)
    raise ValueError(kind)


def _class(region: Any) -> str:
    """Return a region's class, maybe nothing; of several attributes the one that is called so."""
    attributes = region.get("region_attributes") if isinstance(region, dict) else None
    if not isinstance(attributes, dict):
        return ""
    found = {str(key).lower(): value for key, value in attributes.items()}
    for key in (*(k for k in _CLASS_KEYS if k in found), *found):
        value = found[key]
        if isinstance(value, dict):  # a list of boxes to tick
            value = next((name for name, ticked in value.items() if ticked), "")
        if str(value).strip():
            return str(value).strip()
    return ""


def _looks_like_via(path: Path) -> bool:
    text = peek_text(path)
    if path.suffix.lower() == ".csv":
        header = text.split("\n")[0].lstrip("#")
        return all(column in header for column in _COLUMNS)
    return text.lstrip().startswith("{") and _JSON.search(text) is not None


def _sources(path: Path, images: Path | None) -> Mapping[str, OneFileSource]:
    return {ALL: one_file_source("via", path, images, read_via, one_entry_per_image=False)}


READER = Reader(files=LabelFiles((".json", ".csv"), _looks_like_via, _sources))
