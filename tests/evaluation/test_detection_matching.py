from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from eval_worlds import found, record, scored, small_worlds
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hardmine.detections import Detections
from hardmine.evaluation.detection_matching import Outcome, match, match_objects, overlaps
from hardmine.evaluation.scored_images import Scored, ground_truth, result_rows
from hardmine.types import ImageRecord

HIT, FALSE, IGNORED = Outcome.HIT, Outcome.FALSE, Outcome.IGNORED


def outcomes(image: ImageRecord, detections: Detections, num_classes: int = 2) -> list[int]:
    return match(scored([image], [detections], num_classes)).outcome.tolist()


def test_hits_duplicates_wrong_classes_and_background() -> None:
    image = record((1, 0, 0, 10, 10), (1, 20, 20, 30, 30))
    matches = match(
        scored(
            [image],
            [
                found(
                    (0.9, 1, 0, 0, 10, 10),  # the first object
                    (0.8, 1, 0, 0, 10, 9),  # IoU .9 with it, but it is taken: a false positive
                    (0.7, 2, 20, 20, 30, 30),  # the second object's place, the wrong class
                    (0.6, 1, 50, 50, 60, 60),  # nothing there
                    (0.5, 1, 20, 20, 30, 29),  # the second object
                )
            ],
            num_classes=2,
        )
    )
    assert matches.outcome.tolist() == [HIT, FALSE, FALSE, FALSE, HIT]
    assert matches.background.tolist() == [False, False, False, True, False]
    assert matches.objects.tolist() == [[2, 0]]


def test_an_iou_of_a_tenth_is_not_on_background() -> None:
    # 10 x 1 inside 10 x 10: 10 / 100 = .1; 9.9 / 100 is below it.
    image = record((1, 0, 0, 10, 10))
    matches = match(scored([image], [found((0.9, 1, 0, 0, 10, 1), (0.8, 1, 0, 0, 9.9, 1))]))
    assert matches.background.tolist() == [False, True]
    # An image that holds no box is background all over.
    assert match(scored([record()], [found((0.9, 1, 0, 0, 10, 1))])).background.tolist() == [True]


def test_the_object_of_each_detection_or_none() -> None:
    # The second wants the object that the first has, the third overlaps too little.
    overlap = np.array([[0.6, 0.5], [0.9, 0.2], [0.1, 0.4]])
    assert match_objects(overlap, 0.5).tolist() == [0, -1, -1]
    assert match_objects(overlap, 0.4).tolist() == [0, -1, 1]


def test_iou_threshold_is_inclusive() -> None:
    image = record((1, 0, 0, 10, 10))
    # 10 x 5 inside 10 x 10: 50 / 100 = .5
    assert outcomes(image, found((0.9, 1, 0, 0, 10, 5))) == [HIT]
    assert outcomes(image, found((0.9, 1, 0, 0, 10, 4.99))) == [FALSE]


def test_a_better_score_takes_its_object_first() -> None:
    image = record((1, 0, 0, 10, 10))
    # IoU .6 at score .9 takes the object from IoU 1 at score .8.
    assert outcomes(image, found((0.9, 1, 0, 0, 10, 6), (0.8, 1, 0, 0, 10, 10))) == [HIT, FALSE]


def test_detections_need_not_be_sorted() -> None:
    image = record((1, 0, 0, 10, 10))
    matches = match(
        scored([image], [found((0.2, 1, 0, 0, 10, 10), (0.9, 1, 0, 0, 10, 10))], num_classes=1)
    )
    np.testing.assert_array_equal(matches.score, np.array([0.9, 0.2], np.float32))
    assert matches.outcome.tolist() == [HIT, FALSE]


def test_of_equal_scores_the_earlier_detection_comes_first() -> None:
    """More of them than an unstable sort happens to leave in their order."""
    corners = [10 * (k % 2) for k in range(60)]
    alike = [(0.5, 1, x, 0, x + 5, 5) for x in corners]  # by turns on the object and beside it
    image, lower = record((1, 0, 0, 5, 5)), (0.4, 2, 0, 0, 5, 5)
    matches = match(scored([image], [found(lower, *alike)], num_classes=2))
    assert matches.outcome.tolist() == [HIT] + [FALSE] * 60
    assert matches.background.tolist() == [*[x > 0 for x in corners], False]


def test_ignored_box_takes_any_number_by_their_own_area() -> None:
    image = record((1, 0, 0, 40, 40), ignore=[True])
    detections = found(
        (0.9, 1, 0, 0, 40, 40),
        (0.8, 1, 0, 0, 10, 10),  # IoU 100 / 1600, but wholly inside the region
        (0.7, 2, 0, 0, 40, 40),  # another class: the region is not its own
        (0.6, 1, 30, 0, 51, 10),  # 10 of 21 columns inside: below one half
        (0.5, 1, 30, 0, 50, 10),  # 10 of 20: one half
    )
    assert outcomes(image, detections) == [IGNORED, IGNORED, FALSE, FALSE, IGNORED]


def test_a_real_object_goes_before_an_ignored_one() -> None:
    image = record((1, 0, 0, 10, 10), (1, 0, 0, 12, 12), ignore=[False, True])
    detections = found((0.9, 1, 0, 0, 12, 12), (0.8, 1, 0, 0, 10, 10))
    # IoU 100 / 144 = .69 with the object counts although the region fits exactly.
    assert outcomes(image, detections) == [HIT, IGNORED]


@pytest.mark.parametrize(
    ("image", "detections", "wanted"),
    [
        (record(), found(), []),
        (record(), found((0.9, 1, 0, 0, 5, 5)), [FALSE]),
        (record((1, 0, 0, 9, 9)), found(), []),
        (record((1, 0, 0, 9, 9), ignore=[True]), found((0.9, 1, 50, 50, 60, 60)), [FALSE]),
        (record((1, 0, 0, 9, 9)), found((0.9, 1, 5, 5, 5, 5)), [FALSE]),
    ],
    ids=["nothing", "no object", "no detection", "all ignored", "a point"],
)
def test_edges(image: ImageRecord, detections: Detections, wanted: list[int]) -> None:
    assert outcomes(image, detections) == wanted


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10]], np.float32)
    # 50 / (100 + 100 − 50) = 1/3; as a region, 50 / 100 of the box.
    got = overlaps(boxes, boxes, np.array([False, True]))
    np.testing.assert_allclose(got, [[1.0, 0.5], [1 / 3, 1.0]])


def slow_outcomes(image: ImageRecord, detections: Detections, threshold: float) -> list[int]:
    """Match one detection at a time, in the order of scores, over every box."""
    taken: set[int] = set()
    result = []
    for k in range(len(detections)):
        best, best_overlap, on_region = -1, threshold, False
        for g in range(len(image.boxes)):
            if image.labels[g] != detections.labels[k]:
                continue
            overlap = slow_overlap(detections.boxes[k], image.boxes[g], bool(image.ignore[g]))
            if image.ignore[g]:
                on_region = on_region or overlap >= threshold
            elif g not in taken and overlap >= best_overlap:
                best, best_overlap = g, overlap
        if best >= 0:
            taken.add(best)
        result.append(int(HIT if best >= 0 else IGNORED if on_region else FALSE))
    return result


def slow_overlap(a: np.ndarray, b: np.ndarray, region: bool) -> float:
    ax0, ay0, ax1, ay1 = (float(v) for v in a)
    bx0, by0, bx1, by1 = (float(v) for v in b)
    common = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    own, other = (ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)
    return common / own if region else common / (own + other - common)


# Two objects of 10 x 10, side by side, that overlap a detection equally. The wide detection is 20 x 10:
# 100 shared of 200, an IoU of .5 with either.
LEFT, RIGHT, WIDE = (0, 0, 10, 10), (10, 0, 20, 10), (0, 0, 20, 10)


@pytest.mark.parametrize(
    ("objects", "second", "wanted"),
    [
        (
            (LEFT, RIGHT),
            LEFT,
            [HIT, HIT],
        ),  # the wide one takes the last, so the first is still free
        ((LEFT, RIGHT), RIGHT, [HIT, FALSE]),
        ((RIGHT, LEFT), LEFT, [HIT, FALSE]),
        ((RIGHT, LEFT), RIGHT, [HIT, HIT]),
    ],
)
def test_of_two_objects_that_tie_the_last_is_taken(
    objects: tuple[tuple[int, ...], ...], second: tuple[int, ...], wanted: list[int]
) -> None:
    image = record(*((1, *box) for box in objects))
    detections = found((0.9, 1, *WIDE), (0.8, 1, *second))
    assert outcomes(image, detections, 1) == wanted
    assert coco_outcomes(scored([image], [detections])) == wanted


def coco_outcomes(world: Scored) -> list[int]:
    """Return what pycocotools makes of each detection at IoU .5, in the order of `match`."""
    truth = ground_truth(world.dataset)
    rows = [row for i, one in enumerate(world.detections) for row in result_rows(i, one)]
    if not rows:
        return []
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"info": {}, **truth}
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(rows), "bbox")
        run.evaluate()
    outcome = [-1] * len(rows)
    for part in run.evalImgs:
        if part is None or part["aRng"] != run.params.areaRng[0]:
            continue
        matched, ignored = part["dtMatches"][0], part["dtIgnore"][0]
        for number, hit, skip in zip(part["dtIds"], matched, ignored, strict=True):
            outcome[number - 1] = int(IGNORED if skip else HIT if hit else FALSE)
    return outcome


@settings(deadline=None, max_examples=150)
@given(small_worlds())
def test_equals_pycocotools(world: Scored) -> None:
    assert match(world).outcome.tolist() == coco_outcomes(world)


@settings(deadline=None, max_examples=60)
@given(small_worlds())
def test_equals_the_slow_loop(world: Scored) -> None:
    matches = match(world)
    wanted = [
        outcome
        for image, detections in zip(world.dataset.records, world.detections, strict=True)
        for outcome in slow_outcomes(image, detections, 0.5)
    ]
    assert matches.outcome.tolist() == wanted
    assert matches.hit.sum() <= matches.num_objects
