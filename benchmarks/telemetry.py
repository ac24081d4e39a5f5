"""What telemetry costs: whole training steps with it and without, taking turns.

    python -m benchmarks.telemetry [--model NAME] [--batch N] [--rounds N]

Both sides train the same network on the same batch of random images; reading images is left out, so that
the share of telemetry is the largest that it can be. Prints the median seconds of CPU time (of the clock
on a GPU) and the median of the ratios of neighbouring steps, and writes
``benchmarks/results/telemetry-NAME.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.step import CLASSES, RESULTS, SEED, make_batch
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.recipes.named_recipes import named_recipe
from hardmine.tensors import Batch
from hardmine.training.run_state import Run, Start
from hardmine.types import Dataset


def make_run(name: str, *, telemetry: bool, device: torch.device) -> Run:
    """Return a run that has done no step yet."""
    data = Dataset(tuple(f"class {i}" for i in range(CLASSES)), (), Path())
    recipe = replace(named_recipe(name), telemetry=telemetry)
    return Run(
        data,
        recipe,
        Path(tempfile.mkdtemp()),
        seed=SEED,
        total=10**6,
        start=Start(),
        device=str(device),
    )


def train_step(run: Run, batch: Batch) -> float:
    """Do a step; return the seconds of CPU time (on a GPU: of the clock) that it took."""
    cuda = batch.images.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    run.prepare_step()
    loss = run.objective(run.network, batch, run.step, run.total)
    run.accelerator.backward(loss.total)
    run.accelerator.clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.average.update(run.model)
    run.step += 1
    if run.telemetry is not None:
        run.telemetry.finish_step(run.step)
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ssd320_mobilenet_v2_fpnlite")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = make_batch(options.batch, named_recipe(options.model).model.height, device)
    with_it, without = (make_run(options.model, telemetry=t, device=device) for t in (True, False))
    on, off = [], []
    for index in range(options.rounds + 2):
        pair = [(on, with_it), (off, without)]
        for seconds, run in pair if index % 2 else reversed(pair):
            seconds.append(train_step(run, batch))
    on, off = on[2:], off[2:]
    ratio = median(a / b for a, b in zip(on, off, strict=True))
    result = {
        "machine": {
            **describe_machine(),
            "threads": torch.get_num_threads(),
            "device": str(device),
        },
        "model": options.model,
        "batch": options.batch,
        "rounds": options.rounds,
        "seconds_with": median(on),
        "seconds_without": median(off),
        "ratio": ratio,
    }
    print("\n".join(f"{key}: {value}" for key, value in result.items()))
    write_json(RESULTS / f"telemetry-{options.model}.json", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
