"""``threshold``: the score from which detections count, with a promise about new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.cli import options as shared
from hardmine.cli.console import Console, usage_error
from hardmine.cli.option_flags import expand_options
from hardmine.workflows.train_options import ThresholdOptions

if TYPE_CHECKING:
    from hardmine.workflows.choose_threshold import ThresholdResult


@expand_options
def threshold(
    checkpoint: shared.Checkpoint,
    data: shared.Data,
    *,
    negatives: shared.Negatives = None,
    choices: ThresholdOptions,
    out: shared.Out = Path("runs/threshold"),
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
) -> None:
    """Choose the score from which detections count, so that a promise about new images holds.

    Example: hardmine threshold runs/train raccoon --negatives held_out --max-alarms 0.01 --write
    """
    if choices.max_alarms is None and choices.min_recall is None:
        raise usage_error(
            "Nothing is promised: give '--max-alarms', such as 0.01, or '--min-recall'"
        )
    if choices.max_alarms is not None and negatives is None:
        raise usage_error("'--max-alarms' needs '--negatives': alarms are counted on those images")
    import hardmine

    console = Console(quiet=quiet, verbose=verbose)
    with console.progress() as step:
        result = hardmine.threshold(
            checkpoint, data, negatives=negatives, out=out, progress=step, options=choices
        )
    if as_json:
        console.json(result.to_dict())
        return
    _show(console, result)


def _show(console: Console, result: ThresholdResult) -> None:
    from hardmine.reports.threshold_page import HEADINGS, cells, statements

    for rows in result.tables:
        if len(rows) > 1:
            console.table(HEADINGS, [cells(row) for row in rows])
        for line in statements(rows[0]):
            console.result(line)
    for note in result.notes:
        console.note(note)
    if result.written is not None:
        console.result(f"written into: {result.written}")
    console.result(f"page: {result.page}")
