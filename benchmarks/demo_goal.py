"""The demo's goal: alarms fall at least 5× by round 3, AP50 stays, within 6 minutes; three seeds.

    python -m benchmarks.demo_goal [--out DIR] [--seeds N …]

Each seed runs the demo as users do (the arm ``mined``, timed, drawing included), then the arms
``random`` and ``none`` beside it from the same round-0 weights. Prints machine, versions and a table;
writes ``benchmarks/results/demo_goal.json``. Exit code 3: a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import mean
from typing import Any

from hardmine.demo.run_demo import ROUNDS, run_demo
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.reports.round_columns import ALARMS

RESULTS = Path(__file__).parent / "results" / "demo_goal.json"
ARMS = ("mined", "random", "none")
MIN_FALL = 5.0
MAX_AP50_LOSS = 0.02
MIN_AP50 = 0.80
MIN_FIRST_ALARMS = 0.5
MAX_SECONDS = 360.0


def run_seed(out: Path, seed: int) -> dict[str, Any]:
    """Run one seed and return its rows, comparisons and the mined-only run's seconds."""
    start = time.perf_counter()
    run_demo(out, seed)
    seconds = time.perf_counter() - start
    result = run_demo(out, seed, arms=ARMS)
    keep = ("arm", "round", "train_images", "negatives_added", "AP", "AP50", ALARMS, "interval")
    rows = [
        {key: row[key] for key in keep}
        | {"stray_alarms": row["stray_alarms"], "score_threshold": row["score_threshold"]}
        | {"crops": row["negatives"].get("crops", {}).get(ALARMS)}
        for row in result.rows
    ]
    return {"seed": seed, "seconds": round(seconds, 1), "rows": rows}


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds: alarms and AP50 of round 0 and of each arm's last round."""

    def value(run: dict[str, Any], arm: str, number: int, key: str) -> float:
        return next(r[key] for r in run["rows"] if r["arm"] == arm and r["round"] == number)

    first = mean(value(run, "mined", 0, ALARMS) for run in seeds)
    first_ap50 = mean(value(run, "mined", 0, "AP50") for run in seeds)
    arms = {}
    for arm in ARMS:
        last = mean(value(run, arm, ROUNDS, ALARMS) for run in seeds)
        arms[arm] = {
            "alarms": last,
            "fall": first / last if last else None,
            "AP50": mean(value(run, arm, ROUNDS, "AP50") for run in seeds),
        }
    return {"round_0": {"alarms": first, "AP50": first_ap50}, "round_3": arms}


def check_goals(summary: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, bool]:
    """Return each goal and whether it is met."""
    first, mined = summary["round_0"], summary["round_3"]["mined"]
    return {
        "round 0 converged": first["AP50"] >= MIN_AP50,
        "round 0 over-fires": first["alarms"] >= MIN_FIRST_ALARMS,
        "alarms fall": mined["fall"] is None or mined["fall"] >= MIN_FALL,
        "AP50 stays": mined["AP50"] >= first["AP50"] - MAX_AP50_LOSS,
        "time": max(run["seconds"] for run in seeds) <= MAX_SECONDS,
    }


def show(run: dict[str, Any]) -> None:
    """Print one seed's table."""
    print(f"\nseed {run['seed']}: mined alone, drawing included: {run['seconds']} s")
    print(f"{'arm':8}{'round':>6}{'images':>8}{'AP':>8}{'AP50':>8}{'alarms/image':>14}  95 %")
    for row in run["rows"]:
        low, high = row["interval"] or (None, None)
        print(
            f"{row['arm']:8}{row['round']:6}{row['train_images']:8}{row['AP']:8.3f}"
            f"{row['AP50']:8.3f}{row[ALARMS]:14.3f}  {low:.3f}–{high:.3f}"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo_goal"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(argv)
    machine = {**describe_machine(), "cores": os.cpu_count()}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    seeds = []
    for seed in options.seeds:
        seeds.append(run_seed(options.out / f"seed-{seed}", seed))
        show(seeds[-1])
    summary = summarise(seeds)
    goals = check_goals(summary, seeds)
    write_json(RESULTS, {"machine": machine, "goals": goals, "summary": summary, "seeds": seeds})
    print("\nmean:", summary)
    print("\n".join(f"{'met   ' if met else 'MISSED'} {name}" for name, met in goals.items()))
    return 0 if all(goals.values()) else 3


if __name__ == "__main__":
    raise SystemExit(main())
