"""Scan a pool: give every image a score in the store, once for each model.

There is one way for all detectors and all sources: list the images, leave out those that this model
has scored before, score the others, and commit them every half second. That is also how a killed scan
resumes: the next one lists the pool again and finds in the store what needs no work.

Our own checkpoints have a fast pass in lower precision (``exact`` is false in the store), and images
that may rank are scored again at full precision (see ``ranking.py``). Every other detector sees each
image once, at full precision. ``pool_scorers.py`` does either on many machines.

`estimate_scan` says how long a scan would take, from a small sample, and writes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from hardmine.data.images import encoded_size
from hardmine.data.video import AT
from hardmine.errors import DataError
from hardmine.files import file_stamp
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.pool_scorers import ExactScorer, FastScorer, PoolScorer, Row, image_of
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.archives_and_videos import INSIDE
from hardmine.mining.sources.pool_source import Source, file_of, open_labelled, open_source
from hardmine.plurals import counted
from hardmine.types import Dataset, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector
    from hardmine.inference.image_loading import ImageItem

Notify = Callable[[str, int, int], None]
"""``notify(what, done, total)``: where the work stands; a total of 0 is unknown."""

COMMIT_SECONDS = 0.5
COMMIT_IMAGES = 2048
_AT_ONCE = 16
"""Images that a scan of a whole list at full precision gives to the network at once."""
_ASKED = 2000
"""Names looked up in the store at once."""
_HELD = 32
"""At most so many of these hold the bytes of their pictures."""
_SHOWN_PROBLEMS = 1000
"""Problems kept in the summary; the store has them all."""


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


@dataclass(frozen=True)
class ScannedPool:
    """A pool whose images all have a score (or a problem) in the store."""

    detector: Detector
    source: Source
    store: PoolStore
    summary: ScanSummary
    score_exactly: Callable[[Sequence[str]], Iterable[Row | Problem]]

    @property
    def model_id(self) -> str:
        """The model that scored."""
        return self.detector.model_id

    @property
    def num_images(self) -> int:
        """How many of the pool's images have a score."""
        return self.summary.scanned

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What kept images from being listed or read, now or in an earlier scan."""
        stored = self.store.problems(self.model_id)
        known = (problem for problem in stored if self.source.holds(problem.file))
        return tuple(dict.fromkeys((*self.summary.problems, *known)))


def scan(
    detector: Detector,
    pool: Dataset | Path | str,
    store: PoolStore,
    options: MineOptions | None = None,
    *,
    cache: Path | None = None,
    progress: Notify | None = None,
) -> ScannedPool:
    """Score those images of a pool that this model has not scored yet.

    Args:
        options: the runtime of the fast pass, and whether a Ray cluster (which is connected) runs it.
        cache: folder for converted networks.
        progress: called with (what, done, total); a total of 0 is unknown.

    Raises:
        ConfigError: a runtime that this detector has not, or it lacks the features for ``diverse``.
        DataError: the pool is empty or unreadable, or none of its images can be read.
    """
    request = options or MineOptions()
    notify = progress or silent
    if request.rank.diverse:
        from hardmine.inference.detector import require_features

        require_features(detector)
    source = _open(pool, request)
    detector = _bound(detector, source)
    notify("prepare", 0, 1)
    scorer = make_pool_scorer(detector, request, cache)
    notify("prepare", 1, 1)
    report = partial(notify, f"scan ({scorer.name})")
    summary = scan_source(source, store, scorer, detector.model_id, progress=report)
    _require_images(source, summary)
    return ScannedPool(detector, source, store, summary, scorer.score_exactly)


def _open(pool: Dataset | Path | str, request: MineOptions) -> Source:
    if request.pool_from_labelled:
        return open_labelled(pool, images=request.images)
    return open_source(pool, request.every)


def scan_exactly(detector: Detector, pool: Dataset | Path | str, store: PoolStore) -> ScannedPool:
    """Score every image of a pool at full precision that is not scored so yet.

    Raises:
        DataError: as :func:`scan`.
    """
    source = open_source(pool)
    scorer = ExactScorer(detector, images_at_once=_AT_ONCE)
    summary = scan_source(source, store, scorer, detector.model_id, exact=True)
    _require_images(source, summary)
    return ScannedPool(detector, source, store, summary, scorer.score_exactly)


def make_pool_scorer(
    detector: Detector, options: MineOptions, cache: Path | None = None
) -> PoolScorer:
    """Return what scores a pool: the fast pass of our own checkpoints, else the detector itself.

    Args:
        cache: folder in which converted networks are kept.

    Raises:
        ConfigError: a runtime that this detector has not.
        MissingExtraError: the runtime is not installed.
    """
    from hardmine.inference.checkpoint_detector import TorchDetector
    from hardmine.inference.fast_scoring import choose_runtime, make_scorer

    choose_runtime(detector, options.runtime)
    if options.ray is not None:
        from hardmine.mining.pool_scorers import RayScorer

        fast = isinstance(detector, TorchDetector)
        return RayScorer(detector, options.runtime if fast else None)
    if isinstance(detector, TorchDetector):
        return FastScorer(detector, make_scorer(detector, options.runtime, cache))
    return ExactScorer(detector)


@dataclass
class ScanCounts:
    """What a scan has met so far."""

    scored: int = 0
    skipped: int = 0
    skipped_bad: int = 0
    bad: int = 0
    total: int = 0
    """Images in the source; 0 while unknown."""
    packed: dict[str, str] = field(default_factory=dict)
    """How names in each archive and video that was listed begin, to the stamp of its file."""

    @property
    def done(self) -> int:
        """Images that need no more work."""
        return self.scored + self.skipped + self.bad


def scan_source(
    source: Source,
    store: PoolStore,
    scorer: PoolScorer,
    model_id: str,
    *,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ScanSummary:
    """Score every image of a source that this model has not scored before as it is now.

    Memory does not grow with the source. Killed at any moment, the next call goes on from the last
    commit, which is about half a second back.

    Args:
        exact: a score of the fast pass does not count as scored.
        progress: called with (done, total) after each commit; the total is 0 while it is not known.

    Raises:
        DataError: the source cannot be listed, the disk is full or the store cannot be written.
    """
    counts = ScanCounts()
    _count_in_background(source, counts)
    stamps: dict[str, str] = {}  # of the images on their way
    unscored = iter_unscored(source, store, model_id, counts, exact=exact, stamps=stamps)
    problems: list[Problem] = []
    waiting: list[Row | Problem] = []
    last = time.monotonic()

    def commit() -> None:
        """Write what was scored since the last commit, and report progress."""
        good = [item for item in waiting if not isinstance(item, Problem)]
        bad = [item for item in waiting if isinstance(item, Problem)]
        store.add_scores(good, bad, model_id=model_id, stamps=stamps)
        for item in waiting:
            stamps.pop(image_of(item), None)
        counts.scored += len(good)
        counts.bad += len(bad)
        problems.extend(bad[: max(0, _SHOWN_PROBLEMS - len(problems))])
        waiting.clear()
        if progress is not None:
            done = min(counts.done, counts.total) if counts.total else counts.done
            progress(done, counts.total)  # what cannot be read may not be in the total

    for rows in scorer.score(unscored):
        waiting += rows
        if len(waiting) >= COMMIT_IMAGES or time.monotonic() - last > COMMIT_SECONDS:
            commit()
            last = time.monotonic()
    commit()
    store.forget_gone(model_id, counts.packed | _emptied(source, store, model_id, counts.packed))
    return ScanSummary(counts.scored, counts.skipped, tuple(problems), counts.skipped_bad)


def iter_unscored(
    source: Source,
    store: PoolStore,
    model_id: str,
    counts: ScanCounts,
    *,
    exact: bool = False,
    stamps: dict[str, str] | None = None,
) -> Iterator[ImageItem | Problem]:
    """Yield the items that this model has not seen as they are now, counting the others as skipped.

    Args:
        exact: a score of the fast pass does not count as seen.
        stamps: gets the stamp of the file of each image that is yielded.
    """
    any_bad = bool(store.problems(model_id))
    for chunk in _chunks(source.items()):
        names = [item.file if isinstance(item, Problem) else item.name for item in chunk]
        now = _stamps_of(names)
        counts.packed |= {start: now[name] for name in names if (start := _start_in_file(name))}
        fresh = set(store.pending(model_id, names, stamps=now, exact=exact))
        if stamps is not None:
            stamps |= {name: now[name] for name in fresh}
        if any_bad and len(fresh) < len(names):
            images = {item.name for item in chunk if not isinstance(item, Problem)}
            counts.skipped_bad += store.count_problems(model_id, sorted(images - fresh))
        for item, name in zip(chunk, names, strict=True):
            if name in fresh or isinstance(item, Problem):
                yield item
            else:
                counts.skipped += 1


def _emptied(
    source: Source, store: PoolStore, model_id: str, listed: Mapping[str, str]
) -> dict[str, str]:
    """Return the archives of a source that held images before and hold none now, as ``listed``."""
    known = store.one_per_range(model_id, INSIDE, _start_in_file)
    gone = {start: image for start, image in known if start not in listed}
    return {start: file_stamp(file_of(i)) for start, i in gone.items() if source.holds(i)}


def _start_in_file(name: str) -> str:
    """Return how the names of all images in the same archive or video begin; "" for other images."""
    file = file_of(name)
    return next((file + mark for mark in (INSIDE, AT) if name.startswith(file + mark)), "")


def _stamps_of(names: Sequence[str]) -> dict[str, str]:
    """Return the stamp of each image's file; an archive or a video is looked at once."""
    files = {name: file_of(name) for name in names}
    found = {file: file_stamp(file) for file in set(files.values())}
    return {name: found[file] for name, file in files.items()}


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


def _count_in_background(source: Source, counts: ScanCounts) -> None:
    """Fill in how many images there are, while the scan begins."""
    Thread(target=_count, args=(source, counts), daemon=True).start()


def _count(source: Source, counts: ScanCounts) -> None:
    from hardmine.errors import HardmineError

    try:
        counts.total = source.count() or 0
    except (HardmineError, OSError):  # listing it for the scan says what is wrong
        counts.total = 0


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody how the work goes."""


_SIZED = 128
"""Images of archives, videos and URLs whose sizes are read to see in which form a file's boxes are."""


def _bound(detector: Detector, source: Source) -> Detector:
    """Return a predictions file bound to the source's images, any other detector as it is.

    Raises:
        DataError: the file is about other images.
    """
    from hardmine.inference.image_loading import path_of, read_item
    from hardmine.inference.predictions_file import Predictions

    if not isinstance(detector, Predictions):
        return detector
    images: list[Path] = []
    sizes: dict[Path, tuple[int, int]] = {}
    for item in source.items():
        if isinstance(item, Problem):
            continue
        images.append(path_of(item.name))
        if item.read is not None and len(sizes) < _SIZED:
            with suppress(DataError, OSError):  # said where it is scanned
                sizes[images[-1]] = encoded_size(read_item(item), item.name)
    return detector.bound_to(images, sizes)


def _require_images(source: Source, summary: ScanSummary) -> None:
    if summary.scanned:
        return
    if not summary.skipped and not summary.problems:
        raise DataError(f"{source.name}: no image in the pool")
    bad = len(summary.problems) + summary.skipped_bad
    first = f"the first: {summary.problems[0]}" if summary.problems else "found by an earlier scan"
    raise DataError(
        f"{source.name}: no image of the pool can be read ({counted(bad, 'problem')}, {first})"
    )


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
    request = options or MineOptions()
    source = _open(pool, request)
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
    scorer = make_pool_scorer(detector, replace(request, ray=None))
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
