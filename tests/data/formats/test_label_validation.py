from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import kinds
from hardmine.data.formats.label_validation import (
    RawImage,
    RawObject,
    RawSplit,
    build_dataset,
    check_boxes,
    merge_names,
)
from hardmine.types import Dataset, ImageState

NAN, INF = math.nan, math.inf


def build(objects: list[RawObject], categories: tuple[str, ...] = ("cat",), **fields) -> Dataset:
    image = RawImage(Path("/d/cam1/0042.jpg"), "cam1/0042.xml", 100, 50, objects, **fields)
    return build_dataset(RawSplit(Path("/d"), ["cat"], [image], []), categories)


def test_a_good_box_passes_unchanged() -> None:
    dataset = build([(1.5, 2, 10, 20, 0, False, 0), (0, 0, 100, 50, 0, True, 1)])
    record = dataset.records[0]
    assert dataset.problems == ()
    assert record.state is ImageState.LABELLED
    np.testing.assert_array_equal(record.boxes, [[1.5, 2, 10, 20], [0, 0, 100, 50]])
    np.testing.assert_array_equal(record.labels, [1, 1])
    np.testing.assert_array_equal(record.ignore, [False, True])
    assert record.boxes.dtype == np.float32
    assert record.labels.dtype == np.int64
    assert record.ignore.dtype == np.bool_


@pytest.mark.parametrize(
    ("box", "kind", "reason"),
    [
        ((NAN, 2, 10, 20), "box_nan", "box nan 2 10 20 is not a number"),
        ((1, 2, INF, 20), "box_infinite", "box 1 2 inf 20 is infinite"),
        ((1, -INF, 5, 20), "box_infinite", "box 1 -inf 5 20 is infinite"),
        ((1, 2, 1e300, 20), "box_infinite", "box 1 2 1e+300 20 is infinite"),
        ((40, 2, 12, 20), "box_inverted", "xmax 12 < xmin 40"),
        ((1, 20, 10, 2), "box_inverted", "ymax 2 < ymin 20"),
        ((12, 2, 12, 20), "box_empty", "xmax 12 = xmin 12"),
        ((1, 20, 10, 20), "box_empty", "ymax 20 = ymin 20"),
        ((-9, 2, -1, 20), "box_outside", "box -9 2 -1 20 lies outside the image of 100 x 50"),
        ((1, 50, 10, 60), "box_outside", "box 1 50 10 60 lies outside the image of 100 x 50"),
    ],
)
def test_a_bad_box_is_rejected_and_named(
    box: tuple[float, float, float, float], kind: str, reason: str
) -> None:
    dataset = build([(1, 2, 3, 4, 0, False, 0), (*box, 0, False, 3)])
    assert [str(p) for p in dataset.problems] == [f"cam1/0042.xml[3]: {reason}"]
    assert kinds(dataset) == [kind]
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 2, 3, 4]])
    assert dataset.records[0].state is ImageState.LABELLED


def test_an_image_that_loses_all_boxes_is_no_negative() -> None:
    dataset = build([(40, 2, 12, 20, 0, False, 0)], state_if_empty=ImageState.VERIFIED_EMPTY)
    assert dataset.records[0].state is ImageState.UNREVIEWED
    assert dataset.records[0].boxes.shape == (0, 4)


def test_an_image_with_objects_that_could_not_be_parsed_is_no_negative() -> None:
    dataset = build([], rejected=1, state_if_empty=ImageState.VERIFIED_EMPTY)
    assert dataset.records[0].state is ImageState.UNREVIEWED


def test_without_objects_the_reader_decides() -> None:
    assert build([]).records[0].state is ImageState.UNREVIEWED
    verified = build([], state_if_empty=ImageState.VERIFIED_EMPTY)
    assert verified.records[0].state is ImageState.VERIFIED_EMPTY


def test_a_stated_state_wins_but_a_negative_with_objects_is_a_contradiction() -> None:
    box = (1, 2, 3, 4, 0, False, 0)
    assert build([box], state=ImageState.IGNORED).records[0].state is ImageState.IGNORED
    dataset = build([box], state=ImageState.VERIFIED_EMPTY)
    assert dataset.records[0].state is ImageState.UNREVIEWED
    assert kinds(dataset) == ["state_contradicted"]


def test_a_box_partly_outside_is_clipped_and_reported_beyond_a_pixel() -> None:
    dataset = build([(-5, 2, 10, 20, 0, False, 0), (0, 0, 100.9, 50.9, 0, False, 1)])
    np.testing.assert_array_equal(dataset.records[0].boxes, [[0, 2, 10, 20], [0, 0, 100, 50]])
    assert [str(p) for p in dataset.problems] == [
        "cam1/0042.xml[0]: box -5 2 10 20 clipped to the image of 100 x 50"
    ]


def test_an_object_that_repeats_another_is_dropped_once() -> None:
    box = (1, 2, 3, 4, 0, False)
    dataset = build([(*box, 0), (*box, 1), (1, 2, 3, 5, 0, False, 2)])
    assert [(p.kind, p.index) for p in dataset.problems] == [("box_repeated", 1)]
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 2, 3, 4], [1, 2, 3, 5]])


def test_the_same_box_in_another_image_or_class_is_no_repeat() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    images = [
        RawImage(Path("a.jpg"), "a.xml", 9, 9, [(*box, 0, False, 0), (*box, 1, False, 1)]),
        RawImage(Path("b.jpg"), "b.xml", 9, 9, [(*box, 0, False, 0)]),
    ]
    dataset = build_dataset(RawSplit(Path(), ["cat", "dog"], images, []), ("cat", "dog"))
    assert dataset.problems == ()
    assert [record.labels.tolist() for record in dataset.records] == [[1, 2], [1]]


def test_a_class_that_is_not_wanted_is_unknown() -> None:
    dataset = build([(1, 2, 3, 4, 0, False, 0)], categories=("dog", "cow"))
    assert str(dataset.problems[0]) == "cam1/0042.xml[0]: class 'cat', wanted one of dog, cow"
    assert kinds(dataset) == ["class_unknown"]
    assert dataset.records[0].state is ImageState.UNREVIEWED


def test_labels_follow_the_wanted_order() -> None:
    dataset = build([(1, 2, 3, 4, 0, False, 0)], categories=("dog", "cat"))
    assert dataset.records[0].labels.tolist() == [2]


def test_no_images_at_all() -> None:
    dataset = build_dataset(RawSplit(Path(), [], [], []), ())
    assert len(dataset) == 0


def test_where_a_file_serves_many_images_the_image_is_named() -> None:
    image = RawImage(Path("cam1/0042.jpg"), "train.json", 9, 9, [(4, 1, 2, 3, 0, False, 17)])
    dataset = build_dataset(RawSplit(Path(), ["cat"], [image], []), ("cat",))
    assert str(dataset.problems[0]) == "train.json[17]: xmax 2 < xmin 4 (image 0042.jpg)"


def test_merged_names_keep_a_declared_order_and_sort_gathered_ones() -> None:
    def split(names: list[str], declared: bool) -> RawSplit:
        return RawSplit(Path(), names, [], [], declared)

    assert merge_names([split(["b", "a"], True), split(["a", "c"], True)]) == ("b", "a", "c")
    assert merge_names([split(["b", "a"], False), split(["c"], False)]) == ("a", "b", "c")


FLOATS = st.one_of(
    st.floats(-50, 150, width=32), st.sampled_from([NAN, INF, -INF, 0.0, 100.0, 50.0, 1e300])
)


def judge(box: tuple[float, ...], width: float, height: float) -> str:
    """The rules once more, box by box."""
    with np.errstate(over="ignore"):
        x0, y0, x1, y1 = (float(np.float32(v)) for v in box)
    if any(map(math.isnan, box)):
        return "box_nan"
    if any(map(math.isinf, (x0, y0, x1, y1))):
        return "box_infinite"
    if x1 < x0 or y1 < y0:
        return "box_inverted"
    if x1 == x0 or y1 == y0:
        return "box_empty"
    if min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0):
        return "box_outside"
    return ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), max_size=8, unique_by=repr))
def test_every_box_is_judged_as_one_by_one(boxes: list[tuple[float, ...]]) -> None:
    written = np.array(boxes, np.float64).reshape(-1, 4)
    clipped, fault, overhang = check_boxes(written, np.tile([100.0, 50.0], (len(boxes), 1)))
    names = ["", "box_nan", "box_infinite", "box_inverted", "box_empty", "box_outside"]
    assert [names[f] for f in fault] == [judge(box, 100, 50) for box in boxes]
    for box, good, over in zip(clipped[fault == 0], written[fault == 0], overhang, strict=False):
        assert (box[2:] > box[:2]).all()
        assert (box >= 0).all()
        assert (box <= [100, 50, 100, 50]).all()
        inside = (good >= 0).all() and (good <= [100, 50, 100, 50]).all()
        assert not inside or (box == good.astype(np.float32)).all()
        assert over >= 0
