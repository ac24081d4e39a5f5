"""Run benchmarks: ``python -m benchmarks [NAME [options]]``; without a name all of them, for hours."""

from __future__ import annotations

import sys

from benchmarks import (
    ablation,
    augment,
    decode,
    defaults,
    demo_goal,
    diagnosis,
    foreign,
    gpu,
    hidden_labels,
    intervals,
    loops,
    loss,
    mine,
    more_negatives,
    peer,
    priors,
    promise,
    read_coco,
    real_goal,
    review,
    round_variants,
    step,
    stopping,
    store,
    telemetry,
    trial_sets,
    video,
)

ALWAYS = (loss, decode, step, telemetry, store, read_coco, demo_goal)
WITH_DATA = (augment, mine, priors)
ALONE = (
    gpu,
    peer,
    foreign,
    defaults,
    loops,
    more_negatives,
    round_variants,
    stopping,
    intervals,
    trial_sets,
    promise,
    review,
    diagnosis,
    hidden_labels,
    ablation,
    video,
)
"""Not part of all of them: for a GPU, a trained checkpoint or a browser, or with own choices."""

BY_NAME = {
    module.__name__.partition(".")[2]: module for module in (*ALWAYS, *WITH_DATA, real_goal, *ALONE)
}


def run_all() -> int:
    results = [benchmark.main([]) for benchmark in ALWAYS]
    if real_goal.DATA.is_dir():
        results += [benchmark.main([]) for benchmark in WITH_DATA]
        results += [real_goal.main([name]) for name in ("raccoon", "cards")]
    else:
        left_out = ", ".join(benchmark.__name__ for benchmark in (*WITH_DATA, real_goal))
        print(f"skipped, no data at {real_goal.DATA} (set HARDMINE_DATA): {left_out}")
    return max(results)


def main(argv: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if not name:
        return run_all()
    if name not in BY_NAME:
        print(f"benchmark: got {name!r}, wanted one of {', '.join(sorted(BY_NAME))}")
        return 2
    return BY_NAME[name].main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
