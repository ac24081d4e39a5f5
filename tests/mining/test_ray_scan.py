"""A real cluster of two nodes on this machine."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardmine import mine
from hardmine.errors import DataError, MissingExtraError
from hardmine.mining.pool_scorers import RayScorer, _connect, ray_cluster
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan_source
from hardmine.mining.sources.pool_source import open_source
from tiny_models import tiny_detector

IMAGES = 640


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        low = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(low).resize((40, 32)).save(folder / f"{i:04d}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    second = made.add_node(num_cpus=1, object_store_memory=10**8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        with ray_cluster(made.address):
            yield made, second
    made.shutdown()
    ray.shutdown()


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    with PoolStore(folder / "pool.sqlite") as store:
        return [(s.image, s.score, s.num_alarms, s.exact) for s in store.iter_ranked("tiny")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_ray_ranks_as_one_machine_does_and_outlives_a_node(
    cluster: Any, pool: Path, tmp_path: Path
) -> None:
    made, second = cluster
    detector = tiny_detector()
    alone = mine(detector, pool, top=80, out=tmp_path / "alone", runtime="torch")
    spread = mine(detector, pool, top=80, out=tmp_path / "ray", runtime="torch", ray=made.address)
    assert spread == alone
    assert (spread.scanned, len(spread.problems), len(spread.candidates)) == (IMAGES, 1, 80)
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "alone")

    told: list[int] = []
    gone = threading.Event()

    def kill_once_begun(done: int, total: int) -> None:
        told.append(done)
        if done > 100 and not gone.is_set():
            gone.set()
            made.remove_node(second, allow_graceful=False)

    with PoolStore(tmp_path / "killed" / "pool.sqlite") as store:
        summary = scan_source(
            open_source(pool),
            store,
            RayScorer(detector, "torch"),
            "tiny",
            progress=kill_once_begun,
        )
        assert gone.is_set()
        assert summary.scanned == len(list(store.iter_ranked("tiny"))) == IMAGES
    after = mine(detector, pool, top=80, out=tmp_path / "killed", runtime="torch")
    assert after.candidates == alone.candidates


def test_without_ray_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'hardmine\[ray\]'"),
        ray_cluster("local"),
    ):
        pass


def test_archives_without_random_access_cannot_be_divided() -> None:
    from hardmine.inference.image_loading import ImageItem
    from hardmine.mining.pool_scorers import _name_of

    with pytest.raises(DataError, match="cannot be divided among machines"):
        _name_of(ImageItem("x.tar.gz!/a.jpg", lambda: b"", held=True))


class FakeRay:
    """Ray on a machine that knows a cluster, or none."""

    def __init__(self, cluster: bool) -> None:
        self.cluster = cluster
        self.asked: list[str] = []

    def init(self, address: str, **more: Any) -> None:
        self.asked.append(address)
        if address == "auto" and not self.cluster:
            raise ConnectionError("no running Ray instance")


def test_without_an_address_the_cluster_that_answers_else_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    there, alone = FakeRay(cluster=True), FakeRay(cluster=False)
    _connect(there, "find")
    assert (there.asked, caplog.text) == (["auto"], "")
    _connect(alone, "find")
    assert alone.asked == ["auto", "local"]
    assert "Ray runs on this machine alone" in caplog.text
    with pytest.raises(DataError, match="--ray auto: no cluster answers"):
        _connect(alone, "auto")
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        named = FakeRay(cluster=True)
        _connect(named, "find")
    assert named.asked == ["local"]  # Ray itself would try for minutes
