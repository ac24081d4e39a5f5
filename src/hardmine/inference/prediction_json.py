"""Predictions in JSON: lists of detections, or what was found by image.

Forms: COCO results and other lists of objects, one per detection (`prediction_tables`), in one JSON or
one value per line; per image, mmdetection's (``bboxes``) and torchvision's (``boxes``) mapping of
lists, or Ultralytics' list with ``box``. Those of MegaDetector and SpeciesNet are in
`prediction_programs`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from hardmine.data.formats.foreign_json import whose_json
from hardmine.data.formats.format_table import READ
from hardmine.errors import MALFORMED, DataError
from hardmine.files import iter_lines, json_value, peek_text, read_json
from hardmine.inference.prediction_programs import Box, checked_box
from hardmine.inference.prediction_tables import (
    as_numbers,
    has_score,
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

LINES = (".jsonl", ".ndjson")
"""Endings of files with one value per line."""
_log = logging.getLogger(__name__)
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
            if tree and not any(may_be_of_image(value) for value in tree.values()):
                keys = ", ".join(list(map(str, tree))[:_SHOWN])
                raise DataError(
                    f"{self.path}: an object with {keys}, which is no form of predictions that is "
                    f"known{_looks(tree, self.path)}; wanted {_KNOWN}"
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
        by_id = 2 * known >= max(1, half) and known >= as_stems
        if by_id and known == as_stems:
            self._say_doubt(ids)
        return by_id

    def _say_doubt(self, ids: set[str]) -> None:
        """Say where names may be ids of some images and stems of others, as Ultralytics writes them."""
        stem_of = {name: plain_number(PurePath(self._known(name) or name).stem) for name in ids}
        other = next((n for n in sorted(ids) if plain_number(n) != stem_of[n]), None)
        if other is not None:
            _log.warning(
                "%s: image_id %s is the id of %s and the name of another image's file; it was taken as "
                "the id. If it is the name, as Ultralytics writes it, give file_name in its place",
                self.path,
                other,
                self._known(other),
            )

    def _known(self, name: str) -> str | None:
        return self.images.get(name) or self.images.get(plain_number(name))

    def _name(self, row: Any, where: str, by_id: bool) -> str:
        if not isinstance(row, dict):
            raise DataError(f"{where}: got {type(row).__name__}, wanted a detection")
        name = record_image(row)
        if name is not None:
            return name
        said = row.get("image_id")
        if said is None or said is True or said is False:
            what = "no image_id and no file_name" if said is None else f"the image_id {said}"
            raise DataError(f"{where}: has {what}{_looks([row], self.path)}; wanted {_KNOWN}")
        return self._resolved(plain_id(row["image_id"]), by_id)

    def _resolved(self, name: str, by_id: bool) -> str:
        # Among ids an unknown one is no stem: it must not fit an image by chance.
        return (self._known(name) or f"image_id {name}") if by_id else name


def _only_id(row: Any) -> bool:
    return isinstance(row, dict) and record_image(row) is None and row.get("image_id") is not None


def _coco_row(row: Mapping[str, Any], where: str) -> Box:
    try:
        return checked_box(record_score(row), record_class(row), record_box(row), where)
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
            columns = value[key], as_numbers(value["scores"]), value["labels"]
            for i, (box, score, label) in enumerate(zip(*columns, strict=True)):
                x0, y0, x1, y1 = as_numbers(box)
                boxes.append(checked_box(score, kind_of(label), (x0, y0, x1, y1), f"{where}[{i}]"))
            return boxes
        for i, row in enumerate(value):
            box = record_box({"box": row["box"]})
            boxes.append(checked_box(record_score(row), record_class(row), box, f"{where}[{i}]"))
        return boxes
    except MALFORMED as error:
        raise DataError(
            f"{where}: wanted bboxes, scores and labels, or a list of name, confidence and box, "
            f"got {type(error).__name__}: {error}"
        ) from None


def counts_from_0(tree: Any) -> bool:
    """Return whether a file is mmdetection's or Ultralytics', which count classes from 0.

    Where boxes, scores and labels stand in lists, torchvision counts from 1, Hugging Face from 0.
    """
    found = tree if isinstance(tree, list) else list(tree.values())
    first = next((value for value in found if value), None)
    return has_keys(first, "bboxes") or (isinstance(tree, Mapping) and not is_of_columns(first))


def is_of_columns(value: Any) -> bool:
    """Return whether a value is an image's boxes, scores and labels, each as a list."""
    return isinstance(value, dict) and ("bboxes" in value or "boxes" in value)


def may_be_of_image(value: Any) -> bool:
    """Return whether a value may be what was found in one image."""
    keys = {"box", "name", "confidence"}
    of_rows = isinstance(value, list) and all(
        isinstance(row, dict) and keys & set(row) for row in value
    )
    return of_rows or is_of_columns(value)


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
    return isinstance(row, dict) and (is_of_columns(row) or has_score(row))


def has_keys(row: Any, *keys: str) -> bool:
    """Return whether a value is an object with all of these keys."""
    return isinstance(row, dict) and all(key in row for key in keys)


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
        tree = read_json(path)
        one_line = isinstance(tree, Mapping) and path.suffix.lower() in LINES
        return [tree] if one_line else tree
    except DataError as error:
        if _is_lines(path):
            return [
                _line(path, number, line)
                for number, line in enumerate(iter_lines(path), 1)
                if line.strip()
            ]
        raise DataError(f"{error}; wanted a predictions file") from None


def _looks(tree: Any, path: Path) -> str:
    """Return what a file that holds no detections looks like, as a part of a sentence."""
    said = whose_json(tree).partition(";")[0]
    for row in () if said or not path.is_file() else READ:
        files = row.reader.files
        if files is not None and path.suffix.lower() in files.suffixes and files.looks_right(path):
            said = f"looks like labels of {row.words}, which are the data to measure on"
            break
    return f" (it {said})" if said else ""


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


def coco_images(path: Path) -> dict[str, str]:
    """Return the image names by id of a file of classes, where it is a COCO file with images."""
    tree = read_json(path) if path.suffix.lower() == ".json" else None
    entries = tree.get("images") if isinstance(tree, Mapping) else None
    if not isinstance(entries, list) or not all(has_keys(e, "id", "file_name") for e in entries):
        return {}
    return tables_of({"images": entries}, path)[0]


def tables_of(tree: Mapping[str, Any], path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Return a COCO file's image names by id and class names by id."""
    try:
        images = {
            plain_id(entry["id"]): str(entry["file_name"]) for entry in tree.get("images", ())
        }
        names = {int(entry["id"]): str(entry["name"]) for entry in tree.get("categories", ())}
    except MALFORMED as error:
        raise DataError(
            f"{path}: wanted images with id and file_name, and categories with id and name, "
            f"got {type(error).__name__}: {error}"
        ) from None
    return images, names
