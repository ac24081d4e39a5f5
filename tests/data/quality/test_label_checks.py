from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardmine.data.quality.check_dataset import ModelInput, find_small, size_mixture
from hardmine.data.quality.label_checks import find_suspects, flatten, robust_z
from hardmine.data.resize import Resize
from hardmine.types import Dataset, ImageRecord, ImageState

ROOT = Path("/data")
Boxes = list[tuple[float, float, float, float]]


def record(
    name: str, boxes: Boxes, labels: list[int] | None = None, size: tuple[int, int] = (200, 100)
) -> ImageRecord:
    return ImageRecord(
        ROOT / name,
        *size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels or [1] * len(boxes), np.int64),
        np.zeros(len(boxes), np.bool_),
        ImageState.LABELLED,
    )


def dataset(*records: ImageRecord, categories: tuple[str, ...] = ("cat", "dog")) -> Dataset:
    return Dataset(categories, records, ROOT)


def found(data: Dataset, kind: str) -> list[tuple[str, int, str]]:
    return [(p.file, p.index, p.reason) for p in find_suspects("train", data) if p.kind == kind]


def test_a_table_of_all_boxes_knows_where_each_came_from() -> None:
    data = dataset(
        record("a", [(0, 0, 1, 1), (2, 2, 4, 4)]), record("b", []), record("c", [(5, 5, 9, 9)])
    )
    table = flatten(data)
    assert table.owner.tolist() == [0, 0, 2]
    assert table.place.tolist() == [0, 1, 0]
    assert table.sizes.tolist() == [[200, 100]] * 3
    assert flatten(dataset()).boxes.shape == (0, 4)
    assert find_suspects("train", dataset()) != []  # both classes are empty
    assert size_mixture(dataset(), 10, 10) is None


def test_rare_and_empty_classes() -> None:
    boxes: Boxes = [(i, i, i + 10, i + 10) for i in range(11)]
    data = dataset(
        record("a", boxes, [1] * 11), record("b", [(0, 0, 9, 9)], [2]), categories=("a", "b", "c")
    )
    assert found(data, "class_rare") == [("train", -1, "1 of class 'b' against 11 of 'a'")]
    assert found(data, "class_empty") == [("train", -1, "no object of class 'c'")]
    ten = dataset(record("a", boxes[:10], [1] * 10), record("b", [(0, 0, 9, 9)], [2]))
    assert found(ten, "class_rare") == []  # exactly a tenth is not rare


def test_robust_z_by_hand() -> None:
    # median 2, deviations 2 1 0 1 98: their median 1, so the spread is 1.4826
    values = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    expected = (values - 2) / 1.4826
    np.testing.assert_allclose(robust_z(values, 0.1), expected)
    np.testing.assert_allclose(robust_z(np.array([5.0, 5.0, 6.0]), 0.5), [0, 0, 2])


def test_odd_sizes_are_judged_within_their_class() -> None:
    boxes: Boxes = [(i, 0, i + 20 + i % 3, 20) for i in range(24)]
    tiny: Boxes = [(50, 50, 52, 52)]
    dogs: Boxes = [(i, 0, i + 2, 2) for i in range(24)]
    data = dataset(
        record("cats", boxes), record("odd", [*boxes[:1], *tiny]), record("dogs", dogs, [2] * 24)
    )
    (odd,) = found(data, "box_size_odd")
    # 21 x 20 = 420 against 4 px²
    assert odd[:2] == ("odd", 1)
    assert "cat 105 times smaller than usual" in odd[2]
    few = dataset(record("a", boxes[:10]), record("odd", tiny))
    assert found(few, "box_size_odd") == []


def test_a_whole_image_is_not_an_object() -> None:
    data = dataset(record("a", [(1, 0, 199, 100), (5, 0, 200, 100), (0, 0, 200, 90)]))
    assert found(data, "box_whole_image") == [("a", 0, "cat covers the whole image")]


def test_objects_labelled_twice() -> None:
    boxes: Boxes = [(0, 0, 100, 50), (0, 0, 100, 50.5), (0, 0, 60, 50), (0, 0, 100, 50)]
    data = dataset(record("a", [(9, 9, 20, 20)]), record("b", boxes, [1, 1, 1, 2]))
    assert found(data, "box_twice") == [("b", 1, "cat on the place of object 0")]
    assert found(data, "box_two_classes") == [
        ("b", 3, "dog on the place of object 0 (cat)"),
        ("b", 3, "dog on the place of object 1 (cat)"),
    ]


def test_one_box_in_many_images_is_a_default_that_nobody_moved() -> None:
    same: Boxes = [(10, 10, 50, 50)]
    others = [record(f"{i}", [(i, i, i + 9, i + 9)]) for i in range(45)]
    data = dataset(*(record(f"same{i}", same) for i in range(5)), *others)
    assert found(data, "box_copied") == [("same0", 0, "the same box in 5 images")]  # a tenth
    assert found(dataset(*data.records, record("more", [])), "box_copied") != []
    assert found(dataset(*data.records, record("x", [(1, 1, 7, 8)])), "box_copied") == []
    assert found(dataset(*data.records[:4]), "box_copied") == []


@pytest.mark.parametrize(("stride", "number"), [(8.0, 0), (8.5, 1), (17.0, 2)])
def test_boxes_below_the_finest_stride(stride: float, number: int) -> None:
    # 200 x 100 stretched onto 100 x 100: 16 x 8 becomes 8 x 8, 32 x 16 becomes 16 x 16
    data = dataset(record("a", [(0, 0, 16, 8), (0, 0, 32, 16)]))
    model = ModelInput("small", Resize(100, 100), stride)
    small = find_small("train", data, model)
    assert [p.index for p in small] == list(range(number))
    if number:
        assert "8.0 x 8.0 px in the input of small" in small[0].reason


def test_what_each_resize_rule_does() -> None:
    data = dataset(
        record("wide", [(0, 0, 40, 40)], size=(200, 100)),
        record("tall", [(0, 0, 40, 40)], size=(100, 200)),
        record("square", [], size=(100, 100)),
    )
    mixture = size_mixture(data, 100, 200)
    assert mixture is not None
    assert (mixture.landscape, mixture.portrait, mixture.distinct) == (1 / 3, 1 / 3, 3)
    stretch, letterbox, shortest, inscribe = mixture.rules
    # onto 200 x 100: wide fits (x 1), tall 2 x .5 (x 4), the square 2 x 1 (x 2)
    assert stretch.aspect_median == pytest.approx(2)
    assert stretch.distorted == pytest.approx(2 / 3)
    assert stretch.unused == 0
    # wide fills it, tall becomes 50 x 100 (3/4 unused), the square 100 x 100 (1/2 unused)
    assert letterbox.aspect_p95 == pytest.approx(1)
    assert letterbox.unused == pytest.approx((0 + 0.75 + 0.5) / 3)
    # shortest side 100 already: every image keeps its size, so there are three
    assert (shortest.input_sizes, stretch.input_sizes) == (3, 1)
    assert shortest.box_median == pytest.approx(40)
    # squares of 100: wide and tall change by 2, half of the canvas stays empty
    assert inscribe.aspect_median == pytest.approx(2)
    assert inscribe.distorted == pytest.approx(2 / 3)
    assert inscribe.unused == pytest.approx(0.5)
