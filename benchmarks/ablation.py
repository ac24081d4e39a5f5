"""The ablation table of docs/ablation.md: choices with a claimed effect, each against its alternatives.

    python -m benchmarks.ablation --data DATA --negatives DIR [--train-negatives DIR] [--base RECIPE]
        [--weights FILE] [--seeds N] [--epochs N] [--only CONTRAST …] [--variants NAME …] [--out DIR]
        [--table FILE]
    python -m benchmarks.ablation --quick

A contrast is a comparison as ``hardmine compare`` makes it: the first variant is the reference, and all
are trained on the same images in the same order with the same seeds. Cells are kept in the folder under
the hash of what they depend on, so that the driver can be stopped and goes on, and contrasts share
cells. A cell that fails is named and tried again by the next call, and the other cells and contrasts
go on. Where ``--train-negatives`` is given, all variants train on them. The table holds every contrast
that was ever finished in the folder; the page is made if it is not there.
``--quick`` draws a world of a few images and trains five contrasts for a moment: it shows that this
driver runs, not which choice is better.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardmine import evaluate, load_detector, train
from hardmine.augment.paste import Alarm, write_alarms
from hardmine.comparison.compare_figures import CellResult, Sets
from hardmine.comparison.compare_options import (
    CompareOptions,
    Variant,
    mining_variants,
    parse_variant,
)
from hardmine.comparison.compare_recipes import ComparedData, compare_recipes, recipe_of
from hardmine.comparison.compare_summary import Comparison, summarise
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.images import read_image
from hardmine.data.load_dataset import load_dataset
from hardmine.demo.run_demo import fridge160
from hardmine.demo.world import WorldSizes, draw_world
from hardmine.errors import HardmineError
from hardmine.files import write_json, write_text
from hardmine.models.priors import ExplicitPriors
from hardmine.prior_design.fit_priors import fit_priors
from hardmine.recipes.recipe import Recipe
from hardmine.types import Dataset
from hardmine.workflows.cached_models import recipe_text
from hardmine.workflows.image_sets import load_negatives, load_train_val
from hardmine.workflows.step_cache import Steps, silent

TABLE = Path(__file__).parents[1] / "docs" / "ablation.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
NEW_PAGE = f"# Ablation\n\n{BEGIN}\n{END}\n"
QUICK = ("normaliser", "decoding", "resize, turned by 90°", "priors", "alarm-paste")

PASTED = 0.5
"""Share of the images with objects into which alarms are pasted."""
LEAST_ALARM = 0.05
"""A detection below it is no alarm to paste."""


@dataclass(frozen=True)
class Setup:
    """What an ablation is run on; ``base`` is the recipe that all variants change."""

    data: Path | str
    base: str
    out: Path
    how: CompareOptions
    val: Path | str | None = None
    negatives: Path | str | None = None
    train_negatives: Path | str | None = None
    weights: Path | str | None = None

    def variant(self, name: str, *choices: str) -> Variant:
        """Return the base recipe with choices laid over it; it trains on the negatives there are."""
        made = parse_variant("+".join([self.base, *choices]))
        return replace(made, name=name, with_negatives=self.train_negatives is not None)

    def recipe(self, *choices: str) -> Recipe:
        """Return a variant's recipe."""
        return recipe_of(self.variant("base", *choices), self.how)

    def training_images(self) -> Dataset:
        """Return the labelled images that are trained on."""
        steps = Steps(self.out / "prepare", silent)
        return load_train_val(self.data, self.val, steps, seed=0).train


def mining(setup: Setup) -> list[Variant]:
    """Return every way of selecting negatives."""
    made = mining_variants(setup.variant("base"), with_negatives=False)
    return [replace(each, with_negatives=setup.train_negatives is not None) for each in made]


def taps_or_layers(setup: Setup) -> list[Variant]:
    """Return levels that are added behind MobileNetV2, and levels that are tapped from it.

    Both have a head of its own for each level. The taps reach from a stride of 8 to 32 px, the others
    from 16 to 128 px; priors follow the strides.
    """
    head = "model.head={kind: levels, depthwise: true}"
    added = (
        "model.backbone.taps=[features.13, features.18]",
        "model.neck={kind: extra, widths: [256, 256]}",
        "model.priors.min_level=4",
    )
    taps = (
        "model.backbone.taps=[features.6, features.13, features.18]",
        "model.neck={kind: none}",
        "model.priors.min_level=3",
    )
    return [setup.variant("added layers", head, *added), setup.variant("taps", head, *taps)]


def default_or_fitted(setup: Setup) -> list[Variant]:
    """Return the base's priors, and those that ``hardmine priors fit`` designs for the data."""
    recipe = setup.recipe()
    found = fit_priors(setup.training_images(), recipe)
    levels = tuple(
        tuple((float(w), float(h)) for w, h in grid.shapes.tolist()) for grid in found.fitted.levels
    )
    fitted = replace(recipe, model=replace(recipe.model, priors=ExplicitPriors(levels=levels)))
    path = setup.out / "fitted.yaml"
    write_text(path, recipe_text(fitted))
    return [
        setup.variant("default"),
        replace(setup.variant("fitted"), base=str(path), settings=()),
    ]


def pasted_alarms(setup: Setup) -> list[Variant]:
    """Return the base without and with pasted alarms of a detector that never saw the negatives."""
    path = setup.out / "alarms.json"
    if not path.exists():
        result = train(
            setup.data,
            val=setup.val,
            recipe=setup.recipe(),
            weights=setup.weights,
            out=setup.out / "alarm-source",
            draws=1,
            validate=0,
            resume=True,
        )
        detector = load_detector(result.checkpoint)
        pool = load_negatives(setup.train_negatives, detector.categories, "train_negatives")
        paths = [record.path for record in pool.records]
        found = detector.predict(paths, score_threshold=LEAST_ALARM)
        alarms = [
            Alarm(image, tuple(float(value) for value in each.box), each.score)
            for image, detections in zip(paths, found, strict=True)
            for each in detections
        ]
        write_alarms(path, alarms)
    choices = (f"augment.alarm_paste.probability={PASTED}", f"augment.alarm_paste.source={path}")
    return [
        setup.variant("none", "augment.alarm_paste.probability=0"),
        setup.variant("alarm-paste", *choices),
    ]


def turn_images(data: Dataset, folder: Path) -> Dataset:
    """Write images with their boxes turned by 90° against the clock, and return them as a data set."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index, record in enumerate(data.records):
        path = folder / "images" / f"{index:05d}.png"
        image = read_image(record.path).convert("RGB").transpose(Image.Transpose.ROTATE_90)
        image.save(path)
        boxes = turn_boxes(record.boxes, record.width)
        size = {"width": record.height, "height": record.width}
        records.append(replace(record, path=path, boxes=boxes, **size))
    write_coco(data.with_records(records), folder / "turned.coco.json")
    return load_dataset(folder / "turned.coco.json", empty_is_verified=True)


def turn_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Return boxes f32[N, 4] (xyxy, px) of an image turned by 90° against the clock.

    What was right is now at the top: (x, y) lies at (y, width - x).
    """
    x0, y0, x1, y1 = boxes.reshape(-1, 4).T
    return np.stack([y0, width - x1, y1, width - x0], 1).astype(np.float32)


def measure_turned(setup: Setup, upright: Comparison) -> Comparison:
    """Measure the trained cells of a comparison on turned validation images."""
    steps = Steps(setup.out / "prepare", silent)
    parts = load_train_val(setup.data, setup.val, steps, seed=0)
    val = turn_images(parts.val, setup.out / "turned")
    negatives = load_negatives(setup.negatives, val.categories, "negatives")
    held = negatives if len(negatives) else None
    results = []
    for item in upright.variants:
        for cell in item.cells:
            if cell.error is not None:
                results.append(cell)
                continue
            place = cell.folder / "turned"
            if not (place / "metrics.json").exists():
                evaluate(cell.folder, val, negatives=held, out=place, draws=1)
            known = {"detections": "detections"}
            results.append(CellResult(cell.variant, cell.seed, place, cell.minutes, known))
    sets = Sets(parts.train, val, held, None, {}, "turned")
    variants = [Variant(item.name) for item in upright.variants]
    recipes = {item.name: item.recipe for item in upright.variants}
    return summarise(variants, recipes, results, sets, setup.out, upright.options)


RESIZES = ("stretch:resize_mode=stretch", "letterbox:resize_mode=letterbox")


@dataclass(frozen=True)
class AblationRow:
    """A contrast: its name, what is claimed, and its variants, the first of which is the reference."""

    name: str
    claim: str
    variants: tuple[str, ...] | Callable[[Setup], list[Variant]]
    """``LABEL:KEY=VALUE+KEY=VALUE`` over the base recipe, or what makes them of the data."""
    negatives: bool = False
    """It needs images without objects to train on."""
    turned: bool = False
    """Measured on the validation images turned by 90°, with the networks of the upright contrast."""


CONTRASTS = (
    AblationRow("mining", "3:1 hurts a small backbone with an FPN", mining),
    AblationRow(
        "normaliser",
        "by batch beats by image",
        (
            "image:loss.normaliser.kind=image",
            "batch:loss.normaliser.kind=batch",
            "selected:loss.normaliser.kind=selected",
        ),
    ),
    AblationRow(
        "initialiser",
        "Xavier (fan-out, 2) beats uniform",
        (
            "uniform:model.init.kind=uniform",
            "normal:model.init.kind=normal",
            "xavier:model.init.kind=xavier",
        ),
    ),
    AblationRow(
        "decoding",
        "per class beats argmax",
        ("argmax:decode.kind=argmax", "per class:decode.kind=per_class"),
    ),
    AblationRow(
        "resize",
        "letterbox beats stretch",
        RESIZES,
    ),
    AblationRow(
        "resize, turned by 90°", "letterbox is robust to a turned camera", RESIZES, turned=True
    ),
    AblationRow("taps", "taps are smaller and finer than added layers", taps_or_layers),
    AblationRow("priors", "priors fitted to the data help small objects", default_or_fitted),
    AblationRow(
        "occlusion",
        "helps occluded objects",
        ("none:augment.occlusion.probability=0", "occlusion:augment.occlusion.probability=0.2"),
    ),
    AblationRow(
        "copy-paste",
        "helps small and rare objects",
        ("none:augment.copy_paste.probability=0", "copy-paste:augment.copy_paste.probability=0.3"),
    ),
    AblationRow(
        "negatives",
        "10 to 20 % are enough, 50 % hurt",
        (
            "0 %:batch.negative_share=0",
            "10 %:batch.negative_share=0.1",
            "20 %:batch.negative_share=0.2",
            "50 %:batch.negative_share=0.5+batch.min_object_share=0.5",
        ),
        negatives=True,
    ),
    AblationRow("alarm-paste", "pasted alarms lower false alarms", pasted_alarms, negatives=True),
)


def variants_of(row: AblationRow, setup: Setup) -> list[Variant]:
    """Return the variants of a contrast."""
    if callable(row.variants):
        return row.variants(setup)
    pairs = (text.partition(":") for text in row.variants)
    return [setup.variant(label, *choices.split("+")) for label, _, choices in pairs]


def table_rows(row: AblationRow, found: Comparison) -> list[str]:
    """Return the lines of a contrast: each variant against the first, with limits over n seeds."""
    lines = []
    for item in found.variants:
        cells = [cell for cell in item.cells if cell.error is None]
        limits = {
            each.figure: f"{_text(each.low)} to {_text(each.high)} ({each.verdict})"
            for each in item.contrasts
        }
        failed = len(item.cells) - len(cells)
        seeds = f"{len(cells)} ({failed} failed)" if failed else str(len(cells))
        shown = [row.name, item.name, seeds]
        nothing = "reference" if item is found.variants[0] else "not measured"
        for figure in ("AP50", "alarms_at_0.8"):
            shown += [_text(item.means.get(figure)), limits.get(figure, nothing)]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_table(path: Path, lines: Sequence[str], command: str) -> None:
    """Put the table between the two marks of the page, or into a new page; say what was not run."""
    head = (
        "| contrast | variant | seeds | AP50 | less that of the first, 95 % | "
        "alarms per image at recall .8 | over those of the first, 95 % |"
    )
    day = datetime.date.today().isoformat()
    text = "\n".join([f"`{command}`, {day}", "", head, "|---|---|---|---|---|---|---|", *lines])
    page = path.read_text(encoding="utf-8") if path.exists() else NEW_PAGE
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(path, f"{before}{BEGIN}\n{text}\n{END}{after}")


def quick(out: Path) -> dict[str, Any]:
    """Draw a world of a few images and return the arguments of a run of seconds."""
    sizes = WorldSizes(train=12, val=6, pool=6, negatives=6)
    world = draw_world(out / "world", 0, sizes=sizes)
    base = out / "base.yaml"
    write_text(base, recipe_text(replace(fridge160(), epochs=1.0)))
    return {
        "data": world.train_json,
        "val": world.val_json,
        "negatives": world.negatives_dir,
        "train_negatives": world.pool_dir,
        "base": str(base),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in CONTRASTS]
    for flag in ("--data", "--val", "--negatives", "--train-negatives", "--weights"):
        parser.add_argument(flag)
    parser.add_argument("--base", default="ssd320_mobilenet_v2_fpnlite")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--variants", nargs="*", help="of a contrast, the first and these alone")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    if not options.quick and options.data is None:
        parser.error("--data is needed (or --quick)")
    given = {
        name: getattr(options, name)
        for name in ("data", "val", "negatives", "train_negatives", "base")
    }
    only, how = options.only, CompareOptions(seeds=options.seeds, epochs=options.epochs)
    if options.quick:
        options.out = Path(tempfile.mkdtemp())
        given, only = quick(options.out), QUICK
        how = CompareOptions(seeds=1, draws=20)
    setup = Setup(out=options.out, how=how, weights=options.weights, **given)
    try:
        setup.recipe()
        setup.training_images()  # a wrong name ends it before any contrast
    except HardmineError as error:
        parser.error(str(error))
    chosen = [
        row
        for row in CONTRASTS
        if row.name in only and (setup.train_negatives or not row.negatives)
    ]
    is_whole = [run_contrast(row, setup, options.variants) for row in chosen]
    lines = [line for row in CONTRASTS for line in _stored(row, options.out)]
    print("\n".join(lines))
    if not options.quick:
        shown = " ".join(
            f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value
        )
        write_table(options.table, lines, f"python -m benchmarks.ablation {shown}")
    return 0 if all(is_whole) else 1


def run_contrast(row: AblationRow, setup: Setup, only: Sequence[str] | None) -> bool:
    """Train the cells of a contrast, print what was found and keep its lines in the folder.

    Returns whether every cell was trained. A contrast that cannot be run at all is named, and what an
    earlier call kept of it stays.
    """
    try:
        found = _compare(row, setup, only)
    except HardmineError as error:
        print(f"{row.name} failed: {error}", flush=True)
        return False
    write_json(setup.out / f"{row.name}.json", found.to_dict())
    lines = table_rows(row, found)
    write_json(setup.out / f"{row.name}.rows.json", lines)
    print("\n".join([*found.statements, *lines]), flush=True)
    return all(cell.error is None for item in found.variants for cell in item.cells)


def _compare(row: AblationRow, setup: Setup, only: Sequence[str] | None) -> Comparison:
    """Train and measure the cells of a contrast, of the first variant and of those named."""
    chosen = variants_of(row, setup)
    if only:
        chosen = [chosen[0], *(variant for variant in chosen[1:] if variant.name in only)]
    found = compare_recipes(
        chosen,
        ComparedData(setup.data, setup.val, setup.negatives, train_negatives=setup.train_negatives),
        weights=setup.weights,
        options=setup.how,
        out=setup.out,
        progress=_tell,
    )
    return measure_turned(setup, found) if row.turned else found


def _tell(what: str, done: int, total: int) -> None:
    """Print which cell is begun."""
    if ", seed " in what:
        print(f"cell {done} of {total}: {what}", flush=True)


def _stored(row: AblationRow, out: Path) -> list[str]:
    """Return the lines of a contrast that was finished in the folder, or that it was not run."""
    path = out / f"{row.name}.rows.json"
    if not path.exists():
        return [f"| {row.name} ({row.claim}) | – | 0 | not run | | | |"]
    return [str(line) for line in json.loads(path.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    raise SystemExit(main())
