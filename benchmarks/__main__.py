"""Run every benchmark: ``make bench``. Hours on two cores; each also runs alone."""

from __future__ import annotations

from benchmarks import augment, demo_goal, loss, mine, priors, read_coco, real_goal, store


def main() -> int:
    results = [loss.main([]), store.main([]), read_coco.main([]), demo_goal.main([])]
    if real_goal.DATA.is_dir():
        results += [augment.main([]), mine.main([]), priors.main([])]
        results += [real_goal.main(["raccoon"]), real_goal.main(["cards"])]
    else:
        print(f"real_goal: skipped, no data at {real_goal.DATA} (set HARDMINE_DATA)")
    return max(results)


if __name__ == "__main__":
    raise SystemExit(main())
