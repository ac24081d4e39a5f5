"""Assignment, selection and loss, forward and backward, against torchvision's in one run.

    python -m benchmarks.loss [--rounds N] [--threads N] [--device cuda] [--classes 21,91]
                              [--boxes 8,60] [--no-compile]

Batch 32, 8,732 priors, 1 to N boxes an image. Measured in turn, round by round: Hardmine's step as it
is and compiled (``fullgraph=True``), torchvision's matcher loop and ``SSD.compute_loss``, and the
floor, which is cross-entropy forward and backward alone. Prints medians and ratios, by the clock and
by the processor's time (which other processes disturb less), and adds them under the device and the
number of threads to ``benchmarks/results/loss.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import _utils as utils
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.losses.multibox_loss import LossConfig, MultiBoxLoss
from hardmine.tensors import Batch, Priors, RawOutput, ScoreForm

RESULT = Path(__file__).parent / "results" / "loss.json"
BATCH, PRIORS, SEED = 32, 8732, 0

Step = Callable[[Tensor, Tensor], Tensor]


def make_inputs(
    classes: int = 21, most_boxes: int = 8, device: str = "cpu"
) -> tuple[Batch, Priors, RawOutput]:
    """Return random priors, boxes and outputs (``classes`` counts background); always the same."""
    g = torch.Generator().manual_seed(SEED)
    cxcywh = torch.rand(PRIORS, 4, generator=g) * 200 + 50
    labels = torch.randint(1, classes, (BATCH, most_boxes), generator=g)
    counts = torch.randint(1, most_boxes + 1, (BATCH, 1), generator=g)
    labels *= torch.arange(most_boxes) < counts
    low = torch.rand(BATCH, most_boxes, 2, generator=g) * 200
    size = torch.rand(BATCH, most_boxes, 2, generator=g) * 90 + 10
    images = torch.zeros(BATCH, 3, 1, 1, dtype=torch.uint8)
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    batch = Batch(images, torch.cat([low, low + size], -1), labels, ignore, torch.arange(BATCH))
    logits = torch.randn(BATCH, PRIORS, classes, generator=g).to(device)
    deltas = torch.randn(BATCH, PRIORS, 4, generator=g).to(device)
    level = torch.zeros(PRIORS, dtype=torch.int64, device=device)
    priors = Priors(cxcywh.to(device), level, ((1, PRIORS),))
    return batch.to(device), priors, RawOutput(logits, deltas, ScoreForm.SOFTMAX)


def hardmine_step(batch: Batch, priors: Priors) -> Step:
    """Return the default recipe's loss."""
    loss = MultiBoxLoss(LossConfig(), priors)
    return lambda logits, deltas: loss(RawOutput(logits, deltas, ScoreForm.SOFTMAX), batch).total


def torchvision_step(batch: Batch, priors: Priors) -> Step:
    """Return torchvision's matching and loss on the same inputs."""
    half = priors.cxcywh[:, 2:] / 2
    anchors = torch.cat([priors.cxcywh[:, :2] - half, priors.cxcywh[:, :2] + half], 1)
    matcher = utils.SSDMatcher(0.5)
    targets = [
        {"boxes": b[n > 0], "labels": n[n > 0]}
        for b, n in zip(batch.boxes, batch.labels, strict=True)
    ]
    owner = type("Owner", (), {})()
    owner.box_coder = utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    owner.neg_to_pos_ratio = 3.0

    def step(logits: Tensor, deltas: Tensor) -> Tensor:
        matched = [matcher(box_iou(t["boxes"], anchors)) for t in targets]
        outputs = {"bbox_regression": deltas, "cls_logits": logits}
        losses = SSD.compute_loss(owner, targets, outputs, [anchors] * BATCH, matched)
        return losses["classification"] + losses["bbox_regression"]

    return step


def floor_step(batch: Batch) -> Step:
    """Return cross-entropy of all priors alone."""
    labels = torch.zeros(BATCH * PRIORS, dtype=torch.int64, device=batch.labels.device)
    return lambda logits, _: F.cross_entropy(logits.flatten(0, 1), labels)


def timed(step: Step, output: RawOutput) -> tuple[float, float]:
    """Return the seconds of one forward and backward pass: by the clock, and of the processor."""
    logits = output.class_logits.clone().requires_grad_()
    deltas = output.box_deltas.clone().requires_grad_()
    cuda = logits.is_cuda
    if cuda:
        torch.cuda.synchronize()
    clock, processor = time.perf_counter(), time.process_time()
    step(logits, deltas).backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - processor


def measure(classes: int, boxes: int, device: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """Return medians (seconds) and ratios of one case."""
    batch, priors, output = make_inputs(classes, boxes, device)
    ours = hardmine_step(batch, priors)
    steps = {"hardmine": ours}
    if compiled:
        torch.compiler.reset()
        steps["compiled"] = torch.compile(ours, fullgraph=True)
    steps |= {"torchvision": torchvision_step(batch, priors), "floor": floor_step(batch)}
    for step in steps.values():
        timed(step, output)
        timed(step, output)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, output))
    case: dict[str, Any] = {"classes": classes, "boxes": f"1-{boxes}", "rounds": rounds}
    for index, key in enumerate(("clock", "processor")):
        medians = {name: median(pair[index] for pair in pairs) for name, pairs in seconds.items()}
        ratios = {
            f"{name} / {other}": medians[name] / medians[other]
            for name in ("hardmine", "compiled")
            if name in medians
            for other in ("torchvision", "floor")
        }
        case[key] = {"median_s": medians, "ratios": ratios}
    return case


def show(case: dict[str, Any]) -> None:
    print(f"\n{case['classes']} classes, {case['boxes']} boxes an image, {case['rounds']} rounds")
    for key in ("clock", "processor"):
        medians = (f"{name} {value * 1e3:.1f}" for name, value in case[key]["median_s"].items())
        ratios = (f"{name} {value:.2f}" for name, value in case[key]["ratios"].items())
        print(f"  {key:9}  ms: {', '.join(medians)}\n  {'':9}  {', '.join(ratios)}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--classes", default="21,91", help="background included")
    parser.add_argument("--boxes", default="8,60", help="most boxes an image")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    machine = {**describe_machine(), "threads": torch.get_num_threads(), "seed": SEED}
    if options.device != "cpu":
        machine["device"] = torch.cuda.get_device_name(options.device)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    cases = []
    for classes in map(int, options.classes.split(",")):
        for boxes in map(int, options.boxes.split(",")):
            cases.append(
                measure(classes, boxes, options.device, options.rounds, not options.no_compile)
            )
            show(cases[-1])
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    name = options.device.split(":")[0]
    key = f"{name}-{torch.get_num_threads()}" if name == "cpu" else name
    known = {k: v for k, v in results.items() if isinstance(v, dict) and "cases" in v}
    write_json(RESULT, {**known, key: {"machine": machine, "cases": cases}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
