"""Fast scoring: every image of a pool through the network at the machine's best speed, in low precision.

Its scores order a pool roughly: images that can rank are scored again by the detector itself in
float32. :func:`make_scorer` chooses the runtime, :func:`fast_scores` runs it in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hardmine.data.resize import Resize
from hardmine.device import RUNTIMES, count_workers
from hardmine.errors import ConfigError, MissingExtraError
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.detector import BatchScores, Detector
from hardmine.inference.image_loading import (
    ImageItem,
    Loaded,
    batched,
    load_item,
    one_core_each,
    run_ordered,
)
from hardmine.types import Problem

_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}


class Scorer(Protocol):
    """Scores batches of images, from any number of threads at once."""

    @property
    def name(self) -> str:
        """The runtime and its precision."""
        ...

    @property
    def workers(self) -> int:
        """How many threads keep it busy."""
        ...

    @property
    def batch_size(self) -> int:
        """How many images at once suit it."""
        ...

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        ...


class OwnScorer:
    """A detector's own ``score``, one call at a time: for models that have no network of ours."""

    name = "the detector's own"
    workers = 2
    batch_size = 16

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._turn = Lock()

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        with self._turn:
            return self._detector.score(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def make_scorer(detector: Detector, runtime: str = "auto", cache: Path | None = None) -> Scorer:
    """Return the fast scoring of a detector.

    Args:
        runtime: ``auto`` takes OpenVINO on a CPU where it is installed, else torch; a detector that
            is not one of our checkpoints scores by itself.
        cache: folder in which converted networks are kept, by the weights' digest.

    Raises:
        ConfigError: an unknown runtime, or one that this detector or device has not.
        MissingExtraError: the runtime is not installed.
    """
    chosen = choose_runtime(detector, runtime)
    if not isinstance(detector, TorchDetector):
        return OwnScorer(detector)
    if chosen == "openvino":
        from hardmine.inference.runtimes.openvino_runtime import OpenVINOScorer

        return OpenVINOScorer(detector, cache)
    if chosen == "onnxruntime":
        from hardmine.inference.runtimes.onnx_runtime import OnnxScorer

        return OnnxScorer(detector, cache)
    from hardmine.inference.runtimes.torch_runtime import make_torch_scorer

    return make_torch_scorer(detector)


def choose_runtime(detector: Detector, runtime: str) -> str:
    """Return the name of the runtime that ``auto`` stands for, or the one asked for.

    Raises:
        ConfigError: an unknown runtime, or one that this detector or device has not.
        MissingExtraError: the runtime is not installed.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime: got {runtime!r}, wanted one of {', '.join(RUNTIMES)}")
    ours = isinstance(detector, TorchDetector)
    on_cpu = isinstance(detector, TorchDetector) and detector.device.type == "cpu"
    if runtime == "auto":
        return "openvino" if on_cpu and find_spec("openvino") is not None else "torch"
    if runtime in _EXTRAS:
        if not ours or not on_cpu:
            what = "this detector" if not ours else "a GPU"
            raise ConfigError(
                f"runtime: {runtime} runs our checkpoints on a CPU, not {what}; use 'torch'"
            )
        if find_spec(runtime) is None:
            extra = _EXTRAS[runtime]
            raise MissingExtraError(
                f"runtime {runtime} is not installed: pip install 'hardmine[{extra}]'"
            )
    return runtime


@dataclass(frozen=True, slots=True)
class FastScore:
    """One image's score by fast scoring: near the exact one; nothing was decoded."""

    name: str
    score: float
    label: int
    level: int
    phash: int


def fast_scores(
    scorer: Scorer, resize: Resize, items: Iterable[ImageItem | Problem]
) -> Iterator[list[FastScore | Problem]]:
    """Yield the results of one batch after the other, in order.

    Args:
        items: images, and problems met while they were listed, which are passed on.
    """

    def work(batch: Sequence[ImageItem | Problem]) -> list[FastScore | Problem]:
        """Score the images of one batch."""
        return score_batch(scorer, resize, batch)

    with one_core_each():
        yield from run_ordered(
            batched(items, scorer.batch_size), work, count_workers(scorer.workers)
        )


def score_batch(
    scorer: Scorer, resize: Resize, batch: Sequence[ImageItem | Problem]
) -> list[FastScore | Problem]:
    """Return the fast scores of a few images."""
    read = [
        item if isinstance(item, Problem) else load_item(item, resize, hashed=True)
        for item in batch
    ]
    loaded = [item for item in read if isinstance(item, Loaded)]
    scored = iter(_score(scorer, loaded) if loaded else ())
    return [item if isinstance(item, Problem) else next(scored) for item in read]


def _score(scorer: Scorer, loaded: Sequence[Loaded]) -> Iterator[FastScore]:
    found = scorer.score(np.stack([item.pixels for item in loaded]))
    columns = (found.scores.tolist(), found.labels.tolist(), found.levels.tolist())
    for item, score, label, level in zip(loaded, *columns, strict=True):
        yield FastScore(item.name, score, label, level, item.phash)
