"""Tiles cover the image; what they find lies where it is, once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardmine.data.cut_tiles import Tiles
from hardmine.data.picture_windows import WindowedPicture, open_windows
from hardmine.data.resize import Resize
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import ConfigError
from hardmine.inference.detector import BatchScores, top_scores
from hardmine.inference.predict import ScoredImage, detect_images, score_images
from hardmine.inference.tiles import (
    TiledDetector,
    merge_tiles,
)
from hardmine.types import Problem


class Red:
    """Boxes the red pixels of a canvas; the score grows with their number."""

    categories = ("red",)
    model_id = "red"
    resize = Resize(64, 64, "stretch")

    def score(self, images: torch.Tensor) -> BatchScores:
        return top_scores(self.detect(images))

    def detect(self, images: torch.Tensor) -> list[Detections]:
        results = []
        for image in images.numpy():
            rows, columns = np.nonzero(image[0] > 128)
            if not len(rows):
                results.append(Detections.none())
                continue
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            score = np.array([len(rows) / 64**2], np.float32)
            results.append(Detections(np.array([box], np.float32), score, np.ones(1, np.int64)))
        return results


def paint(path: Path, size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Path:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255, 0, 0
    Image.fromarray(pixels).save(path)
    return path


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(16, 128),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_windows_cover_the_image_and_hold_small_objects_whole(
    width: int, height: int, size: int, overlap: float, u: float, v: float
) -> None:
    windows = Tiles(size, overlap).windows(width, height)
    seen = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in windows:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert x2 - x1 == min(size, width)
        assert y2 - y1 == min(size, height)
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    assert len(set(windows)) == len(windows)
    small = max(1, int(overlap * size))  # an object of that side, anywhere
    w, h = min(small, width), min(small, height)
    x, y = int(u * (width - w)), int(v * (height - h))
    assert any(a <= x and b <= y and x + w <= c and y + h <= d for a, b, c, d in windows)


def test_windows_by_hand() -> None:
    # step 100 * (1 - .2) = 80: 0, 80, and the last one at 250 - 100 = 150.
    assert [w[0] for w in Tiles(100, 0.2).windows(250, 50)] == [0, 80, 150]
    assert Tiles(100).windows(250, 50)[0] == (0, 0, 100, 50)


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 30, 40),  # in the first tile
        (106, 20, 124, 40),  # in what two tiles share
        (110, 30, 150, 50),  # cut by the first tile's edge, whole in the second
        (230, 150, 256, 180),  # at the far corner
    ],
)
def test_an_object_is_found_once_where_it_is(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    detector = TiledDetector(Red(), Tiles(128, 0.2))
    (found,) = detect_images(detector, [paint(tmp_path / "a.png", (256, 180), box)])
    assert len(found) == 1
    # Tiles of 128 px come onto the canvas at half the size, those at the lower edge alike.
    np.testing.assert_allclose(found.boxes, [box], atol=2)


def test_two_objects_stay_two(tmp_path: Path) -> None:
    boxes = (10, 10, 40, 40), (200, 100, 240, 160)
    detector = TiledDetector(Red(), Tiles(128, 0.2))
    (found,) = detect_images(detector, [paint(tmp_path / "a.png", (256, 180), *boxes)])
    np.testing.assert_allclose(sorted(found.boxes.tolist()), sorted(boxes), atol=2)
    assert np.all(np.diff(found.scores) <= 0)


def test_pools_are_scored_in_tiles_and_the_unreadable_are_problems(tmp_path: Path) -> None:
    good, bad = paint(tmp_path / "a.png", (256, 180), (10, 10, 30, 40)), tmp_path / "b.png"
    bad.write_bytes(b"")
    detector = TiledDetector(Red(), Tiles(128))
    first, second = score_images(detector, [good, bad])
    assert isinstance(first, ScoredImage)
    assert first.score == float(first.detections.scores[0]) > 0
    assert isinstance(second, Problem)
    other = TiledDetector(Red(), Tiles(128, 0.3))
    assert len({detector.model_id, other.model_id, Red.model_id}) == 3


def test_a_promise_is_said_to_be_made_without_tiles() -> None:
    class Promised(Red):
        operating_point = OperatingPoint(0.5, {"red": 0.6}, "At score 0.5 much is found.")

    point = TiledDetector(Promised(), Tiles(128)).operating_point
    assert point is not None
    assert (point.score, point.per_class) == (0.5, {"red": 0.6})
    assert point.promise == (
        "At score 0.5 much is found. That was promised without tiles; nothing is promised with them."
    )
    assert TiledDetector(Red(), Tiles(128)).operating_point is None
    Promised.operating_point = OperatingPoint(0.5)
    assert TiledDetector(Promised(), Tiles(128)).operating_point == OperatingPoint(0.5)


def one(box: list[float], score: float, label: int = 1) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([label]))


def test_only_other_tiles_and_the_same_class_give_way() -> None:
    box, part = [0.0, 0.0, 40.0, 40.0], [30.0, 0.0, 40.0, 40.0]
    # A part from another tile goes, whichever is better; another class stays.
    assert len(merge_tiles([one(box, 0.9), one(part, 0.5)])) == 1
    assert merge_tiles([one(box, 0.5), one(part, 0.9)]).boxes.tolist() == [part]
    assert len(merge_tiles([one(box, 0.9), one(part, 0.5, label=2)])) == 2
    both = Detections(
        np.array([box, part], np.float32), np.array([0.9, 0.5], np.float32), np.ones(2, np.int64)
    )
    assert len(merge_tiles([both])) == 2  # the detector's own suppression let them stand
    assert len(merge_tiles([])) == 0


@pytest.mark.parametrize("wrong", [{"size": 8}, {"size": 64, "overlap": 1.0}])
def test_impossible_tiles(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        Tiles(**wrong)  # type: ignore[arg-type]


def test_the_command_line_looks_at_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hardmine.cli.main import run

    monkeypatch.setattr(
        "hardmine.inference.checkpoint_detector.load_checkpoint_detector",
        lambda path, device, names: Red(),
    )
    (tmp_path / "pool").mkdir()
    paint(tmp_path / "pool" / "a.png", (256, 180), (110, 30, 150, 50))
    weights = tmp_path / "w.safetensors"
    weights.touch()
    words = [str(weights), str(tmp_path / "pool"), "--tile", "128", "--min-score", "0.01"]
    assert run(["predict", *words, "--json", "-q"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    np.testing.assert_allclose(row["bbox"], [110, 30, 40, 20], atol=2)
    out = tmp_path / "mined"
    assert run(["mine", *words, "--out", str(out), "-q"]) == 0
    (mined,) = json.loads((out / "candidates.json").read_text())["candidates"]
    np.testing.assert_allclose(mined["boxes"][0][:4], [110, 30, 150, 50], atol=2)
    assert run(["predict", str(weights), str(tmp_path / "pool"), "--overlap", "0.5"]) == 2


def test_a_large_picture_in_windows_gives_what_the_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.open(
        paint(tmp_path / "a.png", (300, 200), (40, 30, 60, 50), (200, 120, 230, 140))
    )
    image.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={278: 16})
    image.save(tmp_path / "a.jpg", quality=95, subsampling=0)
    detector = TiledDetector(Red(), Tiles(100, 0.5))
    paths = [tmp_path / "a.tif", tmp_path / "a.jpg", tmp_path / "a.png"]
    whole = list(score_images(detector, paths))
    opened = []

    def windows(file: Path | bytes, name: str) -> WindowedPicture | None:
        opened.append(open_windows(file, name, least=1))
        return opened[-1]

    monkeypatch.setattr("hardmine.inference.tiles.open_windows", windows)
    parts = list(score_images(detector, paths))
    assert len(opened) == 3
    assert all(opened)
    for one, other in zip(whole, parts, strict=True):
        assert isinstance(one, ScoredImage)
        assert isinstance(other, ScoredImage)
        assert (one.score, one.phash) == (other.score, other.phash)
        np.testing.assert_array_equal(one.detections.boxes, other.detections.boxes)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-300])
    broken = list(score_images(detector, paths))
    assert isinstance(broken[0], Problem)
    assert isinstance(broken[1], ScoredImage)
