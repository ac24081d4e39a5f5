"""The columns of a round: one row here is one column of ``rounds.json``, ``metrics.csv`` and the tables.

A column is added by one :class:`Column` in :data:`COLUMNS`. The terminal, a notebook and the report show
those with a heading, ``metrics.csv`` holds those that name a cell in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardmine.reports.wording import limits, number, rate, score

ALARMS = "alarms_per_image_at_recall_0.8"
_OF_A_SET = ("images", "alarms", ALARMS, "interval", "share_of_images_that_fire")


@dataclass(frozen=True)
class RoundRow:
    """One measured detector: an arm after a round, or a single run as round 0.

    Attributes:
        figures: ``Measurement.to_dict()``, or what was read of it.
        recall_at_first_threshold: recall at the score threshold of round 0.
        mining: counts of the search for candidates; ``None`` where there was none.
        second_look: how many images fire again although they were trained on as empty.
        model: the key of the model.
        known_alarms: how many alarms were seen on images that the arm was trained on as empty, and how
            many fire again (``again`` is ``None`` without a threshold); ``None`` without any.
    """

    arm: str
    round: int
    train_images: int
    negatives_added: int
    figures: Mapping[str, Any]
    negatives_total: int = 0
    recall_at_first_threshold: float | None = None
    mining: Mapping[str, int] | None = None
    second_look: int = 0
    model: str = ""
    known_alarms: Mapping[str, Any] | None = None

    def figure(self, name: str) -> Any:
        """Return a figure of the measurement; ``None`` when it was not measured."""
        return self.figures.get(name)

    def of_set(self, name: str) -> Mapping[str, Any]:
        """Return the figures of one negative set; empty when it was not measured."""
        found: Mapping[str, Any] = self.figures.get("negatives", {}).get(name, {})
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the row as ``rounds.json`` holds it; ``None`` where a value cannot be measured."""
        return {column.key: column.value(self) for column in COLUMNS}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in ``rounds.json``.
        value: its value of a row, as JSON holds it.
        heading: its name in tables; they leave it out when empty.
        text: its value in tables.
        in_csv: its cells in ``metrics.csv``; the parts of a pair have one each.
    """

    key: str
    value: Callable[[RoundRow], Any]
    heading: str = ""
    text: Callable[[Any], str] = str
    in_csv: tuple[str, ...] = field(default=())

    def csv_cells(self, value: Any) -> dict[str, Any]:
        """Return the cells of a value; blank where there is none."""
        if len(self.in_csv) < 2:
            return dict.fromkeys(self.in_csv, value)
        return dict(zip(self.in_csv, value or [None] * len(self.in_csv), strict=True))


def _measured(
    key: str, heading: str = "", text: Callable[[Any], str] = number, *, in_csv: bool = False
) -> Column:
    """Return the column of a figure of the measurement."""
    return Column(key, lambda row: row.figure(key), heading, text, (key,) if in_csv else ())


def _per_hour(part: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("frames_per_hour", "alarms_per_hour")
    return {key: part[key] for key in keys if part.get(key) is not None}


COLUMNS = (
    Column("arm", lambda row: row.arm, "arm", in_csv=("arm",)),
    Column("round", lambda row: row.round, "round", in_csv=("round",)),
    Column("train_images", lambda row: row.train_images, "trained on", in_csv=("train_images",)),
    Column(
        "negatives_added", lambda row: row.negatives_added, "added", in_csv=("negatives_added",)
    ),
    Column("negatives_total", lambda row: row.negatives_total),
    _measured("AP", "AP", in_csv=True),
    _measured("AP50", "AP50", in_csv=True),
    _measured("AP50_interval"),
    _measured("recall", "recall", in_csv=True),
    _measured("max_recall"),
    Column("recall_at_first_threshold", lambda row: row.recall_at_first_threshold),
    _measured(ALARMS, "alarms per image at recall 0.8", rate, in_csv=True),
    Column(
        "interval",
        lambda row: row.figure("interval"),
        "95 %",
        limits,
        ("interval_low", "interval_high"),
    ),
    _measured("score_threshold", "threshold", score, in_csv=True),
    Column(
        "negatives",
        lambda row: {
            name: {key: part[key] for key in _OF_A_SET} | _per_hour(part)
            for name, part in row.figures.get("negatives", {}).items()
        },
    ),
    _measured("stray_alarms"),
    Column("mining", lambda row: None if row.mining is None else dict(row.mining)),
    Column("second_look", lambda row: row.second_look),
    Column(
        "known_alarms",
        lambda row: None if row.known_alarms is None else dict(row.known_alarms),
    ),
    Column("model", lambda row: row.model),
)
"""All columns, in the order of ``rounds.json`` and of the tables."""

SHOWN = tuple(column for column in COLUMNS if column.heading)
"""The columns that tables show."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of rows as ``rounds.json`` holds them."""
    cells = [[column.text(row.get(column.key)) for column in SHOWN] for row in rows]
    return [column.heading for column in SHOWN], cells


def csv_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.csv``, of rows as ``rounds.json`` holds them."""
    return [
        {name: cell for c in COLUMNS for name, cell in c.csv_cells(row.get(c.key)).items()}
        for row in rows
    ]


def csv_header() -> list[str]:
    """Return the header of ``metrics.csv``."""
    return [name for column in COLUMNS for name in column.in_csv]
