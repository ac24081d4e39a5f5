"""Detections as a table: the lines of a CSV, or the objects in a list of JSON, one per detection.

Columns of a CSV and keys of an object have the same names, those of label files in CSV
(`data/formats/csv_boxes.py`). A JSON object may also be a line of COCO's results: ``bbox`` is x, y,
width and height there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.data.formats.csv_boxes import (
    column_of,
    csv_body,
    csv_number,
    means_nothing,
    name_columns,
)
from hardmine.errors import DataError
from hardmine.files import peek_text, read_text
from hardmine.inference.prediction_programs import ProgramRows, checked_box

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SIZED = ("xmin", "ymin", "box_width", "box_height")
_NAMED = ("class_name", "classname", "category_name", "labelname", "name")
"""Columns of class names; where one of them is there, another column has the class's number."""
_SHOWN = 100


def looks_like_table(path: Path) -> bool:
    """Return whether a file's first line is the header of a table of detections."""
    delimiter, text = csv_body(peek_text(path))
    cells = next(iter(csv.reader([text.partition("\n")[0]], delimiter=delimiter)), [])
    return {"image", "xmin", "score"} <= set(name_columns(cells))


def read_csv_rows(path: Path) -> ProgramRows:
    """Read a CSV file with a header that names image, box (pixels), score and class.

    A line with an image and nothing else says that the image has no detection. A class is a number
    where it is written as one.

    Raises:
        DataError: a column that lacks, or a line that is faulty, named by its number.
    """
    whole = read_text(path)
    delimiter, text = csv_body(whole)
    before = whole.removesuffix(text).count("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = next(reader, [])
    columns = _columns(header, f"{path}", text.partition("\n")[0])
    sides = _CORNERS if "xmax" in columns else _SIZED
    width = len(header)
    found = ProgramRows(first=None, form="xyxy" if sides is _CORNERS else "xywh")
    for cells in reader:
        row = {name: cells[at].strip() if at < len(cells) else "" for name, at in columns.items()}
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}:{before + reader.line_num}"
        if any(cell.strip() for cell in cells[width:]) or not row["image"]:
            what = (
                f"{len(cells)} cells, wanted {width}" if row["image"] else "a line without an image"
            )
            raise DataError(f"{where}: {what}: {delimiter.join(cells)[:80]!r}")
        boxes = found.rows[row["image"].replace("\\", "/")]
        if means_nothing(row["score"]) and means_nothing(row["xmin"]):
            continue
        if not row["label"]:
            raise DataError(
                f"{where}: a detection without a class, got {delimiter.join(cells)[:80]!r}"
            )
        try:
            score, *box = (
                csv_number(row[name], decimal_comma=delimiter != ",") for name in ("score", *sides)
            )
        except ValueError as error:
            raise DataError(
                f"{where}: wanted numbers in {', '.join((*sides, 'score'))} ({error})"
            ) from None
        boxes.append(checked_box(score, row["label"], _corners(box, sides), where))
    return found


def _columns(header: Sequence[str], where: str, line: str) -> dict[str, int]:
    """Return the place of each column of a table.

    Raises:
        DataError: one is missing.
    """
    columns = name_columns(header)
    written = [cell.strip().lower().replace(" ", "_") for cell in header]
    named = [written.index(name) for name in _NAMED if name in written]
    if named:
        columns["label"] = named[0]
    scores = [cell.strip() for cell in header if column_of(cell) == "score"]
    if len(scores) > 1:
        raise DataError(
            f"{where}: the columns {', '.join(scores)} may all be the score; rename those that are not"
        )
    sides = _SIZED if "box_width" in columns else _CORNERS
    lacking = [name for name in ("image", *sides, "score", "label") if name not in columns]
    if lacking:
        raise DataError(
            f"{where}: no column {lacking[0]!r} under any name that is known; wanted image, xmin, "
            f"ymin, xmax, ymax (or w, h), score and class, has {line.strip()[:_SHOWN]!r}"
        )
    return columns


def _corners(values: Sequence[float], sides: Sequence[str]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = values
    return (x0, y0, x1, y1) if sides is _CORNERS else (x0, y0, x0 + x1, y0 + y1)


_OF_COCO = frozenset({"image_id", "category_id", "bbox", "score", "id", "area", "iscrowd"})
"""A row with these keys alone says nothing under other names; files hold a million of them."""
_MODES = {"0": "xyxy", "1": "xywh", "xyxy": "xyxy", "xywh": "xywh"}
"""What detectron2's ``bbox_mode`` says: numbers, or the names in ``BoxMode.XYXY_ABS``."""


def record_form(row: Mapping[str, Any]) -> str:
    """Return the form of the numbers of a JSON object's box, one of `label_coordinates.FORMS`.

    Raises:
        ValueError: a ``bbox_mode`` that is not in pixels.
    """
    if not isinstance(row.get("bbox"), (list, tuple)):
        named = name_columns(list(_sides_of(row)))
        return "xywh" if "box_width" in named else "xyxy"
    if "bbox_mode" not in row:
        return "xywh"
    mode = row["bbox_mode"]
    form = _MODES.get(str(mode).lower().rpartition(".")[2].removesuffix("_abs"))
    if form is None:
        raise ValueError(
            f"bbox_mode {mode}, wanted 0 (corners) or 1 (x, y, width, height) in pixels"
        )
    return form


def record_box(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the corners of a JSON object's box: ``bbox``, or sides with names of their own.

    Raises:
        KeyError, TypeError, ValueError: there is no such box.
    """
    form = record_form(row)
    if isinstance(row.get("bbox"), (list, tuple)):
        values = row["bbox"]
    else:
        keys = _sides_of(row)
        named, texts = name_columns(list(keys)), list(keys.values())
        names = _CORNERS if form == "xyxy" else _SIZED
        if any(name not in named for name in names):
            raise KeyError("bbox")
        values = [texts[named[name]] for name in names]
    x0, y0, x1, y1 = as_numbers(values)
    return (x0, y0, x1, y1) if form == "xyxy" else (x0, y0, x0 + x1, y0 + y1)


def as_numbers(values: Sequence[Any]) -> list[float]:
    """Return numbers, of which text may be one and ``true`` is none.

    Raises:
        TypeError, ValueError: one is none.
    """
    if bool in map(type, values):
        raise TypeError(f"true or false where a number belongs: {values!r}")
    return [*map(float, values)]


def _sides_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys in which the box's sides are; ``x`` may be a centre there, and is left out."""
    inner = row.get("bbox", row.get("box"))
    held = inner if isinstance(inner, Mapping) else row
    return {key: value for key, value in held.items() if str(key).lower() not in ("x", "y")}


def record_score(row: Mapping[str, Any]) -> float:
    """Return the score of a JSON object under any of its names.

    Raises:
        KeyError, TypeError, ValueError: it has none, or one that is no number.
    """
    score = row["score"] if "score" in row else _first(row, "score")
    return score if type(score) is float else as_numbers([score])[0]


def has_score(row: Mapping[str, Any]) -> bool:
    """Return whether a JSON object says a score, whatever it is."""
    try:
        return (row["score"] if "score" in row else _first(row, "score")) is not None
    except KeyError:
        return False


def record_class(row: Mapping[str, Any]) -> str | int:
    """Return the class of a JSON object: its name where there is one, else its number.

    Raises:
        KeyError, TypeError: it has none.
    """
    if row.keys() <= _OF_COCO:
        said = row["category_id"]
        return said if type(said) is int else number_of(kind_of(said))
    for key in ("category", *_NAMED):
        if isinstance(row.get(key), str):
            return str(row[key])
    if "category_id" in row:
        return number_of(kind_of(row["category_id"]))
    return kind_of(_first(row, "label"))


def record_image(row: Mapping[str, Any]) -> str | None:
    """Return the file name that a JSON object gives, under any of its names."""
    if row.keys() <= _OF_COCO:
        return None
    for key, value in row.items():
        if column_of(key) == "image" and value:
            return str(value)
    return None


def _first(row: Mapping[str, Any], column: str) -> Any:
    for key, value in row.items():
        if column_of(key) == column:
            return value
    raise KeyError(column if column != "label" else "category_id")


def kind_of(said: Any) -> str | int:
    """Return a class as a number where it is one; text stays text, since a name may be ``7``."""
    if isinstance(said, list | dict | bool | None):
        raise TypeError(f"the class {said!r}")
    return said.strip() if isinstance(said, str) else number_of(plain_id(said))


def number_of(kind: str | int) -> str | int:
    """Return the number that a class written as text is, where it is one; else the text."""
    text = plain_number(str(kind))
    return int(text) if text.isascii() and text.isdigit() else kind


def plain_id(value: Any) -> str:
    """Return an id as text; 3.0 is 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def plain_number(text: str) -> str:
    """Return a number as ids are written: without zeros before it, or ``.0`` after it."""
    whole = text.removesuffix(".0")
    return str(int(whole)) if whole.isascii() and whole.isdigit() else text
