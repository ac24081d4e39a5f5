"""One row of code for one column: rounds.json, metrics.csv, the tables."""

from __future__ import annotations

import pytest

from hardmine.reports import round_columns
from hardmine.reports.round_columns import (
    ALARMS,
    COLUMNS,
    Column,
    RoundRow,
    csv_header,
    csv_rows,
    table_of,
)

FIGURES = {
    "AP": 0.61234,
    "AP50": 0.9,
    "AP50_interval": [0.8, 0.95],
    "recall": 0.8,
    "max_recall": 0.97,
    ALARMS: 12.345,
    "interval": [10.5, None],
    "score_threshold": 0.4321,
    "stray_alarms": {"background_per_image": 0.1},
    "negatives": {
        "stop": {
            "images": 20,
            "alarms": 3,
            ALARMS: 0.15,
            "interval": None,
            "share_of_images_that_fire": 0.1,
            "log_average_miss_rate": 0.2,
        }
    },
}
ROW = RoundRow("mined", 2, 190, 24, FIGURES, 48, 0.75, {"handed_out": 24}, 1, "key")


def test_a_row_of_rounds_json() -> None:
    row = ROW.to_dict()
    assert list(row) == [column.key for column in COLUMNS]
    assert (row["arm"], row["round"], row["negatives_total"]) == ("mined", 2, 48)
    assert (row["AP"], row[ALARMS], row["recall_at_first_threshold"]) == (0.61234, 12.345, 0.75)
    # Of a negative set, what the row is read for; the rest is in metrics.json.
    assert set(row["negatives"]["stop"]) == {
        "images", "alarms", ALARMS, "interval", "share_of_images_that_fire"
    }  # fmt: skip
    assert RoundRow("run", 0, 1, 0, {}).to_dict()["AP"] is None


def test_the_table() -> None:
    headings, (cells,) = table_of([ROW.to_dict()])
    assert dict(zip(headings, cells, strict=True)) == {
        "arm": "mined",
        "round": "2",
        "trained on": "190",
        "added": "24",
        "AP": "0.612",
        "AP50": "0.900",
        "recall": "0.800",
        "alarms per image at recall 0.8": "12.3",
        "95 %": "10.5 to ?",
        "threshold": "0.432",
    }


def test_the_cells_of_metrics_csv() -> None:
    assert csv_header() == [
        "arm", "round", "train_images", "negatives_added", "AP", "AP50", "recall", ALARMS,
        "interval_low", "interval_high", "score_threshold",
    ]  # fmt: skip
    (cells,) = csv_rows([ROW.to_dict()])
    assert list(cells) == csv_header()
    assert (cells["interval_low"], cells["interval_high"]) == (10.5, None)
    (blank,) = csv_rows([RoundRow("run", 0, 1, 0, {}).to_dict()])
    assert (blank["interval_low"], blank["interval_high"]) == (None, None)


def test_a_new_column_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Column("half", lambda row: row.train_images / 2, "half", "{:.0f}".format, ("half",))
    monkeypatch.setattr(round_columns, "COLUMNS", (*COLUMNS, new))
    monkeypatch.setattr(round_columns, "SHOWN", (*round_columns.SHOWN, new))
    row = ROW.to_dict()
    assert row["half"] == 95
    assert table_of([row])[1][0][-1] == "95"
    assert csv_rows([row])[0]["half"] == 95
