from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.detections import Detections
from hardmine.evaluation.scored_images import Scored
from hardmine.reports.content import curve_line, worst_alarms
from hardmine.reports.wording import (
    Comparison,
    Looked,
    Stop,
    allows_claim,
    ap50_certainty,
    claim,
    class_alarms,
    control_arms,
    count,
    dearest,
    how_sure,
    limits,
    number,
    rate,
    score,
    set_phrase,
    stop_sentence,
    trainings,
    verdict_class,
    what_happened,
    who_looked,
)
from hardmine.types import Dataset, ImageRecord, ImageState


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "–"),
        (0.01234, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (-0.5, "−0.500"),
        (0, "0.000"),
        (0.00045, "0.00045"),
        (-0.0000321, "−0.000032"),
        (1e-17, "0.000"),
        (0.0099, "0.010"),
    ],
)
def test_rate(value: float | None, wanted: str) -> None:
    assert rate(value) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "–"),
        (0.5, "0.500"),
        (0.9989, "0.999"),
        (0.999, "0.999"),
        (0.9994, "0.99940"),
        (0.99979, "0.99979"),
        (0.99999988, "0.99999988"),
        (1.0, "1.000"),
        (0.0, "0.000"),
    ],
)
def test_a_score_near_one_is_told_from_one(value: float | None, wanted: str) -> None:
    assert score(value) == wanted


def test_alarms_of_each_class_name_the_worst_first() -> None:
    rows = [
        {
            "name": name,
            "alarms": alarms,
            "alarms_per_image": None if alarms is None else alarms / 10,
        }
        for name, alarms in zip("abcdefg", (0, 5, 1, 2, 9, 0, 0), strict=True)
    ]
    at = {"recall": 0.8, "classes": rows, "alarms_per_image": 1.7}
    assert class_alarms(at) == (
        "1.70 alarms per image with each class at recall 0.8: e 0.900, b 0.500, d 0.200, c 0.100, "
        "a 0.000 and 2 more"
    )
    rows[3]["alarms"] = rows[3]["alarms_per_image"] = None
    assert class_alarms(at) == (
        "alarms with each class at recall 0.8 are not known: not reached by d"
    )


def test_other_numbers() -> None:
    assert number(0.98765) == "0.988"
    assert limits([None, 2.5]) == "? to 2.50"
    assert limits(None) == "–"
    assert (count(12.0), count(12.333), count(None)) == ("12", "12.3", "–")


def compared(with_itself: bool = True, **ratio: Any) -> Comparison:
    usual = {
        "ratio": 0.5,
        "low": 0.2,
        "high": 0.9,
        "per_image_a": 0.04,
        "per_image_b": 0.83,
        "note": "",
        "seeds": [1],
    }
    ap50 = {"value_a": 0.95, "value_b": 0.95, "difference": 0.0, "low": -0.01, "high": 0.02}
    other = ("mined", 0) if with_itself else ("random", 3)
    return Comparison("mined", 3, *other, "held_out", usual | ratio, ap50, images=150)


def test_a_verdict_says_first_what_happened() -> None:
    assert what_happened(compared()) == (
        "False alarms fell from 0.830 to 0.040 per image at recall 0.8 on the 150 held-out images (arm "
        "mined, after round 3); AP50 is the same (0.950)."
    )
    assert what_happened(compared(per_image_a=1.0)).startswith(
        "False alarms rose from 0.830 to 1.00"
    )
    same = what_happened(compared(per_image_a=0.8301))
    assert same.startswith("False alarms stayed at 0.830 per image")
    assert what_happened(compared(with_itself=False)).startswith(
        "Arm mined has 0.040 false alarms per image and arm random has 0.830 at recall 0.8 on the 150"
    )
    assert what_happened(compared(per_image_b=None)) == (
        "The false alarms of rounds 0 and 3 of arm mined cannot be compared on the 150 held-out images."
    )
    assert what_happened(compared(with_itself=False, per_image_a=None)) == (
        "The false alarms of the arms mined and random after round 3 cannot be compared on the 150 "
        "held-out images."
    )


def test_few_alarms_on_very_many_images_are_not_nothing() -> None:
    """40 and 10 alarms on 100,000 frames of a video."""
    said = what_happened(compared(per_image_a=0.0001, per_image_b=0.0004))
    assert said.startswith("False alarms fell from 0.00040 to 0.00010 per image")


def test_ap50_is_said_too() -> None:
    fell = replace(compared(), ap50={"value_a": 0.9, "value_b": 0.95})
    assert what_happened(fell).endswith("; AP50 fell from 0.950 to 0.900.")
    arms = replace(compared(with_itself=False), ap50={"value_a": 0.9, "value_b": 0.95})
    assert what_happened(arms).endswith("; AP50 is 0.900 and 0.950.")
    assert what_happened(replace(fell, ap50={"value_a": None})).endswith("; AP50 is not defined.")
    assert ap50_certainty(compared()) == (
        "The difference of AP50 is 0.000 (95 % interval −0.010 to 0.020)."
    )
    assert ap50_certainty(replace(fell, ap50=None)) == ""


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (0.2, 0.99, "better", "This fall is larger than chance in the test images explains."),
        (1.01, 3.0, "worse", "This rise is larger than chance in the test images explains."),
        (0.2, 1.0, "open", "Chance in the test images alone may explain this."),
        (0.2, None, "open", "Chance in the test images alone may explain this."),
        (None, None, "open", "Chance in the test images alone may explain this."),
    ],
)
def test_no_claim_beyond_the_interval(
    low: float | None, high: float | None, verdict: str, words: str
) -> None:
    found = compared(low=low, high=high)
    assert verdict_class(found.ratio) == verdict
    assert claim(found).startswith(words)
    assert allows_claim(found) == (verdict != "open")


def test_the_ratio_its_interval_and_its_note() -> None:
    assert claim(compared()).endswith(
        "Ratio of the false alarms: 0.500 (95 % interval 0.200 to 0.900)."
    )
    few = compared(with_itself=False, ratio=None, note="fewer than 10 alarms")
    assert how_sure(few) == (
        "This difference is larger than chance in the test images explains. For the ratio of the "
        "false alarms: 95 % interval 0.200 to 0.900. Fewer than 10 alarms."
    )
    against_none = compared(ratio=None, low=15.77, high=None, note="fewer than 10 alarms")
    assert how_sure(against_none) == (
        "This rise is larger than chance in the test images explains. For the ratio of the false "
        "alarms: 95 % interval 15.8 to ?. Fewer than 10 alarms."
    )
    none = compared(ratio=None, low=None, high=None, note="too few")
    assert how_sure(none) == "No claim is made: too few."
    assert verdict_class(none.ratio) == "open"


def test_how_many_trainings_stand_behind_it() -> None:
    assert trainings([compared()]).startswith("Each model was trained once")
    assert trainings([compared(seeds=[1, 2, 3])]) == "The figures are means over 3 seeds."


def test_sets_and_control_arms_by_their_names() -> None:
    assert set_phrase("stop", 120) == "the 120 images kept for deciding when to stop"
    assert set_phrase("crops", None) == "object-free crops of the validation images"
    assert set_phrase("mine", 3) == "mine"
    assert control_arms({"mined": "hard", "random": "at random", "none": "no images"}) == (
        "The loop ran with two control arms: random (at random), none (no images)."
    )
    assert control_arms({"mined": "hard"}) == ""


def test_what_a_stop_rule_says() -> None:
    assert stop_sentence(Stop("recipe", None, None)) == "By the rule “recipe” the loop would go on."
    assert stop_sentence(Stop("guarded", 2, "AP50 fell")) == (
        "By the rule “guarded” the loop would end after round 2: AP50 fell."
    )


def empties(*best: float) -> Scored:
    records = tuple(
        ImageRecord.empty(Path(f"{i}.jpg"), 9, 9, ImageState.VERIFIED_EMPTY)
        for i in range(len(best))
    )
    detections = tuple(
        Detections(
            np.array([[0, 0, 5, 5]], np.float32),
            np.array([score], np.float32),
            np.array([1], np.int64),
        )
        if score
        else Detections.none()
        for score in best
    )
    return Scored(Dataset(("a",), records, Path("set")), detections)


def test_worst_alarms_come_first_and_silent_images_not_at_all() -> None:
    gallery = worst_alarms(empties(0.2, 0, 0.9, 0.5), top=2)
    assert [picture.caption for picture in gallery.pictures] == ["0.90 · 2.jpg", "0.50 · 3.jpg"]
    assert gallery.total == 3
    assert worst_alarms(empties(0, 0)).pictures == ()


def test_curve_line() -> None:
    assert curve_line("a", empties(0.5), empties(0.5)) is None
    record = ImageRecord(
        Path("v.jpg"),
        9,
        9,
        np.array([[0, 0, 5, 5]], np.float32),
        np.array([1], np.int64),
        np.array([False]),
        ImageState.LABELLED,
    )
    hit = Detections(record.boxes, np.array([0.75], np.float32), record.labels)
    line = curve_line("a", Scored(Dataset(("a",), (record,), Path("v")), (hit,)), empties(0.5, 0))
    assert line is not None
    # the hit at .75 (no alarm yet), then one alarm on two images
    assert line.points == ((0.0, 0.0), (0.5, 0.0))


def test_who_looked_is_said_with_names_and_with_how_many_nobody_saw() -> None:
    rows = [
        Looked("mined", 1, 10, {"empty": 6}, {"ann": 5, "ben": 1}),
        Looked("mined", 2, 5, {"empty": 5}, {"ben": 5}),
    ]
    assert who_looked(rows) == ("Of 15 candidates, ben decided on 6, ann on 5; nobody looked at 4.")
    assert who_looked(rows[1:]) == (
        "Of 5 candidates, ben decided on 5; somebody looked at all of them."
    )
    nobody = [Looked("mined", 1, 10, {}, {})]
    assert who_looked(nobody).startswith("Nobody looked at the 10 candidates: they were taken")
    one = [Looked("mined", 1, 1, {}, {})]
    assert who_looked(one).startswith("Nobody looked at the 1 candidate: it was taken")


def test_the_dearest_mistake_is_named_with_its_gain() -> None:
    assert dearest({"missed": 0.1, "background": 0.25, "false_negative": 0.9}) == "background 0.250"
    assert dearest({"missed": 0.0001}) == "–"
    assert dearest({}) == dearest(None) == "–"
