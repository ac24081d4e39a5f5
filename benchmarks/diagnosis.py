"""Does ``hardmine diagnose`` name the right cause? Eight runs with a cause planted, and a healthy one.

    python -m benchmarks.diagnosis [--seeds N …] [--only CAUSE …] [--out DIR] [--results FILE]

Each run trains a small network for 240 steps at 128 px on the drawn world, with bottles and boxes as its
two classes; in each but the healthy one a cause is true by construction. Trained runs are kept in the
folder and found again. Also: how many of the labels that the run ``labels`` hides are on the list
``missing_labels.csv``, and how much of that list is right. Prints a line for each run and writes
``benchmarks/results/diagnosis.json``. About a minute of one core for each run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hidden_labels import found_again, keep_labels
from hardmine.augment.chain import augment_preset
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.load_dataset import load_dataset
from hardmine.demo.run_demo import ASPECTS, HEIGHTS, SIDE, fridge160
from hardmine.demo.world import WorldSizes, draw_world
from hardmine.device import describe_machine
from hardmine.diagnosis.diagnose import diagnose
from hardmine.files import write_json
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.priors import ExplicitPriors
from hardmine.models.ssd import SSDConfig
from hardmine.recipes.recipe import Recipe
from hardmine.types import Dataset
from hardmine.workflows.train_and_evaluate import train

RESULTS = Path(__file__).parent / "results"
CANVAS = 128
SIZES = WorldSizes(train=160, val=60, pool=60, negatives=40)
EPOCHS = 24.0


def healthy() -> Recipe:
    """Return the demo's network at 128 px, trained for a minute or less."""
    base = fridge160()
    assert isinstance(base.model, SSDConfig)
    scale = CANVAS / SIDE
    levels = tuple(
        tuple((high * scale * a, high * scale) for high in row for a in ASPECTS) for row in HEIGHTS
    )
    model = replace(
        base.model,
        name="small128",
        height=CANVAS,
        width=CANVAS,
        priors=ExplicitPriors(levels=levels),
    )
    return replace(
        base,
        model=model,
        epochs=EPOCHS,
        augment=augment_preset("light"),
        optim=replace(base.optim, lr=4e-3),
    )


def two_classes(data: Dataset) -> Dataset:
    """Return the drawn world with bottles and boxes alone, which is learnt in few steps."""
    kinds = {name: 1 + ("bottle" not in name) for name in data.categories}
    of = np.array([0, *kinds.values()])
    records = tuple(replace(record, labels=of[record.labels]) for record in data.records)
    return Dataset(("bottle", "box"), records, data.root)


def with_model(recipe: Recipe, **changes: object) -> Recipe:
    """Return the recipe with another network."""
    return replace(recipe, model=replace(recipe.model, **changes))  # type: ignore[arg-type]


def with_loss(recipe: Recipe, **changes: object) -> Recipe:
    """Return the recipe with another loss."""
    return replace(recipe, loss=replace(recipe.loss, **changes))  # type: ignore[arg-type]


def no_floor(recipe: Recipe) -> Recipe:
    """Images without objects give no negatives."""
    return with_loss(recipe, selection=RatioConfig(floor=0))


def narrow(recipe: Recipe) -> Recipe:
    """A tenth of the width."""
    backbone = SmallNetConfig(widths=(2, 3, 6, 10, 13), depths=(1, 1, 2, 2, 1), num_taps=3)
    return with_model(recipe, backbone=backbone)


def one_level(recipe: Recipe) -> Recipe:
    """All sizes on the finest level; the others have one of 4 px."""
    assert isinstance(recipe.model, SSDConfig)
    assert isinstance(recipe.model.priors, ExplicitPriors)
    shapes = tuple(shape for level in recipe.model.priors.levels for shape in level)
    tiny = ((4.0, 4.0),)
    return with_model(recipe, priors=ExplicitPriors(levels=(shapes, tiny, tiny)))


def tenfold(recipe: Recipe) -> Recipe:
    """Thirty instead of three negatives per positive."""
    return with_loss(recipe, selection=RatioConfig(neg_to_pos_ratio=30.0, floor=64))


def box_weight(recipe: Recipe) -> Recipe:
    """A localisation weight of 10."""
    return with_loss(recipe, box_weight=10.0)


def bad_priors(recipe: Recipe) -> Recipe:
    """Flat priors for upright objects."""
    levels = (((40.0, 6.0), (30.0, 5.0)), ((70.0, 10.0), (60.0, 8.0)), ((120.0, 16.0),))
    return with_model(recipe, priors=ExplicitPriors(levels=levels))


def hide_labels(data: Dataset, seed: int, share: float = 0.2) -> Dataset:
    """Leave out a share of the labels; an image keeps at least one."""
    rng = np.random.default_rng(seed)
    records = []
    for record in data.records:
        keep = rng.random(len(record.labels)) >= share
        if len(keep) and not keep.any():
            keep[int(rng.integers(len(keep)))] = True
        records.append(keep_labels(record, keep))
    return data.with_records(records)


def draw_beside(data: Dataset, seed: int) -> Dataset:
    """Move each box by half its width, to the left or to the right."""
    rng = np.random.default_rng(seed)
    records = []
    for record in data.records:
        boxes = record.boxes.copy()
        shift = rng.choice((-0.5, 0.5), len(boxes)) * (boxes[:, 2] - boxes[:, 0])
        boxes[:, [0, 2]] += shift[:, None]
        boxes = boxes.clip(0, [record.width, record.height, record.width, record.height]).astype(
            np.float32
        )
        records.append(replace(record, boxes=boxes))
    return data.with_records(records)


@dataclass(frozen=True)
class Plant:
    """A change of the recipe or of the labels that makes one hypothesis true."""

    name: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    labels: Callable[[Dataset, int], Dataset] = lambda data, seed: data


PLANTS = (
    Plant("healthy"),
    Plant("floor", no_floor),
    Plant("priors", bad_priors),
    Plant("levels", one_level),
    Plant("localisation", box_weight),
    Plant("gradient", tenfold),
    Plant("ambiguity", labels=draw_beside),
    Plant("labels", labels=hide_labels),
    Plant("capacity", narrow),
)


def run_plant(plant: Plant, seed: int, out: Path, epochs: float = EPOCHS) -> Path:
    """Train the run of a plant, unless it is there, and return its folder."""
    world = draw_world(out / f"world-{seed}", seed, sizes=SIZES)
    parts = {}
    for name, path in (("train", world.train_json), ("val", world.val_json)):
        data = two_classes(load_dataset(path))
        data = plant.labels(data, seed) if name == "train" else data
        parts[name] = out / f"{plant.name}-{seed}.{name}.coco.json"
        write_coco(data, parts[name])
    run = out / f"{plant.name}-{seed}"
    train(
        parts["train"],
        val=parts["val"],
        negatives=world.negatives_dir,
        train_negatives=world.pool_dir,
        recipe=replace(plant.recipe(healthy()), epochs=epochs),
        out=run,
        seed=seed,
        draws=10,
        validate=0,
        resume=True,
    )
    return run


def main(argv: list[str] | None = None) -> int:
    names = [plant.name for plant in PLANTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=Path("runs/diagnosis-benchmark"))
    parser.add_argument("--results", type=Path, default=RESULTS / "diagnosis.json")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for plant in PLANTS:
            if plant.name not in options.only:
                continue
            found = diagnose(run_plant(plant, seed, options.out))
            row: dict[str, Any] = {"planted": plant.name, "seed": seed, "causes": found.causes}
            first = found.causes[0] if found.causes else "healthy"
            row["right"] = first == plant.name
            row["effect"] = next(
                (f.verdict.effect for f in found.findings if f.hypothesis.key == plant.name), ""
            )
            if plant.name == "labels":
                world = draw_world(options.out / f"world-{seed}", seed, sizes=SIZES)
                whole = two_classes(load_dataset(world.train_json))
                row["places"] = found_again(found, whole).to_dict()
            rows.append(row)
            said = f"{plant.name} {seed}: {', '.join(found.causes) or 'nothing'}; {row['effect']}"
            print(said, row.get("places", ""), flush=True)
    right = sum(row["right"] for row in rows)
    print(f"{right} of {len(rows)} right")
    result = {"machine": describe_machine(), "rows": rows, "right": right, "runs": len(rows)}
    write_json(options.results, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
