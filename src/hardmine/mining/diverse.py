"""Variety: those of many hard images whose features lie farthest apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def k_center(
    features: NDArray[np.float32], count: int, allowed: Callable[[int], bool]
) -> list[int]:
    """Choose rows greedily: the first one, then always the row farthest from all chosen ones.

    Of equally far rows the first is taken, so the order of the rows (hardest first) decides ties.
    Prefixes are stable: a larger ``count`` only appends.

    Args:
        features: f32[N, D]; they are scaled to length 1.
        allowed: asked before a row is taken, and told by being asked that it is taken when it
            answers true; a row that is refused is never asked again.

    Source: the greedy 2-approximation of Gonzalez (1985); for active learning Sener and Savarese
    (2018), "core-set".
    """
    if not len(features):
        return []
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    rows = features / np.maximum(norms, 1e-12)
    distance = np.full(len(rows), np.inf)
    open_rows = np.ones(len(rows), np.bool_)
    chosen: list[int] = []
    while len(chosen) < count and open_rows.any():
        index = int(np.where(open_rows, distance, -1.0).argmax())
        open_rows[index] = False
        if not allowed(index):
            continue
        chosen.append(index)
        distance = np.minimum(distance, np.linalg.norm(rows - rows[index], axis=1))
    return chosen
