"""Chromium for the tests of the review page; they are skipped where it is not installed."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from review_world import Served, mined, serve

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed (make test-browser installs it)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with playwright.sync_playwright() as started:
            chromium = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
            yield chromium
            chromium.close()
        del started, chromium
        gc.collect()  # the driver leaves its pipes to the garbage collector, which warns of them


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Give a function that opens an address in a window of its own; faults of the page fail the test."""
    contexts, faults = [], []

    def call(url: str, *, context: Any = None, **how: Any) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": 1100, "height": 720}, **how)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if "Content Security" in said.text else None,
        )
        page.goto(url)
        page.wait_for_selector("#canvas[data-picture]")
        return page

    yield call
    for context in contexts:
        context.close()
    assert not faults, faults


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return mined(tmp_path, 6)


@pytest.fixture
def served(run: Path) -> Iterator[Served]:
    server = serve(run)
    yield server
    server.stop()
