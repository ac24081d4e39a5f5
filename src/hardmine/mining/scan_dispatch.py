"""Scanning whatever was named as the pool, and scoring parts of it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import DataError
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.rescoring import ScoreAgain
from hardmine.mining.sources.pool_source import (
    DatasetSource,
    Source,
    load_pool,
    open_source,
)
from hardmine.types import Dataset, Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
from hardmine.mining.scan import (
    ScanSummary,
    ScoreImages,
    scan_pool,
    scan_source,
    score_in_full,
    to_score,
)

Notify = Callable[[str, int, int], None]
"""``notify(what, done, total)``: where the work stands; total 0 means unknown."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A pool whose images all have a score (or a problem) in the store."""

    source: Source
    summary: ScanSummary
    score_again: ScoreAgain
    problems: tuple[Problem, ...] = ()
    """What reading the pool's description met, beside what the store holds."""


def scan(
    detector: Detector,
    pool: Dataset | Path | str,
    store: PoolStore,
    options: MineOptions,
    *,
    cache: Path | None = None,
    score_images: ScoreImages | None = None,
    notify: Notify,
) -> Scanned:
    """Score what this model has not scored yet: a first cut, or in full where that costs the same.

    Args:
        options: the runtime of the first cut, and whether it runs on the Ray cluster that is connected.
        cache: folder for converted networks.
        score_images: scores all images in full, instead of a first cut.

    Raises:
        ConfigError: a runtime that this detector has not.
        DataError: the pool is empty or unreadable, or none of its images can be read.
    """
    full = score_images or _lookup(detector)
    if full is not None:
        return _scan_in_full(detector, pool, store, full, notify)
    from hardmine.inference.runtimes.runtime import make_scorer

    source = open_source(pool)
    if options.ray is not None:
        return _scan_with_ray(detector, source, store, options.runtime, notify)
    notify("prepare", 0, 1)
    scorer = make_scorer(detector, options.runtime, cache)
    notify("prepare", 1, 1)
    told = partial(notify, f"scan ({scorer.name})")
    summary = scan_source(source, store, scorer, detector.resize, detector.model_id, progress=told)
    _require(source, summary)
    return Scanned(source, summary, partial(score_in_full, detector))


def _scan_with_ray(
    detector: Detector, source: Source, store: PoolStore, runtime: str, notify: Notify
) -> Scanned:
    from hardmine.mining.ray_scan import RayPool, scan_with_ray, score_again_with

    workers = RayPool(detector, runtime)
    told = partial(notify, "scan (Ray)")
    summary = scan_with_ray(source, store, workers, detector.model_id, progress=told)
    _require(source, summary)
    here = partial(score_in_full, detector)
    return Scanned(source, summary, score_again_with(workers, here))


def _scan_in_full(
    detector: Detector,
    pool: Dataset | Path | str,
    store: PoolStore,
    score_images: ScoreImages,
    notify: Notify,
) -> Scanned:
    from hardmine.inference.predictions_file import bind

    images = load_pool(pool)
    paths = [record.path for record in images.records]
    detector = bind(detector, paths)
    told = partial(notify, "scan")
    summary = scan_pool(detector, paths, store, score_images=score_images, progress=told)

    def score_again(names: Sequence[str]) -> Iterator[tuple[PoolScore, Detections] | Problem]:
        for result in score_images(detector, [Path(name) for name in names]):
            if isinstance(result, Problem):
                yield result
            else:
                yield to_score(result, detector.model_id), result.detections

    source = DatasetSource(images)
    _require(source, summary)
    return Scanned(source, summary, score_again, images.problems)


def _lookup(detector: Detector) -> ScoreImages | None:
    """Return how images are scored by what takes files: predictions, a command, tiles."""
    from hardmine.inference.predict import FileDetector, score_images

    return score_images if isinstance(detector, FileDetector) else None


def _require(source: Source, summary: ScanSummary) -> None:
    if summary.scanned:
        return
    if not summary.skipped and not summary.problems:
        raise DataError(f"{source.name}: no image in the pool")
    bad = len(summary.problems) + summary.skipped_bad
    first = f" (the first: {summary.problems[0]})" if summary.problems else ""
    raise DataError(f"{source.name}: none of the pool's {bad} images can be read{first}")
