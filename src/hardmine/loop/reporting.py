"""From arms and their results to the page that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardmine.loop.arm import Arm
from hardmine.loop.options import MINED, LoopOptions
from hardmine.types import Detections
from hardmine.workflows.cached_measurement import Examiner
from hardmine.workflows.image_sets import LoopSets

if TYPE_CHECKING:
    from hardmine.reports.content import Comparison, CurveLine, Gallery, Picture, ReportData

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
    kept = (
        f"{a} (trained on) and {b} (validation) are near-duplicates; both stay in use"
        for a, b in metrics["train_val_leaks"]
    )
    return (*(str(leak) for leak in sets.leaks), *kept)


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
