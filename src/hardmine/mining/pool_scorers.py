"""How the images of a pool are scored: fast and a little off, or at full precision, here or on many
machines.

A scan (``scan.py``) runs one of these over the images that have no score yet. On many machines Ray
Data runs a pool of actors that hold the model: the driver lists the pool and is the only writer of
the store; names go out in blocks, and results come back as they are ready. What a dead machine had
in hand is handed to another one.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError, MissingExtraError
from hardmine.inference.image_loading import batched
from hardmine.mining.pool_store import pack_alarms, unpack_alarms
from hardmine.mining.sources.pool_source import open_image, open_images
from hardmine.mining.sources.remote import read_ahead
from hardmine.plurals import counted
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


LOCAL = "local"
"""The address that starts Ray on this machine alone."""
FIND = "find"
"""The address of the cluster that this machine knows (as ``auto``); where none answers, ``local``."""

_WINDOW = 200_000
"""Names handed to one execution: what the driver holds in memory."""
_BLOCK = 64
_ATTEMPTS = 3
_HERE = 128
"""Fewer images than these are scored again by the driver: starting actors would take longer."""

_ANSWER_SECONDS = 10.0
_LAST_PORT = 65535

_log = logging.getLogger("hardmine")


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, or start Ray on this machine; leave an existing connection alone.

    Nothing about the use is sent to Ray's makers from what is started here.

    Args:
        address: ``local``, ``auto``, ``find`` (auto, else local) or that of a cluster's head.

    Raises:
        ConfigError: not an address.
        MissingExtraError: Ray is not installed.
        DataError: no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("--ray needs Ray: pip install 'hardmine[ray]'") from None
    if ray.is_initialized():
        yield
        return
    _connect(ray, address)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    if address == FIND:
        try:
            return _connect(ray, "auto")
        except DataError:
            _log.warning("no Ray cluster answers: Ray runs on this machine alone")
            return _connect(ray, LOCAL)
    _check_address(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise DataError(f"--ray {address}: no cluster answers ({error})") from None
    return None


def _check_address(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for minutes."""
    if address in {LOCAL, "auto"} or ("://" in address and not address.startswith("ray://")):
        return
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d{1,5})", address)
    if found is None or int(found[2]) > _LAST_PORT:
        raise ConfigError(f"--ray: got {address!r}, wanted local, auto or HOST:PORT")
    try:
        socket.create_connection((found[1], int(found[2])), _ANSWER_SECONDS).close()
    except OSError as error:
        raise DataError(f"--ray {address}: no cluster answers ({error})") from None


class RayScorer:
    """Scores a pool by actors with one detector, over all machines of the connected cluster.

    Args:
        runtime: of the fast pass, on each worker; ``None`` scores at full precision at once.
    """

    name = "Ray"

    def __init__(self, detector: Detector, runtime: str | None = "auto") -> None:
        import ray

        self._here = detector
        self._model_id = detector.model_id
        self._detector = ray.put(detector)
        self._runtime = runtime
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._gpus = int(have.get("GPU", 0)) if _on_cuda(detector) else 0
        cores = max(1, int(have.get("CPU", 1)))
        self._actors = self._gpus or cores
        self._cores = max(1, cores // self._gpus) if self._gpus else 1
        self.batch_size = _BLOCK

    def score(self, items: Iterable[ImageItem | Problem]) -> Iterator[Sequence[Row | Problem]]:
        """Yield rows as they come, in no order; problems are passed on."""
        for window in batched(items, _WINDOW):
            yield [item for item in window if isinstance(item, Problem)]
            names = [_name_of(item) for item in window if not isinstance(item, Problem)]
            yield from self._all(names, self._runtime)

    def score_exactly(self, names: Sequence[str]) -> Iterator[Row | Problem]:
        """Yield rows at full precision, in no order; a few images are scored on this machine."""
        if len(names) < _HERE:
            yield from exact_rows(self._here, open_images(names))
            return
        for rows in self._all(names, None):
            yield from rows

    def _all(self, names: Sequence[str], runtime: str | None) -> Iterator[list[Row | Problem]]:
        """Yield the rows of all names, each once; what a broken execution left is run again."""
        import ray

        left = dict.fromkeys(names)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                for table in self._execute(list(left), runtime):
                    rows = read_rows(table, self._model_id, exact=runtime is None)
                    fresh = [row for row in rows if image_of(row) in left]
                    for row in fresh:
                        del left[image_of(row)]
                    yield fresh
            except ray.exceptions.RayTaskError as error:
                raise DataError(f"a Ray worker failed: {error.cause or error}") from error
            except ray.exceptions.RayError as error:
                rest = counted(len(left), "image is", "images are")
                _log.warning("Ray: %s; %s left, attempt %d", error, rest, attempt)
            if not left:
                return
        raise DataError(
            f"Ray gave no result for {counted(len(left), 'image')} in {_ATTEMPTS} attempts"
        )

    def _execute(self, names: Sequence[str], runtime: str | None) -> Iterator[Any]:
        import pyarrow
        import ray

        _be_quiet(ray.data.DataContext.get_current())
        blocks = [pyarrow.table({"image": part}) for part in batched(names, _BLOCK)]
        if not blocks:
            return
        actors = min(self._actors, len(blocks))
        results = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(self._detector, runtime, self._cores),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._cores,
            num_gpus=1 if self._gpus else None,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _name_of(item: ImageItem) -> str:
    if item.held:
        raise DataError(
            f"{item.name}: archives that can only be read from front to back (compressed or remote "
            "tar) cannot be divided among machines; unpack them, or use uncompressed tar or zip"
        )
    return item.name


def image_of(row: Row | Problem) -> str:
    """Return the image that a result is about."""
    return row.file if isinstance(row, Problem) else row[0].image


def _on_cuda(detector: Detector) -> bool:
    device = getattr(detector, "device", None)
    return getattr(device, "type", "") == "cuda"


def _be_quiet(context: Any) -> None:
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


COLUMNS = ("image", "score", "label", "num_alarms", "level", "phash", "alarms", "kind", "reason")
"""Of a worker's table of results; ``kind`` and ``reason`` are empty unless the image is a problem."""


class Worker:
    """Scores blocks of names; one lives in each actor.

    Args:
        detector: a reference to the detector in Ray's object store.
        runtime: of the fast pass; ``None`` scores at full precision instead.
        cores: how many the actor was given.
    """

    def __init__(self, detector: Any, runtime: str | None, cores: int) -> None:
        import ray

        from hardmine.inference.fast_scoring import make_scorer
        from hardmine.inference.image_loading import use_cores

        use_cores(cores)
        found = ray.get(detector)
        self._scorer: PoolScorer = ExactScorer(found)
        if runtime is not None:
            self._scorer = FastScorer(found, make_scorer(found, runtime))

    def __call__(self, block: Any) -> Any:
        """Return a table of results for a table of names."""
        import pyarrow

        items = (open_image(name) for name in block["image"].to_pylist())
        rows = [_values(row) for part in self._scorer.score(items) for row in part]
        return pyarrow.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


def _values(row: Row | Problem) -> tuple[Any, ...]:
    """Return a result as the values of ``COLUMNS``."""
    if isinstance(row, Problem):
        return (row.file, 0.0, 0, 0, -1, 0, b"", row.kind, row.reason)
    s, found = row
    counts = (s.image, s.score, s.label, s.num_alarms, s.level, s.phash)
    return (*counts, pack_alarms(found), "", "")


def read_rows(table: Any, model_id: str, *, exact: bool) -> list[Row | Problem]:
    """Return the results that a table of :class:`Worker` holds."""
    results: list[Row | Problem] = []
    for row in table.to_pylist():
        if row["kind"]:
            results.append(Problem(row["kind"], row["image"], -1, row["reason"]))
            continue
        score = PoolScore(
            row["image"],
            row["score"],
            row["label"],
            row["num_alarms"],
            row["level"],
            row["phash"],
            model_id,
            exact,
        )
        results.append((score, unpack_alarms(row["alarms"])))
    return results
