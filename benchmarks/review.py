"""How quick the review page is with a store of 100,000 candidates, in Chromium.

    python -m benchmarks review [--candidates N] [--decisions N]

Measured in the page: from the key of a decision until the next picture is painted (the decision is on
the disk before the page moves on), a jump to a picture of 12 megapixels that is not loaded yet, and from
opening the address until the first picture is shown. Needs Chromium and the extra ``browser``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardmine.detections import Detections
from hardmine.device import describe_machine
from hardmine.mining.candidates_file import Candidate, write_candidates
from hardmine.mining.pool_store import PoolStore
from hardmine.types import PoolScore

DISTINCT = 300
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
MODEL = "m"


def draw(path: Path, seed: int, size: tuple[int, int]) -> None:
    """Write a picture that compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 12, size[0] // 12, 3), np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=88)


def build(folder: Path, count: int) -> Path:
    """Write ``count`` candidates over some hundred pictures under names of their own; one of 12 MP."""
    for name in ("drawn", "pool", "run"):
        (folder / name).mkdir()
    for seed in range(DISTINCT):
        draw(folder / "drawn" / f"{seed}.jpg", seed, (640, 480))
    draw(folder / "drawn" / "large.jpg", 1, (4000, 3000))
    boxes = np.array([[50, 60, 220, 260], [300, 80, 500, 300], [20, 300, 140, 460]], np.float32)
    rows, scores = [], []
    for i in range(count):
        path = folder / "pool" / f"cam{i % 20}-{i:06}.jpg"
        large = i == count // 2
        os.link(folder / "drawn" / ("large.jpg" if large else f"{i % DISTINCT}.jpg"), path)
        score = 0.99 - 0.9 * i / count
        found = Detections(
            boxes, np.array([score, score * 0.8, score * 0.5], np.float32), np.ones(3, np.int64)
        )
        rows.append(Candidate(path.name, str(path), score, "raccoon", found))
        scores.append((PoolScore(str(path), score, 1, 3, 0, i + 1, MODEL), found))
    with PoolStore(folder / "run" / "pool.sqlite") as store:
        store.add_scores(scores, model_id=MODEL)
        store.add_mined("mine", 0, [row.path for row in rows], MODEL)
    write_candidates(folder / "run", rows, ("raccoon",), pool=str(folder / "pool"), model_id=MODEL)
    return folder / "run"


def serve(run: Path) -> tuple[subprocess.Popen[str], str, float]:
    """Start the server; return it, its address, and after how many seconds it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "hardmine", "review", str(run), "--no-open", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, "http://" + line.split("http://")[1].split()[0], time.perf_counter() - began


def measure(url: str, count: int, decisions: int, program: str) -> dict[str, Any]:
    """Decide by the keyboard in Chromium; return the times in milliseconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto("about:blank")
        page.goto(url)
        page.wait_for_selector("#canvas[data-picture]")
        first = page.evaluate("() => performance.getEntriesByName('first picture')[0].startTime")
        page.wait_for_timeout(1500)
        began = time.perf_counter()
        for i in range(decisions):
            page.keyboard.press("e")
            page.wait_for_function(
                "n => performance.getEntriesByName('decision to next picture').length > n", arg=i
            )
            page.wait_for_timeout(60)  # a person looks
        seconds = time.perf_counter() - began
        times = page.evaluate(
            "() => performance.getEntriesByName('decision to next picture').map((e) => e.duration)"
        )
        jump = page.evaluate(_JUMP, count // 2)
        browser.close()
    low, middle, high = np.percentile(times, [5, 50, 95]).round(1).tolist()
    return {
        "decision_to_next_picture_ms": {"p5": low, "p50": middle, "p95": high},
        "decisions_per_minute": round(60 * decisions / seconds),
        "jump_to_12_megapixels_ms": round(jump, 1),
        "first_picture_ms": round(first, 1),
    }


_JUMP = """async (at) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const began = performance.now();
  location.hash = `list=candidates&picture=${at}`;
  while (document.getElementById("canvas").dataset.picture !== String(at)) await frame();
  await frame();
  return performance.now() - began;
}"""
"""A jump as the page makes it: details, picture, boxes, painted."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks review")
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=100)
    chosen = parser.parse_args(argv)
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        print("benchmark review: chromium is not installed")
        return 2
    with tempfile.TemporaryDirectory(prefix="hardmine-review-") as folder:
        run = build(Path(folder), chosen.candidates)
        server, url, ready = serve(run)
        try:
            times = measure(url, chosen.candidates, chosen.decisions, program)
        finally:
            server.terminate()
            server.communicate()
    values = {"candidates": chosen.candidates, "server_ready_s": round(ready, 1), **times}
    values["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps({**values, **describe_machine()}, indent=2))
    return 0 if times["decision_to_next_picture_ms"]["p95"] < 100 else 1
