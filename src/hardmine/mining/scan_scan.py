"""Run a detector over a pool, resumably."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hardmine.mining.pool_store import PoolStore
from hardmine.types import Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector

BATCHES_PER_COMMIT = 4


class ScoredLike(Protocol):
    """One image as the detector saw it (``inference.predict.ScoredImage``)."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def label(self) -> int: ...  # noqa: D102
    @property
    def level(self) -> int: ...  # noqa: D102
    @property
    def detections(self) -> Detections: ...  # noqa: D102
    @property
    def phash(self) -> int: ...  # noqa: D102


class ScoreImages(Protocol):
    """``inference.predict.score_images``: images in, scores or problems out, lazily and in order."""

    def __call__(  # noqa: D102
        self, detector: Detector, paths: Sequence[Path], *, batch_size: int = 16
    ) -> Iterator[ScoredLike | Problem]: ...


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """What a scan did: images ``scored`` now, ``skipped`` since done before (of which ``skipped_bad``
    could not be read), ``problems`` met now.
    """

    scored: int
    skipped: int
    problems: tuple[Problem, ...]
    skipped_bad: int = 0

    @property
    def scanned(self) -> int:
        """Images of the pool that have a score."""
        return self.scored + self.skipped - self.skipped_bad


def scan_pool(
    detector: Detector,
    paths: Iterable[Path],
    store: PoolStore,
    *,
    score_images: ScoreImages | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> ScanSummary:
    """Score every image that this model has not scored in full yet and commit as it goes.

    Killed at any moment, the next call goes on from the last committed batch. Images that cannot be
    read are stored as problems, counted and passed over.

    Args:
        paths: the pool's images, by absolute path.
        score_images: how images are scored; ``inference.images.score_images`` unless given.
        progress: told (done, total) after each commit, images skipped included.

    Raises:
        DataError: the disk is full or the store cannot be written.
    """
    names = [str(path) for path in paths]
    waiting = store.pending(detector.model_id, names, exact=True)
    skipped = len(names) - len(waiting)
    skipped_bad = store.count_problems(detector.model_id, sorted(set(names) - set(waiting)))
    run = score_images or _default_scorer()
    results = run(detector, [Path(name) for name in waiting], batch_size=batch_size)
    scored, problems = 0, []
    for batch in _grouped(results, batch_size * BATCHES_PER_COMMIT):
        good = [r for r in batch if not isinstance(r, Problem)]
        bad = [r for r in batch if isinstance(r, Problem)]
        rows = [(to_score(r, detector.model_id), r.detections) for r in good]
        store.add_scores(rows, bad, model_id=detector.model_id)
        scored += len(good)
        problems += bad
        if progress is not None:
            progress(skipped + scored + len(problems), len(names))
    return ScanSummary(scored, skipped, tuple(problems), skipped_bad)


def to_score(result: ScoredLike, model_id: str) -> PoolScore:
    """Return what the store keeps of an image scored at full precision."""
    return PoolScore(
        str(result.path),
        float(result.score),
        int(result.label),
        len(result.detections),
        int(result.level),
        int(result.phash),
        model_id,
    )


def _grouped(
    results: Iterator[ScoredLike | Problem], size: int
) -> Iterator[list[ScoredLike | Problem]]:
    chunk: list[ScoredLike | Problem] = []
    for result in results:
        chunk.append(result)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _default_scorer() -> ScoreImages:
    from hardmine.inference.images import score_images

    return score_images
