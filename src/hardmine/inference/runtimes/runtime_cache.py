"""Converted networks on disk, named by what they were made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from hardmine.inference.checkpoint_detector import TorchDetector

_GRAPH_VERSION = "1"
"""Raise it when what is exported changes."""


def cached_path(detector: TorchDetector, cache: Path, runtime: str, suffix: str) -> Path:
    """Return where the converted network of these weights and these versions is or belongs."""
    resize = detector.resize
    parts = (
        detector.model_id,
        runtime,
        torch.__version__,
        _GRAPH_VERSION,
        resize.height,
        resize.width,
    )
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return cache / f"{digest}{suffix}"
