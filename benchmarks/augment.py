"""Augmentation and decoding against torchvision's, one thread, interleaved in one run.

    python -m benchmarks.augment [--rounds N] [--images N]

Augmentation: the preset ``ssd`` onto 320 x 320 against the SSD preset of torchvision's detection
references (photometric, zoom-out, IoU crop, flip on v2 transforms) followed by its resize, on PIL
images and on tensors; the same decoded photographs, half raccoon and half cards, uint8 to the end.

Decoding: a JPEG file's content to 320 x 320, by this package, by Pillow and by torchvision.

Prints medians of CPU time (so that other work on the machine matters little) and their ratios, and
writes ``benchmarks/results/augment.json``.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from hardmine.augment.chain import Augmenter, augment_preset
from hardmine.data.images import Picture, decode_image, read_picture
from hardmine.data.load_dataset import load_splits
from hardmine.data.resize import Resize
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.training.batches import RecordDonors
from hardmine.types import ImageRecord

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
RESULT = Path(__file__).parent / "results" / "augment.json"
SIDE, SEED = 320, 0
MEAN = (124.0, 116.0, 104.0)
SIZES = ((500, 375), (1280, 960), (4000, 3000))

Run = Callable[[], object]


def reference(tensors: bool) -> v2.Compose:
    """Return torchvision's reference SSD preset with the resize that its model does afterwards."""
    return v2.Compose(
        [
            *([v2.ToImage()] if tensors else []),
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=list(MEAN)),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
            v2.Resize((SIDE, SIDE), antialias=True),
            *([] if tensors else [v2.ToImage()]),
        ]
    )


def load(count: int) -> list[tuple[Picture, ImageRecord]]:
    """Return decoded photographs with their records, half of each data set, evenly spread."""
    found = []
    for name in ("raccoon", "cards"):
        dataset = next(iter(load_splits(DATA / name).values()))
        places = np.linspace(0, len(dataset) - 1, count // 2).astype(int)
        found += [dataset.records[i] for i in places]
    return [(read_picture(record.path), record) for record in found]


def augmentations(count: int) -> dict[str, Run]:
    """Return one pass over the images for each way."""
    images = load(count)
    donors = RecordDonors([record for _, record in images])
    ours = {
        f"hardmine {name}": Augmenter(Resize(SIDE, SIDE), augment_preset(name), donors)
        for name in ("ssd", "strong")
    }

    def run_ours(augmenter: Augmenter) -> None:
        for i, (picture, r) in enumerate(images):
            rng = np.random.default_rng([SEED, i])
            sample = augmenter.draw(lambda _, p=picture: p, r.boxes, r.labels, r.ignore, rng)
            torch.from_numpy(sample.image).permute(2, 0, 1)

    def run_theirs(chain: v2.Compose) -> None:
        for picture, record in images:
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(record.boxes),
                format="XYXY",
                canvas_size=(picture.height, picture.width),
            )
            chain(picture.pixels, {"boxes": boxes, "labels": torch.from_numpy(record.labels)})

    runs: dict[str, Run] = {k: lambda a=a: run_ours(a) for k, a in ours.items()}
    for name, tensors in (("torchvision, PIL", False), ("torchvision, tensors", True)):
        chain = reference(tensors)
        runs[name] = lambda c=chain: run_theirs(c)
    return runs


def photograph(width: int, height: int) -> bytes:
    """Return a JPEG (quality 90) of smooth shapes with the grain of a camera's sensor."""
    rng = np.random.default_rng(SEED)
    base = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    smooth = np.asarray(base.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def decodings(size: tuple[int, int]) -> dict[str, Run]:
    """Return one decode and resize for each way."""
    data, resize = photograph(*size), Resize(SIDE, SIDE)
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    shrink = v2.Resize((SIDE, SIDE), antialias=True)
    return {
        "hardmine": lambda: resize.apply(decode_image(data, "photograph", resize.cover)),
        "Pillow": lambda: (
            Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.BILINEAR)
        ),
        "torchvision": lambda: shrink(decode_jpeg(encoded, mode=ImageReadMode.RGB)),
    }


def interleaved(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return each way's median seconds of CPU time; a first round of all is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=48)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    machine = {**describe_machine(), "threads": "1", "seed": str(SEED)}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    times = interleaved(augmentations(options.images), options.rounds)
    per_image = {name: value / options.images * 1e3 for name, value in times.items()}
    best = min(value for name, value in per_image.items() if name.startswith("torchvision"))
    ratio = best / per_image["hardmine ssd"]
    print({name: f"{value:.2f} ms an image" for name, value in per_image.items()})
    print(f"torchvision's quicker way / hardmine ssd: {ratio:.2f}")
    decoding = {}
    for size in SIZES:
        ways = {k: v * 1e3 for k, v in interleaved(decodings(size), options.rounds).items()}
        name = f"{size[0]}x{size[1]}"
        decoding[name] = ways
        print(name, {way: f"{value:.1f} ms" for way, value in ways.items()})
    write_json(
        RESULT,
        {
            "machine": machine,
            "rounds": options.rounds,
            "images": options.images,
            "augment_ms_per_image": per_image,
            "augment_ratio": ratio,
            "decode_and_resize_ms": decoding,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
