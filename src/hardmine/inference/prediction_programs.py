"""Predictions as other programs write them, and which image each of their entries belongs to.

The programs: MegaDetector, SpeciesNet, YOLO text, VOC files; tables are in `prediction_tables`. Each
reader returns the boxes by image name. Some programs write shares of the image instead of pixels, and
some say of an image that they could not read it; both are kept as they are.

An entry names its image by an id that a COCO file resolves to a file name, by a file name, or by a
file's stem. Files come from other machines, so a name fits an image by the longest tail of their
paths. Nothing is given to an image in doubt: a name or stem must fit one image only, and an image
one name only.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from hardmine.data.formats.label_format import numbered_classes
from hardmine.data.images import has_picture_name
from hardmine.data.quality.label_coordinates import MIN_BOXES, SOUND_ENOUGH, WORSE
from hardmine.errors import MALFORMED, DataError
from hardmine.files import read_text
from hardmine.types import F64, Mask

_log = logging.getLogger(__name__)

Box = tuple[float, str | int, tuple[float, float, float, float]]
"""Score, class by name or number, xyxy (pixels of the original image, or shares of it)."""

_LARGEST = float(np.finfo(np.float32).max)
"""Boxes are kept in float32; a larger number would become infinite there."""

_EDGE = 0.01
"""Share of a side by which a box may pass the edge of its image."""
_ROUNDING = 1e-4
"""Sums of probabilities pass 1 by so much where they are rounded to half precision or averaged."""

_VOC_FILE = re.compile(r"(comp\d_)?det_\w+?_(?P<name>[^_]+(_[^_]+)*)", re.IGNORECASE)


@dataclass
class ProgramRows:
    """What a program says.

    ``shares``: boxes are shares of the image's sides. ``failed``: images that the program could not
    read, and why. ``names``: the classes that the program knows, in its order; empty where it does not
    say. ``first``: the number of the first class where classes are numbers; ``None`` where the numbers
    themselves must show it. ``form``: how the four
    numbers of a box are written.
    """

    rows: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))
    shares: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    first: int | None = 1
    form: str = "xyxy"


def checked_box(
    score: float, kind: str | int, box: tuple[float, float, float, float], where: str
) -> Box:
    """Return one detection.

    Raises:
        DataError: a number that is not finite, a score that is no probability (by more than rounding),
            or a box whose far corner comes first.
    """
    x0, y0, x1, y1 = box
    if 0 <= score <= 1 and -_LARGEST <= x0 <= x1 <= _LARGEST and -_LARGEST <= y0 <= y1 <= _LARGEST:
        return score, kind, box
    if not all(abs(value) <= _LARGEST for value in (score, *box)):  # false for NaN, too
        raise DataError(f"{where}: score or box is not finite")
    if not -_ROUNDING <= score <= 1 + _ROUNDING:
        percent = "; is it in percent?" if 1 < score <= 100 else ""
        raise DataError(f"{where}: score {score}, wanted a probability from 0 to 1{percent}")
    if box[2] < box[0] or box[3] < box[1]:
        raise DataError(f"{where}: box {box} (xyxy) has a side below 0")
    return min(max(score, 0.0), 1.0), kind, box


def rows_of_tree(tree: Any, path: Path) -> ProgramRows | None:
    """Read a JSON file's content where it is MegaDetector's or SpeciesNet's; else return ``None``.

    Raises:
        DataError: an entry that is faulty, named by its index.
    """
    if not isinstance(tree, Mapping):
        return None
    if "detection_categories" in tree and "images" in tree:
        names = {str(key): str(name) for key, name in tree["detection_categories"].items()}
        return _camera_traps(tree["images"], names, "file", f"{path}: images")
    entries = tree.get("predictions")
    if (
        isinstance(entries, list)
        and entries
        and all(isinstance(e, Mapping) and "filepath" in e for e in entries)
    ):
        return _camera_traps(entries, {}, "filepath", f"{path}: predictions")
    return None


def _camera_traps(entries: Any, names: Mapping[str, str], key: str, where: str) -> ProgramRows:
    found = ProgramRows(shares=True, form="xywh_shares")
    known = dict.fromkeys(names[number] for number in sorted(names, key=_as_number))
    if not isinstance(entries, list):
        raise DataError(f"{where}: got {type(entries).__name__}, wanted a list of images")
    for index, entry in enumerate(entries):
        try:
            image = str(entry[key]).replace("\\", "/")
            reason = entry.get("failure") or ", ".join(entry.get("failures") or ())
            detections = entry.get("detections")
            if detections is None or (reason and (key == "file" or "DETECTOR" in reason)):
                found.failed[image] = str(reason or "no detections")
                continue
            boxes = found.rows[image]
            for i, row in enumerate(detections):
                kind = names.get(str(row["category"])) or str(row.get("label") or row["category"])
                known.setdefault(kind)
                x, y, w, h = (float(value) for value in row["bbox"])
                spot = f"{where}[{index}].detections[{i}]"
                if isinstance(row["conf"], bool):
                    raise TypeError(f"conf {row['conf']}")
                boxes.append(checked_box(float(row["conf"]), kind, (x, y, x + w, y + h), spot))
        except MALFORMED as error:
            raise DataError(
                f"{where}[{index}]: wanted {key!r} and detections with category, conf and bbox, "
                f"got {type(error).__name__}: {error}"
            ) from None
    found.names = tuple(known)
    return found


def _as_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (10**9, text)


def is_prediction_texts(folder: Path) -> bool:
    """True for a folder of text files with detections: one per image (YOLO) or per class (VOC).

    The first line that is not empty, of whatever file, decides; where all are empty, nothing was found.
    """
    files = _texts_in(folder)
    for path in files:
        try:
            words = read_text(path).strip().split("\n", 1)[0].split()
            [float(word) for word in words[1:]]
        except (DataError, ValueError):
            return False
        if words:
            return len(words) >= 5
    return bool(files)


def names_beside(folder: Path) -> tuple[str, ...] | None:
    """Return the class names of a list that lies among text files with detections (``classes.txt``)."""
    names = numbered_classes(folder)
    if not names or sorted(names) != list(range(len(names))):
        return None
    return tuple(names[number] for number in sorted(names))


def _texts_in(folder: Path) -> list[Path]:
    """Return the text files of a folder that are no list of classes."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".txt" and path.name.lower() != "classes.txt"
    )


def read_texts(folder: Path) -> ProgramRows:
    """Read a folder of YOLO text files with confidences, or of VOC detection files.

    YOLO (``save_txt=True save_conf=True``): ``class cx cy w h confidence`` in shares, maybe with a track
    id, one file per image; an empty file says that nothing was found. Some programs write the confidence
    behind the class; it is read so where that alone gives boxes inside the images. VOC:
    ``det_val_CLASS.txt`` with ``image score x1 y1 x2 y2``, pixels from 1 on.

    Raises:
        DataError: a line that is neither, named by file and number.
    """
    files = _texts_in(folder)
    per_class = bool(files) and all(map(_is_of_voc, files))
    found = ProgramRows(
        shares=not per_class, first=0, form="xyxy" if per_class else "cxcywh_shares"
    )
    lines: list[tuple[str, str, int, list[float]]] = []
    for file in files:
        if not per_class:
            found.rows.setdefault(file.stem, [])
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            where = f"{file}:{number}"
            if per_class and line.strip():
                _voc_line(line, file, where, found)
            elif line.strip():
                lines.append((file.stem, where, *_yolo_line(line, where)))
    score_at = _score_place(np.array([values for *_, values in lines]).reshape(-1, 5))
    if score_at == 0:
        _log.info(
            "%s: the confidence was read behind the class: the boxes lie inside only so", folder
        )
    elif 0 < len(lines) < MIN_BOXES:
        _say_doubt(np.array([values for *_, values in lines]), folder)
    for image, where, kind, values in lines:
        score, (cx, cy, w, h) = values[score_at], np.delete(values, score_at).tolist()
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        found.rows[image].append(checked_box(score, kind, box, where))
    return found


def _is_of_voc(file: Path) -> bool:
    """Return whether a file is VOC's by its name and holds pixels, unlike YOLO's ``det_cam_1.txt``."""
    if _VOC_FILE.fullmatch(file.stem) is None:
        return False
    words = read_text(file).strip().split("\n", 1)[0].split()[-4:]
    try:
        return not words or max(float(word) for word in words) > 1
    except ValueError:
        return True  # which names the line


def _score_place(values: F64) -> int:
    """Return in which of the five numbers behind the class (f64[N, 5]) the score is: 4, or 0.

    A wrong place puts boxes over the edge of the image. It is 4 unless that is shown.
    """
    last, first = (_are_inside(np.delete(values, place, axis=1)) for place in (4, 0))
    shown = len(values) >= MIN_BOXES and first.mean() >= SOUND_ENOUGH
    return (
        0 if shown and (1 - last.mean()) >= max(WORSE * (1 - first.mean()), 1 - SOUND_ENOUGH) else 4
    )


def _say_doubt(values: F64, folder: Path) -> None:
    last, first = (_are_inside(np.delete(values, place, axis=1)) for place in (4, 0))
    if not last.all() and first.all():
        _log.warning(
            "%s: %d of %d boxes reach beyond their image; with the confidence behind the class all "
            "would lie inside; these are too few boxes to tell, and the last number was taken as the "
            "confidence",
            folder,
            int((~last).sum()),
            len(last),
        )


def _are_inside(boxes: F64) -> Mask:
    """Return which boxes (cxcywh [N, 4], shares) lie inside the image, with a little tolerance."""
    half = boxes[:, 2:] / 2
    near, far = boxes[:, :2] - half, boxes[:, :2] + half
    inside = (near >= -_EDGE) & (far <= 1 + _EDGE) & (half > 0)
    return np.asarray(inside.all(axis=1), np.bool_)


def _yolo_line(line: str, where: str) -> tuple[int, list[float]]:
    """Return a line's class and the five numbers behind it."""
    words = line.split()
    wanted = "wanted class cx cy w h confidence"
    if len(words) == 5:
        raise DataError(f"{where}: has no confidence; predict with save_txt=True save_conf=True")
    try:
        kind, *values = (float(word) for word in words)
        if len(words) == 7 and values[-1].is_integer():
            values.pop()  # a track id
        elif len(words) == 6 and values[-1] > 1 and values[-1].is_integer():
            raise DataError(
                f"{where}: ends with {words[-1]}, wanted a confidence from 0 to 1; where it is the "
                "number of a track, predict with save_conf=True"
            )
        if len(values) != 5 or not kind.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        raise DataError(f"{where}: got {line[:60]!r}, {wanted}") from None
    return int(kind), values


def _voc_line(line: str, file: Path, where: str, found: ProgramRows) -> None:
    match = _VOC_FILE.fullmatch(file.stem)
    words = line.split()
    try:
        score, x1, y1, x2, y2 = (float(word) for word in words[-5:])
        image = " ".join(words[:-5])
    except ValueError:
        raise DataError(f"{where}: got {line[:60]!r}, wanted image score x1 y1 x2 y2") from None
    if not image or match is None:
        raise DataError(f"{where}: got {line[:60]!r}, wanted image score x1 y1 x2 y2")
    box = (x1 - 1, y1 - 1, x2, y2)  # VOC's pixels count from 1, and both ends belong to the box
    found.rows[image].append(checked_box(score, match["name"], box, where))


FEW_ROWS, FEW_IMAGES = 0.2, 0.5
"""Fewer matched detections and fewer named images than these shares are an error."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class NameMatch:
    """Which entry each image has, and what was left over."""

    name_of: Mapping[Path, str]
    rows: int
    """Detections in the file."""
    matched: int
    """Detections that belong to one of the images."""
    images: int
    unmatched: tuple[str, ...]
    """Names of entries that fit none of the images, or several."""

    def __str__(self) -> str:
        lost = ""
        if self.unmatched:
            more = " …" if len(self.unmatched) > _SHOWN else ""
            lost = f"; it also names {', '.join(self.unmatched[:_SHOWN])}{more}"
        return (
            f"{self.matched} of {self.rows} detections belong to the images, "
            f"{len(self.name_of)} of {self.images} images are named{lost}"
        )

    def require(self, path: Path, images: Sequence[Path]) -> None:
        """Refuse a file that is about other images.

        Raises:
            DataError: no entry matches, or few detections and few images do.
        """
        few_rows = self.matched < FEW_ROWS * self.rows
        few_images = len(self.name_of) < FEW_IMAGES * self.images
        if self.rows and self.images and few_images and (few_rows or not self.name_of):
            first = ", ".join(image.name for image in images[:_SHOWN])
            raise DataError(
                f"{path}: is about other images: {self}, the images are {first} …; names must be ids "
                "of the COCO file that --classes gives, file names, or stems that occur once"
            )


def match_names(rows: Mapping[str, int], images: Sequence[Path]) -> NameMatch:
    """Give each image its entry.

    Args:
        rows: number of detections of each entry, by the name in the file.
        images: paths of the images.
    """
    entries = [_Entry.of(name) for name in rows]
    by_file, by_stem = _index(entries)
    claims: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for image in dict.fromkeys(images):
        found = _entry_of(image, by_file, by_stem)
        if found is not None:
            claims[found[1]].append((found[0], image))
    name_of: dict[Path, str] = {}
    for name, claimed in claims.items():
        best = max(length for length, _ in claimed)
        winners = [image for length, image in claimed if length == best]
        if len(winners) == 1:  # else it fits several images as well as each other
            name_of[winners[0]] = name
    given = set(name_of.values())
    return NameMatch(
        name_of,
        sum(rows.values()),
        sum(rows[name] for name in given),
        len(dict.fromkeys(images)),
        tuple(name for name in rows if name not in given),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """``parts`` of the name as a path, and its stem."""

    name: str
    parts: tuple[str, ...]
    stem: str

    @staticmethod
    def of(name: str) -> _Entry:
        """Return a name with its parts and its stem; a number loses the zeros before it."""
        plain = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
        stem = plain.stem if has_picture_name(plain.name) else plain.name
        return _Entry(name, tuple(p for p in plain.parts if p != "/"), _number(stem))

    def as_in_url(self) -> _Entry | None:
        """Return the same entry with its file's name read as URLs write it; None: no other name."""
        plain = unquote(self.name)
        read = _Entry.of(plain)
        return None if read.parts[-1:] == self.parts[-1:] else replace(read, name=self.name)


_Index = Mapping[str, Sequence[_Entry]]


def _index(entries: Sequence[_Entry]) -> tuple[_Index, _Index]:
    by_file: dict[str, list[_Entry]] = defaultdict(list)
    by_stem: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        for spelling in (entry, entry.as_in_url()):
            if spelling is not None and spelling.parts:
                by_file[spelling.parts[-1]].append(spelling)
                by_stem[spelling.stem.casefold()].append(spelling)
    return by_file, by_stem


def _entry_of(image: Path, by_file: _Index, by_stem: _Index) -> tuple[int, str] | None:
    """Return how many parts of an image's path an entry shares, and the entry's name.

    0: the stem only; −1: the stem in other capital letters.
    """
    parts = tuple(unicodedata.normalize("NFC", part) for part in image.parts)
    alike = [(_common(parts, entry.parts), entry) for entry in by_file.get(parts[-1], ())]
    if alike:
        best = max(length for length, _ in alike)
        winners = [entry for length, entry in alike if length == best]
        whole = [entry for entry in winners if len(entry.parts) == best]
        chosen = whole or winners
        # A file name alone is enough where no folder says otherwise, or no other entry has it.
        if len(chosen) == 1 and (best > 1 or whole or len(alike) == 1):
            return best, chosen[0].name
        return None
    stem = _number(Path(parts[-1]).stem)
    alike_stems = by_stem.get(stem.casefold(), ())
    exact = [entry for entry in alike_stems if entry.stem == stem]
    stems = exact or alike_stems
    return (0 if exact else -1, stems[0].name) if len(stems) == 1 else None


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many parts two paths share, counted from their ends."""
    count = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        count += 1
    return count


def _number(stem: str) -> str:
    """Return a stem without the zeros before a number: ids of images are often written so."""
    return str(int(stem)) if stem.isascii() and stem.isdecimal() else stem
