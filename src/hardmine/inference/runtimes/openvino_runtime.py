"""OpenVINO on a CPU: bf16 where the processor has it."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardmine.errors import MissingExtraError
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.detector import BatchScores
from hardmine.inference.image_loading import count_cores
from hardmine.inference.runtimes.scoring_network import cached_path, export_one, quiet_export

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
            _graph(openvino, core, detector, cache), "CPU", settings
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


def _graph(openvino: Any, core: Any, detector: TorchDetector, cache: Path | None) -> Any:
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
