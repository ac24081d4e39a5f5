from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan_pool
from hardmine.types import Detections, Problem

DETECTOR: Any = SimpleNamespace(model_id="m", categories=("thing",))


class Scorer:
    """Scores by the number in the file's name; a name with "bad" is a problem."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, detector: Any, paths: Any, *, batch_size: int = 16) -> Iterator[Any]:
        del detector, batch_size
        for path in paths:
            self.asked.append(path.name)
            if "bad" in path.name:
                yield Problem("image_truncated", str(path), -1, "cut off")
            else:
                yield SimpleNamespace(
                    path=path,
                    score=int(path.stem) / 1000,
                    label=1,
                    level=2,
                    detections=Detections.none(),
                    phash=5,
                )


def paths_of(*names: str) -> list[Path]:
    return [Path("/pool") / name for name in names]


def test_problems_are_stored_counted_and_passed_over(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with PoolStore(tmp_path / "pool.sqlite") as store:
        summary = scan_pool(
            DETECTOR,
            paths_of("1", "bad", "2"),
            store,
            score_images=Scorer(),
            progress=lambda done, total: told.append((done, total)),
        )
        assert (summary.scored, summary.skipped, len(summary.problems)) == (2, 0, 1)
        assert store.problems("m")[0].file == "/pool/bad"
        assert [s.image for s in store.iter_ranked("m")] == ["/pool/2", "/pool/1"]
    assert told == [(3, 3)]


def test_what_this_model_has_seen_is_not_looked_at_again(tmp_path: Path) -> None:
    scorer = Scorer()
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scan_pool(DETECTOR, paths_of("1", "bad"), store, score_images=scorer)
        summary = scan_pool(DETECTOR, paths_of("bad", "1", "3"), store, score_images=scorer)
        assert (summary.scored, summary.skipped) == (1, 2)
        assert scorer.asked == ["1", "bad", "3"]
        other: Any = SimpleNamespace(model_id="other", categories=("thing",))
        assert scan_pool(other, paths_of("1"), store, score_images=scorer).scored == 1


def test_it_commits_as_it_goes(tmp_path: Path) -> None:
    def dies(detector: Any, paths: Any, *, batch_size: int = 16) -> Iterator[Any]:
        for i, result in enumerate(Scorer()(detector, paths, batch_size=batch_size)):
            if i == 9:
                raise KeyboardInterrupt
            yield result

    names = [str(i) for i in range(20)]
    with PoolStore(tmp_path / "pool.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            scan_pool(DETECTOR, paths_of(*names), store, score_images=dies, batch_size=1)
        assert store.count_scores("m") == 8  # two commits of four; the ninth was under way
        scan_pool(DETECTOR, paths_of(*names), store, score_images=Scorer(), batch_size=1)
        assert store.count_scores("m") == 20


def test_an_empty_list_scans_nothing(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        summary = scan_pool(DETECTOR, [], store, score_images=Scorer())
        assert (summary.scored, summary.skipped, summary.problems) == (0, 0, ())


VICTIM = """
    import sys, time
    from pathlib import Path
    from types import SimpleNamespace
    from hardmine.mining.scan import scan_pool
    from hardmine.mining.pool_store import PoolStore
    from hardmine.types import Detections

    def slow(detector, paths, *, batch_size):
        for path in paths:
            time.sleep(0.002)
            yield SimpleNamespace(
                path=path, score=0.5, label=1, level=0, detections=Detections.none(), phash=0
            )

    names = [Path(f"/pool/{i}") for i in range(100_000)]
    with PoolStore(Path(sys.argv[1])) as store:
        scan_pool(
            SimpleNamespace(model_id="m"), names, store, score_images=slow, batch_size=1,
            progress=lambda done, total: print(done, flush=True),
        )
"""


def test_kill_minus_nine_loses_no_committed_image_and_frees_the_store(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    victim = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(VICTIM), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
        cwd=Path(__file__).parents[2],
    )
    assert victim.stdout is not None
    with victim, victim.stdout as told:
        committed = [int(told.readline()) for _ in range(5)][-1]
        with pytest.raises(DataError, match="another run is writing"):
            PoolStore(path)
        time.sleep(0.003)  # into the middle of a batch
        victim.send_signal(signal.SIGKILL)
    with PoolStore(path) as store:
        count = store.count_scores("m")
        assert count >= committed == 20
        assert count % 4 == 0
        assert store.pending("m", [f"/pool/{i}" for i in range(count + 1)]) == [f"/pool/{count}"]
