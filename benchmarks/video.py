"""Mining a video against its decoder: frames of the recording per second of work, in one run.

    python -m benchmarks video [--images N] [--weights CHECKPOINT] [--rounds N]

A recording of 1,280 x 720 at 25 frames per second (H.264, a key frame every two seconds) is made of
photographs of HARDMINE_DATA, each a second long and slowly moved. ``limit`` is what the decoder alone
gives, all frames or the key frames, without a colour converted. Mining looks at one frame a second, at
key frames, or at every frame; each is timed in turns with its limit, and the best round of each counts.
The network's runtime is made once, before any clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hardmine.data.video import Sampling, iter_frames
from hardmine.device import describe_machine
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.fast_scoring import make_scorer
from hardmine.inference.load_detector import load_detector
from hardmine.mining.pool_scorers import FastScorer
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan_source
from hardmine.mining.sources.archives_and_videos import VideoSource
from hardmine.models.ssd import SSD
from hardmine.recipes.named_recipes import named_recipe

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
SIZE, RATE, KEY = (1280, 720), 25, 50


def make_video(path: Path, images: int) -> int:
    """Write the recording; return how many frames it has."""
    import av

    photos = sorted((DATA / "negatives" / "pool").rglob("*.jpg"))[:images]
    width, height = SIZE
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = KEY
        stream.options = {"preset": "ultrafast", "sc_threshold": "0"}
        for photo in photos:
            with Image.open(photo) as image:
                wide = image.convert("RGB").resize((width + RATE * 4, height))
            pixels = np.asarray(wide)
            for index in range(RATE):
                part = np.ascontiguousarray(pixels[:, index * 4 : index * 4 + width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode(None))
    return len(photos) * RATE


def decode_alone(path: Path, *, key: bool) -> None:
    """Decode a video's frames, or its key frames, and do nothing with them."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if key:
            stream.codec_context.skip_frame = "NONKEY"
        for _ in container.decode(stream):
            pass


def seconds(work: Callable[[], Any], best: float) -> float:
    began = time.perf_counter()
    work()
    return min(best, time.perf_counter() - began)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks video")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(argv)
    if chosen.weights:
        detector: Any = load_detector(chosen.weights, "cpu")
    else:
        torch.manual_seed(0)
        recipe = named_recipe("ssdlite320_mobilenet_v2")
        network: Any = SSD(recipe.model, ("thing",))  # type: ignore[arg-type]
        detector = TorchDetector(network, recipe, "random", torch.device("cpu"))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        video = Path(name) / "recording.mp4"
        frames = make_video(video, chosen.images)
        scorer = make_scorer(detector, "auto")
        fast = FastScorer(detector, scorer)
        for every in ("1s", "key", "1"):
            limit = read = mined = float("inf")
            for _ in range(chosen.rounds):
                limit = seconds(lambda every=every: decode_alone(video, key=every == "key"), limit)
                read = seconds(lambda every=every: choose(video, every), read)
                mined = seconds(
                    lambda every=every: scan(fast, detector.model_id, video, every), mined
                )
            result[f"every {every}"] = {
                "decoder_limit_frames_per_s": round(frames / limit, 1),
                "frames_chosen_and_read_per_s": round(frames / read, 1),
                "mined_frames_per_s": round(frames / mined, 1),
                "of_limit": round(limit / mined, 2),
                "looked_at": len(choose(video, every)),
            }
            print(f"every {every}: {result[f'every {every}']}", flush=True)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"frames": frames, **result, "load": load, **describe_machine()}, indent=2))
    return 0


def choose(video: Path, every: str) -> list[float]:
    return [frame.time for frame in iter_frames(video, Sampling.parse(every))]


def scan(fast: FastScorer, model_id: str, video: Path, every: str) -> None:
    """Score the frames into a new store."""
    with tempfile.TemporaryDirectory() as folder, PoolStore(Path(folder) / "pool.sqlite") as store:
        source = VideoSource(str(video), Sampling.parse(every))
        scan_source(source, store, fast, model_id)


if __name__ == "__main__":
    raise SystemExit(main())
