"""Everything that lists label formats says what their rows say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardmine.data.formats.format_table import FORMATS, READ, WRITTEN, LabelFormat, written_format
from hardmine.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def table_below(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of a page, without its two header lines."""
    text = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in lines[0].splitlines()[2:]
    ]


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


def test_the_readme_lists_what_is_read() -> None:
    rows = table_below("README.md", "What it reads")
    expected = [
        [row.words, row.recognised_by, f"`{row.name}`" if row in WRITTEN else ""] for row in READ
    ]
    assert rows == expected


def test_the_data_page_lists_what_is_written() -> None:
    rows = table_below("docs/data.md", "Formats")
    assert rows == [[f"`{row.name}`", row.words, row.written, row.how_to_import] for row in WRITTEN]
