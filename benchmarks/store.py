"""The pool store at size: start-up over a million rows, top-k over ten million, and 50 kills.

    python -m benchmarks.store [--rows N] [--known N] [--kills N]

Rows are synthetic. Start-up is the time until a scan that finds every image scored before has looked
at all of them. The kills (kill -9) strike a scan by a quick fake detector at random moments; what was
committed must not be scored again, and the ranking must equal that of a scan left alone. Writes
benchmarks/results/store.json.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.detections import Detections
from hardmine.device import describe_machine
from hardmine.files import write_json
from hardmine.mining.pool_scorers import FastScorer
from hardmine.mining.pool_store import INDEXES, PoolStore
from hardmine.mining.ranking import ExactRanking, RankedPart
from hardmine.mining.scan import ScanCounts, iter_unscored, scan_source
from hardmine.types import PoolScore

RESULT = Path(__file__).parent / "results" / "store.json"
MODEL = "0123456789abcdef"
TOP = 5000


class Names:
    """A source of names alone."""

    def __init__(self, count: int) -> None:
        self.name, self.prefix, self._count = "names", "/", count

    def items(self) -> Iterator[Any]:
        from hardmine.inference.image_loading import ImageItem

        return (ImageItem(name_of(i)) for i in range(self._count))

    def count(self) -> int:
        return self._count

    def holds(self, image: str) -> bool:
        return True


def name_of(index: int) -> str:
    return f"/data/pool/camera-{index // 50_000:03d}/frame-{index:09d}.jpg"


def fill(path: Path, rows: int) -> float:
    """Write ``rows`` fast scores and return the seconds."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    with PoolStore(path) as store:
        for index in ("scores_by_score", "scores_by_exact"):
            store._database.execute(f"DROP INDEX {index}")
        for first in range(0, rows, 200_000):
            size = min(200_000, rows - first)
            scores = rng.beta(1, 8, size).tolist()
            hashes = rng.integers(-(2**63), 2**63, size).tolist()
            values = [
                (MODEL, name_of(first + i), scores[i], 1, -1, 0, hashes[i], b"", 0, scores[i], "")
                for i in range(size)
            ]
            with store._transaction() as database:
                database.executemany("INSERT INTO scores VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)
        store._database.executescript(INDEXES)
    return time.perf_counter() - start


def time_start(folder: Path, known: int) -> dict[str, float]:
    """Return the seconds to find that all of ``known`` images are scored."""
    path = folder / "known.sqlite"
    fill(path, known)
    start = time.perf_counter()
    with PoolStore(path) as store:
        opened = time.perf_counter() - start
        counts = ScanCounts()
        assert not list(iter_unscored(Names(known), store, MODEL, counts))  # type: ignore[arg-type]
    assert counts.skipped == known
    return {"rows": known, "open_s": opened, "start_up_s": time.perf_counter() - start}


def time_top(folder: Path, rows: int) -> dict[str, float]:
    """Return the seconds of the top ``TOP`` of ``rows``, once with a cold and once with a warm cache."""
    path = folder / "many.sqlite"
    filled = fill(path, rows)
    result: dict[str, float] = {
        "rows": rows,
        "fill_s": filled,
        "size_gb": path.stat().st_size / 1e9,
    }
    for name in ("first", "second"):
        start = time.perf_counter()
        with PoolStore(path) as store:
            ranked = store.ranked_after(MODEL, None, TOP, exact=False)
        result[f"top_{TOP}_{name}_s"] = time.perf_counter() - start
        assert len(ranked) == TOP
    return result


def victim(path: Path, images: int) -> None:
    """Scan with a detector that takes a hundredth of a millisecond; notes what it scored."""
    from hardmine.data.resize import Resize
    from hardmine.inference import fast_scoring
    from hardmine.inference.fast_scoring import FastScore

    def batch_of(scorer: Any, resize: Any, batch: Any) -> list[FastScore]:
        time.sleep(0.002)
        assert known.isdisjoint(item.name for item in batch), "scored before"
        return [FastScore(i.name, (hash_of(i.name) % 9973) / 9973, 1, 0, 0) for i in batch]

    known: set[str] = set()
    fast_scoring.score_batch = batch_of  # type: ignore[assignment]
    scorer: Any = type("Quick", (), {"name": "fake", "workers": 2, "batch_size": 16})()
    with PoolStore(path) as store:
        known.update(score.image for score in store.iter_ranked(MODEL))
        print("begun", len(known), flush=True)
        detector: Any = type("Quick", (), {"model_id": MODEL, "resize": Resize(8, 8)})()
        scan_source(Names(images), store, FastScorer(detector, scorer), MODEL)  # type: ignore[arg-type]
        ranking = ExactRanking(store, MODEL, score_exactly, RankedPart(expect=images // 20))
        for _ in islice(ranking, images // 20):
            pass


def hash_of(name: str) -> int:
    return int(name[-13:-4]) * 2654435761 % 2**32


def score_exactly(names: Any) -> Iterator[tuple[PoolScore, Detections]]:
    for name in names:
        time.sleep(0.0002)
        yield PoolScore(name, (hash_of(name) % 9973) / 9973, 1, 0, 0, 0, MODEL), Detections.none()


def run_kills(folder: Path, kills: int, images: int) -> dict[str, Any]:
    """Kill a scan at random moments until it has been killed ``kills`` times, then let it finish."""
    calm, hurt = folder / "calm.sqlite", folder / "hurt.sqlite"
    command = [sys.executable, "-m", "benchmarks.store", "--victim"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
    subprocess.run(
        [*command, str(calm), str(images)], check=True, env=environment, capture_output=True
    )
    rng, counts, done, least = random.Random(0), list[int](), 0, 0
    while done < kills:
        process = subprocess.Popen(
            [*command, str(hurt), str(images)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        counts.append(int(process.stdout.readline().split()[1]))
        assert counts[-1] >= least, "rows that had been committed are gone"
        least = counts[-1]
        try:
            process.wait(rng.uniform(0.02, 1.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            done += 1
        assert process.wait() in (0, -signal.SIGKILL)
        process.stdout.close()
        if process.returncode == 0:  # it got through: once more from the start
            assert snapshot(hurt) == snapshot(calm)
            hurt.unlink()
            least = 0
    subprocess.run(
        [*command, str(hurt), str(images)], check=True, env=environment, capture_output=True
    )
    assert snapshot(hurt) == snapshot(calm)
    return {"kills": done, "images": images, "same_ranking": True, "rows_at_each_start": counts}


def snapshot(path: Path) -> list[tuple[Any, ...]]:
    with PoolStore(path, read_only=True) as store:
        ranked = store.ranked_after(MODEL, None, 10**9, exact=True)
        cuts = store.ranked_after(MODEL, None, 10**9, exact=False)
        return [(s.image, s.score, s.exact) for s in (*ranked, *cuts)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--victim", nargs=2)
    options = parser.parse_args(argv)
    if options.victim:
        victim(Path(options.victim[0]), int(options.victim[1]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            "machine": describe_machine(),
            "start_up": time_start(folder, options.known),
            "top": time_top(folder, options.rows),
            "kills": run_kills(folder, options.kills, 20_000),
        }
    for key, values in result.items():
        print(f"{key}: {values}")
    write_json(RESULT, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
