"""Starting the page: ports, browsers, a missing extra, exports; and what is said of a picture's file."""

from __future__ import annotations

import io
import os
import socket
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from hardmine.cli.main import run as run_command
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.errors import NOTICE, ConfigError, DataError, MissingExtraError
from hardmine.mining.candidates_file import write_candidates
from hardmine.mining.pool_store import PoolStore
from hardmine.review import review_pictures
from hardmine.review.candidate_list import open_candidates
from hardmine.review.review_options import PORT, ReviewOptions
from hardmine.review.review_pictures import Encoded, ReviewPictures, ThumbnailFile, what_is_wrong
from hardmine.review.run_review import bind, open_listed, open_page, read_listed, serve_review
from hardmine.types import Decision, Verdict
from review_world import CLASSES, MODEL, decided, draw, mined


def test_a_port_that_is_taken_is_one_clear_error_when_it_was_asked_for() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = pytest.raises(DataError, match=rf"port {port} is taken, maybe by another review")
        with taken, bind(ReviewOptions(port=port)):
            pass
    with bind(ReviewOptions(port=port)) as place:
        assert place.getsockname()[1] == port


def test_without_a_port_the_next_free_one_is_taken() -> None:
    with bind(ReviewOptions()) as first, bind(ReviewOptions()) as second:
        one, two = first.getsockname()[1], second.getsockname()[1]
    assert PORT <= one < two < PORT + 20


def test_an_address_of_another_machine_is_one_clear_error() -> None:
    wrong = pytest.raises(DataError, match=r"192\.0\.2\.1, port 0: the page cannot be served there")
    with wrong, bind(ReviewOptions(host="192.0.2.1", port=0)):
        pass


@pytest.mark.parametrize("outcome", [False, webbrowser.Error("none")])
def test_where_no_browser_opens_the_address_is_said(
    monkeypatch: pytest.MonkeyPatch, outcome: object
) -> None:
    def open_nothing(url: str) -> bool:
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    monkeypatch.setattr(webbrowser, "open", open_nothing)
    notes: list[str] = []
    open_page("http://127.0.0.1:1/", notes.append)
    assert notes == ["no browser could be opened: open http://127.0.0.1:1/ yourself"]


def test_without_the_extra_the_command_to_install_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hardmine\[review\]'"):
        serve_review(mined(tmp_path, 1), ReviewOptions(), print, print)


def test_an_export_needs_a_format_and_a_folder() -> None:
    with pytest.raises(ConfigError, match="export and out belong together"):
        ReviewOptions(export="cvat")
    with pytest.raises(ConfigError, match="did you mean 'labelstudio'"):
        ReviewOptions(export="labelstudi", out=Path("x"))


def test_the_command_exports_what_is_left_to_label(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = mined(tmp_path, 2)
    with PoolStore(run / "pool.sqlite") as store:
        image = str(tmp_path / "pool" / "pic-001.jpg")
        store.add_decisions([Decision(image, Verdict.CONTAINS_OBJECT, "ann", "2026-01-01", MODEL)])
    out = tmp_path / "out"
    words = ["review", str(run), "--export", "labelstudio", "--out", str(out)]
    assert run_command(words) == 0
    assert "1 image to label, 2 predictions" in capfd.readouterr().out
    assert any(out.iterdir())
    assert run_command(words) == 1
    assert run_command(["review", str(run), "--export", "labelstudio"]) == 2
    assert run_command(["review", str(tmp_path / "pool")]) == 1
    assert "neither pool.sqlite nor candidates.json" in capfd.readouterr().err


def test_a_csv_that_contradicts_the_page_is_refused_before_the_page_opens(tmp_path: Path) -> None:
    run = mined(tmp_path, 2)
    with PoolStore(run / "pool.sqlite") as store:
        image = str(tmp_path / "pool" / "pic-000.jpg")
        store.add_decisions([Decision(image, Verdict.IGNORE, "ann", "2026-01-01", MODEL)])
    sheet = run / "candidates.csv"
    lines = sheet.read_text().splitlines()
    sheet.write_text("\n".join([lines[0], lines[1] + "empty", lines[2] + "unsure"]) + "\n")
    with pytest.raises(
        DataError, match=r"candidates\.csv:2: .*pic-000\.jpg is empty here, and ann"
    ):
        open_listed(sheet)
    sheet.write_text("\n".join([lines[0], lines[1] + "ignore", lines[2] + "unsure"]) + "\n")
    open_listed(sheet)
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        assert [said.who for said in store.decisions().values()] == ["ann", str(sheet)]


def fill_in(sheet: Path, *verdicts: str) -> None:
    """Type verdicts into the first rows of a list."""
    lines = sheet.read_text().splitlines()
    typed = [line + said for line, said in zip(lines[1:], verdicts, strict=False)]
    sheet.write_text("\n".join([lines[0], *typed, *lines[1 + len(typed) :]]) + "\n")


def test_what_is_typed_into_the_list_of_a_folder_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(NOTICE, "hardmine")
    run = mined(tmp_path, 3)
    open_listed(run)
    assert caplog.messages == []  # nothing is filled in
    fill_in(run / "candidates.csv", "empty", "unsure")
    read_listed(run)
    assert decided(run) == {}  # only read
    open_listed(run)
    who = str(run / "candidates.csv")
    assert decided(run) == {"pic-000.jpg": ("empty", who), "pic-001.jpg": ("unsure", who)}
    open_listed(run)
    fill_in(run / "candidates.csv", "")
    open_listed(run / "candidates.csv")
    says = f"{who}: 2 verdicts read, "
    assert caplog.messages == [
        *[f"{says}2 of them new"] * 2,
        *[f"{says}0 of them new"] * 2,
    ]


def test_a_list_that_was_kept_still_brings_its_verdicts(tmp_path: Path) -> None:
    run = mined(tmp_path, 2)
    fill_in(run / "candidates.csv", "empty")
    write_candidates(run, [], CLASSES, model_id=MODEL)
    open_listed(run / "candidates-old.csv")
    assert list(decided(run)) == ["pic-000.jpg"]


def test_the_page_says_how_many_pictures_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mined(tmp_path, 3, similar={0: 2})
    fill_in(run / "candidates.csv", "empty")
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    told: list[str] = []
    serve_review(run, ReviewOptions(port=0, open_browser=False), told.append, told.append)
    assert told[0].startswith("3 pictures to look at, 2 of them without a decision: http://")


def test_a_file_that_is_gone_or_became_another_picture_is_said(tmp_path: Path) -> None:
    item = open_candidates(mined(tmp_path, 1)).items[0]
    path = Path(item.path)
    with Image.open(path) as image:
        phash = perceptual_hash(image.convert("RGB"))
    later = item.mined_at + 60
    os.utime(path, (later, later))
    assert what_is_wrong(item, phash) == ""  # touched, and the same picture
    Image.linear_gradient("L").resize((240, 160)).save(path)
    os.utime(path, (later, later))
    assert "has changed since it was mined" in what_is_wrong(item, phash)
    assert what_is_wrong(item, 0) == ""  # nothing is known of the picture that was mined
    path.unlink()
    assert "not there any more" in what_is_wrong(item, phash)


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[ReviewPictures]:
    made = ReviewPictures(tmp_path / "thumbnails.sqlite")
    yield made
    made.close()


def test_large_pictures_come_as_a_screen_needs_them_first_and_whole_on_request(
    tmp_path: Path, pictures: ReviewPictures
) -> None:
    item = open_candidates(mined(tmp_path, 1)).items[0]
    draw(Path(item.path), 1, (4200, 2100))
    small, large, whole = pictures.screen(item, 900), pictures.screen(item), pictures.full(item)
    for made in (small, large, whole):
        assert (made.width, made.height) == (4200, 2100)
    sides = [Image.open(io.BytesIO(made.data)).size for made in (small, large)]
    # 4200 / 4 = 1050 is near enough to 1024, and 4200 / 2 = 2100 to 2048
    assert sides == [(1050, 525), (2100, 1050)]
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    item.path = str(tmp_path / "large.png")  # decoded at its own size alone, and then made smaller
    made = pictures.screen(item, 1024)
    assert Image.open(io.BytesIO(made.data)).size == (1024, 512)
    item.path = str(tmp_path / "pool" / "pic-000.jpg")
    assert whole.data == Path(item.path).read_bytes()
    assert pictures.screen(item, 1024) is small  # kept
    assert pictures.screen(item, 99999) is large
    draw(Path(item.path), 2, (300, 200))
    assert pictures.screen(item).width == 300  # another file is another picture


def test_nothing_is_made_larger_than_it_was_decoded(
    tmp_path: Path, pictures: ReviewPictures
) -> None:
    item = open_candidates(mined(tmp_path, 1)).items[0]
    draw(Path(item.path), 1, (4000, 3000))  # a quarter is 1000 wide: .98 of what is asked for
    made = pictures.screen(item, 1024)
    assert Image.open(io.BytesIO(made.data)).size == (1000, 750)
    assert (made.width, made.height) == (4000, 3000)


def test_thumbnails_outlive_the_server_and_follow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = open_candidates(mined(tmp_path, 1)).items[0]
    first = ReviewPictures(tmp_path / "thumbnails.sqlite")
    made = first.thumbnail(item)
    first.close()
    again = ReviewPictures(tmp_path / "thumbnails.sqlite")
    with monkeypatch.context() as patched:
        patched.setattr(review_pictures, "_decode", None)  # a call of it would fail
        kept = again.thumbnail(item)
    assert (kept.data, kept.width, kept.height) == (made.data, 240, 160)
    draw(Path(item.path), 7)
    os.utime(item.path, (1, 1))
    assert again.thumbnail(item).data != made.data
    again.close()


def test_the_file_of_thumbnails_stays_small_and_the_oldest_go(tmp_path: Path) -> None:
    kept = ThumbnailFile(tmp_path / "t.sqlite", limit=200_000)
    for number in range(100):
        kept.put(b"%d" % number, Encoded(os.urandom(5000), "image/jpeg", 1, 1))
    assert kept.get(b"0") is None
    assert kept.get(b"99") is not None
    assert sum(kept.get(b"%d" % number) is not None for number in range(100)) > 20
    kept.close()
    assert (tmp_path / "t.sqlite").stat().st_size < 300_000


def test_a_broken_file_of_thumbnails_is_replaced_and_a_folder_without_rights_is_no_error(
    tmp_path: Path,
) -> None:
    made = Encoded(b"picture", "image/jpeg", 3, 2)
    path = tmp_path / "t.sqlite"
    path.write_bytes(b"no database at all" * 100)
    for _ in range(2):
        kept = ThumbnailFile(path)
        kept.put(b"a", made)
        assert kept.get(b"a") == made
        kept.close()
    absent = ThumbnailFile(tmp_path / "no such folder" / "t.sqlite")
    absent.put(b"a", made)
    assert absent.get(b"a") is None
    absent.close()
