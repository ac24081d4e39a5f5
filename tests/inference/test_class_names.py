"""Class names in each of the files in which people keep them, however those were saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardmine.errors import DataError
from hardmine.inference.class_names import read_classes

FILES = {
    "names.txt": "no\n010\nkäse\n",
    "data.yaml": "nc: 3\nnames: [no, 010, käse]\n",
    "numbered.yaml": "names:\n  2: käse\n  0: no\n  1: 010\n",
    "list.yml": "- no\n- 010\n- käse\n",
    "coco.json": json.dumps(
        {
            "categories": [
                {"id": 7, "name": "010"},
                {"id": 9, "name": "käse"},
                {"id": 2, "name": "no"},
            ]
        },
        ensure_ascii=False,
    ),
    "list.json": json.dumps(["no", "010", "käse"], ensure_ascii=False),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", FILES)
def test_names_stay_as_they_are_written(tmp_path: Path, name: str, encoding: str) -> None:
    text = FILES[name].replace("\n", "\r\n")
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_classes(tmp_path / name) == ("no", "010", "käse")


def test_eleven_numbered_names_come_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    """As text, 10 comes before 2."""
    numbers = [10, 2, 0, 1, *range(3, 10)]
    lines = "".join(f"  {number}: n{number}\n" for number in numbers)
    (tmp_path / "data.yaml").write_text(f"names:\n{lines}", encoding="utf-8")
    rows = [{"id": number, "name": f"n{number}"} for number in numbers]
    (tmp_path / "coco.json").write_text(json.dumps({"categories": rows}), encoding="utf-8")
    for name in ("data.yaml", "coco.json"):
        assert read_classes(tmp_path / name) == tuple(f"n{number}" for number in range(11))


@pytest.mark.parametrize("name", FILES)
def test_another_encoding_is_named_instead_of_read_as_other_letters(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(FILES[name].encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}: .*not UTF-8 text \(byte 0xe4 in line"):
        read_classes(tmp_path / name)


def test_an_accent_in_two_spellings_is_one_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ka\u0308se\nk\u00e4se\n", encoding="utf-8")
    with pytest.raises(DataError, match="wanted class names, each once"):
        read_classes(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("ka\u0308se\n", encoding="utf-8")
    assert read_classes(tmp_path / "names.txt") == ("k\u00e4se",)
