"""Decisions on the page, by keyboard and mouse, as a person makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from review_world import Served, decided

pytestmark = pytest.mark.browser


def picture(page: Any) -> int:
    return int(page.get_attribute("#canvas", "data-picture"))


def press(page: Any, key: str, then: int | None = None) -> None:
    """Press a key, and wait until another picture is shown."""
    page.keyboard.press(key)
    if then is not None:
        page.wait_for_selector(f"#canvas[data-picture='{then}']")


def test_keys_decide_and_the_next_undecided_picture_comes(
    run: Path, served: Served, open_page: Callable[..., Any]
) -> None:
    page = open_page(served.url)
    assert page.inner_text("#question") == "Is there a real raccoon in this picture?"
    press(page, "e", 1)
    assert decided(run)["pic-000.jpg"][0] == "empty"  # on the disk before the page has moved on
    press(page, "i", 2)
    press(page, "u", 3)
    press(page, "ArrowLeft", 2)
    press(page, "Shift+O", 3)  # 2 said "unsure" and is now an object; 3 is the next undecided one
    assert {name: said for name, (said, _) in decided(run).items()} == {
        "pic-000.jpg": "empty",
        "pic-001.jpg": "ignore",
        "pic-002.jpg": "contains_object",
    }
    page.click("#verdicts .empty")
    page.wait_for_selector("#canvas[data-picture='4']")
    press(page, "e", 5)
    page.keyboard.press("e")
    page.wait_for_selector("#done:not([hidden])")
    assert "All 6 pictures" in page.inner_text("#done-title")
    assert "6 of 6" in page.inner_text("#pace")
