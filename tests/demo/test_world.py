"""The world on disk: the same seed gives the same bytes; counts, files, labels."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.data.load_dataset import load_dataset
from hardmine.demo.items import CATEGORIES
from hardmine.demo.world import WorldSizes, draw_image, draw_world
from hardmine.types import ImageState

SMALL = WorldSizes(train=5, val=4, pool=6, negatives=3)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_an_image_depends_on_seed_split_and_index_alone() -> None:
    alone = draw_image(3, "pool", 7)
    for index in range(3):
        draw_image(3, "pool", index)
    again = draw_image(3, "pool", 7)
    assert np.array_equal(alone.image, again.image)
    others = [draw_image(4, "pool", 7), draw_image(3, "negatives", 7), draw_image(3, "pool", 8)]
    for other in others:
        assert not np.array_equal(alone.image, other.image)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    draw_world(tmp_path / "a", 0, sizes=SMALL)
    draw_world(tmp_path / "b", 0, sizes=SMALL)
    draw_world(tmp_path / "c", 1, sizes=SMALL)
    first, second, third = (digest(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == third.keys()
    assert all(first[name] != third[name] for name in first)


def test_a_larger_world_begins_with_the_smaller_one(tmp_path: Path) -> None:
    draw_world(tmp_path / "a", 0, sizes=WorldSizes(1, 1, 2, 1))
    draw_world(tmp_path / "b", 0, sizes=WorldSizes(1, 1, 3, 1))
    for name in ("pool-0000.jpg", "pool-0001.jpg"):
        one, other = (tmp_path / folder / "pool" / name for folder in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_default_sizes_reach_what_the_demo_promises() -> None:
    sizes = WorldSizes()
    assert sizes.train >= 300
    assert sizes.val >= 400
    assert sizes.pool + sizes.negatives >= 800


def test_files_and_labels(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    paths = draw_world(tmp_path, 0, sizes=SMALL, progress=lambda *at: calls.append(at))
    assert calls == [(n, 18) for n in range(1, 19)]
    for folder, count in ((paths.pool_dir, 6), (paths.negatives_dir, 3)):
        assert len(list(folder.glob("*.jpg"))) == count
    for split, path, count in (("train", paths.train_json, 5), ("val", paths.val_json, 4)):
        dataset = load_dataset(path)
        assert dataset.categories == CATEGORIES
        assert dataset.problems == ()
        assert len(dataset) == count
        for index, record in enumerate(dataset.records):
            scene = draw_image(0, split, index)
            assert record.state is ImageState.LABELLED
            assert np.array_equal(record.boxes, scene.boxes)
            assert np.array_equal(record.labels, scene.labels)
            with Image.open(record.path) as image:
                assert image.size == (record.width, record.height)
                assert image.format == "JPEG"


def test_a_world_that_is_there_is_left_alone_and_another_seed_replaces_it(tmp_path: Path) -> None:
    draw_world(tmp_path, 0, sizes=SMALL)
    before = digest(tmp_path)
    calls: list[tuple[int, int]] = []
    draw_world(tmp_path, 0, sizes=SMALL, progress=lambda *at: calls.append(at))
    assert calls == []
    draw_world(tmp_path, 1, sizes=SMALL)
    assert json.loads((tmp_path / "world.json").read_text())["seed"] == 1
    assert all(before[name] != value for name, value in digest(tmp_path).items())


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="pool images: got 0, wanted 1 or more"):
        WorldSizes(pool=0)
