"""What lines of other lengths than five numbers mean, each worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hardmine.data.formats.yolo_config import BOX, Columns, judge_columns

Values = list[list[float]]


def judge(*sets: Values, keypoints: tuple[int, int] | None = None) -> dict[int, Columns | str]:
    return judge_columns({len(rows[0]): rows for rows in sets}, keypoints)


def boxes(number: int = 5) -> Values:
    return np.random.default_rng(0).uniform(0.3, 0.6, (number, 4)).tolist()


def outlines(corners: int, number: int = 5) -> Values:
    """Outlines around places all over the image."""
    rng = np.random.default_rng(corners)
    centres = rng.uniform(0.2, 0.8, (number, 1, 2))
    return (centres + rng.uniform(-0.1, 0.1, (number, corners, 2))).reshape(number, -1).tolist()


def poses(points: int, third: list[float] | None, number: int = 5) -> Values:
    """Boxes of people with points spread over the inner 80 % of them."""
    rng = np.random.default_rng(points)
    size = rng.uniform(0.2, 0.4, (number, 2))
    centre = rng.uniform(0.3, 0.7, (number, 2))
    spots = centre[:, None] + size[:, None] * rng.uniform(-0.4, 0.4, (number, points, 2))
    if third is not None:
        seen = rng.choice(third, (number, points, 1))
        spots = np.concatenate([spots, seen], axis=2)
    return np.concatenate([centre, size, spots.reshape(number, -1)], axis=1).tolist()


def reading(rows: Values, *others: Values) -> Columns:
    found = judge(rows, *others)[len(rows[0])]
    assert isinstance(found, Columns), found
    return found


def refused(rows: Values, *others: Values, keypoints: tuple[int, int] | None = None) -> str:
    found = judge(rows, *others, keypoints=keypoints)[len(rows[0])]
    assert isinstance(found, str), found
    return found


def test_a_confidence_and_a_track_id_are_left_out() -> None:
    assert reading(boxes()) == BOX
    scored = [[*box, 0.8] for box in boxes()]
    assert reading(scored).left_out == "the confidence"
    assert reading(scored).box([0.5, 0.5, 0.2, 0.4, 0.8]) == pytest.approx((0.4, 0.3, 0.6, 0.7))
    tracked = [[*box, 0.8, number] for number, box in enumerate(boxes())]
    assert reading(tracked).left_out == "the confidence and the track id"
    assert reading(tracked, boxes()).box(tracked[0]) == reading(scored).box(scored[0])
    assert reading([[*boxes(1)[0], 0.87, 1]]).left_out == "the confidence and the track id"


def test_triangles_among_outlines_stay_triangles() -> None:
    corners = outlines(3)
    assert reading(corners, outlines(7), outlines(9)) == Columns(outline=6)
    assert reading(corners) == Columns(outline=6)
    ends_whole = [[0.1, 0.2, 0.3, 0.4, 0.5, 1.0]]  # touches the lower edge
    assert reading(ends_whole, outlines(7)).box(ends_whole[0]) == (0.1, 0.2, 0.5, 1.0)


def test_a_number_that_is_no_confidence_is_refused() -> None:
    assert "got 6" in refused([[*box, 7.0] for box in boxes()])
    scored = reading([[*box, 0.8] for box in boxes(40)] + [[0.5, 0.5, 0.2, 0.2, 3.0]])
    with pytest.raises(ValueError, match="confidence 3, wanted 0 to 1"):
        scored.box([0.5, 0.5, 0.2, 0.2, 3.0])


def test_a_cut_outline_is_not_taken_for_a_box_or_for_one_with_a_confidence() -> None:
    cut = [outlines(4)[0][:5]]
    assert "got 6" in refused(cut, outlines(4), outlines(6))
    assert "got 8" in refused([outlines(4)[0][:7]], outlines(4), outlines(6))


def test_two_lines_run_together_are_refused() -> None:
    three = [[*box, 1.0, *box, 0.0, *box] for box in boxes(1)]  # 14 numbers after the first class
    joined = reading(three, boxes(30))
    with pytest.raises(ValueError, match="looks like 3 lines run together"):
        joined.box(three[0])
    two = [[*box, 1.0, *box] for box in boxes(1)]
    assert "got 10" in refused(two, boxes(30))
    assert reading(outlines(7), boxes(30)).box(outlines(7)[0])[0] == min(outlines(7)[0][0::2])


def test_turned_boxes_give_the_box_around_their_corners() -> None:
    corners = [0.2, 0.5, 0.5, 0.2, 0.8, 0.5, 0.5, 0.8]
    assert reading([corners]).box(corners) == (0.2, 0.2, 0.8, 0.8)
    scored = reading([[*corners, 0.7]] * 3)
    assert scored.left_out == "the confidence"
    assert scored.box([*corners, 0.7]) == (0.2, 0.2, 0.8, 0.8)
    tracked = [[*corners, 0.7, float(number)] for number in range(3, 9)]
    assert reading(tracked).box(tracked[0]) == (0.2, 0.2, 0.8, 0.8)


def outlines_in_the_middle(corners: int, number: int) -> Values:
    """Outlines without crossings around places near the middle, where they also fit as keypoints."""
    rng = np.random.default_rng(corners)
    turns = np.sort(rng.uniform(0, 2 * np.pi, (number, corners)), axis=1)
    away = 0.15 * rng.uniform(0.6, 1, (number, corners))
    spots = np.stack([np.cos(turns), np.sin(turns)], axis=2) * away[..., None]
    return (rng.uniform(0.45, 0.55, (number, 1, 2)) + spots).reshape(number, -1).tolist()


def test_turned_boxes_in_the_middle_of_the_image_are_no_boxes_with_two_keypoints() -> None:
    upright = [0.3, 0.4, 0.5, 0.4, 0.5, 0.6, 0.3, 0.6]
    assert reading([upright] * 3).box(upright) == (0.3, 0.4, 0.5, 0.6)
    pentagon = [0.3, 0.4, 0.5, 0.4, 0.55, 0.5, 0.5, 0.6, 0.3, 0.6]
    assert reading([pentagon] * 3, boxes()).box(pentagon) == (0.3, 0.4, 0.55, 0.6)


@pytest.mark.parametrize("corners", [4, 5, 9])
def test_outlines_in_the_middle_of_the_image_are_no_keypoints(corners: int) -> None:
    rows = outlines_in_the_middle(corners, 60)
    row = rows[0]
    expected = (min(row[0::2]), min(row[1::2]), max(row[0::2]), max(row[1::2]))
    assert reading(rows).box(row) == expected


def test_lines_that_may_be_keypoints_or_an_outline_are_refused() -> None:
    """A box of .2 by .2 about (.5, .5) with two points, or a long quadrilateral without crossings."""
    both = [0.5, 0.5, 0.2, 0.2, 0.54, 0.46, 0.55, 0.55]
    assert "may be a box and 2 keypoints or an outline" in refused([both] * 3)
    assert judge([both] * 3, keypoints=(2, 2))[8] == Columns(left_out="2 keypoints of 2 numbers")


@pytest.mark.parametrize("points", [1, 2, 5, 17])
def test_keypoints_with_a_visibility_are_known_by_it(points: int) -> None:
    rows = poses(points, [0, 1, 2])
    assert reading(rows).left_out == f"{points} keypoints (x, y, visibility)"
    cx, cy, width, height = rows[0][:4]
    expected = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    assert reading(rows, boxes()).box(rows[0]) == pytest.approx(expected)
    alone = reading(rows[:1])  # one line suffices: no coordinate is 0, 1 or 2 in every third place
    assert alone.outline == 0


@pytest.mark.parametrize("points", [3, 5, 17])
def test_keypoints_without_a_visibility_are_known_by_lying_in_their_box(points: int) -> None:
    assert reading(poses(points, None)).left_out == f"{points} keypoints (x, y)"
    assert reading(outlines(points + 2, 40)).outline == 2 * points + 4


def test_kpt_shape_decides() -> None:
    rows = poses(2, [0, 1, 2])
    declared = judge(rows, boxes(), keypoints=(2, 3))
    assert declared[4] == BOX
    assert declared[10] == Columns(left_out="2 keypoints of 3 numbers")
    assert "wanted 'class cx cy w h' or 11 numbers (kpt_shape: [2, 3]), got 9" in refused(
        outlines(4), keypoints=(2, 3)
    )
    scored = judge([[*rows[0], 0.5]], keypoints=(2, 3))[11]
    assert isinstance(scored, Columns)
    assert scored.outline == 0
    assert scored.left_out == "2 keypoints of 3 numbers and the confidence"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_numbers(count: int) -> None:
    assert f"got {count + 1}" in refused([[0.5] * count])


def test_a_confidence_in_front_of_the_box_is_told_of_and_not_read_as_its_centre() -> None:
    first = [[0.93, 0.2, 0.3, 0.1, 0.12], [0.88, 0.7, 0.6, 0.2, 0.3], [0.41, 0.5, 0.5, 0.25, 0.2]]
    found = judge(first)[5]
    assert isinstance(found, str)
    assert "second number seems to be a confidence" in found
    last = [[*row[1:], row[0]] for row in first]
    assert isinstance(judge(last)[5], Columns)
