from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from hardmine.errors import DataError
from hardmine.files import (
    TextError,
    decode_text,
    decode_xml,
    iter_lines,
    parse_flag,
    plain_name,
    read_json,
    read_yaml,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_says_the_encoding_and_is_no_letter(encoding: str) -> None:
    assert decode_text("käse\r\nb\rc\n".encode(encoding)) == "käse\nb\nc\n"


def test_other_encodings_are_named_with_byte_and_line() -> None:
    with pytest.raises(TextError, match=r"not UTF-8 text \(byte 0xe4 in line 2\); save the file"):
        decode_text("a\nkäse".encode("latin-1"))
    with pytest.raises(TextError, match="UTF-16 without its mark"):
        decode_text("cat".encode("utf-16-le"))
    with pytest.raises(TextError, match="not UTF-16 text"):
        decode_text(b"\xff\xfea")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_long_lists_are_read_line_by_line_as_short_ones_are(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("käse\r\n\r\nb\rc\n".encode(encoding))
    assert list(iter_lines(tmp_path / "a.txt")) == (
        ["käse", "", "b", "c"] + ([""] if encoding in ("utf-16", "utf-32") else [])
    )
    (tmp_path / "b.txt").write_bytes(b"a\nb\nk\xe4se\n")
    lines = iter_lines(tmp_path / "b.txt")
    assert [next(lines), next(lines)] == ["a", "b"]
    with pytest.raises(TextError, match=r"not UTF-8 text \(byte 0xe4 in line 3\)"):
        next(lines)


def test_xml_is_decoded_as_it_declares() -> None:
    text = '<?xml version="1.0" encoding="{}"?><a>käse</a>'
    for encoding in ("utf-8", "latin-1", "gb18030"):
        assert decode_xml(text.format(encoding).encode(encoding)) == "<a>käse</a>"
    assert decode_xml('<?xml version="1.0"?>\r\n<a/>'.encode("utf-8-sig")) == "\n<a/>"
    with pytest.raises(TextError, match="declares the encoding utf-8, which its bytes are not in"):
        decode_xml(text.format("utf-8").encode("latin-1"))
    with pytest.raises(TextError, match="declares the encoding klingon"):
        decode_xml(text.format("klingon").encode())


@pytest.mark.parametrize(
    ("meaning", "values"),
    [
        (True, [1, 1.0, True, "1", "1.0", "true", "YES", " y ", "on"]),
        (False, [0, 0.0, False, None, "", "0", "0.0", "False", "no", "off", "Unspecified", "N/A"]),
        (None, [2, -1, 0.5, "2", "maybe", "crowd", [], {}, [1], float("nan")]),
    ],
)
def test_flags_by_their_meaning(meaning: bool | None, values: list[object]) -> None:
    assert [parse_flag(value) for value in values] == [meaning] * len(values)


def test_names_that_look_the_same_are_the_same() -> None:
    apart = unicodedata.normalize("NFD", " käse\t")
    assert apart != "käse"
    assert plain_name(apart) == "käse"
    assert plain_name(7) == "7"


def test_yaml_stays_text_and_repeated_keys_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(
        "names: [no, Yes, 010, 1e3, ~, 2020-01-01, ä]\r\nval: ''\r\nval: x\n".encode("utf-8-sig")
    )
    value, repeated = read_yaml(path)
    assert value == {"names": ["no", "Yes", "010", "1e3", "~", "2020-01-01", "ä"], "val": "x"}
    assert repeated == ("val",)


def test_yaml_anchors_and_merged_mappings(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("base: &b {0: a, 1: b}\nlist: &l [x, no]\nnames: {<<: *b, 1: c}\nmore: *l\n")
    value, _ = read_yaml(path)
    assert value["names"] == {"0": "a", "1": "c"}
    assert value["more"] == ["x", "no"]


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: !!python/object/apply:os.system ['true']", "a: !mine 3", "a: b\n--- \nc: d"],
)
def test_yaml_that_is_broken_or_runs_code_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be read as YAML") as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_of_any_marked_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"a": "ä"}'.encode("utf-16"))
    assert read_json(path) == {"a": "ä"}
    path.write_bytes('{"a": "ä"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.json: not UTF-8 text"):
        read_json(path)
