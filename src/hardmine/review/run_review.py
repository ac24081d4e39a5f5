"""``hardmine review``: take in a CSV of verdicts, serve the page, or export what is left to label."""

from __future__ import annotations

import errno
import gc
import getpass
import logging
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

import numpy as np

from hardmine.data.convert import Conversion, convert
from hardmine.data.images import image_size
from hardmine.errors import NOTICE, DataError, MissingExtraError
from hardmine.mining.candidates_file import num_verdicts
from hardmine.mining.pool_store import LABELS, PoolStore
from hardmine.mining.sources.local_files import local_files
from hardmine.plurals import counted
from hardmine.review.candidate_list import CandidateList, Item, open_candidates, run_of
from hardmine.review.decisions import DecisionDesk
from hardmine.review.labelling_files import is_labelling_file
from hardmine.review.request_guard import Access
from hardmine.review.review_options import PORT, ReviewOptions
from hardmine.review.verdicts import has_verdicts, new_decisions, read_verdicts
from hardmine.types import F32, Dataset, Decision, ImageRecord, ImageState, Problem, Verdict

_TRIES = 20
"""Ports that are tried from :data:`PORT` on."""
Say = Callable[[str], None]
_log = logging.getLogger("hardmine")


def serve_review(target: Path, options: ReviewOptions, say: Say, note: Say) -> None:
    """Serve the page until the process is interrupted.

    Args:
        target: as for :func:`~hardmine.review.candidate_list.open_candidates`.
        say: prints a result; ``note``: what happens.

    Raises:
        DataError: there is nothing to look at, the port is taken, or a file is broken.
        MissingExtraError: the extra ``review`` is not installed.
    """
    try:
        import uvicorn

        from hardmine.review.server import Review, make_app
    except ImportError as error:
        raise MissingExtraError(
            f"the review page needs {error.name}: pip install 'hardmine[review]'"
        ) from None
    with _long_lived():
        listed = open_listed(target)
    if not len(listed):
        raise DataError(f"{target}: nothing to look at: no image was handed out")
    with DecisionDesk(listed.store) as desk, bind(options) as place:
        access = Access.of(options.host, place.getsockname()[1])
        with _long_lived():
            review = Review(listed, desk, options.who or user_name())
        config = uvicorn.Config(
            make_app(review, access),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=16384,
            timeout_graceful_shutdown=2,
        )
        items = (item for item in listed.items if item.leader < 0)
        left = sum(not item.is_settled(desk.latest(item)) for item in items)
        say(
            f"{counted(len(listed), 'picture')} to look at, {left} of them without a decision: "
            f"{access.url}  (Ctrl+C ends)"
        )
        if access.token is not None:
            note("the page is served beyond this machine: whoever has this address can decide")
        if options.open_browser:
            open_page(access.url, note)
        try:
            uvicorn.Server(config).run(sockets=[place])
        except KeyboardInterrupt:
            pass
        finally:
            review.pictures.close()
            say(f"decisions are in {listed.store}")


@contextmanager
def _long_lived() -> Iterator[None]:
    """Keep the garbage collector from walking what is made here, now and later.

    With 100,000 candidates this halves the time to read them, and no decision waits for the collector.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def open_listed(target: Path) -> CandidateList:
    """Return what there is to look at; verdicts of a file go into the store.

    Args:
        target: as for :func:`read_listed`.

    Raises:
        DataError: as :func:`read_listed`.
    """
    listed, fresh = read_listed(target)
    if fresh:
        with PoolStore(listed.store, beside_a_run=True) as store:
            store.add_decisions(fresh)
    return listed


def read_listed(target: Path) -> tuple[CandidateList, list[Decision]]:
    """Return what there is to look at, and the verdicts of a file that the store lacks; write nothing.

    Args:
        target: as for :func:`open_candidates`; or a labelling program's file in a run's folder. Of a
            folder, what is filled in in its ``candidates.csv`` counts.

    Raises:
        DataError: as :func:`open_candidates`, and for a verdict that contradicts one of the page.
    """
    is_labelled = target.is_file() and is_labelling_file(target)
    listed = open_candidates(run_of(target) if is_labelled else target)
    file = target if is_labelled else _sheet(target, listed)
    if file is None:
        return listed, []
    of_pool = [item for item in listed.items if item.queue != LABELS]
    known = {text: item.path for item in of_pool for text in (item.name, item.path)}
    verdicts = read_verdicts(file, known)
    model_id = next((item.model_id for item in listed.items), "")
    with ExitStack() as stack:
        store = None
        if listed.store.is_file():
            store = stack.enter_context(PoolStore(listed.store, read_only=True))
        fresh = new_decisions(store, verdicts, str(file), model_id)
    _log.log(
        NOTICE, "%s: %s read, %d of them new", file, counted(len(verdicts), "verdict"), len(fresh)
    )
    return listed, fresh


def _sheet(target: Path, listed: CandidateList) -> Path | None:
    """Return the CSV whose verdicts count: the one given, or the filled-in one of the folder given."""
    if listed.csv is not None:
        return listed.csv if has_verdicts(listed.csv) else None
    return _filled_in(target.resolve())


def take_in_verdicts(run: Path) -> None:
    """Take what is typed into a run's ``candidates.csv`` into its store, if anything is.

    Raises:
        DataError: as :func:`open_listed`.
    """
    sheet = _filled_in(run)
    if sheet is not None:
        open_listed(sheet)


def _filled_in(run: Path) -> Path | None:
    """Return the run's ``candidates.csv`` if verdicts are filled in; one that cannot be read is said."""
    sheet = run / "candidates.csv"
    try:
        return sheet if num_verdicts(sheet) else None
    except DataError as error:
        _log.warning("%s: no verdicts are read", error)
        return None


@contextmanager
def bind(options: ReviewOptions) -> Iterator[socket.socket]:
    """Give the socket to listen on: the port asked for, or the first free one from 8017 on.

    Raises:
        DataError: the port is taken, or the address is not one of this machine.
    """
    asked = options.port is not None
    ports = [options.port or 0] if asked else [*range(PORT, PORT + _TRIES)]
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    for port in ports:
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((options.host, port))
            place.listen(128)
        except OSError as error:
            place.close()
            if error.errno == errno.EADDRINUSE and not asked:
                continue
            raise DataError(_why_not(options.host, port, error)) from None
        with place:
            yield place
        return
    raise DataError(f"ports {ports[0]} to {ports[-1]} are all taken; --port 0 takes any free port")


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is taken, maybe by another review; choose another one with --port, or "
            "leave it out"
        )
    return f"{host}, port {port}: the page cannot be served there ({error.strerror or error})"


def open_page(url: str, note: Say) -> None:
    """Open a page in the browser; where there is none, say which address to open."""
    try:
        with redirect_stdout(sys.stderr):
            opened = webbrowser.open(url)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        note(f"no browser could be opened: open {url} yourself")


def user_name() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"


def export_to_label(target: Path, out: Path, to: str) -> Conversion:
    """Write the images that hold an object and have no box yet, with the alarms as predictions.

    Those that cannot be read are left out, and named in a warning.

    Args:
        target: as for :func:`~hardmine.review.candidate_list.open_candidates`.
        to: a format that a labelling program takes.

    Raises:
        DataError: no such image, none of them can be read, or ``out`` is not empty.
    """
    listed = open_listed(target)
    items = to_label(listed)
    if not items:
        raise DataError(
            f"{target}: no image is left to label: none has the verdict contains_object"
        )
    with tempfile.TemporaryDirectory(prefix="hardmine-images-") as copies:
        files = local_files([item.path for item, _ in items], Path(copies))
        records: list[ImageRecord] = []
        scores: dict[Path, F32] = {}
        origins: dict[Path, str] = {}
        for (item, boxes), file in zip(items, files, strict=True):
            try:
                record, seen = _record(boxes, file, listed.categories)
            except DataError as error:
                _log.warning("left out: %s", error)
                continue
            records.append(record)
            scores[record.path] = seen
            origins[record.path] = item.path
        if not records:
            raise DataError(f"{target}: none of the {len(items)} images to label can be read")
        dataset = Dataset(listed.categories, tuple(records), out)
        return convert(dataset, out, to, scores=scores, origins=origins)


def to_label(listed: CandidateList) -> list[tuple[Item, list[list[object]]]]:
    """Return the images with the verdict ``contains_object`` and without a box, with their alarms."""
    if not listed.store.is_file():
        return []
    with PoolStore(listed.store, read_only=True) as store:
        decided = store.decisions()
        first: dict[str, Item] = {}
        for item in listed.items:
            first.setdefault(item.path, item)
        return [
            (item, listed.boxes(item, store))
            for path, item in first.items()
            if path in decided
            and decided[path].verdict is Verdict.CONTAINS_OBJECT
            and not decided[path].boxes
        ]


def _record(
    boxes: list[list[object]], file: Path | Problem, categories: tuple[str, ...]
) -> tuple[ImageRecord, F32]:
    if isinstance(file, Problem):
        raise DataError(str(file))
    width, height = image_size(file)
    table = np.array([box[:5] for box in boxes], np.float32).reshape(-1, 5)
    labels = np.array([categories.index(str(box[5])) + 1 for box in boxes], np.int64)
    record = ImageRecord(
        file,
        width,
        height,
        table[:, :4].copy(),
        labels,
        np.zeros(len(table), np.bool_),
        ImageState.UNREVIEWED,
    )
    return record, table[:, 4].copy()
