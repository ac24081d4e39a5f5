"""Images of any source as files on this machine, for what reads files alone: training, labelling."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

from hardmine.data.formats.image_files import image_problem, read_sizes
from hardmine.data.images import split_crop
from hardmine.data.video import split_frame
from hardmine.errors import DataError
from hardmine.files import write_bytes
from hardmine.inference.image_loading import ImageItem, item_problem, path_of, read_item
from hardmine.mining.sources.archives_and_videos import INSIDE
from hardmine.mining.sources.pool_source import (
    Source,
    file_of,
    name_inside,
    open_image,
    open_source,
)
from hardmine.mining.sources.remote import read_ahead
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageRecord, ImageState, Problem


def load_pool(
    pool: Dataset | Path | str, unpack_to: Path | None = None, every: str | None = None
) -> Dataset:
    """Return a pool's images as a dataset of files.

    Images in archives, in videos and behind URLs are written below ``unpack_to``, under their names
    inside the pool, in a folder for each pool. Each file gets the date of the archive or video that it
    came from: what is there already is written again when that date is another one.

    Args:
        pool, every: as for :func:`~hardmine.mining.sources.pool_source.open_source`.

    Raises:
        DataError: there is no such pool, no image in it, or it has to be unpacked and ``unpack_to`` is
            not given.
    """
    if isinstance(pool, Dataset):
        return _required(pool, pool.root)
    here = Path(pool)
    return load_source(open_source(here.resolve() if here.is_dir() else pool, every), unpack_to)


def load_source(source: Source, unpack_to: Path | None = None) -> Dataset:
    """Return a source's images as a dataset of files; as :func:`load_pool`."""
    folder = None if unpack_to is None else unpack_to / _identity(source)
    paths: list[Path] = []
    problems: list[Problem] = []
    unpacked = 0
    for item in _unpacked(source, folder):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        paths.append(item)
        unpacked += folder is not None and item.is_relative_to(folder)
    paths.sort()
    root = Path(source.prefix) if folder is None or unpacked < len(paths) else folder
    records: list[ImageRecord] = []
    for path, size in zip(paths, read_sizes(paths), strict=True):
        if isinstance(size, DataError):
            problems.append(image_problem(path, root, size))
        else:
            records.append(ImageRecord.empty(path, *size, ImageState.UNREVIEWED, "pool"))
    return _required(Dataset((), tuple(records), root, tuple(problems)), source.name)


def local_files(names: Sequence[str], folder: Path) -> list[Path | Problem]:
    """Return each image as a file: itself where it is one, else a copy below ``folder``.

    Args:
        names: as a source gave them.
    """
    found: list[Path | Problem] = []
    for number, name in enumerate(names):
        item = open_image(name)
        if item.read is None:
            found.append(Path(name))
            continue
        inside = _safe_path(path_of(name).as_posix()).parts[
            -2:
        ]  # its folder distinguishes equal names
        found.append(_write(item, folder / str(number) / Path(*inside)))
    return found


def _unpacked(source: Source, folder: Path | None) -> Iterator[Path | Problem]:
    """Yield the files of a source, those written that are not on this machine as they are now."""
    date_of = cache(_date_of)  # as it was before anything was read
    for item in read_ahead(_fresh(source, folder, date_of)):
        if isinstance(item, Problem):
            yield item
        elif item.read is None:
            yield Path(item.name)
        elif folder is None:
            raise DataError(f"{source.name}: wanted images that are files on this machine")
        else:
            yield _write(item, _place(source, item, folder), date_of(file_of(item.name)))


def _date_of(file: str | Path) -> int | None:
    """Return when a file was written, ns; ``None`` where there is none on this machine."""
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return None


def _identity(source: Source) -> str:
    """Return what identifies a pool: its name; of an archive here its size and date."""
    file = Path(source.name)
    stat = file.stat() if file.is_file() else None
    facts = [source.name, stat and stat.st_size, stat and stat.st_mtime_ns]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _fresh(
    source: Source, folder: Path | None, date_of: Callable[[str], int | None]
) -> Iterator[ImageItem | Problem]:
    """Yield the items of a source; what was unpacked before as the file that it is now."""
    for item in source.items():
        if isinstance(item, Problem) or item.read is None or folder is None:
            yield item
        else:
            place = _place(source, item, folder)
            there, wanted = _date_of(place), date_of(file_of(item.name))
            is_fresh = there is not None and wanted in (None, there)
            yield ImageItem(str(place)) if is_fresh else item


def _place(source: Source, item: ImageItem, folder: Path) -> Path:
    inside = name_inside(source, item.name)
    cut_out = split_frame(item.name) or split_crop(item.name)
    return folder / _safe_path(f"{inside}.png" if cut_out else inside)


def _safe_path(name: str) -> PurePosixPath:
    """Return a relative path that leaves no folder, whatever an archive or a server says."""
    plain = name.replace(INSIDE, "/").replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    return PurePosixPath(*parts)


def _write(item: ImageItem, place: Path, date: int | None = None) -> Path | Problem:
    try:
        write_bytes(place, read_item(item))
    except DataError as error:
        return item_problem(item, error)
    if date is not None:
        with suppress(OSError):  # without dates it is written again next time
            os.utime(place, ns=(date, date))
    return place


def _required(images: Dataset, name: Path | str) -> Dataset:
    if not images.records:
        bad = images.problems
        found = f" ({counted(len(bad), 'problem')}, the first: {bad[0]})" if bad else ""
        raise DataError(f"{name}: {'no readable image' if bad else 'no image'} in it{found}")
    return images
