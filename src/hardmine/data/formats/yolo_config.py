"""The ``data.yaml`` of a YOLO dataset, and what the numbers of its lines mean.

``data.yaml`` is the user's word: its entries may be absolute and lie anywhere. What *label and list
files* name stays inside the folders that it names. The slips that people make in it are understood or
named.

A line is ``class`` and then: a box ``cx cy w h``; a box with a confidence, or with that and a track
id (what a model's predictions are saved as); a box and keypoints (pose); or the corners of an outline
(segments, turned boxes), maybe with a confidence. Several readings can fit one count, so that a line
is never judged alone: its count, ``data.yaml`` and all lines of the set decide. Lines for which no
reading stands are refused, with the count and what was wanted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hardmine.data.formats.label_format import read_class_list
from hardmine.errors import DataError
from hardmine.files import TextError, plain_name, read_lines, read_yaml
from hardmine.types import F64, Mask

Keypoints = tuple[int, int]
"""``kpt_shape`` of a data.yaml: how many keypoints, and how many numbers each has (2 or 3)."""

_MOST = 0.95
"""Share of a set's lines that must agree with a reading."""
_FEW = 3
"""The least number of lines from which keypoints are guessed by where they lie."""
_NOT_CROSSED = 0.9
"""Share of a set's lines whose edges must not cross where they are outlines."""
_LOOKED_AT = 500
"""Lines whose edges are looked at."""
_NEAR = 0.25
"""Share of a box's sides by which keypoints may pass it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the numbers after the class are.

    Attributes:
        outline: how many of them are the x and y of an outline's corners; 0: the first four are a box.
        left_out: what the rest is, in words; empty where there is none.
        confidence: place of a number that must lie in 0..1; −1: none.
        whole: place of a number that must be whole (a track id); −1: none.
        not_joined: most lines of the set are boxes, so that this may be several run together.
    """

    outline: int = 0
    left_out: str = ""
    confidence: int = -1
    whole: int = -1
    not_joined: bool = False

    def box(self, values: Sequence[float]) -> tuple[float, float, float, float]:
        """Return a line's box, xyxy, from the numbers after its class.

        Raises:
            ValueError: a number is not what it should be.
        """
        if self.confidence >= 0 and not 0 <= values[self.confidence] <= 1:
            raise ValueError(f"confidence {values[self.confidence]:g}, wanted 0 to 1")
        if self.whole >= 0 and not float(values[self.whole]).is_integer():
            raise ValueError(f"track id {values[self.whole]:g}, wanted a whole number")
        joined = values[4::5]
        if self.not_joined and len(values) % 5 == 4 and all(float(v).is_integer() for v in joined):
            raise ValueError(f"looks like {len(joined) + 1} lines run together")
        if self.outline:
            xs, ys = values[0 : self.outline : 2], values[1 : self.outline : 2]
            return min(xs), min(ys), max(xs), max(ys)
        cx, cy, width, height = values[:4]
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


BOX = Columns()
_BOX_SCORE = Columns(left_out="the confidence", confidence=4)
_BOX_TRACK = Columns(left_out="the confidence and the track id", confidence=4, whole=5)


def judge_columns(
    lines: Mapping[int, Sequence[Sequence[float]]], keypoints: Keypoints | None = None
) -> dict[int, Columns | str]:
    """Return what the numbers after the class are, for each count of them that a set has.

    Args:
        lines: the numbers after the class of all lines, by their count.
        keypoints: what data.yaml declares, where it does.

    Returns:
        By count: the reading, or why there is none.
    """
    counts = {count: len(rows) for count, rows in lines.items()}
    return {
        count: _declared(count, keypoints)
        if keypoints is not None
        else _judge(np.array(rows, np.float64), _Others.of(counts))
        for count, rows in lines.items()
    }


@dataclass(frozen=True, slots=True)
class _Others:
    """How many lines of a set are boxes, outlines of pairs of numbers, and have one number more."""

    boxes: int
    pairs: int
    odd: int

    @staticmethod
    def of(counts: Mapping[int, int]) -> _Others:
        """Make them from the number of lines by their count of numbers."""
        long = {count: number for count, number in counts.items() if count > 6}
        pairs = sum(number for count, number in long.items() if count % 2 == 0)
        return _Others(counts.get(4, 0), pairs, sum(long.values()) - pairs)


def _declared(count: int, keypoints: Keypoints) -> Columns | str:
    number, size = keypoints
    whole = 4 + number * size
    rest = f"{number} keypoints of {size} numbers"
    readings = {
        4: BOX,
        whole: Columns(left_out=rest),
        whole + 1: Columns(left_out=f"{rest} and the confidence", confidence=whole),
        whole + 2: Columns(
            left_out=f"{rest}, the confidence and the track id",
            confidence=whole,
            whole=whole + 1,
        ),
    }
    wanted = f"wanted 'class cx cy w h' or {whole + 1} numbers (kpt_shape: [{number}, {size}])"
    return readings.get(count) or f"{wanted}, got {count + 1}"


def _judge(rows: F64, others: _Others) -> Columns | str:
    """Judge lines of one count (f64[N, count]) in a set of such others."""
    count = rows.shape[1]
    wanted = f"wanted 'class cx cy w h' (5 numbers), got {count + 1}"
    if count == 4:
        return BOX
    if count == 5:
        unlike = others.pairs + others.odd > others.boxes
        if unlike or not _mostly(_in_unit(rows[:, 4])):
            return wanted
        inside = _boxes_inside(rows[:, :4]), _boxes_inside(rows[:, 1:])
        if inside[1].mean() >= _MOST and inside[0].mean() < _MOST:
            return f"{wanted}; the second number seems to be a confidence, wanted it at the end"
        return _BOX_SCORE
    if count < 6:
        return wanted
    whole = rows[:, -1] == np.round(rows[:, -1])
    beyond = bool((rows[:, -1] > 1).any())
    if count == 6:
        tracked = _mostly(whole) and _mostly(_in_unit(rows[:, 4]))
        return _BOX_TRACK if tracked and (beyond or not others.pairs) else Columns(outline=6)
    if pose := _as_pose(rows):
        return pose
    if count % 2:
        alone = others.odd > max(others.boxes, others.pairs)
        if alone and _mostly(_in_unit(rows[:, -1])):
            return Columns(count - 1, "the confidence", confidence=count - 1)
        return f"{wanted}; keypoints are read where data.yaml declares kpt_shape"
    if _mostly(whole) and beyond and _mostly(_in_unit(rows[:, -2])):
        left = "the confidence and the track id"
        return Columns(count - 2, left, confidence=count - 2, whole=count - 1)
    return Columns(outline=count, not_joined=others.boxes > others.pairs)


def _as_pose(rows: F64) -> Columns | str | None:
    """Return the reading as a box and keypoints, where the numbers say that it is one.

    Returns:
        None where they are corners of an outline; why there is no reading where both fit.
    """
    count = rows.shape[1]
    if (count - 4) % 3 == 0:
        points = rows[:, 4:].reshape(len(rows), -1, 3)
        if np.isin(points[..., 2], (0, 1, 2)).all():
            return Columns(left_out=f"{points.shape[1]} keypoints (x, y, visibility)")
    for size, words in ((2, "x, y"), (3, "x, y, confidence")):
        if (count - 4) % size == 0 and len(rows) >= _FEW:
            points = rows[:, 4:].reshape(len(rows), -1, size)
            if not _mostly(_points_in_box(rows, points)):
                continue
            outline = count % 2 == 0 and _are_outlines(rows)
            if outline and _continues_outline(rows, points):
                return None
            if outline:
                return (
                    f"got {count + 1} numbers, which may be a box and {points.shape[1]} keypoints or "
                    "an outline; keypoints are read where data.yaml declares kpt_shape"
                )
            return Columns(left_out=f"{points.shape[1]} keypoints ({words})")
    return None


def _points_in_box(rows: F64, points: F64) -> Mask:
    """Return for which lines the first four numbers are a box in the image around all points."""
    centre, size = rows[:, None, :2], rows[:, None, 2:4]
    seen = (points[..., :2] != 0).any(axis=-1)
    near = (np.abs(points[..., :2] - centre) <= (0.5 + _NEAR) * size).all(axis=-1)
    inside = ((centre - size / 2 >= -0.01) & (centre + size / 2 <= 1.01)).all(axis=(1, 2))
    fits: Mask = inside & (near | ~seen).all(axis=1) & seen.any(axis=1)
    return fits


def _continues_outline(rows: F64, points: F64) -> bool:
    """Return whether the third and fourth number are mostly a point near the others."""
    others = np.concatenate([rows[:, None, :2], points[..., :2]], axis=1)
    low, high = others.min(axis=1), others.max(axis=1)
    slack = np.maximum(high - low, 0.01)
    second = rows[:, 2:4]
    near = ((second >= low - slack) & (second <= high + slack)).all(axis=1)
    return bool(near.mean() > 0.5)


def _are_outlines(rows: F64) -> bool:
    """Return whether nearly no line's edges cross each other, as those of an outline do not."""
    corners = rows[:_LOOKED_AT].reshape(len(rows[:_LOOKED_AT]), -1, 2)
    ends = np.roll(corners, -1, axis=1)
    crossed = np.zeros(len(corners), np.bool_)
    for index in range(corners.shape[1] - 2):
        a, b = corners[:, index, None], ends[:, index, None]
        c, d = corners[:, index + 2 :], ends[:, index + 2 :]
        apart = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
        crossed |= apart.any(axis=1)
    return bool(crossed.mean() <= 1 - _NOT_CROSSED)


def _side(a: F64, b: F64, point: F64) -> F64:
    """Return on which side of the line from ``a`` to ``b`` a point lies, by its sign."""
    along, beside = b - a, point - a
    turn: F64 = along[..., 0] * beside[..., 1] - along[..., 1] * beside[..., 0]
    return turn


def _boxes_inside(boxes: F64) -> Mask:
    """Return which boxes (centre and size, shares, [N, 4]) lie inside their image."""
    near, far = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    inside: Mask = np.all((near >= -0.01) & (far <= 1.01), axis=1)
    return inside


def _in_unit(values: F64) -> Mask:
    unit: Mask = (values >= 0) & (values <= 1)
    return unit


def _mostly(fits: Mask) -> bool:
    return bool(fits.mean() >= _MOST)


DARKNET = ".data"
"""Suffix of Darknet's own configuration, whose ``names`` and splits are text files."""
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
ONLY_REPEATS = "only_repeats"
"""Key of a written data.yaml: splits that only repeat another, since other programs ask for them."""


@dataclass(frozen=True, slots=True)
class YoloConfig:
    """What a ``data.yaml`` says.

    Attributes:
        names: class names by number; numbers may be missing.
        splits: the folders and list files of each split that are there.
        root: the folder under ``path``, or the yaml's own.
        keypoints: ``kpt_shape``, where it is declared.
        remarks: slips, each a sentence.
    """

    file: Path
    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, tuple[Path, ...]]
    keypoints: Keypoints | None = None
    remarks: list[str] = field(default_factory=list)


def load_config(path: Path) -> dict[str, Any]:
    """Return the mapping in a yaml file, scalars as text.

    Raises:
        DataError: not readable, not yaml, or not a mapping.
    """
    return _load(path)[0]


def read_config(path: Path, images: Path | None = None) -> YoloConfig:
    """Return what a ``data.yaml`` says.

    Args:
        images: takes the place of ``path``.

    Raises:
        DataError: broken, without names or splits.
    """
    config, repeated = _load(path)
    config = {**config, "names": _named_list(path, config.get("names"))}
    remarks = [f"{key} is there twice, the last one is used" for key in repeated]
    names = _names(path, config, remarks)
    root = images or path.parent / str(config.get("path") or "").replace("\\", "/")
    if not os.path.isdir(root):  # noqa: PTH112 (a name may be too long)
        remarks.append(f"path {root} is not here, using {path.parent}")
        root = path.parent
    splits: dict[str, tuple[Path, ...]] = {}
    for key, split in SPLIT_KEYS.items():
        if key in config:
            entries = _entries(path, key, config[key], remarks)
            found = [_locate(path, root, key, entry, remarks) for entry in entries]
            present = tuple(entry for entry in found if entry is not None)
            if present:
                splits[split] = present
    if not splits:
        said = f" ({remarks[-1]})" if remarks else ""
        raise DataError(
            f"{path}: none of train, val, test names a folder or list that is here{said}; looked "
            f"below {root}; name the folder of the images with images= (--images)"
        )
    for name in config.get(ONLY_REPEATS) or ():
        if any(splits[other] == splits.get(name) for other in splits if other != name):
            del splits[name]
    return YoloConfig(path, root, names, splits, _keypoints(path, config), remarks)


def _named_list(path: Path, written: object) -> object:
    """Return the class names in the text file that ``names`` may name, else what is written."""
    if not isinstance(written, str) or not written.strip():
        return written
    parts = PurePosixPath(written.strip().replace("\\", "/")).parts
    for start in range(len(parts)):
        found = path.parent.joinpath(*parts[start:])
        if os.path.isfile(found):  # noqa: PTH113 (a name may be too long)
            return {str(number): name for number, name in read_class_list(found).items()}
    return written


def _read_darknet(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what Darknet's ``obj.data`` says (``key = value`` lines), with the keys of a yaml."""
    try:
        lines = [line.split("#")[0] for line in read_lines(path)]
    except TextError as error:
        raise DataError(f"{path}: {error}") from None
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    keys = [key.strip() for key, _ in pairs]
    found: dict[str, Any] = dict(zip(keys, (value.strip() for _, value in pairs), strict=True))
    return found, tuple(sorted({key for key in keys if keys.count(key) > 1}))


def _load(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    if path.suffix.lower() == DARKNET:
        return _read_darknet(path)
    config, repeated = read_yaml(path)
    if not isinstance(config, dict):
        got = "nothing" if config is None else type(config).__name__
        raise DataError(f"{path}: got {got}, wanted keys such as train and names")
    return config, repeated


def _names(path: Path, config: Mapping[str, Any], remarks: list[str]) -> dict[int, str]:
    written = config.get("names")
    count = _whole(config.get("nc"))
    if written is None and count:
        remarks.append(f"has nc: {count} and no names; the classes are called class_0, class_1 …")
        return {number: f"class_{number}" for number in range(count)}
    if isinstance(written, list) and all(isinstance(name, str) for name in written):
        names = {number: plain_name(name) for number, name in enumerate(written)}
    elif isinstance(written, dict) and all(_whole(key) is not None for key in written):
        pairs = sorted((_whole(key) or 0, plain_name(name)) for key, name in written.items())
        names = dict(pairs)
    else:
        names = {}
    if not names:
        raise DataError(f"{path}: names is {written!r}, wanted a list of class names")
    _remark_on_names(names, remarks)
    if config.get("nc") is not None and count != len(names):
        remarks.append(f"nc is {config['nc']} and names has {len(names)}; names counts")
    return names


def _remark_on_names(names: Mapping[int, str], remarks: list[str]) -> None:
    missing = sorted(set(range(max(names) + 1)) - set(names))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        remarks.append(f"names has no class {shown}; the others keep their numbers in label files")
    empty = [number for number, name in names.items() if not name]
    if empty:
        remarks.append(f"names has no name for class {', '.join(map(str, empty))}")
    seen: dict[str, int] = {}
    for number, name in names.items():
        first = seen.setdefault(name, number)
        if first != number:
            remarks.append(f"names calls class {first} and class {number} {name!r}; taken as one")


def _entries(path: Path, key: str, value: object, remarks: list[str]) -> list[str]:
    values: list[object] = value if isinstance(value, list) else [value]
    entries = [entry.strip() for entry in values if isinstance(entry, str)]
    if len(entries) < len(values):
        raise DataError(f"{path}: {key} is {value!r}, wanted a path or a list of paths")
    written = [entry for entry in entries if entry not in ("", "null", "~")]
    if not written:
        remarks.append(f"{key} is empty; there is no such split")
    return written


def _locate(path: Path, root: Path, key: str, entry: str, remarks: list[str]) -> Path | None:
    """Return the file or folder that an entry names, None where there is none.

    Some exports write ``../train/images`` for what lies beside the yaml, so the ``../`` is dropped
    where it leads nowhere. A path that was true on another machine is found by its last parts.
    """
    plain = entry.replace("\\", "/")
    for spelling in (plain, plain.removeprefix("../")):
        found = Path(os.path.normpath(root / spelling))
        if os.path.exists(found):  # noqa: PTH110 (a name may be too long)
            if found == Path(found.anchor):
                raise DataError(f"{path}: {key} names {found}, the whole file system")
            return found
    parts = [part for part in PurePosixPath(plain).parts if part not in ("/", "..", ".")]
    for start in range(1, len(parts)):
        for folder in dict.fromkeys((root, path.parent)):
            found = folder.joinpath(*parts[start:])
            if os.path.exists(found):  # noqa: PTH110
                remarks.append(f"{key} names {entry}, which is not here; using {found}")
                return found
    remarks.append(f"{key} names {entry}, which is not here")
    return None


def _keypoints(path: Path, config: Mapping[str, Any]) -> Keypoints | None:
    shape = config.get("kpt_shape")
    if shape in (None, "", "null", "~"):
        return None
    sizes = [_whole(value) for value in shape] if isinstance(shape, list) else []
    if len(sizes) == 2 and sizes[0] and sizes[1] in (2, 3):
        return sizes[0], sizes[1]
    raise DataError(f"{path}: kpt_shape is {shape!r}, wanted [keypoints, 2 or 3]")


def _whole(value: object) -> int | None:
    """Return a whole number of 0 or more that is written as such, else None."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() else None
