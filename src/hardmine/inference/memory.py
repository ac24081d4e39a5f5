"""A device that runs out of memory: halve the batch and go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")

_log = logging.getLogger("hardmine")


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
        if self.limit is None or self.limit > size // 2:
            self.limit = size // 2
            _log.warning("the device is out of memory: going on with batches of %d", self.limit)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
