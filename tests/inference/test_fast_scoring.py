"""Every runtime against the detector itself; out of memory; nothing sent or written."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardmine.detections import Detections
from hardmine.errors import ConfigError, MissingExtraError
from hardmine.inference.detector import BatchScores
from hardmine.inference.fast_scoring import (
    FastScore,
    OwnScorer,
    choose_runtime,
    fast_scores,
    make_scorer,
)
from hardmine.inference.image_loading import HalvingBatch, ImageItem
from hardmine.inference.predict import score_items
from hardmine.types import Problem
from tiny_models import SIDE, tiny_detector

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("openvino", "onnxruntime")
}


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def exact(images: np.ndarray) -> BatchScores:
    return tiny_detector().score(torch.from_numpy(images).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "runtime",
    [
        "torch",
        pytest.param("openvino", marks=needs["openvino"]),
        pytest.param("onnxruntime", marks=needs["onnxruntime"]),
    ],
)
def test_a_runtime_gives_the_detectors_scores(runtime: str, tmp_path: Path) -> None:
    images = pixels(11)
    wanted = exact(images)
    for _ in range(2):  # the second time from the cache
        scorer = make_scorer(tiny_detector(), runtime, tmp_path / "runtimes")
        found = scorer.score(images)
        low = "bf16" in scorer.name
        assert found.scores.numpy() == pytest.approx(
            wanted.scores.numpy(), abs=0.05 if low else 1e-5
        )
        same = found.levels == wanted.levels
        assert float(same.float().mean()) >= (0.8 if low else 1.0)
        assert set(found.labels.tolist()) <= {1, 2}
    kept = list((tmp_path / "runtimes").glob("*")) if runtime != "torch" else []
    assert len(kept) == {"torch": 0, "openvino": 2, "onnxruntime": 1}[runtime]


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed() -> None:
    wanted = "openvino" if find_spec("openvino") else "torch"
    assert choose_runtime(tiny_detector(), "auto") == wanted


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="got 'tensorrt', wanted one of auto, torch"):
        make_scorer(tiny_detector(), "tensorrt")
    other: Any = object()
    with pytest.raises(ConfigError, match="runs our checkpoints on a CPU, not this detector"):
        make_scorer(other, "openvino")
    monkeypatch.setattr("hardmine.inference.fast_scoring.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hardmine\[onnx\]'"):
        make_scorer(tiny_detector(), "onnxruntime")
    assert choose_runtime(tiny_detector(), "auto") == "torch"


class Foreign:
    """Anybody's detector: mean red as the score, one box; counts how often it is called at once."""

    categories = ("thing",)
    model_id = "foreign"
    resize = tiny_detector().resize
    inside = 0

    def score(self, images: Tensor) -> BatchScores:
        self.inside += 1
        assert self.inside == 1  # it need not be safe for threads
        red = images[:, 0].float().mean((1, 2)) / 255
        ones = torch.ones(len(red), dtype=torch.int64)
        self.inside -= 1
        return BatchScores(red, ones, -ones)

    def detect(self, images: Tensor) -> list[Detections]:
        one = np.ones(1, np.int64)
        box = np.array([[0, 0, SIDE, SIDE]], np.float32)
        return [Detections(box, s.numpy()[None], one) for s in self.score(images).scores]


def jpeg(red: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (red, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_the_first_cut_keeps_order_and_names_what_it_cannot_read() -> None:
    items: list[ImageItem | Problem] = [
        ImageItem(f"{i}", lambda i=i: jpeg(i)) for i in range(0, 200, 4)
    ]
    items[7] = ImageItem("bad", lambda: b"no image")
    items[9] = Problem("archive_broken", "x.tar", -1, "ends early")
    foreign = Foreign()
    scorer = make_scorer(foreign)
    assert isinstance(scorer, OwnScorer)
    results = [r for batch in fast_scores(scorer, foreign.resize, items) for r in batch]
    names = [r.file if isinstance(r, Problem) else r.name for r in results]
    assert names == [i.file if isinstance(i, Problem) else i.name for i in items]
    assert [r.kind for r in results if isinstance(r, Problem)] == [
        "image_unreadable",
        "archive_broken",
    ]
    good = [r for r in results if isinstance(r, FastScore)]
    assert [r.score for r in good] == pytest.approx([int(r.name) / 255 for r in good], abs=0.01)


def test_images_are_taken_only_as_room_is_made() -> None:
    taken = 0

    def items() -> Any:
        nonlocal taken
        for i in range(5000):
            taken += 1
            yield ImageItem(str(i), lambda: jpeg(9))

    scorer = make_scorer(Foreign())
    walk = fast_scores(scorer, Foreign.resize, items())
    next(walk)
    assert taken <= scorer.batch_size * (scorer.workers + 3)
    walk.close()


class Small:
    """Runs up to ``room`` images at once."""

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, list[int]()

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("no memory")
        self.sizes.append(len(images))
        return images * 2


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    small = Small(room=5)
    run = HalvingBatch(small)
    images = torch.arange(16)
    assert torch.cat(run(images)).tolist() == (images * 2).tolist()
    assert small.sizes == [4, 4, 4, 4]  # 16 and 8 do not fit
    assert torch.cat(run(images)).tolist() == (images * 2).tolist()
    assert small.sizes[4:] == [4, 4, 4, 4]  # and are not tried again
    assert [r.getMessage()[-17:] for r in caplog.records] == [
        "with batches of 8",
        "with batches of 4",
    ]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        HalvingBatch(Small(room=0))(images)


def test_a_scan_survives_a_device_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector()
    items = [ImageItem(str(i), lambda i=i: jpeg(i * 8)) for i in range(24)]
    wanted = [r.score for r in score_items(detector, items) if not isinstance(r, Problem)]
    real = detector._run

    def tight(images: Tensor) -> Any:
        if len(images) > 3:
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(images)

    monkeypatch.setattr(detector, "_run", tight)
    found = [r.score for r in score_items(detector, items) if not isinstance(r, Problem)]
    assert found == wanted


@needs["openvino"]
@pytest.mark.slow
def test_openvino_sends_and_writes_nothing(tmp_path: Path) -> None:
    """In a process of its own: an empty home folder, and sockets that raise."""
    home = tmp_path / "home"
    home.mkdir()
    code = """
        import socket, sys

        def refuse(*args, **keywords):
            print("SOCKET", args)
            raise OSError("no network")

        socket.socket.connect = refuse
        socket.create_connection = refuse
        socket.getaddrinfo = refuse
        from tiny_models import tiny_detector
        from hardmine.inference.fast_scoring import make_scorer
        make_scorer(tiny_detector(), "openvino")
        assert "openvino" in sys.modules
        assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
        print("done")
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("XDG")},
            "HOME": str(home),
            "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}",
        },
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stdout + done.stderr
    assert "SOCKET" not in done.stdout
    assert [p.relative_to(home) for p in home.rglob("*")] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_detectors_scores() -> None:
    images = pixels(150)
    found = make_scorer(tiny_detector(device="cuda"), "torch").score(images)
    assert found.scores.numpy() == pytest.approx(exact(images).scores.numpy(), abs=0.05)
