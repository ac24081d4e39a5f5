"""A small mined pool for the review page, and a server for it in a thread of this process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardmine.detections import Detections
from hardmine.mining.candidates_file import Candidate, write_candidates
from hardmine.mining.pool_store import PoolStore
from hardmine.types import PoolScore

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("raccoon",)
MODEL = "model-1"


def draw(path: Path, seed: int, size: tuple[int, int] = (240, 160)) -> Path:
    """Write a picture of coloured stripes; equal seeds give equal pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(40, 220, (6, 3), np.uint8)
    pixels = np.repeat(colours, -(-size[0] // 6), axis=0)[: size[0]]
    Image.fromarray(np.broadcast_to(pixels, (size[1], size[0], 3)).copy()).save(path, quality=80)
    return path


def alarm(score: float, box: Sequence[float] = (30, 20, 110, 90)) -> Detections:
    """Return one alarm, and a weaker one inside it."""
    x1, y1, x2, y2 = box
    boxes = np.array([[x1, y1, x2, y2], [x1 + 4, y1 + 4, x2 - 9, y2 - 9]], np.float32)
    return Detections(boxes, np.array([score, score / 2], np.float32), np.ones(2, np.int64))


def score_of(path: Path, score: float, model: str = MODEL) -> PoolScore:
    return PoolScore(str(path), score, 1, 2, 0, 0, model)


def mined(
    folder: Path, count: int = 6, *, similar: dict[int, int] | None = None, first: str = "pic"
) -> Path:
    """Write a pool of pictures and what ``mine`` makes of it; return the run's folder.

    Args:
        similar: how many further pictures stand behind one, by its number.
    """
    pool, run = folder / "pool", folder / "run"
    rows, scores = [], []
    for i in range(count):
        name = f"{first}-{i:03}.jpg"
        path, score = draw(pool / name, i), 0.95 - 0.5 * i / max(1, count)
        others = []
        for k in range((similar or {}).get(i, 0)):
            other = draw(pool / f"like-{i}-{k}.jpg", i)
            others.append(other.name)
            scores.append((score_of(other, score - 0.01 * (k + 1)), alarm(score)))
        found = alarm(score)
        scores.append((score_of(path, score), found))
        rows.append(Candidate(name, str(path), score, "raccoon", found, tuple(others)))
    with PoolStore(run / "pool.sqlite") as store:
        store.add_scores(scores, model_id=MODEL)
        store.add_mined("mine", 0, [row.path for row in rows], MODEL)
    write_candidates(run, rows, CLASSES, pool=str(pool), model_id=MODEL, min_score=0.05)
    return run


@dataclass
class Served:
    """A review server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        key = json.loads(self.get("/api/session")[1])["key"]
        status, body, _ = self.ask("POST", path, value, {"X-Hardmine-Key": key, **headers})
        return status, json.loads(body)

    def ask(
        self, method: str, path: str, value: Any, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            body = value if value is None or isinstance(value, bytes) else json.dumps(value)
            link.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = link.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            link.close()

    def raw(self, data: bytes) -> bytes:
        """Return all that the server answers to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as link:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            parts = []
            while part := link.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> str:
        """End it as Ctrl+C does; return what it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=30)
        return out


def serve(target: Path, *options: str, port: int = 0) -> Served:
    """Start ``hardmine review`` and wait until it answers."""
    command = [sys.executable, "-m", "hardmine", "review", str(target), "--no-open"]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert process.stdout is not None
    said = line = process.stdout.readline()
    while line and "http://" not in line:
        line = process.stdout.readline()
        said += line
    if not line:
        process.communicate()
        raise AssertionError(f"the server did not start: {said}")
    address = line.split("http://", 1)[1].split()[0]
    found = int(address.split("/")[0].rpartition(":")[2])
    return _answering(Served(process, found, address.partition("?token=")[2]))


def _answering(served: Served) -> Served:
    for _ in range(200):
        try:
            served.get("/")
        except OSError:
            time.sleep(0.05)
        else:
            return served
    raise AssertionError("the server does not answer")


def decided(run: Path) -> dict[str, tuple[str, str]]:
    """Return (verdict, who) by the name of the image, as the store has them on disk."""
    with PoolStore(run / "pool.sqlite", read_only=True) as store:
        return {
            Path(image).name: (said.verdict.value, said.who)
            for image, said in store.decisions().items()
        }
