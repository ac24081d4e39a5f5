"""Images of any source at full precision, by the names that the source gave them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hardmine.mining.scan_scan import to_score
from hardmine.mining.sources.pool_source import open_image
from hardmine.types import Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector


def score_in_full(
    detector: Detector, images: Sequence[str]
) -> Iterator[tuple[PoolScore, Detections] | Problem]:
    """Yield images, by the names that a source gave them, scored in float32 and decoded."""
    from hardmine.inference.predict import score_items

    for result in score_items(detector, map(open_image, images)):
        if isinstance(result, Problem):
            yield result
        else:
            score = replace(to_score(result, detector.model_id), image=result.name)
            yield score, result.detections
