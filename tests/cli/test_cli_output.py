"""What is printed: progress, tables, gates, predictions."""

from __future__ import annotations

import json
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console as RichConsole
from rich.progress import Progress

from hardmine.cli import console as console_module
from hardmine.cli.console import (
    Console,
    figure,
    interval,
    show_measurement,
    show_mining,
    show_rounds,
)
from hardmine.cli.model_commands import describe, result_rows
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.evaluation.class_alarms import AlarmsAtClassRecall, ClassAlarms
from hardmine.evaluation.measurement import Measurement
from hardmine.mining.mine import MiningResult
from hardmine.mining.sources.listed_images import ListedImages
from hardmine.types import PoolScore, Problem


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Console:
    del capsys  # stdout and stderr are no terminals under capture
    return Console()


def found(*scored_boxes: tuple[float, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        np.array([box for _, box in scored_boxes], np.float32).reshape(-1, 4),
        np.array([score for score, _ in scored_boxes], np.float32),
        np.ones(len(scored_boxes), np.int64),
    )


def test_a_long_line_ends_after_a_word_unless_its_last_word_is_the_message() -> None:
    limit = console_module.MAX_LENGTH
    words = console_module._one_line("word " * limit)
    assert words.endswith("word …") and len(words) <= limit
    address = console_module._one_line(f"cannot be read: https://{'x' * 2 * limit}")
    assert len(address) == limit and address.endswith("xx …")


def test_figures_and_intervals() -> None:
    assert figure(0.12345) == "0.123"
    assert figure(0.0) == "0.000"
    assert figure(None) == "–"
    assert interval([0.1, 0.25]) == "0.100–0.250"
    assert interval([0.1, None]) == "0.100–?"
    assert interval(None) == "–"


def row_of(text: str, name: str) -> list[str]:
    """Return the cells of the only line that begins with a name."""
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
    return line.split()


def test_measurement_table(
    output: Console, measurement: Measurement, capsys: pytest.CaptureFixture[str]
) -> None:
    show_measurement(output, measurement)
    out, err = capsys.readouterr()
    # Recall .8 of 2 objects needs both: the threshold is .5, where both objects are found and one
    # alarm remains on 2 negative images.
    assert row_of(out, "2") == ["2", "2", "1.000", "1.000", "1.000", "0.500", "1.000"]
    name, images, alarms, limits, share = row_of(out, "held_out")
    assert (name, images, alarms, share) == ("held_out", "2", "0.500", "0.500")
    assert ("?" in limits) == ("? in an interval" in err)
    assert "–" in limits


def test_each_class_has_a_line_and_a_score_near_one_its_digits(
    output: Console, measurement: Measurement, capsys: pytest.CaptureFixture[str]
) -> None:
    (part,) = measurement.negatives.values()
    rows = tuple(ClassAlarms(n, 0.9, c, c / 2) for n, c in (("king", 1), ("queen", 3)))
    points = tuple(AlarmsAtClassRecall(r, 4, 2.0, rows) for r in (0.5, 0.8, 0.9))
    part = replace(part, at_class_recalls=points)
    shown = replace(measurement, score_threshold=0.99979, negatives={"held_out": part})
    show_measurement(output, shown)
    out, _ = capsys.readouterr()
    assert "0.99979" in row_of(out, "2")
    lines = [line for line in out.splitlines() if "each class" in line]
    assert lines == [
        "held_out: 2.00 alarms per image with each class at recall 0.8: queen 1.50, king 0.500"
    ]
    show_measurement(output, measurement)
    assert "each class" not in capsys.readouterr().out


def test_measurement_as_json(
    output: Console, measurement: Measurement, capsys: pytest.CaptureFixture[str]
) -> None:
    show_measurement(output, measurement, as_json=True)
    assert json.loads(capsys.readouterr().out)["alarms_per_image_at_recall_0.8"] == 0.5


def test_rounds_table_keeps_every_figure_in_a_pipe(
    output: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "arm": "mined",
        "round": 1,
        "train_images": 190,
        "negatives_added": 24,
        "AP": 0.61234,
        "AP50": 0.95,
        "recall": 0.8,
        "alarms_per_image_at_recall_0.8": 0.0125,
        "interval": [0.001, None],
        "score_threshold": None,
    }
    show_rounds(output, [row])
    out, err = capsys.readouterr()
    assert err.startswith("? in an interval: this end is not known, since recall 0.8")
    cells = row_of(out, "mined")
    assert " ".join(cells) == "mined 1 190 24 0.612 0.950 0.800 0.013 0.001 to ? –"


def test_mining_summary(output: Console, capsys: pytest.CaptureFixture[str]) -> None:
    score = PoolScore("pool/badger.jpg", 0.91, 1, 2, 0, 5, "m")
    problem = Problem("image_truncated", "pool/x.jpg", -1, "truncated after 12 bytes")
    result = MiningResult((score,), 40, (problem,), 3, (("pool/a.jpg", "val/a.jpg"),))
    show_mining(output, result, ("raccoon",), Path("my out"))
    out, err = capsys.readouterr()
    assert row_of(out, "pool/badger.jpg") == ["pool/badger.jpg", "0.910", "raccoon", "2"]
    assert "1 image handed out; 40 scanned, 3 near-duplicates and 1 copy of excluded" in out
    assert "images left out, 1 unreadable" in out
    assert "my out/candidates.csv" in out
    assert err.splitlines() == [
        "unreadable: pool/x.jpg: truncated after 12 bytes",
        "to decide which of them are really empty: hardmine review 'my out'",
    ]


def test_names_with_brackets_and_colons_are_printed_as_they_are(
    output: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("pool/photo[copy].jpg", "pool/[/tmp].jpg", "pool/:bus:.jpg")
    scores = [PoolScore(name, 0.9, 1, 1, 0, 5, "m") for name in names]
    show_mining(output, MiningResult(tuple(scores), 3, (), 0, ()), ("[red]",), Path("out:bus:"))
    out, _ = capsys.readouterr()
    for name in names:
        assert row_of(out, name) == [name, "0.900", "[red]", "1"]
    assert "out:bus:/candidates.csv" in out


def test_names_with_control_characters_break_no_line(
    output: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "pool/a\nb\r\x1b[31m\u2028\udcff.jpg"
    shown = r"pool/a\nb\r\x1b[31m\u2028\udcff.jpg"
    problem = Problem("image_truncated", name, -1, "truncated")
    scores = (PoolScore(name, 0.9, 1, 1, 0, 5, "m"),)
    show_mining(output, MiningResult(scores, 1, (problem,), 0, ()), ("cat",), Path("out"))
    out, err = capsys.readouterr()
    assert row_of(out, shown) == [shown, "0.900", "cat", "1"]
    assert err.splitlines()[0] == f"unreadable: {shown}: truncated"
    assert describe(name, found((0.9, (1, 2, 3, 4))), ("cat",)) == f"{shown}: cat 0.90"
    output.result("two\nlines\x1b[31m")
    logging.getLogger("hardmine").warning("left out: %s", "a\nb\x1b.jpg")
    assert capsys.readouterr() == ("two\nlines\\x1b[31m\n", "warning: left out: a b\\x1b.jpg\n")
    assert console_module.explain(DataError("a\nb\x1b: gone")) == r"a b\x1b: gone"


def test_a_mining_that_hands_out_nothing_says_why(
    output: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "0 handed out: 60 scanned, best score .03, below --min-score .05"

    class Nothing(MiningResult):
        def why_nothing(self) -> str:
            return why

    show_mining(output, Nothing((), 60, (), 0, ()), ("raccoon",), Path("out"))
    assert why in capsys.readouterr().out.splitlines()
    score = PoolScore("pool/badger.jpg", 0.91, 1, 2, 0, 5, "m")
    show_mining(output, Nothing((score,), 60, (), 0, ()), ("raccoon",), Path("out"))
    assert why not in capsys.readouterr().out


# Progress.


def test_plain_lines_without_a_terminal(
    output: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 1.0, 11.0, 12.0, 13.0))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    with output.progress() as step:
        for done in (1, 2, 3, 4, 5):
            step("train", done, 5)
    # The first, the one that comes 10 s after it (2 in 11 s, 2 left), and the last (4 in 13 s).
    out, err = capsys.readouterr()
    lines = ["train: 1/5", "train: 3/5 (0.2/s, 11 s left)", "train: 5/5 (0.3/s)", ""]
    assert (out, err) == ("", "\n".join(lines))


def test_the_time_of_a_step_that_begins_again_begins_again(
    output: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings of 3 steps, the second 1,000 s after the first: one step in 10 s, 10 s left."""
    clock = iter((0.0, 11.0, 1000.0, 1010.0, 1020.0))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    with output.progress() as step:
        for done in (1, 3, 1, 2, 3):
            step("train", done, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        "train: 3/3 (0.2/s)",
        "train: 1/3",
        "train: 2/3 (0.1/s, 10 s left)",
        "train: 3/3 (0.1/s)",
    ]
    shown = Progress(disable=True)
    bars = console_module._Bars(shown)
    monkeypatch.undo()
    for done in (1, 3):
        bars("train", done, 3)
    assert shown.tasks[0].finished
    bars("train", 1, 3)
    assert not shown.tasks[0].finished
    assert shown.tasks[0].completed == 1


def test_plain_lines_of_a_step_whose_end_is_not_known(
    output: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 1.0, 11.0, 12.0))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    with output.progress() as step:
        for done in (1, 2, 3, 4):
            step("images", done, 0)
    # The first, and the one that comes 10 s after it (2 in 11 s).
    assert capsys.readouterr().err == "images: 1\nimages: 3 (0.2/s)\n"


def test_plain_lines_of_a_step_without_parts(
    output: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with output.progress() as step:
        step("compare", 0, 1)
        step("compare", 1, 1)
        step("compare", 0, 1)
        step("compare", 1, 1)
        step("report", 0, 1)
        step("compare", 1, 1)
    lines = ["compare …", "compare: done", "report …", "compare: done", ""]
    assert capsys.readouterr().err == "\n".join(lines)


def test_bars_on_a_terminal(output: Console, capsys: pytest.CaptureFixture[str]) -> None:
    output.err = RichConsole(stderr=True, force_terminal=True, width=80)
    with output.progress() as step:
        step("train [a]", 1, 2)
        step("train [a]", 2, 2)
    err = capsys.readouterr().err
    assert "train [a]" in err
    assert "2/2" in err


def test_quiet_says_nothing_but_results(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Console(quiet=True)
    with quiet.progress() as step:
        step("train", 1, 1)
    quiet.note("a note")
    logging.getLogger("hardmine.data").warning("a warning")
    logging.getLogger("hardmine.data").error("an error")
    quiet.result("a [bold] result")
    assert capsys.readouterr() == ("a [bold] result\n", "error: an error\n")


def test_verbose_adds_the_notes_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    Console()
    logging.getLogger("hardmine.data").info("hidden")
    Console(verbose=True)
    logging.getLogger("hardmine.data").info("200 images")
    logging.getLogger("hardmine.data").warning("3 [of] them")
    assert capsys.readouterr().err == "200 images\nwarning: 3 [of] them\n"


# Predictions.


def test_a_warning_is_said_once_by_a_command_and_notes_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):  # a second command says it again
        Console(verbose=True)
        log = logging.getLogger("hardmine.somewhere")
        for _ in range(3):
            log.warning("1 box is missed by %s", "a")
            log.info("read")
        log.warning("1 box is missed by %s", "b")
        log.error("1 box is missed by %s", "b")
        assert capsys.readouterr().err.splitlines() == [
            "warning: 1 box is missed by a",
            *["read"] * 3,
            "warning: 1 box is missed by b",
            "error: 1 box is missed by b",
        ]


def test_result_rows_are_coco_boxes() -> None:
    rows = result_rows(Path("a.jpg"), found((0.75, (10.0, 20.0, 40.0, 80.0))), ("raccoon",))
    # xyxy 10, 20, 40, 80 is x 10, y 20, width 30, height 60
    assert rows == [
        {
            "file_name": "a.jpg",
            "category_id": 1,
            "category": "raccoon",
            "bbox": [10.0, 20.0, 30.0, 60.0],
            "score": 0.75,
        }
    ]
    assert result_rows(Path("a.jpg"), Detections.none(), ("raccoon",)) == []


def test_describe() -> None:
    two = found((0.9, (0.0, 0.0, 1.0, 1.0)), (0.25, (0.0, 0.0, 1.0, 1.0)))
    assert describe(Path("a.jpg"), two, ("raccoon",)) == "a.jpg: raccoon 0.90, raccoon 0.25"
    assert describe(Path("a.jpg"), Detections.none(), ("raccoon",)) == "a.jpg: nothing"


def test_of_many_detections_the_best_ten_are_named_and_the_others_counted() -> None:
    scores = np.linspace(0.9, 0.7, 11, dtype=np.float32)
    boxes = np.zeros((11, 4), np.float32)
    found = Detections(boxes, scores, np.ones(11, np.int64))
    assert describe(Path("a.jpg"), found, ("cat",)).endswith("cat 0.72, and 1 more down to 0.70")
    ten = Detections(boxes[:10], scores[:10], np.ones(10, np.int64))
    assert describe(Path("a.jpg"), ten, ("cat",)).endswith("cat 0.74, cat 0.72")


def test_each_listed_image_has_a_target_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "a/sub/x.png", "b/x.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(name)
    with zipfile.ZipFile("b/more.zip", "w") as archive:
        archive.write("b/x.jpg", "sub/x.jpg")
    listed = ListedImages(["a", "b/x.jpg", "a", "b/more.zip"])
    assert listed.count() is None
    names = [item.name for item in listed.items()]
    inside = f"{tmp_path}/b/more.zip!/sub/x.jpg"
    assert sorted(names) == sorted(["a/x.png", "a/sub/x.png", "b/x.jpg", inside])
    assert {name: to.as_posix() for name, to in listed.targets.items()} == {
        "a/x.png": "x.jpg",
        "a/sub/x.png": "sub/x.jpg",
        "b/x.jpg": "x-2.jpg",
        inside: "sub/x-2.jpg",
    }
    assert ListedImages(["a", "b/x.jpg"]).count() == 3


@pytest.mark.parametrize("source", ["a", "a/x.jpg", "a/*.jpg", "list.txt"])
def test_no_picture_is_saved_in_place_of_an_image(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Image.new("RGB", (8, 8)).save("a/x.jpg")
    Path("list.txt").write_text("a/x.jpg\n")
    Path("link").symlink_to("a")
    listed = ListedImages([source])
    (item,) = listed.items()
    target = listed.targets[item.name]
    root = Path("a") if target == Path("x.jpg") else Path()
    assert listed.place(item.name, Path("out")) == Path("out") / target
    Path("out/a").mkdir(parents=True)
    (Path("out") / target).write_bytes(b"a picture of an earlier run")
    assert listed.place(item.name, Path("out")) == Path("out") / target
    with pytest.raises(ConfigError, match=r"x\.jpg: is one of the images that are read"):
        listed.place(item.name, root)
    if root == Path("a"):
        with pytest.raises(ConfigError, match=r"give another --out than link"):
            listed.place(item.name, Path("link"))
