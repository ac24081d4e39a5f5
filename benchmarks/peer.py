"""torchvision's SSD, written as its users would, beside a recipe of ours: same images, epochs and seeds.

    python -m benchmarks.peer [--sets NAME …] [--recipe R] [--seeds N] [--epochs E] [--device D]

The peer is ``torchvision.models.detection.ssd.SSD`` around the same MobileNetV2 weights: six levels (the
expansion of features.14, features.18 and four extra ones), features 0 to 6 frozen, torchvision's own
default boxes, AdamW at 1e-3 with a one-cycle schedule, batch 8, float32, RandomIoUCrop, flip and
photometric distortion. Prints and writes AP, AP50 per class, recall at .1 alarms per image and minutes.
"""

from __future__ import annotations

import argparse
import time
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from benchmarks.trial_sets import DATA, MAKERS, TrialSet, make_set
from hardmine import load_dataset, train
from hardmine.comparison.compare_figures import figures_of
from hardmine.data.formats.image_files import load_images
from hardmine.data.images import read_image
from hardmine.detections import Detections
from hardmine.device import describe_machine
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.scored_images import Scored, load_detections
from hardmine.files import write_json
from hardmine.types import Dataset, ImageRecord, ImageState

RESULTS = Path(__file__).parent / "results"
SIDE, BATCH, RATE = 320, 8, 1e-3


class PeerBackbone(nn.Module):
    """MobileNetV2 as torchvision's SSDlite taps it, with four extra levels."""

    out_channels = (576, 1280, 512, 256, 256, 128)

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network = mobilenet_v2(weights=None)
        network.load_state_dict(torch.load(weights, weights_only=True))
        features = network.features
        self.first = nn.Sequential(*features[:14], features[14].conv[0])
        self.second = nn.Sequential(*features[14].conv[1:], *features[15:])
        for layer in features[:7]:
            layer.requires_grad_(False)
        extra, width = [], 1280
        for wide in self.out_channels[2:]:
            half = wide // 2
            extra.append(
                nn.Sequential(
                    nn.Conv2d(width, half, 1, bias=False),
                    nn.BatchNorm2d(half),
                    nn.ReLU6(),
                    nn.Conv2d(half, wide, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU6(),
                )
            )
            width = wide
        self.extra = nn.ModuleList(extra)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = [self.first(images)]
        maps.append(self.second(maps[0]))
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return OrderedDict((str(index), item) for index, item in enumerate(maps))


def build_peer(num_classes: int, weights: Path) -> SSD:
    """Return torchvision's SSD for so many classes, background not counted."""
    boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    backbone = PeerBackbone(weights)
    head = SSDHead(list(backbone.out_channels), boxes.num_anchors_per_location(), num_classes + 1)
    return SSD(
        backbone,
        boxes,
        (SIDE, SIDE),
        num_classes + 1,
        head=head,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        score_thresh=0.001,
        nms_thresh=0.55,
        detections_per_img=300,
        topk_candidates=300,
    )


def pixels_of(path: Path) -> Tensor:
    """Return u8[3, H, W]."""
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)


class Photographs(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The training images with torchvision's own augmentation."""

    def __init__(self, data: Dataset) -> None:
        self.records = [r for r in data.records if len(r.boxes[~r.ignore])]
        self.steps = v2.Compose(
            [
                v2.RandomPhotometricDistort(),
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.Resize((SIDE, SIDE), antialias=True),
                v2.SanitizeBoundingBoxes(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self.records[index]
        image = Image(pixels_of(record.path))
        kept = ~record.ignore
        boxes = BoundingBoxes(
            torch.from_numpy(record.boxes[kept]),
            format=BoundingBoxFormat.XYXY,
            canvas_size=(record.height, record.width),
        )
        target = {"boxes": boxes, "labels": torch.from_numpy(record.labels[kept])}
        image, target = self.steps(image, target)
        return image.as_subclass(Tensor), {
            "boxes": target["boxes"].as_subclass(Tensor),
            "labels": target["labels"],
        }


def train_peer(data: Dataset, weights: Path, epochs: float, seed: int, device: str) -> SSD:
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = build_peer(len(data.categories), weights).to(device).train()
    images = Photographs(data)
    loader = torch.utils.data.DataLoader(
        images,
        BATCH,
        shuffle=True,
        drop_last=len(images) > BATCH,
        num_workers=2,
        collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=True,
    )
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, weight_decay=0.05)
    steps = max(1, round(epochs * len(images) / BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    done = 0
    while done < steps:
        for pictures, targets in loader:
            moved = [{k: v.to(device) for k, v in target.items()} for target in targets]
            losses = model([picture.to(device) for picture in pictures], moved)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(free, 10.0)
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break
    return model.eval()


@torch.inference_mode()
def detect(model: SSD, records: tuple[ImageRecord, ...], device: str) -> tuple[Detections, ...]:
    found = []
    for record in records:
        result = model([pixels_of(record.path).to(device).float() / 255])[0]
        found.append(
            Detections(
                result["boxes"].float().cpu().numpy(),
                result["scores"].float().cpu().numpy(),
                result["labels"].cpu().numpy().astype(np.int64),
            )
        )
    return tuple(found)


def run_peer(made: TrialSet, seed: int, epochs: float, device: str) -> dict[str, Any]:
    data, val = load_dataset(made.train), load_dataset(made.val)
    start = time.perf_counter()
    weights = DATA / "backbones/mobilenet_v2_imagenet.pth"
    model = train_peer(data, weights, epochs, seed, device)
    minutes = (time.perf_counter() - start) / 60
    empty = negatives_of(made, data.categories)
    arm = ArmScores(
        Scored(val, detect(model, val.records, device)),
        Scored(empty, detect(model, empty.records, device)),
    )
    return {"seed": seed, "minutes": round(minutes, 2), **figures_of(arm)}


def negatives_of(made: TrialSet, categories: tuple[str, ...]) -> Dataset:
    found = load_images(made.negatives, state=ImageState.ASSUMED_EMPTY, source="negatives")
    return Dataset(categories, found.records, found.root)


def run_ours(
    made: TrialSet, recipe: str | None, seed: int, epochs: float, device: str, out: Path
) -> dict[str, Any]:
    val = load_dataset(made.val)
    empty = negatives_of(made, val.categories)
    start = time.perf_counter()
    train(
        made.train,
        val=made.val,
        model=recipe,
        weights=DATA / "backbones/mobilenet_v2_imagenet.pth",
        epochs=epochs,
        seed=seed,
        out=out,
        resume=True,
        device=device,
        draws=10,
        validate=0,
    )
    minutes = (time.perf_counter() - start) / 60
    from hardmine import evaluate

    evaluate(out, val, negatives=empty, out=out / "peer", draws=10, device=device)
    places = out / "peer" / "detections"
    arm = ArmScores(
        load_detections(places / "val.json", val), load_detections(places / "held_out.json", empty)
    )
    return {"seed": seed, "minutes": round(minutes, 2), **figures_of(arm)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="*", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--recipe", default=None, help="a named recipe of ours; the default one")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=40.0)
    parser.add_argument("--only", choices=("peer", "ours"), default=None)
    parser.add_argument("--data", type=Path, default=Path("runs/trial_sets"))
    parser.add_argument("--out", type=Path, default=Path("runs/peer"))
    parser.add_argument("--results", type=Path, default=RESULTS / "peer.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(argv)
    rows = []
    for name in given.sets:
        made = make_set(name, given.data)
        for seed in given.seeds:
            for who in ("peer", "ours"):
                if given.only not in (None, who):
                    continue
                if who == "peer":
                    row = run_peer(made, seed, given.epochs, given.device)
                else:
                    place = given.out / f"{name}-{seed}"
                    row = run_ours(made, given.recipe, seed, given.epochs, given.device, place)
                rows.append({"set": name, "who": who, **row})
                shown = {k: row.get(k) for k in ("AP", "AP50", "recall_at_0.1", "minutes")}
                print(name, who, seed, shown, flush=True)
                write_json(given.results, {"machine": asdict_machine(), "rows": rows})
    return 0


def asdict_machine() -> dict[str, Any]:
    machine: Any = describe_machine()
    return machine if isinstance(machine, dict) else asdict(machine)


if __name__ == "__main__":
    raise SystemExit(main())
