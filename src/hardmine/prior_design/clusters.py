"""Clusters of box sizes under the distance 1 − IoU.

Source: Redmon and Farhadi 2017, "YOLO9000", section 2 (k-means with IoU); the medians are ours, since
a few odd boxes pull a mean away.
"""

from __future__ import annotations

import numpy as np

from hardmine.prior_design.prior_overlap import shape_iou
from hardmine.types import F64


def cluster_sizes(sizes: F64, number: int, seed: int = 0, rounds: int = 30) -> F64:
    """Return up to ``number`` typical sizes, f64[K, 2] (w, h), by area.

    Starts are drawn in proportion to 1 − IoU with those drawn before; then each box joins its most
    similar centre and each centre moves to the medians of its boxes, until nothing moves.

    Args:
        sizes (f64[N, 2]): widths and heights, positive.
        number: at least 1; no more than there are different sizes come back.
        seed: of the starts.
        rounds: most rounds.
    """
    rng = np.random.default_rng(seed)
    centres = sizes[rng.integers(len(sizes))][None]
    while len(centres) < number:
        distance = 1.0 - shape_iou(sizes, centres).max(axis=1)
        if distance.max() < 1e-9:
            break
        centres = np.concatenate([centres, sizes[rng.choice(len(sizes), p=_share(distance))][None]])
    for _ in range(rounds):
        nearest = shape_iou(sizes, centres).argmax(axis=1)
        members = [sizes[nearest == k] for k in range(len(centres))]
        moved = np.stack([np.median(part, axis=0) for part in members if len(part)])
        if moved.shape == centres.shape and np.allclose(moved, centres):
            break
        centres = moved
    return np.asarray(centres[centres.prod(axis=1).argsort(kind="stable")])


def _share(distance: F64) -> F64:
    return np.asarray(distance / distance.sum())
