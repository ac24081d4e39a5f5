"""Assignment: bipartite first, then by threshold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.losses.matcher import (
    AssignerConfig,
    assign_priors,
    beyond_limit_of_all,
    beyond_limit_of_few,
    match_boxes,
    match_slots,
)
from hardmine.tensors import Assignment, Batch, Priors
from loss_worlds import make_batch, make_priors


def share_inside(box: list[float], region: list[float]) -> float:
    width = min(box[2], region[2]) - max(box[0], region[0])
    height = min(box[3], region[3]) - max(box[1], region[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def slow_assign(batch: Batch, priors: Priors, threshold: float) -> list[list[tuple[int, int]]]:
    """Per-element oracle, written from the definition: (label, box index or −1) of each prior."""
    corners = cxcywh_to_xyxy(priors.cxcywh)
    out = []
    for b in range(len(batch.labels)):
        real = [
            g
            for g in range(batch.labels.shape[1])
            if batch.labels[b, g] > 0 and not batch.ignore[b, g]
        ]
        iou = {
            (g, a): float(box_iou(batch.boxes[b, g][None], corners[a][None]))
            for g in range(batch.labels.shape[1])
            for a in range(len(corners))
        }
        result = [(0, -1)] * len(corners)
        boxes_left, priors_left = set(real), set(range(len(corners)))
        while boxes_left and priors_left:
            g, a = max(
                ((g, a) for g in boxes_left for a in priors_left),
                key=lambda p: (iou[p], -p[0] * len(corners) - p[1]),
            )
            if iou[g, a] <= 1e-6:
                break
            result[a] = (int(batch.labels[b, g]), g)
            boxes_left.discard(g)
            priors_left.discard(a)
        for a in priors_left:
            best = max(real, key=lambda g: (iou[g, a], -g), default=None)
            if best is not None and iou[best, a] >= threshold:
                result[a] = (int(batch.labels[b, best]), best)
            elif any(
                share_inside(corners[a].tolist(), box.tolist()) >= 0.5
                for box in batch.boxes[b][batch.ignore[b]]
            ):
                result[a] = (-1, -1)
        out.append(result)
    return out


def pairs(assignment: Assignment) -> list[list[tuple[int, int]]]:
    return [
        [(int(lab), int(box) if lab > 0 else -1) for lab, box in zip(labs, boxes, strict=True)]
        for labs, boxes in zip(assignment.labels, assignment.box_index, strict=True)
    ]


def test_two_boxes_sharing_one_best_prior_both_match() -> None:
    """Trap: forced matching in torchvision's matcher loses one of them."""
    priors = make_priors([[0, 0, 10, 10], [40, 0, 60, 20]])
    batch = make_batch([[[0, 0, 9, 10], [0, 0, 30, 10]]], [[1, 2]])
    # Box 0 has IoU .9 with prior 0; box 1 has 1/3 with prior 0 and nothing left but prior 1, IoU 0.
    assert pairs(assign_priors(batch, priors, AssignerConfig()))[0] == [(1, 0), (0, -1)]
    touching = make_priors([[0, 0, 10, 10], [20, 0, 60, 20]])
    # Now prior 1 shares 10 x 10 with box 1: it gets it although IoU = 100 / (300 + 800 − 100) = .1.
    assert pairs(assign_priors(batch, touching, AssignerConfig()))[0] == [(1, 0), (2, 1)]


def test_a_forced_prior_keeps_the_box_that_it_was_forced_on() -> None:
    """All 10 px high. Box 0 is prior 0 (IoU 1) and overlaps prior 1 by 8 / 12. Box 1 overlaps prior 0
    by 6 / 14, which is taken, and prior 1 by 4 / 16: forced on prior 1, whose best box is box 0.
    """
    priors = make_priors([[0, 0, 10, 10], [2, 0, 12, 10]])
    batch = make_batch([[[0, 0, 10, 10], [-4, 0, 6, 10]]], [[1, 2]])
    found = assign_priors(batch, priors, AssignerConfig())
    assert found.box_index.tolist() == [[0, 1]]
    assert found.labels.tolist() == [[1, 2]]
    assert found.iou.tolist() == [[1.0, pytest.approx(8 / 12)]]


def test_what_reaches_the_threshold_is_trained_on_the_box_that_it_overlaps_most() -> None:
    """Priors 0 and 1 are forced; prior 2 overlaps the second box by 100 / 120."""
    priors = make_priors([[0, 0, 10, 10], [50, 0, 60, 10], [50, 0, 60, 12]])
    batch = make_batch([[[0, 0, 10, 10], [50, 0, 60, 10]]], [[1, 2]])
    found = assign_priors(batch, priors, AssignerConfig())
    assert found.box_index.tolist() == [[0, 1, 1]]
    assert found.labels.tolist() == [[1, 2, 2]]
    assert found.iou.tolist() == [[1.0, 1.0, pytest.approx(100 / 120)]]


def test_a_box_that_overlaps_no_prior_takes_none() -> None:
    """Trap: argmax over zeros is index 0."""
    priors = make_priors([[0, 0, 10, 10], [20, 0, 30, 10]])
    result = assign_priors(make_batch([[[100, 100, 120, 120]]], [[1]]), priors, AssignerConfig())
    assert result.labels.tolist() == [[0, 0]]


def test_image_without_boxes() -> None:
    priors = make_priors([[0, 0, 10, 10]])
    result = assign_priors(make_batch([[], [[0, 0, 10, 10]]], [[], [3]]), priors, AssignerConfig())
    assert result.labels.tolist() == [[0], [3]]
    assert result.iou.tolist() == [[0.0], [1.0]]


def test_threshold_is_inclusive() -> None:
    # 10 x 10 in 10 x 20: IoU = 100 / 200 = .5 exactly; the other prior wins the forced match.
    priors = make_priors([[0, 0, 10, 20], [0, 0, 10, 10]])
    batch = make_batch([[[0, 0, 10, 10]]], [[1]])
    assert assign_priors(batch, priors, AssignerConfig(0.5)).labels.tolist() == [[1, 1]]
    assert assign_priors(batch, priors, AssignerConfig(0.51)).labels.tolist() == [[0, 1]]


def test_ignored_boxes_and_band() -> None:
    priors = make_priors([[0, 0, 10, 10], [50, 0, 60, 20], [0, 0, 10, 25]])
    batch = make_batch([[[0, 0, 10, 10], [50, 0, 60, 10]]], [[1, 1]], [[False, True]])
    # Of prior 1 100 / 200 = .5 lie in the ignored box; prior 2 has IoU 100 / 250 = .4 with box 0.
    assert assign_priors(batch, priors, AssignerConfig()).labels.tolist() == [[1, -1, 0]]
    assert assign_priors(batch, priors, AssignerConfig(0.51)).labels.tolist() == [[1, -1, 0]]
    band = AssignerConfig(0.5, ignore_above=0.4)
    assert assign_priors(batch, priors, band).labels.tolist() == [[1, -1, -1]]


@pytest.mark.parametrize("device", ["cpu", "fixed shapes"])
def test_small_priors_in_a_large_crowd_are_no_background(device: str) -> None:
    """The evaluation does not count detections in a crowd, so training must not punish them."""
    crowd = [0.0, 0, 100, 100]
    corners = [
        [10, 10, 20, 20],
        [95, 0, 105, 10],
        [96, 0, 106, 10],
        [0, 0, 150, 150],
        [0, 0, 30, 30],
    ]
    priors = make_priors(corners)
    batch = make_batch([[crowd, [0, 0, 30, 30]]], [[1, 2]], [[True, False]])
    # Inside: all, .5, .4, 10,000 / 22,500; the last one is an object's.
    if device == "cpu":
        assert assign_priors(batch, priors, AssignerConfig()).labels.tolist() == [[-1, -1, 0, 0, 2]]
    real = (batch.labels > 0) & ~batch.ignore
    how = match_boxes if device == "cpu" else match_slots
    shares = how(batch.boxes, real, batch.ignore, cxcywh_to_xyxy(priors.cxcywh))[3][0]
    assert shares.tolist() == pytest.approx([1, 0.5, 0.4, 10_000 / 22_500, 1])


def test_all_boxes_ignored() -> None:
    priors = make_priors([[0, 0, 10, 10], [50, 0, 60, 10]])
    batch = make_batch([[[0, 0, 10, 10]]], [[1]], [[True]])
    assert assign_priors(batch, priors, AssignerConfig()).labels.tolist() == [[-1, 0]]


CORNER = st.integers(0, 12)
BOX = st.tuples(CORNER, CORNER, st.integers(2, 10), st.integers(2, 10)).map(
    lambda b: [float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3])]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(BOX, st.integers(1, 3), st.booleans()), max_size=4),
        min_size=1,
        max_size=3,
    ),
    st.lists(BOX, min_size=1, max_size=8, unique_by=tuple),
)
def test_equal_to_the_slow_loop(
    images: list[list[tuple[list[float], int, bool]]], prior_boxes: list[list[float]]
) -> None:
    batch = make_batch(
        [[b for b, _, _ in image] for image in images],
        [[n for _, n, _ in image] for image in images],
        [[s for _, _, s in image] for image in images],
    )
    priors = make_priors(prior_boxes)
    assert pairs(assign_priors(batch, priors, AssignerConfig())) == slow_assign(batch, priors, 0.5)


def slow_limit(batch: Batch, priors: Priors, most: int) -> list[list[int]]:
    """Per-element oracle: the labels of ``slow_assign``, of which each box keeps its best ``most``."""
    iou = assign_priors(batch, priors, AssignerConfig()).iou
    # No IoU reaches that threshold, so that all positives are forced.
    forced = slow_assign(batch, priors, 1.0 + 1e-6)
    labels = []
    for b, row in enumerate(slow_assign(batch, priors, 0.5)):
        left = [label for label, _ in row]
        for box in {box for _, box in row if box >= 0}:
            mine = [a for a, (_, of) in enumerate(row) if of == box]
            mine.sort(key=lambda a: (forced[b][a][1] != box, -float(iou[b, a]), a))
            for a in mine[most:]:
                left[a] = -1
        labels.append(left)
    return labels


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(BOX, st.integers(1, 3)), max_size=3), min_size=1, max_size=3),
    st.lists(BOX, min_size=1, max_size=12, unique_by=tuple),
    st.integers(1, 4),
)
def test_a_limit_of_positives_equals_the_slow_loop(
    images: list[list[tuple[list[float], int]]], prior_boxes: list[list[float]], most: int
) -> None:
    batch = make_batch([[b for b, _ in i] for i in images], [[n for _, n in i] for i in images])
    priors = make_priors(prior_boxes)
    found = assign_priors(batch, priors, AssignerConfig(max_positives=most))
    assert found.labels.tolist() == slow_limit(batch, priors, most)


def test_a_box_keeps_its_best_positives_and_ignores_the_others() -> None:
    """Priors of 10 x h on a box of 10 x 10: IoU .5, 1, .8, .8, .625, and .4, which is background."""
    priors = make_priors([[0, 0, 10, h] for h in (20, 10, 12.5, 12.5, 16, 25)])
    batch = make_batch([[[0, 0, 10, 10], [50, 0, 60, 10]], []], [[3, 1], []])
    for most, wanted in (
        (1, [-1, 3, -1, -1, -1, 0]),
        (2, [-1, 3, 3, -1, -1, 0]),
        (4, [-1, 3, 3, 3, 3, 0]),
        (5, [3, 3, 3, 3, 3, 0]),
        (99, [3, 3, 3, 3, 3, 0]),
    ):
        found = assign_priors(batch, priors, AssignerConfig(max_positives=most))
        assert found.labels.tolist() == [wanted, [0] * 6]


def test_the_greedy_match_of_a_box_is_kept() -> None:
    """Box 1 is forced on prior 1, which is its only one."""
    priors = make_priors([[0, 0, 10, 10], [-4, 0, 6, 12.5]])
    batch = make_batch([[[0, 0, 10, 10], [-4, 0, 6, 10]]], [[1, 2]])
    found = assign_priors(batch, priors, AssignerConfig(max_positives=1))
    assert found.labels.tolist() == [[1, 2]]


@pytest.mark.parametrize("seed", range(10))
def test_both_ways_of_limiting_agree(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    positive = torch.rand(3, 200, generator=draw) < 0.3
    box_index = torch.randint(0, 5, (3, 200), generator=draw)
    rank = torch.randint(0, 9, (3, 200), generator=draw) / 8  # with many equals
    few = beyond_limit_of_few(positive, box_index, rank, 1 + seed)
    assert few.equal(beyond_limit_of_all(positive, box_index, rank, 1 + seed))
    assert few.any()
    assert not (few & ~positive).any()


def test_contradictory_thresholds() -> None:
    for iou_threshold, ignore_above in ((0.5, 0.6), (0.5, 0.0), (0.0, None), (1.1, None)):
        with pytest.raises(ConfigError, match="wanted 0 < ignore_above <= iou_threshold <= 1"):
            AssignerConfig(iou_threshold, ignore_above)
    assert AssignerConfig(1.0).iou_threshold == AssignerConfig(1.0, 1.0).ignore_above == 1.0
    with pytest.raises(ConfigError, match="max_positives: got 0, wanted >= 1"):
        AssignerConfig(max_positives=0)


def test_a_box_beside_or_below_a_prior_does_not_overlap_it() -> None:
    # Same columns but other rows, and same rows but other columns: no pixel in common, so neither the
    # forced match nor the threshold may take the prior.
    priors = make_priors([[40.0, 40, 60, 60]])
    below, beside = [40.0, 100, 60, 120], [100.0, 40, 120, 60]
    assigned = assign_priors(make_batch([[below], [beside]], [[1], [1]]), priors, AssignerConfig())
    assert assigned.labels.tolist() == [[0], [0]]
    assert assigned.iou.tolist() == [[0.0], [0.0]]


def test_boxes_of_less_than_a_pixel_overlap_by_their_own_area() -> None:
    # A prior of .5 x .5 and the same box: .25 shared of .25.
    small = [10.0, 10, 10.5, 10.5]
    assigned = assign_priors(make_batch([[small]], [[1]]), make_priors([small]), AssignerConfig())
    assert assigned.iou.tolist() == [[1.0]]
    assert assigned.labels.tolist() == [[1]]
