from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from eval_worlds import record
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardmine.evaluation.object_free_crops import (
    SOURCE,
    CropWindow,
    Rectangle,
    largest_empty_rectangle,
    object_free_crops,
    write_crops,
)
from hardmine.types import Dataset, ImageRecord, ImageState


def dataset(*records: ImageRecord) -> Dataset:
    return Dataset(("thing",), records, Path("set"))


def test_largest_rectangle_by_hand() -> None:
    # 100 x 60 with a block at 40 … 50: left 40 x 60 = 2400, right 50 x 60 = 3000
    assert largest_empty_rectangle(100, 60, [(40, 0, 50, 60)], 1) == (50, 0, 100, 60)
    # A small block in a corner: 90 x 60 = 5400 beside it, 100 x 50 = 5000 below
    assert largest_empty_rectangle(100, 60, [(0, 0, 10, 10)], 1) == (10, 0, 100, 60)
    assert largest_empty_rectangle(100, 60, [], 1) == (0, 0, 100, 60)


def test_sides_below_the_least_do_not_count() -> None:
    blocked = [(0, 0, 100, 50)]
    assert largest_empty_rectangle(100, 60, blocked, 10) == (0, 50, 100, 60)
    assert largest_empty_rectangle(100, 60, blocked, 11) is None
    assert largest_empty_rectangle(100, 60, [(0, 0, 100, 60)], 1) is None


def slow_area(width: int, height: int, blocked: list[Rectangle], least: int) -> int:
    taken = np.zeros((height, width), np.bool_)
    for left, top, right, bottom in blocked:
        taken[top:bottom, left:right] = True
    return max(
        (
            (right - left) * (bottom - top)
            for left in range(width)
            for right in range(left + least, width + 1)
            for top in range(height)
            for bottom in range(top + least, height + 1)
            if not taken[top:bottom, left:right].any()
        ),
        default=0,
    )


@st.composite
def blocks(draw: st.DrawFn) -> list[Rectangle]:
    result = []
    for _ in range(draw(st.integers(0, 4))):
        left, top = draw(st.integers(0, 6)), draw(st.integers(0, 5))
        result.append((left, top, draw(st.integers(left + 1, 7)), draw(st.integers(top + 1, 6))))
    return result


@settings(deadline=None, max_examples=80)
@given(blocks(), st.integers(1, 3))
def test_largest_rectangle_equals_the_slow_search(blocked: list[Rectangle], least: int) -> None:
    got = largest_empty_rectangle(7, 6, blocked, least)
    area = 0 if got is None else (got[2] - got[0]) * (got[3] - got[1])
    assert area == slow_area(7, 6, blocked, least)
    if got is not None:
        for left, top, right, bottom in blocked:
            assert got[0] >= right or got[2] <= left or got[1] >= bottom or got[3] <= top


def test_many_objects_in_one_image_are_no_long_search() -> None:
    generator = np.random.default_rng(0)
    places = generator.integers(0, (1988, 1488), (400, 2)).tolist()
    blocked = [(x, y, x + 12, y + 12) for x, y in places]
    before = time.process_time()  # every pair of sides with every object between took 12 s
    assert largest_empty_rectangle(2000, 1500, blocked, 450) is None
    assert largest_empty_rectangle(4000, 1500, blocked, 450) == (1996, 0, 4000, 1500)
    assert time.process_time() - before < 4


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_window_meets_a_box_or_another_window(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 70, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(3, 30, (count, 2))], axis=1)
    image = record(*np.column_stack([np.ones(count), boxes]), ignore=[True] + [False] * (count - 1))
    windows = object_free_crops(dataset(image), seed, per_image=3)
    covered = np.zeros((100, 100), np.int64)
    for window in windows:
        width, height = window.right - window.left, window.bottom - window.top
        assert min(width, height) >= 30
        assert max(width, height) <= 2 * min(width, height)
        covered[window.top : window.bottom, window.left : window.right] += 1
    assert covered.max(initial=0) <= 1
    for x0, y0, x1, y1 in boxes:
        inside = covered[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
        assert not inside.any()


def test_the_seed_moves_the_cut_and_nothing_else() -> None:
    images = dataset(record((1, 0, 0, 100, 55)), record((1, 0, 0, 100, 55)))
    first = object_free_crops(images, 0, per_image=1, margin=0)
    assert first == object_free_crops(images, 0, per_image=1, margin=0)
    assert first != object_free_crops(images, 1, per_image=1, margin=0)
    # 100 x 45 below the box is cut to 90 x 45
    assert {(w.top, w.bottom, w.right - w.left) for w in first} == {(55, 100, 90)}


def test_margin_is_kept() -> None:
    images = dataset(record((1, 0, 0, 100, 40)))
    assert object_free_crops(images, 0, per_image=1, margin=2)[0].top == 42


def test_images_that_give_no_window() -> None:
    images = dataset(
        record((1, 0, 0, 100, 100)),
        record((1, 0, 0, 100, 80)),  # 20 rows are left, below .3 of 100
        record(state=ImageState.VERIFIED_EMPTY),
        record((1, 0, 0, 9, 9), state=ImageState.UNREVIEWED),
    )
    assert object_free_crops(images, 0) == ()


def test_written_crops_hold_the_very_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    source = tmp_path / "photo.png"
    Image.fromarray(pixels).save(source)
    images = dataset(record((1, 0, 0, 40, 40), name=str(source)), record(name="gone.jpg"))
    windows = [CropWindow(0, 50, 60, 90, 95), CropWindow(1, 0, 0, 10, 10)]
    crops = write_crops(images, windows, tmp_path / "crops")
    (only,) = crops.records
    assert (only.width, only.height, only.state, only.source) == (
        40,
        35,
        ImageState.VERIFIED_EMPTY,
        SOURCE,
    )
    with Image.open(only.path) as written:
        np.testing.assert_array_equal(np.asarray(written), pixels[60:95, 50:90])
    assert [problem.file for problem in crops.problems] == ["gone.jpg"]
    assert crops.categories == ("thing",)
    assert [path.name for path in (tmp_path / "crops").iterdir()] == [only.path.name]
