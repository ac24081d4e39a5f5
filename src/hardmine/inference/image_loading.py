"""From image files to batches on the model's canvas, in threads, in order and in bounded memory.

A thread takes a batch through all of it: reading, decoding and the network. The threads are at
different stages at any moment, so that the disk, the decoder and the network overlap; no core waits
for a stage that is slower than the others, and nothing is handed over between stages. A batch that does
not fit the device's memory is halved.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from hardmine.data.images import Cover, Picture, decode_image, read_file, split_crop
from hardmine.data.resize import Placement, Resize
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.data.video import split_frame
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Problem

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")

AHEAD = 2
"""Batches that wait beside those that are worked on."""

UNREACHABLE = FindingKind.IMAGE_UNREACHABLE
"""The kind of problem that may be gone another time."""

_given_cores: list[int] = []
_log = logging.getLogger("hardmine")


class UnreachableError(DataError):
    """Storage that does not answer: the image itself may be fine."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageItem:
    """An image that can be read: ``name`` is what the store and people call it; ``read`` returns the
    encoded file (``None``: a file on this machine of that name) or raises ``DataError``; ``held``
    says that it is in memory already; ``picture`` is the image itself where it is decoded already.
    """

    name: str
    read: Callable[[], bytes] | None = None
    held: bool = False
    picture: Picture | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """``pixels`` u8[H, W, 3] on the model's canvas; ``phash`` 0 when it was not asked for."""

    name: str
    pixels: NDArray[np.uint8]
    placement: Placement
    phash: int

    def undo(self, detections: Detections) -> Detections:
        """Return detections in pixels of the original image."""
        return replace(detections, boxes=self.placement.inverse(detections.boxes))


def path_of(name: str) -> Path:
    """Return an image's name as a path, whose last parts are the folders and the file that people know.

    Those of a URL are spelled as on the server (``a%20b.jpg`` is ``a b.jpg``), members of an archive
    as in the archive. A frame of a video and a part of an image are PNG files beside it:
    ``cam3.mp4#t=12.480.png``.
    """
    if split_frame(name) or split_crop(name):
        return Path(f"{name}.png")
    place, inside, member = name.partition("!/")
    return Path((unquote(place) if "://" in place else place) + inside + member)


def read_item(item: ImageItem) -> bytes:
    """Return the encoded file, from this machine or from wherever the item's source has it.

    Raises:
        DataError: it is not there, or (``UnreachableError``) its storage does not answer.
    """
    if item.read is not None:
        return item.read()
    return read_file(Path(item.name))


def open_item(item: ImageItem, cover: Cover | None = None) -> Picture:
    """Read and decode one image; ``cover`` as in :func:`~hardmine.data.images.decode_image`.

    Raises:
        DataError: as :func:`read_item`, or it is no image, or a broken one.
    """
    if item.picture is not None:
        return item.picture
    return decode_image(read_item(item), item.name, cover)


def item_problem(item: ImageItem, error: DataError) -> Problem:
    """Return why an image cannot be used."""
    reason = str(error).removeprefix(f"{item.name}: ")
    unreachable = isinstance(error, UnreachableError)
    kind = UNREACHABLE if unreachable else FindingKind.IMAGE_UNREADABLE
    return Problem(kind, item.name, -1, reason)


def load_item(item: ImageItem, resize: Resize, *, hashed: bool) -> Loaded | Problem:
    """Read, decode and resize one image, or say why it cannot be."""
    try:
        picture = open_item(item, resize.decoded_cover)
    except DataError as error:
        return item_problem(item, error)
    pixels, placement = resize.apply(picture)
    return Loaded(item.name, pixels, placement, perceptual_hash(picture.pixels) if hashed else 0)


def stack(loaded: Sequence[Loaded]) -> Tensor:
    """Return u8[B, 3, H, W] (a view of a channels-last block)."""
    import torch

    return torch.from_numpy(np.stack([item.pixels for item in loaded])).permute(0, 3, 1, 2)


def use_cores(count: int) -> None:
    """Let this process use so many cores, whatever the machine has."""
    _given_cores[:] = [count]


def count_cores() -> int:
    """Return how many cores this process may use."""
    if _given_cores:
        return _given_cores[0]
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Yield lists of up to ``size`` items."""
    walk = iter(items)
    while batch := list(islice(walk, size)):
        yield batch


def run_ordered(
    batches: Iterable[A], work: Callable[[A], B], workers: int, ahead: int = AHEAD
) -> Iterator[B]:
    """Yield ``work(batch)`` for every batch, in order, with ``workers`` batches under way at once.

    ``batches`` is drawn from only as room is made; closing the iterator drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hardmine")
    pending: deque[Future[B]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(work, batch))
            if len(pending) >= workers + ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_core_each() -> Iterator[None]:
    """Let every thread run torch on one core: the pipeline's threads are the parallelism."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class HalvingBatch(Generic[R]):
    """Runs batches, smaller ones from the first time that a batch does not fit the device."""

    def __init__(self, run: Callable[[Tensor], R]) -> None:
        self._run = run
        self.limit: int | None = None
        """Images at once; ``None`` as long as every batch fitted."""

    def __call__(self, images: Tensor) -> list[R]:
        """Return ``run(part)`` for one part after the other of ``images`` [B, ...].

        Raises:
            torch.OutOfMemoryError: not even one image fits.
        """
        import torch

        if self.limit is not None and len(images) > self.limit:
            return [result for part in torch.split(images, self.limit) for result in self(part)]
        try:
            return [self._run(images)]
        except torch.OutOfMemoryError:
            if len(images) < 2:
                raise
        self._halve(len(images))
        return self(images)

    def _halve(self, size: int) -> None:
        import torch

        if self.limit is None or self.limit > size // 2:
            self.limit = size // 2
            _log.warning("the device is out of memory: going on with batches of %d", self.limit)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
