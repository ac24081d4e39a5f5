"""The ablation table of docs/ablation.md: choices with a claimed effect, each against its alternatives.

    python -m benchmarks.ablation --data DATA --negatives DIR [--train-negatives DIR] [--base RECIPE]
        [--weights FILE] [--seeds N] [--epochs N] [--only CONTRAST …] [--variants NAME …] [--out DIR]
        [--table FILE]
    python -m benchmarks.ablation --quick

A contrast is a comparison as ``hardmine compare`` makes it: the first variant is the reference, and all
are trained on the same images in the same order with the same seeds. Cells are kept in the folder under
the hash of what they depend on, so that the driver can be stopped and goes on, and contrasts share
cells. Where ``--train-negatives`` is given, all variants train on them. The table holds every contrast
that was ever finished in the folder.
``--quick`` draws a world of a few images and trains two contrasts for a moment: it shows that the driver
runs, not which choice is better.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardmine.comparison.compare_options import (
    CompareOptions,
    Variant,
    mining_variants,
    parse_variant,
)
from hardmine.comparison.compare_recipes import compare_recipes
from hardmine.comparison.compare_summary import Comparison
from hardmine.demo.run_demo import fridge160
from hardmine.demo.world import WorldSizes, draw_world
from hardmine.files import write_json, write_text
from hardmine.workflows.cached_models import recipe_text

TABLE = Path(__file__).parents[1] / "docs" / "ablation.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
QUICK = ("normaliser", "decoding")


@dataclass(frozen=True)
class AblationRow:
    """A contrast: its name, what is claimed, and its variants as changes of the base recipe."""

    name: str
    claim: str
    variants: tuple[str, ...]
    negatives: bool = False
    """It needs images without objects to train on."""


CONTRASTS = (
    AblationRow("mining", "3:1 hurts a small backbone with an FPN", ("PRESET",)),
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
        ("stretch:resize_mode=stretch", "letterbox:resize_mode=letterbox"),
    ),
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
            "50 %:batch.negative_share=0.5",
        ),
        negatives=True,
    ),
)
NOT_DRIVEN = (
    ("taps against added layers", "taps are smaller and finer"),
    ("default against fitted priors", "priors fitted to the data help small objects"),
    (
        "stretch against letterbox on a test set turned by 90°",
        "letterbox is robust to a turned camera",
    ),
    ("alarm-paste", "pasted alarms lower false alarms"),
)
"""Contrasts of the reference that need other data or another base; listed in the table as not run."""


def variants_of(row: AblationRow, base: str, *, with_negatives: bool) -> list[Variant]:
    """Return the variants of a contrast."""
    if row.variants == ("PRESET",):
        made = mining_variants(parse_variant(base), with_negatives=False)
    else:
        made = []
        for text in row.variants:
            label, _, choice = text.partition(":")
            made.append(replace(parse_variant(f"{base}+{choice}"), name=label))
    return [replace(variant, with_negatives=with_negatives) for variant in made]


def table_rows(row: AblationRow, found: Comparison) -> list[str]:
    """Return the lines of a contrast: each variant against the first, with limits over n seeds."""
    lines = []
    for item in found.variants:
        cells = [cell for cell in item.cells if cell.error is None]
        limits = {
            each.figure: f"{_text(each.low)} to {_text(each.high)} ({each.verdict})"
            for each in item.contrasts
        }
        shown = [row.name, item.name, str(len(cells))]
        for figure in ("AP50", "alarms_at_0.8"):
            shown += [_text(item.means.get(figure)), limits.get(figure, "reference")]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_table(path: Path, lines: Sequence[str], command: str) -> None:
    """Put the table between the two marks of the page; what was not run is said so."""
    head = (
        "| contrast | variant | seeds | AP50 | less that of the first, 95 % | "
        "alarms per image at recall .8 | over those of the first, 95 % |"
    )
    day = datetime.date.today().isoformat()
    text = "\n".join([f"`{command}`, {day}", "", head, "|---|---|---|---|---|---|---|", *lines])
    page = path.read_text(encoding="utf-8")
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
    base = given.pop("base")
    for row in CONTRASTS:
        if row.name not in only or (row.negatives and given["train_negatives"] is None):
            continue
        chosen = variants_of(row, base, with_negatives=given["train_negatives"] is not None)
        if options.variants:
            chosen = [chosen[0], *(v for v in chosen[1:] if v.name in options.variants)]
        preset = "mining" if row.variants == ("PRESET",) else None
        found = compare_recipes(
            chosen,
            options=replace(how, preset=preset),
            weights=options.weights,
            out=options.out,
            progress=_tell,
            **given,
        )
        shutil.copy(options.out / "compare.json", options.out / f"{row.name}.json")
        lines = table_rows(row, found)
        write_json(options.out / f"{row.name}.rows.json", lines)
        print("\n".join([*found.statements, *lines]), flush=True)
    lines = [line for row in CONTRASTS for line in _stored(row, options.out)]
    lines += [f"| {name} ({claim}) | – | 0 | not run | | | |" for name, claim in NOT_DRIVEN]
    print("\n".join(lines))
    if not options.quick:
        shown = " ".join(
            f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value
        )
        write_table(options.table, lines, f"python -m benchmarks.ablation {shown} --base {base}")
    return 0


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
