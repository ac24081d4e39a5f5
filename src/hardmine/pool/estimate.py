"""How long a scan would take, from a small sample; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import DataError
from hardmine.pool.sources import open_source
from hardmine.types import Dataset, Problem

if TYPE_CHECKING:
    from hardmine.detect.detector import Detector
    from hardmine.detect.hot_pass import HotScore

SAMPLE = 128
_SECONDS = 10.0
"""A slow detector looks at fewer images than the sample: no new batch is awaited after this."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """``images`` in the pool (``None``: only reading all of it would tell), ``rate`` images a second
    of the hot pass on ``sample`` of them, of which ``unreadable`` could not be read.
    """

    images: int | None
    rate: float
    sample: int
    unreadable: int
    runtime: str

    @property
    def seconds(self) -> float | None:
        """The scan's duration; scoring the top again comes on top of it."""
        return None if self.images is None else self.images / self.rate

    def __str__(self) -> str:
        what = "an unknown number of" if self.images is None else f"{self.images:,}"
        lasts = "" if self.seconds is None else f", about {_duration(self.seconds)} to scan"
        bad = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        return (
            f"{what} images{lasts} at {_rate(self.rate)} images/s "
            f"({self.runtime}, measured on {self.sample}{bad})"
        )


def estimate_scan(
    detector: Detector, pool: Dataset | Path | str, *, runtime: str = "auto", sample: int = SAMPLE
) -> Estimate:
    """Run the hot pass over the first images of a pool, for some ten seconds at most.

    Raises:
        ConfigError: a runtime that this detector has not.
        DataError: there is no such pool, or no image in it.
    """
    from hardmine.detect.hot_pass import first_cut
    from hardmine.detect.runtime import make_scorer

    source = open_source(pool)
    items = list(islice(source.items(), sample))
    if not items:
        raise DataError(f"{source.name}: no image in the pool")
    scorer = make_scorer(detector, runtime)
    for _ in first_cut(scorer, detector.resize, items[: scorer.batch_size]):
        pass  # the first batch pays for setting up
    start = time.perf_counter()
    results: list[HotScore | Problem] = []
    seconds = 0.0
    for batch in first_cut(scorer, detector.resize, items):
        results += batch
        seconds = time.perf_counter() - start
        if seconds > _SECONDS:
            break
    rate = len(results) / max(seconds, 1e-9)
    bad = sum(isinstance(result, Problem) for result in results)
    return Estimate(source.count(), rate, len(results), bad, scorer.name)


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
