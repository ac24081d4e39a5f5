"""Batches with a guaranteed share of images that hold objects, reproducible at any step.

What batch number ``step`` holds, and how each image is augmented, follows from the seed alone: the
same for any number of threads or processes and after any restart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from hardmine.augment.chain import AugmentConfig, Augmenter
from hardmine.augment.paste import load_alarms
from hardmine.augment.sample import Sample, Source
from hardmine.data.images import Cover, read_picture
from hardmine.data.resize import Resize
from hardmine.device import count_workers
from hardmine.errors import DataError
from hardmine.recipes.recipe import BatchConfig
from hardmine.tensors import Batch
from hardmine.types import Dataset, ImageRecord


class BatchPlan:
    """Which images batch ``step`` holds, for any step, without walking there.

    Images with objects and negatives are two endless streams of reshuffled passes; a batch takes a
    fixed number from each (fractions are carried over to later batches).
    """

    def __init__(self, has_objects: Sequence[bool], config: BatchConfig, seed: int) -> None:
        self._streams = (
            np.flatnonzero(np.asarray(has_objects, dtype=bool)),
            np.flatnonzero(~np.asarray(has_objects, dtype=bool)),
        )
        if not len(has_objects):
            raise DataError("training set: got 0 usable images, wanted at least 1")
        self._size = config.size
        self._seed = seed
        self._per_batch = config.size * self._negative_share(config)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return (image index, visit number of that image) for each place in batch ``step``."""
        low, high = math.floor(step * self._per_batch), math.floor((step + 1) * self._per_batch)
        objects = range(step * self._size - low, (step + 1) * self._size - high)
        return [self._at(0, p) for p in objects] + [self._at(1, p) for p in range(low, high)]

    def _at(self, stream: int, position: int) -> tuple[int, int]:
        visit, place = divmod(position, len(self._streams[stream]))
        return int(self._shuffled(stream, visit)[place]), visit

    def _shuffled(self, stream: int, visit: int) -> np.ndarray:
        return np.random.default_rng([self._seed, stream, visit]).permutation(self._streams[stream])

    def _negative_share(self, config: BatchConfig) -> float:
        objects, negatives = (len(stream) for stream in self._streams)
        if not negatives or not objects:
            return float(negatives > 0)
        share = config.negative_share
        if share is None:
            share = negatives / (objects + negatives)
        return min(share, 1.0 - config.min_object_share)


WORKERS = 2
"""Threads that read and augment images, unless the caller or the user says another number."""


class BatchLoader:
    """Reads, augments and stacks the planned batches on threads, a few batches ahead."""

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        resize: Resize,
        augmentation: AugmentConfig,
        seed: int,
        *,
        workers: int | None = None,
        ahead: int = 3,
    ) -> None:
        self._records = dataset.records
        self._plan = plan
        alarms = load_alarms(augmentation.alarm_paste)
        donors = RecordDonors(dataset.records)
        self._augmenter = Augmenter(resize, augmentation, donors, alarms)
        self._seed = seed
        self._workers = workers or count_workers(WORKERS)
        self._ahead = ahead

    def batches(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches ``start`` … ``stop`` − 1; process ``rank`` of ``world`` gets its part."""
        with ThreadPoolExecutor(self._workers) as pool:
            pending: deque[list[Future[Sample]]] = deque()
            ids: deque[list[int]] = deque()
            try:
                for step in range(start, stop + self._ahead):
                    if step < stop:
                        items = self._plan.batch(step)[rank::world]
                        ids.append([index for index, _ in items])
                        pending.append([pool.submit(self._sample, *item) for item in items])
                    if len(pending) > self._ahead or step >= stop:
                        if not pending:
                            return
                        samples = [future.result() for future in pending.popleft()]
                        yield collate(samples, ids.popleft())
            finally:
                for futures in pending:
                    for future in futures:
                        future.cancel()

    def _sample(self, index: int, visit: int) -> Sample:
        record = self._records[index]
        rng = np.random.default_rng([self._seed, 2, visit, index])
        return load_sample(record, self._augmenter, rng)


class RecordDonors:
    """The images of a training set as those that others are mixed with.

    Which one is drawn follows from the generator alone, so a sample is the same for any number of
    threads and after any restart.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self._records = records
        holds = np.array([len(record.labels) > 0 for record in records], bool)
        self._with, self._without = np.flatnonzero(holds), np.flatnonzero(~holds)

    def draw(self, rng: np.random.Generator, *, objects: bool, cover: Cover) -> Source:
        """Return an image with objects or one without; see ``Donors``."""
        indices = self._with if objects else self._without
        if not len(indices):
            kind = "with" if objects else "without"
            raise DataError(f"training set: got no image {kind} objects to mix with")
        record = self._records[int(indices[rng.integers(len(indices))])]
        picture = read_picture(record.path, cover)
        return Source(picture, record.boxes, record.labels, record.ignore)


def load_sample(record: ImageRecord, augmenter: Augmenter, rng: np.random.Generator) -> Sample:
    """Read one record's image and augment it onto the canvas."""
    return augmenter.draw(
        partial(read_picture, record.path), record.boxes, record.labels, record.ignore, rng
    )


def collate(samples: Sequence[Sample], ids: Sequence[int]) -> Batch:
    """Stack samples; boxes are padded to the largest count (at least one slot, label 0)."""
    slots = max(1, *(len(sample.labels) for sample in samples))
    boxes = torch.zeros(len(samples), slots, 4)
    labels = torch.zeros(len(samples), slots, dtype=torch.int64)
    ignore = torch.zeros(len(samples), slots, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = torch.from_numpy(sample.boxes)
        labels[row, :count] = torch.from_numpy(sample.labels)
        ignore[row, :count] = torch.from_numpy(sample.ignore)
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Batch(images.permute(0, 3, 1, 2), boxes, labels, ignore, torch.tensor(list(ids)))
