"""Each hypothesis on evidence written by hand: true by construction, not true, and not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardmine.data.resize import Resize
from hardmine.diagnosis.diagnosis_page import example_pictures
from hardmine.diagnosis.diagnosis_result import Answer, Verdict
from hardmine.diagnosis.evidence import Evidence, distortions
from hardmine.diagnosis.hypotheses import HYPOTHESES, judge, missing_labels
from hardmine.diagnosis.probe import GradientProbe, SetProbe, Suspect
from hardmine.losses.negative_mining import AllConfig, LevelQuotaConfig, RandomConfig, RatioConfig
from hardmine.prior_design.coverage import CanvasBoxes, measure_coverage
from hardmine.prior_design.prior_layout import layout_of_recipe
from hardmine.recipes.named_recipes import small160
from hardmine.types import Dataset, ImageRecord, ImageState, evenly_spread

TESTS = {each.key: each.test for each in HYPOTHESES}
RECIPE = small160()
"""160 px; priors of 32 … 152 px, so that a box of 60 px is reached and one of 4 px is not."""


def rows(**changes: Any) -> tuple[dict[str, Any], ...]:
    """Return sixteen rows of a healthy run on two levels, with some columns changed."""
    row = {
        "images": 20.0,
        "images_without_objects": 5.0,
        "floor_share": 0.3,
        "gradient_share_without_objects": 0.1,
        "class_gradient": 0.05,
        "class_gradient_max": 0.07,
        "box_gradient": 0.05,
    }
    for level in (0, 1):
        row |= {
            f"level{level}.priors": 100.0,
            f"level{level}.positives": 50.0,
            f"level{level}.negatives": 150.0,
            f"level{level}.positive_loss": 0.5,
            f"level{level}.negative_loss": 0.2,
            f"level{level}.positive_gradient": 0.02,
            f"level{level}.negative_gradient": 0.02,
            f"level{level}.own.a.positives": 50.0,
            f"level{level}.own.a": 0.7,
        }
    row |= changes
    return tuple({"step": 5.0 * (i + 1), **row} for i in range(16))


def probed(iou: float = 0.8, found: int = 90, missed: int = 10, suspects: int = 0) -> SetProbe:
    """Return a set with labels met by ``iou``, labels not met at all, which are those on level 1, and
    unexplained detections.
    """
    overlaps = np.array([iou] * found + [0.0] * missed)
    count = len(overlaps)
    places = tuple(
        Suspect(0, np.zeros(4, np.float32), 1, 0.95 - i * 1e-3, 0.0, 400.0) for i in range(suspects)
    )
    return SetProbe(
        images=10,
        object_iou=overlaps,
        object_score=np.where(overlaps > 0, 0.9, 0.0),
        object_label=np.ones(count),
        object_area=np.full(count, 900.0),
        object_level=np.array([0.0] * found + [1.0] * missed),
        object_image=np.zeros(count),
        object_box=np.zeros((count, 4)),
        detected_box=np.zeros((count, 4)),
        own_probability=0.7,
        hard_loss=0.2,
        random_loss=0.02,
        suspects=places,
    )


def scored(score: float, **known: Any) -> SetProbe:
    """Return such a set whose unexplained detections have a score; those of labels have .9."""
    found = probed(**known)
    return replace(found, suspects=tuple(replace(each, score=score) for each in found.suspects))


def evidence(side: float = 60.0, **changes: Any) -> Evidence:
    """Return the evidence of a healthy run; ``side`` is that of the objects, px."""
    box = np.array([[60.0, 60.0, 60.0 + side, 60.0 + side]])
    one = np.ones(1, np.int64)
    record = ImageRecord(
        Path("a.png"), 160, 160, box.astype(np.float32), one, np.zeros(1, bool), ImageState.LABELLED
    )
    boxes = CanvasBoxes(box, one, np.zeros(1, np.int64), ("a",))
    known: dict[str, Any] = {
        "telemetry": rows(),
        "data": Dataset(("a",), (record,), Path()),
        "train": probed(),
        "val": probed(),
        "gradients": GradientProbe(1.0, 0.8, 3.0, 1.0, 0.9, -0.9),
        "coverage": measure_coverage(boxes, layout_of_recipe(RECIPE)),
    }
    return Evidence(Path("run"), RECIPE, ("a",), **{**known, **changes})


@pytest.mark.parametrize("key", TESTS)
def test_a_healthy_run_is_not_accused(key: str) -> None:
    assert TESTS[key](evidence()).answer is Answer.NOT_SUPPORTED


@pytest.mark.parametrize("key", TESTS)
def test_without_evidence_nothing_is_said(key: str) -> None:
    bare = Evidence(Path("run"), RECIPE, ("a",))
    assert TESTS[key](bare).answer is Answer.UNKNOWN


one_level = {
    "level1.positives": 0.0,
    "level1.own.a.positives": 0.0,
    "level1.own.a": None,
    "level1.positive_loss": None,
}
starved = {
    "level1.positives": 30.0,
    "level1.own.a.positives": 30.0,
    "level1.own.a": 0.2,
    "level1.negatives": 600.0,
}
"""Level 1 knows its class badly and has many negatives."""
forgotten = tuple(
    {
        **row,
        "level0.positive_loss": 0.4 + 0.05 * max(0, i - 8),
        "level0.negative_loss": 0.4 - 0.02 * i,
    }
    for i, row in enumerate(rows())
)
PLANTED: list[tuple[str, dict[str, Any]]] = [
    ("floor", {"telemetry": rows(gradient_share_without_objects=0.001)}),
    ("priors", {"side": 4.0}),
    ("levels", {"telemetry": rows(**one_level)}),
    ("levels", {"telemetry": rows(**starved)}),
    ("localisation", {"gradients": GradientProbe(1.0, 9.0, 3.0, 1.0, 0.9, -0.9)}),
    ("localisation", {"gradients": GradientProbe(1.0, 0.05, 3.0, 1.0, 0.9, -0.9)}),
    ("gradient", {"telemetry": rows(**{"level0.negatives": 2000.0})}),
    ("gradient", {"telemetry": rows(class_gradient_max=0.5)}),
    ("ambiguity", {"val": probed(iou=0.33)}),
    ("labels", {"train": probed(suspects=11)}),
    ("capacity", {"train": probed(found=40, missed=60)}),
    ("capacity", {"val": probed(found=40, missed=60)}),
    ("capacity", {"telemetry": forgotten}),
]


@pytest.mark.parametrize(("key", "changes"), PLANTED)
def test_a_planted_cause_is_supported_with_what_to_change(
    key: str, changes: dict[str, Any]
) -> None:
    found = TESTS[key](evidence(**changes))
    assert found.answer is Answer.SUPPORTED
    assert found.reasons
    assert found.option
    assert bool(found.settings) != found.fits_priors


@pytest.mark.parametrize(("key", "changes"), PLANTED)
def test_weights_of_an_interrupted_training_accuse_nothing(
    key: str, changes: dict[str, Any]
) -> None:
    """Priors, floor and gradient are read off exactly, and so is that one level has all positives."""
    known = key in {"floor", "priors", "localisation", "gradient"} or changes == PLANTED[2][1]
    hypothesis = next(each for each in HYPOTHESES if each.key == key)
    found = judge(hypothesis, evidence(**changes, is_finished=False))
    assert found.answer is (Answer.SUPPORTED if known else Answer.UNKNOWN)
    assert ("--resume" in found.reasons[0]) != known
    healthy = judge(hypothesis, evidence(is_finished=False))
    assert healthy.answer is Answer.NOT_SUPPORTED


def test_gradients_that_are_no_numbers_say_nothing() -> None:
    given = evidence(gradients=GradientProbe(float("nan"), 1.0, 3.0, 1.0, 0.9, -0.9))
    assert TESTS["localisation"](given).answer is Answer.UNKNOWN
    assert evidence(telemetry=rows(class_gradient=float("nan"))).last("class_gradient") is None


def test_every_setting_of_a_remedy_is_one_of_the_recipe() -> None:
    from hardmine.recipes.recipe import apply_settings

    for key, changes in PLANTED:
        settings = TESTS[key](evidence(**changes)).settings
        assert apply_settings(RECIPE, settings) != RECIPE or not settings, settings


def met(found: int, of: int = 100, iou: float = 0.8, other: float = 0.0) -> SetProbe:
    """Return a set of which so many labels are met by ``iou`` and the rest by ``other``."""
    return replace(probed(), object_iou=np.array([iou] * found + [other] * (of - found)))


def pulls(boxes: float) -> dict[str, Any]:
    return {"gradients": GradientProbe(1.0, boxes, 3.0, 1.0, 0.9, -0.9)}


def covered(reached: int, of: int = 100) -> dict[str, Any]:
    """Objects of 60 px, which a prior reaches, and of 4 px, which none does."""
    sides = np.array([60.0] * reached + [4.0] * (of - reached))
    boxes = np.stack([60.0 - sides / 2, 60.0 - sides / 2, 60.0 + sides / 2, 60.0 + sides / 2], 1)
    ones = np.ones(of, np.int64)
    canvas = CanvasBoxes(boxes, ones, np.zeros(of, np.int64), ("a",))
    return {"coverage": measure_coverage(canvas, layout_of_recipe(RECIPE))}


def wide(width: int) -> dict[str, Any]:
    image = ImageRecord.empty(Path("w.png"), width, 1000, ImageState.VERIFIED_EMPTY)
    return {"data": Dataset(("a",), (image,), Path())}


def telemetry(**columns: float) -> dict[str, Any]:
    return {"telemetry": rows(**columns)}


AT_THE_LIMIT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # 5 of 20 images are empty: (s / (1 − s)) / (5 / 15) is .0398 and .0603, .05 is the limit
    (
        "floor",
        telemetry(gradient_share_without_objects=0.0131),
        telemetry(gradient_share_without_objects=0.0197),
    ),
    ("localisation", pulls(4.1), pulls(3.9)),
    ("localisation", pulls(0.12), pulls(0.13)),
    # 100 positives; the floor of 32 gives .3 · 20 · 32 = 192 of the negatives: 10.1 and 9.9 are left
    (
        "gradient",
        telemetry(**{"level0.negatives": 1052.0}),
        telemetry(**{"level0.negatives": 1032.0}),
    ),
    ("gradient", telemetry(class_gradient_max=0.251), telemetry(class_gradient_max=0.249)),
    ("ambiguity", {"val": met(59, other=0.33)}, {"val": met(61, other=0.33)}),
    ("ambiguity", {"train": met(59, other=0.33)}, {"train": met(61, other=0.33)}),
    ("capacity", {"train": met(59), "val": met(59)}, {"train": met(60), "val": met(60)}),
    ("capacity", {"train": met(90), "val": met(64)}, {"train": met(90), "val": met(66)}),
    ("priors", covered(49), covered(51)),
    ("priors", wide(1610), wide(1590)),
    (
        "levels",
        telemetry(**{"level0.positives": 96.0, "level1.positives": 4.0}),
        telemetry(**{"level0.positives": 94.0, "level1.positives": 6.0}),
    ),
]


@pytest.mark.parametrize(("key", "beyond", "within"), AT_THE_LIMIT)
def test_each_limit_is_where_the_documentation_says(
    key: str, beyond: dict[str, Any], within: dict[str, Any]
) -> None:
    floor = replace(RECIPE, loss=replace(RECIPE.loss, selection=RatioConfig(floor=32)))
    assert TESTS[key](replace(evidence(**beyond), recipe=floor)).answer is Answer.SUPPORTED
    assert TESTS[key](replace(evidence(**within), recipe=floor)).answer is Answer.NOT_SUPPORTED


def test_figures_in_the_sentences_are_those_of_the_evidence() -> None:
    """An empty image gives (.1 / .9) / (5 / 15) of the gradient of one with objects; the first quarter
    of the steps counts for no spike; losses of negatives are .6 / .2 and .01 / .02 times as high.
    """
    assert TESTS["floor"](evidence()).effect.startswith("0.33 times the gradient")
    early = list(rows())
    early[1] = {**early[1], "class_gradient_max": 9.0}
    assert "spikes of 1.4" in TESTS["gradient"](evidence(telemetry=tuple(early))).effect
    late = list(rows())
    late[-1] = {**late[-1], "class_gradient_max": 9.0}
    assert "spikes of 180.0" in TESTS["gradient"](evidence(telemetry=tuple(late))).effect
    val = replace(probed(), hard_loss=0.6, random_loss=0.01)
    said = " ".join(TESTS["capacity"](evidence(val=val)).reasons)
    assert "validation image is 3.00 times, that of random negatives 0.50 times as high" in said
    for odd in (None, 0.0, float("nan")):
        said = TESTS["capacity"](evidence(val=replace(val, hard_loss=odd))).reasons
        assert not any("times as high" in line for line in said)
    bins = {f"iou_{name}": 0.1 for name in ("0", "0+", "0.1+")}
    bins |= {"iou_0.2+": 0.2, "iou_0.3+": 0.05, "iou_0.4+": 0.03, "iou_0.5+": 0.02}
    bins |= {"iou_0.2+.gradient": 0.3, "iou_0.3+.gradient": 0.2, "iou_0.4+.gradient": 0.05}
    said = " ".join(TESTS["ambiguity"](evidence(telemetry=rows(**bins))).reasons)
    assert "28% of the selected negatives overlap an object by .2 to .5; they give 55%" in said


def test_the_loss_of_batches_with_few_positives_is_set_against_that_of_many() -> None:
    """Steps of 10 positives cost 3, of 20 cost 2 and of 30 cost 1; the first quarter is left out."""
    steps = tuple((float(3 - i % 3), float(10 * (1 + i % 3))) for i in range(80))
    said = " ".join(TESTS["priors"](evidence(steps=((99.0, 10.0),) * 20 + steps)).reasons)
    assert "with the fewest positives is 3.00 times that of the fifth with the most" in said


def test_boxes_are_weighed_up_and_down_to_the_weight_of_the_classes() -> None:
    """At weight 1 and a gradient .05 times as large, weight 20 makes both equal."""
    light = TESTS["localisation"](evidence(**pulls(0.05)))
    assert light.settings == ("loss.box_weight=20",)


def test_boxes_of_weight_0_are_given_the_usual_weight() -> None:
    bare = replace(RECIPE, loss=replace(RECIPE.loss, box_weight=0.0))
    found = TESTS["localisation"](replace(evidence(**pulls(0.0)), recipe=bare))
    assert found.answer is Answer.SUPPORTED
    assert found.settings == ("loss.box_weight=1",)
    none = TESTS["localisation"](evidence(**pulls(0.0)))
    assert none.reasons == ("None of the images that were looked at gives a positive.",)


def test_one_is_not_written_as_many() -> None:
    said = TESTS["labels"](evidence(train=replace(probed(suspects=1), images=1))).reasons[0]
    assert said.startswith("On 1 training image with 100 labels, 1 place looks like an object")
    assert said.endswith("1 of them reaches that score itself.")
    said = TESTS["ambiguity"](evidence(train=probed(found=1, missed=60))).reasons[0]
    assert said == "Only 1 label is touched by a detection of the class."


def test_images_that_were_looked_at_are_not_asked_for() -> None:
    """A network of which only the heads are trained has no gradient to compare."""
    said = TESTS["localisation"](evidence(gradients=None)).reasons
    assert "give --data" not in said[0]
    assert "nothing to compare" in said[0]


def test_a_rule_without_a_quota_is_given_no_floor() -> None:
    every = replace(RECIPE, loss=replace(RECIPE.loss, selection=AllConfig()))
    silent = evidence(telemetry=rows(gradient_share_without_objects=0.001))
    found = TESTS["floor"](replace(silent, recipe=every))
    assert (found.answer, found.settings) == (Answer.NOT_SUPPORTED, ())
    assert found.reasons[1].startswith("Every background prior of such an image is trained on")


def test_the_share_of_images_is_that_of_each_row() -> None:
    """The last row of a training sums fewer steps: 1 of 4 images as 5 of 20."""
    short = {**rows()[1], "images": 4.0, "images_without_objects": 1.0}
    lines = TESTS["floor"](evidence(telemetry=(rows()[0], short))).lines
    assert lines["share of the images"] == ((5.0, 0.25), (10.0, 0.25))


def test_a_level_with_a_few_positives_is_not_said_to_have_none() -> None:
    few = tuple({**row, "level1.positives": float(i == 12)} for i, row in enumerate(rows()))
    none = rows(**{"level1.positives": 0.0})
    said = [TESTS["levels"](evidence(telemetry=each)).reasons for each in (few, none)]
    idle = "Level 1 has priors but no positive, so it learns only background."
    assert [idle in reasons for reasons in said] == [False, True]


def test_positives_are_forgotten_only_where_their_loss_rises_and_that_of_negatives_falls() -> None:
    def course(rise: float, fall: float) -> tuple[dict[str, Any], ...]:
        columns = [
            {
                "level0.positive_loss": 0.4 + rise * max(0, i - 8),
                "level0.negative_loss": 0.4 - fall * i,
            }
            for i in range(16)
        ]
        return tuple({**row, **more} for row, more in zip(rows(), columns, strict=True))

    answers = {
        (rise, fall): TESTS["capacity"](evidence(telemetry=course(rise, fall))).answer
        for rise in (0.05, 0.004)
        for fall in (0.02, -0.02)
    }
    assert [key for key, answer in answers.items() if answer is Answer.SUPPORTED] == [(0.05, 0.02)]


def test_losses_of_positives_and_negatives_are_compared_in_the_same_steps() -> None:
    """The level has positives in the last 12 of 60 rows, in which the loss of both rises. Before, that
    of the negatives fell; and a level without selected negatives says nothing.
    """
    row, course = rows()[0], []
    for i in range(60):
        late = i - 48
        positive = None if late < 0 else 0.4 + 0.1 * late
        negative = 1.0 - 0.02 * i if late < 0 else 0.02 + 0.02 * late
        columns = {"level0.positive_loss": positive, "level0.negative_loss": negative}
        course.append({**row, "step": 5.0 * (i + 1), **columns})
    silent = [{**each, "level0.negative_loss": None} for each in course]
    for each in (course, silent):
        found = TESTS["capacity"](evidence(telemetry=tuple(each)))
        assert found.answer is Answer.NOT_SUPPORTED


def test_shares_of_levels_add_up_to_one() -> None:
    """Level 1 has 30 of 80 positives and 600 of 750 negatives."""
    bars = TESTS["levels"](evidence(telemetry=rows(**starved))).bars
    assert bars["share of positives"] == pytest.approx((50 / 80, 30 / 80))
    assert bars["share of negatives"] == pytest.approx((150 / 750, 600 / 750))


def test_negatives_of_the_floor_are_not_held_against_the_ratio() -> None:
    """2,300 negatives against 100 positives; 0.9 of 20 images × a floor of 16 are 288 of them."""
    many = rows(**{"level0.negatives": 2150.0, "floor_share": 0.9})
    floor = replace(RECIPE, loss=replace(RECIPE.loss, selection=RatioConfig(floor=120)))
    found = TESTS["gradient"](evidence(telemetry=many))
    assert found.effect.startswith("20.1 negatives per positive")
    assert TESTS["gradient"](replace(evidence(telemetry=many), recipe=floor)).answer is (
        Answer.NOT_SUPPORTED
    )


def test_the_heavier_box_loss_is_brought_back_by_its_own_factor() -> None:
    """The gradient of boxes is 9 times that of classes at weight 10: at 10 / 9 both are equal."""
    heavy = replace(RECIPE, loss=replace(RECIPE.loss, box_weight=10.0))
    given = evidence(gradients=GradientProbe(1.0, 9.0, 3.0, 1.0, 0.9, -0.9))
    found = TESTS["localisation"](replace(given, recipe=heavy))
    assert found.settings == ("loss.box_weight=1.1",)


def test_no_image_without_objects_is_not_enough_data() -> None:
    given = evidence(telemetry=rows(images_without_objects=0.0, gradient_share_without_objects=0.0))
    assert TESTS["floor"](given).answer is Answer.UNKNOWN


def test_a_starved_level_is_described_by_its_positives_and_negatives() -> None:
    """30 of 80 positives; .2 against (50 × .7 + 30 × .2) / 80; 600 / 30 against 750 / 80 negatives."""
    said = TESTS["levels"](evidence(telemetry=rows(**starved))).reasons
    assert (
        "Level 1, with 38% of the positives, has a probability of 0.20 at these (0.51 over all "
        "levels), and has 20.0 negatives per positive (9.4). Of the 10 training objects that "
        "its priors meet best 0% are found, of the others 100%." in said
    )


@pytest.mark.parametrize(
    ("level", "found", "said"),
    [
        # 4 of 10 found: up to .74 with 95 % confidence, below 1 − .1; 7 of 10: up to .93
        ([1.0] * 10, 4, Answer.SUPPORTED),
        ([1.0] * 10, 7, Answer.NOT_SUPPORTED),
        ([1.0] * 7 + [0.0] * 3, 0, Answer.NOT_SUPPORTED),  # seven objects are too few
        ([0.0] * 10, 0, Answer.NOT_SUPPORTED),  # none is best met there
    ],
)
def test_a_level_starves_only_where_its_objects_are_found_less(
    level: list[float], found: int, said: Answer
) -> None:
    train = replace(
        probed(),
        object_level=np.array([0.0] * 90 + level),
        object_iou=np.array([0.8] * (90 + found) + [0.0] * (10 - found)),
    )
    answer = TESTS["levels"](evidence(telemetry=rows(**starved), train=train))
    assert answer.answer is said
    assert any(reason.startswith("Level 1, with 38%") for reason in answer.reasons)


def test_negatives_of_the_floor_do_not_starve_a_level() -> None:
    """(600 − 500) / 30 negatives per positive against (750 − 500) / 80 are not twice as many."""
    filled = rows(**starved, **{"level1.floor_negatives": 500.0, "level0.floor_negatives": 0.0})
    found = TESTS["levels"](evidence(telemetry=filled))
    assert found.answer is Answer.NOT_SUPPORTED
    assert not any("per positive" in reason for reason in found.reasons)


def test_a_network_that_knows_no_level_accuses_none() -> None:
    """(50 × .2 + 30 × .02) / 80 = .13 over both levels is too little to compare a level with."""
    little = rows(**starved | {"level0.own.a": 0.2, "level1.own.a": 0.02})
    assert TESTS["levels"](evidence(telemetry=little)).answer is Answer.NOT_SUPPORTED
    more = rows(**starved | {"level0.own.a": 0.4, "level1.own.a": 0.02})
    assert TESTS["levels"](evidence(telemetry=more)).answer is Answer.SUPPORTED


def test_a_rare_class_starves_on_the_level_of_a_frequent_one() -> None:
    """On level 0 class b has 4 of 100 positives: (300 + 96) / 4 = 99 against each, where 2 classes ×
    (450 / 150 + 1) = 8 are usual. Its ten objects are not found.
    """
    columns = {"level0.positives": 100.0, "level0.negatives": 300.0}
    columns |= {"level0.own.a.positives": 96.0, "level0.own.b.positives": 4.0, "level0.own.b": 0.05}
    columns |= {"level1.own.b.positives": 0.0}
    label = np.array([1.0] * 90 + [2.0] * 10)
    train = replace(probed(), object_label=label, object_level=np.zeros(100))
    given = replace(evidence(telemetry=rows(**columns), train=train), categories=("a", "b"))
    found = TESTS["levels"](given)
    assert found.answer is Answer.SUPPORTED
    assert (
        "Class 'b' on level 0, with 3% of the positives, has a probability of 0.05 at these (0.68 over "
        "all levels), and has 99.0 negatives and positives of other classes per positive (8.0). Of the "
        "10 training objects that its priors meet best 0% are found, of the others 100%."
        in found.reasons
    )
    assert found.settings == ("loss.selection.kind=level_quota",)
    assert found.effect.endswith(", 1 level with poorly known classes (above all 'b')")
    met = replace(train, object_iou=np.full(100, 0.8))
    assert TESTS["levels"](replace(given, train=met)).answer is Answer.NOT_SUPPORTED


def test_whether_a_level_starves_is_unknown_without_images() -> None:
    blind = evidence(telemetry=rows(**starved), train=None, val=None)
    assert TESTS["levels"](blind).answer is Answer.UNKNOWN
    one = evidence(telemetry=rows(**one_level), train=None, val=None)
    assert TESTS["levels"](one).answer is Answer.SUPPORTED


def test_missing_labels_are_judged_by_what_is_sure_of_their_number() -> None:
    """10 of 100 may be 4.8 by chance, 11 may be 5.5: the limit is 5."""
    assert TESTS["labels"](evidence(train=probed(suspects=10))).answer is Answer.NOT_SUPPORTED
    found = TESTS["labels"](evidence(train=probed(suspects=11)))
    assert found.effect == (
        "11.0 places without a label for 100 labels, 5.5 or more with 95 % confidence (limit: 5)"
    )


def test_a_class_that_the_priors_do_not_reach_is_named() -> None:
    """Of two classes of 60 objects one has 60 px, the other 4 px, but for 20 of its objects."""
    sides = np.array([60.0] * 80 + [4.0] * 40)
    boxes = np.stack([80 - sides / 2, 80 - sides / 2, 80 + sides / 2, 80 + sides / 2], 1)
    labels = np.repeat([1, 2], 60)

    def said(labels: np.ndarray, names: tuple[str, ...]) -> Verdict:
        canvas = CanvasBoxes(boxes, labels, np.zeros(120, np.int64), names)
        return TESTS["priors"](
            evidence(coverage=measure_coverage(canvas, layout_of_recipe(RECIPE)))
        )

    found = said(labels, ("a", "b"))
    assert found.answer is Answer.NOT_SUPPORTED
    (named,) = [reason for reason in found.reasons if "of class" in reason]
    assert named.startswith("Of the 60 objects of class 'b' a prior reaches 33%")
    few = np.concatenate([np.ones(101, np.int64), np.full(19, 2, np.int64)])
    for other, names in ((np.ones(120, np.int64), ("a",)), (few, ("a", "b"))):
        assert not any("of class" in reason for reason in said(other, names).reasons)


def test_fewer_than_twenty_labels_say_nothing_of_labels_and_their_overlap() -> None:
    for key in ("ambiguity", "labels"):
        few, enough = probed(found=19, missed=0), probed(found=20, missed=0)
        assert TESTS[key](evidence(train=few, val=few)).answer is Answer.UNKNOWN
        assert TESTS[key](evidence(train=enough, val=enough)).answer is Answer.NOT_SUPPORTED


def test_what_tries_a_remedy_depends_on_what_is_wrong() -> None:
    """Too many negatives are made fewer, spikes are clipped; a network that is too small and also
    overfits is trained longer, one that only overfits gets fewer hard negatives; a floor is doubled.
    """

    def with_loss(selection: RatioConfig | RandomConfig, **changes: Any) -> Evidence:
        loss = replace(RECIPE.loss, selection=selection)
        return replace(evidence(**changes), recipe=replace(RECIPE, loss=loss))

    many = {"telemetry": rows(**{"level0.negatives": 3000.0})}
    ratio = {
        value: TESTS["gradient"](
            with_loss(RatioConfig(neg_to_pos_ratio=value, floor=0), **many)
        ).settings
        for value in (3.0, 20.0)
    }
    assert ratio[20.0] == ("loss.selection.neg_to_pos_ratio=3",)
    assert ratio[3.0] == ("loss.selection.neg_to_pos_ratio=1",)
    spikes = TESTS["gradient"](evidence(telemetry=rows(class_gradient_max=0.5)))
    assert spikes.settings == ("optim.clip_norm=1",)
    assert spikes.option.startswith("optim.clip_norm")
    clipped = replace(RECIPE, optim=replace(RECIPE.optim, clip_norm=0.5))
    tame = evidence(telemetry=rows(class_gradient_max=0.5))
    assert TESTS["gradient"](replace(tame, recipe=clipped)).settings == ("optim.clip_norm=0.25",)
    counted = with_loss(RandomConfig(neg_to_pos_ratio=0.0, count=256, floor=0), **many)
    assert TESTS["gradient"](counted).settings == ("loss.selection.kind=ratio",)
    small = TESTS["capacity"](evidence(train=met(59), val=met(20)))
    assert small.settings == (f"epochs={2 * RECIPE.epochs:g}",)
    assert TESTS["capacity"](evidence(val=met(20))).settings[0] == "loss.selection.kind=mixed"
    dead = {"telemetry": rows(gradient_share_without_objects=0.001)}
    for floor, wanted in ((0, 32), (100, 200)):
        found = TESTS["floor"](with_loss(RatioConfig(floor=floor), **dead))
        assert found.settings == (f"loss.selection.floor={wanted}",)
    quota = replace(RECIPE, loss=replace(RECIPE.loss, selection=LevelQuotaConfig()))
    level = evidence(telemetry=rows(**starved))
    assert TESTS["levels"](level).settings == ("loss.selection.kind=level_quota",)
    still = TESTS["levels"](replace(level, recipe=quota))
    assert still.answer is Answer.SUPPORTED
    assert still.settings == (f"epochs={2 * RECIPE.epochs:g}",)
    unfit, bent = TESTS["priors"](evidence(side=4.0)), TESTS["priors"](evidence(**wide(1700)))
    assert (unfit.settings, unfit.fits_priors) == ((), True)
    assert (bent.settings, bent.fits_priors) == (("resize_mode=letterbox",), False)


def test_levels_without_any_positive_are_not_enough_data() -> None:
    none = evidence(telemetry=rows(**{"level0.positives": 0.0, "level1.positives": 0.0}))
    assert TESTS["levels"](none).answer is Answer.UNKNOWN


def test_a_network_that_finds_little_says_nothing_of_labels() -> None:
    given = evidence(train=probed(found=25, missed=75, suspects=30))
    assert TESTS["labels"](given).answer is Answer.UNKNOWN


def test_a_network_that_fires_everywhere_says_nothing_of_labels() -> None:
    """90 of 100 labels are found, behind 91 or 60 surer places without a label: precision is 90 / 181 =
    .497 up to recall .9 (91 of 101 recalls), or 90 / 150 = .6. With half of the labels hidden, as many
    places as labels are found, and the labels are the surer ones.
    """
    wild, less = scored(0.95, suspects=91), scored(0.95, suspects=60)
    assert wild.precision_at(0.5) == pytest.approx(91 / 101 * 90 / 181)
    assert less.precision_at(0.5) == pytest.approx(91 / 101 * 90 / 150)
    found = TESTS["labels"](evidence(train=wild))
    assert found.answer is Answer.UNKNOWN
    assert "average precision of 0.45 (wanted: 0.5)" in found.reasons[0]
    assert TESTS["labels"](evidence(train=less)).answer is Answer.SUPPORTED
    half = scored(0.6, suspects=100)
    assert TESTS["labels"](evidence(train=half)).answer is Answer.SUPPORTED


def test_a_network_that_fires_everywhere_says_nothing_of_how_boxes_are_drawn() -> None:
    """90 of 100 labels are met by a third: .9 × 90 / 390 = .21 beside 300 surer places."""
    wild, drawn = scored(0.95, iou=0.33, suspects=300), probed(iou=0.33)
    assert wild.precision_at(0.2) == pytest.approx(91 / 101 * 90 / 390)
    assert wild.precision_at(0.5) == 0.0
    assert TESTS["ambiguity"](evidence(train=wild)).answer is Answer.UNKNOWN
    assert TESTS["ambiguity"](evidence(train=drawn)).answer is Answer.SUPPORTED


def test_places_to_look_at_reach_half_of_the_usual_score() -> None:
    few = tuple(
        Suspect(0, np.zeros(4, np.float32), 1, score, 0.0, 400.0)
        for score in (0.95, 0.46, 0.44, 0.31)
    )
    listed = missing_labels(replace(probed(), suspects=few))
    assert [each.score for each in listed] == [0.95, 0.46]


def test_figures_are_means_of_the_last_quarter() -> None:
    telemetry = tuple({"step": float(i), "x": float(i), "y": None} for i in range(16))
    given = Evidence(Path("run"), RECIPE, ("a",), telemetry)
    assert given.last("x") == 13.5
    assert given.last("y") is None
    assert given.series("x")[:2] == [(0.0, 0.0), (1.0, 1.0)]


def test_the_resize_of_a_wide_image_distorts_it() -> None:
    wide = ImageRecord.empty(Path("w.png"), 320, 160, ImageState.VERIFIED_EMPTY)
    data = Dataset(("a",), (wide,), Path())
    assert distortions(data, Resize(160, 160)) == [2.0]
    assert distortions(data, Resize(160, 160, "letterbox")) == [1.0]


def test_images_that_are_looked_at_are_spread_evenly() -> None:
    assert (evenly_spread(0, 4), evenly_spread(3, 240)) == ([], [0, 1, 2])
    some = evenly_spread(2400, 240)
    assert (len(some), some[0], some[-1]) == (240, 0, 2390)
    assert evenly_spread(7, 4) == [0, 1, 3, 5]  # not the first four, as every (7 // 4)th would be


def test_levels_say_recall_and_alarms_by_the_size_of_objects() -> None:
    """90 of 100 labels are found, all of 30 × 30 px; 3 detections of 20 × 20 px fit no label."""
    val = replace(probed(suspects=3), object_area=np.full(100, 900.0))
    said = " ".join(TESTS["levels"](evidence(val=val)).reasons)
    assert (
        "Of the 100 validation objects below 32 px in the network's input it finds 90%; 3 detections "
        "are of this size and explained by no label." in said
    )
    large = replace(val, object_area=np.full(100, 96.0**2))
    said = " ".join(TESTS["levels"](evidence(val=None, train=large)).reasons)
    assert (
        "Of the 100 training objects of 96 px and more in the network's input it finds 90%" in said
    )
    assert (
        "No training object is below 32 px in the network's input, and 3 detections are, all"
        in said
    )
    assert "of 32 to 96 px" not in said
    sides = np.repeat([31.9, 32.0, 95.9, 96.0], [10, 20, 30, 40])
    said = " ".join(TESTS["levels"](evidence(val=replace(val, object_area=sides**2))).reasons)
    for part in (
        "10 validation objects below 32",
        "50 validation objects of 32 to 96",
        "40 validation",
    ):
        assert f"Of the {part}" in said


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("floor", "trained on, and teaches nothing"),
        ("priors", "best prior: IoU 0.02"),
        ("levels", "for level 0, not found"),
        ("localisation", "a, IoU 0.55, score 0.90"),
        ("gradient", "background that looks like a 0.97, IoU 0.43 with a label"),
        ("ambiguity", "a, overlap only in part, IoU 0.33"),
        ("labels", "a 0.95, no label"),
        ("capacity", "a, not found"),
    ],
)
def test_every_hypothesis_has_example_pictures(key: str, caption: str, tmp_path: Path) -> None:
    """Two labels in one picture: the first met by IoU .55, or .33, or not at all; and an empty image."""
    Image.new("RGB", (160, 160), "grey").save(tmp_path / "a.png")
    tiny = evidence(side=4.0)
    assert tiny.data is not None
    record = replace(tiny.data.records[0], path=tmp_path / "a.png")
    empty = ImageRecord.empty(tmp_path / "a.png", 160, 160, ImageState.VERIFIED_EMPTY)
    iou = {"localisation": 0.55, "ambiguity": 0.33, "levels": 0.0, "capacity": 0.0}.get(key, 0.8)
    place = Suspect(0, np.array([5, 5, 40, 40], np.float32), 1, 0.97, 0.43, 1225.0)
    seen = replace(
        probed(iou=iou, found=1, missed=0),
        object_score=np.array([0.9]),
        object_box=record.boxes.astype(np.float64),
        detected_box=record.boxes.astype(np.float64) + 2.0,
        suspects=(replace(place, score=0.95),),
        hardest=(place,),
    )
    given = replace(tiny, data=tiny.data.with_records((record, empty)), train=seen)
    shown = list(example_pictures(key, given))
    assert [each.caption for each in shown] == [f"a.png: {caption}"]
    assert shown[0].uri.startswith("data:image/jpeg;base64,")


def test_low_scores_are_shown_where_boxes_pull_harder_and_bad_boxes_where_classes_do(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (160, 160), "grey").save(tmp_path / "a.png")
    given = evidence()
    assert given.data is not None
    record = replace(given.data.records[0], path=tmp_path / "a.png")
    seen = replace(
        probed(found=2, missed=0),
        object_iou=np.array([0.6, 0.9]),
        object_score=np.array([0.8, 0.4]),
        object_box=np.tile([60.0, 60.0, 120.0, 120.0], (2, 1)),
        detected_box=np.full((2, 4), np.nan),
    )
    given = replace(given, data=given.data.with_records((record,)), train=seen)
    first = {}
    for boxes in (0.05, 9.0):
        pulls = GradientProbe(1.0, boxes, 3.0, 1.0, 0.9, -0.9)
        many = replace(seen, **{n: np.concatenate([getattr(seen, n)] * 9) for n in PER_OBJECT})
        shown = list(example_pictures("localisation", replace(given, gradients=pulls, train=many)))
        first[boxes] = {each.caption for each in shown}
    assert first == {
        0.05: {"a.png: a, IoU 0.60, score 0.80"},
        9.0: {"a.png: a, IoU 0.90, score 0.40"},
    }


PER_OBJECT = (
    "object_iou",
    "object_score",
    "object_label",
    "object_area",
    "object_level",
    "object_image",
    "object_box",
    "detected_box",
)
