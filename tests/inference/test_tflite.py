"""``.tflite`` files as detectors: what they give is computed again by hand."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hardmine
from hardmine.cli.main import run as cli
from hardmine.detections import OperatingPoint
from hardmine.errors import NOTICE, CheckpointError, ConfigError, HardmineError, MissingExtraError
from hardmine.inference.graph.graph_detector import GraphDetector
from hardmine.inference.graph.recognise_tflite import mobilenet_anchors
from hardmine.inference.graph.tflite_file import fit_names, label_names
from hardmine.inference.litert_export import write_point_into_tflite
from hardmine.inference.load_detector import load_detector
from hardmine.mining.pool_store import PoolStore
from hardmine.models.backbones import SmallNetConfig
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.workflows.export_model import export
from shelf_world import CLASSES as SHELF_NAMES
from shelf_world import make_world

pytest.importorskip("ai_edge_litert", reason="needs the extra litert")

from tflite_files import ANCHORS, CLASSES, SIDE, Written, cut, expected, write_tflite

NAMES = ("cat", "dog")
ONE_TO_ONE = (1 / 127.5, -1)
"""int8 that stands for -1 to 1."""


def images(count: int = 3) -> torch.Tensor:
    """Every image has one colour, so that its mean is known exactly."""
    generator = torch.Generator().manual_seed(3)
    colours = torch.randint(0, 256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator)
    return colours.expand(count, 3, SIDE, SIDE).contiguous()


def opened(folder: Path, how: Written, names: Sequence[str] | Path | None = NAMES) -> GraphDetector:
    path = write_tflite(folder / "model.tflite", how)
    detector = load_detector(path, "cpu", classes=names)
    assert isinstance(detector, GraphDetector)
    return detector


def assert_as_by_hand(
    detector: GraphDetector,
    *,
    mean: float = 127.5,
    std: float = 127.5,
    within: float = 1e-5,
    first_only: bool = True,
) -> None:
    """Each row's best class is one detection (the operator's fast form), best first."""
    pictures = images()
    for picture, found in zip(pictures, detector.detect(pictures), strict=True):
        means = (picture[:, 0, 0].numpy().astype(np.float64) - mean) / std
        boxes, scores = expected(means)
        if first_only:
            wanted = sorted(
                ((s.max(), int(s.argmax()) + 1, b) for s, b in zip(scores, boxes, strict=True)),
                key=lambda row: -row[0],
            )
        else:
            wanted = sorted(
                (
                    (s[c], c + 1, b)
                    for s, b in zip(scores, boxes, strict=True)
                    for c in range(CLASSES)
                    if s[c] >= 0.01
                ),
                key=lambda row: -row[0],
            )
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found.scores, [row[0] for row in wanted], atol=within)
        near = within > 1e-3
        if not near:
            assert found.labels.tolist() == [row[1] for row in wanted]
            np.testing.assert_allclose(
                found.boxes, np.clip([row[2] for row in wanted], 0, SIDE), atol=1e-3
            )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 0, 1, 2), (1, 3, 0, 2)])
def test_the_operator_says_which_output_is_which(tmp_path: Path, order: tuple[int, ...]) -> None:
    detector = opened(tmp_path, Written(order=order))
    assert_as_by_hand(detector)
    assert detector.categories == NAMES
    scores = detector.score(images())
    for best, found in zip(scores.scores.tolist(), detector.detect(images()), strict=True):
        assert best == pytest.approx(float(found.scores[0]), abs=1e-6)


def test_a_file_can_be_sent_to_another_process(tmp_path: Path) -> None:
    assert_as_by_hand(pickle.loads(pickle.dumps(opened(tmp_path, Written()))))


def test_uint8_takes_pixels_and_int8_pixels_less_128(tmp_path: Path) -> None:
    # (pixel - 127) / 127.5 is what the bytes of this file stand for.
    small = opened(tmp_path, Written(dtype="uint8", scale=(1 / 127.5, 127)))
    assert_as_by_hand(small, mean=127)
    # -1 stands for zero: pixel 127, of which 128 is taken.
    signed = opened(tmp_path, Written(dtype="int8", scale=ONE_TO_ONE))
    assert_as_by_hand(signed, mean=127)


def test_the_normalisation_of_the_metadata_is_used(tmp_path: Path) -> None:
    assert_as_by_hand(opened(tmp_path, Written(mean=0.0, std=255.0)), mean=0, std=255)
    signed = opened(tmp_path, Written(dtype="int8", scale=(1 / 255, -128), mean=0.0, std=255.0))
    assert_as_by_hand(signed, mean=0, std=255)


def test_a_yaml_without_outputs_lies_over_what_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(
        yaml.safe_dump({"input": {"mean": [0, 0, 0], "std": [100, 100, 100]}})
    )
    assert_as_by_hand(opened(tmp_path, Written(order=(2, 0, 3, 1))), mean=0, std=100)


def test_outputs_behind_the_operator_are_told_apart(tmp_path: Path) -> None:
    named = Written(
        kind="shapes",
        order=(2, 0, 3, 1),
        names=("score", "location", "number of detections", "category"),
    )
    assert_as_by_hand(opened(tmp_path, named))
    # Without names: of an empty picture classes are whole numbers and scores are not.
    assert_as_by_hand(
        opened(tmp_path, Written(kind="shapes", order=(1, 2, 0, 3), mean=100.0)), mean=100
    )


def test_outputs_that_cannot_be_told_apart_are_refused_with_presets(tmp_path: Path) -> None:
    # Nothing reaches a floor of .99: classes and scores are zeros.
    how = Written(kind="shapes", order=(2, 0, 3, 1), floor=0.99, mean=0.0)
    with pytest.raises(ConfigError, match=r"several layouts.*:tf_ssd \(.* or .*:tf_ssd_sorted \("):
        opened(tmp_path, how)
    path = write_tflite(tmp_path / "model.tflite", Written(kind="shapes", order=(2, 0, 3, 1)))
    detector = load_detector(f"{path}:tf_ssd_sorted", "cpu", classes=NAMES)
    assert isinstance(detector, GraphDetector)
    assert_as_by_hand(detector)


@pytest.mark.parametrize("quantised", [False, True])
def test_raw_boxes_are_decoded_against_the_anchors_of_the_file(
    tmp_path: Path, quantised: bool
) -> None:
    detector = opened(tmp_path, Written(kind="raw", anchors=True, quantised=quantised))
    assert_as_by_hand(detector, within=0.5 / 256 + 1e-5 if quantised else 1e-5, first_only=False)


def test_constants_behind_the_flatbuffer_are_read(tmp_path: Path) -> None:
    assert_as_by_hand(
        opened(tmp_path, Written(kind="raw", anchors=True, outside=True)), first_only=False
    )


def test_raw_boxes_with_a_file_of_anchors(tmp_path: Path) -> None:
    how = Written(kind="raw")
    with pytest.raises(
        ConfigError, match=r"anchors that do not stand.*boxes: 0, scores: 1, priors"
    ):
        opened(tmp_path, how)
    np.save(tmp_path / "anchors.npy", ANCHORS[:, [1, 0, 3, 2]])
    (tmp_path / "model.yaml").write_text(
        yaml.safe_dump(
            {"preset": "tf_ssd_raw", "outputs": {"boxes": 0, "scores": 1, "priors": "anchors.npy"}}
        )
    )
    assert_as_by_hand(opened(tmp_path, how), first_only=False)


def test_the_anchors_of_ssd_mobilenet() -> None:
    anchors = mobilenet_anchors(300)
    assert anchors.shape == (1917, 4)  # 19·19·3 + (100 + 25 + 9 + 4 + 1)·6
    np.testing.assert_allclose(anchors[0], [0.5 / 19, 0.5 / 19, 0.1, 0.1], rtol=1e-6)
    # The second shape: scale .2, twice as wide as high.
    np.testing.assert_allclose(anchors[1, 2:], [0.2 / 2**0.5, 0.2 * 2**0.5], rtol=1e-6)
    # The last one: a square of sqrt(.95 · 1) in the middle.
    np.testing.assert_allclose(anchors[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5], rtol=1e-6)
    assert len(mobilenet_anchors(320)) == 2034


def test_names_come_from_the_label_file_of_the_metadata(tmp_path: Path) -> None:
    assert opened(tmp_path, Written(labels=("bird", "fish")), None).categories == ("bird", "fish")
    with_background = opened(tmp_path, Written(labels=("???", "bird", "fish")), None)
    assert with_background.categories == ("bird", "fish")
    # Names that the user gives go over them.
    assert opened(tmp_path, Written(labels=("bird", "fish"))).categories == NAMES


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "background\ncat\ndog\n",
        "0  cat\n1  dog\n",
        "item {\n  id: 1\n  name: \"cat\"\n}\nitem {\n  id: 2\n  name: 'dog'\n}\n",
    ],
)
def test_label_maps_as_people_have_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(text)
    assert opened(tmp_path, Written(), file).categories == NAMES


def test_places_without_a_name_keep_their_number() -> None:
    assert label_names("0 person\n2 car") == ("person", "", "car")
    assert fit_names(("person", "???", "car"), 3, "x") == ("person", "unnamed 2", "car")
    assert fit_names(("???", "person", "???"), 2, "x") == ("person", "unnamed 2")


def test_wrong_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no class names for its 2 classes"):
        opened(tmp_path, Written(), None)
    with pytest.raises(ConfigError, match="has 2 classes, 3 names are given: cat, dog, cow"):
        opened(tmp_path, Written(), ("cat", "dog", "cow"))
    with pytest.raises(ConfigError, match="has 3 class scores per box and no names"):
        opened(tmp_path, Written(kind="raw", anchors=True), None)


def test_what_is_no_detector_or_damaged_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no detector that is known: its outputs are flat \[1"
    ):
        opened(tmp_path, Written(kind="classifier"))
    path = write_tflite(tmp_path / "a_edgetpu.tflite", Written(operator="edgetpu-custom-op"))
    with pytest.raises(CheckpointError, match=r"compiled for the Edge TPU.*from \(a\.tflite\)"):
        load_detector(path, classes=NAMES)
    path = write_tflite(tmp_path / "own.tflite", Written(operator="MyOwnOperator"))
    with pytest.raises(CheckpointError, match=r"LiteRT cannot run it \(.*MyOwnOperator"):
        load_detector(path, classes=NAMES)
    text = tmp_path / "text.tflite"
    text.write_text("no flatbuffer at all")
    with pytest.raises(CheckpointError, match="mark TFL3 is missing"):
        load_detector(text, classes=NAMES)
    with pytest.raises(CheckpointError, match="no such file"):
        load_detector(tmp_path / "absent.tflite", classes=NAMES)


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.3, 0.5, 0.8, 0.97])
def test_a_file_that_is_cut_short_is_one_line(tmp_path: Path, keep: float) -> None:
    path = cut(write_tflite(tmp_path / "cut.tflite", Written()), keep)
    with pytest.raises(HardmineError, match=r"cut\.tflite: ") as told:
        load_detector(path, classes=NAMES)
    assert len(str(told.value).splitlines()) == 1


def test_a_label_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"label file 'labels.txt'.*cut short.*--classes"):
        opened(tmp_path, Written(labels=("bird", "fish"), zip_labels=False), None)


def test_what_was_recognised_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(NOTICE, "hardmine")
    opened(tmp_path, Written(order=(2, 0, 3, 1), floor=0.3))
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == NOTICE]
    assert "operator inside (scores, boxes, count, labels): classes counted from 0" in line
    assert "pixels as -1 to 1" in line
    assert "no detection below score 0.3" in line
    assert logging.getLevelName(NOTICE)


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tflite(tmp_path / "model.tflite", Written())
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hardmine\[litert\]'"):
        load_detector(path, classes=NAMES)


def own_export(folder: Path) -> Path:
    """A file as ``hardmine export --with-nms`` describes it, on another network."""
    how = {
        "classes": list(NAMES),
        "input": {"layout": "nhwc", "divide_by": 127.5, "mean": [1, 1, 1], "resize": "stretch"},
        "outputs": {
            "kind": "final",
            "boxes": 1,
            "labels": 3,
            "scores": 0,
            "count": 2,
            "box_form": "yxyx",
            "coordinates": "unit",
        },
    }
    facts = {"hardmine": json.dumps(how).encode()}
    return write_tflite(
        folder / "own.tflite", Written(order=(2, 0, 3, 1), facts=facts, labels=("cat", "dog"))
    )


def test_our_own_exports_say_themselves_what_they_are(tmp_path: Path) -> None:
    detector = load_detector(own_export(tmp_path), "cpu")
    assert isinstance(detector, GraphDetector)
    assert_as_by_hand(detector)


def test_a_threshold_goes_into_our_own_export_alone(tmp_path: Path) -> None:
    path = own_export(tmp_path)
    before, point = load_detector(path, "cpu"), OperatingPoint(0.4, {"dog": 0.5}, "a promise")
    write_point_into_tflite(path, point)
    after = load_detector(path, "cpu")
    assert isinstance(after, GraphDetector)
    assert_as_by_hand(after)
    assert after.operating_point == point
    assert after.model_id == before.model_id
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == list(NAMES)
    foreign = write_tflite(tmp_path / "foreign.tflite", Written())
    with pytest.raises(ConfigError, match="was not exported by Hardmine"):
        write_point_into_tflite(foreign, point)


def test_an_export_without_the_converter_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "run" / "last.safetensors", *tiny_ssd())
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingExtraError, match="pip install litert-torch"):
        export(tmp_path / "run", to="litert", out=tmp_path / "out.tflite")
    assert not (tmp_path / "out.tflite").exists()


def tiny_ssd() -> tuple[dict[str, torch.Tensor], Recipe, tuple[str, ...]]:
    config = SSDConfig(name="tiny", height=32, width=32, backbone=SmallNetConfig())
    return SSD(config, NAMES).state_dict(), replace(Recipe(), model=config), NAMES


def test_a_pool_is_mined(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    rng, wanted = np.random.default_rng(1), {}
    for i in range(5):  # noise, so that no image is near another
        pixels = rng.integers(0, 60 + 40 * i, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pool / f"{i}.png")
        means = (pixels.mean((0, 1), np.float64) - 127) / 127.5
        wanted[f"{i}.png"] = expected(means)[1].max()
    detector = opened(tmp_path, Written(dtype="uint8", scale=(1 / 127.5, 127)))
    mined = hardmine.mine(detector, pool, out=tmp_path / "out", top=4)
    found = [(Path(c.image).name, c.score) for c in mined.candidates]
    assert [name for name, _ in found] == sorted(wanted, key=lambda name: -wanted[name])[:4]
    for name, score in found:
        assert score == pytest.approx(wanted[name], abs=1e-4)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labelled pictures, a pool, held-out pictures, and a file without names inside."""
    make_world(tmp_path)
    write_tflite(tmp_path / "detect.tflite", Written())
    (tmp_path / "labels.txt").write_text("\n".join(SHELF_NAMES) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command line and return what it prints."""
    ended = cli(list(words))
    said = capfd.readouterr()
    assert ended == code, f"{' '.join(words)}: {said.err}"
    return said.out


def test_predict_and_check_detector_take_a_file(
    shelf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = ("detect.tflite", "--classes", "labels.txt")
    rows = json.loads(ran(capfd, "predict", *named, "pool", "--json", "--min-score", "0"))
    detector = load_detector("detect.tflite", "cpu", classes=Path("labels.txt"))
    image = shelf / "pool" / "p1.png"
    wanted = detector.predict(image, score_threshold=0.0)
    found = [row for row in rows if Path(row["file_name"]).name == image.name]
    assert [row["score"] for row in found] == pytest.approx(wanted.scores.tolist(), abs=1e-4)
    assert {row["category"] for row in found} == {SHELF_NAMES[n - 1] for n in wanted.labels}
    reference = shelf / "reference.json"
    reference.write_text(json.dumps(rows))
    check = ("check-detector", *named[:1], "pool", "--reference", "reference.json", *named[1:])
    assert "0 missing, 0 extra" in ran(capfd, *check, "--min-score", "0.01")
    reference.write_text(json.dumps([{**row, "score": row["score"] * 0.9} for row in rows]))
    ran(capfd, *check, "--min-score", "0.01", code=3)


def test_val_and_threshold_take_a_file(shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The lowest threshold that keeps a promise lies above the share of scores that it allows."""
    named = ("detect.tflite", "shelf", "--classes", "labels.txt", "--negatives", "held_out")
    measured = json.loads(ran(capfd, "val", *named, "--json"))
    assert measured["images"] == 12
    assert measured["negatives"]["held_out"]["images"] == 6
    assert 0 <= measured["AP50"] <= 1
    ran(capfd, "threshold", *named, "--max-alarms", "0.5", "--confidence", "0.5", "--out", "chosen")
    chosen = json.loads((shelf / "chosen" / "threshold.json").read_text())
    detector = load_detector("detect.tflite", "cpu", classes=Path("labels.txt"))
    best = [
        float(detector.predict(path, score_threshold=0.0).scores[0])
        for path in sorted((shelf / "held_out").iterdir())
    ]
    assert sum(score >= chosen["point"]["score"] for score in best) <= 3


def test_a_loop_mines_with_the_file_that_a_command_writes(
    shelf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The names of the classes are those of the data; each image of the pool is handed out by score."""
    (shelf / "train.py").write_text(
        "import shutil, sys; shutil.copy('detect.tflite', sys.argv[1])\n"
    )
    command = f"{sys.executable} train.py {{weights_out}}"
    trainer = ("--train-command", command, "--weights-name", "best.tflite")
    options = ("--rounds", "1", "--arms", "mined", "--add", "2", "--val", "0.4", "--out", "looped")
    data = ("shelf", "--pool", "pool", "--negatives", "held_out", "--min-score", "0.01")
    ran(capfd, "loop", *data, *trainer, "--detector", "{weights_out}", *options)
    assert len(list((shelf / "looped").glob("models/*/best.tflite"))) == 2
    assert (shelf / "looped" / "report.html").stat().st_size > 1000
    with PoolStore(shelf / "looped" / "pool.sqlite", read_only=True) as store:
        detector = load_detector("detect.tflite", "cpu", fallback=SHELF_NAMES)
        stored = store.ranked_after(detector.model_id, None, 99, exact=True)
        scores = {Path(row.image).name: row.score for row in stored}
    assert len(scores) >= 3  # others of the pool are kept for stopping
    for name, score in scores.items():
        best = detector.predict(shelf / "pool" / name, score_threshold=0.0).scores[0]
        assert score == pytest.approx(float(best), abs=1e-6)
