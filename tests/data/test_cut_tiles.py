"""A dataset cut into tiles: which tile an object belongs to, and that pixels and boxes move together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardmine import convert, load_dataset
from hardmine.data.cut_tiles import Tiles, cut_into_tiles
from hardmine.errors import ConfigError
from hardmine.types import Dataset, ImageRecord, ImageState

WIDTH, HEIGHT = 100, 60
BOXES = [[2.0, 2.0, 12.0, 12.0], [35.0, 5.0, 47.0, 15.0], [0.0, 0.0, 90.0, 60.0]]


def labelled(path: Path, boxes: list[list[float]], suffix: str = ".png") -> ImageRecord:
    path = path.with_suffix(suffix)
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    number = len(boxes)
    return ImageRecord(
        path,
        WIDTH,
        HEIGHT,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(1, number + 1),
        np.zeros(number, np.bool_),
        ImageState.LABELLED,
        "camera",
    )


def by_place(data: Dataset) -> dict[str, ImageRecord]:
    return {record.path.stem.removeprefix("a_"): record for record in data.records}


def test_a_box_belongs_to_the_tiles_that_hold_half_of_it(tmp_path: Path) -> None:
    record = labelled(tmp_path / "a", BOXES)
    splits = {"train": Dataset(("x", "y", "z"), (record,), tmp_path)}
    cut, too_large = cut_into_tiles(splits, Tiles(40, 0.25), tmp_path / "tiles")
    tiles = by_place(cut["train"])
    # steps of 30: columns from 0, 30 and 60, rows from 0 and 20
    assert list(tiles) == ["0_0", "30_0", "60_0", "0_20", "30_20", "60_20"]
    first = tiles["0_0"]
    assert first.boxes.tolist() == [[2, 2, 12, 12], [35, 5, 40, 15], [0, 0, 40, 40]]
    assert first.ignore.tolist() == [False, True, True]  # 5 of 12 px of the second one show
    assert tiles["30_0"].boxes.tolist() == [[5, 5, 17, 15], [0, 0, 40, 40]]
    assert tiles["30_0"].labels.tolist() == [2, 3]
    assert tiles["30_0"].ignore.tolist() == [False, True]
    assert too_large == 1  # of 90 x 60 px a tile holds 1600 of 5400
    assert {(r.width, r.height, r.source, r.state) for r in tiles.values()} == {
        (40, 40, "camera", ImageState.LABELLED)
    }
    whole = np.asarray(Image.open(record.path))
    for place, tile in tiles.items():
        x, y = map(int, place.split("_"))
        assert np.array_equal(np.asarray(Image.open(tile.path)), whole[y : y + 40, x : x + 40])


def test_tiles_without_a_box_are_verified_only_where_somebody_looked(tmp_path: Path) -> None:
    seen = labelled(tmp_path / "a", [[2.0, 2.0, 9.0, 9.0]])
    rest = replace(labelled(tmp_path / "b", []), state=ImageState.UNREVIEWED)
    small = replace(labelled(tmp_path / "c", []), state=ImageState.VERIFIED_EMPTY)
    data = Dataset(("x",), (seen, rest), tmp_path)
    cut, too_large = cut_into_tiles({"all": data}, Tiles(50, 0.0), tmp_path / "tiles")
    states = [record.state for record in cut["all"].records]
    empty = ImageState.VERIFIED_EMPTY
    assert states == [ImageState.LABELLED, *[empty] * 3, *[ImageState.UNREVIEWED] * 4]
    assert too_large == 0
    whole, _ = cut_into_tiles(
        {"all": Dataset(("x",), (small,), tmp_path)}, Tiles(100), tmp_path / "more"
    )
    assert whole["all"].records == (small,)  # no larger than a tile: as it is
    assert not (tmp_path / "more").exists()


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(st.integers(0, 90), st.integers(0, 50), st.integers(1, 60), st.integers(1, 60)),
    size=st.integers(16, 70),
    overlap=st.sampled_from([0.0, 0.2, 0.5]),
)
def test_shown_parts_are_those_of_a_mask(
    box: tuple[int, int, int, int],
    size: int,
    overlap: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    x0, y0 = box[:2]
    x1, y1 = min(WIDTH, x0 + box[2]), min(HEIGHT, y0 + box[3])
    folder = tmp_path_factory.mktemp("tiles")
    record = labelled(folder / "a", [[x0, y0, x1, y1]])
    tiles = Tiles(size, overlap)
    cut, too_large = cut_into_tiles({"all": Dataset(("x",), (record,), folder)}, tiles, folder)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    windows = tiles.windows(WIDTH, HEIGHT)
    most = 0.0
    for (left, top, right, bottom), tile in zip(windows, cut["all"].records, strict=True):
        part = mask[top:bottom, left:right]
        most = max(most, part.sum() / mask.sum())
        assert len(tile.boxes) == int(part.any())
        if part.any():
            rows, columns = np.nonzero(part)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert tile.boxes[0].tolist() == edges
            assert tile.ignore[0] == (part.sum() < 0.5 * mask.sum())
    assert too_large == int(most < 0.5)


def test_convert_writes_tiles_that_its_reader_gives_back(tmp_path: Path) -> None:
    data = Dataset(("x", "y", "z"), (labelled(tmp_path / "a", BOXES, ".jpg"),), tmp_path)
    done = convert(data, tmp_path / "out", "coco", tile=40)
    assert done.images == {"all": 6}
    assert done.remarks[0].startswith("1 object is too large for tiles of 40 px")
    back = load_dataset(tmp_path / "out")
    assert sorted(record.path.name for record in back.records)[0] == "a_0_0.jpg"
    assert sum(int((~record.ignore).sum()) for record in back.records) == 2
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    with pytest.raises(ConfigError, match="gets whole images, not tiles"):
        convert(data, tmp_path / "other", "cvat", tile=40)
    with pytest.raises(ConfigError, match="tile: got 8, wanted 16 pixels or more"):
        convert(data, tmp_path / "other", "coco", tile=8)
