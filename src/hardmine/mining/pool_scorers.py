"""How the images of a pool are scored: fast and a little off, or at full precision.

A scan (``scan.py``) runs one of these over the images that have no score yet; ``ray_scan.py`` has the
one that runs on many machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from hardmine.detections import Detections
from hardmine.mining.sources.pool_source import open_images
from hardmine.mining.sources.remote import read_ahead
from hardmine.types import PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.inference.fast_scoring import FastScore, Scorer
    from hardmine.inference.image_loading import ImageItem
    from hardmine.inference.predict import ScoredImage

Row = tuple[PoolScore, Detections]
"""What the store keeps of an image: its score, and the detections behind an exact one."""


class PoolScorer(Protocol):
    """Scores the images of a pool for one model."""

    @property
    def name(self) -> str:
        """What progress lines call it."""
        ...

    @property
    def batch_size(self) -> int:
        """How many images at once suit it."""
        ...

    def score(self, items: Iterable[ImageItem | Problem]) -> Iterator[Sequence[Row | Problem]]:
        """Yield the rows of a few images after the other, in any order; problems are passed on."""
        ...

    def score_exactly(self, names: Sequence[str]) -> Iterable[Row | Problem]:
        """Yield rows at full precision, by the names that a source gave the images, in any order."""
        ...


class FastScorer:
    """The fast pass of one of our own checkpoints: nothing is decoded, scores are a little off.

    Args:
        scorer: the detector's network on a runtime (``inference.runtimes.runtime.make_scorer``).
    """

    def __init__(self, detector: Detector, scorer: Scorer) -> None:
        self._detector = detector
        self._scorer = scorer
        self.name = scorer.name
        self.batch_size = scorer.batch_size

    def score(self, items: Iterable[ImageItem | Problem]) -> Iterator[Sequence[Row | Problem]]:
        """Yield fast scores, batch by batch."""
        from hardmine.inference.fast_scoring import fast_scores

        for batch in fast_scores(self._scorer, self._detector.resize, read_ahead(items)):
            yield [
                item if isinstance(item, Problem) else fast_row(item, self._detector.model_id)
                for item in batch
            ]

    def score_exactly(self, names: Sequence[str]) -> Iterator[Row | Problem]:
        """Yield rows in float32, decoded."""
        return exact_rows(self._detector, open_images(names))


class ExactScorer:
    """A detector that sees each image once, at full precision, and decodes those that fire.

    Args:
        images_at_once: chosen by the device when not given.
    """

    name = "full precision"
    batch_size = 1

    def __init__(self, detector: Detector, images_at_once: int | None = None) -> None:
        self._detector = detector
        self._images_at_once = images_at_once

    def score(self, items: Iterable[ImageItem | Problem]) -> Iterator[Sequence[Row | Problem]]:
        """Yield exact rows, one by one."""
        problems: list[Problem] = []

        def images() -> Iterator[ImageItem]:
            """Yield the images that can be read; keep the others as problems."""
            for item in read_ahead(items):
                if isinstance(item, Problem):
                    problems.append(item)
                else:
                    yield item

        for row in exact_rows(self._detector, images(), self._images_at_once):
            met, problems[:] = list(problems), []
            yield [*met, row]
        yield problems

    def score_exactly(self, names: Sequence[str]) -> Iterator[Row | Problem]:
        """Yield exact rows."""
        return exact_rows(self._detector, open_images(names), self._images_at_once)


def exact_rows(
    detector: Detector, items: Iterable[ImageItem], images_at_once: int | None = None
) -> Iterator[Row | Problem]:
    """Yield images scored at full precision and decoded, from one run of the network for each."""
    from hardmine.inference.predict import score_items

    for result in score_items(detector, items, batch_size=images_at_once, one_run=True):
        yield result if isinstance(result, Problem) else exact_row(result, detector.model_id)


def exact_row(result: ScoredImage, model_id: str) -> Row:
    """Return what the store keeps of an image scored at full precision."""
    score = PoolScore(
        result.name or str(result.path),
        float(result.score),
        int(result.label),
        len(result.detections),
        int(result.level),
        int(result.phash),
        model_id,
    )
    return score, result.detections


def fast_row(item: FastScore, model_id: str) -> Row:
    """Return what the store keeps of an image after the fast pass."""
    score = PoolScore(
        item.name, item.score, item.label, -1, item.level, item.phash, model_id, exact=False
    )
    return score, Detections.none()
