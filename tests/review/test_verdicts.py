from __future__ import annotations

from pathlib import Path

import pytest

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.review.verdicts import Said, has_verdicts, read_verdicts, store_verdicts, undecided
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
    assert "v.csv: 1 verdict was changed on the page: a (ignore, ann)" in caplog.text


@pytest.mark.parametrize(
    "again", ["/moved/candidates.csv", "/run/candidates-old.csv", "/run/candidates-old-2.csv"]
)
def test_the_list_of_a_moved_run_or_of_an_earlier_mining_is_the_same_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, again: str
) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        verdict = {"a": Said(Verdict.EMPTY, "v.csv:2")}
        store_verdicts(store, verdict, "/run/candidates.csv", "m")
        store.add_decisions([said("a", Verdict.IGNORE, "ann")])
        assert store_verdicts(store, verdict, again, "m") == 0
        assert store.decisions()["a"].verdict is Verdict.IGNORE
        with pytest.raises(DataError, match="is empty here, and ann said ignore"):
            store_verdicts(store, verdict, "/run/another.csv", "m")
    assert "1 verdict was changed on the page" in caplog.text


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


@pytest.mark.parametrize(
    "text",
    [
        "Image,Verdict\na.png,Contains Object\n",
        "image;score;verdict\r\na.png;0,5;contains-object\r\n",
        "sep=;\nimage;verdict\na.png;CONTAINS_OBJECT\n",
        "\n# by eve\nimage\tverdict\na.png\tcontains object\n",
        "file_name,verdict\nC:\\Users\\eve\\pool\\a.png,contains_object\n",
        "image,verdict\n/home/eve/pool/a.png,contains_object\n",
        "image,verdict\na,contains_object\n",
        "image,verdict\na.png,contains_object\nb, c.png,nan\n".replace("b, c.png", '"b, c.png"'),
    ],
)
def test_what_spreadsheets_and_other_machines_make_of_it_is_read(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, text)
    assert {image: said.verdict for image, said in found.items()} == {
        "/pool/a.png": Verdict.CONTAINS_OBJECT
    }


def test_the_states_of_data_are_verdicts_and_yes_and_no_are_none(tmp_path: Path) -> None:
    assert read(tmp_path, "image,verdict\na.png,verified_empty\n")["/pool/a.png"].verdict is (
        Verdict.EMPTY
    )
    for word in ("yes", "no", "none", "0", "-"):
        with pytest.raises(DataError, match=f"verdict '{word}', wanted one of"):
            read(tmp_path, f"image,verdict\na.png,{word}\n")


@pytest.mark.parametrize("name", ["cam2/a.png", "/pool/cam2/a.png", "am1/a.png", "A.PNG"])
def test_a_folder_that_says_otherwise_is_another_image(tmp_path: Path, name: str) -> None:
    known = {"cam1/a.png": "/pool/cam1/a.png", "/pool/cam1/a.png": "/pool/cam1/a.png"}
    path = tmp_path / "said.csv"
    path.write_text(f"image,verdict\n{name},empty\n")
    with pytest.raises(DataError, match=r"said\.csv:2: image .* was never handed out"):
        read_verdicts(path, known)


def test_two_columns_of_verdicts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="each once"):
        read(tmp_path, "image,verdict,verdict\na.png,empty,unsure\n")


@pytest.mark.parametrize(
    ("text", "there"),
    [("Image;Verdict\n", True), ("sep=;\nimage;verdict\n", True), ("image,the verdict\n", False)],
)
def test_whether_a_sheet_has_verdicts(tmp_path: Path, text: str, there: bool) -> None:
    (tmp_path / "said.csv").write_text(text)
    assert has_verdicts(tmp_path / "said.csv") is there
