"""The kinds of mistakes: by hand, and beside the program of TIDE's authors."""

from __future__ import annotations

import numpy as np
import pytest
from eval_worlds import found, random_scored, record, scored

from hardmine.evaluation.error_breakdown import ErrorKind, error_breakdown
from hardmine.evaluation.scored_images import Scored

OBJECT = (10, 10, 50, 50)
"""40 × 40, 1600 square pixels: medium."""


def counts(scores: Scored, threshold: float = 0.5) -> dict[str, int]:
    return {
        kind: number
        for kind, number in error_breakdown(scores, threshold).total.errors.items()
        if number
    }


@pytest.mark.parametrize(
    ("detection", "errors"),
    [
        ((1, 10, 10, 50, 50), {}),
        # 20 px to the right: 20 × 40 = 800 shared of 2400, IoU 1/3
        ((1, 30, 10, 70, 50), {"localisation": 1}),
        ((2, 10, 10, 50, 50), {"classification": 1}),
        ((2, 30, 10, 70, 50), {"both": 1, "missed": 1}),
        # 34 px to the right: 6 × 40 = 240 of 2960, IoU .081
        ((1, 44, 10, 84, 50), {"background": 1, "missed": 1}),
        ((2, 60, 60, 90, 90), {"background": 1, "missed": 1}),
    ],
)
def test_one_detection_beside_one_object(
    detection: tuple[float, ...], errors: dict[str, int]
) -> None:
    val = scored([record((1, *OBJECT))], [found((0.9, *detection))], 2)
    assert counts(val) == errors


def test_a_second_detection_of_an_object_is_a_duplicate() -> None:
    rows = [(0.9, 1, *OBJECT), (0.8, 1, 12, 10, 52, 50), (0.7, 2, 10, 10, 50, 50)]
    val = scored([record((1, *OBJECT))], [found(*rows)], 2)
    assert counts(val) == {"duplicate": 1, "classification": 1}
    assert counts(val, 0.75) == {"duplicate": 1}
    assert counts(val, 0.85) == {}
    assert counts(val, 0.95) == {"missed": 1}


def test_ignored_objects_are_neither_missed_nor_wrong() -> None:
    val = scored([record((1, *OBJECT), ignore=[True])], [found((0.9, 1, *OBJECT))])
    assert counts(val) == {}
    assert error_breakdown(val, 0.5).total.objects == 0


def test_rows_of_classes_and_sizes() -> None:
    small = (60, 60, 70, 70)  # 100 square pixels
    val = scored(
        [record((1, *OBJECT), (2, *small))],
        [found((0.9, 1, *OBJECT), (0.8, 2, 0, 0, 99, 99))],  # 9801: large, IoU .16 with the other
        2,
    )
    breakdown = error_breakdown(val, 0.5)
    first, second = breakdown.classes
    assert (first.objects, first.found, first.recall) == (1, 1, 1.0)
    assert (second.objects, second.found, second.recall) == (1, 0, 0.0)
    assert {k for k, n in second.errors.items() if n} == {"both", "missed"}
    tiny, medium, large = breakdown.sizes
    assert (tiny.objects, tiny.found, tiny.errors["missed"]) == (1, 0, 1)
    assert (medium.objects, medium.found) == (1, 1)
    assert (large.objects, large.recall, large.errors["both"]) == (0, None, 1)
    plain = breakdown.to_dict()
    assert plain["sizes"][0]["recall"] == 0.0
    assert list(plain["total"]["errors"]) == [kind.value for kind in ErrorKind]


def test_what_is_gained_without_each_kind_by_hand() -> None:
    # One class, four objects. Best first: a hit, a badly placed box at the second object, a detection
    # on background; the third and the fourth object are missed.
    objects = [OBJECT, (10, 60, 50, 100), (60, 10, 90, 40), (60, 60, 90, 90)]
    rows = [(0.9, 1, *OBJECT), (0.8, 1, 30, 60, 70, 100), (0.7, 1, 0, 0, 6, 6)]
    val = scored([record(*((1, *box) for box in objects))], [found(*rows)])
    breakdown = error_breakdown(val, 0.85)
    gains = breakdown.total.gains
    # AP50: precision 1 up to recall 1/4, so at the 26 of 101 recalls from 0 to .25.
    assert breakdown.ap50 == pytest.approx(26 / 101)
    # A right box gives precision 1 up to recall 1/2: 51 recalls.
    assert gains["localisation"] == pytest.approx(25 / 101)
    assert gains["background"] == 0  # it comes after all hits
    # Two objects less: recall 1/2, 51 recalls.
    assert gains["missed"] == pytest.approx(25 / 101)
    assert gains["classification"] == gains["duplicate"] == gains["both"] == 0
    assert gains["false_positive"] == 0
    assert gains["false_negative"] == pytest.approx(75 / 101)  # one object is left, and found
    assert breakdown.classes[0].gains == pytest.approx(gains)
    small, medium, large = (row.gains for row in breakdown.sizes)
    assert medium["localisation"] == pytest.approx(25 / 101)  # 40 x 40
    assert small["missed"] == pytest.approx(25 / 101)  # 30 x 30, both
    assert large["missed"] == small["localisation"] == 0
    plain = breakdown.to_dict()
    assert plain["AP50"] == pytest.approx(26 / 101)
    assert plain["total"]["AP50_gained"]["missed"] == pytest.approx(25 / 101)


def test_of_several_mistakes_at_one_object_the_best_is_put_right() -> None:
    # The better one claims another class: with the box of the other one put right, nothing is gained.
    rows = [(0.9, 2, *OBJECT), (0.8, 1, 30, 10, 70, 50)]
    val = scored([record((1, *OBJECT))], [found(*rows)], 2)
    gains = error_breakdown(val, 0.5).total.gains
    assert (gains["classification"], gains["localisation"]) == (1.0, 0.0)


def test_gains_without_objects_or_detections() -> None:
    empty = error_breakdown(scored([record()], [found((0.9, 1, *OBJECT))]), 0.5)
    assert empty.ap50 is None
    assert set(empty.total.gains.values()) == {0.0}
    silent = error_breakdown(scored([record((1, *OBJECT))], [found()]), 0.5)
    assert (silent.ap50, silent.total.gains["missed"]) == (0.0, 0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_the_counts_are_those_of_tide(seed: int, threshold: float) -> None:
    tidecv = pytest.importorskip("tidecv")
    val = random_scored(seed, images=25, num_classes=3, with_ignored=False)
    truth, predicted = tidecv.Data("truth"), tidecv.Data("predicted")
    for name in val.dataset.categories:
        for data in (truth, predicted):
            data.add_class(val.dataset.categories.index(name) + 1, name)
    for image, (rec, dets) in enumerate(
        zip(val.dataset.records, val.detections, strict=True), start=1
    ):
        truth.add_image(image, rec.path.name)
        for box, label in zip(rec.boxes.astype(np.float64), rec.labels, strict=True):
            truth.add_ground_truth(image, int(label), xywh(box))
        for box, score, label in zip(dets.boxes, dets.scores, dets.labels, strict=True):
            if score >= threshold:
                box64 = box.astype(np.float64)
                predicted.add_detection(image, int(label), float(score), xywh(box64))
    run = tidecv.TIDE().evaluate(truth, predicted, mode=tidecv.TIDE.BOX)
    theirs = {kind.short_name: number for kind, number in run.count_errors().items()}
    ours = error_breakdown(val, threshold).total.errors
    assert {
        "Bkg": ours["background"],
        "Loc": ours["localisation"],
        "Cls": ours["classification"],
        "Both": ours["both"],
        "Dupe": ours["duplicate"],
        "Miss": ours["missed"],
    } == theirs
    assert sum(ours.values()) > 50
    if threshold:
        return
    # All detections were given: what each kind costs is theirs too, in percent.
    gains = error_breakdown(val, 0.5).total.gains
    main = {kind.short_name: gain for kind, gain in run.fix_main_errors().items()}
    special = {kind.short_name: gain for kind, gain in run.fix_special_errors().items()}
    assert error_breakdown(val, 0.5).ap50 == pytest.approx(run.ap / 100, abs=1e-9)
    names = {
        "Bkg": "background",
        "Loc": "localisation",
        "Cls": "classification",
        "Both": "both",
        "Dupe": "duplicate",
        "Miss": "missed",
        "FalsePos": "false_positive",
        "FalseNeg": "false_negative",
    }
    for theirs_, ours_ in names.items():
        assert 100 * gains[ours_] == pytest.approx({**main, **special}[theirs_], abs=1e-6), ours_
    assert min(gains[name] for name in names.values()) >= 0
    assert sum(gain > 0.001 for gain in gains.values()) >= 5


def xywh(box: np.ndarray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
