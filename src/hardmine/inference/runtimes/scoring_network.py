"""The network of fast scoring: pixels in, an image's hardness out; no box decoding, no NMS.

Suppression never removes an image's best box, so the highest foreground probability over the priors is
the score of the best detection. The last convolution and the softmax are in float32
even where the rest is not: rounded probabilities tie.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.models.postprocess import foreground_scores


class ScoringNetwork(nn.Module):
    """Wraps a detector's network: u8[B, H, W, 3] to ``scores`` f32[B], ``labels`` i64[B] in 1..C and
    ``priors`` i64[B], the prior that the score comes from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, labels and priors."""
        output = self.network(images.permute(0, 3, 1, 2))
        scores, labels = foreground_scores(output).max(-1)  # [B, A]
        best, prior = scores.max(1)
        return best, labels.gather(1, prior[:, None])[:, 0] + 1, prior


def export_one(network: nn.Module, height: int, width: int) -> torch.export.ExportedProgram:
    """Return the graph of :class:`ScoringNetwork` for one image at a time, on the CPU."""
    scoring = ScoringNetwork(network).eval()
    with torch.no_grad(), quiet_export():
        return torch.export.export(scoring, (example(height, width),), strict=False)


def example(height: int, width: int) -> Tensor:
    """Return one black image u8[1, H, W, 3]."""
    return torch.zeros(1, height, width, 3, dtype=torch.uint8)


@contextmanager
def quiet_export() -> Iterator[None]:
    """Hide what exporters warn of: their own deprecated calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
