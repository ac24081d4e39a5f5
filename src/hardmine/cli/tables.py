"""Results as text: what each command prints when its work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.cli.console import Console
from hardmine.finding_kinds import FindingKind

if TYPE_CHECKING:
    from hardmine.evaluation.measurement import Measurement
    from hardmine.loop.loop import LoopResult
    from hardmine.mining.mine import MiningResult

MINED_SHOWN = 10


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed digits; an undefined one is a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(limits: Sequence[float | None] | None) -> str:
    """Return ``low–high``; an open or undefined end is a question mark."""
    if limits is None:
        return "–"
    low, high = ("?" if limit is None else f"{limit:.3f}" for limit in limits)
    return f"{low}–{high}"


def show_measurement(console: Console, measurement: Measurement, *, as_json: bool = False) -> None:
    """Print a measurement: AP, recall, a row per negative set, and what makes them doubtful."""
    from hardmine.reports.advice import warning_lines

    values = measurement.to_dict()
    if as_json:
        console.json(values)
        return
    columns = ("images", "objects", "AP", "AP50", "AP75", "threshold", "recall")
    row = (
        str(values["images"]),
        str(values["objects"]),
        *(figure(values[name]) for name in ("AP", "AP50", "AP75", "score_threshold", "recall")),
    )
    console.table(columns, [row])
    if values["negatives"]:
        key = f"alarms_per_image_at_recall_{values['recall_wanted']:g}"
        console.table(
            ("negatives", "images", "alarms/image at recall .8", "95 %", "images that fire"),
            [_negatives_row(name, part, key) for name, part in values["negatives"].items()],
        )
    if measurement.known_alarms is not None:
        console.result(str(measurement.known_alarms))
        for line in measurement.known_alarms.unreadable:
            console.note(f"not looked at: {line}")
    show_warnings(console, warning_lines(values))


def show_warnings(console: Console, lines: Sequence[str]) -> None:
    """Print what makes figures doubtful, one line each."""
    for line in lines:
        console.note(f"warning: {line}")


def _negatives_row(name: str, part: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return (
        name,
        str(part["images"]),
        figure(part[key]),
        interval(part["interval"]),
        figure(part["share_of_images_that_fire"]),
    )


def show_loop(console: Console, result: LoopResult) -> None:
    """Print a loop's rounds, why it ended or what it waits for, and where its report is."""
    show_rounds(console, result.rows)
    for verdict in result.verdicts:
        console.result(verdict)
    show_warnings(console, result.warnings)
    if result.stopped is not None:
        console.result(f"stopped: {result.stopped}")
    if result.waiting is not None:
        console.result(str(result.waiting))
    console.result(f"report: {result.report}" if result.report else f"written: {result.out}")


def show_rounds(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per arm and round, as ``rounds.json`` holds them."""
    from hardmine.reports.round_columns import table_of

    headings, cells = table_of(rows)
    console.table(headings, cells)


def show_mining(
    console: Console, result: MiningResult, categories: Sequence[str], out: Path
) -> None:
    """Print the hardest images, what was left out and why, and where the list is."""
    shown = result.candidates[:MINED_SHOWN]
    if shown:
        console.table(
            ("image", "score", "class", "alarms"),
            [
                (
                    s.image,
                    figure(s.score),
                    categories[s.label - 1] if s.label else "",  # 0: found nothing
                    str(result.alarms.get(s.image, s.num_alarms)),
                )
                for s in shown
            ],
        )
    more = len(result.candidates) - len(shown)
    handed_out = f"{len(result.candidates)} images handed out"
    handed_out += f" ({more} more than shown)" if more else ""
    passed_over = [p for p in result.problems if p.kind == FindingKind.FILES_PASSED_OVER]
    unreadable = [p for p in result.problems if p.kind != FindingKind.FILES_PASSED_OVER]
    console.result(
        (not result.candidates and result.why_nothing())
        or f"{handed_out}, {result.scanned} scanned, {result.duplicates_grouped} near-duplicates "
        f"passed over, {len(result.leaks)} leaks, {len(unreadable)} unreadable"
    )
    for problem in unreadable:
        console.note(f"unreadable: {problem}")
    for problem in passed_over:
        console.note(str(problem))
    console.result(f"the list: {out / 'candidates.csv'}")
    if shown:
        console.note(f"to decide which of them are really empty: hardmine review {out}")
