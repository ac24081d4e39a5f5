"""Mining by other rules, from a predictions file, and the explanation of one image."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine import mine
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.resize import Resize
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import ConfigError, DataError
from hardmine.inference.detector import BatchScores
from hardmine.inference.load_detector import load_detector
from hardmine.mining.mine import explain
from hardmine.mining.mine_options import RankOptions
from hardmine.types import Dataset, ImageRecord, ImageState

A, B = [0, 0, 10, 10], [20, 20, 10, 10]  # xywh


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def row(name: str, score: float, category: str, box: list[int]) -> dict[str, object]:
    return {"file_name": name, "category": category, "bbox": box, "score": score}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """One strong alarm (a), three weak ones (b), one of another class (c), a copy of a (d), one
    that fires below the floor (e), and one that is silent (f).
    """
    for i, name in enumerate(("x/a", "x/b", "y/c", "y/e", "y/f")):
        draw(tmp_path / "pool" / f"{name}.png", i)
    draw(tmp_path / "pool" / "y" / "d.png", 0)
    found = [
        row("x/a.png", 0.9, "cup", A),
        row("x/b.png", 0.4, "cup", A),
        row("x/b.png", 0.35, "cup", B),
        row("x/b.png", 0.3, "jar", A),
        row("y/c.png", 0.52, "jar", B),
        row("y/d.png", 0.8, "cup", A),
        row("y/e.png", 0.02, "cup", A),
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path


def names(result: Any) -> list[str]:
    return [Path(score.image).stem for score in result.candidates]


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ((0.95, 0.25), ["c", "b", "a"]),  # in logits: c 1.18 above, b .25 above, a .75 below
        ((0.3, 0.9), ["a", "b", "c"]),
        ((0.5, 0.5), ["a", "c", "b"]),  # as by the score
    ],
)
def test_each_class_is_compared_with_its_own_threshold(
    world: Path, scores: tuple[float, float], order: list[str]
) -> None:
    rank = RankOptions(rule="class", class_scores=scores)
    assert names(mine(world / "found.json", world / "pool", rank=rank)) == order
    assert names(mine(world / "found.json", world / "pool", rank=rank, top=1)) == order[:1]


def test_the_thresholds_of_the_classes_are_those_in_the_model(world: Path) -> None:
    detector = load_detector(world / "found.json")
    detector.operating_point = OperatingPoint(0.25, {"cup": 0.95})
    rank = RankOptions(rule="class")
    assert names(mine(detector, world / "pool", rank=rank)) == ["c", "b", "a"]
    detector.operating_point = None
    with pytest.raises(ConfigError, match=r"needs a threshold for each class.*--per-class --write"):
        mine(detector, world / "pool", rank=rank)
    with pytest.raises(ConfigError, match="got 1 thresholds for the 2 classes"):
        mine(detector, world / "pool", rank=replace(rank, class_scores=(0.5,)))


def test_an_image_is_explained_without_the_rule_that_has_no_thresholds(world: Path) -> None:
    usual = explain(world / "found.json", world / "pool", "x/a.png")
    assert "class" not in usual.ranks
    rank = RankOptions(rule="class", class_scores=(0.95, 0.25))
    ranked = explain(world / "found.json", world / "pool", "x/a.png", rank=rank)
    assert ranked.ranks["class"] == (3, 4)
    assert ranked.ranks["score"] == usual.ranks["score"] == (1, 4)


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        ("score", ["a", "c", "b"]),
        ("alarms", ["b", "a", "c"]),
        ("sum", ["b", "a", "c"]),  # 1.05, .9, .52
        # c: .52 - .48; b: at its best box .4, .3 and .3 for background; of the copies d: .8 - .2.
        ("margin", ["c", "b", "d"]),
        ("uncertainty", ["c", "b", "d"]),  # .02, .1, .3 from .5
    ],
)
def test_a_predictions_file_goes_straight_to_ranking(
    world: Path, rule: Any, order: list[str]
) -> None:
    result = mine(world / "found.json", world / "pool", rank=RankOptions(rule=rule), out=world)
    assert names(result) == order
    assert (result.scanned, result.duplicates_grouped) == (6, 1)
    sheet = json.loads((world / "candidates.json").read_text())
    by_name = {entry["image"]: entry for entry in sheet["candidates"]}
    harder, other = ("x/a.png", "y/d.png") if "a" in order else ("y/d.png", "x/a.png")
    assert by_name[harder]["similar"] == [other]
    assert by_name["y/c.png"]["boxes"] == [[20, 20, 30, 30, 0.52, "jar"]]
    assert sheet["rank"]["rule"] == rule


def test_predictions_of_another_pool_are_refused(world: Path) -> None:
    draw(world / "other" / "z.png", 9)
    with pytest.raises(DataError, match=r"is about other images: .*it also names x/a.png"):
        mine(world / "found.json", world / "other")


def test_a_dataset_file_can_be_excluded(world: Path) -> None:
    path = draw(world / "val" / "known.png", 2)  # the same picture as y/c.png
    record = ImageRecord.empty(path, 32, 32, ImageState.VERIFIED_EMPTY)
    write_coco(Dataset(("cup",), (record,), world / "val"), world / "val" / "val.json")
    result = mine(world / "found.json", world / "pool", exclude=[world / "val" / "val.json"])
    assert names(result) == ["a", "b"]
    assert [(Path(a).stem, Path(b).stem) for a, b in result.leaks] == [("c", "known")]


def told(world: Path, image: str, **more: Any) -> str:
    how = {"rank": RankOptions(group="folder", quota_group=1), "top": 2, "out": world / "out"}
    lines = explain(world / "found.json", world / "pool", image, **{**how, **more}).lines()
    return "\n".join(lines)


def test_an_image_is_explained(world: Path) -> None:
    text = told(world, "x/a.png")
    for part in (
        "score: 0.9000 (cup)",
        "top box (x1, y1, x2, y2): 0.0, 0.0, 10.0, 10.0",
        "alarms at 0.05 or more: 1",
        "score 1 of 4, alarms 2 of 4, sum 2 of 4, margin 4 of 4, uncertainty 4 of 4",
        "group: x",
        "stands for: y/d.png",
        "verdict: handed out as number 1 of 2",
    ):
        assert part in text
    assert "near-duplicate of" in told(world, "y/d.png")
    assert "the quota of 1 for group 'x' is used up" in told(world, "x/b.png", top=3)
    assert "its score is below 0.05" in told(world, "y/e.png")
    silent = told(world, str(world / "pool" / "y" / "f.png"))
    assert "top box (x1, y1, x2, y2): none" in silent
    assert "not among the images looked at" in silent


def test_explaining_hands_out_nothing_and_knows_what_was(world: Path) -> None:
    told(world, "x/a.png")
    result = mine(world / "found.json", world / "pool", top=1, out=world / "out")
    assert names(result) == ["a"]
    later = json.loads((world / "found.json").read_text())
    (world / "found.json").write_text(json.dumps([*later, row("y/f.png", 0.1, "cup", B)]))
    assert "verdict: not handed out: handed out before (model " in told(world, "x/a.png")
    assert "not handed out: near-duplicate of" in told(world, "y/d.png")


def test_an_image_outside_the_pool_cannot_be_explained(world: Path) -> None:
    with pytest.raises(DataError, match="not in the pool"):
        told(world, "z.png")
    (world / "pool" / "notes.txt").write_text("no picture")
    with pytest.raises(
        DataError, match=r"^notes.txt: not an image of the pool .* such as x/a.png$"
    ):
        told(world, "notes.txt")


def test_a_name_that_an_archive_does_not_hold_cannot_be_explained(world: Path) -> None:
    with tarfile.open(world / "pool.tar", "w") as archive:
        archive.add(world / "pool", "pool")
    with pytest.raises(
        DataError, match=r"^a.png: not an image of the pool .*pool.tar, .* pool/x/a.png$"
    ):
        explain(world / "found.json", world / "pool.tar", "a.png", out=world / "out")


class Colours:
    """Fires everywhere alike; its features are the mean colour."""

    categories = ("thing",)
    model_id = "colours"
    resize = Resize(8, 8)

    def score(self, images: torch.Tensor) -> BatchScores:
        ones = torch.ones(len(images))
        return BatchScores(0.5 + 0 * ones, ones.long(), 0 * ones.long())

    def detect(self, images: torch.Tensor) -> list[Detections]:
        one = np.ones(1, np.int64)
        found = Detections(np.array([[0, 0, 8, 8]], np.float32), np.full(1, 0.5, np.float32), one)
        return [found] * len(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


def test_variety_is_chosen_by_the_detectors_own_features(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for i, colour in enumerate([(200, 0, 0)] * 4 + [(0, 200, 0), (0, 0, 200)]):
        pixels = noise.integers(0, 56, (32, 32, 3)) + np.array(colour)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
    options = RankOptions(diverse=True)
    assert sorted(names(mine(Colours(), tmp_path, top=3, rank=options))) == ["0", "4", "5"]
    assert names(mine(Colours(), tmp_path, top=3)) == ["0", "1", "2"]


def test_variety_needs_features(world: Path) -> None:
    with pytest.raises(ConfigError, match="gives no features"):
        mine(
            world / "found.json",
            world / "pool",
            rank=RankOptions(diverse=True),
            progress=lambda *told: pytest.fail(f"scanned before it was refused: {told}"),
        )


def test_the_margin_counts_each_class_at_the_best_box_by_its_best_score(tmp_path: Path) -> None:
    # x: at the best box (IoU .5 counts) cup .6 (and .3 again) and jar .2, so background .2: margin .4.
    # y: cup .65 against background .35: margin .3, which is smaller, so it comes first.
    half = [0, 0, 10, 5]
    found = [
        row("x.png", 0.6, "cup", A),
        row("x.png", 0.3, "cup", half),
        row("x.png", 0.2, "jar", half),
        row("y.png", 0.65, "cup", A),
    ]
    for seed, name in enumerate(("x", "y")):
        draw(tmp_path / "pool" / f"{name}.png", seed)
    (tmp_path / "found.json").write_text(json.dumps(found), encoding="utf-8")
    mined = mine(tmp_path / "found.json", tmp_path / "pool", rule="margin")
    assert [Path(one.image).name for one in mined.candidates] == ["y.png", "x.png"]
