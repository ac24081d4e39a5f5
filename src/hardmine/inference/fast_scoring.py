"""Fast scoring: every image of a pool through the network at the machine's best speed, in low precision.

Its scores order a pool roughly: images that can rank are scored again by the detector itself in
float32. :func:`make_scorer` chooses the runtime (torch, OpenVINO, ONNX Runtime), :func:`fast_scores`
runs it in bounded memory. A runtime is imported only when it is chosen.

The network takes pixels and gives the hardness of an image: no box is decoded, and there is no NMS.
Suppression never removes an image's best box, so the highest foreground probability over the priors is
the score of the best detection. The last convolution and the softmax are in float32
even where the rest is not: rounded probabilities tie.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Lock, local
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardmine.data.resize import Resize
from hardmine.device import RUNTIMES, count_workers
from hardmine.errors import ConfigError, MissingExtraError
from hardmine.files import write_atomic
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.detector import BatchScores, Detector
from hardmine.inference.image_loading import (
    HalvingBatch,
    ImageItem,
    Loaded,
    batched,
    count_cores,
    load_item,
    one_core_each,
    run_ordered,
)
from hardmine.models.postprocess import foreground_scores
from hardmine.types import Problem

_RUNTIME_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}


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
        return OpenVINOScorer(detector, cache)
    if chosen == "onnxruntime":
        return OnnxScorer(detector, cache)

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
    if runtime in _RUNTIME_EXTRAS:
        if not ours or not on_cpu:
            what = "this detector" if not ours else "a GPU"
            raise ConfigError(
                f"runtime: {runtime} runs our checkpoints on a CPU, not {what}; use 'torch'"
            )
        if find_spec(runtime) is None:
            extra = _RUNTIME_EXTRAS[runtime]
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
        with torch.cuda.stream(self._stream), torch.inference_mode(), _low_precision(device):
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


def _low_precision(device: torch.device) -> Any:
    # The cache of cast weights must not outlive the region that a graph captures.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _join(parts: list[list[Tensor]], levels: Tensor) -> BatchScores:
    scores, labels, priors = (torch.cat(part) for part in zip(*parts, strict=True))
    return BatchScores(scores.float(), labels, levels[priors])


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """Return the ``openvino`` module with its telemetry off.

    OpenVINO reports each import and conversion to its makers when the package ``openvino_telemetry``
    can be imported; while it is loaded here, that package cannot be, so that nothing is sent and no
    file is written to the home folder.

    Raises:
        MissingExtraError: it is not installed.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    hidden = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise MissingExtraError(
            "OpenVINO is not installed: pip install 'hardmine[openvino]'"
        ) from None
    finally:
        if hidden is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = hidden
    return openvino


class OpenVINOScorer:
    """Fast scoring, one image at a time (its maps fit the cache), one stream per core."""

    batch_size = 8

    def __init__(self, detector: TorchDetector, cache: Path | None = None) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        cores = count_cores()
        low = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,
        }
        self.name = f"openvino {'bf16' if low else 'float32'}"
        self.workers = 2 * cores  # while half of them wait for the network the others decode
        self._compiled = core.compile_model(
            _openvino_graph(openvino, core, detector, cache), "CPU", settings
        )
        self._levels = detector.network.priors.level.cpu()
        self._own = local()

    def score(self, pixels: NDArray[np.uint8]) -> BatchScores:
        """Score u8[B, H, W, 3]."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        scores = torch.empty(len(pixels))
        labels, priors = (torch.empty(len(pixels), dtype=torch.int64) for _ in range(2))
        for i in range(len(pixels)):
            request.infer([pixels[i : i + 1]], share_inputs=True)
            for row, index in ((scores, 0), (labels, 1), (priors, 2)):
                row[i] = float(request.get_output_tensor(index).data[0])
        return BatchScores(scores, labels, self._levels[priors])


def _openvino_graph(openvino: Any, core: Any, detector: TorchDetector, cache: Path | None) -> Any:
    path = None if cache is None else cached_path(detector, cache, "openvino", ".xml")
    if path is not None and path.exists():
        return core.read_model(path)
    height, width = detector.resize.height, detector.resize.width
    with quiet_export():
        graph = openvino.convert_model(export_one(detector.network, height, width))
    graph.reshape([1, height, width, 3])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{path.name}")
        openvino.save_model(graph, part, compress_to_fp16=False)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)
    return graph


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
            _onnx_graph(detector, cache), options, providers=["CPUExecutionProvider"]
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


def _onnx_graph(detector: TorchDetector, cache: Path | None) -> bytes:
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
