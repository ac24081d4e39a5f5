"""The operating point: the score at which a detector reaches a recall.

Thresholds are inclusive (``score >= t``) and stay floats: a detector's scores cluster near 0 and 1,
where rounding would move hundreds of detections across.
"""

from __future__ import annotations

import math

import numpy as np

from hardmine.evaluation.detection_matching import Matches


def find_threshold(matches: Matches, recall: float) -> float | None:
    """Return the largest score at which recall, classes pooled, reaches ``recall``.

    Args:
        matches: detections on images whose labels are known, matched at IoU .5.
        recall: in (0, 1].

    Returns:
        None when no threshold reaches it, or when the images hold no object.

    Raises:
        ValueError: ``recall`` is outside (0, 1].
    """
    needed = hits_needed(matches.num_objects, recall)
    scores = matches.score[matches.hit]
    if not matches.num_objects or len(scores) < needed:
        return None
    # A lower threshold never undoes a hit, since matching goes by score: recall reaches k / n at the
    # score of the k-th best hit. Detections with the same score come along.
    return float(np.sort(scores)[-needed])


def hits_needed(num_objects: int, recall: float) -> int:
    """Return the smallest k >= 1 with ``k / num_objects >= recall`` (1 when there is no object).

    ``ceil(recall * num_objects)`` is not it: .07 * 100 is 7.000000000000001.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be in (0, 1], got {recall}")
    if not num_objects:
        return 1
    needed = max(1, math.ceil(recall * num_objects))
    return needed - 1 if needed > 1 and (needed - 1) / num_objects >= recall else needed


def recall_at(matches: Matches, score_threshold: float) -> float | None:
    """Return recall with detections of ``score >= score_threshold``; None without objects."""
    if not matches.num_objects:
        return None
    hits = int(np.count_nonzero(matches.score[matches.hit] >= score_threshold))
    return hits / matches.num_objects
