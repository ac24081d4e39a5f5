"""``import hardmine``: every public name is documented, its examples run, and values show themselves."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hardmine
from hardmine import Dataset, Detection, Detections, ImageState
from hardmine.data.images import read_image
from hardmine.errors import ConfigError
from hardmine.evaluation.measurement import measure
from hardmine.evaluation.scored_images import Scored
from hardmine.inference.predict import LoadedDetector, PredictMixin
from hardmine.inference.tiles import tiled
from shelf_world import CLASSES, make_world

BOX = np.array([0, 0, 9, 9], np.float32)
SLOW = ("export", "run_loop")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def network() -> LoadedDetector:
    """A real network with random weights, which fires everywhere."""
    return hardmine.load_detector("torchvision:ssdlite320_mobilenet_v3_large", "cpu")


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "world"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


def namespace() -> dict[str, Any]:
    """Return what the examples may use without saying where it comes from."""
    detector = hardmine.load_detector("shelf/predictions.json")
    found = detector.predict("shelf/images/00.png", score_threshold=0.1)
    data = hardmine.load_dataset("shelf")
    names = {name: getattr(hardmine, name) for name in hardmine._PUBLIC}
    return {
        **names,
        "hardmine": hardmine,
        "np": np,
        "Path": Path,
        "data": data,
        "detector": detector,
        "found": found,
    }


def run_examples(thing: object, name: str) -> int:
    """Run the examples in an object's docstrings and return how many there were."""
    said: list[str] = []
    attempted = 0
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder().find(thing, name, globs=namespace()):
        results = runner.run(test, out=said.append)
        assert results.failed == 0, "".join(said)
        attempted += results.attempted
    return attempted


@pytest.mark.filterwarnings("ignore:OpenCV")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in sorted(hardmine._PUBLIC)
    ],
)
def test_every_public_name_has_an_example_that_runs(world: Path, name: str) -> None:
    assert run_examples(getattr(hardmine, name), name) > 0


def test_the_examples_of_the_package_and_of_predict_run(world: Path) -> None:
    assert hardmine.__doc__ is not None
    parser = doctest.DocTestParser()
    test = parser.get_doctest(hardmine.__doc__, namespace(), "hardmine", None, None)
    said: list[str] = []
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed == 0, said
    assert run_examples(PredictMixin.predict, "predict") > 0


# The dataset as a sequence.


def test_a_dataset_is_a_sequence(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    assert [record.path.name for record in data][:2] == ["00.png", "01.png"]
    assert data[-1] is data.records[11]
    assert data[np.int64(2)] is data.records[2]
    assert data[8:].count_states() == {ImageState.VERIFIED_EMPTY: 4}
    assert data[[5, 1]].records == (data.records[5], data.records[1])
    mask = np.arange(12) % 2 == 0
    assert data[mask].records == data.records[::2]
    assert data.subset(mask.tolist()).records == data.records[::2]
    assert data.subset(lambda record: len(record.labels) == 2).records == data.records[4:8]
    assert data[8:].categories == data.categories
    assert len(data[[]]) == 0


def test_a_wrong_index_says_what_is_wanted(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    with pytest.raises(IndexError, match=r"mask of shape \(3,\), wanted \(12,\)"):
        data[np.ones(3, bool)]
    with pytest.raises(IndexError):
        data[12]
    with pytest.raises(TypeError, match="wanted positions"):
        data.subset(np.array([0.5]))


def test_objects_are_counted_without_the_ignored_ones(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    assert data.count_objects() == {"bottle": 6, "can": 6}
    ignored = replace(data[0], ignore=np.array([True]))
    assert data.with_records([ignored, data[1]]).count_objects() == {"bottle": 0, "can": 1}


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_dataset_written_and_read_again_is_the_same(world: Path, kind: str) -> None:
    data = hardmine.load_dataset("shelf")
    written = getattr(data, f"to_{kind}")(f"as_{kind}")
    again = getattr(Dataset, f"from_{kind}")(written.out)
    assert written.boxes == 12
    assert again.count_states() == data.count_states()
    for before, after in zip(data, again, strict=True):
        assert after.boxes == pytest.approx(before.boxes, abs=1e-3)
        assert after.labels.tolist() == before.labels.tolist()
    assert (world / f"as_{kind}").is_dir()


def test_another_format_than_the_one_asked_for_is_refused(world: Path) -> None:
    with pytest.raises(hardmine.DataError, match="got csv data, wanted coco"):
        Dataset.from_coco("shelf/boxes.csv")


def test_split_by_group_and_its_errors(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    parts = data.split({"a": 0.5, "b": 0.5}, seed=1)
    assert sorted(r.path.name for part in parts.values() for r in part) == sorted(
        record.path.name for record in data
    )
    with pytest.raises(hardmine.ConfigError, match="positive shares"):
        data.split({"a": 1.5})
    with pytest.raises(hardmine.ConfigError, match="by_time and group"):
        data.split({"a": 0.5, "b": 0.5}, by_time=True, group="(.)")
    with pytest.raises(hardmine.ConfigError, match="gap goes with by_time"):
        data.split({"a": 0.5, "b": 0.5}, gap=3)


def test_a_dataset_says_what_it_holds(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    assert repr(data) == (
        "Dataset(shelf: 12 images (8 labelled, 4 verified_empty), 12 objects (bottle 6, can 6))"
    )
    assert repr(data[:0]) == "Dataset(shelf: 0 images, no objects)"


def test_a_dataset_shows_itself_in_a_notebook(world: Path) -> None:
    data = hardmine.load_dataset("shelf")
    page = data._repr_html_()
    assert page.count("<img") == 8
    assert "12 images" in page
    assert ">bottle</td>" in page
    assert len(page) < 60_000
    gone = replace(data[0], path=Path("<b>gone</b>.png"))
    page = Dataset(("<i>x</i>", "can"), (gone,), Path("<root>"))._repr_html_()
    assert "<b>gone" not in page
    assert "<i>x" not in page
    assert "<root>" not in page
    assert "no such file" in page
    assert "0 images" in data[:0]._repr_html_()


# Detections as a sequence.


def some_detections() -> Detections:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 24]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.3], np.float32), np.array([1, 2, 1], np.int64)
    return Detections(boxes, scores, labels, np.array([7, 8, 9]), CLASSES, Path("a.png"))


def test_detections_are_a_sequence() -> None:
    found = some_detections()
    assert [one.category for one in found] == ["bottle", "can", "bottle"]
    assert isinstance(found[0], Detection)
    assert (found[1].label, found[-1].score) == (2, pytest.approx(0.3))
    assert found[found.scores > 0.5].prior.tolist() == [7, 8]
    assert found["bottle"].prior.tolist() == found.of_class(1).prior.tolist() == [7, 9]
    assert found[1:].labels.tolist() == [2, 1]
    assert found[[2, 0]].prior.tolist() == [9, 7]
    assert (found["can"].categories, found["can"].path) == (CLASSES, Path("a.png"))
    assert found.area.tolist() == [100.0, 90.0, 40.0]
    with pytest.raises(KeyError, match="no class 'dog'; the classes are bottle, can"):
        found["dog"]
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(IndexError):
        found[np.ones(2, bool)]


def test_detections_without_names_use_labels() -> None:
    found = replace(some_detections(), categories=())
    assert repr(found) == "Detections(3: label 1 0.90, label 2 0.80, label 1 0.30)"
    assert found[0].category == ""
    with pytest.raises(KeyError, match="not known here"):
        found["can"]
    assert np.asarray(found.draw(np.zeros((40, 40, 3), np.uint8))).any()


def test_nms_within_classes_or_across_them() -> None:
    # The first two overlap by 90 of 100 pixels, an IoU of .9, and are of different classes.
    found = some_detections()
    assert found.with_nms(0.5).prior.tolist() == [7, 8, 9]
    assert found.with_nms(0.5, class_agnostic=True).prior.tolist() == [7, 9]
    assert found.with_nms(0.95, class_agnostic=True).prior.tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="iou_threshold: got 50, wanted 0 to 1"):
        found.with_nms(50)


def test_detections_stay_small_frozen_values() -> None:
    found = some_detections()
    again = pickle.loads(pickle.dumps(found))
    assert again.boxes.tolist() == found.boxes.tolist()
    assert (again.categories, again.path) == (found.categories, found.path)
    assert not hasattr(found, "__dict__")
    with pytest.raises(AttributeError):
        found.scores = found.labels  # type: ignore[misc, assignment]


def test_detections_to_coco_and_to_a_picture(world: Path) -> None:
    found = some_detections()
    assert found[1:2].to_coco(3) == [
        {"image_id": 3, "category_id": 2, "bbox": [0, 0, 10, 9], "score": pytest.approx(0.8)}
    ]
    drawn = np.asarray(found.draw("shelf/images/08.png"))
    plain = np.asarray(read_image(Path("shelf/images/08.png")))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any(axis=2)[0, :10].all()  # the first box's upper edge
    with pytest.raises(ValueError, match="know no image"):
        replace(found, path=None).draw()


def test_detections_show_themselves_in_a_notebook(world: Path) -> None:
    found = replace(some_detections(), path=Path("shelf/images/00.png"), categories=("<a>", "can"))
    page = found._repr_html_()
    assert page.count("<img") == 1
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert ">0.900<" in page
    many = Detections(np.zeros((30, 4)), np.ones(30), np.ones(30, np.int64))._repr_html_()
    assert "and 10 more" in many
    assert "<img" not in many
    assert "0 detections" in Detections.none()._repr_html_()


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_detections_there_and_back_through_supervision() -> None:
    pytest.importorskip("supervision")
    found = some_detections()
    theirs = found.to_supervision()
    assert theirs.class_id.tolist() == [0, 1, 0]
    assert theirs["class_name"].tolist() == ["bottle", "can", "bottle"]
    assert theirs[theirs.confidence > 0.5].xyxy.tolist() == found.boxes[:2].tolist()
    back = Detections.from_supervision(theirs[::-1], CLASSES)  # best first again
    assert back.boxes.tolist() == found.boxes.tolist()
    assert back.labels.tolist() == found.labels.tolist()
    assert len(Detections.from_supervision(Detections.none().to_supervision())) == 0
    with pytest.raises(hardmine.DataError, match="class_id from 0 to 1, wanted 0 to 0"):
        Detections.from_supervision(theirs, ["one"])
    theirs.class_id = None
    with pytest.raises(hardmine.DataError, match="got no class_id"):
        Detections.from_supervision(theirs)


def test_without_supervision_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(hardmine.MissingExtraError, match=r"pip install 'hardmine\[supervision\]'"):
        some_detections().to_supervision()


# Any detector, any image.


def test_predict_takes_any_image_and_gives_the_same(world: Path) -> None:
    hardmine.train("shelf", val=0.25, recipe="tiny.yaml", out="first", draws=10, validate=0)
    detector = hardmine.load_detector("first")
    path = Path("shelf/images/05.png")
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        many = detector.predict(
            [path, str(path), picture, pixels, tensor], score_threshold=0.0, batch_size=2
        )
    alone = detector.predict(path, score_threshold=0.0)
    assert len(alone) > 3
    for found in many:
        assert found.boxes == pytest.approx(alone.boxes, abs=1e-3)
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)
        assert found.categories == CLASSES
    assert [found.path for found in many] == [path, path, None, None, None]
    cut = detector.predict(path, score_threshold=float(alone.scores[2]))
    assert len(cut) == int((alone.scores >= alone.scores[2]).sum())
    assert detector.predict([]) == []
    assert detector.model_id == hardmine.load_detector("first/last.safetensors").model_id


def test_predict_stands_pictures_upright(world: Path, network: LoadedDetector) -> None:
    turned = read_image(Path("shelf/images/05.png")).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    by_file = network.predict("turned.png", score_threshold=0)
    with Image.open("turned.png") as picture:
        by_picture = network.predict(picture, score_threshold=0)
    assert by_picture.boxes == pytest.approx(by_file.boxes)
    assert by_file.boxes[:, 2].max() > 48  # 64 pixels wide again


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"got an array float32\[4, 4, 3\], wanted uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8\[4, 4, 4\], wanted uint8\[height, width, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8\[0, 4, 3\]"),
        (7, "got int, wanted a file"),
        ("gone.png", "gone.png: no such file"),
    ],
)
def test_predict_names_what_is_no_image(
    world: Path, network: LoadedDetector, image: Any, message: str
) -> None:
    with pytest.raises(hardmine.DataError, match=message):
        network.predict(image)


def test_predict_with_files_only_and_with_tiles(world: Path, network: LoadedDetector) -> None:
    lookup = hardmine.load_detector("shelf/predictions.json")
    with pytest.raises(hardmine.ConfigError, match="give paths, not pictures"):
        lookup.predict(Image.new("RGB", (8, 8)))
    with pytest.raises(hardmine.ConfigError, match="score_threshold: got 30, wanted 0 to 1"):
        lookup.predict("shelf/images/00.png", score_threshold=30)
    with pytest.raises(hardmine.ConfigError, match="batch_size: got 0, wanted 1 or more"):
        network.predict("shelf/images/00.png", batch_size=0)
    tiles = tiled(network, 32, 0.25)
    path = "shelf/images/00.png"
    with Image.open(path) as picture:
        by_file, by_picture = tiles.predict([path, picture], score_threshold=0)
    assert len(by_file) > 0
    assert by_picture.boxes == pytest.approx(by_file.boxes)
    with pytest.warns(DeprecationWarning, match="open_detector is now load_detector"):
        from hardmine.inference.load_detector import open_detector  # type: ignore[attr-defined]
    assert open_detector is hardmine.load_detector


# Results show their key figures, and in a notebook their pictures.


def test_what_mining_found_shows_itself(world: Path) -> None:
    mined = hardmine.mine("shelf/predictions.json", "pool", top=2)
    assert repr(mined) == "MiningResult(2 of 6 images handed out, scores 0.95 to 0.70)"
    best = mined.candidates[0].image
    assert mined.detections[best]["bottle"].scores.tolist() == pytest.approx([0.95])
    assert mined.detections[best].draw().size == (64, 48)
    page = mined._repr_html_()
    assert page.count("<img") == 2
    assert page.index("p3.png") < page.index("p1.png")
    assert ">0.700<" in page
    nothing = hardmine.mine("shelf/predictions.json", "pool", min_score=0.99)
    assert repr(nothing) == "MiningResult(0 of 6 images handed out)"
    assert "<img" not in nothing._repr_html_()


def test_a_measurement_shows_its_key_figures(world: Path) -> None:
    measured = hardmine.evaluate("shelf/predictions.json", "shelf", negatives="pool", draws=10)
    # Two of twelve objects are found: recall .8 is out of reach.
    assert repr(measured) == (
        f"Measurement(AP {measured.ap.ap:.3f}, AP50 {measured.ap.ap50:.3f}, recall 0.8 not reached, "
        "12 images with 12 objects, 6 of held_out)"
    )
    data = hardmine.load_dataset("shelf")
    found = [
        Detections(record.boxes, np.full(len(record.labels), 0.5, np.float32), record.labels)
        for record in data
    ]
    perfect = measure(Scored(data, tuple(found)), {}, draws=5)
    assert "AP50 1.000" in repr(perfect)
    alarm = Detections(BOX[None], np.array([0.6], np.float32), np.array([1]))
    part = Scored(data[8:], (alarm, *[Detections.none()] * 3))
    assert "0.250 alarms per image at recall 0.8 (score 0.500)" in repr(
        measure(Scored(data, tuple(found)), {"held_out": part}, draws=5)
    )


@pytest.mark.slow
def test_the_page_about_python_runs_as_it_stands(world: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for number, block in enumerate(blocks):
            exec(compile(block, f"docs/python.md, example {number + 1}", "exec"), names)
    with Image.open("worst.png") as drawn:
        assert drawn.size == (64, 48)
    assert (world / "shelf_yolo" / "data.yaml").is_file()
    assert len(names["again"]) == 4
    assert len(names["mined"]) == 2
    assert [(row["arm"], row["round"]) for row in names["result"].rows] == [
        ("mined", 0),
        ("none", 0),
        ("mined", 1),
        ("none", 1),
    ]
    assert "Dataset(shelf: 12 images" in said.getvalue()
    result = names["result"]
    assert re.fullmatch(
        r"LoopResult\(loop: 1 round, mined \S+ to \S+ alarms per image, "
        r"none \S+ to \S+ alarms per image\)",
        repr(result),
    )
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + 4
    assert shown.count("<img") == len(
        json.loads((result.out / "rounds/mined-1/candidates.json").read_text())["candidates"]
    )
    assert "report.html" in shown
    assert repr(names["run"]).startswith("TrainResult(")
    assert "AP50" in repr(names["run"])


@pytest.mark.usefixtures("world")
def test_check_takes_datasets_and_single_sets() -> None:
    data = hardmine.load_dataset("shelf")
    half, rest = data[:6], data[6:]
    assert hardmine.check(half).report.splits["all"].images == 6
    images = Path("shelf/images")
    for against in (half, [rest, half], {"again": half}, str(images), images):
        problems = hardmine.check(half, against=against).report.problems
        assert "split_same_files" in [str(found.kind) for found in problems], against
    assert hardmine.check(half, negatives=rest).notes[0].startswith("shortcut test left out")
    with pytest.raises(ConfigError, match=r"^fix: got a Dataset as data, wanted the path of its"):
        hardmine.check(half, fix="fixed")


@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_a_threshold_of_any_kind_is_inclusive(kind: type) -> None:
    box = np.array([[0, 0, 5, 5]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([1]))
    assert len(found.at_least(kind(0.9))) == 1
