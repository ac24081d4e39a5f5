"""Features of whole images, for telling variety from repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import Detector
from hardmine.inference.image_loading import batched
from hardmine.inference.loading import ImageItem, Loaded, load_item, stack
from hardmine.types import Problem

_BATCH = 16


@runtime_checkable
class FeatureDetector(Protocol):
    """A detector that can say what an image looks like to it."""

    def features(self, images: Tensor) -> Tensor:
        """Return f32[B, D] for u8[B, 3, H, W], the same D for every image."""
        ...


def pooled_features(detector: Detector, items: Sequence[ImageItem]) -> NDArray[np.float32]:
    """Return f32[N, D]: the detector's own features of each image.

    Raises:
        ConfigError: the detector has none.
        DataError: an image cannot be read.
    """
    if not isinstance(detector, FeatureDetector):
        raise ConfigError(
            "diverse: this detector gives no features (a method features(images) -> f32[B, D]); "
            "our own checkpoints do"
        )
    parts = []
    for batch in batched(items, _BATCH):
        read = [load_item(item, detector.resize, hashed=False) for item in batch]
        loaded = [item for item in read if isinstance(item, Loaded)]
        if len(loaded) < len(read):
            raise DataError(str(next(item for item in read if isinstance(item, Problem))))
        images = stack(loaded)
        parts.append(detector.features(images).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
