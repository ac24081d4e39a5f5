"""Features of whole images, for telling variety from repetition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardmine.data.image_io import read_image
from hardmine.detect.detector import Detector
from hardmine.errors import ConfigError

_BATCH = 16


@runtime_checkable
class FeatureDetector(Protocol):
    """A detector that can say what an image looks like to it."""

    def features(self, images: Tensor) -> Tensor:
        """Return f32[B, D] for u8[B, 3, H, W], the same D for every image."""
        ...


def pooled_features(detector: Detector, paths: Sequence[Path]) -> NDArray[np.float32]:
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
    for start in range(0, len(paths), _BATCH):
        canvases = [
            detector.resize.apply(read_image(path))[0] for path in paths[start : start + _BATCH]
        ]
        images = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2)
        parts.append(detector.features(images).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
