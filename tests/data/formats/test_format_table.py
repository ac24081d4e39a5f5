"""Everything that lists label formats says what their rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardmine.data.formats.format_table import FORMATS, WRITTEN, LabelFormat, written_format
from hardmine.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_a_row_and_its_module_agree(row: LabelFormat) -> None:
    assert row.recognised_by or row.written
    if row.recognised_by:
        reader = row.reader
        assert reader.layout or reader.files or reader.per_image
    if row.written:
        assert callable(row.writer.write)
        assert not row.writer.image_folder("all").startswith("/")


def test_names_are_distinct_and_an_unknown_one_names_the_nearest() -> None:
    assert len({row.name for row in FORMATS}) == len(FORMATS)
    assert all(written_format(row.name) is row for row in WRITTEN)
    with pytest.raises(ConfigError, match="did you mean 'coco'"):
        written_format("cocoo")
    with pytest.raises(ConfigError, match="format: got 'csv'"):
        written_format("csv")  # read only
