"""Which picture boxes were drawn on: told by sizes, and by where the boxes of the whole set fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hardmine.data.quality.label_coordinates import (
    LabelledSizes,
    Placed,
    Reading,
    Relation,
    place_boxes,
    relations,
    turn_boxes,
)

Size = tuple[int, int]


def place(*images: tuple[Size, Size, int, list[list[float]]]) -> Placed:
    """Each image: (label's size, picture's size as displayed, EXIF orientation, boxes)."""
    owner = [k for k, (*_, boxes) in enumerate(images) for _ in boxes]
    return place_boxes(
        LabelledSizes(
            np.array([label for label, *_ in images], np.int64),
            np.array([picture for _, picture, *_ in images], np.int64),
            np.array([turn for _, _, turn, _ in images], np.int64),
            np.array(owner, np.int64),
            np.array([box for *_, boxes in images for box in boxes], np.float64).reshape(-1, 4),
        )
    )


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_boxes_are_where_the_turned_picture_shows_them(turn: int) -> None:
    stored = Image.new("L", (12, 8))
    stored.paste(255, (2, 1, 5, 6))
    stored.getexif()[0x0112] = turn
    shown = ImageOps.exif_transpose(stored)
    (box,) = turn_boxes(np.array([[2.0, 1, 5, 6]]), np.array([turn]), np.array([[12.0, 8]]))
    assert shown.getbbox() == tuple(box.tolist())


@pytest.mark.parametrize(
    ("label", "picture", "relation"),
    [
        ((320, 240), (320, 240), Relation.EQUAL),
        ((320, 240), (160, 120), Relation.PROPORTIONAL),
        ((4000, 3000), (1333, 1000), Relation.PROPORTIONAL),  # 3000 · 1333 / 4000 = 999.75
        ((500, 375), (500, 374), Relation.PROPORTIONAL),  # rounded down
        ((320, 240), (240, 320), Relation.SWAPPED),
        ((320, 240), (120, 160), Relation.SWAPPED),
        ((1920, 1088), (1920, 1080), Relation.OTHER),  # 8 rows cut off
        ((320, 240), (320, 320), Relation.OTHER),
        ((200, 200), (400, 400), Relation.PROPORTIONAL),
    ],
)
def test_relations_by_hand(label: Size, picture: Size, relation: Relation) -> None:
    assert relations(np.array([label]), np.array([picture])).tolist() == [relation]


def test_where_sizes_agree_nothing_is_decided() -> None:
    placed = place(
        ((320, 240), (320, 240), 1, [[0, 0, 400, 10]]), ((9, 9), (0, 0), 1, [[1, 1, 5, 5]])
    )
    assert placed.verdicts == ()
    assert placed.verdict_of.tolist() == [-1, -1]
    assert placed.boxes.tolist() == [[0, 0, 400, 10], [1, 1, 5, 5]]
    assert placed.sizes.tolist() == [[320, 240], [9, 9]]


def test_boxes_of_another_scale_are_scaled_each_image_by_its_own_factor() -> None:
    placed = place(
        ((320, 240), (160, 120), 1, [[20, 40, 140, 180]]),
        ((320, 240), (640, 480), 1, [[20, 40, 140, 180]]),
    )
    (verdict,) = placed.verdicts
    assert (verdict.reading, verdict.images) == (Reading.SCALED, 2)
    assert placed.boxes.tolist() == [[10, 20, 70, 90], [40, 80, 280, 360]]
    assert placed.sizes.tolist() == [[160, 120], [640, 480]]
    assert "its boxes are scaled by 0.5" in verdict.describe((320, 240), (160, 120))


def test_a_size_that_is_wrong_beside_boxes_that_are_right() -> None:
    """Labels say a thumbnail's size; every box would leave a thumbnail, and all fit the picture."""
    image: tuple[Size, Size, int, list[list[float]]] = (
        (160, 120),
        (640, 480),
        1,
        [[300, 200, 500, 400]],
    )
    placed = place(image, image)
    assert placed.verdicts[0].reading is Reading.AS_WRITTEN
    assert placed.boxes.tolist() == [[300, 200, 500, 400]] * 2
    assert placed.sizes.tolist() == [[640, 480]] * 2


UPRIGHT = [20.0, 100, 60, 150]  # y beyond 120: only a picture of 120 × 160 holds it
STORED = [100.0, 20, 150, 60]  # x beyond 120: only one of 160 × 120 does
EITHER = [20.0, 60, 80, 85]


@pytest.mark.parametrize(
    ("boxes", "reading", "decided"),
    [
        ([EITHER, UPRIGHT, EITHER], Reading.UPRIGHT, True),
        ([EITHER, STORED, EITHER], Reading.TURNED, True),
        ([EITHER, EITHER, EITHER], Reading.UPRIGHT, False),
        ([UPRIGHT, STORED, EITHER], Reading.UPRIGHT, False),  # neither explains all
    ],
)
def test_upright_or_stored_is_decided_by_the_whole_set(
    boxes: list[list[float]], reading: Reading, decided: bool
) -> None:
    """Labels say the stored size, 160 × 120; the pictures are displayed at 120 × 160."""
    placed = place(*(((160, 120), (120, 160), 6, [box]) for box in boxes))
    (verdict,) = placed.verdicts
    assert (verdict.reading, verdict.decided) == (reading, decided)
    if reading is Reading.UPRIGHT:
        assert placed.boxes.tolist() == boxes
    else:  # orientation 6: (x, y) of the stored picture lies at (120 − y, x)
        assert placed.boxes.tolist() == [[120 - y1, x0, 120 - y0, x1] for x0, y0, x1, y1 in boxes]
    assert placed.sizes.tolist() == [[120, 160]] * len(boxes)
    assert ("both readings fit" in str(verdict)) is not decided


def test_boxes_before_the_turn_though_the_label_says_the_displayed_size() -> None:
    """Or says none, so that the header gave it."""
    placed = place(*(((120, 160), (120, 160), 6, [box]) for box in (EITHER, STORED)))
    assert placed.verdicts[0].reading is Reading.TURNED
    assert placed.boxes.tolist() == [[120 - 85, 20, 120 - 60, 80], [60, 100, 100, 150]]
    assert place(*(((120, 160), (120, 160), 6, [box]) for box in (EITHER, UPRIGHT))).verdicts == ()
    assert place(((120, 160), (120, 160), 6, [EITHER])).verdicts == ()


def test_swapped_width_and_height_of_a_picture_that_is_not_turned() -> None:
    placed = place(((160, 120), (120, 160), 1, [EITHER]), ((160, 120), (120, 160), 1, [UPRIGHT]))
    assert placed.verdicts[0].reading is Reading.UPRIGHT
    assert placed.boxes.tolist() == [EITHER, UPRIGHT]
    # Boxes that fit the label's size only: the picture was turned later, nobody knows which way.
    placed = place(((160, 120), (120, 160), 1, [EITHER]), ((160, 120), (120, 160), 1, [STORED]))
    assert placed.verdicts[0].reading is Reading.UNKNOWN
    assert placed.boxes.tolist() == [EITHER, STORED]


def test_swapped_and_at_another_scale() -> None:
    """The stored picture is 320 × 240, the label was written at half of that."""
    placed = place(((160, 120), (240, 320), 8, [STORED]), ((160, 120), (240, 320), 8, [EITHER]))
    assert placed.verdicts[0].reading is Reading.TURNED
    # orientation 8: (x, y) lies at (y, 160 − x), then everything doubles
    assert placed.boxes.tolist() == [[40, 20, 120, 120], [120, 160, 170, 280]]
    placed = place(((160, 120), (240, 320), 8, [UPRIGHT]))
    assert placed.boxes.tolist() == [[40, 200, 120, 300]]


def test_another_shape_cannot_be_placed() -> None:
    placed = place(((40, 30), (50, 30), 1, [[1, 2, 3, 4]]))
    assert placed.verdicts[0].reading is Reading.UNKNOWN
    assert placed.sizes.tolist() == [[50, 30]]
    empty = place(((40, 30), (50, 30), 1, []))
    assert empty.verdicts[0].reading is Reading.AS_WRITTEN


def test_boxes_without_sense_have_no_say() -> None:
    nan, infinite = float("nan"), float("inf")
    senseless = [[nan, 1, 2, 3], [1, 1, infinite, 3], [90, 90, 10, 10]]
    placed = place(((160, 120), (120, 160), 6, [*senseless, STORED]))
    assert (placed.verdicts[0].reading, placed.verdicts[0].boxes) == (Reading.TURNED, 1)
    assert place(((160, 120), (80, 60), 1, senseless)).verdicts[0].reading is Reading.SCALED
