"""What the numbers of YOLO lines mean, judged by their count, by data.yaml and by all lines of a set.

A line is ``class`` and then: a box ``cx cy w h``; a box with a confidence, or with that and a track id
(what a model's predictions are saved as); a box and keypoints (pose); or the corners of an outline
(segments, turned boxes), maybe with a confidence. Several readings can fit one count, so that a line is
never judged alone. Lines for which no reading stands are refused, with the count and what was wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardmine.types import F64, Mask

Keypoints = tuple[int, int]
"""``kpt_shape`` of a data.yaml: how many keypoints, and how many numbers each has (2 or 3)."""

_MOST = 0.95
"""Share of a set's lines that must agree with a reading."""
_FEW = 3
"""With fewer lines, keypoints are not guessed from where they lie."""
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
        return wanted if unlike or not _mostly(_in_unit(rows[:, 4])) else _BOX_SCORE
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


def _as_pose(rows: F64) -> Columns | None:
    """Return the reading as a box and keypoints, where the numbers say that it is one."""
    count = rows.shape[1]
    if (count - 4) % 3 == 0:
        points = rows[:, 4:].reshape(len(rows), -1, 3)
        if np.isin(points[..., 2], (0, 1, 2)).all():
            return Columns(left_out=f"{points.shape[1]} keypoints (x, y, visibility)")
    for size, words in ((2, "x, y"), (3, "x, y, confidence")):
        if (count - 4) % size == 0 and len(rows) >= _FEW:
            points = rows[:, 4:].reshape(len(rows), -1, size)
            if _mostly(_points_in_box(rows, points)) and not _continues_outline(rows, points):
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
    """Return whether the first four numbers are mostly two points beside the others."""
    low, high = points[..., :2].min(axis=1), points[..., :2].max(axis=1)
    slack = np.maximum(high - low, 0.01) / 2
    second = rows[:, 2:4]
    beside = ((second >= low - slack) & (second <= high + slack)).all(axis=1)
    return bool(beside.mean() > 0.5)


def _in_unit(values: F64) -> Mask:
    unit: Mask = (values >= 0) & (values <= 1)
    return unit


def _mostly(fits: Mask) -> bool:
    return bool(fits.mean() >= _MOST)
