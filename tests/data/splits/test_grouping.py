from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_files import put_image
from hardmine.data.splits.split import (
    Moment,
    cut_in_time,
    group_by_pattern,
    moments,
    split_by_group,
    split_by_time,
)
from hardmine.errors import ConfigError, DataError
from hardmine.types import Dataset, ImageRecord, ImageState


def record(path: Path, label: int = 1) -> ImageRecord:
    box, no = np.array([[1, 2, 30, 20]], np.float32), np.zeros(1, np.bool_)
    return ImageRecord(path, 40, 30, box, np.array([label]), no, ImageState.LABELLED)


def dataset(root: Path, names: list[str]) -> Dataset:
    """Images that cannot be read, so that no two look alike."""
    return Dataset(("a",), tuple(record(root / name) for name in names), root)


def test_patterns_group_by_what_their_brackets_match() -> None:
    data = dataset(Path("/d"), ["cam1/a.jpg", "cam2/a.jpg", "cam1/b.jpg", "other/c.jpg"])
    assert group_by_pattern(data.records, data.root, r"^(cam\d)/") == ["cam1", "cam2", "cam1", None]
    both = group_by_pattern(data.records, data.root, r"(cam\d)/(.)")
    assert len(set(both)) == 4


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("(", ConfigError, "group pattern"),
        ("cam", ConfigError, "round brackets"),
        ("(site)", DataError, "fits no image, such as cam1/a.jpg"),
    ],
)
def test_patterns_that_say_nothing(pattern: str, error: type[Exception], message: str) -> None:
    data = dataset(Path("/d"), ["cam1/a.jpg"])
    with pytest.raises(error, match=message):
        group_by_pattern(data.records, data.root, pattern)


def test_a_camera_stays_on_one_side(tmp_path: Path) -> None:
    names = [f"cam{camera}/{i}.jpg" for camera in range(6) for i in range(5)]
    result = split_by_group(dataset(tmp_path, names), {"train": 0.5, "val": 0.5}, group=r"(cam\d)/")
    assert result.num_groups == 6
    sides = [{r.path.parent.name for r in ds.records} for ds in result.splits.values()]
    assert not sides[0] & sides[1]
    assert [len(ds) for ds in result.splits.values()] == [15, 15]


def test_copies_link_cameras(tmp_path: Path) -> None:
    """cam0 and cam1 share a picture, so they are one group."""
    for camera, seeds in enumerate(((1, 2), (2, 3), (4, 5), (6, 7))):
        for seed in seeds:
            put_image(tmp_path / f"cam{camera}" / f"{seed}.png", seed)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    found = []
    for order in range(8):  # in whatever order the records come
        random.Random(order).shuffle(names)
        result = split_by_group(dataset(tmp_path, names), {"a": 0.5, "b": 0.5}, group=r"(cam\d)")
        assert result.num_groups == 3
        side = {r.path.parent.name: name for name, ds in result.splits.items() for r in ds.records}
        assert side["cam0"] == side["cam1"]
        found.append({name: {r.path for r in ds.records} for name, ds in result.splits.items()})
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("IMG_20240131_235959.jpg", 59),
        ("2024-01-31 23.59.59.jpg", 59),
        ("cam2_2024-01-31T23:59:00.5.jpg", 0.5),
        ("20240131235901.png", 1),
    ],
)
def test_times_in_names(name: str, seconds: float) -> None:
    found, what = moments([record(Path(name))])
    assert what == "times in names"
    assert found[0].place % 60 == pytest.approx(seconds)
    minute = 1706745540.0  # 2024-01-31T23:59:00Z
    assert found[0].place == pytest.approx(minute + seconds)


def test_numbers_belong_to_their_folder_and_prefix() -> None:
    paths = ["a/f_1.jpg", "a/f_12x.jpg", "a/g_1.jpg", "b/f_1.jpg", "a/f_007.jpg"]
    found, what = moments([record(Path(p)) for p in paths])
    assert what == "numbers in names"
    assert [m.place for m in found] == [1, 12, 1, 1, 7]
    assert len({m.sequence for m in found}) == 4
    assert found[0].sequence == found[4].sequence


def test_exif_times_come_first(tmp_path: Path) -> None:
    for index in range(2):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:01:31 23:59:0{index}"
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.jpg", exif=exif)
    records = [record(tmp_path / f"{i}.jpg") for i in range(2)]
    found, what = moments(records)
    assert what == "EXIF times"
    assert found[1].place - found[0].place == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "2.jpg")
    assert moments([*records, record(tmp_path / "2.jpg")])[1] == "numbers in names"
    with pytest.raises(DataError, match=r"nothing\.jpg has neither"):
        moments([record(Path("nothing.jpg"))])


def test_clips_end_at_pauses_and_long_ones_are_cut() -> None:
    found = [Moment("", t) for t in (0, 1, 2, 10, 11, 30)]
    clips, close = cut_in_time(found, 5, 10)
    assert clips == [0, 0, 0, 1, 1, 2]
    assert close == []
    clips, close = cut_in_time(found[:5], 1, 2)  # 0 | 1 2 : two pieces of three
    assert clips == [0, 1, 1, 2, 2]
    assert close == [(0, 1)]
    assert cut_in_time([Moment("x", 0), Moment("y", 0)], 9, 9)[0] == [0, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 200), min_size=30, max_size=80, unique=True),
    st.integers(0, 6),
    st.integers(0, 3),
)
def test_neighbours_never_straddle(numbers: list[int], gap: int, seed: int) -> None:
    data = dataset(Path("/d"), [f"frame{n:04d}.jpg" for n in numbers])
    result = split_by_time(data, {"train": 0.6, "val": 0.4}, seed, gap=gap)
    at = [[int(r.path.stem[5:]) for r in ds.records] for ds in result.splits.values()]
    assert all(abs(a - b) > gap for a in at[0] for b in at[1])
    left = [int(r.path.stem[5:]) for r in result.left_out]
    assert sorted([*at[0], *at[1], *left]) == sorted(numbers)
    assert at[0]
    assert at[1]


def test_one_long_film_is_cut_with_little_loss() -> None:
    data = dataset(Path("/d"), [f"frame{n:04d}.jpg" for n in range(1000)])
    result = split_by_time(data, {"train": 0.8, "val": 0.2}, gap=10)
    sizes = {name: len(ds) for name, ds in result.splits.items()}
    assert sizes["val"] == 200
    assert sizes["train"] >= 750
    assert sizes["train"] + len(result.left_out) == 800
    assert "numbers in names, 10 frames apart" in result.how


def test_a_part_that_the_gap_empties_is_refused() -> None:
    """Twelve frames, all within 30 of each other: either part lies within the gap of the other."""
    data = dataset(Path("/d"), [f"frame{n:04d}.jpg" for n in range(12)])
    with pytest.raises(DataError, match=r"/d: 'train' would be empty: .* give a smaller gap"):
        split_by_time(data, {"train": 0.8, "val": 0.2}, gap=30)
