"""A loop whose pool and whose held-out images are videos, as cameras write them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.cli.main import run as cli
from hardmine.data.video import split_frame
from review_world import serve
from shelf_world import make_world

av = pytest.importorskip("av", reason="needs the extra video")


def write_video(path: Path, seed: int, frames: int) -> Path:
    """Write two frames a second, each of its own pattern, so that none repeats another."""
    noise = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            coarse = Image.fromarray(noise.integers(0, 256, (6, 8, 3), np.uint8))
            picture = coarse.resize((64, 48), Image.Resampling.BICUBIC)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


def test_a_loop_over_videos_trains_on_frames_and_counts_by_the_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A video that holds no frame is named, and the others are mined."""
    make_world(tmp_path)
    write_video(tmp_path / "cams" / "front.mp4", 1, 12)
    write_video(tmp_path / "cams" / "yard.mkv", 2, 8)
    write_video(tmp_path / "night" / "night.mp4", 3, 8)
    (tmp_path / "cams" / "cut.mp4").write_bytes((tmp_path / "cams" / "front.mp4").read_bytes()[:90])
    monkeypatch.chdir(tmp_path)
    words = ["shelf", "--pool", "cams", "--every", "0.5s", "--negatives", "night", "--val", "0.4"]
    how = ["--recipe", "tiny.yaml", "--rounds", "1", "--arms", "mined", "--add", "2"]
    rank = ["--min-score", "0.001", "--device", "cpu", "--out", "looped"]
    code = cli(["loop", *words, *how, *rank])
    said = capfd.readouterr()
    assert code == 0, said.err
    run = tmp_path / "looped"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "cut.mp4" in page
    assert "per hour of video" in page.lower()
    measured = [
        row["negatives"]["held_out"] for row in json.loads((run / "rounds.json").read_text())
    ]
    assert len(list((run / "negatives").rglob("night.mp4#t=*.png"))) == 8
    assert {part["images"] for part in measured} <= {7, 8}  # one may look like a training image
    assert [part["frames_per_hour"] for part in measured] == [7200, 7200]
    trained = json.loads((run / "rounds" / "mined-1" / "train.coco.json").read_text())["images"]
    names = [Path(image["file_name"]).name for image in trained]
    frames = [split_frame(name.removesuffix(".png")) for name in names]
    taken = [video for video, _ in filter(None, frames)]
    assert len(taken) == 2
    assert set(taken) <= {"front.mp4", "yard.mkv"}
    served = serve(run)
    try:
        queues = json.loads(served.get("/api/list")[1])["fixed"]["queue"]
        assert queues.count(0) == 2  # the candidates; other queues depend on what the model learnt
        status, body, _ = served.get("/picture/0")
        assert status == 200
        assert Image.open(io.BytesIO(body)).size == (64, 48)
    finally:
        served.stop()
