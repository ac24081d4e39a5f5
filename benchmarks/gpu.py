"""Everything that a GPU has to show, in one call of less than 8 minutes.

    python -m benchmarks gpu [--out FILE] [--tiny] [--no-compile] [--no-tests] [--limit SECONDS]

Measured on the best device that there is (``--tiny``: small sizes, so that a CPU does it in a minute):

- the bf16 multiply-add rate of large matrices, which is what the other figures are shares of;
- training of SSD300-VGG16 and SSDLite-MobileNetV3, 200 steps each in bf16 and channels-last, as the
  trainer does them (host batches, loss, clipping, AdamW, averaged weights, log), compiled and not;
- inference at batch 1, 8 and 64: fast scoring, and detections at full precision;
- mining of a pool of 10,000 drawn images, and a training that reads its images from disk;
- the tests marked ``gpu``.

Of each: images per second, the share of the matrix rate, host-device synchronisations per step, and
the peak of the device's memory. A part that fails is recorded with its error, and the others go on; a
part for which no time is left is recorded as left out. The result file is written after every part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import hardmine
from benchmarks.step import RESULTS, make_batch, quiet_heads, timed, whole
from hardmine.device import choose_device, describe_machine
from hardmine.files import write_json
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.fast_scoring import CudaScorer, make_scorer
from hardmine.models.ssd import SSD
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch
from hardmine.training.run_state import Run, Start
from hardmine.training.trainer import fit, train_steps
from hardmine.types import Dataset, ImageRecord, ImageState

MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
CLASSES = tuple(f"class {i}" for i in range(20))
SYNCHRONISES = "called a synchronizing"
"""What torch's warning of a host that waits for the device begins with."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    side: int | None = None
    """Of the networks' input, px; ``None``: the recipe's own."""
    train_batch: int = 32
    steps: int = 200
    warm_up: int = 20
    matrix: int = 8192
    batches: tuple[int, ...] = (1, 8, 64)
    repeats: int = 30
    pool: int = 10_000
    fit_images: int = 256
    fit_steps: int = 100


TINY = Sizes(64, 2, 3, 2, 256, (1, 2), 2, 24, 8, 3)


# Counting how often the host waits.


@contextmanager
def counted_waits(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many operations so far made the host wait for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum(SYNCHRONISES in str(w.message) for w in caught)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def check_the_counter(device: torch.device) -> bool | None:
    """Return whether one deliberate wait is counted as one; ``None`` where nothing waits."""
    if device.type != "cuda":
        return None
    value = torch.ones(1, device=device)
    with counted_waits(device) as waits:
        value.item()
        return waits() == 1


def start_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """Return the most MiB that tensors took since :func:`start_memory`."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The parts.


def measure_matrices(device: torch.device, side: int) -> float:
    """Return the bf16 multiply-add rate of ``side`` × ``side`` matrices, FLOP/s."""
    a = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    for _ in range(3):
        a @ a
    seconds = median(timed(lambda: [a @ a for _ in range(10)] and None, device) for _ in range(5))
    return 10 * 2 * side**3 / seconds


def sized(name: str, sizes: Sizes) -> Recipe:
    """Return a named recipe with every layer trained, at the chosen size, in bf16 (on a CPU only where
    that is quicker).
    """
    precision = "bf16" if torch.cuda.is_available() else "auto"
    recipe = replace(whole(named_recipe(name)), precision=precision)
    if sizes.side is None:
        return recipe
    return replace(recipe, model=replace(recipe.model, height=sizes.side, width=sizes.side))


class DrawnBatches:
    """Eight drawn batches on the host again and again, with different numbers of boxes."""

    def __init__(self, size: int, side: int) -> None:
        full = make_batch(size, side, torch.device("cpu"))
        self._batches = []
        for index in range(8):
            slots, turn = 1 + full.labels.shape[1] * (index + 1) // 9, index % size
            order = torch.arange(size).roll(turn)
            parts = (full.boxes, full.labels, full.ignore)
            boxes, labels, ignore = (part[order, :slots].contiguous() for part in parts)
            images = full.images[order].contiguous(memory_format=torch.channels_last)
            self._batches.append(Batch(images, boxes, labels, ignore, full.image_ids[order]))

    def batches(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for step in range(start, stop):
            yield self._batches[step % len(self._batches)]


def measure_training(
    name: str, compiled: bool, sizes: Sizes, device: torch.device, rate: float, folder: Path
) -> dict[str, Any]:
    """Train by the trainer's own loop and return its figures; leaves a checkpoint in ``folder``."""
    recipe = replace(sized(name, sizes), compile=compiled)
    total = sizes.warm_up + sizes.steps
    data = Dataset(CLASSES, (), folder)
    run = Run(data, recipe, folder, seed=0, total=total + 1, start=Start(), device=str(device))
    source = DrawnBatches(sizes.train_batch, recipe.model.height)
    start_memory(device)
    began = time.perf_counter()
    steps = train_steps(run, source)
    next(steps)
    wait_for(device)
    first = time.perf_counter() - began
    for _ in range(sizes.warm_up - 1):
        next(steps)
    wait_for(device)
    with counted_waits(device) as waits:
        began = time.perf_counter()
        for _ in range(sizes.steps):
            next(steps)
        synchronisations = waits()
        wait_for(device)
        seconds = (time.perf_counter() - began) / sizes.steps
    memory = peak_memory(device)
    steps.close()
    run.save()
    work = 0 if compiled else step_flops(run, next(source.batches(0, 1)).to(device))
    return {
        "images_per_second": sizes.train_batch / seconds,
        "ms_per_step": 1e3 * seconds,
        "first_step_s": first,
        "flop_per_step": work,
        "share_of_matrix_rate": work / seconds / rate,
        "synchronisations_per_step": synchronisations / sizes.steps,
        "peak_memory_mib": memory,
        "bf16": run.bf16,
        "loss": [run.journal.rows[0][1], run.journal.last_loss],
    }


def step_flops(run: Run, batch: Batch) -> int:
    """Return the multiply-adds (as 2) of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        run.objective(run.wrapped, batch, 0, 1).total.backward()
    return int(counter.get_total_flops())


def measure_inference(name: str, sizes: Sizes, device: torch.device, rate: float) -> dict[str, Any]:
    """Return the figures of fast scoring and of full detections for each batch size."""
    recipe = sized(name, sizes)
    torch.manual_seed(0)
    network = SSD(recipe.model, CLASSES)  # type: ignore[arg-type]
    quiet_heads(network)
    detector = TorchDetector(network, recipe, "random", device)
    height, width = recipe.model.height, recipe.model.width
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {}
    for size in sizes.batches:
        start_memory(device)
        pixels = rng.integers(0, 256, (size, height, width, 3), dtype=np.uint8)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        cuda = device.type == "cuda"
        scorer = CudaScorer(detector, size) if cuda else make_scorer(detector, "torch")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            detector.network(images[:1].to(device))
        work = counter.get_total_flops() * size
        for what, step in (
            ("fast_scoring", partial(scorer.score, pixels)),
            ("detections", partial(detector.score_and_detect, images, 0.01)),
        ):
            for _ in range(3):
                step()
            seconds = median(timed(step, device) for _ in range(sizes.repeats))
            results.setdefault(what, {})[str(size)] = {
                "ms": 1e3 * seconds,
                "images_per_second": size / seconds,
                "share_of_matrix_rate": work / seconds / rate,
            }
        with ThreadPoolExecutor(scorer.workers) as pool:
            began = time.perf_counter()
            list(pool.map(lambda _: scorer.score(pixels), range(sizes.repeats)))  # noqa: B023
            seconds = (time.perf_counter() - began) / sizes.repeats
        results["fast_scoring"][str(size)]["images_per_second_from_threads"] = size / seconds
        results.setdefault("peak_memory_mib", {})[str(size)] = peak_memory(device)
        results["fast_scoring"]["runtime"] = scorer.name
    return results


def draw_images(folder: Path, count: int) -> list[Path]:
    """Write ``count`` different JPEGs of 320 × 240: soft noise with a few plain boxes."""
    folder.mkdir(parents=True)
    soft = np.random.default_rng(0).integers(40, 216, (16, 15, 20, 3), dtype=np.uint8)
    grounds = [
        np.asarray(Image.fromarray(part).resize((320, 240), Image.Resampling.BICUBIC))
        for part in soft
    ]

    def draw(index: int) -> Path:
        rng = np.random.default_rng([1, index])
        pixels = np.roll(grounds[index % 16], tuple(rng.integers(0, 200, 2)), (0, 1)).copy()
        for x, y, w, h in rng.integers((0, 0, 10, 10), (280, 200, 120, 120), (3, 4)):
            pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
        path = folder / f"{index:05d}.jpg"
        Image.fromarray(pixels).save(path, quality=80)
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(draw, range(count)))


def measure_mining(checkpoint: Path, sizes: Sizes, device: torch.device, folder: Path) -> Any:
    """Mine a drawn pool through the public call."""
    began = time.perf_counter()
    draw_images(folder / "pool", sizes.pool)
    drawn = time.perf_counter() - began
    start_memory(device)
    began = time.perf_counter()
    top = min(100, sizes.pool // 4)
    found = hardmine.mine(
        checkpoint, folder / "pool", top=top, min_score=0.0, runtime="torch", device=str(device)
    )
    seconds = time.perf_counter() - began
    return {
        "images": sizes.pool,
        "scanned": found.scanned,
        "handed_out": len(found.candidates),
        "images_per_second": sizes.pool / seconds,
        "seconds": seconds,
        "seconds_to_draw": drawn,
        "peak_memory_mib": peak_memory(device),
    }


def measure_fit(name: str, sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Train from images on disk: reading and augmenting on the host included."""
    paths = draw_images(folder / "training", sizes.fit_images)
    box, one, none = np.array([[40, 40, 140, 120]], np.float32), np.ones(1, np.int64), np.zeros(1)
    records = tuple(
        ImageRecord(path, 320, 240, box, one, none.astype(bool), ImageState.LABELLED)
        for path in paths
    )
    recipe = sized(name, sizes)
    recipe = replace(recipe, batch=replace(recipe.batch, size=sizes.train_batch))
    times: list[float] = []
    start_memory(device)
    fit(
        Dataset(CLASSES, records, folder),
        recipe,
        folder / "fit",
        steps=sizes.fit_steps,
        save_every=10**6,
        device=str(device),
        progress=lambda _: times.append(time.perf_counter()),
    )
    skipped = len(times) // 5  # kernels are chosen, and the first batches wait for their images
    seconds = (times[-2] - times[skipped]) / (len(times) - 2 - skipped)
    return {
        "images_per_second": sizes.train_batch / seconds,
        "peak_memory_mib": peak_memory(device),
    }


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU in a process of their own."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=seconds, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    result = {"exit": done.returncode, "tail": lines[-1:] if done.returncode == 0 else lines[-60:]}
    if done.returncode:
        raise RuntimeError("\n".join(result["tail"]))
    return result


# All of it.


class Report:
    """Results so far, written after every part."""

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.limit, self.began = path, limit, time.perf_counter()
        self.values: dict[str, Any] = {}
        self.failed: list[str] = []

    @property
    def left(self) -> float:
        return self.limit - (time.perf_counter() - self.began)

    def part(self, name: str, needs: float, work: Callable[[], Any]) -> Any:
        """Do a part that takes about ``needs`` seconds when that much time is left."""
        began = time.perf_counter()
        if self.left < needs:
            self.failed.append(name)
            result: Any = {"left out": f"{self.left:.0f} s left, wanted {needs:.0f}"}
        else:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (one broken part must not hide the others)
                self.failed.append(name)
                lines = traceback.format_exception(error)
                result = {"error": f"{type(error).__name__}: {error}"[-4000:], "at": lines[-3:]}
        self.values[name] = result
        self.values.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)
        write_json(self.path, self.values)
        print(f"{name}: {result}", flush=True)
        return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it on a CPU")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--limit", type=float, default=460.0, help="seconds for all of it")
    options = parser.parse_args(argv)
    device = choose_device()
    sizes = TINY if options.tiny else Sizes()
    report = Report(options.out, options.limit)
    machine = {**describe_machine(), "device": str(device), "tiny": options.tiny}
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    report.part("machine", 0, lambda: machine)
    report.part("waits are counted", 0, lambda: check_the_counter(device))
    rate = report.part("matrix_flops", 0, lambda: measure_matrices(device, sizes.matrix))
    rate = rate if isinstance(rate, float) else float("nan")
    ways = (False,) if options.no_compile else (False, True)
    with tempfile.TemporaryDirectory(prefix="hardmine-") as name:
        folder = Path(name)
        eager: dict[str, Any] = {}
        for model in reversed(MODELS):
            report.part(
                f"inference {model}",
                30,
                lambda model=model: measure_inference(model, sizes, device, rate),
            )
            eager[model] = report.part(
                f"training {model}",
                30,
                lambda model=model: measure_training(
                    model, False, sizes, device, rate, folder / model
                ),
            )
        small = MODELS[1]
        report.part("mining", 60, lambda: measure_mining(folder / small, sizes, device, folder))
        report.part("training from disk", 30, lambda: measure_fit(small, sizes, device, folder))
        if not options.no_tests:
            report.part("tests", 60, lambda: run_tests(max(60.0, report.left - 150)))
        for model in MODELS if True in ways else ():
            made = report.part(
                f"compiled training {model}",
                90,
                lambda model=model: measure_training(
                    model, True, sizes, device, rate, folder / f"{model}-compiled"
                ),
            )
            compare(made, eager[model], rate)
    write_json(report.path, report.values)
    print(f"written: {report.path}; {report.limit - report.left:.0f} s")
    if report.failed:
        print(f"failed or left out: {', '.join(report.failed)}")
    return int(bool(report.failed))


def compare(compiled: dict[str, Any], eager: dict[str, Any], rate: float) -> None:
    """Fill in what a compiled step does not count itself: its work is that of the eager one."""
    if "flop_per_step" in compiled and "flop_per_step" in eager:
        work = compiled["flop_per_step"] = eager["flop_per_step"]
        compiled["share_of_matrix_rate"] = work / (compiled["ms_per_step"] / 1e3) / rate
        speed = compiled["images_per_second"] / eager["images_per_second"]
        compiled["times_as_quick"] = speed
        print(f"  share {compiled['share_of_matrix_rate']:.3f}, {speed:.2f} times as quick")


if __name__ == "__main__":
    raise SystemExit(main())
