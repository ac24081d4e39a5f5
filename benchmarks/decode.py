"""Decoding and suppression of a batch against torchvision's SSD, at equal results, in one run.

    python -m benchmarks.decode [--rounds N] [--batch N]

Outputs shaped like a trained network's: nearly all priors are sure background, a few objects an image
are found by several neighbouring priors each, some other priors fire weakly. 8,732 priors, 21 and 91
classes, limits of torchvision's ``ssd300_vgg16`` (.01, 400 a class, IoU .45, 200 detections). Checks
that boxes, scores and labels are equal, prints medians and ratios, writes
``benchmarks/results/decode.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.detections import Detections
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.models.postprocess import DecodeConfig, decode_detections
from hardmine.models.priors import caffe_priors, encode_boxes, make_priors
from hardmine.tensors import Priors, RawOutput, ScoreForm

RESULT = Path(__file__).parent / "results" / "decode.json"
SIDE, MAPS = 300, ((38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1))
THRESHOLD, PER_CLASS, IOU, KEPT = 0.01, 400, 0.45, 200
MOST_OBJECTS, WEAK_SHARE = 8, 0.01


def make_outputs(batch: int, num_classes: int) -> tuple[RawOutput, Priors]:
    """Return outputs as of a trained network; the same in every run."""
    g = torch.Generator().manual_seed(0)
    priors = make_priors(caffe_priors("coco", SIDE), MAPS, SIDE, SIDE)
    corners = cxcywh_to_xyxy(priors.cxcywh)
    num = len(corners)
    logits = torch.randn(batch, num, num_classes + 1, generator=g) * 0.7
    sure = 7.0 + float(torch.tensor(float(num_classes)).log())
    logits[..., 0] += sure
    deltas = torch.randn(batch, num, 4, generator=g) * 0.3
    for image in range(batch):
        for _ in range(int(torch.randint(1, MOST_OBJECTS + 1, (1,), generator=g))):
            size = torch.rand(2, generator=g) * 120 + 30
            low = torch.rand(2, generator=g) * (SIDE - size)
            box = torch.cat([low, low + size])
            iou = box_iou(box[None], corners)[0]
            label = int(torch.randint(1, num_classes + 1, (1,), generator=g))
            logits[image, :, label] += 1.4 * sure * iou.clamp(max=0.8)
            near = iou > 0.3
            target = encode_boxes(box.expand(num, 4), priors.cxcywh)
            noise = torch.randn(num, 4, generator=g) * 0.3
            deltas[image, near] = (target + noise)[near]
        weak = torch.rand(num, generator=g) < WEAK_SHARE
        which = torch.randint(1, num_classes + 1, (num,), generator=g)
        logits[image, weak.nonzero()[:, 0], which[weak]] += 0.5 * sure
    return RawOutput(logits, deltas, ScoreForm.SOFTMAX), priors


def torchvision_decoder(output: RawOutput, priors: Priors) -> Callable[[], list[dict[str, Any]]]:
    owner = type("Owner", (), {})()
    owner.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    owner.score_thresh, owner.nms_thresh = THRESHOLD, IOU
    owner.topk_candidates, owner.detections_per_img = PER_CLASS, KEPT
    batch = len(output.class_logits)
    anchors = [cxcywh_to_xyxy(priors.cxcywh)] * batch
    head = {"bbox_regression": output.box_deltas, "cls_logits": output.class_logits}

    def decode() -> list[dict[str, Any]]:
        with torch.inference_mode():
            sizes = [(SIDE, SIDE)] * batch
            return SSD.postprocess_detections(owner, head, anchors, sizes)

    return decode


def differences(ours: list[Detections], theirs: list[dict[str, Any]]) -> dict[str, float]:
    """Return how far the results are apart; another number or another label is an error."""
    boxes = scores = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.labels.tolist() != b["labels"].tolist():
            raise SystemExit("labels differ")
        boxes = max(boxes, float(np.abs(a.boxes - b["boxes"].cpu().numpy()).max(initial=0)))
        scores = max(scores, float(np.abs(a.scores - b["scores"].cpu().numpy()).max(initial=0)))
    return {"box_px": boxes, "score": scores}


def measure(batch: int, num_classes: int, rounds: int, device: torch.device) -> dict[str, Any]:
    output, priors = make_outputs(batch, num_classes)
    output = RawOutput(
        output.class_logits.to(device), output.box_deltas.to(device), output.score_form
    )
    priors = Priors(priors.cxcywh.to(device), priors.level.to(device), priors.level_shapes)
    config = DecodeConfig(
        score_threshold=THRESHOLD,
        nms_iou=IOU,
        candidates=10**6,
        class_candidates=PER_CLASS,
        max_detections=KEPT,
    )
    steps: dict[str, Callable[[], Any]] = {
        "hardmine": lambda: decode_detections(output, priors, SIDE, SIDE, config),
        "torchvision": torchvision_decoder(output, priors),
    }
    results = {name: step() for name, step in steps.items()}
    apart = differences(results["hardmine"], results["torchvision"])
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        "classes": num_classes + 1,
        "batch": batch,
        "detections_per_image": sum(map(len, results["hardmine"])) / batch,
        "largest_difference": apart,
        "median_s": medians,
        "ratio": medians["hardmine"] / medians["torchvision"],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = {**describe_machine(), "threads": torch.get_num_threads(), "device": str(device)}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    cases = []
    for num_classes in (20, 90):
        case = measure(options.batch, num_classes, options.rounds, device)
        cases.append(case)
        times = {name: f"{value * 1e3:.1f} ms" for name, value in case["median_s"].items()}
        print(
            f"{case['classes']} classes, {case['detections_per_image']:.0f} detections an image: "
            f"{times}, ratio {case['ratio']:.2f}, apart {case['largest_difference']}"
        )
    write_json(RESULT, {"machine": machine, "seed": 0, "cases": cases})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
