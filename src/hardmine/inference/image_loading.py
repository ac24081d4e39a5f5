"""Work on batches of images in threads: in order, a few batches ahead, in bounded memory.

A thread takes a batch through all of it: reading, decoding and the network. The threads are at
different stages at any moment, so that the disk, the decoder and the network overlap; no core waits
for a stage that is slower than the others, and nothing is handed over between stages.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

AHEAD = 2
"""Batches that wait beside those that are worked on."""

A = TypeVar("A")
B = TypeVar("B")


_given: list[int] = []


def use_cores(count: int) -> None:
    """Let this process use so many cores, whatever the machine has."""
    _given[:] = [count]


def count_cores() -> int:
    """Return how many cores this process may use."""
    if _given:
        return _given[0]
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
