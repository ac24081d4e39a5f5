"""Predictions of other programs: one box, x 8..24 and y 16..48 of a picture of 64 x 128."""

from __future__ import annotations

import json
import logging
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hardmine
from hardmine.errors import ConfigError, DataError
from hardmine.inference.predictions_file import Predictions, load_predictions

WIDTH, HEIGHT = 64, 128
BOX = [8.0, 16.0, 24.0, 48.0]
SHARES = [0.125, 0.125, 0.25, 0.25]  # x, y, w, h


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Pictures in two folders of cameras, with one name in both."""
    noise = np.random.default_rng(0)
    for name in ("cam1/a.png", "cam1/b.png", "cam2/a.png"):
        path = tmp_path / "pool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pool"


def megadetector(detections: Any = ..., **more: Any) -> dict[str, Any]:
    row = {"category": "1", "conf": 0.75, "bbox": SHARES}
    found = [row] if detections is ... else detections
    return {
        "info": {"format_version": "1.4"},
        "detection_categories": {"1": "animal", "2": "person", "10": "vehicle"},
        "images": [
            {"file": "cam1\\a.png", "detections": found, **more},
            {"file": "cam1\\b.png", "detections": []},
        ],
    }


def speciesnet() -> dict[str, Any]:
    row = {"category": "1", "label": "animal", "conf": 0.75, "bbox": SHARES}
    return {
        "predictions": [
            {"filepath": "cam1/a.png", "detections": [row], "failures": ["GEOLOCATION"]},
            {"filepath": "cam1/b.png", "failures": ["DETECTOR"]},
        ]
    }


def written(folder: Path, form: str) -> Path:
    """Write the box as that program does."""
    path = folder / "found.json"
    match form:
        case "MegaDetector":
            path.write_text(json.dumps(megadetector()))
        case "SpeciesNet":
            path.write_text(json.dumps(speciesnet()))
        case "YOLO text":
            path = folder / "labels"
            path.mkdir()
            (path / "b.txt").write_text("0 0.25 0.25 0.25 0.25 0.75\n")
        case "VOC files":
            path = folder / "results"
            path.mkdir()
            (path / "comp3_det_val_animal.txt").write_text("b 0.75 9 17 24 48\n")
            (path / "comp3_det_val_person.txt").write_text("")
        case _:
            path = folder / "found.csv"
            path.write_text(
                "file;left;top;right;bottom;confidence;class\ncam1\\b.png;8;16;24;48;0.75;animal\n"
            )
    return path


@pytest.mark.parametrize(
    ("form", "name", "classes"),
    [
        ("MegaDetector", "cam1/a.png", None),
        ("SpeciesNet", "cam1/a.png", None),
        ("YOLO text", "cam1/b.png", ["animal", "person"]),
        ("VOC files", "cam1/b.png", ["animal", "person"]),
        ("CSV", "cam1/b.png", None),
    ],
)
def test_a_program_s_box_is_found_in_pixels(
    tmp_path: Path, pool: Path, form: str, name: str, classes: list[str] | None
) -> None:
    path = written(tmp_path, form)
    detector = hardmine.load_detector(path, classes=classes)
    found = detector.predict(pool / name)
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
    assert [(one.category, one.score) for one in found] == [("animal", 0.75)]
    mined = hardmine.mine(detector, pool)
    assert [Path(one.image).relative_to(pool).as_posix() for one in mined.candidates] == [name]


def test_shares_are_of_each_image_also_inside_an_archive(tmp_path: Path, pool: Path) -> None:
    path = written(tmp_path, "MegaDetector")
    archive = tmp_path / "pool.zip"
    with zipfile.ZipFile(archive, "w") as into:
        for file in sorted(pool.rglob("*.png")):
            into.write(file, file.relative_to(pool))
    mined = hardmine.mine(path, archive)
    (found,) = mined.detections.values()
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)


def test_megadetector_s_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "MegaDetector")
    assert hardmine.load_detector(path).categories == ("animal", "person", "vehicle")
    renamed = hardmine.load_detector(path, classes=["beast", "man", "car"])
    assert renamed.categories == ("beast", "man", "car")
    with pytest.raises(DataError, match="has classes animal, person, vehicle, --classes gives x"):
        hardmine.load_detector(path, classes=["x"])


@pytest.mark.parametrize(
    ("detections", "more", "why"),
    [(None, {}, "no detections"), (None, {"failure": "Failure image access"}, "image access")],
)
def test_an_image_that_failed_is_no_empty_one(
    tmp_path: Path,
    pool: Path,
    caplog: pytest.LogCaptureFixture,
    detections: Any,
    more: Any,
    why: str,
) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(megadetector(detections, **more)))
    with caplog.at_level(logging.WARNING, "hardmine"):
        mined = hardmine.mine(path, pool)
    assert mined.scanned == 2
    (problem,) = mined.problems
    assert Path(problem.file).relative_to(pool).as_posix() == "cam1/a.png"
    assert "failed when it was predicted" in str(problem)
    assert why in str(problem)
    assert "1 of the images failed when they were predicted" in caplog.text


def test_a_failed_classifier_of_speciesnet_leaves_the_boxes(tmp_path: Path, pool: Path) -> None:
    mined = hardmine.mine(written(tmp_path, "SpeciesNet"), pool)
    assert [Path(problem.file).name for problem in mined.problems] == ["b.png"]
    assert len(mined.candidates) == 1


def test_files_that_the_pool_lacks_are_said(
    tmp_path: Path, pool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = megadetector()
    values["images"].append({"file": "cam9/z.png", "detections": []})
    path = tmp_path / "found.json"
    path.write_text(json.dumps(values))
    with caplog.at_level(logging.INFO, "hardmine"):
        hardmine.mine(path, pool)
    assert "it also names cam9/z.png" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t/a.txt", "0 0.5 0.5 0.1 0.1\n", r"a\.txt:1: has no confidence; .*save_conf=True"),
        ("t/a.txt", "0 .5 .5 .1 .1 .9\n\n0 .5 .5 .1 x .9\n", r"a\.txt:3: got .*wanted class cx"),
        ("t/a.txt", "0 0.5 0.5 0.1 0.1 1.5\n", r"a\.txt:1: score 1\.5, wanted a probability"),
        ("f.csv", "image,x1,y1,x2,y2,score\n", r"no column 'label'"),
        ("f.csv", "image,x1,y1,x2,y2,score,label\na,1,2,3,b,.5,c\n", r"f\.csv:2: wanted numbers"),
        (
            "f.json",
            json.dumps(megadetector([{"category": "1", "bbox": SHARES}])),
            r"images\[0\]: wanted 'file' and .* got KeyError: 'conf'",
        ),
    ],
)
def test_a_fault_is_named_by_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        hardmine.load_detector(path.parent if name.startswith("t/") else path, classes=["a"])


def test_numbers_without_names_ask_for_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names its classes by number only; give --classes"):
        hardmine.load_detector(written(tmp_path, "YOLO text"))


def test_names_that_supervision_carries(pool: Path) -> None:
    """The first image has no detection; id 0 has no name anywhere."""
    sv = pytest.importorskip("supervision")

    def one(number: int, name: str) -> Any:
        return sv.Detections(
            xyxy=np.array([BOX], np.float32),
            confidence=np.array([0.75]),
            class_id=np.array([number]),
            data={"class_name": np.array([name])},
        )

    found = {"cam1/a.png": sv.Detections.empty(), "cam2/a.png": one(1, "animal")}
    detector = Predictions.from_supervision(found)
    assert detector.categories == ("class 0", "animal")
    (mined,) = hardmine.mine(detector, pool).detections.values()
    assert [each.category for each in mined] == ["animal"]
    with pytest.raises(DataError, match="class_id 1 is 'person' here and 'animal' before"):
        Predictions.from_supervision({**found, "cam3/a.png": one(1, "person")})


def test_detections_of_supervision_and_fiftyone(tmp_path: Path, pool: Path) -> None:
    sv = pytest.importorskip("supervision")
    found = sv.Detections(
        xyxy=np.array([BOX], np.float32), confidence=np.array([0.75]), class_id=np.array([1])
    )
    detector = Predictions.from_supervision({"cam1/a.png": found}, ["person", "animal"])
    (one,) = detector.predict(pool / "cam1" / "a.png")
    assert (one.category, one.box.tolist()) == ("animal", BOX)
    assert len(hardmine.mine(detector, pool).candidates) == 1

    class Sample:
        def __init__(self, path: Path, confidence: float | None) -> None:
            self.filepath = str(path)
            row = types.SimpleNamespace(label="animal", bounding_box=SHARES, confidence=confidence)
            self._fields = {"model": types.SimpleNamespace(detections=[row]), "empty": None}

        def __getitem__(self, name: str) -> Any:
            return self._fields[name]

    samples = [Sample(pool / "cam2" / "a.png", 0.75)]
    detector = Predictions.from_fiftyone(samples, "model")
    (one,) = detector.predict(pool / "cam2" / "a.png")
    assert (one.category, one.box.tolist()) == ("animal", BOX)
    (mined,) = hardmine.mine(detector, pool).detections.values()
    assert mined.boxes.tolist() == [BOX]
    assert len(Predictions.from_fiftyone(samples, "empty").by_name) == 1
    with pytest.raises(DataError, match="no such field"):
        Predictions.from_fiftyone(samples, "other")
    with pytest.raises(DataError, match="has no confidence"):
        Predictions.from_fiftyone([Sample(pool / "cam2" / "a.png", None)], "model")
    with pytest.raises(ConfigError, match="cannot be run on pictures"):
        detector.detect(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"a.txt": "", "b.txt": "0 0.5 0.5 0.2 0.2 0.9\n"}, {"a": 0, "b": 1}),
        ({"b.txt": "0 0.5 0.5 0.2 0.2 0.9 17\n"}, {"b": 1}),
    ],
)
def test_empty_text_files_and_track_ids(
    tmp_path: Path, files: dict[str, str], named: dict[str, int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = load_predictions(tmp_path, ["cat"])
    assert {name: len(boxes) for name, boxes in found.by_name.items()} == named


def test_a_comma_is_a_decimal_point_where_it_separates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    path.write_text("ImageID;XMin;YMin;XMax;YMax;Conf;LabelName\na.png;1,5;2;30;20,25;0,9;cat\n")
    found = load_predictions(path).by_name["a.png"]
    assert found.boxes.tolist() == [[1.5, 2, 30, 20.25]]
    assert found.scores.tolist() == pytest.approx([0.9])


def texts(folder: Path, line: str, number: int = 10, suffix: str = ".txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (folder / f"{index}{suffix}").write_text(line + "\n")
    return folder


YOLO_LINES = {
    "confidence last": ("0 0.25 0.25 0.25 0.25 0.75", ".txt"),
    "confidence behind the class": ("0 0.75 0.25 0.25 0.25 0.25", ".txt"),
    "all numbers with a point": ("0.0 0.25 0.25 0.25 0.25 0.75 17.0", ".txt"),
    "capital letters": ("0 0.25 0.25 0.25 0.25 0.75", ".TXT"),
}


@pytest.mark.parametrize("name", YOLO_LINES)
def test_every_line_of_yolo_gives_the_same_box(tmp_path: Path, name: str) -> None:
    line, suffix = YOLO_LINES[name]
    # The boxes of half of the images lie further right: a confidence in the wrong place shows there.
    texts(tmp_path / "labels", line, suffix=suffix)
    other = line.replace("0.25 0.25 0.25 0.25", "0.9 0.9 0.2 0.2")
    for index in range(10, 20):
        (tmp_path / "labels" / f"{index}{suffix}").write_text(other + "\n")
    detector = hardmine.load_detector(tmp_path / "labels", classes=["animal"])
    assert isinstance(detector, Predictions)
    found = detector.by_name["3"]
    np.testing.assert_allclose(found.boxes, [[0.125, 0.125, 0.375, 0.375]], atol=1e-6)
    assert found.scores.tolist() == [0.75]


def test_a_few_lines_do_not_show_where_the_confidence_is(tmp_path: Path) -> None:
    texts(tmp_path / "labels", "0 0.75 0.25 0.25 0.25 0.25", number=3)
    detector = hardmine.load_detector(tmp_path / "labels", classes=["animal"])
    assert isinstance(detector, Predictions)
    assert detector.by_name["1"].scores.tolist() == [0.25]


def test_classes_lie_among_the_texts(tmp_path: Path) -> None:
    texts(tmp_path / "labels", "1 0.25 0.25 0.25 0.25 0.75")
    (tmp_path / "labels" / "classes.txt").write_text("animal\nperson\n")
    detector = hardmine.load_detector(tmp_path / "labels")
    assert detector.categories == ("animal", "person")


@pytest.mark.parametrize("inner", ["labels", "preds"])
def test_the_folder_around_predictions_may_be_named(tmp_path: Path, inner: str) -> None:
    if inner == "labels":
        texts(tmp_path / "predict" / inner, "0 0.25 0.25 0.25 0.25 0.75")
    else:
        (tmp_path / "predict" / inner).mkdir(parents=True)
        entry = {"bboxes": [BOX], "scores": [0.75], "labels": [0]}
        (tmp_path / "predict" / inner / "1.json").write_text(json.dumps(entry))
    detector = hardmine.load_detector(tmp_path / "predict", classes=["animal"])
    assert isinstance(detector, Predictions)
    assert detector.by_name["1"].scores.tolist() == [0.75]


def test_texts_that_are_all_empty_say_that_nothing_was_found(tmp_path: Path) -> None:
    texts(tmp_path / "labels", "")
    detector = hardmine.load_detector(tmp_path / "labels", classes=["animal"])
    assert isinstance(detector, Predictions)
    assert detector.names(Path("3.png"))
    assert len(detector.by_name["3"]) == 0


def test_lines_of_another_shape_are_named_or_shown(tmp_path: Path) -> None:
    texts(tmp_path / "pose", "0 0.25 0.25 0.25 0.25 0.1 0.1 1 0.75")
    with pytest.raises(DataError, match=r"0\.txt:1: got '0 0\.25 .* wanted class cx cy w h"):
        hardmine.load_detector(tmp_path / "pose", classes=["animal"])
    texts(tmp_path / "commas", "0,0.25,0.25,0.25,0.25,0.75")
    with pytest.raises(hardmine.HardmineError, match=r"its 0\.txt begins '0,0\.25"):
        hardmine.load_detector(tmp_path / "commas", classes=["animal"])
