"""Mining against its limit and against a plain torchvision loop: same weights, same pool, one run.

    python -m benchmarks.mine [--weights CHECKPOINT] [--pools 320,1280,12mp] [--rounds N] [--scale F]

Pools are photographs of HARDMINE_DATA brought to 320 px, 1,280 x 960 and 4,000 x 3,000 in a temporary
folder. The limit is cores / core-seconds an image: decoding, the first cut and the exact scoring of the
top 5 %, each measured alone on all cores. What runs is timed in turns, round after round; the best round
of each counts. The plain loop is ``model(images)`` of torchvision's SSD class around the same backbone,
heads and priors, with the best of a few batch sizes and numbers of workers. ``overhead`` is the CPU time
an image of a whole first cut (listing, hashes, batches, the store) by a network that costs nothing,
less that of decoding alone. Writes benchmarks/results/mine.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.inference.checkpoint_detector import TorchDetector, load_checkpoint_detector
from hardmine.inference.detector import BatchScores
from hardmine.inference.fast_scoring import make_scorer
from hardmine.inference.image_loading import (
    ImageItem,
    Loaded,
    batched,
    count_cores,
    load_item,
    one_core_each,
    run_ordered,
    stack,
)
from hardmine.inference.predict import DECODE_FLOOR, ScoredImage, score_images
from hardmine.mining.pool_scorers import FastScorer
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import ExactRanking, RankedPart
from hardmine.mining.scan import scan_source
from hardmine.mining.sources.pool_source import FolderSource
from hardmine.models.ssd import SSD
from hardmine.recipes.named_recipes import named_recipe

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
RESULT = Path(__file__).parent / "results" / "mine.json"
POOLS = {"320": ((320, 240), 2000), "1280": ((1280, 960), 1000), "12mp": ((4000, 3000), 200)}
SHARE = 0.05
LINKS = 10_000
"""Names that one file is given: file systems have a limit."""
PLAIN = 400
"""Images that the plain loop is given at most: its rate does not hang on how many there are."""
TRIED = ((8, 0), (8, 2), (16, 2))
"""Batch sizes and workers of the plain loop that are tried."""


@dataclass
class Timer:
    """Best wall and CPU seconds of each thing timed."""

    wall: dict[str, float]
    cpu: dict[str, float]

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        taken = time.perf_counter() - wall, time.process_time() - cpu
        self.wall[name] = min(self.wall.get(name, 1e9), taken[0])
        self.cpu[name] = min(self.cpu.get(name, 1e9), taken[1])
        return result


def make_pool(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Write ``count`` photographs of ``size`` as JPEGs, with the grain that enlarging takes away.

    None comes twice: when the photographs are used up, they come mirrored.
    """
    folder.mkdir(parents=True)
    photos = sorted((DATA / "negatives" / "pool").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    paths, step = [], max(1, len(photos) // count)
    for i in range(count):
        turn, index = divmod(i * step, len(photos))
        with Image.open(photos[index]) as photo:
            large = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        if turn:
            large = ImageOps.mirror(large)
        if size[0] > 500:
            grain = rng.normal(0, 4, (size[1], size[0], 1)).astype(np.float32)
            large = Image.fromarray((np.asarray(large) + grain).clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{i:05d}.jpg")
        large.save(paths[-1], quality=90)
    return paths


class PlainHead(nn.Module):
    """Our two heads as torchvision calls them."""

    def __init__(self, network: SSD) -> None:
        super().__init__()
        self.class_head, self.box_head = network.class_head, network.box_head

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {"bbox_regression": self.box_head(features), "cls_logits": self.class_head(features)}


class PlainAnchors(nn.Module):
    """Our priors as torchvision's generator gives them."""

    def __init__(self, network: SSD) -> None:
        super().__init__()
        center, size = network.priors.cxcywh.split(2, 1)
        self.boxes = torch.cat([center - size / 2, center + size / 2], 1)

    def forward(self, images: Any, features: Any) -> list[Tensor]:
        return [self.boxes for _ in images.image_sizes]


class PlainBody(nn.Module):
    """Our backbone and neck as torchvision calls them, the network in one piece and contiguous."""

    def __init__(self, network: SSD) -> None:
        super().__init__()
        self.backbone, self.neck, self.tower = network.backbone, network.neck, network.tower

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        trunk = getattr(self.backbone, "trunk", nn.Identity())
        if isinstance(trunk, nn.Identity):
            maps = self.backbone(images)
        else:
            *frozen, cut = trunk(images)
            maps = [*frozen, *self.backbone.rest(cut)]
        return {str(i): m for i, m in enumerate(self.tower(self.neck(maps)))}


def plain_model(network: SSD) -> nn.Module:
    """Return torchvision's SSD around the same parts."""
    from torchvision.models.detection import ssd

    config = network.config
    return ssd.SSD(
        PlainBody(network),
        PlainAnchors(network),
        (config.width, config.height),
        len(network.categories) + 1,
        image_mean=list(config.backbone.mean),
        image_std=list(config.backbone.std),
        head=PlainHead(network),
        score_thresh=DECODE_FLOOR,
        topk_candidates=400,
        detections_per_img=100,
    ).eval()


class PlainData(torch.utils.data.Dataset[Tensor]):
    """torchvision's reading: decode, resize in uint8, then to float."""

    def __init__(self, paths: list[Path], height: int, width: int) -> None:
        self.paths, self.size = paths, [height, width]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.io import ImageReadMode, read_image
        from torchvision.transforms.v2 import functional as F

        image = read_image(str(self.paths[index]), ImageReadMode.RGB)
        return F.resize(image, self.size, antialias=True).float() / 255


def run_plain(model: nn.Module, data: PlainData, batch: int, workers: int) -> None:
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch, num_workers=workers, collate_fn=list
    )
    torch.set_num_threads(count_cores())
    with torch.inference_mode():
        for images in loader:
            model(images)


def run_pool(
    name: str, detector: TorchDetector, scorer: Any, paths: list[Path], folder: Path, rounds: int
) -> dict[str, Any]:
    """Time everything on one pool."""
    timer, resize, cores = Timer({}, {}), detector.resize, count_cores()
    items = [ImageItem(str(path)) for path in paths]
    loaded = [item for i in items if isinstance(item := load_item(i, resize, hashed=False), Loaded)]
    stacks = [np.stack([i.pixels for i in b]) for b in batched(loaded, scorer.batch_size)]
    count = max(1, round(SHARE * len(paths)))
    top = list(batched(loaded[: 4 * count], 16))
    model = plain_model(detector.network)
    data = PlainData(paths[:PLAIN], resize.height, resize.width)
    few = PlainData(paths[: max(16, len(data) // 8)], resize.height, resize.width)
    trial = Timer({}, {})
    for how in TRIED:
        trial.run(str(how), lambda how=how: run_plain(model, few, *how))
    best = min(TRIED, key=lambda how: trial.wall[str(how)])
    rescored = 0

    def decode(batch: list[ImageItem]) -> list[Any]:
        return [load_item(item, resize, hashed=False) for item in batch]

    def drain(walk: Iterator[Any]) -> None:
        with one_core_each():
            for _ in walk:
                pass

    def whole(round_number: int) -> list[str]:
        nonlocal rescored
        with PoolStore(folder / f"{name}-{round_number}.sqlite") as store:
            fast = FastScorer(detector, scorer)
            scan_source(FolderSource(str(paths[0].parent)), store, fast, detector.model_id)
            again = ExactRanking(
                store, detector.model_id, fast.score_exactly, RankedPart(expect=count)
            )
            found = [score.image for score in islice(again, count)]
            rescored = again.rescored
            return found

    def free(round_number: int) -> None:
        nothing: Any = Nothing(scorer.batch_size, scorer.workers)
        with PoolStore(folder / f"{name}-free-{round_number}.sqlite") as store:
            model: Any = SimpleNamespace(model_id="nothing", resize=resize)
            pool = FolderSource(str(paths[0].parent))
            scan_source(pool, store, FastScorer(model, nothing), "nothing")

    for number in range(rounds):
        timer.run("free", lambda number=number: free(number))
        timer.run("decode", lambda: drain(run_ordered(batched(items, 8), decode, cores)))
        timer.run("first cut", lambda: drain(run_ordered(stacks, scorer.score, scorer.workers)))
        timer.run(
            "exact",
            lambda: drain(
                run_ordered(top, lambda b: detector.score_and_detect(stack(b), DECODE_FLOOR), cores)
            ),
        )
        found = timer.run("mine", lambda number=number: whole(number))
        timer.run("plain", lambda: run_plain(model, data, *best))
    rows = score_images(detector, paths, batch_size=None)
    exact = {row.name: row.score for row in rows if isinstance(row, ScoredImage)}
    wanted = set(sorted(exact, key=lambda image: (-exact[image], image))[:count])
    return report(name, timer, len(paths), sum(map(len, top)), rescored, count) | {
        "plain_batch_and_workers": best,
        "overlap_with_exact_top": len(wanted & set(found)) / count,
    }


def report(
    name: str, timer: Timer, images: int, exact_images: int, rescored: int, count: int
) -> dict[str, Any]:
    """Return the figures of a pool."""
    result: dict[str, Any] = {"images": images, "rescored": rescored, "asked_for": count}
    for kind, seconds in (("wall", timer.wall), ("cpu", timer.cpu)):
        decode, cut = seconds["decode"] / images, seconds["first cut"] / images
        full = seconds["exact"] / exact_images
        limit = 1 / (decode + cut + SHARE * (decode + full))
        done = 1 / (decode + cut + rescored / images * (decode + full))
        rate = images / seconds["mine"]
        result[kind] = {
            "ms_decode": 1e3 * decode,
            "ms_first_cut": 1e3 * cut,
            "ms_exact": 1e3 * full,
            "images_per_s": rate,
            "of_limit": rate / limit,
            "of_limit_with_what_was_rescored": rate / done,
            "times_plain": rate * seconds["plain"] / min(PLAIN, images),
        }
    result["overhead_ms"] = 1e3 * (timer.cpu["free"] - timer.cpu["decode"]) / images
    result["cpu_ms_outside_what_was_timed_alone"] = 1e3 * (
        timer.cpu["mine"] / images
        - (1 + rescored / images) * timer.cpu["decode"] / images
        - timer.cpu["first cut"] / images
        - rescored / images * timer.cpu["exact"] / exact_images
    )
    print(f"{name}: {result}", flush=True)
    return result


class Nothing:
    """A detector that costs nothing."""

    name = "nothing"

    def __init__(self, batch_size: int = 16, workers: int = 3) -> None:
        self.batch_size, self.workers = batch_size, workers

    def score(self, pixels: np.ndarray) -> BatchScores:
        best = torch.from_numpy(pixels[:, 0, 0, 0] / 255.0).float()
        return BatchScores(best, torch.ones(len(best)).long(), torch.zeros(len(best)).long())


def peak_memory(folder: Path, images: int) -> float:
    """Return the peak MB of a process that scans so many links to one small image."""
    pool = folder / f"links-{images}"
    pool.mkdir()
    for i in range(images):
        path = pool / f"{i}.jpg"
        if i % LINKS == 0:
            first = path
            Image.new("RGB", (64, 48), (90, 10, 10)).save(first)
        else:
            os.link(first, path)
    command = [sys.executable, "-m", "benchmarks.mine", "--memory", str(pool)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def scan_for_memory(pool: Path) -> None:
    from hardmine.data.resize import Resize

    nothing: Any = Nothing()
    with PoolStore(pool / "pool.sqlite") as store:
        summary = scan_source(FolderSource(pool), store, nothing, Resize(64, 64), "nothing")
        assert summary.scored == sum(1 for _ in pool.glob("*.jpg"))
    print(peak_of_this_process())


def peak_of_this_process() -> float:
    """Return the peak resident MB; Linux's ``ru_maxrss`` would begin at that of the parent."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pools", default="320,1280,12mp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the pools' sizes")
    parser.add_argument("--memory", type=Path)
    options = parser.parse_args(argv)
    if options.memory:
        scan_for_memory(options.memory)
        return 0
    if options.weights:
        loaded = load_checkpoint_detector(options.weights, "cpu")
        assert isinstance(loaded, TorchDetector)
        detector = loaded
    else:
        torch.manual_seed(0)
        recipe = named_recipe("ssdlite320_mobilenet_v2")
        assert not hasattr(recipe.model, "weights_name")
        network: Any = SSD(recipe.model, ("thing",))  # type: ignore[arg-type]
        detector = TorchDetector(network, recipe, "random", torch.device("cpu"))
    machine = {**describe_machine(), "cores": count_cores()}
    machine |= {
        "load_at_start": os.getloadavg()[0],
        "weights": str(options.weights or "random").split("/")[-1],
    }
    print(machine)
    result: dict[str, Any] = {"machine": machine, "seed": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scorer = make_scorer(detector, "auto")
        result["runtime"] = scorer.name
        for pool in options.pools.split(","):
            size, count = POOLS[pool]
            paths = make_pool(folder / pool, size, max(20, round(count * options.scale)))
            result[pool] = run_pool(pool, detector, scorer, paths, folder, options.rounds)
        few, many = (peak_memory(folder, n) for n in (1000, 100_000))
        result["memory_mb"] = {"1000": few, "100000": many, "ratio": many / few}
        print(result["memory_mb"])
    write_json(RESULT, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
