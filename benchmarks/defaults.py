"""Which recipe fits which kind of data: every trial set with every candidate for a default.

    python -m benchmarks.defaults [--sets NAME …] [--variants V …] [--seeds N …] [--out DIR] [--device D]

One cell after the other in one process; several processes may share ``--out``. Prints a line per cell
and writes ``--results``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.peer import RESULTS, asdict_machine, negatives_of
from benchmarks.trial_sets import DATA, MAKERS, make_set
from hardmine import load_dataset, train
from hardmine.comparison.compare_figures import figures_of
from hardmine.comparison.compare_options import parse_variant
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.scored_images import load_detections
from hardmine.files import write_json

PLAIN, LITE = "ssdlite320_mobilenet_v2", "ssd320_mobilenet_v2_fpnlite"
QUOTA = "loss.selection.kind=level_quota"
VARIANTS = (
    f"plain:{PLAIN}",
    f"plain_quota:{PLAIN}+{QUOTA}",
    f"plain_frozen7:{PLAIN}+model.backbone.frozen_to=features.7",
    f"plain_noexpand:{PLAIN}+augment.expand=0",
    f"fpnlite:{LITE}",
    f"fpnlite_quota:{LITE}+{QUOTA}",
    f"fpnlite_expand:{LITE}+{QUOTA}+augment.expand=0.5+augment.max_expand=2",
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="*", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=40.0)
    parser.add_argument("--data", type=Path, default=Path("runs/trial_sets"))
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--results", type=Path, default=RESULTS / "defaults.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(argv)
    rows = []
    for seed in given.seeds:
        for text in given.variants:
            variant = parse_variant(text)
            for name in given.sets:
                made = make_set(name, given.data)
                out = given.out / f"{name}-{variant.name}-{seed}"
                start = time.perf_counter()
                train(
                    made.train,
                    val=made.val,
                    negatives=made.negatives,
                    model=variant.base or None,
                    set=variant.settings,
                    weights=DATA / "backbones/mobilenet_v2_imagenet.pth",
                    epochs=given.epochs,
                    seed=seed,
                    out=out,
                    resume=True,
                    device=given.device,
                    draws=10,
                    validate=0,
                )
                minutes = round((time.perf_counter() - start) / 60, 2)
                val = load_dataset(made.val)
                empty = negatives_of(made, val.categories)
                arm = ArmScores(
                    load_detections(out / "detections/val.json", val),
                    load_detections(out / "detections/held_out.json", empty),
                )
                row = {"set": name, "variant": text, "seed": seed, "minutes": minutes}
                row |= figures_of(arm)
                rows.append(row)
                shown = [row.get(k) for k in ("AP", "AP50", "recall_at_0.1", "alarms_at_0.8")]
                print(name, variant.name, seed, shown, minutes, flush=True)
                write_json(given.results, {"machine": asdict_machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
