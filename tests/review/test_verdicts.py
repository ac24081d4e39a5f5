from __future__ import annotations

from pathlib import Path

import pytest

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.review.verdicts import Said, read_verdicts, store_verdicts, undecided
from hardmine.types import Decision, Verdict

KNOWN = {"a.png": "/pool/a.png", "/pool/a.png": "/pool/a.png", "b, c.png": "/pool/b, c.png"}


def read(tmp_path: Path, text: str) -> dict[str, Said]:
    path = tmp_path / "said.csv"
    path.write_bytes(text.encode())
    return read_verdicts(path, KNOWN)


def test_verdicts_are_read_by_name_or_path_with_further_columns(tmp_path: Path) -> None:
    text = 'image,score,verdict\r\n/pool/a.png,0.5, Empty \r\n"b, c.png",,contains_object\r\n'
    assert read(tmp_path, text) == {
        "/pool/a.png": Said(Verdict.EMPTY, f"{tmp_path}/said.csv:2"),
        "/pool/b, c.png": Said(Verdict.CONTAINS_OBJECT, f"{tmp_path}/said.csv:3"),
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
            r"said\.csv:3: /pool/a\.png is unsure here and empty in .*said\.csv:2$",
        ),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_bytes(b"image,verdict\n\xe9.png,empty\n")
    with pytest.raises(DataError, match=r"said\.csv: cannot be read as CSV: not UTF-8 text"):
        read_verdicts(tmp_path / "said.csv", KNOWN)


def test_saying_the_same_again_appends_nothing(tmp_path: Path) -> None:
    said = {"a": Said(Verdict.EMPTY, "v.csv:2")}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        assert store_verdicts(store, said, "eve", "m") == 1
        assert store_verdicts(store, said, "eve", "m") == 0
        assert store_verdicts(store, {"a": Said(Verdict.IGNORE, "v.csv:2")}, "eve", "m") == 1
        decision = store.decisions()["a"]
    assert (decision.verdict, decision.who, decision.model_id) == (Verdict.IGNORE, "eve", "m")


def said(image: str, verdict: Verdict, who: str) -> Decision:
    return Decision(image, verdict, who, "2026-01-01T00:00:00+00:00", "m")


def test_a_file_that_contradicts_the_page_is_refused_with_its_line(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([said("a", Verdict.CONTAINS_OBJECT, "ann")])
        with pytest.raises(
            DataError, match=r"v\.csv:7: a is empty here, and ann said contains_object on the page"
        ):
            store_verdicts(store, {"a": Said(Verdict.EMPTY, "v.csv:7")}, "v.csv", "m")
        assert (
            store_verdicts(store, {"a": Said(Verdict.CONTAINS_OBJECT, "v.csv:7")}, "v.csv", "m")
            == 0
        )
        assert store.decisions()["a"].who == "ann"


def test_what_the_page_changed_after_the_file_was_taken_in_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store_verdicts(store, {"a": Said(Verdict.EMPTY, "v.csv:2")}, "v.csv", "m")
        store.add_decisions([said("a", Verdict.IGNORE, "ann")])
        assert store_verdicts(store, {"a": Said(Verdict.EMPTY, "v.csv:2")}, "v.csv", "m") == 0
        assert store.decisions()["a"].verdict is Verdict.IGNORE
    assert "v.csv: 1 verdicts were changed on the page: a (ignore, ann)" in caplog.text


def test_a_later_file_counts_against_an_earlier_one(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store_verdicts(store, {"a": Said(Verdict.EMPTY, "v.csv:2")}, "one.csv", "m")
        assert store_verdicts(store, {"a": Said(Verdict.UNSURE, "v.csv:2")}, "two.csv", "m") == 1
        assert store.decisions()["a"].verdict is Verdict.UNSURE


def test_a_half_filled_file_is_a_mistake_and_one_of_an_earlier_round_is_not() -> None:
    path = Path("said.csv")
    assert undecided(["a", "b"], {"x"}, path, {"x"}) == ["a", "b"]
    assert undecided(["a", "b"], {"a", "b"}, path, {"a", "b"}) == []
    with pytest.raises(DataError, match=r"said\.csv: 1 of 2 candidates have no verdict: b"):
        undecided(["a", "b"], {"a"}, path, {"a"})
