from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hardmine.detections import Detections
from hardmine.finding_kinds import FindingKind
from hardmine.reports import loop_report as page
from hardmine.reports.content import CurveLine, Gallery, Picture, ReportData
from hardmine.reports.html_page import arm_order
from hardmine.reports.loop_report import headline, render_report, verdict_lines, write_report
from hardmine.reports.round_columns import ALARMS, RoundRow
from hardmine.reports.wording import Comparison, Looked, LookedLine, Stop
from hardmine.types import Problem

HOSTILE = '<script>alert("x")</script>&\'.jpg'


def figures(alarms: float | None, ap50: float) -> dict[str, Any]:
    part = {
        "images": 500,
        "alarms": None if alarms is None else round(alarms * 500),
        ALARMS: alarms,
        "share_of_images_that_fire": 0.111,
        "recall_at_alarms": [{"recall": 0.41}, {"recall": 0.62}, {"recall": 0.83}],
        "alarms_at_scores": [{"alarms_per_image": 0.1 * k} for k in range(5, 0, -1)],
        "log_average_miss_rate": 0.271,
        "AP_with_negatives": 0.512,
        "AP50_with_negatives": 0.613,
    }
    return {
        "AP": 0.567,
        "AP50": ap50,
        "AP50_interval": [ap50 - 0.05, ap50 + 0.03],
        "recall": 0.802,
        "score_threshold": 0.4321,
        ALARMS: alarms,
        "interval": None if alarms is None else [alarms / 2, None],
        "images": 60,
        "objects": 71,
        "max_recall": 0.987,
        "stray_alarms": {"background_per_image": 0.0345, "others_per_image": 0.0678},
        "negatives": {"held_out": part, "stop": part | {ALARMS: 0.0991}, "crops": part},
    }


def rows() -> tuple[RoundRow, ...]:
    return (
        RoundRow("mined", 0, 141, 0, figures(0.7351, 0.951)),
        RoundRow("mined", 1, 162, 21, figures(0.1242, 0.942)),
        RoundRow("random", 1, 163, 22, figures(0.4133, 0.933)),
        RoundRow("none", 1, 142, 0, figures(None, 0.924)),
    )


def photo(tmp_path: Path, name: str = "photo.png") -> Path:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)).save(
        path, format="PNG"
    )
    return path


def picture(path: Path, caption: str = "") -> Picture:
    boxes = np.array([[10, 10, 60, 60]], np.float32)
    return Picture(
        path, Detections(boxes, np.array([0.9], np.float32), np.array([1], np.int64)), caption
    )


def ratio(**changes: Any) -> dict[str, Any]:
    usual = {
        "ratio": 0.301,
        "low": 0.123,
        "high": 0.456,
        "alarms_a": 62,
        "alarms_b": 206,
        "per_image_a": 0.124,
        "per_image_b": 0.412,
        "note": "",
        "seeds": [{}],
    }
    return usual | changes


def full(tmp_path: Path) -> ReportData:
    return ReportData(
        title="Raccoons & others",
        categories=("raccoon",),
        rows=rows(),
        arms={"mined": "the hardest", "random": "drawn at random", "none": "no images"},
        recipe={"model": "ssdlite", "steps": 1234},
        versions={"torch": "2.15.0"},
        comparisons=(
            Comparison("mined", 1, "random", 1, "held_out", ratio(), images=500),
            Comparison(
                "mined",
                1,
                "none",
                1,
                "crops",
                ratio(ratio=None, low=None, high=None, note="too few"),
                {
                    "value_a": 0.942,
                    "value_b": 0.924,
                    "difference": 0.018,
                    "low": -0.021,
                    "high": 0.057,
                },
            ),
        ),
        mined=(Gallery("Round 1", (picture(photo(tmp_path), "first mined"),), 9),),
        worst=Gallery("Worst remaining alarms", (picture(photo(tmp_path), "worst of all"),), 1),
        curves=(
            CurveLine("mined", ((0.0, 1.0), (0.01, 0.4), (0.2, 0.0)), 0.271),
            CurveLine("round 0", ((0.0, 1.0), (0.3, 0.5)), None),
        ),
        stops=(Stop("guarded", 1, "alarms fell no more"), Stop("recipe", None, None)),
        problems=(
            Problem("box_inverted", "cam1/42.xml", 3, "xmax 12 <= xmin 40"),
            Problem("box_inverted", "cam1/43.xml", 0, "xmax 1 <= xmin 2"),
        ),
        leaks=("pool/a.jpg repeats val/b.jpg",),
        notes=("37 images are unreviewed.",),
    )


def pictures_only(*galleries: Gallery) -> ReportData:
    """Return a page without figures, which take the time."""
    return ReportData("Pictures", ("raccoon",), rows()[:1], mined=galleries)


def parse(text: str) -> ElementTree.Element:
    """Read the page strictly, as XML: every element closed, every attribute quoted."""
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(text: str) -> str:
    return " ".join(" ".join(parse(text).itertext()).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page that has every section."""
    return render_report(full(tmp_path_factory.mktemp("photos")))


def test_holds_every_row_and_figure(whole: str) -> None:
    text = words(whole)
    for wanted in (
        "Raccoons & others",
        "mined 0 141 0 0.567 0.951 0.802 0.735 0.368 to ? 0.432 0.099 0.735",
        "mined 1 162 21 0.567 0.942 0.802 0.124 0.062 to ? 0.432 0.099 0.124",
        "random 1 163 22 0.567 0.933 0.802 0.413",
        "none 1 142 0 0.567 0.924 0.802 – – 0.432",
        "mined 1 500 62 0.111 0.512 0.613 0.410 0.620 0.830 0.271 0.500 0.400 0.300 0.200 0.100",
        "mined 0 60 71 – – – – 0.987 0.035 0.068",
        "Arm mined has 0.124 false alarms per image and arm random has 0.412 at recall 0.8 on the 500 "
        "held-out images (after round 1).",
        "chance in the test images explains. Ratio of the false alarms: 0.301 (95 % interval 0.123 to",
        "The number of false alarms is 62, against 206.",
        "No claim is made: too few.",
        "The difference of AP50 is 0.018 (95 % interval −0.021 to 0.057).",
        "By the rule “guarded” the loop would end after round 1: alarms fell no more.",
        "By the rule “recipe” the loop would go on.",
        "The loop ran with two control arms: random (drawn at random), none (no images).",
        "Each model was trained once",
        "first mined",
        "8 more are not shown.",
        "worst of all",
        "Faults that were found in the data and left out: 2 (2 × box_inverted).",
        "cam1/42.xml[3]: xmax 12 <= xmin 40",
        "Leaks, images with a near-duplicate in another set: 1.",
        "pool/a.jpg repeats val/b.jpg",
        "37 images are unreviewed.",
        "torch 2.15.0",
        '"steps": 1234',
        "mined (0.271)",
    ):
        assert wanted in text, wanted


def test_fetches_nothing_and_runs_nothing(whole: str) -> None:
    text = whole
    assert not re.search(r"https?:|//\w|@import|<script|<link|<iframe|\bon\w+=", text)
    for attribute in re.findall(r'\b(?:src|href)="([^"]*)"', text):
        assert attribute.startswith(("data:image/jpeg;base64,", "#"))
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#")


def test_ids_are_unique_and_every_reference_is_met(whole: str) -> None:
    text = whole
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted
    assert wanted <= set(ids)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    data = full(tmp_path)
    hostile = replace(
        data,
        title=HOSTILE,
        categories=(HOSTILE,),
        rows=(RoundRow(HOSTILE, 0, 1, 0, figures(0.1, 0.9)), *data.rows),
        recipe={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        mined=(Gallery(HOSTILE, (picture(tmp_path / "gone.jpg", HOSTILE),), 1, HOSTILE),),
        curves=(CurveLine(HOSTILE, ((0.0, 1.0), (0.3, 0.5)), None),),
        stops=(Stop(HOSTILE, 1, HOSTILE),),
        problems=(Problem(FindingKind.LABEL_BROKEN, HOSTILE, 0, HOSTILE),),
        leaks=(HOSTILE,),
        notes=(HOSTILE,),
        arms={HOSTILE: HOSTILE, "b": HOSTILE},
        comparisons=(
            Comparison(HOSTILE, 1, HOSTILE, 0, HOSTILE, ratio(ratio=None, high=None, note=HOSTILE)),
        ),
    )
    text = render_report(hostile)
    assert "<script" not in text
    assert words(text).count(HOSTILE) >= 11


def test_dollar_signs_in_names_are_not_formulas(tmp_path: Path) -> None:
    name = "$a_1$"
    data = replace(full(tmp_path), rows=(*rows(), RoundRow(name, 1, 1, 0, figures(0.1, 0.9))))
    assert words(render_report(data)).count(name) >= 2


def test_pictures_are_small_jpegs_with_their_boxes(tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    Image.new("RGB", (2000, 1000), "white").save(big)
    wide = replace(
        picture(big),
        detections=replace(
            picture(big).detections, boxes=np.array([[500, 250, 1500, 750]], np.float32)
        ),
    )
    text = render_report(pictures_only(Gallery("Worst", (wide,), 1)))
    (code,) = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    with Image.open(io.BytesIO(base64.b64decode(code))) as small:
        assert small.size == (420, 210)
        # The box's left edge: 500 * 420 / 2000 = 105; red on white
        red, green, _ = small.getpixel((105, 100))  # type: ignore[misc]
        assert red > 150
        assert green < 120
        assert min(small.getpixel((210, 130))) > 240  # type: ignore[type-var]


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    gallery = Gallery("Worst", (picture(tmp_path / "gone.jpg", "gone"),), 1)
    text = words(render_report(pictures_only(gallery)))
    assert f"{tmp_path / 'gone.jpg'}: no such file" in text


def test_pictures_stop_at_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photo(tmp_path)
    many = Gallery("Round 1", tuple(picture(path, f"number {i}.") for i in range(20)), 30)
    data = pictures_only(many)
    codes = re.findall(r'src="([^"]+)"', render_report(data))
    assert len(codes) == 20
    (code,) = set(codes)
    monkeypatch.setattr(page, "PICTURE_BYTES", 3 * len(code) + 5)
    text = render_report(data)
    assert len(re.findall(r"data:image", text)) == 3
    assert "27 more are not shown." in words(text)


def test_single_run_has_no_rounds_to_draw(tmp_path: Path) -> None:
    data = ReportData("One run", ("a",), rows()[:1])
    text = render_report(data)
    assert "<svg" not in text
    assert "Verdict" not in text
    assert "in round 0" not in words(text)
    assert "0.735" in words(text)
    write_report(tmp_path / "deep" / "report.html", data)
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_every_class_has_its_column() -> None:
    per_class = [{"name": "king", "ap50": 0.777}, {"name": "queen", "ap50": None}]
    row = RoundRow("mined", 2, 9, 0, figures(0.1, 0.9) | {"per_class": per_class})
    text = words(render_report(ReportData("Cards", ("king", "queen"), (row,))))
    assert "arm round king queen mined 2 0.777 –" in text


def test_nothing_measured_at_all() -> None:
    parse(render_report(ReportData("Nothing", (), ())))
    parse(render_report(ReportData("Bare", ("a",), (RoundRow("a", 0, 1, 0, {}),))))


def test_no_alarm_was_ever_measured() -> None:
    bare = tuple(replace(row, figures=figures(None, 0.9)) for row in rows())
    assert render_report(ReportData("No alarms", ("a",), bare)).count("<svg") == 1


def test_headline_compares_the_last_round_with_round_0() -> None:
    tiles = {tile.label: tile for tile in headline(rows())}
    alarms = tiles["false alarms per image at recall 0.8"]
    assert (alarms.value, alarms.before) == ("0.124", "0.735")
    assert (tiles["AP50"].value, tiles["AP50"].before) == ("0.942", "0.951")
    assert tiles["negatives added"].value == "21"
    later = RoundRow("mined", 2, 170, 8, figures(0.1, 0.95))
    (added,) = (t for t in headline((*rows(), later)) if t.label == "negatives added")
    assert (added.value, added.detail) == ("29", "arm mined, in 2 rounds")


def test_the_same_page_twice(tmp_path: Path, whole: str) -> None:
    assert render_report(full(tmp_path)) == whole


def test_order_of_arms() -> None:
    assert arm_order(["mined", "other", "mined", "none"]) == ["mined", "other", "none"]


def between(text: str, start: str) -> str:
    """Return the part of a page from a summary to the end of its fold."""
    part = text[text.index(f"<summary>{start}") :]
    return part[: part.index("</details>")]


def test_what_allows_no_claim_and_earlier_rounds_are_folded(tmp_path: Path) -> None:
    open_ratio = ratio(low=0.5, high=1.5)
    shown = (
        Comparison("mined", 1, "random", 1, "held_out", ratio(per_image_a=0.111)),
        Comparison("mined", 2, "random", 2, "held_out", ratio(per_image_a=0.222)),
        Comparison("mined", 2, "none", 2, "held_out", ratio(**open_ratio | {"per_image_a": 0.333})),
        Comparison(
            "mined", 2, "mined", 0, "held_out", ratio(**open_ratio | {"per_image_a": 0.444})
        ),
        Comparison("mined", 2, "mined", 0, "stop", ratio(**open_ratio | {"per_image_a": 0.555})),
    )
    text = render_report(replace(full(tmp_path), comparisons=shown))
    assert "0.111" in between(text, "Comparisons of earlier rounds (1)")
    no_claim = between(text, "Comparisons that allow no claim (2)")
    assert "0.333" in no_claim and "0.555" in no_claim
    # What became of the arm comes first, whether it allows a claim or not.
    first, second = text.index("0.444 per image"), text.index("0.222 false alarms")
    assert first < second < text.index("Comparisons that allow no claim")


def test_lines_for_the_terminal_speak_of_the_first_arm_on_the_first_set(tmp_path: Path) -> None:
    shown = (
        Comparison("mined", 2, "random", 2, "held_out", ratio()),
        Comparison("mined", 2, "random", 2, "crops", ratio()),
        Comparison("random", 2, "random", 0, "held_out", ratio()),
        Comparison("mined", 2, "mined", 0, "held_out", ratio(), images=12),
    )
    first, second = verdict_lines(replace(full(tmp_path), comparisons=shown))
    assert first.startswith(
        "False alarms fell from 0.412 to 0.124 per image at recall 0.8 on the 12 "
    )
    assert (
        "chance in the test images explains. Ratio of the false alarms: 0.301 (95 % interval"
        in first
    )
    assert second.startswith("Arm mined has 0.124 false alarms per image and arm random has 0.412")
    assert verdict_lines(replace(full(tmp_path), comparisons=())) == []


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (("none",), "No difference between arm mined and arm none is shown."),
        (
            ("random", "none"),
            "No difference between arm mined and the arms random and none is shown.",
        ),
    ],
)
def test_the_terminal_says_when_a_control_arm_did_as_well(
    tmp_path: Path, arms: tuple[str, ...], words: str
) -> None:
    open_ratio = {"low": 0.5, "high": 2.0}
    shown = (
        Comparison("mined", 2, "mined", 0, "held_out", ratio(), images=12),
        *(Comparison("mined", 2, arm, 2, "held_out", ratio(**open_ratio)) for arm in arms),
        Comparison("mined", 2, "random", 2, "crops", ratio(**open_ratio)),
    )
    lines = verdict_lines(replace(full(tmp_path), comparisons=shown))
    assert len(lines) == 2
    assert lines[1] == words


def test_the_terminal_claims_no_difference_only_where_alarms_are_known(tmp_path: Path) -> None:
    unknown = {"ratio": None, "low": None, "high": None, "note": "recall 0.8 is not reached"}
    not_reached = ratio(**unknown, per_image_a=0.124, per_image_b=None)
    shown = (
        Comparison("mined", 2, "mined", 0, "held_out", ratio(), images=12),
        Comparison("mined", 2, "random", 2, "held_out", not_reached),
        Comparison("mined", 2, "none", 2, "held_out", ratio(low=0.5, high=2.0)),
    )
    lines = verdict_lines(replace(full(tmp_path), comparisons=shown))
    assert lines[1:] == [
        "No difference between arm mined and arm none is shown.",
        "Arm mined cannot be compared with arm random: recall 0.8 is not reached.",
    ]


def test_each_candidate_of_a_round_is_listed_with_what_was_said_of_it() -> None:
    lines = tuple(
        LookedLine(f"cam/<{i}>.jpg", 0.9, "empty", "ann", "2026-01-02 03:04") for i in range(502)
    )
    looked = Looked("mined", 1, 503, {"empty": 502}, {"ann": 502}, lines, {"alarms": 9, "again": 4})
    gallery = Gallery("Mined in round 1", (), 503)
    page = render_report(ReportData("Rounds", ("thing",), (), looked=(looked,), mined=(gallery,)))
    assert "Each candidate of arm mined, round 1 (503)" in page
    assert page.count("2026-01-02 03:04") == 500
    assert "2 more are in rounds/mined-1/candidates.csv" in page
    assert "cam/&lt;0&gt;.jpg" in page
    assert "<td>4 of 9</td></tr>" in page


def of_video(number: int, rate: float | None) -> RoundRow:
    part = {"images": 8, "frames_per_hour": 7200.0, "alarms_per_hour": rate}
    return RoundRow("mined", number, 9, 0, {"negatives": {"held_out": part}})


def test_alarms_per_hour_are_said_with_those_before_or_why_they_are_not_known() -> None:
    (line,) = page.alarms_per_hour([of_video(0, 300.0), of_video(1, 25.0)])
    assert line.startswith("Per hour of video there are 25")
    assert ", 300" in line
    assert "every 0.5 s" in line
    (line,) = page.alarms_per_hour([of_video(0, 300.0), of_video(1, None)])
    assert "is not known, because the recall that was asked for was not reached" in line


def class_points(*counts: tuple[int, int | None]) -> list[dict[str, Any]]:
    """Return what a measurement of 500 images holds: alarms of two classes at .5, .8 and .9."""
    found = []
    for recall, pair in zip((0.5, 0.8, 0.9), counts, strict=True):
        rows = [
            {
                "name": name,
                "score_threshold": None if count is None else 0.9997 - place / 2,
                "alarms": count,
                "alarms_per_image": None if count is None else count / 500,
            }
            for place, (name, count) in enumerate(zip(("red cell", "platelet"), pair, strict=True))
        ]
        known = [count for count in pair if count is not None]
        total = sum(known) / 500 if len(known) == 2 else None
        found.append({"recall": recall, "alarms_per_image": total, "classes": rows})
    return found


def test_the_page_counts_each_class_at_its_own_recall() -> None:
    def row(number: int, points: list[dict[str, Any]]) -> RoundRow:
        values = figures(0.1, 0.9)
        part = {**values["negatives"]["held_out"], "alarms_at_class_recalls": points}
        at = {"recall": 0.8, "alarms_per_image": 0.1, "score_threshold": 0.9}
        part |= {"alarms_at_recalls": [at], "recall_at_alarms": []}
        return RoundRow("mined", number, 9, 0, values | {"negatives": {"held_out": part}})

    first = row(0, class_points((1, 20), (4, 255), (7, None)))
    page = words(render_report(ReportData("t", ("a",), rows=(first,))))
    assert "recall 0.5 score alarms per image at recall 0.8 score" in page
    assert "red cell 0.002 0.99970 0.008 0.99970 0.014 0.99970" in page
    assert "platelet 0.040 0.500 0.510 0.500 – –" in page
    assert "all of them 0.042 0.518 –" in page
    last = row(3, class_points((1, 2), (2, 5), (7, 9)))
    page = words(render_report(ReportData("t", ("a",), rows=(first, last))))
    assert "recall 0.8, round 0 score alarms per image at recall 0.8, round 3 score" in page
    assert "platelet 0.510 0.500 0.010 0.500" in page
    assert "recall 0.5, round" not in page
    assert "each class is counted" not in words(
        render_report(ReportData("t", ("a",), rows=(row(0, []),)))
    )
