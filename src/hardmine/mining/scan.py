"""The first cut of a whole source into the store: lazily, in bounded memory, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.pool_source import (
    Source,
    open_image,
)
from hardmine.mining.sources.remote import read_ahead
from hardmine.types import Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.data.resize import Resize
    from hardmine.inference.detector import Detector
    from hardmine.inference.fast_scoring import FastScore
    from hardmine.inference.image_loading import ImageItem
    from hardmine.inference.runtimes.runtime import Scorer

# Run a detector over a pool, resumably.

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
    from hardmine.inference.predict import score_images

    return score_images


COMMIT_SECONDS = 0.5
COMMIT_IMAGES = 2048
_ASKED = 2000
"""Names looked up in the store at once."""
_HELD = 32
"""Of these at most so many that carry their bytes."""
_SHOWN_PROBLEMS = 1000
"""Problems kept in the summary; the store has them all."""


@dataclass
class Tally:
    """What a scan has seen so far."""

    scored: int = 0
    skipped: int = 0
    skipped_bad: int = 0
    bad: int = 0
    total: int = 0
    """Images in the source; 0 while unknown."""

    @property
    def done(self) -> int:
        """Images that need no more work."""
        return self.scored + self.skipped + self.bad


def scan_source(
    source: Source,
    store: PoolStore,
    scorer: Scorer,
    resize: Resize,
    model_id: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ScanSummary:
    """Give every image of a source its first cut, unless this model has scored it before.

    Memory does not grow with the source. Killed at any moment, the next call goes on from the last
    commit, which is about half a second back.

    Args:
        scorer: the hot pass of the model.
        progress: told (done, total) after each commit; the total is 0 while it is not known.

    Raises:
        DataError: the source cannot be listed, the disk is full or the store cannot be written.
    """
    from hardmine.inference.fast_scoring import fast_scores

    tally = Tally()
    count_in_background(source, tally)
    fresh = read_ahead(iter_fresh(source, store, model_id, tally))
    return record(fast_scores(scorer, resize, fresh), store, model_id, tally, progress)


def iter_fresh(
    source: Source, store: PoolStore, model_id: str, tally: Tally
) -> Iterator[ImageItem | Problem]:
    """Yield the items that this model has not seen, counting the others as skipped."""
    any_bad = bool(store.problems(model_id))
    for chunk in _chunks(source.items()):
        names = [item.file if isinstance(item, Problem) else item.name for item in chunk]
        fresh = set(store.pending(model_id, names))
        if any_bad and len(fresh) < len(names):
            tally.skipped_bad += store.count_problems(model_id, sorted(set(names) - fresh))
        for item, name in zip(chunk, names, strict=True):
            if name in fresh or isinstance(item, Problem):
                yield item
            else:
                tally.skipped += 1


def _chunks(items: Iterator[ImageItem | Problem]) -> Iterator[list[ImageItem | Problem]]:
    chunk: list[ImageItem | Problem] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += not isinstance(item, Problem) and item.held
        if len(chunk) == _ASKED or held == _HELD:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def record(
    batches: Iterable[Sequence[FastScore | Problem]],
    store: PoolStore,
    model_id: str,
    tally: Tally,
    progress: Callable[[int, int], None] | None = None,
) -> ScanSummary:
    """Write first cuts into the store as they come, a commit every ``COMMIT_SECONDS``."""
    problems: list[Problem] = []
    waiting: list[FastScore | Problem] = []
    last = time.monotonic()

    def commit() -> None:
        good = [item for item in waiting if not isinstance(item, Problem)]
        bad = [item for item in waiting if isinstance(item, Problem)]
        rows = [(_to_score(item, model_id), Detections.none()) for item in good]
        store.add_scores(rows, bad, model_id=model_id)
        tally.scored += len(good)
        tally.bad += len(bad)
        problems.extend(bad[: max(0, _SHOWN_PROBLEMS - len(problems))])
        waiting.clear()
        if progress is not None:
            progress(tally.done, tally.total)

    for batch in batches:
        waiting += batch
        if len(waiting) >= COMMIT_IMAGES or time.monotonic() - last > COMMIT_SECONDS:
            commit()
            last = time.monotonic()
    commit()
    return ScanSummary(tally.scored, tally.skipped, tuple(problems), tally.skipped_bad)


def _to_score(item: FastScore, model_id: str) -> PoolScore:
    return PoolScore(
        item.name, item.score, item.label, -1, item.level, item.phash, model_id, exact=False
    )


def count_in_background(source: Source, tally: Tally) -> None:
    """Fill in how many images there are, while the scan begins."""
    Thread(target=_count, args=(source, tally), daemon=True).start()


def _count(source: Source, tally: Tally) -> None:
    from hardmine.errors import HardmineError

    try:
        tally.total = source.count() or 0
    except (HardmineError, OSError):  # listing it for the scan says what is wrong
        tally.total = 0


# Images of any source at full precision, by the names that the source gave them.


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
