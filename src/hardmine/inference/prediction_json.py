"""Predictions in JSON: lists of detections, or what was found by image.

Forms: COCO results and other lists of objects, one per detection (`prediction_tables`), in one JSON or
one value per line; per image, mmdetection's (``bboxes``) and torchvision's (``boxes``) mapping of
lists, or Ultralytics' list with ``box``. Those of MegaDetector and SpeciesNet are in
`prediction_programs`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from hardmine.errors import MALFORMED, DataError
from hardmine.files import iter_lines, json_value, peek_text, read_json
from hardmine.inference.prediction_programs import Box, checked_box
from hardmine.inference.prediction_tables import (
    kind_of,
    plain_id,
    plain_number,
    record_box,
    record_class,
    record_form,
    record_image,
    record_score,
)
from hardmine.recipes.checkpoint import foreign_kind

_SHOWN = 6
_KNOWN = (
    "a list of detections (image_id or file_name, category_id, bbox, score), or what was found by image "
    "(bboxes, scores and labels, or a list with box, name and confidence)"
)


def form_of_json(tree: Any) -> str:
    """Return how the boxes of a file are written; corners, as they are kept, where they differ."""
    if not isinstance(tree, list):
        return "xyxy"
    found = {record_form(row) for row in tree if not is_of_columns(row)}
    return found.pop() if len(found) == 1 else "xywh" if not tree else "xyxy"


@dataclass
class JsonReader:
    """Reads what a file holds; ``images`` are the file names of the known images by their ids."""

    path: Path
    images: Mapping[str, str]

    def read(self, tree: Any) -> dict[str, list[Box]]:
        """Return the boxes by image name, whichever known form ``tree`` has."""
        rows: dict[str, list[Box]] = defaultdict(list)
        if isinstance(tree, list):
            by_id = self._speaks_of_ids({plain_id(r.get("image_id")) for r in tree if _only_id(r)})
            for index, row in enumerate(tree):
                where = f"{self.path}[{index}]"
                boxes = rows[self._name(row, where, by_id)]
                boxes.extend(
                    _of_image(row, where) if is_of_columns(row) else [_coco_row(row, where)]
                )
        elif isinstance(tree, Mapping):
            if tree and not any(_is_of_image(value) for value in tree.values()):
                raise DataError(
                    f"{self.path}: an object with {', '.join(list(map(str, tree))[:_SHOWN])}, "
                    f"which is no form of predictions that is known; wanted {_KNOWN}"
                )
            for name, value in tree.items():
                rows[str(name)] = _of_image(value, f"{self.path}[{name}]")
        else:
            raise DataError(f"{self.path}: got {type(tree).__name__}, wanted detections")
        return dict(rows)

    def named(self, rows: Mapping[str, list[Box]]) -> dict[str, list[Box]]:
        """Return rows by file name, where their names are ids of the known images."""
        by_id = self._speaks_of_ids(set(rows))
        found: dict[str, list[Box]] = defaultdict(list)
        for name, boxes in rows.items():
            found[self._resolved(name, by_id)].extend(boxes)
        return dict(found)

    def _speaks_of_ids(self, ids: set[str]) -> bool:
        """Return whether names are ids of the known images, not the stems of their files."""
        known = sum(self._known(name) is not None for name in ids)
        stems = {plain_number(PurePath(file).stem) for file in self.images.values()}
        as_stems = sum(plain_number(name) in stems for name in ids)
        # Predictions may be of more images than the data, which then is a part of what they speak of.
        half = min(len(ids), len(self.images)) if self.images else len(ids)
        return 2 * known >= max(1, half) and known >= as_stems

    def _known(self, name: str) -> str | None:
        return self.images.get(name) or self.images.get(plain_number(name))

    def _name(self, row: Any, where: str, by_id: bool) -> str:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: got {type(row).__name__}, wanted a detection")
        name = record_image(row)
        if name is not None:
            return name
        if row.get("image_id") is None:
            raise DataError(f"{where}: has no image_id and no file_name")
        return self._resolved(plain_id(row["image_id"]), by_id)

    def _resolved(self, name: str, by_id: bool) -> str:
        # Among ids an unknown one is no stem: it must not fit an image by chance.
        return (self._known(name) or f"image_id {name}") if by_id else name


def _only_id(row: Any) -> bool:
    return (
        isinstance(row, Mapping) and record_image(row) is None and row.get("image_id") is not None
    )


def _coco_row(row: Mapping[str, Any], where: str) -> Box:
    try:
        return checked_box(float(record_score(row)), record_class(row), record_box(row), where)
    except MALFORMED as error:
        raise DataError(
            f"{where}: wanted category_id, bbox [x, y, width, height] and score, "
            f"got {type(error).__name__}: {error}"
        ) from None


def _of_image(value: Any, where: str) -> list[Box]:
    """Read one image's entry: a mapping of lists (mmdetection, torchvision), or a list of mappings."""
    try:
        boxes = []
        if isinstance(value, Mapping):
            key = "boxes" if "boxes" in value else "bboxes"
            first = 0 if key == "boxes" else 1  # torchvision's label 0 is the background
            columns = value[key], value["scores"], value["labels"]
            for i, (box, score, label) in enumerate(zip(*columns, strict=True)):
                said = kind_of(label)
                kind = said if isinstance(said, str) else said + first
                boxes.append(checked_box(float(score), kind, _corners(box), f"{where}[{i}]"))
            return boxes
        for i, row in enumerate(value):
            said = record_class(row)
            kind = said if isinstance(said, str) else said + 1
            score = float(record_score(row))
            boxes.append(checked_box(score, kind, record_box({"box": row["box"]}), f"{where}[{i}]"))
        return boxes
    except MALFORMED as error:
        raise DataError(
            f"{where}: wanted bboxes, scores and labels, or a list of name, confidence and box, "
            f"got {type(error).__name__}: {error}"
        ) from None


def is_of_columns(value: Any) -> bool:
    """Return whether a value is an image's boxes, scores and labels, each as a list."""
    return isinstance(value, Mapping) and ("bboxes" in value or "boxes" in value)


def _is_of_image(value: Any) -> bool:
    """Return whether a value may be what was found in one image."""
    keys = {"box", "name", "confidence"}
    of_rows = isinstance(value, list) and all(
        isinstance(row, Mapping) and keys & set(row) for row in value
    )
    return of_rows or is_of_columns(value)


def _corners(box: Sequence[Any]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def refuse_labels(tree: Any, path: Path) -> None:
    """Raise ``DataError`` where a file holds labels, which have no scores, in place of predictions."""
    kind = ""
    if isinstance(tree, Mapping) and isinstance(tree.get("shapes"), list):
        kind = "labels of LabelMe"
    elif isinstance(tree, list) and tree and not any(_has_score(row) for row in tree):
        kind = "labels of COCO" if all(has_keys(row, "image_id", "bbox") for row in tree) else ""
    if kind:
        raise DataError(
            f"{path}: holds {kind}, without scores; wanted a predictions file. Labels are the data to "
            "measure on: give them as DATA"
        )


def _has_score(row: Any) -> bool:
    if not isinstance(row, Mapping):
        return False
    try:
        return is_of_columns(row) or record_score(row) is not None
    except KeyError:
        return False


def has_keys(row: Any, *keys: str) -> bool:
    """Return whether a value is an object with all of these keys."""
    return isinstance(row, Mapping) and all(key in row for key in keys)


def are_rows(value: Any) -> bool:
    """Return whether a value is a list of detections as COCO's results have them, maybe empty."""
    return isinstance(value, list) and all(
        isinstance(r, Mapping) and "bbox" in r for r in value[:1]
    )


def read_predictions_json(path: Path) -> Any:
    """Return what a file of JSON holds; one value per line gives a list."""
    if not path.stat().st_size:
        raise DataError(f"{path}: is empty, wanted a predictions file")
    if (kind := foreign_kind(path)) and not kind.startswith("a text"):
        raise DataError(f"{path}: got {kind}; wanted a predictions file")
    try:
        return read_json(path)
    except DataError as error:
        if _is_lines(path):
            return [
                _line(path, number, line)
                for number, line in enumerate(iter_lines(path), 1)
                if line.strip()
            ]
        raise DataError(f"{error}; wanted a predictions file") from None


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json_value(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: cannot be read as JSON ({error})") from None


def _is_lines(path: Path) -> bool:
    """Return whether the first line of a file is a whole object of JSON."""
    first = peek_text(path).lstrip().split("\n")[0].strip()
    return first.startswith("{") and first.endswith("}")


def read_json_folder(path: Path) -> dict[str, Any]:
    """Return what each JSON file of a folder holds, by the file's stem.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    files = sorted(path.glob("*.json"))
    if not files:
        raise DataError(f"{path}: no .json file with predictions in it")
    return {file.stem: read_predictions_json(file) for file in files}


def coco_tables(path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Return the image names and class names by id, of a file of classes where it is a COCO file."""
    tree = read_predictions_json(path) if path.suffix.lower() == ".json" else None
    return tables_of(tree, path) if isinstance(tree, Mapping) else ({}, {})


def tables_of(tree: Mapping[str, Any], path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Return a COCO file's image names by id and class names by id."""
    try:
        images = {str(entry["id"]): str(entry["file_name"]) for entry in tree.get("images", ())}
        names = {int(entry["id"]): str(entry["name"]) for entry in tree.get("categories", ())}
    except MALFORMED as error:
        raise DataError(
            f"{path}: wanted images with id and file_name, and categories with id and name, "
            f"got {type(error).__name__}: {error}"
        ) from None
    return images, names
