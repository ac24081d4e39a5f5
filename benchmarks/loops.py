"""What mining brings on every trial set, with the old and the new defaults of the loop.

    python -m benchmarks.loops [--sets NAME …] [--seeds N …] [--ways W …] [--rounds N] [--epochs E]

Per set and seed there is a loop for each way: ``new``, the arms mined, random and none as a user gets
them; ``old``, mined as it was before (a share of .15, the plain model); ``fresh`` and ``continue``,
mined with another start of each round's training; ``half``, mined with half as many images added as are
labelled; ``alarms``, ``sum`` and ``diverse``, mined with another ranking of the pool. Ways with equal
rounds 0 train them once. Prints a row per arm: AP50 (small, medium, large), alarms per image at recall
.5, .8 and .9, recall at .01, .1 and 1 alarms per image, minutes; then mined against the other arms over
the seeds, with paired intervals. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer import RESULTS, asdict_machine, negatives_of
from benchmarks.trial_sets import DATA, MAKERS, TrialSet, make_set
from hardmine import RankOptions, load_dataset, run_loop
from hardmine.comparison.compare_figures import figures_of
from hardmine.evaluation.class_alarms import has_several_classes
from hardmine.evaluation.intervals import ArmScores, ap50_statistic
from hardmine.evaluation.paired import paired_difference_over_seeds, paired_ratio_over_seeds
from hardmine.evaluation.scored_images import load_detections
from hardmine.files import write_json
from hardmine.types import Dataset
from hardmine.workflows.cached_models import DEFAULT_MODEL

WAYS: dict[str, dict[str, Any]] = {
    "new": {"arms": ("mined", "random", "none")},
    "old": {"arms": ("mined",), "model": DEFAULT_MODEL, "add": 0.15},
    "fresh": {"arms": ("mined",), "retrain": "fresh"},
    "continue": {"arms": ("mined",), "retrain": "continue"},
    "half": {"arms": ("mined",), "add": 0.5},
    "alarms": {"arms": ("mined",), "rank": RankOptions(rule="alarms")},
    "sum": {"arms": ("mined",), "rank": RankOptions(rule="sum")},
    "diverse": {"arms": ("mined",), "rank": RankOptions(diverse=True)},
}
SHOWN = (
    "AP50",
    "AP_small",
    "AP_medium",
    "AP_large",
    "alarms_at_0.5",
    "alarms_at_0.8",
    "alarms_at_0.9",
    "alarms_at_0.8_each_class",
    "recall_at_0.01",
    "recall_at_0.1",
    "recall_at_1",
)


def run_one(
    made: TrialSet, seed: int, out: Path, given: argparse.Namespace, how: dict[str, Any]
) -> tuple[dict[str, ArmScores], dict[str, dict[str, Any]]]:
    """Run a loop, or find it; return the scores and the row of round 0 and of each arm's last round."""
    start = time.perf_counter()
    _share_models(out)
    choices: dict[str, Any] = {"epochs": given.epochs, "recipe": given.recipe, **how}
    if given.recipe is not None:
        choices.pop("model", None)
    result = run_loop(
        made.train,
        val=made.val,
        pool=made.pool,
        negatives=made.negatives,
        weights=given.weights,
        rounds=given.rounds,
        stop="never",
        seed=seed,
        out=out,
        resume=True,
        draws=20,
        device=given.device,
        **choices,
    )
    minutes = round((time.perf_counter() - start) / 60, 2)
    val = load_dataset(made.val)
    empty = negatives_of(made, val.categories)
    scores, rows = {}, {}
    for row in result.rows:
        name = "round 0" if row["round"] == 0 else row["arm"]
        if row["round"] not in (0, max(r["round"] for r in result.rows)):
            continue
        scores[name] = scores_in(out / "evaluations" / row["model"], val, empty)
        added = row["train_images"] - result.rows[0]["train_images"]
        rows[name] = {"images_added": added, "minutes": minutes, **figures_of(scores[name])}
    return scores, rows


def _share_models(out: Path) -> None:
    """Give a new loop the models of the first loop of its set and seed; it takes those that fit."""
    first = out.with_name(f"{out.name.rpartition('-')[0]}-new")
    if not out.exists() and (first / "models").is_dir():
        for part in ("models", "evaluations"):
            shutil.copytree(first / part, out / part, dirs_exist_ok=True)


def compare_over_seeds(
    name: str, arm: str, other: str, by_seed: Sequence[Mapping[str, ArmScores]]
) -> dict[str, Any]:
    """Print and return how an arm differs from another one in alarms and AP50, paired."""
    pairs = [(scores[arm], scores[other]) for scores in by_seed]
    ratio = asdict(paired_ratio_over_seeds(pairs))
    gain = asdict(paired_difference_over_seeds(pairs, ap50_statistic))
    print(f"{name}: {arm} against {other}: alarms {ratio}, AP50 {gain}", flush=True)
    found = {"set": name, "arm": arm, "other": other, "alarms": ratio, "AP50": gain}
    if has_several_classes(pairs[0][0]):
        each = asdict(paired_ratio_over_seeds(pairs, each_class=True))
        print(f"{name}: {arm} against {other}: alarms with each class at recall .8 {each}")
        found["alarms_each_class"] = each
    return found


def scores_in(folder: Path, val: Dataset, empty: Dataset) -> ArmScores:
    return ArmScores(
        load_detections(folder / "val.json", val), load_detections(folder / "held_out.json", empty)
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="*", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--recipe", type=Path, default=None, help="one recipe for both loops")
    parser.add_argument("--weights", default=DATA / "backbones/mobilenet_v2_imagenet.pth")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=["new", "old"])
    parser.add_argument("--data", type=Path, default=Path("runs/trial_sets"))
    parser.add_argument("--out", type=Path, default=Path("runs/loops"))
    parser.add_argument("--results", type=Path, default=RESULTS / "loops.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": asdict_machine(), "rows": [], "against": []}
    for name in given.sets:
        made = make_set(name, given.data)
        by_seed: list[dict[str, ArmScores]] = []
        for seed in given.seeds:
            scores: dict[str, ArmScores] = {}
            for way in given.ways:
                place = given.out / f"{name}-{seed}-{way}"
                mine, rows = run_one(made, seed, place, given, WAYS[way])
                for arm, row in rows.items():
                    label = arm if way == "new" else f"{arm}, {way}"
                    scores[label] = mine[arm]
                    found["rows"].append({"set": name, "seed": seed, "arm": label, **row})
                    figures = {k: round(row[k], 3) for k in SHOWN if row.get(k) is not None}
                    print(
                        name, seed, label, row["images_added"], figures, row["minutes"], flush=True
                    )
            by_seed.append(scores)
            write_json(given.results, found)
        for other in [label for label in by_seed[0] if label != "mined"]:
            if "mined" not in by_seed[0]:
                break
            found["against"].append(compare_over_seeds(name, "mined", other, by_seed))
        write_json(given.results, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
