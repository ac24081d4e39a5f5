"""ONNX Runtime on a CPU, in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardmine.errors import MissingExtraError
from hardmine.files import write_atomic
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.detector import BatchScores
from hardmine.inference.image_loading import count_cores
from hardmine.inference.runtimes.scoring_network import (
    ScoringNetwork,
    cached_path,
    example,
    quiet_export,
)


class OnnxScorer:
    """Fast scoring, one image at a time, one thread per call."""

    batch_size = 8
    name = "onnxruntime float32"

    def __init__(self, detector: TorchDetector, cache: Path | None = None) -> None:
        runtime = _import("onnxruntime")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(
            _graph(detector, cache), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self.workers = count_cores() + 1
        self._levels = detector.network.priors.level.cpu()

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        rows = [
            self._session.run(None, {self._input: pixels[i : i + 1]}) for i in range(len(pixels))
        ]
        scores, labels, priors = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True)
        )
        return BatchScores(scores, labels, self._levels[priors])


def _graph(detector: TorchDetector, cache: Path | None) -> bytes:
    path = None if cache is None else cached_path(detector, cache, "onnx", ".onnx")
    if path is not None and path.exists():
        return path.read_bytes()
    _import("onnx")
    _import("onnxscript")
    image = example(detector.resize.height, detector.resize.width)
    with torch.no_grad(), quiet_export():
        program = torch.onnx.export(
            ScoringNetwork(detector.network).eval(), (image,), dynamo=True, verbose=False
        )
        assert program is not None
        data: bytes = program.model_proto.SerializeToString()
    if path is not None:
        write_atomic(path, partial(_write, data))
    return data


def _write(data: bytes, part: Path) -> None:
    part.write_bytes(data)


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(f"{name} is not installed: pip install 'hardmine[onnx]'") from None
