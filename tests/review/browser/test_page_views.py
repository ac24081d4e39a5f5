"""Looking at pictures on the page: zoom, filter, grid, queues, keys, a phone, a screen reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardmine.mining.pool_store import PoolStore
from hardmine.review.candidate_list import FIRES
from hardmine.types import Decision, Verdict
from review_world import MODEL, Served, alarm, decided, draw, mined, score_of, serve

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


def zoom(page: Any) -> float:
    return float(page.get_attribute("#canvas", "data-zoom"))


def shows(page: Any, picture: int) -> None:
    page.wait_for_selector(f"#canvas[data-picture='{picture}']")


def test_zoom_by_keys_and_wheel_stays_from_picture_to_picture(
    served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    assert zoom(page) == 1
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert zoom(page) == pytest.approx(2.25)
    page.locator("#canvas").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function("() => Number(document.getElementById('canvas').dataset.zoom) > 5")
    before = zoom(page)
    page.keyboard.press("ArrowRight")
    shows(page, 1)
    assert zoom(page) == before
    page.keyboard.press("-")
    assert zoom(page) == pytest.approx(before / 1.5, rel=1e-3)
    page.keyboard.press("0")
    assert zoom(page) == 1


def test_tab_goes_through_the_alarms_and_zooms_and_escape_lets_tab_leave(
    served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.keyboard.press("w")
    page.keyboard.press("Tab")
    assert zoom(page) > 1
    assert page.locator("#alarms .chosen").inner_text() == "raccoon .95"
    page.keyboard.press("Tab")
    assert page.locator("#alarms .chosen").inner_text() == "raccoon .47"
    page.keyboard.press("Shift+Tab")
    assert page.locator("#alarms .chosen").inner_text() == "raccoon .95"
    page.keyboard.press("Escape")
    assert zoom(page) == 1
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    focus = page.evaluate("() => document.activeElement.closest('button')?.textContent ?? ''")
    assert focus  # the focus is on a button, where it can be seen
    assert page.evaluate("() => document.activeElement.matches(':focus-visible')")


def test_boxes_are_hidden_while_the_key_is_held(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    picture = "() => document.getElementById('canvas').toDataURL()"
    shown = page.evaluate(picture)
    page.keyboard.down("h")
    assert page.evaluate(picture) != shown
    page.keyboard.up("h")
    assert page.evaluate(picture) == shown
    page.keyboard.down("h")
    page.keyboard.down("Shift")
    page.keyboard.up("H")  # let go as a capital
    page.keyboard.up("Shift")
    assert page.evaluate(picture) == shown


def test_the_filter_narrows_the_list_by_verdict_score_and_name(
    served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.keyboard.press("e")
    shows(page, 1)
    page.keyboard.press("/")
    page.wait_for_selector("#filter[open]")
    page.uncheck("#filter input[value='1']")  # without those that are empty
    page.fill("#filter-low", "0.6")  # scores fall from .95 in steps of .083: four are .7 or more
    page.wait_for_function(
        "() => document.getElementById('filter-count').textContent == '4 pictures'"
    )
    page.fill("#filter-name", "PIC-002")
    page.wait_for_function(
        "() => document.getElementById('filter-count').textContent == '1 picture'"
    )
    page.keyboard.press("Enter")
    shows(page, 2)
    assert "0 of 1" in page.inner_text("#pace")
    page.keyboard.press("/")
    page.click("#filter-clear")
    page.wait_for_function("() => document.getElementById('pace').textContent.startsWith('1 of 6')")


def filtered(page: Any) -> str:
    return page.inner_text("#pace").partition(" · ")[0]


def test_filter_order_and_view_outlive_a_reload_and_follow_the_address(
    served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.keyboard.press("/")
    page.fill("#filter-low", "0.65")  # four of six
    page.select_option("#filter-sort", "low")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('pace').textContent.startsWith('0 of 4')")
    page.keyboard.press("n")
    page.keyboard.press("g")
    page.wait_for_selector(".tile")
    assert page.locator(".tile .mark").all_inner_texts() == [".70", ".78", ".87", ".95"]
    page.reload()
    page.wait_for_selector(".tile")
    assert filtered(page) == "0 of 4"
    assert page.get_attribute("#filter-button", "aria-pressed") == "true"
    assert page.locator(".tile .mark").all_inner_texts() == [".70", ".78", ".87", ".95"]

    other = page.context.new_page()  # a second tab with the same address
    other.goto(page.url)
    other.wait_for_selector(".tile")
    assert filtered(other) == "0 of 4"
    other.keyboard.press("/")
    assert other.input_value("#filter-low") == "0.65"
    assert other.input_value("#filter-sort") == "low"

    page.go_back()  # from the grid to one picture, still filtered
    page.wait_for_selector("#single:not([hidden])")
    assert filtered(page) == "0 of 4"
    page.go_back()  # to all
    page.wait_for_function("() => document.getElementById('pace').textContent.startsWith('0 of 6')")
    page.go_forward()
    page.wait_for_function("() => document.getElementById('pace').textContent.startsWith('0 of 4')")


def test_a_list_without_open_pictures_says_so_at_once(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.keyboard.press("g")
    page.wait_for_selector(".tile")
    page.keyboard.press("Control+a")
    page.keyboard.press("i")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('6 pictures')"
    )
    assert len(decided(run)) == 6
    later = page.context.new_page()
    later.goto(served.url)
    later.wait_for_selector("#done:not([hidden])")
    assert later.inner_text("#done-title") == "All 6 pictures here have a verdict."
    later.click("#done-back")
    shows(later, 0)


def test_an_address_with_nonsense_shows_all(served: Served, open_page: Open) -> None:
    page = open_page(served.url + "#list=x&picture=-3&verdicts=9z&low=abc&class=<b>&sort=up&name=")
    assert filtered(page) == "0 of 6"
    page.evaluate("() => { location.hash = 'picture=4&high=0.8'; }")
    shows(page, 4)
    assert filtered(page) == "0 of 4"  # .78, .70, .62 and .53
    page.evaluate("() => { location.hash = 'low=2'; }")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('No picture fits')"
    )
    assert filtered(page) == "0 of 6"


def test_many_are_chosen_in_the_grid_by_shift_and_by_dragging(
    run: Path, served: Served, open_page: Open
) -> None:
    page = open_page(served.url)
    page.keyboard.press("g")
    page.wait_for_selector(".tile .marker")
    tiles = page.locator(".tile")
    tiles.nth(0).click()
    tiles.nth(2).click(modifiers=["Shift"])
    assert page.inner_text("#grid-text") == "3 chosen"
    page.keyboard.press("e")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('3 pictures')"
    )
    assert set(decided(run)) == {f"pic-00{i}.jpg" for i in range(3)}
    first, last = tiles.nth(3).bounding_box(), tiles.nth(4).bounding_box()
    page.mouse.move(first["x"] + 5, first["y"] + first["height"] + 4)
    page.mouse.down()
    page.mouse.move(last["x"] + 40, last["y"] + 30, steps=5)
    page.mouse.up()
    assert page.inner_text("#grid-text") == "2 chosen"
    page.click("#grid-bar .ignore")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('2 pictures')"
    )
    assert len(decided(run)) == 5
    page.keyboard.press("z")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('and 1 more')"
    )
    assert len(decided(run)) == 3


def test_the_grid_by_keys_alone(run: Path, served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.keyboard.press("g")
    page.wait_for_selector(".tile img")
    assert page.get_attribute("#tiles", "aria-activedescendant") == "tile-0"
    assert page.get_attribute("#tile-1", "aria-posinset") == "2"
    assert page.get_attribute("#tile-1", "aria-setsize") == "6"
    for key in ("ArrowRight", "Space", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text("#grid-text") == "2 chosen"
    page.keyboard.press("u")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('2 pictures')"
    )
    assert set(decided(run)) == {"pic-001.jpg", "pic-002.jpg"}
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    shows(page, 0)
    assert page.is_visible("#single")


def test_similar_pictures_are_previewed_before_the_grid_decides_on_them(
    tmp_path: Path, open_page: Open
) -> None:
    run = mined(tmp_path, 3, similar={1: 2})
    server = serve(run)
    try:
        page = open_page(server.url)
        page.keyboard.press("g")
        page.wait_for_selector(".tile img")
        page.keyboard.press("Control+a")
        page.keyboard.press("e")
        page.wait_for_selector("#preview[open]")
        assert page.inner_text("#preview-title").startswith("Empty for these 5 pictures: 3 chosen")
        page.keyboard.press("Escape")
        page.wait_for_timeout(200)
        assert decided(run) == {}
        page.keyboard.press("e")
        page.wait_for_selector("#preview[open] img")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('notice').textContent.includes('5 pictures')"
        )
        assert len(decided(run)) == 5
    finally:
        server.stop()


def test_a_key_can_be_changed_and_stays_changed(
    run: Path, served: Served, browser: Any, open_page: Open
) -> None:
    context = browser.new_context()
    page = open_page(served.url, context=context)
    page.keyboard.press("?")
    page.click("#keys button >> nth=0")
    page.keyboard.press("i")  # the key of another action
    assert "is the key of" in page.inner_text("#keys-note")
    page.click("#keys button >> nth=0")
    page.keyboard.press("x")
    assert page.inner_text("#verdicts .empty kbd") == "X"
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("#canvas[data-picture]")
    page.keyboard.press("e")
    page.keyboard.press("x")
    shows(page, 1)
    assert decided(run)["pic-000.jpg"][0] == "empty"
    context.close()


def test_queues_stand_beside_the_candidates(tmp_path: Path, open_page: Open) -> None:
    run = mined(tmp_path, 3)
    image = tmp_path / "pool" / "pic-002.jpg"
    with PoolStore(run / "pool.sqlite") as store:
        store.add_decisions([Decision(str(image), Verdict.EMPTY, "ann", "2026-01-01", MODEL)])
        store.add_scores([(score_of(image, 0.97, "new"), alarm(0.97))], model_id="new")
    server = serve(run)
    try:
        page = open_page(server.url)
        page.keyboard.press("q")
        page.wait_for_function(
            "() => document.getElementById('question').textContent.includes('empty')"
        )
        page.wait_for_selector("#history li")
        assert "Empty: ann" in page.inner_text("#history")
        assert "0 of 1" in page.inner_text("#pace")
        page.keyboard.press("i")
        page.wait_for_selector("#done:not([hidden])")
        assert "Candidates" in page.inner_text("#done-next")
        with PoolStore(run / "pool.sqlite", read_only=True) as store:
            last = store.decisions_after(0)[-1]
        assert (last.queue, last.decision.model_id, last.decision.verdict) == (
            FIRES,
            "new",
            "ignore",
        )
    finally:
        server.stop()


def test_all_lists_are_reached_on_a_phone(tmp_path: Path, browser: Any, open_page: Open) -> None:
    run = mined(tmp_path, 3)
    image = tmp_path / "pool" / "pic-002.jpg"
    with PoolStore(run / "pool.sqlite") as store:
        store.add_decisions([Decision(str(image), Verdict.EMPTY, "ann", "2026-01-01", MODEL)])
        store.add_scores([(score_of(image, 0.97, "new"), alarm(0.97))], model_id="new")
    server = serve(run)
    context = browser.new_context(
        viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True
    )
    try:
        page = open_page(server.url, context=context)
        page.tap("#queues button >> nth=1")
        page.wait_for_function(
            "() => document.getElementById('question').textContent.includes('empty')"
        )
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    finally:
        context.close()
        server.stop()


def test_labels_in_doubt_say_which_are_not_found_and_are_right_or_wrong(
    tmp_path: Path, open_page: Open
) -> None:
    run = mined(tmp_path, 2)
    image = draw(tmp_path / "val" / "labelled.jpg", 7)
    found = {
        "image": "labelled.jpg",
        "path": str(image),
        "score": 0.9,
        "class": "raccoon",
        "boxes": [],
        "labels": [[20, 20, 60, 60, None, "raccoon"], [120, 40, 200, 100, 0.0, "raccoon"]],
    }
    (run / "doubtful_labels.json").write_text(json.dumps({"model_id": "m", "candidates": [found]}))
    server = serve(run)
    try:
        page = open_page(server.url)
        page.click("#queues button >> nth=1")
        page.wait_for_function(
            "() => document.getElementById('where').textContent.includes('2 labels, 1 not found')"
        )
        assert page.inner_text("#verdicts .empty b") == "Right"
        page.keyboard.press("o")
        page.wait_for_selector("#label-bar:not([hidden])")
        page.keyboard.press("Enter")
        page.wait_for_selector("#done:not([hidden])")
        assert page.inner_text("#done-counts") == "1 wrong"
        page.keyboard.press("z")
        page.wait_for_function(
            "() => document.getElementById('notice').textContent.includes('“Wrong”')"
        )
    finally:
        server.stop()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_in_dark_and_light(
    run: Path, served: Served, browser: Any, open_page: Open, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 780}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = open_page(served.url, context=context)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is (scheme == "dark")
    assert page.locator("#alarms button").count() == 1
    page.tap("#weaker")
    assert page.locator("#alarms button").count() == 2
    page.tap("#verdicts .empty")
    shows(page, 1)
    assert decided(run)["pic-000.jpg"][0] == "empty"
    assert page.locator("#stage").bounding_box()["height"] > 200
    context.close()


def test_everything_that_can_be_pressed_has_a_name(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.wait_for_selector("#alarms button")
    label = page.get_attribute("#canvas", "aria-label")
    assert label == "pic-000.jpg, 1 of 6. 2 alarms, the strongest raccoon .95. undecided."
    assert page.inner_text("#spoken") == f"Is there a real raccoon in this picture? {label}"
    for name in ("g", "?"):
        page.keyboard.press(name)
        page.wait_for_timeout(200)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, canvas, [role=option]")]
            .filter((each) => each.offsetParent !== null)
            .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim()
                || each.labels?.length)).map((each) => each.outerHTML)"""
        )
        assert nameless == []


def test_the_page_loads_nothing_from_elsewhere(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    names = page.evaluate("() => performance.getEntriesByType('resource').map((each) => each.name)")
    assert names
    assert all(name.startswith((served.url, "blob:")) for name in names)
