"""What a loop writes for people and programs: rows, comparisons, metrics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.files import write_text
from hardmine.loop.arm import Arm, Handed
from hardmine.loop.loop_options import MINED, NONE, RANDOM, LoopOptions
from hardmine.loop.stopping import STOP_RULES, RoundPoint
from hardmine.types import Detections
from hardmine.workflows.cached_measurement import RECALL, Examiner, Result
from hardmine.workflows.image_sets import LoopSets
from hardmine.workflows.training_data import describe_leaks

if TYPE_CHECKING:
    from hardmine.reports.content import Comparison, CurveLine, Gallery, Picture, ReportData

ALARMS = f"alarms_per_image_at_recall_{RECALL:g}"
_SET_FIGURES = ("images", "alarms", ALARMS, "interval", "share_of_images_that_fire")


def row_of(
    arm: str,
    round_number: int,
    result: Result,
    *,
    train_images: int,
    added: int,
    total: int,
    first_recall: float | None,
    handed: Handed | None = None,
    second_look: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one row of ``rounds.json``; ``None`` where a value cannot be measured."""
    figures = result.figures
    parts: Mapping[str, Any] = figures["negatives"]
    return {
        "arm": arm,
        "round": round_number,
        "train_images": train_images,
        "negatives_added": added,
        "negatives_total": total,
        "AP": figures["AP"],
        "AP50": figures["AP50"],
        "AP50_interval": figures["AP50_interval"],
        "recall": figures["recall"],
        "max_recall": figures["max_recall"],
        "recall_at_first_threshold": first_recall,
        ALARMS: parts["held_out"][ALARMS],
        "interval": parts["held_out"]["interval"],
        "score_threshold": figures["score_threshold"],
        "negatives": {
            name: {key: part[key] for key in _SET_FIGURES} for name, part in parts.items()
        },
        "stray_alarms": figures["stray_alarms"],
        "mining": None if handed is None else _mining(handed),
        "second_look": len(second_look),
        "model": str(result.model.key),
    }


def _mining(handed: Handed) -> dict[str, int]:
    return {
        "handed_out": len(handed.images),
        "near_duplicates_passed_over": handed.duplicates,
        "quarantined": len(handed.quarantined),
        "unreadable": handed.unreadable,
    }


def point_of(result: Result) -> RoundPoint:
    """Return what the stop rules look at: the stopping set, never the final one."""
    part = result.figures["negatives"]["stop"]
    limits = part["interval"]
    bounded = limits is not None and None not in limits
    return RoundPoint(
        result.figures["AP"],
        result.figures["AP50"],
        result.figures["max_recall"],
        part[ALARMS],
        (limits[0], limits[1]) if bounded else None,
    )


def compare_arms(examiner: Examiner, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return paired ratios of alarms: mined against its twins in each round, each arm's last round
    against round 0; on the final set and on the stopping set.
    """
    by_name = {arm.name: arm for arm in arms}
    rows = []
    for first, second in ((MINED, RANDOM), (MINED, NONE), (RANDOM, NONE)):
        if first not in by_name or second not in by_name:
            continue
        pairs = zip(by_name[first].results[1:], by_name[second].results[1:], strict=True)
        for number, (a, b) in enumerate(pairs, start=1):
            rows += _compare(examiner, (first, number, a), (second, number, b))
    for arm in arms:
        last = len(arm.results) - 1
        if last > 0:
            rows += _compare(
                examiner, (arm.name, last, arm.results[last]), (arm.name, 0, arm.results[0])
            )
    return rows


def _compare(
    examiner: Examiner, a: tuple[str, int, Result], b: tuple[str, int, Result]
) -> list[dict[str, Any]]:
    head = {"arm": a[0], "round": a[1], "against_arm": b[0], "against_round": b[1]}
    return [
        {**head, "negatives": name, **examiner.compare(a[2], b[2], name)} for name in examiner.sets
    ]


COLUMNS = (
    "arm",
    "round",
    "train_images",
    "negatives_added",
    "AP",
    "AP50",
    "recall",
    ALARMS,
    "interval_low",
    "interval_high",
    "score_threshold",
)


def write_rows_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the main figures of ``rounds.json`` as a table; blank where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row["interval"] or (None, None)
        writer.writerow({**row, "interval_low": low, "interval_high": high})
    write_text(path, text.getvalue())


def rule_states(arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Return, for each arm and rule, the first round in which the rule fired and why (or None)."""
    return {arm.name: {name: _first_fire(arm, name) for name in STOP_RULES} for arm in arms}


def _first_fire(arm: Arm, rule: str) -> dict[str, Any] | None:
    for rounds in range(2, len(arm.history) + 1):
        reason = STOP_RULES[rule](arm.history[:rounds])
        if reason is not None:
            return {"round": rounds - 1, "reason": reason}
    return None


def describe_sets(sets: LoopSets) -> dict[str, Any]:
    """Return sizes, leaks and problems of what the loop works on."""
    parts = {
        "train": sets.train,
        "val": sets.val,
        "mined_from": sets.mine_from,
        "stop": sets.stop,
        "held_out": sets.final,
    }
    return {
        "images": {name: len(part) for name, part in parts.items()},
        "fingerprints": {name: part.fingerprint for name, part in parts.items()},
        "leaks": [
            {"image": leak.image, "repeats": leak.repeats, "sets": leak.sets} for leak in sets.leaks
        ],
        "problems": [str(problem) for problem in sets.problems],
    }


# From arms and their results to the page that people read.

CONVERGED_AP50 = 0.8
"""Below this at round 0, more training alone may explain what later rounds gain."""
_PICTURES = 24


def loop_report(
    options: LoopOptions,
    sets: LoopSets,
    examiner: Examiner,
    arms: Sequence[Arm],
    metrics: Mapping[str, Any],
) -> ReportData:
    """Return the page of a loop.

    Args:
        metrics: what goes into ``metrics.json``.
    """
    from hardmine.reports.content import ReportData, ReportRow, Stop, worst_alarms

    leader = next(arm for arm in arms if arm.name == options.leader)
    rows = tuple(
        ReportRow(
            row["arm"],
            row["round"],
            row["train_images"],
            row["negatives_added"],
            metrics["measurements"][f"{row['arm']}-{row['round']}"],
        )
        for row in metrics["rounds"]
    )
    stops = tuple(
        Stop(rule, fired["round"] if fired else None, fired["reason"] if fired else None)
        for rule, fired in metrics["stop_rules"][leader.name].items()
    )
    return ReportData(
        title="Mining rounds",
        categories=sets.train.categories,
        rows=rows,
        recipe=metrics["recipe"],
        versions=metrics["versions"],
        comparisons=tuple(_comparison(row) for row in metrics["comparisons"]),
        mined=tuple(_galleries(examiner.steps.root, arms, sets.train.categories)),
        worst=worst_alarms(examiner.scored(leader.result, "held_out")),
        curves=tuple(_curves(examiner, arms)),
        stops=stops,
        problems=sets.problems,
        leaks=_leak_lines(sets, metrics),
        notes=tuple(_notes(options, arms, metrics)),
    )


def _leak_lines(sets: LoopSets, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = [(str(a), str(b)) for a, b in metrics["train_val_leaks"]]
    return (*(str(leak) for leak in sets.leaks), *describe_leaks(pairs))


def _comparison(row: Mapping[str, Any]) -> Comparison:
    from hardmine.reports.content import Comparison

    a, b = (
        f"{row[arm]}, round {row[number]}"
        for arm, number in (("arm", "round"), ("against_arm", "against_round"))
    )
    return Comparison(a, b, row["negatives"], row["ratio"], row["ap50"])


def _galleries(root: Path, arms: Sequence[Arm], categories: Sequence[str]) -> list[Gallery]:
    from hardmine.reports.content import Gallery

    found = []
    for arm in arms:
        for number in range(1, len(arm.results)):
            sheet = root / "rounds" / f"{arm.name}-{number}" / "candidates.json"
            if arm.name != MINED or not sheet.exists():
                continue
            rows = json.loads(sheet.read_text(encoding="utf-8"))["candidates"]
            pictures = tuple(_picture(row, categories) for row in rows[:_PICTURES])
            found.append(Gallery(f"Mined in round {number}", pictures, len(rows)))
    return found


def _picture(row: Mapping[str, Any], categories: Sequence[str]) -> Picture:
    from hardmine.reports.content import Picture

    boxes = row["boxes"]
    detections = Detections(
        np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
        np.array([box[4] for box in boxes], np.float32),
        np.array([categories.index(box[5]) + 1 for box in boxes], np.int64),
    )
    return Picture(Path(row["path"]), detections, f"{row['score']:.2f} · {row['image']}")


def _curves(examiner: Examiner, arms: Sequence[Arm]) -> list[CurveLine]:
    from hardmine.reports.content import curve_line

    results = {"round 0": arms[0].results[0]}
    results |= {f"{arm.name}, round {len(arm.results) - 1}": arm.result for arm in arms}
    lines = [
        curve_line(name, examiner.scored(result, "val"), examiner.scored(result, "held_out"))
        for name, result in results.items()
    ]
    return [line for line in lines if line is not None]


def _notes(options: LoopOptions, arms: Sequence[Arm], metrics: Mapping[str, Any]) -> list[str]:
    notes = []
    ap50 = arms[0].results[0].figures["AP50"]
    if ap50 is None or ap50 < CONVERGED_AP50:
        shown = "undefined" if ap50 is None else f"{ap50:.3f}"
        notes.append(
            f"Round 0 has not converged (AP50 {shown}, wanted {CONVERGED_AP50}): more training alone "
            "may explain what later rounds gain."
        )
    if options.accept == "auto":
        notes.append("The pool was taken as empty on the user's word; nobody looked at it.")
    if metrics["stopped"]:
        notes.append(f"Ended early: {metrics['stopped']}.")
    again = sum(row["second_look"] for row in metrics["rounds"])
    if again:
        notes.append(
            f"{again} times a model still fired on an image that it was trained on as empty: see "
            "second_look.csv in the rounds' folders; an object may hide there."
        )
    return notes
