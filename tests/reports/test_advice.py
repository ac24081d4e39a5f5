"""What a page says to do next, from the figures of real measurements."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardmine.detections import Detections
from hardmine.evaluation.measurement import measure
from hardmine.evaluation.scored_images import Scored
from hardmine.reports.advice import (
    hardly_found,
    is_weak,
    low_scored,
    next_steps,
    warning_lines,
)
from hardmine.reports.content import ReportData, curve_line
from hardmine.reports.loop_report import render_report
from hardmine.reports.round_columns import RoundRow
from hardmine.types import Dataset, ImageRecord, ImageState

BOX = (10.0, 10.0, 50.0, 50.0)
CLASSES = ("bottle", "can")


def image(name: str, labels: tuple[int, ...]) -> ImageRecord:
    boxes = np.array([[10 + 50 * i, 10, 50 + 50 * i, 50] for i in range(len(labels))], np.float32)
    state = ImageState.LABELLED if labels else ImageState.VERIFIED_EMPTY
    empty = ImageRecord.empty(Path(f"{name}.jpg"), 200, 100, state)
    return replace(
        empty,
        boxes=boxes.reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignore=np.zeros(len(labels), bool),
    )


def found(record: ImageRecord, *rows: tuple[float, int, int]) -> Detections:
    """Return detections (score, label, place): place 0 and 1 are those of the objects."""
    boxes = [[10 + 50 * place, 10, 50 + 50 * place, 50] for _, _, place in rows]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int64),
    )


def scores(images: int, *rows: tuple[float, int, int], labels: tuple[int, ...] = ()) -> Scored:
    records = tuple(image(str(i), labels) for i in range(images))
    data = Dataset(CLASSES, records, Path("set"))
    return Scored(data, tuple(found(record, *rows) for record in records))


def row(val: Scored, negatives: Scored) -> RoundRow:
    figures = measure(val, {"held_out": negatives}, draws=5).to_dict()
    return RoundRow("mined", 0, 10, 0, figures)


def steps(val: Scored, negatives: Scored) -> str:
    return " | ".join(f"{s.finding} {s.action}" for s in next_steps(row(val, negatives)))


def test_a_weak_threshold_is_named_with_what_to_do() -> None:
    said = steps(scores(20, (0.15, 1, 0), labels=(1,)), scores(30, (0.9, 1, 0)))
    assert "only from score 0.150 on, which is weak (below 0.2)" in said
    assert "Train longer" in said
    assert "1.00 false alarms per image remain at recall 0.8, and 100 % of the images fire" in said
    # The page of 'train' and of 'val' has no loop that could go on.
    assert "or 'hardmine loop' or 'hardmine mine' where there is none yet" in said
    assert is_weak(0.199)
    assert not is_weak(0.2)
    assert not is_weak(None)


def test_what_was_learned_of_the_training_images_decides_whether_to_train_longer() -> None:
    def said(learned: int, of: int) -> str:
        rows = [
            found(image(str(i), (1,)), *([(0.9, 1, 0)] if i < learned else [])) for i in range(of)
        ]
        images = tuple(image(str(i), (1,)) for i in range(of))
        training = Scored(Dataset(CLASSES, images, Path("set")), tuple(rows))
        figures = measure(
            scores(20, (0.15, 1, 0), labels=(1,)),
            {"held_out": scores(30)},
            draws=5,
            training=training,
        ).to_dict()
        return " | ".join(warning_lines(figures))

    # 96 of 100 found: AP50 is 97 / 101, since recall 0 counts as a point.
    short = said(96, 100)
    assert short.startswith("On 100 of the images that it was trained on, AP50 is 0.960")
    assert (
        "Train twice as long (--epochs; rounds of a loop: --set branch.epochs=…), or more" in short
    )
    # A --set of the model's parts alone would train the default model, not what 'auto' chose.
    assert "(--recipe with the recipe.yaml of this run, and --set model.backbone.frozen" in short
    assert "more labelled images" not in short
    enough = said(97, 100)  # 98 / 101 = .9703
    assert "trained on, AP50" not in enough
    assert "which is weak" in enough
    assert "Give more labelled images (the detector has learned those that it has" in enough
    assert "Train longer" not in enough


def test_a_class_that_is_never_detected_is_named_even_where_recall_is_not_reached() -> None:
    val = scores(20, (0.9, 1, 0), labels=(1, 2))
    said = steps(val, scores(30))
    assert "At most 50 % of the objects are found at any score" in said
    assert "From score 0.900 on this class is almost never detected: can (0 of 20)" in said
    assert "For a model of Hardmine, 'hardmine priors coverage'" in said
    assert "Give more images with it." in said
    assert [each["name"] for each in hardly_found(row(val, scores(30)).figures)] == ["can"]
    assert "Give more images with them." in steps(scores(20, labels=(1, 2)), scores(30))


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([(0.9, 1, 0), (0.8, 1, 2)], "on background of images that do hold objects, 20 of 20"),
        ([(0.9, 1, 0), (0.85, 1, 0)], "second detections of one object, 20 of 20"),
    ],
)
def test_the_most_frequent_mistake_is_named(rows: list[tuple[float, int, int]], kind: str) -> None:
    at_two = scores(20, *rows, labels=(1,))
    # The threshold lies at .9; the second detection counts when it has the same score.
    same = scores(20, *((0.9, label, place) for _, label, place in rows), labels=(1,))
    assert kind in steps(same, scores(30))
    assert "most frequent mistake" not in steps(at_two, scores(30))


def test_objects_below_the_threshold_are_no_mistake_of_the_detector() -> None:
    def val(*last: float | None) -> Scored:
        parts = [scores(48, (0.9, 1, 0), labels=(1,))]
        parts += [
            scores(1, *([] if score is None else [(score, 1, 0)]), labels=(1,)) for score in last
        ]
        records = [record for part in parts for record in part.dataset.records]
        found_in = [found for part in parts for found in part.detections]
        return Scored(parts[0].dataset.with_records(records), tuple(found_in))

    # Recall .8 of 62 needs 50: two of the others, so that twelve are not found at that score.
    low = [0.5 - 0.01 * i for i in range(14)]
    assert row(val(*low), scores(30)).figures["errors"]["total"]["errors"]["missed"] == 12
    assert "most frequent mistake" not in steps(val(*low), scores(30))
    # 77 % at any score: the detector itself does not find the others.
    never = steps(val(*[None] * 14), scores(30))
    assert "objects without any detection near them, 14 of 14" in never


def test_few_alarms_lead_to_a_promise() -> None:
    said = steps(scores(20, (0.9, 1, 0), labels=(1,)), scores(30))
    assert said.startswith("Only 0 false alarms are left on 30 images")
    few = (scores(20, (0.9, 1, 0), labels=(1,)), scores(30, (0.95, 1, 0)))
    one = steps(few[0], few[1].subset([0]))
    assert "Only 1 false alarm is left on 1 image, too few" in one
    assert "hardmine threshold --max-alarms" in said
    assert next_steps(None) == []


def test_the_page_has_operating_points_scores_and_mistakes() -> None:
    val, val2 = scores(20, (0.15, 1, 0), labels=(1, 2)), scores(20, (0.9, 1, 0), labels=(1, 2))
    first, second = (row(each, scores(30, (0.5, 1, 0))) for each in (val, val2))
    last = replace(second, round=1)
    lines = [
        curve_line(name, each, scores(30, (0.5, 1, 0)))
        for name, each in (("round 0", val), ("mined, round 1", val2))
    ]
    page = render_report(
        ReportData(
            title="Rounds",
            categories=CLASSES,
            rows=(first, last),
            curves=tuple(line for line in lines if line is not None),
        )
    )
    text = " ".join(page.split())
    for anchor in ("next", "points", "scores", "mistakes"):
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    # Recall .5 is reached at .15 with all 30 images firing, then at .9 with none.
    assert '<td>recall 0.5</td><td>1.00</td><td>0.150 <b class="weak">weak</b></td>' in text
    assert "<td>0.000</td><td>0.900</td></tr>" in text
    assert "<td>recall 0.9</td><td>–</td><td>–</td><td>–</td><td>–</td></tr>" in text
    assert "<td>0.01 alarms per image</td>" in text
    # Every kind with its count and the AP50 that it costs, in both rounds; and the two bounds.
    assert re.search(r"<td>background</td>(<td>\d+</td><td>\d\.\d{3}</td>){2}<td class=", text)
    assert re.search(r"<td>false negative</td>(<td></td><td>\d\.\d{3}</td>){2}<td class=", text)
    assert "<td>1 alarms per image</td><td>0.500</td><td>any</td><td>0.500</td><td>any</td>" in text
    assert 'can <b class="weak">almost never detected</b>' in text
    assert "found at lower scores" not in text
    assert "0.150 (round 0), 0.900 (round 1) on, since recall 0.8 is not reached" in text
    assert "mined, round 1" in page
    assert page.count('class="chart"') == 5  # AP50, recall, miss rate, two of scores
    assert "images without objects (30; 0 have no detection)" in page


def test_a_terminal_is_told_only_what_makes_figures_doubtful() -> None:
    figures = {
        "score_threshold": 0.17,
        "max_recall": 0.9,
        "negatives": {
            "held_out": {"alarms": 300, "images": 100, "alarms_per_image_at_recall_0.8": 3}
        },
    }
    (line,) = warning_lines(figures)
    assert line.startswith("80 % of the objects are found only from score 0.17")
    assert "Train longer" in line
    assert warning_lines({**figures, "score_threshold": 0.5}) == ()


def test_of_many_classes_ten_are_named() -> None:
    classes = [{"name": f"c{i}", "objects": 2, "found": 0, "recall": 0.0} for i in range(12)]
    figures = {"errors": {"classes": classes, "score_threshold": 0.3}}
    (line,) = warning_lines(figures)
    assert "c9 (0 of 2) and 2 more, which the page marks" in line
    assert "c10" not in line


def said_of(**figures: object) -> str:
    """Return all that is said of some figures."""
    return " | ".join(
        f"{s.finding} {s.action}" for s in next_steps(RoundRow("a", 0, 1, 0, figures))
    )


def test_a_class_is_hardly_found_below_a_tenth_of_its_objects() -> None:
    recalls = {"none": None, "few": 0.0999, "tenth": 0.1}
    rows = [{"name": n, "objects": 20, "found": 1, "recall": r} for n, r in recalls.items()]
    absent = {"name": "absent", "objects": 0, "found": 0, "recall": None}
    figures = {"errors": {"classes": [absent, *rows], "score_threshold": 0.3}}
    assert [each["name"] for each in hardly_found(figures)] == ["none", "few"]
    said = said_of(**figures)
    assert "on these classes are almost never detected: none (1 of 20), few (1 of 20). Give" in said
    assert "whether priors reach their boxes" in said
    ten = [{"name": str(i), "objects": 2, "found": 0, "recall": 0.0} for i in range(10)]
    assert "9 (0 of 2). Give" in said_of(errors={"classes": ten, "score_threshold": 0.3})


def test_a_class_that_is_found_at_lower_scores_gets_a_threshold_of_its_own() -> None:
    rows = [{"name": n, "objects": 98, "found": 5, "recall": 0.05} for n in ("platelet", "clump")]
    per_class = [{"name": "platelet", "ap50": 0.5}, {"name": "clump", "ap50": 0.49}]
    figures = {
        "errors": {"classes": rows, "score_threshold": 0.99979},
        "per_class": [*per_class, {"name": "absent", "ap50": None}],
    }
    assert [each["name"] for each in hardly_found(figures)] == ["clump"]
    assert [each["name"] for each in low_scored(figures)] == ["platelet"]
    said = said_of(**figures)
    assert (
        "From score 0.99979 on this class is almost never detected: clump (5 of 98). Give" in said
    )
    assert (
        "From score 0.99979 on this class is almost never detected: platelet (5 of 98). At" in said
    )
    assert "hardmine threshold RUN DATA --min-recall 0.8 --per-class --write" in said
    assert any("--per-class" in line for line in warning_lines(figures))


def test_the_page_marks_a_class_that_is_found_at_lower_scores() -> None:
    """Forty bottles at .9 and one can at .3: the can is found, below the common threshold."""
    many, one = scores(40, (0.9, 1, 0), labels=(1,)), scores(1, (0.3, 2, 0), labels=(2,))
    records = (*many.dataset.records, replace(one.dataset.records[0], path=Path("can.jpg")))
    val = Scored(Dataset(CLASSES, records, Path("set")), (*many.detections, *one.detections))
    page = render_report(ReportData("t", CLASSES, (row(val, scores(9)),)))
    assert 'can <b class="weak">found at lower scores</b>' in page
    assert "almost never detected</b>" not in page


@pytest.mark.parametrize(
    ("alarms", "images", "remain", "few"),
    [
        (5, 100, True, True),
        (49, 1000, False, False),
        (10, 300, False, False),
        (9, 300, False, True),
    ],
)
def test_alarms_remain_from_one_in_twenty_images_on_and_fewer_than_ten_are_few(
    alarms: int, images: int, remain: bool, few: bool
) -> None:
    part = {
        "alarms": alarms,
        "images": images,
        "alarms_per_image_at_recall_0.8": alarms / images,
        "share_of_images_that_fire": 0.03,
    }
    for name in ("held_out", "mine"):  # a set of another name, where there is no other
        said = said_of(negatives={name: part})
        assert ("and 3.0 % of the images fire" in said) is remain
        assert (f"Only {alarms} false alarms are left on {images} images" in said) is few
    both = said_of(negatives={"mine": {**part, "alarms": 3}, "held_out": part})
    assert "Only 3 false alarms" not in both
    assert said_of(negatives={"held_out": {"alarms": 0, "images": 0}}) == ""


@pytest.mark.parametrize(
    ("counts", "most", "said"),
    [
        ({"missed": 6, "duplicate": 4}, 0.94, "near them, 6 of 10."),
        ({"missed": 20, "duplicate": 10}, 0.95, "second detections of one object, 10 of 10."),
        ({"missed": 20, "duplicate": 9}, 0.95, None),
        ({"missed": 5, "duplicate": 5}, None, "near them, 5 of 10."),
    ],
)
def test_from_ten_mistakes_on_the_most_frequent_kind_is_named(
    counts: dict[str, int], most: float | None, said: str | None
) -> None:
    before = dict(counts)
    found = said_of(errors={"total": {"errors": counts}}, max_recall=most, score_threshold=0.5)
    assert counts == before  # the table of the page shows all of them
    assert found == "" if said is None else said in found
    assert warning_lines({"errors": {"total": {"errors": counts}}}) == ()


def test_training_images_are_learned_from_an_ap50_of_97_on() -> None:
    def said(ap50: float) -> str:
        return said_of(training={"images": 5, "AP50": ap50}, score_threshold=0.1)

    assert "On 5 of the images that it was trained on, AP50 is 0.970: training ended" in said(
        0.9699
    )
    assert "Train longer (--epochs); for a model" in said(0.9699)
    assert "trained on, AP50" not in said(0.97)
    assert "Give more labelled images (the detector has learned" in said(0.97)


@pytest.mark.parametrize(
    ("ap50", "way"),
    [
        (None, "Train longer (--epochs) or give more labelled images. For a model of Hardmine"),
        (0.5, "Train longer (--epochs). For a model of Hardmine"),
        (0.99, "Give more labelled images (the detector has learned those that it has"),
    ],
)
def test_a_terminal_is_told_that_recall_is_not_reached(ap50: float | None, way: str) -> None:
    training = None if ap50 is None else {"images": 5, "AP50": ap50}
    line = warning_lines({"max_recall": 0.5, "score_threshold": None, "training": training})[-1]
    assert line.startswith("At most 50 % of the objects are found at any score, so that alarms")
    assert way in line
    assert warning_lines({"max_recall": None, "training": training}) == warning_lines(
        {"max_recall": 0.9, "score_threshold": 0.5, "training": training}
    )


def test_a_class_without_objects_in_the_validation_images_is_named_on_the_page() -> None:
    def page(labels: tuple[int, ...]) -> str:
        only = row(scores(20, (0.9, 1, 0), labels=labels), scores(30))
        text = render_report(ReportData(title="One run", categories=CLASSES, rows=(only,)))
        return " ".join(text.split())

    assert (
        "Nothing is measured of this class, of which the validation images hold no object: can. AP is "
        "the mean of the other classes." in page((1,))
    )
    assert "Nothing is measured of" not in page((1, 2))
