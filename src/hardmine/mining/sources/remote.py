"""Images behind URLs: object stores, web servers, memory, whatever fsspec or Arrow has a driver for."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from hardmine.errors import DataError, MissingExtraError
from hardmine.files import clear_disk_errors
from hardmine.inference.image_loading import ImageItem, UnreachableError
from hardmine.types import Problem

_ATTEMPTS = 3
_PAUSE_S = 0.2
_READERS = 16
_AHEAD = 64
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 26
"""Bytes of a copied file that are held in memory; larger ones lie in a temporary file."""
_KEPT = 16
"""File systems of Arrow's that stay connected."""


def is_url(name: str) -> bool:
    """Say whether a name begins with a scheme."""
    return "://" in name and name.split("://", maxsplit=1)[0].replace("+", "").isalnum()


def open_remote(url: str) -> IO[bytes]:
    """Open a file behind a URL for reading.

    Raises:
        DataError: it cannot be reached.
    """
    system, path, _ = _connect(url)
    try:
        stream: IO[bytes] = system.open(path, "rb")
    except Exception as error:  # noqa: BLE001  (each driver has exceptions of its own)
        raise _unreachable(url, error) from None
    return stream


def fetch_remote(url: str) -> IO[bytes]:
    """Return a copy of a file behind a URL, which was read from beginning to end.

    Raises:
        DataError: it cannot be reached.
    """
    system, path, _ = _connect(url)
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (open as long as it is kept)
    try:
        with (
            clear_disk_errors(Path(tempfile.gettempdir())),
            system.open(path, "rb", block_size=0) as stream,
        ):
            shutil.copyfileobj(stream, copy, _CHUNK)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001
        raise _unreachable(url, error) from None
    copy.seek(0)
    return cast(IO[bytes], copy)


def read_remote(url: str) -> bytes:
    """Return the bytes behind a URL, trying again a few times.

    Raises:
        DataError: it cannot be reached.
    """
    system, path, _ = _connect(url)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            data: bytes = system.cat_file(path)
        except FileNotFoundError:
            raise DataError(f"{url}: no such file") from None
        except Exception as error:  # noqa: BLE001
            if attempt == _ATTEMPTS:
                raise _unreachable(url, error) from None
            time.sleep(_PAUSE_S * attempt)
        else:
            return data
    raise AssertionError("unreachable code")


def url_as_listed(url: str) -> str:
    """Return a URL as the names of what is listed there begin.

    A driver answers by one of its schemes and by whole paths: ``file://pool`` and ``local://pool`` are
    ``file:///home/me/pool``.

    Raises:
        DataError: it cannot be reached.
    """
    _, path, url_of = _connect(url)
    return url_of(path)


def list_remote(url: str) -> Iterator[str]:
    """Yield the URLs of the files that a URL names: below a folder, by a glob, or itself.

    Raises:
        DataError: it cannot be reached, or there is nothing.
    """
    system, path, url_of = _connect(url)
    try:
        found = _list(system, path)
        first = next(found, None)
    except Exception as error:  # noqa: BLE001
        raise _unreachable(url, error) from None
    if first is None:
        raise DataError(f"{url}: nothing there")
    for name in chain([first], found):
        yield url_of(name)


def read_ahead(items: Iterable[ImageItem | Problem]) -> Iterator[ImageItem | Problem]:
    """Yield the items with their bytes fetched by threads, a bounded number of them ahead."""
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="hardmine-read")
    waiting: deque[ImageItem | Problem] = deque()
    try:
        for item in items:
            waiting.append(_begin(item, pool))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting
    except BaseException:  # also when the one who asked has stopped asking
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # the last ones may still be on their way to who holds them


def _begin(item: ImageItem | Problem, pool: ThreadPoolExecutor) -> ImageItem | Problem:
    if isinstance(item, Problem) or item.read is None or item.held:
        return item
    return ImageItem(item.name, pool.submit(item.read).result, held=True)


def _list(system: Any, path: str) -> Iterator[str]:
    if any(mark in path for mark in "*?["):
        yield from system.glob(path)
    elif system.isdir(path):
        for parent, _, files in system.walk(path):
            yield from (f"{parent}/{name}" for name in sorted(files))
    elif system.exists(path):
        yield path


def _connect(url: str) -> tuple[Any, str, Callable[[str], str]]:
    """Return a URL's file system, its path there, and what makes a URL of such a path."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # no driver of fsspec's own
        place = _connect_by_arrow(url)
        if place is not None:
            return place
        if isinstance(error, ValueError):
            raise _unreachable(url, error) from None
        raise MissingExtraError(
            f"{url}: fsspec and pyarrow need a driver for it ({error})"
        ) from None
    except Exception as error:  # noqa: BLE001
        raise _unreachable(url, error) from None
    return system, path, lambda name: str(system.unstrip_protocol(name))


def _connect_by_arrow(url: str) -> tuple[Any, str, Callable[[str], str]] | None:
    """Return what :func:`_connect` does, by Arrow; ``None`` where it has no driver either."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    found = _arrow_root(f"{scheme}://{host}/")
    if found is None:
        return None
    system, base = found
    inside = f"{base}/{path}".rstrip("/") or "/"
    return system, inside, lambda name: f"{scheme}://{host}{name.removeprefix(base)}"


@lru_cache(_KEPT)
def _arrow_root(url: str) -> tuple[Any, str] | None:
    """Return the file system of a host or bucket, and where in it that begins."""
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem
        from pyarrow.lib import ArrowInvalid, ArrowNotImplementedError
    except ImportError:
        return None
    try:
        system, base = FileSystem.from_uri(url)
    except (ArrowInvalid, ArrowNotImplementedError):
        return None
    except OSError as error:
        raise _unreachable(url, error) from None
    return ArrowFSWrapper(system, skip_instance_cache=True), base.rstrip("/")


def _unreachable(url: str, error: Exception) -> UnreachableError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return UnreachableError(f"{url}: cannot be reached ({detail})")
