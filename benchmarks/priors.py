"""Fitted priors beside the default ones: coverage of cards and raccoon, and AP at equal epochs.

    python -m benchmarks.priors                               coverage of both sets (seconds)
    python -m benchmarks.priors --train cards|raccoon --arm default|fitted [--steps N] [--seed N]

Needs the data named by HARDMINE_DATA. The fit sees training images only. Coverage is that of the
validation boxes, which neither the fit nor its own judgement has seen. Writes
``benchmarks/results/priors.json`` or, for a training, ``priors_<data>_<arm>_<seed>.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hardmine
from hardmine.data.load_dataset import load_dataset
from hardmine.data.splits.split import split_dataset
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.models.priors import ExplicitPriors
from hardmine.prior_design.coverage import boxes_on_canvas, measure_coverage
from hardmine.prior_design.fit_priors import FitOptions, FittedPriors, fit_priors
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import Recipe
from hardmine.types import Dataset

DATA = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
RESULTS = Path(__file__).parent / "results"
MODEL = "ssdlite320_mobilenet_v2"
SETS = ("cards", "raccoon")


def load(name: str, seed: int) -> tuple[Dataset, Dataset]:
    """Return the training and the validation images."""
    if name == "cards":
        train = load_dataset(DATA / "cards/train")
        return train, load_dataset(DATA / "cards/test", categories=train.categories)
    parts = split_dataset(load_dataset(DATA / name), {"train": 0.8, "val": 0.2}, seed)
    return parts["train"], parts["val"]


def fit(train: Dataset, seed: int) -> tuple[FittedPriors, Recipe]:
    """Return the fit to the training images and the recipe with it."""
    recipe = named_recipe(MODEL)
    found = fit_priors(train, recipe, FitOptions(seed=seed))
    levels = tuple(
        tuple((float(w), float(h)) for w, h in grid.shapes.tolist()) for grid in found.fitted.levels
    )
    priors = ExplicitPriors(levels=levels)
    return found, replace(recipe, model=replace(recipe.model, priors=priors))


def coverage(seed: int) -> dict[str, Any]:
    """Return both coverages of the validation boxes of both sets."""
    found: dict[str, Any] = {}
    for name in SETS:
        train, val = load(name, seed)
        start = time.perf_counter()
        fitted, recipe = fit(train, seed)
        seconds = round(time.perf_counter() - start, 1)
        boxes = boxes_on_canvas(val, recipe.resize)
        rows = {
            arm: {"priors": layout.count, **asdict(measure_coverage(boxes, layout).total())}
            for arm, layout in (("default", fitted.default), ("fitted", fitted.fitted))
        }
        found[name] = {"seconds": seconds, "recommended": fitted.recommended, **rows}
        for arm, row in rows.items():
            print(
                f"{name:8} {arm:8} {row['priors']:5} priors, {row['boxes']} validation boxes: "
                f"best IoU {row['mean_iou']:.3f}, reach .5 {row['reach']:.3f}, "
                f"{row['matches']:.1f} matched a box, {row['forced_only']} forced only"
            )
    return found


def train_arm(name: str, arm: str, steps: int, seed: int) -> dict[str, Any]:
    """Train one arm for so many steps and return its AP."""
    train, val = load(name, seed)
    recipe = fit(train, seed)[1] if arm == "fitted" else named_recipe(MODEL)
    start = time.perf_counter()
    result = hardmine.train(
        train,
        val=val,
        recipe=replace(recipe, epochs=steps * recipe.batch.size / len(train)),
        weights=DATA / "backbones/mobilenet_v2_imagenet.pth",
        out=Path("runs/priors") / f"{name}-{arm}-{seed}",
        resume=True,
        seed=seed,
        draws=200,
        progress=lambda what, done, total: (
            print(f"{what} {done}/{total}", flush=True) if done % 50 == 0 else None
        ),
    )
    ap = result.measurement.ap
    row = {"AP": ap.ap, "AP50": ap.ap50, "steps": steps, "seed": seed}
    print(name, arm, row)
    return {**row, "seconds": round(time.perf_counter() - start)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", choices=SETS)
    parser.add_argument("--arm", choices=("default", "fitted"), default="default")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    machine = {**describe_machine(), "cores": os.cpu_count()}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    if options.train is None:
        write_json(RESULTS / "priors.json", {"machine": machine, **coverage(options.seed)})
        return 0
    row = train_arm(options.train, options.arm, options.steps, options.seed)
    name = f"priors_{options.train}_{options.arm}_{options.seed}.json"
    write_json(RESULTS / name, {"machine": machine, **row})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
