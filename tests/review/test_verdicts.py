from __future__ import annotations

from pathlib import Path

import pytest

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.review.verdicts import read_verdicts, store_verdicts, undecided
from hardmine.types import Verdict

KNOWN = {"a.png": "/pool/a.png", "/pool/a.png": "/pool/a.png", "b, c.png": "/pool/b, c.png"}


def read(tmp_path: Path, text: str) -> dict[str, tuple[Verdict, int]]:
    path = tmp_path / "said.csv"
    path.write_bytes(text.encode())
    return read_verdicts(path, KNOWN)


def test_verdicts_are_read_by_name_or_path_with_further_columns(tmp_path: Path) -> None:
    text = 'image,score,verdict\r\n/pool/a.png,0.5, Empty \r\n"b, c.png",,contains_object\r\n'
    assert read(tmp_path, text) == {
        "/pool/a.png": (Verdict.EMPTY, 2),
        "/pool/b, c.png": (Verdict.CONTAINS_OBJECT, 3),
    }


def test_a_mark_of_byte_order_blank_lines_and_blank_verdicts_are_passed_over(
    tmp_path: Path,
) -> None:
    assert read(tmp_path, "\ufeffverdict,image\n,a.png\n\n,\n") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,state\na.png,empty\n", r"said\.csv:1: got columns \['image', 'state'\]"),
        ("", r"said\.csv:1: got columns \[\]"),
        ("image,verdict\na.png,maybe\n", r"said\.csv:2: verdict 'maybe', wanted one of empty,"),
        ("image,verdict\na.png,empty\nz.png,empty\n", r"said\.csv:3: image 'z\.png' was never"),
        (
            "image,verdict\na.png,empty\n/pool/a.png,unsure\n",
            r"said\.csv:3: /pool/a\.png is unsure here and empty in line 2",
        ),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(DataError, match=r"said\.csv: cannot be read as CSV"):
        read_verdicts(tmp_path / "said.csv", KNOWN)


def test_saying_the_same_again_appends_nothing(tmp_path: Path) -> None:
    said = {"a": (Verdict.EMPTY, 2)}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        assert store_verdicts(store, said, "eve", "m") == 1
        assert store_verdicts(store, said, "eve", "m") == 0
        assert store_verdicts(store, {"a": (Verdict.IGNORE, 2)}, "eve", "m") == 1
        decision = store.decisions()["a"]
    assert (decision.verdict, decision.who, decision.model_id) == (Verdict.IGNORE, "eve", "m")


def test_a_half_filled_file_is_a_mistake_and_one_of_an_earlier_round_is_not() -> None:
    path = Path("said.csv")
    assert undecided(["a", "b"], {"x"}, path, {"x"}) == ["a", "b"]
    assert undecided(["a", "b"], {"a", "b"}, path, {"a", "b"}) == []
    with pytest.raises(DataError, match=r"said\.csv: 1 of 2 candidates have no verdict: b"):
        undecided(["a", "b"], {"a"}, path, {"a"})
