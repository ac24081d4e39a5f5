"""Decisions on the page, by keyboard and mouse, as a person makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardmine.mining.pool_store import PoolStore
from review_world import Served, decided, mined, serve

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


def press(page: Any, key: str, then: int | None = None) -> None:
    """Press a key, and wait until another picture is shown."""
    page.keyboard.press(key)
    if then is not None:
        shows(page, then)


def shows(page: Any, picture: int) -> None:
    page.wait_for_selector(f"#canvas[data-picture='{picture}']")


def says(page: Any, text: str) -> None:
    page.wait_for_function(
        "t => document.getElementById('notice').textContent.includes(t)", arg=text
    )


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the stage, in shares of its width and height."""
    box = page.locator("#canvas").bounding_box()
    for place, step in ((start, page.mouse.down), (end, page.mouse.up)):
        x, y = box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]
        page.mouse.move(x, y, steps=4)
        step()


def verdicts(run: Path) -> dict[str, str]:
    return {name: said for name, (said, _) in decided(run).items()}


def last_boxes(run: Path) -> list[list[Any]]:
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        return [box.to_list() for box in store.decisions_after(0)[-1].decision.boxes]


def test_keys_decide_and_the_next_undecided_picture_comes(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    assert page.inner_text("#question") == "Is there a real raccoon in this picture?"
    press(page, "e", 1)
    assert verdicts(run) == {"pic-000.jpg": "empty"}  # on the disk before the page has moved on
    press(page, "i", 2)
    press(page, "u", 3)
    press(page, "ArrowLeft", 2)
    press(page, "Shift+O", 3)  # 2 said "unsure" and is now an object; 3 is the next undecided one
    assert verdicts(run) == {
        "pic-000.jpg": "empty",
        "pic-001.jpg": "ignore",
        "pic-002.jpg": "contains_object",
    }
    page.click("#verdicts .empty")
    shows(page, 4)
    press(page, "e", 5)
    press(page, "e")
    page.wait_for_selector("#done:not([hidden])")
    assert "All 6 pictures" in page.inner_text("#done-title")
    assert "6 of 6" in page.inner_text("#pace")


def test_a_held_key_decides_once(run: Path, served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.keyboard.down("e")
    for _ in range(5):
        page.keyboard.down("e")  # what a keyboard repeats
    page.keyboard.up("e")
    shows(page, 1)
    page.wait_for_timeout(300)
    assert verdicts(run) == {"pic-000.jpg": "empty"}


def test_undo_says_what_it_took_back_and_goes_there_also_after_a_reload(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    press(page, "e", 1)
    press(page, "i", 2)
    page.reload()
    page.wait_for_selector("#canvas[data-picture='2']")
    press(page, "z", 1)
    says(page, "Taken back: “Ignore” on pic-001.jpg.")
    press(page, "z", 0)
    says(page, "Taken back: “Empty” on pic-000.jpg.")
    press(page, "z")
    says(page, "nothing of yours to take back")
    assert verdicts(run) == {}


def test_an_object_gets_a_drawn_box_and_an_accepted_alarm(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    press(page, "o")
    page.wait_for_selector("#label-bar:not([hidden])")
    assert verdicts(run) == {"pic-000.jpg": "contains_object"}
    assert last_boxes(run) == []
    press(page, "a")
    page.wait_for_function(
        "() => document.getElementById('label-text').textContent.includes('1 box')"
    )
    page.wait_for_timeout(300)
    assert last_boxes(run) == [[30, 20, 110, 90, None, "raccoon"]]
    drag(page, (0.5, 0.5), (0.6, 0.7))
    page.wait_for_function(
        "() => document.getElementById('label-text').textContent.includes('2 boxes')"
    )
    page.wait_for_timeout(300)
    x1, y1, x2, y2, score, name = last_boxes(run)[1]
    assert (score, name) == (None, "raccoon")
    assert (x1, y1) == (pytest.approx(120, abs=2), pytest.approx(80, abs=2))
    assert x2 > x1 + 10
    assert y2 > y1 + 10
    press(page, "ArrowRight")  # moves the box by a hundredth of 240 pixels, and saves it
    press(page, "Shift+ArrowDown")  # and makes it higher by a hundredth of 160
    press(page, "Enter", 1)
    moved = last_boxes(run)[1]
    assert moved[:4] == pytest.approx([x1 + 2.4, y1, x2 + 2.4, y2 + 1.6], abs=0.05)
    press(page, "ArrowLeft", 0)
    assert page.get_attribute("#filmstrip [data-id='0']", "data-verdict") == "labelled"
    press(page, "o")
    page.wait_for_selector("#label-bar:not([hidden])")
    press(page, "Delete")
    press(page, "Enter", 1)
    assert len(last_boxes(run)) == 1


def test_the_alarms_stay_when_the_server_tells_of_the_decision_on_this_picture(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)

    def is_told(answer: Any) -> bool:
        return "/api/changes" in answer.url and '"changes":[[0' in answer.text().replace(" ", "")

    with page.expect_response(is_told):
        press(page, "o")
        page.wait_for_selector("#label-bar:not([hidden])")
    page.wait_for_selector("#history li")
    press(page, "a")
    page.wait_for_function(
        "() => document.getElementById('label-text').textContent.includes('1 box')"
    )
    press(page, "Enter", 1)
    press(page, "ArrowLeft", 0)
    press(page, "u", 1)
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        assert [len(each.decision.shown) for each in store.decisions_after(0)] == [1, 1, 1]


def test_what_to_do_next_is_said_when_all_is_decided(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    press(page, "Shift+O", 1)
    for picture in range(2, 6):
        press(page, "e", picture)
    press(page, "e")
    page.wait_for_selector("#done:not([hidden])")
    assert page.inner_text("#done-command") == f"Into your own data: hardmine apply {run} DATA"
    assert page.inner_text("#done-label").startswith("1 picture holds an object and has no box yet")
    assert f"hardmine review {run} --export" in page.inner_text("#done-label")
    (run / "loop.json").write_text("{}")
    later = page.context.new_page()
    later.goto(served.url)
    later.wait_for_selector("#done:not([hidden])")
    assert f"hardmine loop --out {run} --resume" in later.inner_text("#done-command")


def test_keys_that_follow_at_once_wait_for_the_decision(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.evaluate(
        """() => { for (const key of ["o", "a", "Enter"])
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })); }"""
    )
    shows(page, 1)
    assert last_boxes(run) == [[30, 20, 110, 90, None, "raccoon"]]


def test_a_box_is_made_by_keys_alone(run: Path, served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    press(page, "o")
    page.wait_for_selector("#label-bar:not([hidden])")
    press(page, "b")
    press(page, "ArrowLeft")
    press(page, "Enter", 1)
    # The middle of a picture of 240 by 160, and then a hundredth to the left.
    assert last_boxes(run) == [[81.6, 56, 153.6, 104, None, "raccoon"]]


def test_similar_pictures_are_decided_together_unless_switched_off(
    tmp_path: Path, open_page: Open
) -> None:
    run = mined(tmp_path, 3, similar={0: 2, 1: 1})
    server = serve(run)
    try:
        page = open_page(server.url)
        page.wait_for_selector("#similar:not([hidden])")
        assert "2 similar pictures" in page.inner_text("#similar-text")
        page.wait_for_selector("#similar-pictures .marker")
        page.wait_for_function(
            "() => document.querySelectorAll('#similar-pictures img').length === 2"
        )
        press(page, "e", 3)
        says(page, "Empty: 3 pictures.")
        assert set(verdicts(run)) == {"pic-000.jpg", "like-0-0.jpg", "like-0-1.jpg"}
        press(page, "m")
        press(page, "e", 5)
        assert len(verdicts(run)) == 4
        press(page, "z", 3)
        press(page, "z", 0)
        assert verdicts(run) == {}
    finally:
        server.stop()


def test_two_tabs_see_each_other_and_nothing_is_lost(
    run: Path, served: Served, browser: Any, open_page: Open
) -> None:
    first, second = open_page(served.url), open_page(served.url)
    for page, name in ((first, "ann"), (second, "ben")):
        page.evaluate("name => { document.getElementById('who').value = name; }", name)
    second.route("**/api/changes*", lambda route: None)  # it does not hear of the first one in time
    press(first, "e", 1)
    press(second, "o")  # still shows picture 0 as undecided
    says(second, "ann has decided “Empty” in the meantime. Press the key again to replace it.")
    assert decided(run) == {"pic-000.jpg": ("empty", "ann")}
    press(second, "Shift+O", 1)
    assert decided(run) == {"pic-000.jpg": ("contains_object", "ben")}
    first.wait_for_selector("#filmstrip [data-id='0'][data-verdict='object']")  # told by the server
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        assert [each.decision.who for each in store.decisions_after(0)] == ["ann", "ben"]


def test_a_killed_server_keeps_the_decision_waiting_and_goes_on(
    tmp_path: Path, open_page: Open
) -> None:
    run = mined(tmp_path, 3)
    server = serve(run)
    page = open_page(server.url)
    press(page, "e", 1)
    server.kill()
    press(page, "i")
    says(page, "Not saved yet: the server does not answer")
    assert page.get_attribute("#canvas", "data-picture") == "1"  # it has not moved on
    again = serve(run, port=server.port)
    try:
        shows(page, 2)
        assert verdicts(run) == {"pic-000.jpg": "empty", "pic-001.jpg": "ignore"}
        page.reload()
        page.wait_for_selector("#canvas[data-picture='2']")
        assert "2 of 3" in page.inner_text("#pace")
    finally:
        again.stop()


def test_what_a_person_saw_is_kept_with_the_decision(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    press(page, "e", 1)  # the weaker alarm is not drawn
    press(page, "w")
    press(page, "e", 2)
    page.keyboard.down("h")
    press(page, "e", 3)
    page.keyboard.up("h")
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        assert [len(each.decision.shown) for each in store.decisions_after(0)] == [1, 2, 0]


def test_names_that_are_markup_stay_text(tmp_path: Path, open_page: Open) -> None:
    run = mined(tmp_path, 2)
    name = "<img src=x onerror=document.title='hit'>"
    text = (run / "candidates.json").read_text()
    values = json.loads(text)
    for row in values["candidates"]:
        row["image"], row["class"] = f"{name}.jpg", name
        for box in row["boxes"]:
            box[5] = name
    (run / "candidates.json").write_text(json.dumps(values))
    server = serve(run)
    try:
        page = open_page(server.url)
        page.wait_for_selector("#alarms button")
        assert page.inner_text("#name") == f"{name}.jpg"
        assert name in page.inner_text("#alarms")
        assert name in page.inner_text("#question")
        press(page, "g")
        page.wait_for_selector(".tile img")
        assert page.title() != "hit"
        assert page.locator("img[src='x']").count() == 0
    finally:
        server.stop()


def test_a_file_that_is_gone_or_changed_is_a_state_and_can_be_decided(
    tmp_path: Path, open_page: Open
) -> None:
    run = mined(tmp_path, 3)
    (tmp_path / "pool" / "pic-000.jpg").unlink()
    (tmp_path / "pool" / "pic-001.jpg").write_bytes(b"no picture")
    server = serve(run)
    try:
        page = open_page(server.url)
        page.wait_for_selector("#fault:not([hidden])")
        assert "not there any more" in page.inner_text("#fault")
        press(page, "i", 1)
        page.wait_for_selector("#fault:not([hidden])")
        assert "cannot be shown" in page.inner_text("#fault")
        press(page, "i", 2)
        page.wait_for_selector("#fault", state="hidden")
        assert set(verdicts(run)) == {"pic-000.jpg", "pic-001.jpg"}
    finally:
        server.stop()
