"""Judge the arms of finished loops on more held-out images than the loops had.

    python -m benchmarks.more_negatives [--sets NAME …] [--seeds N …] [--ways W …] [--held-out N]

Three hundred empty images are too few once mining works: 1 alarm against 5 shows nothing. A set that is
drawn has as many held-out images as one likes, a set of photographs up to 900, the loop's own among
them; no round has seen any. The models of round 0 and of each arm's last round in
``OUT/NAME-SEED-WAY`` (of ``benchmarks.loops``, with its ``--out``) run over ``--held-out`` of them
(sheets: half as many); recall comes from the validation images, as in the loop. Prints a row per arm,
then mined against the other arms over the seeds, paired. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.loops import WAYS, compare_over_seeds
from benchmarks.peer import RESULTS, asdict_machine, negatives_of
from benchmarks.trial_sets import MAKERS, make_set
from hardmine import load_dataset
from hardmine.comparison.compare_figures import figures_of
from hardmine.evaluation.intervals import ArmScores
from hardmine.evaluation.scored_images import load_detections, save_detections
from hardmine.files import write_json
from hardmine.types import Dataset
from hardmine.workflows.cached_models import detect_sets, own_backend

Scores = dict[str, ArmScores]
SHOWN = ("alarms_at_0.5", "alarms_at_0.8", "alarms_at_0.9", "recall_at_0.01", "recall_at_0.1")


def last_models(loop: Path) -> dict[str, str]:
    """Return the model of round 0, and of each arm's last round."""
    rows = json.loads((loop / "rounds.json").read_text())
    last = max(row["round"] for row in rows)
    return {"round 0": next(row["model"] for row in rows if row["round"] == 0)} | {
        row["arm"]: row["model"] for row in rows if row["round"] == last
    }


def score_arms(loop: Path, val: Dataset, empty: Dataset, device: str) -> Scores:
    """Run each model over the empty images; what was written before is found again."""
    backend = own_backend()
    scores = {}
    for arm, model in last_models(loop).items():
        kept = loop / "more_negatives" / str(len(empty)) / f"{model}.json"
        if not kept.exists():
            detector = backend.load_detector(loop / "models" / model / "last.safetensors", device)
            found = detect_sets(detector, {"more": empty}, backend, lambda *_: None, arm)
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_detections(kept, found["more"])
        own = load_detections(loop / "evaluations" / model / "val.json", val)
        scores[arm] = ArmScores(own, load_detections(kept, empty))
    return scores


def score_ways(
    given: argparse.Namespace, name: str, seed: int, val: Dataset, empty: Dataset
) -> Scores:
    """Return the scores of round 0 and of each arm; those of another way than "new" are named so."""
    scores: Scores = {}
    for way in given.ways:
        found = score_arms(given.out / f"{name}-{seed}-{way}", val, empty, given.device)
        if way == "new":
            scores |= found
        else:  # its round 0 is that of the first way
            scores |= {f"{arm}, {way}": each for arm, each in found.items() if arm != "round 0"}
    return scores


def row_of(name: str, seed: int, arm: str, scores: ArmScores) -> dict[str, Any]:
    figures: Mapping[str, Any] = figures_of(scores)
    shown = {key: None if figures[key] is None else round(figures[key], 4) for key in SHOWN}
    print(name, seed, arm, shown, flush=True)
    return {"set": name, "seed": seed, "arm": arm, **figures}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="*", choices=list(MAKERS), default=["fridge_rare"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=["new"])
    parser.add_argument("--held-out", type=int, default=3000)
    parser.add_argument("--data", type=Path, default=Path("runs/trial_sets"))
    parser.add_argument("--more-data", type=Path, default=Path("runs/trial_sets_held_out"))
    parser.add_argument("--out", type=Path, default=Path("runs/loops"))
    parser.add_argument("--results", type=Path, default=RESULTS / "more_negatives.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": asdict_machine(), "rows": [], "against": []}
    for name in given.sets:
        val = load_dataset(make_set(name, given.data).val)
        larger = make_set(name, given.more_data / str(given.held_out), held_out=given.held_out)
        empty = negatives_of(larger, val.categories)
        by_seed = []
        for seed in given.seeds:
            scores = score_ways(given, name, seed, val, empty)
            by_seed.append(scores)
            found["rows"] += [row_of(name, seed, arm, each) for arm, each in scores.items()]
        for other in [arm for arm in by_seed[0] if arm != "mined"]:
            found["against"].append(compare_over_seeds(name, "mined", other, by_seed))
        write_json(given.results, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
