from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import coco, coco_box, coco_image, put_image, put_text, real_data
from hardmine.data.load_dataset import load_dataset
from hardmine.data.splits.split import find_leaks, split, split_dataset
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord, ImageState

KINDS = 24
"""Different pictures that the property test draws its copies from."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for seed in range(KINDS):
        for copy in range(3):
            put_image(root / f"{seed:02d}-{copy}.png", seed, (96 + 32 * copy, 64 + 32 * copy))
    return root


def record(path: Path, labels: list[int]) -> ImageRecord:
    boxes = np.tile(np.array([[1, 2, 30, 20]], np.float32), (len(labels), 1))
    state = ImageState.LABELLED if labels else ImageState.VERIFIED_EMPTY
    ignore = np.zeros(len(labels), np.bool_)
    return ImageRecord(path, 40, 30, boxes, np.array(labels, np.int64), ignore, state)


def dataset_of(root: Path, names: list[str], labels: list[list[int]]) -> Dataset:
    records = [record(root / name, ids) for name, ids in zip(names, labels, strict=True)]
    return Dataset(("a", "b", "c"), tuple(records), root)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, KINDS - 1), st.integers(0, 2)), min_size=8, unique=True
    ).filter(lambda chosen: len({kind for kind, _ in chosen}) >= 3),
    st.integers(0, 5),
    st.data(),
)
def test_copies_stay_together_and_nothing_is_lost(
    pictures: Path, chosen: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    names = [f"{kind:02d}-{copy}.png" for kind, copy in chosen]
    labels = data.draw(
        st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=len(names), max_size=len(names))
    )
    dataset = dataset_of(pictures, names, labels)
    splits = split_dataset(dataset, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    side = {r.path.name: name for name, ds in splits.items() for r in ds.records}
    assert sorted(side) == sorted(names)
    assert sum(map(len, splits.values())) == len(names)
    assert all(len(ds) for ds in splits.values())
    for kind in {kind for kind, _ in chosen}:
        assert len({side[name] for name in names if name.startswith(f"{kind:02d}")}) == 1


def test_fractions_and_classes_are_met(pictures: Path) -> None:
    names = [f"{seed:02d}-0.png" for seed in range(KINDS)]
    labels = [[1] if seed % 3 else [2, 3] for seed in range(KINDS)]  # 16 with a, 8 with b and c
    splits = split_dataset(dataset_of(pictures, names, labels), {"train": 0.75, "val": 0.25}, 0)
    assert {name: len(ds) for name, ds in splits.items()} == {"train": 18, "val": 6}
    objects = np.concatenate([r.labels for r in splits["val"].records])
    assert np.bincount(objects).tolist() == [0, 4, 2, 2]


def test_the_seed_decides_and_the_order_does_not(pictures: Path) -> None:
    names = [f"{seed:02d}-0.png" for seed in range(KINDS)]
    labels = [[1]] * KINDS
    one = dataset_of(pictures, names, labels)
    other = dataset_of(pictures, names[::-1], labels)

    def val(dataset: Dataset, seed: int) -> set[str]:
        halves = split_dataset(dataset, {"train": 0.5, "val": 0.5}, seed)
        return {r.path.name for r in halves["val"].records}

    assert val(one, 0) == val(one, 0) == val(other, 0)
    assert val(one, 0) != val(one, 1)


def test_a_rare_class_reaches_both_sides(pictures: Path) -> None:
    names = [f"{seed:02d}-0.png" for seed in range(KINDS)]
    for seed in range(8):
        labels = [[2] if i < 4 else [1] for i in range(KINDS)]
        halves = split_dataset(dataset_of(pictures, names, labels), {"a": 0.5, "b": 0.5}, seed)
        for half in halves.values():
            assert any(2 in r.labels for r in half.records)


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 0.0}])
def test_wrong_fractions(pictures: Path, fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_dataset(dataset_of(pictures, ["00-0.png"], [[1]]), fractions)


def test_copies_of_one_picture_cannot_be_split(pictures: Path) -> None:
    dataset = dataset_of(pictures, ["00-0.png", "00-1.png", "00-2.png"], [[1]] * 3)
    with pytest.raises(DataError, match="3 images in 1 group"):
        split_dataset(dataset, {"a": 0.5, "b": 0.5})


def test_unreadable_images_are_split_too(pictures: Path, tmp_path: Path) -> None:
    put_text(tmp_path / "bad.png", "x")
    names = [str(pictures / "00-0.png"), str(tmp_path / "bad.png")]
    halves = split_dataset(dataset_of(tmp_path, names, [[1], [1]]), {"a": 0.5, "b": 0.5})
    assert sorted(len(half) for half in halves.values()) == [1, 1]


@pytest.mark.parametrize("same", [True, False])
def test_an_image_that_two_parts_label_differently_is_refused(tmp_path: Path, same: bool) -> None:
    for number in range(4):
        put_image(tmp_path / "data" / "images" / f"{number}.png", number)
    for name, box in (("cats", [1, 2, 3, 4]), ("dogs", [1, 2, 3, 4] if same else [5, 6, 7, 8])):
        images = [coco_image(number, f"{number}.png") for number in range(4)]
        text = coco(images, [coco_box(0, box)])
        put_text(tmp_path / "data" / "annotations" / f"{name}.json", text)
    shares = {"train": 0.5, "val": 0.5}
    if same:
        result = split(tmp_path / "data", tmp_path / "out", shares)
        assert sum(len(part) for part in result.splits.values()) == 4
        return
    with pytest.raises(DataError, match=r"images/0\.png: labelled differently in cats and dogs"):
        split(tmp_path / "data", tmp_path / "out", shares)


def test_leaks_are_found_by_look_and_by_path(pictures: Path, tmp_path: Path) -> None:
    bad = put_text(tmp_path / "bad.png", "x")
    a = dataset_of(pictures, ["00-0.png", "01-0.png", str(bad)], [[1]] * 3)
    b = dataset_of(pictures, ["05-0.png", str(bad), "01-2.png", "01-0.png"], [[1]] * 4)
    assert find_leaks(a, b) == [(2, 1), (1, 2), (1, 3)]
    assert find_leaks(a, dataset_of(pictures, [], [])) == []


@pytest.mark.data
def test_no_raccoon_is_on_both_sides() -> None:
    root = real_data()
    if not (root / "raccoon").is_dir():
        pytest.skip(f"no real data at {root} (HARDMINE_DATA)")
    dataset = load_dataset(root / "raccoon")
    for seed in range(2):
        splits = split_dataset(dataset, {"train": 0.8, "val": 0.2}, seed)
        assert {name: len(ds) for name, ds in splits.items()} == {"train": 160, "val": 40}
        assert find_leaks(splits["train"], splits["val"]) == []
