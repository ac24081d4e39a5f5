"""Assignment, selection and loss, forward and backward, against torchvision's in one run.

    python -m benchmarks.loss [--rounds N]

Batch 32, 8,732 priors, 21 classes, 1 to 8 boxes an image, on the CPU. The floor is cross-entropy
forward and backward alone. Prints medians and ratios and writes ``benchmarks/results/loss.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import _utils as utils
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from hardmine.files import write_json
from hardmine.loop.summary import describe_machine
from hardmine.training.loss import LossConfig, MultiBoxLoss
from hardmine.types import Batch, Priors, RawOutput, ScoreForm

RESULT = Path(__file__).parent / "results" / "loss.json"
BATCH, PRIORS, CLASSES, SIDE, MOST_BOXES = 32, 8732, 20, 300, 8


def make_inputs() -> tuple[Batch, Priors, RawOutput]:
    """Return random priors, boxes and outputs; the same in every run."""
    g = torch.Generator().manual_seed(0)
    cxcywh = torch.rand(PRIORS, 4, generator=g) * 200 + 50
    labels = torch.randint(1, CLASSES + 1, (BATCH, MOST_BOXES), generator=g)
    counts = torch.randint(1, MOST_BOXES + 1, (BATCH, 1), generator=g)
    labels *= torch.arange(MOST_BOXES) < counts
    low = torch.rand(BATCH, MOST_BOXES, 2, generator=g) * 200
    size = torch.rand(BATCH, MOST_BOXES, 2, generator=g) * 90 + 10
    images = torch.zeros(BATCH, 3, 1, 1, dtype=torch.uint8)
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    batch = Batch(images, torch.cat([low, low + size], -1), labels, ignore, torch.arange(BATCH))
    logits = torch.randn(BATCH, PRIORS, CLASSES + 1, generator=g)
    deltas = torch.randn(BATCH, PRIORS, 4, generator=g)
    priors = Priors(cxcywh, torch.zeros(PRIORS, dtype=torch.int64), ((1, PRIORS),))
    return batch, priors, RawOutput(logits, deltas, ScoreForm.SOFTMAX)


def torchvision_step(batch: Batch, priors: Priors) -> Callable[[Tensor, Tensor], Tensor]:
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


def timed(step: Callable[[Tensor, Tensor], Tensor], output: RawOutput) -> float:
    """Return the seconds of one forward and backward pass."""
    logits = output.class_logits.clone().requires_grad_()
    deltas = output.box_deltas.clone().requires_grad_()
    start = time.process_time()
    step(logits, deltas).backward()
    return time.process_time() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args(argv).rounds
    batch, priors, output = make_inputs()
    ours = MultiBoxLoss(LossConfig(), priors)
    labels = torch.zeros(BATCH * PRIORS, dtype=torch.int64)
    steps: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "hardmine": lambda x, d: ours(RawOutput(x, d, output.score_form), batch).total,
        "torchvision": torchvision_step(batch, priors),
        "floor": lambda x, d: F.cross_entropy(x.flatten(0, 1), labels),
    }
    for step in steps.values():
        timed(step, output)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, output))
    medians = {name: median(values) for name, values in seconds.items()}
    ratios = {name: medians["hardmine"] / medians[name] for name in ("torchvision", "floor")}
    machine = {**describe_machine(), "threads": torch.get_num_threads()}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    print({name: f"{value * 1e3:.1f} ms" for name, value in medians.items()})
    print({f"hardmine / {name}": round(value, 2) for name, value in ratios.items()})
    write_json(RESULT, {"machine": machine, "median_s": medians, "ratios": ratios})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
