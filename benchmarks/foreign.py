"""Mining with another framework's model against that framework's own predict loop: images per second.

    python -m benchmarks.foreign [--model best.pt[@SIDE]|hf:FOLDER] [--images DIR] [--limit N]

Both run over the same images in one process with the same number of threads, in turns, pass after pass;
what counts is the ratio of the medians. The own loop of Ultralytics is ``model.predict("pool.txt",
stream=True, batch=1)`` with one path per line, which reads one image after the other (a list of paths
would be read into memory and run as one batch, on squares). That of Hugging Face reads a picture,
prepares it, runs the model and decodes its answers. Mining also keeps a hash of every picture and
writes every score into its store. CPU seconds per image are shown too, because they hardly depend on
what else the machine does. Without ``--model`` a YOLO11n of random weights runs at 320 pixels
(``ultralytics`` must be installed). Writes benchmarks/results/foreign.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hardmine.data.images import has_picture_name
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.inference.detector import SCORE_FLOOR
from hardmine.inference.framework_detectors import import_ultralytics
from hardmine.inference.load_detector import load_detector
from hardmine.mining.mine import mine

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data")) / "negatives" / "pool"
RESULT = Path(__file__).parent / "results" / "foreign.json"
_SIDE = 320


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code is 1 where mining is slower."""
    given = _parser().parse_args(argv)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = given.model or _random_yolo(folder)
        paths = [p for p in sorted(given.images.rglob("*")) if has_picture_name(p)][: given.limit]
        if not paths:
            print(f"no image in {given.images}: set HARDMINE_DATA or give --images")
            return 2
        pool = folder / "pool.txt"
        pool.write_text("".join(f"{path.resolve()}\n" for path in paths))
        detector: Any = load_detector(spec, "cpu")
        torch.set_num_threads(given.threads)  # Ultralytics changes it when it chooses a device
        own = _own_loop(spec, detector, paths, pool)
        ways: dict[str, Callable[[], Any]] = {
            "own": own,
            "mine": lambda: mine(detector, pool, top=30),
        }
        taken = _in_turns(ways, given.rounds)
    rates = {key: [len(paths) / wall for wall, _ in value] for key, value in taken.items()}
    cpu = {key: statistics.median(c for _, c in value) / len(paths) for key, value in taken.items()}
    ratio = statistics.median(rates["mine"]) / statistics.median(rates["own"])
    result = {
        "machine": describe_machine(),
        "model": spec if given.model else f"YOLO11n of random weights @{_SIDE}",
        "images": len(paths),
        "threads": given.threads,
        "images_per_second": rates,
        "cpu_seconds_per_image": cpu,
        "ratio": ratio,
        "ratio_of_cpu": cpu["own"] / cpu["mine"],
    }
    write_json(given.out, result)
    for key, values in rates.items():
        print(
            f"{key}: {statistics.median(values):.1f} images/s, {1000 * cpu[key]:.1f} CPU ms per image"
        )
    print(f"mine / own: {ratio:.2f} in images/s, {result['ratio_of_cpu']:.2f} by CPU time")
    return 0 if ratio >= 1 else 1


def _in_turns(
    ways: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU seconds of every pass, after one that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {key: [] for key in ways}
    for number in range(rounds + 1):
        order = list(ways) if number % 2 else list(reversed(ways))
        for key in order:
            wall, cpu = time.perf_counter(), time.process_time()
            ways[key]()
            if number:
                passed = time.perf_counter() - wall, time.process_time() - cpu
                taken[key].append(passed)
    return taken


def _own_loop(spec: str, detector: Any, paths: Sequence[Path], listed: Path) -> Callable[[], Any]:
    """Return the framework's own way over images, with a model of its own.

    Args:
        listed: a text file with the same paths.
    """
    if type(detector).__name__ == "UltralyticsDetector":
        model = import_ultralytics("benchmark").YOLO(spec.partition("@")[0])
        how = {"conf": SCORE_FLOOR, "imgsz": detector.side, "device": "cpu", "verbose": False}
        return lambda: [
            result.boxes.xyxy.numpy()
            for result in model.predict(str(listed), stream=True, batch=1, **how)
        ]
    processor = detector._processor
    model = type(detector._model).from_pretrained(spec.removeprefix("hf:")).eval()

    @torch.inference_mode()
    def loop() -> None:
        for path in paths:
            image = Image.open(path).convert("RGB")
            outputs = model(**processor(images=image, return_tensors="pt"))
            size = [(image.height, image.width)]
            processor.post_process_object_detection(
                outputs, threshold=SCORE_FLOOR, target_sizes=size
            )

    return loop


def _random_yolo(folder: Path) -> str:
    package = import_ultralytics("benchmark")
    path = folder / "yolo11n.pt"
    torch.manual_seed(0)
    package.YOLO("yolo11n.yaml").save(path)
    return f"{path}@{_SIDE}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--images", type=Path, default=DATA)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
