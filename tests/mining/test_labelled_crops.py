"""Parts of labelled images that hold no object, as a pool."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hardmine
from hardmine.data.images import crop_name, read_crop, split_crop
from hardmine.data.quality.usable_data import load_usable
from hardmine.errors import DataError
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.scan import estimate_scan
from hardmine.mining.sources.local_files import load_source, local_files
from hardmine.mining.sources.pool_source import LabelledCrops, file_of, open_image, open_labelled
from shelf_world import make_world
from tiny_models import tiny_detector


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    make_world(tmp_path)
    return tmp_path / "shelf"


def test_the_parts_hold_no_object_and_their_names_give_the_pixels_again(
    shelf: Path, tmp_path: Path
) -> None:
    source = open_labelled(shelf)
    names = [item.name for item in source.items()]
    assert len(names) == source.count() > 8
    assert names == [item.name for item in open_labelled(shelf).items()]
    copies = load_source(source, tmp_path / "copies")
    assert len(copies.records) == len(names)
    boxes = {record.path: record.boxes for record in labelled(shelf).records}
    for name in names:
        found = split_crop(name)
        assert found is not None
        path, (left, top, right, bottom) = found
        assert file_of(name) == path
        corners = boxes[Path(path)]
        apart = (
            (corners[:, 2] <= left)
            | (corners[:, 0] >= right)
            | (corners[:, 3] <= top)
            | (corners[:, 1] >= bottom)
        )
        assert apart.all()
        (copy,) = local_files([name], tmp_path / "one")
        assert isinstance(copy, Path)
        with Image.open(path) as image, Image.open(copy) as crop:
            pixels = np.asarray(image.convert("RGB"))[top:bottom, left:right]
            np.testing.assert_array_equal(np.asarray(crop), pixels)


def labelled(shelf: Path) -> hardmine.Dataset:
    return load_usable(shelf)["all"]


def test_mining_hands_out_parts_by_image_and_rectangle(shelf: Path, tmp_path: Path) -> None:
    options = MineOptions(pool_from_labelled=True, top=3)
    out = tmp_path / "out"
    mined = hardmine.mine(tiny_detector(), shelf, options=options, out=out)
    assert len(mined) == 3
    assert mined.scanned == open_labelled(shelf).count()
    with (out / "candidates.csv").open() as file:
        images = [row["image"] for row in csv.DictReader(file)]
    assert all(split_crop(image) for image in images)
    assert all("/" not in image for image in images)  # inside the folder of the images
    estimate = estimate_scan(tiny_detector(), str(shelf), options)
    assert f"{mined.scanned} images" in str(estimate)
    again = hardmine.mine(tiny_detector(), shelf, options=options, out=out)
    assert again.candidates == mined.candidates


def test_a_name_that_gives_no_part_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    name = crop_name(tmp_path / "a.png", (2, 1, 12, 8))
    with pytest.raises(DataError, match="the image has 10x8 pixels"):
        read_crop(name)
    read = open_image(crop_name(tmp_path / "gone.png", (0, 0, 2, 2))).read
    assert read is not None
    with pytest.raises(DataError, match=r"gone\.png"):
        read()
    assert split_crop("a.png#xywh=1,2,0,4") is None


def test_images_that_are_all_object_have_no_part(shelf: Path) -> None:
    data = labelled(shelf)
    for record in data.records:
        record.boxes[:] = [0, 0, record.width, record.height]
    with pytest.raises(DataError, match="no labelled image has a part without an object"):
        LabelledCrops(data)
