"""The scan: what it stores, what it passes over, how it resumes, and how often a network is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine import mine
from hardmine.data.resize import Resize
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.inference.detector import BatchScores
from hardmine.inference.image_loading import ImageItem
from hardmine.inference.predict import ScoredImage
from hardmine.mining import scan as scan_module
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan, scan_exactly
from hardmine.types import Dataset, ImageRecord, ImageState, Problem


class Numbers:
    """A detector of files: scores by the number in the file's name; "bad" names are problems."""

    categories = ("thing",)
    resize: Any = None

    def __init__(self, model_id: str = "m", die_after: int | None = None) -> None:
        self.model_id = model_id
        self.asked: list[str] = []
        self.die_after = die_after

    def score(self, images: Any) -> Any:
        raise NotImplementedError

    def detect(self, images: Any) -> Any:
        raise NotImplementedError

    def detect_images(self, paths: Any, progress: Any = None) -> Any:
        raise NotImplementedError

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        for item in items:
            path = Path(item.name)
            if len(self.asked) == self.die_after:
                raise KeyboardInterrupt
            self.asked.append(path.name)
            if "bad" in path.name:
                yield Problem(FindingKind.IMAGE_TRUNCATED, item.name, -1, "cut off")
            else:
                score = int(path.stem) / 1000
                yield ScoredImage(path, score, 1, 2, Detections.none(), 5, item.name)


def pool_of(*names: str) -> Dataset:
    state = ImageState.UNREVIEWED
    records = tuple(ImageRecord.empty(Path("/pool") / name, 8, 8, state) for name in names)
    return Dataset((), records, Path("/pool"))


def count_scores(store: PoolStore, model_id: str = "m") -> int:
    return sum(1 for _ in store.iter_ranked(model_id))


def test_problems_are_stored_counted_and_passed_over(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scanned = scan(
            Numbers(), pool_of("1", "bad", "2"), store, progress=lambda *w: told.append(w)
        )
        summary = scanned.summary
        assert (summary.scored, summary.skipped, len(summary.problems)) == (2, 0, 1)
        assert [problem.file for problem in scanned.problems] == ["/pool/bad"]
        assert store.problems("m")[0].file == "/pool/bad"
        assert [s.image for s in store.iter_ranked("m")] == ["/pool/2", "/pool/1"]
        # What was met before is known without being looked at again.
        again = scan(Numbers(), pool_of("1", "bad", "2"), store)
        assert [problem.file for problem in again.problems] == ["/pool/bad"]
    assert told[-1] == ("scan (full precision)", 3, 3)


def test_the_progress_ends_at_the_total_where_a_pool_has_lost_images(tmp_path: Path) -> None:
    lost = Problem(FindingKind.IMAGE_UNREADABLE, "/pool/x.jpg", -1, "no image")
    pool = replace(pool_of("1", "2"), problems=(lost, lost))
    told: list[tuple[int, int]] = []
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scan(Numbers(), pool, store, progress=lambda what, done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == 2


def test_what_this_model_has_seen_is_not_looked_at_again(tmp_path: Path) -> None:
    detector = Numbers()
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scan(detector, pool_of("1", "bad"), store)
        summary = scan(detector, pool_of("bad", "1", "3"), store).summary
        assert (summary.scored, summary.skipped, summary.scanned) == (1, 2, 2)
        assert detector.asked == ["1", "bad", "3"]
        assert scan(Numbers("other"), pool_of("1"), store).summary.scored == 1


def test_what_could_not_be_listed_is_counted_once_however_often_it_is_scanned(
    tmp_path: Path,
) -> None:
    """Such as a video that cannot be opened; alone in a pool it is the same error every time."""
    broken = Problem(FindingKind.IMAGE_UNREADABLE, "/pool/cut.mkv", -1, "broken")
    pool = replace(pool_of("1", "2"), problems=(broken,))
    alone = replace(pool_of(), problems=(broken,))
    with PoolStore(tmp_path / "pool.sqlite") as store:
        assert [scan(Numbers(), pool, store).num_images for _ in range(3)] == [2, 2, 2]
        for _ in range(2):
            with pytest.raises(
                DataError, match=r"no image .* be read \(1 problem, the first: /pool/"
            ):
                scan(Numbers(), alone, store)


def test_it_commits_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "COMMIT_SECONDS", 60.0)
    monkeypatch.setattr(scan_module, "COMMIT_IMAGES", 4)
    pool = pool_of(*(str(i) for i in range(20)))
    with PoolStore(tmp_path / "pool.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            scan(Numbers(die_after=9), pool, store)
        assert count_scores(store) == 8  # two commits of four; the ninth was under way
        detector = Numbers()
        scan(detector, pool, store)
        assert len(detector.asked) == 12
        assert count_scores(store) == 20


def test_an_empty_pool_is_an_error(tmp_path: Path) -> None:
    with (
        PoolStore(tmp_path / "pool.sqlite") as store,
        pytest.raises(DataError, match="no image in the pool"),
    ):
        scan(Numbers(), pool_of(), store)


VICTIM = """
    import sys, time
    from pathlib import Path
    from hardmine.inference.predict import ScoredImage
    from hardmine.mining import scan as scan_module
    from hardmine.mining.pool_store import PoolStore
    from hardmine.detections import Detections
    from hardmine.types import Dataset, ImageRecord, ImageState

    class Slow:
        model_id, categories, resize = "m", ("thing",), None

        def score(self, images): ...
        def detect(self, images): ...
        def detect_images(self, paths, progress=None): ...

        def score_items(self, items):
            for item in items:
                time.sleep(0.002)
                yield ScoredImage(Path(item.name), 0.5, 1, 0, Detections.none(), 0, item.name)

    state = ImageState.UNREVIEWED
    records = [ImageRecord.empty(Path(f"/pool/{i}"), 8, 8, state) for i in range(100_000)]
    pool = Dataset((), tuple(records), Path("/pool"))
    scan_module.COMMIT_SECONDS, scan_module.COMMIT_IMAGES = 60.0, 4
    with PoolStore(Path(sys.argv[1])) as store:
        scan_module.scan(
            Slow(), pool, store, progress=lambda what, done, total: print(done, flush=True)
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
        done = [int(told.readline()) for _ in range(7)]
        assert done[:2] == [0, 1]  # preparing
        with pytest.raises(DataError, match="another run is writing"):
            PoolStore(path)
        time.sleep(0.003)  # into the middle of a batch
        victim.send_signal(signal.SIGKILL)
    with PoolStore(path) as store:
        count = count_scores(store)
        assert count >= done[-1] == 20
        assert count % 4 == 0
        assert store.pending("m", [f"/pool/{i}" for i in range(count + 1)]) == [f"/pool/{count}"]


# How often a network is run.


class Reds:
    """Somebody else's detector, which counts the images that it sees: red boxes everywhere."""

    categories = ("red",)
    model_id = "reds"
    resize = Resize(8, 8)

    def __init__(self) -> None:
        self.batches: list[int] = []

    @property
    def seen(self) -> int:
        return sum(self.batches)

    def score(self, images: torch.Tensor) -> BatchScores:
        self.batches.append(len(images))
        red = images[:, 0].float().mean((1, 2)) / 255
        return BatchScores(red, torch.ones(len(red)).long(), torch.zeros(len(red)).long())

    def detect(self, images: torch.Tensor) -> list[Detections]:
        scores = self.score(images).scores.numpy()
        box, one = np.array([[0, 0, 8, 8]], np.float32), np.ones(1, np.int64)
        return [Detections(box, s[None].astype(np.float32), one) for s in scores]


class OnePassReds(Reds):
    """The same with scores and boxes from one run."""

    model_id = "one pass"

    def score_and_detect(
        self, images: torch.Tensor, floor: float
    ) -> tuple[BatchScores, list[Detections]]:
        self.batches.append(
            len(images.unique(dim=0))
        )  # a batch may be filled up with its last image
        scores = Reds.score(Reds(), images)
        found = Reds.detect(Reds(), images)
        fires = (scores.scores >= floor).tolist()
        return scores, [d if f else Detections.none() for d, f in zip(found, fires, strict=True)]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(20):
        pixels = noise.integers(0, 256, (16, 16, 3), np.uint8)
        pixels[..., 0] = 12 * i
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.parametrize("make", [Reds, OnePassReds])
def test_a_foreign_network_sees_each_image_once(
    colours: Path, tmp_path: Path, make: type[Reds]
) -> None:
    detector = make()
    result = mine(detector, colours, out=tmp_path / "out", min_score=0.2)
    assert [Path(s.image).stem for s in result.candidates] == [f"{i:02}" for i in range(19, 4, -1)]
    assert detector.seen == 20
    assert mine(detector, colours, out=tmp_path / "out", min_score=0.1).scanned == 20
    assert detector.seen == 20


def paint(path: Path, red: int) -> None:
    """Write a noise picture of a redness; two of one name differ in size too."""
    pixels = np.random.default_rng(red).integers(0, 256, (16, 16 + red, 3), np.uint8)
    pixels[..., 0] = red
    Image.fromarray(pixels).save(path)


def test_a_picture_that_was_replaced_is_scored_anew(colours: Path, tmp_path: Path) -> None:
    detector = OnePassReds()
    mine(detector, colours, out=tmp_path / "out", min_score=0.9)
    paint(colours / "03.png", 255)
    result = mine(detector, colours, out=tmp_path / "out", min_score=0.9)
    assert [(Path(s.image).stem, s.score) for s in result.candidates] == [("03", 1.0)]
    assert detector.seen == 21


def test_a_picture_that_was_repaired_is_read_again(colours: Path, tmp_path: Path) -> None:
    whole = (colours / "19.png").read_bytes()
    (colours / "19.png").write_bytes(whole[:40])
    assert len(mine(OnePassReds(), colours, out=tmp_path / "out").problems) == 1
    (colours / "19.png").write_bytes(whole)
    result = mine(OnePassReds(), colours, out=tmp_path / "out")
    assert not result.problems
    assert result.scanned == 20


def test_an_archive_that_was_packed_anew_is_scored_anew(tmp_path: Path) -> None:
    for red in (10, 20):
        paint(tmp_path / "a.png", red)
        with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
            archive.write(tmp_path / "a.png", "a.png")
        detector = OnePassReds()
        result = mine(detector, tmp_path / "pool.zip", out=tmp_path / "out", min_score=0)
        assert [round(s.score * 255) for s in result.candidates] == [red]
        mine(detector, tmp_path / "pool.zip", out=tmp_path / "out")
        assert detector.seen == 1


def test_an_image_that_was_taken_out_of_an_archive_is_handed_out_no_more(tmp_path: Path) -> None:
    for name, red in {"a": 10, "b": 90, "c": 50}.items():
        paint(tmp_path / f"{name}.png", red)
    pools = {"pool.zip": "abc", "pool.zip2.zip": "abc"}
    for pool, letters in [*pools.items(), ("pool.zip", "ac")]:
        with zipfile.ZipFile(tmp_path / pool, "w") as archive:
            for letter in letters:
                archive.write(tmp_path / f"{letter}.png", f"{letter}.png")
        result = mine(OnePassReds(), tmp_path / pool, out=tmp_path / "out", min_score=0)
    assert [Path(s.image).name for s in result.candidates] == ["c.png", "a.png"]
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:  # another archive keeps its own
        assert len(list(store.iter_ranked(OnePassReds().model_id))) == 5


@pytest.mark.parametrize("pool", ["pools/*.zip", "pools.txt"])
def test_an_archive_that_was_emptied_is_ranked_no_more(tmp_path: Path, pool: str) -> None:
    (tmp_path / "pools").mkdir()
    for name, red in {"a": 10, "b": 90, "c": 50}.items():
        paint(tmp_path / f"{name}.png", red)
        for place in ("pools", "."):
            with zipfile.ZipFile(tmp_path / place / f"{name}.zip", "w") as archive:
                archive.write(tmp_path / f"{name}.png", f"{name}.png")
    (tmp_path / "pools.txt").write_text("pools/a.zip\npools/b.zip\npools/c.zip\n")

    def ranked(pool: Path) -> list[str]:
        found = mine(OnePassReds(), pool, out=tmp_path / "out", min_score=0)
        return [s.image.removeprefix(f"{tmp_path}/") for s in found.candidates]

    assert ranked(tmp_path / "b.zip") == ["b.zip!/b.png"]
    b, c, a = (f"pools/{name}.zip!/{name}.png" for name in "bca")
    assert ranked(tmp_path / pool) == [b, c, a]
    for emptied in ("pools/b.zip", "b.zip"):
        zipfile.ZipFile(tmp_path / emptied, "w").close()
    assert ranked(tmp_path / pool) == [c, a]
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:  # of another pool nothing is known
        assert len(list(store.iter_ranked(OnePassReds().model_id))) == 3


def test_an_exact_scan_scores_what_has_a_fast_score_only(tmp_path: Path, colours: Path) -> None:
    from tiny_models import tiny_detector

    detector = tiny_detector()
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scan(detector, colours, store)
        assert not any(row.exact for row in store.iter_ranked("tiny"))
        scan_exactly(detector, colours, store)
        assert all(row.exact for row in store.iter_ranked("tiny"))
        assert count_scores(store, "tiny") == 20
