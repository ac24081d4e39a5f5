"""Run every benchmark: ``make bench``. Hours on two cores; each also runs alone."""

from __future__ import annotations

from benchmarks import (
    augment,
    decode,
    demo_goal,
    loss,
    mine,
    priors,
    read_coco,
    real_goal,
    step,
    store,
)

ALWAYS = (loss, decode, step, store, read_coco, demo_goal)
WITH_DATA = (augment, mine, priors)


def main() -> int:
    results = [benchmark.main([]) for benchmark in ALWAYS]
    if real_goal.DATA.is_dir():
        results += [benchmark.main([]) for benchmark in WITH_DATA]
        results += [real_goal.main([name]) for name in ("raccoon", "cards")]
    else:
        left_out = ", ".join(benchmark.__name__ for benchmark in (*WITH_DATA, real_goal))
        print(f"skipped, no data at {real_goal.DATA} (set HARDMINE_DATA): {left_out}")
    return max(results)


if __name__ == "__main__":
    raise SystemExit(main())
