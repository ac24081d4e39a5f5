"""How long a scan would take, from a small sample; nothing is written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import DataError
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.pool_scorers import PoolScorer, Row
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import ScanCounts, iter_unscored, make_pool_scorer
from hardmine.mining.sources.pool_source import open_source
from hardmine.types import Dataset, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.inference.image_loading import ImageItem

SAMPLE = 128
_SECONDS = 10.0
"""A slow detector looks at fewer images than the sample: no new batch is awaited after this."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a dry run found out.

    Attributes:
        images: number of images in the pool; ``None`` where only reading all of it would show it.
        done: how many of them need no scan.
        rate: images per second.
        sample: how many images the rate was measured on.
        unreadable: how many of these could not be read.
    """

    images: int | None
    rate: float
    sample: int
    unreadable: int
    runtime: str
    done: int = 0

    @property
    def seconds(self) -> float | None:
        """The scan's duration; scoring the top again comes on top of it."""
        if self.images is None:
            return None
        return (self.images - self.done) / self.rate if self.sample else 0.0

    def __str__(self) -> str:
        what = "an unknown number of" if self.images is None else f"{self.images:,}"
        if not self.sample:
            return f"{what} images, all of them scanned before"
        before = f", {self.done:,} of them scanned before" if self.done else ""
        rest = "scan the others" if self.done else "scan"
        lasts = "" if self.seconds is None else f", about {_duration(self.seconds)} to {rest}"
        bad = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        return (
            f"{what} images{before}{lasts} at {_rate(self.rate)} images/s "
            f"({self.runtime}, measured on {self.sample}{bad})"
        )


def estimate_scan(
    detector: Detector,
    pool: Dataset | Path | str,
    options: MineOptions | None = None,
    *,
    out: Path | None = None,
    sample: int = SAMPLE,
) -> Estimate:
    """Scan the first images of a pool on this machine, for some ten seconds at most.

    Args:
        out: folder whose store says what this model has scanned before; nothing is written there.

    Raises:
        ConfigError: a runtime that this detector has not.
        DataError: there is no such pool, or no image in it.
    """
    source = open_source(pool, options.every if options else None)
    images, counts = source.count(), ScanCounts()
    with ExitStack() as stack:
        left: Iterator[ImageItem | Problem] = source.items()
        if out is not None and (out / "pool.sqlite").exists():
            store = stack.enter_context(PoolStore(out / "pool.sqlite", read_only=True))
            left = iter_unscored(source, store, detector.model_id, counts)
        items = list(islice(left, sample))
        if images is not None:
            deque(left, maxlen=0)  # counts what was scanned before
    if not items:
        if not counts.skipped:
            raise DataError(f"{source.name}: no image in the pool")
        return Estimate(images, 0.0, 0, 0, "", counts.skipped)
    scorer = make_pool_scorer(detector, replace(options or MineOptions(), ray=None))
    rate, results = _measure(scorer, items)
    bad = sum(isinstance(result, Problem) for result in results)
    return Estimate(images, rate, len(results), bad, scorer.name, counts.skipped)


def _measure(
    scorer: PoolScorer, items: Sequence[ImageItem | Problem]
) -> tuple[float, list[Row | Problem]]:
    """Return images per second, and what became of the images that were looked at."""
    for _ in scorer.score(items[: scorer.batch_size]):
        pass  # the first batch pays for setting up
    start = time.perf_counter()
    results: list[Row | Problem] = []
    seconds = 0.0
    for rows in scorer.score(items):
        results += rows
        seconds = time.perf_counter() - start
        if seconds > _SECONDS and results:
            break
    return len(results) / max(seconds, 1e-9), results


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
