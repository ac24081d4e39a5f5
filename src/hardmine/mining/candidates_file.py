"""The files in which a pool's candidates are handed to people and to later rounds."""

from __future__ import annotations

import csv
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.data.convert import Conversion, convert
from hardmine.data.formats.csv_boxes import column_of, csv_body
from hardmine.data.images import image_size
from hardmine.data.quality.usable_data import load_usable
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.files import TextError, csv_text, read_json, read_text, write_json, write_text
from hardmine.mining.mine_options import RankOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.local_files import local_files
from hardmine.mining.sources.pool_source import Source, name_inside
from hardmine.plurals import counted
from hardmine.types import F32, Dataset, ImageRecord, ImageState, PoolScore, Problem

_KEYS = (b'"candidates"', b'"duplicates_grouped"')
"""What the beginning of a ``candidates.json`` holds: the second where many problems come first."""
_PEEK = 65536
_log = logging.getLogger("hardmine")


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An image handed out: ``image`` as people see it (inside the pool), ``path`` on this machine,
    the score and class of its hardest prior (``None`` when no model ranked it), what fired, and the
    images that it stands for too (near-duplicates, repeats of its alarm in the same place).
    """

    image: str
    path: str
    score: float | None
    category: str
    alarms: Detections
    similar: tuple[str, ...] = ()

    def to_dict(self, categories: Sequence[str]) -> dict[str, Any]:
        """Return plain values; boxes as [x1, y1, x2, y2, score, class]."""
        boxes = [
            [*(round(float(v), 2) for v in box), round(float(score), 6), _name(categories, label)]
            for box, score, label in zip(
                self.alarms.boxes, self.alarms.scores, self.alarms.labels, strict=True
            )
        ]
        return {
            "image": self.image,
            "path": self.path,
            "score": self.score,
            "class": self.category,
            "num_alarms": len(self.alarms),
            "boxes": boxes,
            "similar": list(self.similar),
        }


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``candidates.csv``: its name, what it holds, and its value of a candidate."""

    name: str
    help: str
    value: Callable[[Candidate], str]


COLUMNS: tuple[Column, ...] = (
    Column(
        "image",
        "The image's path inside the pool; inside an archive, its name there.",
        lambda candidate: candidate.image,
    ),
    Column(
        "score",
        "The highest score of any class in the image, from 0 to 1; empty for an image drawn at random.",
        lambda candidate: "" if candidate.score is None else f"{candidate.score:.6f}",
    ),
    Column("class", "The class of that score.", lambda candidate: candidate.category),
    Column(
        "num_alarms",
        "How many detections of the image count as alarms.",
        lambda candidate: str(len(candidate.alarms)),
    ),
    Column(
        "similar",
        "How many other images this one stands for: near-duplicates of it, and repeats of its alarm in "
        "the same place. They are named in `candidates.json`.",
        lambda candidate: str(len(candidate.similar)),
    ),
    Column(
        "verdict",
        "Empty. A person fills in `empty`, `contains_object`, `ignore` or `unsure`.",
        lambda candidate: "",
    ),
)
"""The columns in their order: header, rows and documentation are made from these."""


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows of ``candidates.csv``, each with a value for every one of :data:`COLUMNS`."""
    names = [column.name for column in COLUMNS]
    write_text(path, csv_text([names, *([row[name] for name in names] for row in rows)]))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a ``candidates.csv``, of this or of an earlier version, by the names in its header.

    A column that the file lacks is empty in every row, and one that is not among :data:`COLUMNS` is
    left out, so that rows of several versions can be written under one header.

    Raises:
        DataError: the file cannot be read, its header has no column ``image``, or a row has another
            number of values than the header.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except (OSError, TextError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    header = lines[0] if lines else []
    if "image" not in header:
        raise DataError(f"{path}:1: got columns {header}, wanted those of candidates.csv")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise DataError(f"{path}:{number}: got {len(line)} values, wanted {len(header)}")
        values = dict(zip(header, line, strict=True))
        rows.append({column.name: values.get(column.name, "") for column in COLUMNS})
    return rows


def read_sheet(
    path: Path, wanted: Sequence[str] = ("image",)
) -> list[tuple[int, dict[str, str | None]]]:
    """Return the rows of a CSV that a person may have edited, each with the number of its line.

    The columns may be separated by whatever a spreadsheet writes, and their names in any case.

    Raises:
        DataError: it cannot be read, or lacks one of the ``wanted`` columns or has it twice.
    """
    try:
        whole = read_text(path)
        delimiter, text = csv_body(whole)
        before = whole.removesuffix(text).count("\n")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        written = [str(name).strip() for name in reader.fieldnames or ()]
        names = [name.lower().replace(" ", "_") for name in written]
        if "image" not in names:  # under another of the usual names
            names = ["image" if column_of(name) == "image" else name for name in names]
        if not all(names.count(name) == 1 for name in wanted):
            raise DataError(
                f"{path}:{before + 1}: got columns {written}, wanted {' and '.join(wanted)}, each once"
            )
        reader.fieldnames = names
        return [(before + reader.line_num, row) for row in reader]
    except (OSError, TextError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def verdict_in(row: Mapping[str, str | None]) -> str:
    """Return the verdict of a row of :func:`read_sheet`, as it was typed; "" without one."""
    typed = (row.get("verdict") or "").strip()
    return "" if typed.lower() == "nan" else typed  # as pandas writes an empty cell


def num_verdicts(path: Path) -> int:
    """Return how many rows of a CSV have a verdict filled in; 0 for a file that is not there.

    Raises:
        DataError: as :func:`read_sheet`.
    """
    if not path.is_file():
        return 0
    return sum(bool(verdict_in(row)) for _, row in read_sheet(path))


def lists_images(path: Path, images: Iterable[str]) -> bool:
    """Return whether a list is there and names exactly these images, in this order."""
    try:
        return [row["image"] for _, row in read_sheet(path)] == list(images)
    except DataError:
        return False


def keep_list(path: Path, *, if_any: bool = False) -> None:
    """Rename a list that is about to be replaced, where verdicts are filled in, and say so.

    It and the JSON file beside it are then called ``candidates-old.csv`` (or ``-old-2``). One that
    cannot be read may have verdicts, and is kept too.

    Args:
        if_any: keep any list that has a row.
    """
    if not path.is_file():
        return
    try:
        number = num_verdicts(path)
        filled = f", with {counted(number, 'verdict')} filled in," if number else ""
        is_kept = bool(number) or (if_any and bool(read_sheet(path)))
    except DataError:
        filled, is_kept = ", which cannot be read,", True
    if is_kept:
        old = _rename(path)
        _log.warning("%s: the list of before%s is kept as %s", path, filled, old.name)


def _rename(path: Path) -> Path:
    """Give a list and the JSON file beside it a free name; return the new one."""
    ends = (".csv", ".json")
    names = (f"{path.stem}-old{'' if n == 1 else f'-{n}'}" for n in count(1))
    free = next(n for n in names if not any(path.with_name(n + end).exists() for end in ends))
    for end in reversed(ends):
        if path.with_suffix(end).is_file():
            path.with_suffix(end).rename(path.with_name(free + end))
    return path.with_name(f"{free}.csv")


def candidate_of(
    score: PoolScore,
    store: PoolStore,
    categories: Sequence[str],
    rank: RankOptions,
    source: Source,
    similar: Sequence[str] = (),
) -> Candidate:
    """Return a scored image with those of its stored boxes that count as alarms."""
    alarms = rank.alarms(store.alarms(score.model_id, score.image))
    name = _name(categories, score.label)
    others = tuple(name_inside(source, image) for image in similar)
    inside = name_inside(source, score.image)
    return Candidate(inside, score.image, score.score, name, alarms, others)


def write_candidates(
    folder: Path,
    candidates: Sequence[Candidate],
    categories: Sequence[str],
    *,
    name: str = "candidates",
    **facts: Any,
) -> Path:
    """Write ``candidates.csv`` (verdicts to be filled in) and ``candidates.json`` (with boxes).

    Files that are there are replaced; those with verdicts filled in are kept under another name.

    Args:
        name: what the two files are called.
        facts: further values for the head of the JSON file.

    Returns:
        Path: the CSV file.
    """
    path = folder / f"{name}.csv"
    keep_list(path)
    rows = [candidate.to_dict(categories) for candidate in candidates]
    write_json(folder / f"{name}.json", {**facts, "candidates": rows})
    write_rows(
        path, [{column.name: column.value(each) for column in COLUMNS} for each in candidates]
    )
    return path


def _name(categories: Sequence[str], label: int) -> str:
    return categories[int(label) - 1] if 1 <= label <= len(categories) else ""


def is_candidates_file(path: Path) -> bool:
    """Return whether a file is a ``candidates.json``, or the CSV file beside one."""
    beside = path.with_suffix(".json")
    if path.suffix.lower() not in (".json", ".csv") or not beside.is_file():
        return False
    with beside.open("rb") as file:
        head = file.read(_PEEK)
    return any(key in head for key in _KEYS)


@dataclass(frozen=True, slots=True)
class CandidateImages:
    """Candidates as images: the boxes are what a model saw, their classes its sorted names.

    Attributes:
        scores: f32[N] of the boxes, by image.
        origins: by image, its name in the pool, which is not its path where the pool is an archive or
            behind a URL.
    """

    images: Dataset
    scores: dict[Path, F32]
    origins: dict[Path, str]


def read_candidates(path: Path, copies: Path) -> CandidateImages:
    """Return the candidates as images, hardest first, with what the model saw as their boxes.

    Images that cannot be read are left out, and named in a warning.

    Args:
        path: ``candidates.json``, or the ``candidates.csv`` beside it.
        copies: folder for the images that are in archives or behind URLs.

    Raises:
        DataError: broken, or none of the images is there.
    """
    file = path.with_suffix(".json")
    try:
        entries = read_json(file)["candidates"]
        files = local_files([str(entry["path"]) for entry in entries], copies)
        found = [
            (str(entry["path"]), _seen_image(entry, file))
            for entry, file in zip(entries, files, strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not a list of candidates ({error!r})") from None
    kept = [item for _, item in found if item is not None]
    if entries and not kept:
        raise DataError(f"{file}: none of its {len(entries)} images can be read")
    classes = tuple(sorted({name for _, names, _ in kept for name in names}))
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    for record, names, _ in kept:
        record.labels[:] = [label_of[name] for name in names]
    records = tuple(record for record, _, _ in kept)
    scores = {record.path: seen for record, _, seen in kept}
    origins = {item[0].path: origin for origin, item in found if item is not None}
    return CandidateImages(Dataset(classes, records, file.parent), scores, origins)


def hand_over(
    data: Path,
    out: Path,
    to: str,
    *,
    images: Path | None = None,
    empty_is_verified: bool = False,
    link: bool = False,
) -> Conversion:
    """Write a dataset, or the candidates of a mining run, for a labelling program.

    Args:
        data: a dataset as for `load_usable`, or ``candidates.json`` (or the CSV beside it).
        to: a format that a labelling program takes.

    Raises:
        DataError, ConfigError: as `load_usable`, `read_candidates` and `convert`.
    """
    if is_candidates_file(data):
        with tempfile.TemporaryDirectory(prefix="hardmine-images-") as copies:
            seen = read_candidates(data, Path(copies))
            return convert(
                seen.images, out, to, link=link, scores=seen.scores, origins=seen.origins
            )
    splits = load_usable(data, images=images, empty_is_verified=empty_is_verified)
    return convert(splits, out, to, link=link)


def _seen_image(
    entry: Mapping[str, Any], file: Path | Problem
) -> tuple[ImageRecord, list[str], F32] | None:
    """Return an image, the classes and the scores of its boxes; None where it cannot be read."""
    names = [str(box[5]) for box in entry["boxes"]]
    table = np.array([box[:5] for box in entry["boxes"]], np.float32).reshape(-1, 5)
    try:
        if isinstance(file, Problem):
            raise DataError(str(file))
        width, height = image_size(file)
    except DataError as error:
        _log.warning("left out: %s", error)
        return None
    labels, ignore = np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_)
    state = ImageState.UNREVIEWED
    record = ImageRecord(file, width, height, table[:, :4].copy(), labels, ignore, state)
    return record, names, table[:, 4].copy()
