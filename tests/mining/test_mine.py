from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardmine import load_detector, mine
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.image_loading import ImageItem, item_problem, open_item
from hardmine.inference.predict import ScoredImage
from hardmine.mining.image_selection import Reason
from hardmine.mining.pool_store import PoolStore
from hardmine.types import Decision, Problem, Verdict


@dataclass
class Eye:
    """A detector of image files: it scores a picture by its mean red, and boxes it from .01 on."""

    model_id: str = "m"
    categories: tuple[str, ...] = ("jar", "cup")
    resize: Any = None

    def score(self, images: Any) -> Any:
        raise NotImplementedError

    def detect(self, images: Any) -> Any:
        raise NotImplementedError

    def detect_images(self, paths: Any, progress: Any = None) -> Any:
        raise NotImplementedError

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        for item in items:
            try:
                image = open_item(item).pixels
            except DataError as error:
                yield item_problem(item, error)
                continue
            score = float(np.asarray(image)[..., 0].mean()) / 255
            fires = score >= 0.01
            boxes = np.array([[1, 2, 3, 4.5]] if fires else [], np.float32).reshape(-1, 4)
            scores = np.array([score] if fires else [], np.float32)
            found = Detections(boxes, scores, np.full(len(scores), 2, np.int64))
            yield ScoredImage(
                Path(item.name), score, 2, 0, found, perceptual_hash(image), item.name
            )


def draw(path: Path, red: int, seed: int) -> None:
    """Write noise with a flat red channel: the score is red / 255, the seed the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    pixels[..., 0] = red
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Scores .8, .6, .6 (a copy of the one before, a little darker), .4, .2 and none."""
    folder = tmp_path / "pool"
    for name, red, seed in (
        ("a", 204, 1),
        ("sub/b", 153, 2),
        ("sub/b_copy", 150, 2),
        ("c", 102, 3),
        ("d", 51, 4),
        ("quiet", 1, 5),
    ):
        draw(folder / f"{name}.png", red, seed)
    return folder


def run(pool: Any, **more: Any) -> Any:
    return mine(more.pop("eye", Eye()), pool, **more)


def names(result: Any) -> list[str]:
    return [Path(score.image).stem for score in result.candidates]


def test_the_hardest_are_handed_out_near_duplicates_once(pool: Path) -> None:
    result = run(pool)
    assert names(result) == ["a", "b", "c", "d"]
    assert (result.scanned, result.duplicates_grouped) == (6, 1)
    assert result.problems == ()
    assert result.candidates[0].score == pytest.approx(204 / 255)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"top": 2}, ["a", "b"]),
        ({"fraction": 0.34}, ["a", "b"]),  # .34 * 6 = 2.04
        ({"fraction": 0.01}, ["a"]),  # at least one
        ({"min_score": 0.5}, ["a", "b"]),
        ({"min_score": 0.2}, ["a", "b", "c", "d"]),  # inclusive: 51 / 255 = .2
        ({"min_score": 0}, ["a", "b", "c", "d"]),  # "quiet" has no detection at all
    ],
)
def test_limits(pool: Path, limits: dict[str, Any], expected: list[str]) -> None:
    assert names(run(pool, **limits)) == expected


def test_scores_of_a_predictions_file_reach_the_same_min_score(tmp_path: Path) -> None:
    rows = []
    for number, score in enumerate((0.7, 0.69, 0.95)):
        draw(tmp_path / "pool" / f"{number}.png", 100, number)
        box = {"bbox": [1, 1, 20, 20], "category_id": 1, "score": score}
        rows.append({"file_name": f"{number}.png", **box})
    (tmp_path / "found.json").write_text(json.dumps(rows))
    detector = load_detector(tmp_path / "found.json", classes=["jar"])
    assert names(mine(detector, tmp_path / "pool", min_score=0.7)) == ["2", "0"]
    assert names(mine(detector, tmp_path / "pool", min_score=0.95)) == ["2"]


def test_min_score_zero_is_zero_and_not_the_default(tmp_path: Path) -> None:
    draw(tmp_path / "pool" / "faint.png", 4, 1)  # 4 / 255 = .0157: a detection below .05
    assert names(run(tmp_path / "pool")) == []
    assert names(run(tmp_path / "pool", min_score=0)) == ["faint"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"top": 2, "fraction": 0.5}, "exclude each other"),
        ({"top": 0}, "top: got 0"),
        ({"fraction": 0.0}, r"fraction: got 0\.0"),
        ({"fraction": 1.5}, r"fraction: got 1\.5"),
        ({"min_score": 1.01}, r"min_score: got 1\.01"),
    ],
)
def test_impossible_limits_are_refused(pool: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(pool, **limits)


def test_files_for_people_and_programs(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pool, top=2, out=out)
    with (out / "candidates.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[1] == {
        "image": "sub/b.png",
        "score": "0.600000",
        "class": "cup",
        "num_alarms": "1",
        "similar": "1",
        "verdict": "",
    }
    sheet = json.loads((out / "candidates.json").read_text())
    assert sheet["model_id"] == "m"
    assert sheet["candidates"][0]["boxes"] == [[1.0, 2.0, 3.0, 4.5, 0.8, "cup"]]
    assert sheet["candidates"][0]["path"] == str(pool.resolve() / "a.png")


def test_the_same_model_gives_the_same_answer_and_the_next_one_what_is_left(
    pool: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run(pool, top=2, out=out)
    assert run(pool, top=2, out=out) == first
    assert names(run(pool, out=out, eye=Eye("next"))) == ["c", "d"]


def test_an_image_that_was_decided_on_is_not_handed_out_again(pool: Path, tmp_path: Path) -> None:
    first = run(pool, top=1, out=tmp_path / "out")
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:
        image = first.candidates[0].image
        store.add_decisions([Decision(image, Verdict.UNSURE, "eve", "t", "m")])
    assert names(run(pool, top=1, out=tmp_path / "out")) == ["b"]


def test_an_image_that_was_decided_on_is_known_through_a_link_too(
    pool: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(pool)
    first = run(pool, top=1, out=tmp_path / "out")
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:
        image = first.candidates[0].image
        store.add_decisions([Decision(image, Verdict.EMPTY, "eve", "t", "m")])
    linked = run(tmp_path / "link", top=1, out=tmp_path / "out")
    assert names(linked) == ["b"]
    assert linked.reasons[Reason.DECIDED] == 1
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:
        image = linked.candidates[0].image
        assert image == str(tmp_path / "link" / "sub" / "b.png")  # as the user wrote it
        store.add_decisions([Decision(image, Verdict.EMPTY, "eve", "t", "m")])
    assert names(run(pool, out=tmp_path / "out")) == ["c", "d"]  # nor the copy of "b"


def test_what_repeats_an_excluded_image_is_a_leak(pool: Path, tmp_path: Path) -> None:
    draw(tmp_path / "val" / "known.png", 150, 2)
    result = run(pool, exclude=[tmp_path / "val"])
    assert names(result) == ["a", "c", "d"]
    known = str(tmp_path / "val" / "known.png")
    assert [(Path(image).stem, other) for image, other in result.leaks] == [
        ("b", known),
        ("b_copy", known),
    ]


def test_one_picture_can_be_excluded(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "known.png", 150, 2)
    monkeypatch.chdir(tmp_path)
    result = run(pool, exclude=["known.png"])
    assert names(result) == ["a", "c", "d"]
    assert {other for _, other in result.leaks} == {str(tmp_path / "known.png")}


def test_unreadable_images_are_counted_and_the_rest_goes_on(pool: Path) -> None:
    whole = (pool / "a.png").read_bytes()
    (pool / "a.png").write_bytes(whole[: len(whole) // 2])
    (pool / "zero.jpg").write_bytes(b"")
    result = run(pool)
    assert names(result) == ["b", "c", "d"]
    assert sorted(Path(problem.file).name for problem in result.problems) == ["a.png", "zero.jpg"]


def test_an_empty_pool_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    with pytest.raises(DataError, match="no image"):
        run(tmp_path / "pool")
    (tmp_path / "pool" / "zero.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of the pool can be read \(1 problem, the f"):
        run(tmp_path / "pool")


def test_two_runs_on_one_store(pool: Path, tmp_path: Path) -> None:
    with PoolStore(tmp_path / "out" / "pool.sqlite"), pytest.raises(DataError, match="another run"):
        run(pool, out=tmp_path / "out")


# Why nothing is handed out.


def test_nothing_is_handed_out_says_why(tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "pool" / f"{i}.png", 8 - i, i)  # 8 / 255 = .0314
    result = run(tmp_path / "pool")
    assert result.why_nothing() == "0 handed out: 3 scanned, best score .03, below --min-score .05"
    assert result.reasons == {Reason.BELOW_MIN_SCORE: 3}
    near = run(tmp_path / "pool", min_score=0.032).why_nothing()
    assert near == "0 handed out: 3 scanned, best score .03, below --min-score .032"
    draw(tmp_path / "pool" / "3.png", 12, 3)  # 12 / 255 = .0471, which is no ".05"
    higher = run(tmp_path / "pool").why_nothing()
    assert higher == "0 handed out: 4 scanned, best score .047, below --min-score .05"
    assert run(tmp_path / "pool", min_score=0).why_nothing() is None


def test_nothing_is_left_to_hand_out_says_why(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pool, top=2, out=out)
    with PoolStore(out / "pool.sqlite") as store:
        image = next(row.image for row in store.iter_ranked("m") if row.image.endswith("c.png"))
        store.add_decisions([Decision(image, Verdict.EMPTY, "eve", "t", "m")])
    again = run(pool, out=out, eye=Eye("next"), min_score=0.3)
    assert again.candidates == ()
    assert again.reasons == {
        Reason.HANDED_OUT_BEFORE: 2,
        Reason.DECIDED: 1,
        Reason.NEAR_DUPLICATE: 1,
        Reason.BELOW_MIN_SCORE: 2,
    }
    line = again.why_nothing()
    assert line is not None
    assert line.startswith("0 handed out: 6 scanned, best score .80; 2 ")
    assert "; 2 handed out before" in line
    assert "; 1 decided on by a person" in line
    assert "; 2 score below --min-score" in line


# What a person typed into the list of before.


def fill_in(sheet: Path, *verdicts: str) -> str:
    """Type verdicts into the first rows of a list; return what it says then."""
    lines = sheet.read_text().splitlines()
    typed = [line + said for line, said in zip(lines[1:], verdicts, strict=False)]
    text = "\n".join([lines[0], *typed, *lines[1 + len(typed) :]]) + "\n"
    sheet.write_text(text)
    return text


def test_a_list_with_verdicts_is_kept_beside_the_one_that_replaces_it(
    pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheet = tmp_path / "out" / "candidates.csv"
    for old in ("candidates-old", "candidates-old-2"):
        run(pool, top=2, out=sheet.parent)
        caplog.clear()
        filled, boxes = fill_in(sheet, "empty"), sheet.with_suffix(".json").read_text()
        run(pool, top=3, out=sheet.parent)
        assert sheet.read_text().count("\n") == 4
        assert sheet.with_name(f"{old}.csv").read_text() == filled
        assert sheet.with_name(f"{old}.json").read_text() == boxes
        assert caplog.messages == [
            f"{sheet}: the list of before, with 1 verdict filled in, is kept as {old}.csv"
        ]
    run(pool, top=2, out=sheet.parent)  # nothing is filled in: nothing to keep
    assert len(list(sheet.parent.glob("*.csv"))) == 3


def test_a_list_is_not_replaced_by_an_empty_one_without_a_word(
    pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheet = tmp_path / "out" / "candidates.csv"
    run(pool, out=sheet.parent)
    full = sheet.read_text()
    for _ in range(2):  # the second time there is only an empty list to replace
        assert names(run(pool, out=sheet.parent, eye=Eye("next"))) == []
        assert sheet.read_text().count("\n") == 1
        assert sheet.with_name("candidates-old.csv").read_text() == full
    assert caplog.messages == [f"{sheet}: the list of before is kept as candidates-old.csv"]
    assert not sheet.with_name("candidates-old-2.csv").exists()


def test_a_list_that_cannot_be_read_is_kept_too(pool: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "out" / "candidates.csv"
    run(pool, top=2, out=sheet.parent)
    sheet.write_text("verdict,verdict,something else\nempty,,\n")
    run(pool, top=2, out=sheet.parent)
    assert sheet.with_name("candidates-old.csv").is_file()
