"""What a report says of a training: sentences worked out by hand, charts by what they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardmine.reports.content import ReportData, TrainingCourse, read_course
from hardmine.reports.loop_report import render_report, telemetry_part

COLUMNS = {
    "images": 10.0,
    "images_without_objects": 4.0,
    "floor_share": 0.5,
    "gradient_share_without_objects": 0.25,
    "level0.priors": 90.0,
    "level0.positives": 3.0,
    "level0.negatives": 24.0,
    "level0.positive_gradient": 1.0,
    "level0.negative_gradient": 2.0,
    "level1.priors": 10.0,
    "level1.positives": 9.0,
    "level1.negatives": 6.0,
    "level1.positive_gradient": 4.0,
    "level1.negative_gradient": 5.0,
}


def course(rows: int = 8, name: str = "run", **changes: float | None) -> TrainingCourse:
    """A training whose first half differs: only its end may be spoken of."""
    early = dict.fromkeys(COLUMNS, 1.0)
    late = {**COLUMNS, **{key.replace("_of_", "."): value for key, value in changes.items()}}
    made = [
        {"step": 5.0 * (index + 1), **(early if index < rows // 2 else late)}
        for index in range(rows)
    ]
    return TrainingCourse(name, tuple(made))


def test_the_sentences_are_the_shares_at_the_end() -> None:
    said = " ".join(telemetry_part(course()).sentences)
    # negatives 24 of 30, priors 90 of 100, positives 3 of 12, gradient (1 + 2) of (1 + 2 + 4 + 5)
    assert (
        "Level 0 (the finest) gave the largest share of the selected negatives, 80 %. It has 90 % of "
        "the priors, 25 % of the positives and 25 % of the gradient of the classes." in said
    )
    assert "For each positive, 2.5 negatives were selected." in said
    assert "40 % of the images hold no object; they give 25 % of the gradient" in said
    assert "50 % of the images got their number of negatives from the floor" in said


def test_a_level_without_positives_and_a_training_without_empty_images_are_said() -> None:
    said = " ".join(
        telemetry_part(course(level1_of_positives=0.0, images_without_objects=0.0)).sentences
    )
    assert "level 1 has no positive, so only background is learnt there" in said
    assert "No image without objects was trained on." in said
    assert "hold no object;" not in said


def test_each_level_has_a_line_in_each_of_three_charts() -> None:
    part = telemetry_part(course(), index=3)
    headings = [heading for heading, _ in part.charts]
    assert headings == [
        "Positives per image",
        "Selected negatives per image",
        "Share of the gradient of the classes",
        "Shares of images and of the gradient",
    ]
    for _, svg in part.charts[:3]:
        assert svg.count("level 0 (the finest)") == svg.count("level 1 (the coarsest)") == 1
    assert "negatives from the floor" in part.charts[3][1]
    assert all('id="telemetry3-' in svg for _, svg in part.charts)


def test_undefined_figures_leave_gaps_and_no_error() -> None:
    changed = course(floor_share=None, gradient_share_without_objects=None)
    part = telemetry_part(changed)
    assert "they give – of the gradient" in " ".join(part.sentences)
    one = TrainingCourse("run", (dict.fromkeys(changed.rows[0]) | {"step": 5.0},))
    empty = telemetry_part(one)
    assert (empty.sentences, empty.charts) == ((), ())


def test_a_course_is_read_from_its_run_and_is_none_without_telemetry(tmp_path: Path) -> None:
    assert read_course("run", tmp_path) is None
    (tmp_path / "telemetry.csv").write_text("step\n")
    assert read_course("run", tmp_path) is None
    (tmp_path / "telemetry.csv").write_text("step,images,level0.priors,level0.iou\n5,40,12,\n10,4")
    found = read_course("run", tmp_path)
    assert found is not None
    assert found.rows == ({"step": 5.0, "images": 40.0, "level0.priors": 12.0, "level0.iou": None},)
    assert found.num_levels == 1


@pytest.mark.parametrize(("count", "names"), [(0, 0), (1, 0), (2, 2)])
def test_the_page_has_the_section_and_names_trainings_where_there_are_several(
    count: int, names: int
) -> None:
    courses = tuple(course(name=f"round {number}") for number in range(count))
    text = render_report(replace(ReportData("One run", ("a",), ()), courses=courses))
    assert ("What the training selected" in text) == (count > 0)
    assert text.count("<h3>round ") == names


def test_a_class_that_is_almost_never_detected_has_its_positives_and_negatives_said() -> None:
    own = {
        "level0.own.can.positives": 2.0,
        "level0.own.can": 0.04,
        "level1.own.can.positives": 0.5,
        "level1.own.can": 0.09,
        "level0.own.box.positives": 1.0,
        "level0.own.box": 0.3,
        "level1.own.box.positives": 8.5,
        "level1.own.box": 0.5,
        "level0.own.rod.positives": 0.0,
        "level0.own.rod": None,
    }
    made = TrainingCourse("run", tuple({**row, **own} for row in course().rows))
    *_, can, rod = telemetry_part(made, classes=("can", "rod", "absent")).sentences
    # 2.5 of 10 images; 2 of 2.5; 24 negatives for 2; (2 · .04 + .5 · .09) / 2.5 = .05;
    # (.3 + 8.5 · .5) / 9.5 = .479
    assert can == (
        "Class 'can', which is almost never detected, has 0.250 positives per image, 80 % of them on "
        "level 0 (the finest), where 12.0 negatives are selected for each of them. The detector gives "
        "its positives a probability of 0.05 for it (the other classes 0.48)."
    )
    assert rod.startswith("Class 'rod', which is almost never detected, has no positive at the end")
    assert len(telemetry_part(made).sentences) + 2 == len(
        telemetry_part(made, classes=("can", "rod", "absent")).sentences
    )
