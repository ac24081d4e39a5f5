"""torch on CPU, CUDA or MPS: bf16 where the device has it, CUDA graphs on CUDA."""

from __future__ import annotations

from queue import Queue
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.detector import BatchScores
from hardmine.inference.image_loading import HalvingBatch, count_cores
from hardmine.inference.runtimes.scoring_network import ScoringNetwork

_CUDA_BATCH = 64
_SLOTS = 3
"""Batches on a GPU at once: one copied in, one computed, one read back."""


def make_torch_scorer(detector: TorchDetector) -> TorchScorer | CudaScorer:
    """Return fast scoring on the detector's device."""
    return CudaScorer(detector) if detector.device.type == "cuda" else TorchScorer(detector)


class TorchScorer:
    """Fast scoring on a CPU (each thread on one core) or on MPS (one batch at a time)."""

    batch_size = 8

    def __init__(self, detector: TorchDetector) -> None:
        self._device = detector.device
        self._network = ScoringNetwork(detector.network).eval()
        self._levels = detector.network.priors.level.cpu()
        on_cpu = self._device.type == "cpu"
        self._low = on_cpu and _cpu_has_bf16()
        self.name = f"torch {self._device.type} {'bf16' if self._low else 'float32'}"
        self.workers = count_cores() + 1
        self._turn = None if on_cpu else Lock()
        self._run = HalvingBatch(self._forward)

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        images = torch.from_numpy(pixels)
        if self._turn is None:
            return _join(self._run(images), self._levels)
        with self._turn:
            return _join(self._run(images), self._levels)

    @torch.inference_mode()
    def _forward(self, images: Tensor) -> list[Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            return [part.cpu() for part in self._network(images.to(self._device))]


class CudaScorer:
    """Fast scoring on CUDA: bf16 in channels_last, replayed as graphs on streams of their own."""

    def __init__(self, detector: TorchDetector, batch_size: int = _CUDA_BATCH) -> None:
        self._network = (
            ScoringNetwork(detector.network).eval().to(memory_format=torch.channels_last)
        )
        self._levels = detector.network.priors.level.cpu()
        self._device = detector.device
        self._shape = (detector.resize.height, detector.resize.width, 3)
        self.name = "torch cuda bf16"
        self.workers = max(4, count_cores())
        self._free: Queue[_Slot] = Queue()
        self.batch_size = self._fill(batch_size)

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        parts = []
        for start in range(0, len(pixels), self.batch_size):
            slot = self._free.get()
            try:
                parts.append(slot.run(pixels[start : start + self.batch_size]))
            finally:
                self._free.put(slot)
        return _join(parts, self._levels)

    def _fill(self, size: int) -> int:
        """Make the slots with the largest batch up to ``size`` that fits, and return it."""
        while True:
            try:
                slots = [
                    _Slot(self._network, (size, *self._shape), self._device) for _ in range(_SLOTS)
                ]
            except torch.OutOfMemoryError:
                if size < 2:
                    raise
                size //= 2
                torch.cuda.empty_cache()
                continue
            for slot in slots:
                self._free.put(slot)
            return size


class _Slot:
    """One captured graph with its own memory and stream."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
        self._host = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._input = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream), torch.inference_mode(), _low(device):
            for _ in range(3):  # lets cuDNN choose its kernels before the capture
                network(self._input)
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._output = network(self._input)
        self._stream.synchronize()

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Return what the network says of up to a batch of images; waits for this stream alone."""
        count = len(pixels)
        self._host[:count] = torch.from_numpy(pixels)
        with torch.cuda.stream(self._stream):
            self._input.copy_(self._host, non_blocking=True)
            self._graph.replay()
            result = [part.to("cpu", non_blocking=True) for part in self._output]
        self._stream.synchronize()
        return [part[:count].clone() for part in result]


def _low(device: torch.device) -> Any:
    # The cache of cast weights must not outlive the region that a graph captures.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _join(parts: list[list[Tensor]], levels: Tensor) -> BatchScores:
    scores, labels, priors = (torch.cat(part) for part in zip(*parts, strict=True))
    return BatchScores(scores.float(), labels, levels[priors])


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
