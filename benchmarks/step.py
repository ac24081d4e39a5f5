"""A whole training step and a whole evaluation, against torchvision's, in one run.

    python -m benchmarks.step [--model NAME] [--batch N] [--rounds N] [--compile] [--no-memory]

Ours: a batch of bytes, channels_last, bf16 where the machine has it, the recipe's loss, clipping, AdamW
and the averaged weights; evaluation with decoding. torchvision's: the step and the evaluation of its
``references/detection`` (a list of float images, its own transform, fp32, SGD) on its network of that
name. Twice on our side: with every layer trained, which is the equal network, and as the recipe has it
(its first stages frozen). Reading images is left out on both sides. Sides take turns; medians are
compared. Also: the loss's share of a step, the peak memory of three steps in a fresh process, and on a
GPU the share of the card's measured bf16 matrix rate. Writes ``benchmarks/results/step-NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.models.backbones import VggConfig
from hardmine.models.postprocess import DecodeConfig, decode_detections
from hardmine.models.ssd import SSD
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, RawOutput
from hardmine.training.optimization import make_targets
from hardmine.training.run_state import Run, Start
from hardmine.types import Dataset

RESULTS = Path(__file__).parent / "results"
CLASSES, MOST_BOXES, SEED = 20, 8, 0
MEMORY_STEPS, MATRIX = 3, 8192
SIDES = ("hardmine", "hardmine, recipe", "torchvision")


def make_batch(size: int, side: int, device: torch.device) -> Batch:
    """Return random images with 1 to 8 boxes each; the same in every run."""
    g = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=g)
    labels = torch.randint(1, CLASSES + 1, (size, MOST_BOXES), generator=g)
    labels *= torch.arange(MOST_BOXES) < torch.randint(1, MOST_BOXES + 1, (size, 1), generator=g)
    low = torch.rand(size, MOST_BOXES, 2, generator=g) * side * 0.6
    extent = torch.rand(size, MOST_BOXES, 2, generator=g) * side * 0.3 + side * 0.05
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    boxes = torch.cat([low, low + extent], -1)
    return Batch(images, boxes, labels, ignore, torch.arange(size)).to(device)


def whole(recipe: Recipe) -> Recipe:
    """Return the recipe with every layer trained."""
    backbone: Any = recipe.model.backbone  # type: ignore[union-attr]
    free = {"frozen_stages": 0} if isinstance(backbone, VggConfig) else {"frozen_to": None}
    model = replace(recipe.model, backbone=replace(backbone, **free))  # type: ignore[call-arg]
    return replace(recipe, model=model)


class Ours:
    """Our training step and our evaluation."""

    def __init__(self, recipe: Recipe, batch: Batch, *, compiled: bool) -> None:
        names = tuple(f"class {i}" for i in range(CLASSES))
        data = Dataset(names, (), Path())
        folder = Path(tempfile.mkdtemp())
        self.run = Run(
            data,
            recipe,
            folder,
            seed=SEED,
            total=10**6,
            start=Start(),
            device=str(batch.images.device),
        )
        assert isinstance(self.run.model, SSD)
        self.model: SSD = self.run.model
        self.batch, self.bf16 = batch, self.run.bf16
        self.network: Any = torch.compile(self.run.wrapped) if compiled else self.run.wrapped
        limits = {"candidates": 10**6, "class_candidates": 400, "max_detections": 200}
        self.decode = DecodeConfig(score_threshold=0.01, **limits)  # type: ignore[arg-type]

    def train(self) -> None:
        run = self.run
        run.prepare_step()
        loss = run.objective(self.network, self.batch, run.step, run.total)
        run.accelerator.backward(loss.total)
        run.accelerator.clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.average.update(run.model)
        run.step += 1

    def forward(self) -> RawOutput:
        device = self.batch.images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            output: RawOutput = self.network(self.batch.images)
        return output

    @torch.inference_mode()
    def evaluate(self) -> None:
        self.model.eval()
        height, width = self.batch.images.shape[-2:]
        decode_detections(self.forward(), self.model.priors, height, width, self.decode)

    def loss_alone(self) -> Callable[[], None]:
        """Return the loss, forward and backward, from outputs that are there."""
        with torch.no_grad():
            output = self.forward()

        def step() -> None:
            logits = output.class_logits.clone().requires_grad_()
            deltas = output.box_deltas.clone().requires_grad_()
            given = RawOutput(logits, deltas, output.score_form)
            self.run.objective(lambda _: given, self.batch, 0, 1).total.backward()

        return step


class Theirs:
    """torchvision's training step and evaluation, as its reference scripts have them."""

    def __init__(self, name: str, batch: Batch) -> None:
        device = batch.images.device
        self.model = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES + 1)
        self.model.to(device)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)
        self.images: list[Tensor] = [image / 255.0 for image in batch.images]
        self.targets = make_targets(batch)

    def train(self) -> None:
        self.model.train()
        losses = self.model(self.images, self.targets)
        loss = sum(losses.values())
        loss.item()  # the reference loop logs it and looks for one that is not finite
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.inference_mode()
    def evaluate(self) -> None:
        self.model.eval()
        found = self.model(self.images)
        [{key: value.cpu() for key, value in item.items()} for item in found]


def make_side(side: str, name: str, batch: Batch, compiled: bool) -> Ours | Theirs:
    torch.manual_seed(SEED)
    if side == "torchvision":
        return Theirs(name, batch)
    recipe = named_recipe(name)
    return Ours(whole(recipe) if side == "hardmine" else recipe, batch, compiled=compiled)


def quiet_heads(model: torch.nn.Module) -> None:
    """Make nearly all priors sure background, as training does; else decoding takes all the time."""
    for layer in model.modules():
        if not isinstance(layer, torch.nn.Conv2d) or layer.bias is None:
            continue
        if layer.out_channels % (CLASSES + 1) == 0:
            with torch.no_grad():
                layer.bias.view(-1, CLASSES + 1)[:, 0] += 9.0


def timed(step: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def compare(
    steps: dict[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Return median seconds; the sides take turns, after two steps each that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 2):
        for name, step in steps.items():
            taken = timed(step, device)
            if index >= 2:
                seconds[name].append(taken)
    return {name: median(values) for name, values in seconds.items()}


def peak_memory(side: str, name: str, size: int) -> float:
    """Train three steps in this process and return the MB that they added at the highest."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    batch = make_batch(size, named_recipe(name).model.height, device)
    before = _status("VmRSS")
    made = make_side(side, name, batch, False)
    for _ in range(MEMORY_STEPS):
        made.train()
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM") - before


def _status(key: str) -> float:
    """Return one of the process's own figures, MB (what ``getrusage`` says begins with the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure_memory(name: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.step", "--model", name, "--batch", str(size)]
    found = {}
    for side in SIDES:
        done = subprocess.run(
            [*command, "--probe", side], capture_output=True, text=True, check=True
        )
        found[side] = float(json.loads(done.stdout.splitlines()[-1]))
    return found


def matrix_rate(device: torch.device) -> float:
    """Return the bf16 multiply-add rate of large matrices, FLOP/s."""
    a = torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16, device=device)
    for _ in range(3):
        a @ a
    seconds = median(timed(lambda: [a @ a for _ in range(10)] and None, device) for _ in range(5))
    return 10 * 2 * MATRIX**3 / seconds


def flops(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--probe", choices=SIDES)
    options = parser.parse_args(argv)
    if options.probe:
        print(json.dumps(peak_memory(options.probe, options.model, options.batch)))
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = make_batch(options.batch, named_recipe(options.model).model.height, device)
    sides = {s: make_side(s, options.model, batch, options.compile) for s in SIDES}
    for made in sides.values():
        quiet_heads(made.model)
    ours = sides["hardmine"]
    assert isinstance(ours, Ours)
    machine = {**describe_machine(), "threads": torch.get_num_threads(), "device": str(device)}
    machine |= {"bf16": ours.bf16, "compiled": options.compile, "batch": options.batch}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    sizes = {s: sum(p.numel() for p in made.model.parameters()) for s, made in sides.items()}
    training = {name: made.train for name, made in sides.items()}
    train = compare({**training, "loss alone": ours.loss_alone()}, options.rounds, device)
    evaluation = compare({n: m.evaluate for n, m in sides.items()}, options.rounds, device)
    result: dict[str, Any] = {"machine": machine, "model": options.model, "parameters": sizes}
    for name, seconds in (("training", train), ("evaluation", evaluation)):
        rates = {side: options.batch / seconds[side] for side in SIDES}
        ratios = {side: rates[side] / rates["torchvision"] for side in SIDES[:2]}
        result[name] = {"images_per_second": rates, "times_torchvision": ratios}
        print(name, {s: f"{r:.1f} img/s" for s, r in rates.items()}, "ratios", ratios)
    result["loss_share"] = train["loss alone"] / train["hardmine"]
    print(f"loss: {100 * result['loss_share']:.1f} % of a step")
    if device.type == "cuda":
        rate = matrix_rate(device)
        used = {
            "training": flops(ours.train) / train["hardmine"] / rate,
            "evaluation": flops(ours.evaluate) / evaluation["hardmine"] / rate,
        }
        result |= {"matrix_flops": rate, "share_of_matrix_rate": used}
        print(f"bf16 matrices: {rate / 1e12:.0f} TFLOP/s; share used: {used}")
    if not options.no_memory:
        result["peak_memory_mb"] = measure_memory(options.model, options.batch)
        print("peak memory, MB:", {s: round(v) for s, v in result["peak_memory_mb"].items()})
    suffix = "-compiled" if options.compile else ""
    write_json(RESULTS / f"step-{options.model}{suffix}.json", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
