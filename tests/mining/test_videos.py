"""Videos as pools: which frames are taken, and that a name gives the same pixels again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import hardmine
from hardmine.cli.console import Console, show_mining
from hardmine.cli.main import run as cli
from hardmine.data.images import decode_image, read_image
from hardmine.data.video import (
    Sampling,
    frame_name,
    frames_per_hour,
    iter_frames,
    read_frame,
    split_frame,
    video_seconds,
)
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import ranked
from hardmine.inference.framework_detectors import FrameworkDetector
from hardmine.inference.image_loading import ImageItem, open_item, read_item
from hardmine.mining.sources.local_files import load_pool
from hardmine.mining.sources.pool_source import open_image, open_source
from hardmine.types import Problem

av = pytest.importorskip("av")
from videos import SIZE, drawn, write_video  # noqa: E402


def names(pool: Path | str, every: str | None = None) -> list[str]:
    items = open_source(pool, every).items()
    return [Path(item.name).name for item in items if isinstance(item, ImageItem)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
@pytest.mark.parametrize("every", ["1s", "7", "key"])
def test_a_frame_s_name_gives_the_same_pixels_again(
    tmp_path: Path, suffix: str, every: str
) -> None:
    video = write_video(tmp_path / f"cam{suffix}")
    items = [item for item in open_source(video, every).items() if isinstance(item, ImageItem)]
    assert len(items) >= 3
    for item in items:
        first = np.asarray(open_item(item).pixels)
        again = open_image(item.name)
        assert again.picture is None
        np.testing.assert_array_equal(np.asarray(open_item(again).pixels), first)
        stored = decode_image(read_item(item), item.name)
        np.testing.assert_array_equal(np.asarray(stored.pixels), first)


def test_which_frames_are_taken(tmp_path: Path) -> None:
    """40 frames, ten a second, a key frame every 15."""
    video = write_video(tmp_path / "cam3.mp4")
    assert names(video) == [f"cam3.mp4#t={t}.000" for t in range(4)]
    assert names(video, "1.5s") == ["cam3.mp4#t=0.000", "cam3.mp4#t=1.500", "cam3.mp4#t=3.000"]
    assert names(video, "15")[1] == "cam3.mp4#t=1.500"
    assert names(video, "key") == ["cam3.mp4#t=0.000", "cam3.mp4#t=1.500", "cam3.mp4#t=3.000"]
    assert names(f"{video}#every=2s") == ["cam3.mp4#t=0.000", "cam3.mp4#t=2.000"]
    assert video_seconds(video) == pytest.approx(4, abs=0.11)
    found = split_frame(f"{video}#t=1.500")
    assert found == (str(video), 1.5)
    assert split_frame("a.png#t=1.500") is None
    assert frame_name("a.mp4", 12.3456) == "a.mp4#t=12.346"
    assert split_frame("a.mp4#t=12.346") == ("a.mp4", 12.346)
    np.testing.assert_allclose(
        np.asarray(read_frame(video, 1.5).pixels)[-10:, -10:].mean(),
        drawn(15)[-10:, -10:].mean(),
        atol=4,
    )


@pytest.mark.parametrize("text", ["0s", "s", "-1", "0", "1m", ""])
def test_what_every_means_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="wanted seconds as 1s, frames as 25, or key"):
        Sampling.parse(text)


def test_frames_that_look_like_the_one_before_are_left_out(tmp_path: Path) -> None:
    """A square of 6 x 6 pixels that appears is enough to be another frame."""
    still = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    marked = still.copy()
    marked[20:26, 30:36] = 250
    video = write_video(tmp_path / "still.mp4", [still] * 15 + [marked] * 15)
    assert [round(frame.time, 1) for frame in iter_frames(video, Sampling(None, 5))] == [0.0, 1.5]


def test_a_variable_frame_rate_keeps_the_container_s_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.9, 2.3, 2.4, 3.1]
    video = write_video(tmp_path / "v.mkv", len(times), times=times)
    found = [round(frame.time, 1) for frame in iter_frames(video, Sampling(1.0))]
    assert found == [0.0, 2.3, 3.1]  # the first at or after each full second
    for time in found:
        assert read_frame(video, time).width == SIZE[0]


def rotated(path: Path, degrees: int) -> Path:
    """Write into an mp4's track header that it is shown turned (a matrix of 16.16 numbers)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    turns = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    for place, value in zip((0, 4, 12, 16), turns, strict=True):
        content[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("degrees", "corner"), [(90, "right"), (180, "lower right"), (270, "left")]
)
def test_frames_stand_upright(tmp_path: Path, degrees: int, corner: str) -> None:
    """The white patch of the upper left corner goes where turning clockwise brings it."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    pixels[:20, :20] = 250
    video = rotated(write_video(tmp_path / "v.mp4", [pixels] * 5), degrees)
    (frame,) = iter_frames(video, Sampling(None, 100))
    shown = np.asarray(frame.picture.pixels).mean(axis=2)
    wanted = np.rot90(pixels[..., 0], -degrees // 90)
    assert shown.shape == wanted.shape, corner
    np.testing.assert_allclose(shown, wanted, atol=30)
    again = np.asarray(read_frame(video, frame.time).pixels)
    np.testing.assert_array_equal(again, np.asarray(frame.picture.pixels))


def test_a_broken_video_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = write_video(tmp_path / "a.mp4")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:600])
    (tmp_path / "empty.mkv").write_bytes(b"")
    whole = write_video(tmp_path / "z.mkv", 400)
    data = whole.read_bytes()
    (tmp_path / "late.mkv").write_bytes(data[: len(data) // 3])
    whole.unlink()
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    items = list(open_source(tmp_path).items())
    problems = {Path(i.file).name: i.reason for i in items if isinstance(i, Problem)}
    assert set(problems) == {"cut.mp4", "empty.mkv", "late.mkv"}
    assert "cannot be read as a video" in problems["cut.mp4"]
    assert "breaks off" in problems["late.mkv"]
    read = [Path(item.name).name for item in items if isinstance(item, ImageItem)]
    assert read[:2] == ["photo.png", "a.mp4#t=0.000"]
    assert sum(name.startswith("late.mkv#t=") for name in read) >= 5  # what there is


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_key_frames_far_apart_are_no_broken_video(tmp_path: Path, suffix: str) -> None:
    whole = write_video(tmp_path / f"a.{suffix}", 400, every_key=300)
    assert [round(frame.time) for frame in iter_frames(whole, Sampling(None, None, True))] == [
        0,
        30,
    ]
    once = write_video(tmp_path / f"b.{suffix}", 250, every_key=300)
    assert [frame.time for frame in iter_frames(once, Sampling(None, None, True))] == [0.0]


def test_a_cut_video_breaks_off_between_key_frames_too(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", 250, every_key=300)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    with pytest.raises(DataError, match="breaks off"):
        list(iter_frames(whole, Sampling(None, None, True)))


def test_a_frame_that_is_not_there(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"has no frame at 1\.234 s"):
        read_frame(video, 1.234)
    with pytest.raises(DataError, match="has no frame at 99"):
        read_frame(video, 99.0)
    video.unlink()
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_item(open_image(f"{video}#t=1.000"))


def test_without_the_package_a_video_is_a_problem_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4")
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    monkeypatch.setitem(sys.modules, "av", None)
    photo, problem = open_source(tmp_path).items()
    assert isinstance(photo, ImageItem)
    assert isinstance(problem, Problem)
    assert "pip install 'hardmine[video]'" in problem.reason


class GreenSquare(FrameworkDetector):
    """Finds the green square, the more surely the brighter the frame is."""

    def __init__(self) -> None:
        super().__init__(("square",), "green", torch.device("cpu"))

    def run(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        found = []
        for picture in pictures:
            y, x = np.nonzero(picture[..., 1].astype(int) - picture[..., 0] > 60)
            box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else np.zeros((0, 4))
            scores = np.full(len(box), picture[-1, -1, 0] / 255, np.float32)
            found.append(ranked(np.array(box, np.float32), scores, np.ones(len(box), np.int64)))
        return found


def test_mining_a_folder_of_videos(tmp_path: Path) -> None:
    pool = tmp_path / "cams"
    pool.mkdir()
    write_video(pool / "cam1.mp4")
    write_video(pool / "cam2.mkv", 25)
    mined = hardmine.mine(GreenSquare(), pool, out=tmp_path / "out", every="0.5s")
    found = [Path(one.image).name for one in mined.candidates]
    assert found[0] == "cam1.mp4#t=3.500"  # the brightest
    assert {name.partition("#")[0] for name in found} <= {"cam1.mp4", "cam2.mkv"}
    rows = (tmp_path / "out" / "candidates.csv").read_text().splitlines()
    assert "cam1.mp4#t=3.500" in rows[1]
    again = hardmine.mine(GreenSquare(), pool, out=tmp_path / "out", every="0.5s")
    assert [one.image for one in again.candidates] == [one.image for one in mined.candidates]


def test_a_video_is_a_group(tmp_path: Path) -> None:
    """The same square in the same place, seconds apart and the rest changed, is handed out once."""
    noise = np.random.default_rng(0)
    frames = []
    for i in range(30):
        blocks = noise.integers(0, 120, (4, 6), np.uint8)  # another background, no near-duplicate
        pixels = np.repeat(np.kron(blocks, np.ones((16, 16), np.uint8))[..., None], 3, axis=2)
        pixels[:30, :30] = 60
        pixels[5:25, 5:25] = (20, 150, 20)
        pixels[5:12, 5:18] = pixels[16:25, 15:21] = (20, 250, 20)
        pixels[-4:, -4:] = 40 + i
        frames.append(pixels)
    video = write_video(tmp_path / "cam.mp4", frames)
    once = hardmine.mine(GreenSquare(), video)
    every = hardmine.mine(GreenSquare(), video, repeats=False)
    assert len(once.candidates) == 1
    assert len(every.candidates) > 1


@pytest.mark.parametrize("pool", ["cams", "cams/*.mp4", "videos.txt", "folder.txt", "glob.txt"])
def test_every_kind_of_pool_of_videos_gives_the_frames_that_are_asked_for(
    tmp_path: Path, pool: str
) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "cams").mkdir(exist_ok=True)
        write_video(tmp_path / "cams" / name)
    (tmp_path / "videos.txt").write_text("cams/a.mp4\ncams/b.mp4\n")
    (tmp_path / "folder.txt").write_text("cams\n")
    (tmp_path / "glob.txt").write_text("cams/*.mp4\n")
    source = open_source(tmp_path / pool, "2s")
    found = [item.name for item in source.items() if isinstance(item, ImageItem)]
    assert sorted(Path(name).name for name in found) == [
        f"{video}.mp4#t={second}.000" for video in "ab" for second in (0, 2)
    ]
    assert all(source.holds(name) for name in found)
    assert not source.holds(f"{tmp_path}/cams/c.mp4#t=0.000")
    assert sorted(names(f"{tmp_path / pool}#every=2s", "1s")) == sorted(Path(n).name for n in found)


def test_a_line_of_a_list_may_say_which_frames_are_taken(tmp_path: Path) -> None:
    (tmp_path / "cams").mkdir()
    write_video(tmp_path / "cams" / "a.mp4")
    listing = tmp_path / "pool.txt"
    for line in ("cams/a.mp4", "cams", "cams/*.mp4"):
        listing.write_text(f"{line}#every=2s\n")
        assert names(listing) == ["a.mp4#t=0.000", "a.mp4#t=2.000"], line


def test_a_glob_of_videos_is_mined(tmp_path: Path) -> None:
    write_video(tmp_path / "cam.mp4")
    result = hardmine.mine(GreenSquare(), f"{tmp_path}/*.mp4", repeats=False)
    assert len(result.candidates) > 0


def test_the_frames_of_a_video_can_be_excluded(tmp_path: Path) -> None:
    video = write_video(tmp_path / "cam.mp4")
    result = hardmine.mine(GreenSquare(), video, exclude=[video], repeats=False)
    assert not result.candidates
    assert {known for _, known in result.leaks} == {one for one, _ in result.leaks} > set()


def test_training_gets_frames_as_files_with_the_same_pixels(tmp_path: Path) -> None:
    video = write_video(tmp_path / "cam.mp4")
    data = load_pool(video, tmp_path / "unpacked", "2s")
    assert [record.path.name for record in data.records] == [
        "cam.mp4#t=0.000.png",
        "cam.mp4#t=2.000.png",
    ]
    kept = read_image(data.records[1].path)
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(read_frame(video, 2.0).pixels))
    rank = hardmine.RankOptions()
    assert rank.group_of("cam.mp4#t=2.000.png") == "cam.mp4"
    assert rank.group_of("folder/photo.png") == ""


def test_frames_of_a_video_that_was_recorded_anew_are_extracted_anew(tmp_path: Path) -> None:
    """Also where it is one of several in a folder."""
    (tmp_path / "cams").mkdir()
    write_video(tmp_path / "cams" / "b.mp4")
    for shade in (60, 160):
        write_video(tmp_path / "cams" / "a.mp4", [np.full((*SIZE[::-1], 3), shade, np.uint8)] * 20)
        data = load_pool(tmp_path / "cams", tmp_path / "unpacked")
        first = np.asarray(read_image(data.records[0].path))
        assert data.records[0].path.name == "a.mp4#t=0.000.png"
        assert first.mean() == pytest.approx(shade, abs=5)


def test_the_commands_take_a_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """predict prints a line per frame; its rows are predictions of the same frames again."""
    video = write_video(tmp_path / "cam.mp4")
    row = {"category": "square", "bbox": [1, 2, 10, 10], "score": 0.75}
    reference = tmp_path / "found.json"
    reference.write_text(json.dumps([{**row, "file_name": f"{video}#t=2.000"}]))
    words = [str(reference), str(video), "--every", "2s"]
    assert cli(["predict", *words, "--save", "--out", str(tmp_path / "drawn"), "-q"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert [Path(line.partition(": ")[0]).name for line in said] == [
        "cam.mp4#t=0.000",
        "cam.mp4#t=2.000",
    ]
    assert said[1].endswith("square 0.75")
    assert read_image(tmp_path / "drawn" / "cam.mp4#t=2.000.jpg").size == SIZE
    assert cli(["predict", *words, "--json", "-q"]) == 0
    (printed,) = json.loads(capfd.readouterr().out)
    assert printed["file_name"] == f"{video}#t=2.000"
    assert cli(["mine", *words, "--out", str(tmp_path / "mined"), "-q"]) == 0
    assert "cam.mp4#t=2.000" in (tmp_path / "mined" / "candidates.csv").read_text()
    assert cli(["mine", *words[:2], "--every", "often", "--out", str(tmp_path / "m"), "-q"]) == 2
    assert "wanted seconds as 1s" in capfd.readouterr().err


def test_alarms_are_also_counted_per_hour(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """4 s and 2.5 s of video: 13 frames at two a second, of which those from score .2 on fire."""
    pool = tmp_path / "cams"
    pool.mkdir()
    write_video(pool / "cam1.mp4")
    write_video(pool / "cam2.mkv", 25)
    mined = hardmine.mine(GreenSquare(), pool, out=tmp_path / "out", every="0.5s", min_score=0.2)
    assert mined.video_hours == pytest.approx(6.5 / 3600, rel=0.03)
    assert 0 < len(mined.candidates) <= mined.firing_frames < mined.scanned == 13
    assert str(mined.per_hour()).startswith("6 seconds of video: ")
    assert f" {mined.firing_frames / mined.video_hours:.0f} of the frames" in str(mined.per_hour())
    assert "earlier scans" not in str(mined.per_hour())
    head = json.loads((tmp_path / "out" / "candidates.json").read_text())
    assert head["firing_frames"] == mined.firing_frames
    again = hardmine.mine(GreenSquare(), pool, out=tmp_path / "out", every="2s", min_score=0.2)
    assert (again.scanned, again.earlier_frames) == (
        4,
        9,
    )  # 0, 2 of 4 s and 0, 2 of 2.5 s; 13 in all
    assert "9 frames of earlier scans into this folder" in str(again.per_hour())
    (tmp_path / "photos").mkdir()
    Image.fromarray(drawn(9)).save(tmp_path / "photos" / "photo.png")
    photos = hardmine.mine(GreenSquare(), tmp_path / "photos")
    assert len(photos) == 1
    assert photos.per_hour() is None
    show_mining(Console(), mined, ("square",), tmp_path)
    assert "6 seconds of video" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("names", "rate"),
    [
        (["a.mp4#t=0.000", "a.mp4#t=2.000", "a.mp4#t=4.000", "b.mkv#t=9.000"], 1800),
        (["x/a.mp4#t=1.000.png", "x/a.mp4#t=1.500.png"], 7200),
        ([f"a.mp4#t={t}.000" for t in (0, 4, 9, 13, 14)], 3600),  # a part of one a second
        (["a.mp4#t=0.000", "b.mp4#t=2.000"], None),
        (["a.mp4#t=0.000", "a.mp4#t=1.000", "photo.png"], None),
        ([], None),
    ],
)
def test_how_often_frames_were_taken_is_read_off_their_names(
    names: list[str], rate: float | None
) -> None:
    assert frames_per_hour(names) == rate


def test_a_video_without_a_frame_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    (problem,) = open_source(path).items()
    assert isinstance(problem, Problem)
    assert "holds no frame" in problem.reason or "holds no video" in problem.reason
    header = tmp_path / "header.mkv"  # which FFmpeg cannot even open: the end comes too early
    with av.open(str(header), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    (problem,) = open_source(header).items()
    assert isinstance(problem, Problem)
    assert "cannot be read as a video" in problem.reason
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        audio = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    (problem,) = open_source(sound).items()
    assert isinstance(problem, Problem)
    assert "holds no video" in problem.reason


def test_a_video_without_a_frame_rate_counts_by_the_usual_one(tmp_path: Path) -> None:
    """A bare H.264 stream has no times at all: 25 frames are taken for a second."""
    path = tmp_path / "bare.mp4"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(60):
            picture = av.VideoFrame.from_ndarray(drawn(index), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    items = [item for item in open_source(path, "1s").items() if isinstance(item, ImageItem)]
    assert [Path(item.name).name for item in items] == [
        f"bare.mp4#t={t}.000" for t in range(len(items))
    ]
    assert len(items) in (2, 3)
    for item in items:
        again = np.asarray(open_item(open_image(item.name)).pixels)
        np.testing.assert_array_equal(again, np.asarray(open_item(item).pixels))
