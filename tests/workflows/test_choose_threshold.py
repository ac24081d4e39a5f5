"""``hardmine.threshold``: from a model and images to a score in the model, and ``predict`` by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hardmine
from hardmine.cli.main import run
from hardmine.detections import Detections, OperatingPoint
from hardmine.evaluation.alarms import AlarmScores
from hardmine.evaluation.operating_promise import (
    Hits,
    promise_alarms,
    promise_recall,
    recall_figures,
)
from hardmine.recipes.checkpoint import read_operating_point, write_operating_point
from hardmine.reports.threshold_page import (
    ThresholdRow,
    percent,
    promise_sentence,
    statements,
)
from hardmine.types import Dataset, ImageRecord, ImageState
from loop_fakes import draw
from shelf_world import make_world


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    hardmine.train(
        root / "shelf",
        val=0.25,
        recipe=root / "tiny.yaml",
        out=root / "first",
        draws=10,
        validate=0,
    )
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "world"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


def test_a_threshold_is_written_into_a_checkpoint_and_predict_goes_by_it(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hardmine.load_detector("first", "cpu")
    assert before.operating_point is None
    result = hardmine.threshold(
        "first", "shelf", negatives="pool", max_alarms=0.5, write=True, out="t", device="cpu"
    )
    assert result.written == Path("first/last.safetensors")
    after = hardmine.load_detector("first", "cpu")
    assert after.model_id == before.model_id  # what was scanned with it need not be scanned again
    assert after.operating_point == result.point
    assert result.point is not None
    assert "at most 50 % of new empty images fire" in result.point.promise
    paths = [record.path for record in hardmine.load_dataset("shelf")]
    for found, whole in zip(
        after.predict(paths), before.predict(paths, score_threshold=0.0), strict=True
    ):
        assert found.scores.tolist() == whole.at_least(result.point.score).scores.tolist()
    assert len(after.predict(paths[0], score_threshold=0.0)) > len(after.predict(paths[0]))
    capsys.readouterr()
    assert run(["predict", "first", "shelf/images/00.png", "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == len(after.predict(paths[0]))
    assert result.point.promise in err


def test_of_the_data_of_a_training_what_it_split_off_is_measured(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # .25 of the 12 images are split off; none of the others may count.
    result = hardmine.threshold(
        built / "first", built / "shelf", min_recall=0.05, out=tmp_path / "t", device="cpu"
    )
    assert f"9 of 12 images were trained on in {built / 'first'}" in caplog.text
    stamp = json.loads((built / "first/prepare/split.step.json").read_text(encoding="utf-8"))
    kept = [hardmine.load_dataset(built / "shelf")[row] for row in stamp["result"]["val"]]
    assert result.tables[0][0].recall.objects == sum(len(record.boxes) for record in kept)


def test_empty_images_that_were_trained_on_are_counted_in_a_warning(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, pool = shutil.copytree(built / "first", tmp_path / "first"), built / "pool"
    images = sorted(pool.iterdir())
    record = json.loads((model / "trained_on.json").read_text(encoding="utf-8"))
    record["negatives"] = [str(image) for image in images[:2]]
    (model / "trained_on.json").write_text(json.dumps(record), encoding="utf-8")
    given = {"negatives": pool, "max_alarms": 0.9, "out": tmp_path / "t", "device": "cpu"}
    hardmine.threshold(model, built / "shelf", **given)
    assert f"{pool}: 2 of {len(images)} images without objects were trained on" in caplog.text


def test_a_measurement_of_our_own_network_has_its_levels(world: Path) -> None:
    measured = hardmine.evaluate("first", "shelf", negatives="pool", draws=5, out="v", device="cpu")
    assert [row.level for row in measured.levels] == list(range(len(measured.levels)))
    assert measured.levels
    assert measured.errors is not None
    assert sum(row.found for row in measured.levels) == measured.errors.total.found
    assert "By level of the priors" in Path("v/report.html").read_text(encoding="utf-8")


def test_the_threshold_is_the_lowest_that_the_images_allow(world: Path) -> None:
    # 6 empty images with the best scores .95, .7, .5 and none: for a share of .5 with 95 %,
    # P(Bin(6, .5) = 0) = .0156 and P(0 or 1) = .109: no image may fire.
    result = hardmine.threshold(
        "shelf/predictions.json", "shelf", negatives="pool", max_alarms=0.5, min_recall=0.01
    )
    by_alarms, by_recall = result.tables
    assert by_alarms[0].score == float(np.nextafter(np.float32(0.95), np.float32(1)))
    assert [row.name for row in by_alarms] == ["all classes", "bottle", "can"]
    # Cans fire with .7 and .5 at most, bottles with .95.
    assert by_alarms[1].score == by_alarms[0].score
    assert by_alarms[2].score == float(np.nextafter(np.float32(0.7), np.float32(1)))
    assert by_recall[0].promise.further_images == 0
    assert result.point is None  # two promises: neither is the one
    kept = json.loads((result.page.parent / "threshold.json").read_text(encoding="utf-8"))
    assert kept["tables"][0][2]["promise"]["score_threshold"] == by_alarms[2].score
    page = result.page.read_text(encoding="utf-8")
    assert page.count('class="chart"') == 4
    assert "At score 0.9501 at most 50 % of new empty images fire" in page


def test_classes_can_have_thresholds_of_their_own(world: Path) -> None:
    result = hardmine.threshold(
        "shelf/predictions.json", "shelf", negatives="pool", max_alarms=0.5, per_class=True
    )
    point = result.point
    assert point is not None
    assert point.per_class["can"] < point.score
    found = Detections(
        np.zeros((3, 4), np.float32), np.array([0.99, 0.9, 0.8], np.float32), np.array([1, 1, 2])
    )
    assert point.keep(found, ("bottle", "can")).scores.tolist() == pytest.approx([0.99, 0.8])
    assert OperatingPoint.from_dict(point.to_dict()) == point


class ByName:
    """Finds class 1 in pictures named a… with .9 and class 2 in those named b… with .3."""

    categories, model_id, resize = ("a", "b"), "by name", None

    def score(self, images: Any) -> Any:
        raise NotImplementedError

    def detect(self, images: Any) -> Any:
        raise NotImplementedError

    def score_items(self, items: Any) -> Any:
        raise NotImplementedError

    def detect_images(self, paths: Any, progress: Any = None) -> list[Detections]:
        of = {"a": (0.9, 1), "b": (0.3, 2)}
        return [found(*of[path.name[0]]) for path in paths]


def found(score: float, label: int) -> Detections:
    box = np.array([[8, 8, 24, 24]], np.float32)
    return Detections(box, np.array([score], np.float32), np.array([label]))


def two_classes(folder: Path, images_of_b: int) -> hardmine.Dataset:
    """60 pictures of noise with an object each, so many of class b and the others of class a."""
    records = []
    for index in range(60):
        label = 2 if index >= 60 - images_of_b else 1
        path = draw(folder / f"{'ab'[label - 1]}{index}.png", index)
        box, marks = np.array([[8, 8, 24, 24]], np.float32), (np.array([label]), np.zeros(1, bool))
        records.append(ImageRecord(path, 32, 32, box, *marks, ImageState.LABELLED))
    return hardmine.Dataset(("a", "b"), tuple(records), folder)


def test_a_class_without_a_promise_of_its_own_is_named(tmp_path: Path) -> None:
    # All classes: 57 of 60 images are found at .9, P(Bin(60, .85) >= 57) = .014. Class a: 57 of 57.
    # Class b: all 3 are found at .3, but .85^3 = .61 is more than .05: no score has the promise.
    options = {"min_recall": 0.85, "per": "image", "per_class": True, "out": tmp_path / "t"}
    result = hardmine.threshold(ByName(), two_classes(tmp_path / "v", 3), **options)
    point = result.point
    assert point is not None
    assert sorted(point.per_class) == ["a"]
    said = (
        "No promise can be given for these classes alone, which keep the score of all classes, "
        "0.8999: b."
    )
    assert point.promise.endswith(
        f"Each class with a promise of its own has the score of that promise instead. {said}"
    )
    assert result.notes == (said,)
    page = (tmp_path / "t" / "threshold.html").read_text(encoding="utf-8")
    assert said in page
    # 30 of b: .85^30 = .008; and 30 of a. Both have one, at .3 where all are found.
    result = hardmine.threshold(ByName(), two_classes(tmp_path / "w", 30), **options)
    assert result.point is not None
    assert sorted(result.point.per_class) == ["a", "b"]
    assert result.point.promise.endswith("Each class has the score of its own promise instead.")
    assert result.notes == ()


def test_groups_have_lines_of_their_own(world: Path) -> None:
    result = hardmine.threshold(
        "shelf/predictions.json",
        "shelf",
        negatives="pool",
        max_alarms=0.9,
        group=r"p([0-3])\.png",
        confidence=0.8,
    )
    rows = {row.name: row for row in result.tables[0] if row.kind == "group"}
    assert sorted(rows) == ["0", "1", "2", "3"]
    assert rows["3"].alarms.num_images == 1
    assert rows["3"].firing_at_common is not None
    # One image with 80 %: .1 is not at most .2 where nothing may fire, so .9 is promised above .95.
    assert rows["3"].score == float(np.nextafter(np.float32(0.95), np.float32(1)))
    assert rows["0"].score == 0.0


class Brightness:
    """A detector whose score is the mean of a picture's channel of blue."""

    categories = ("bottle", "can")
    model_id = "brightness"
    resize = None

    def score(self, images: object) -> Any:
        raise NotImplementedError

    def detect(self, images: object) -> Any:
        raise NotImplementedError

    def score_items(self, items: object) -> Any:
        raise NotImplementedError

    def detect_images(self, paths: Sequence[Path], progress: object = None) -> list[Detections]:
        box, one = np.array([[0, 0, 8, 8]], np.float32), np.ones(1, np.int64)
        means = (np.asarray(Image.open(path).convert("RGB"))[..., 2].mean() for path in paths)
        return [Detections(box, np.array([mean / 255], np.float32), one) for mean in means]


def test_pictures_that_were_replaced_are_looked_at_anew(world: Path) -> None:
    def choose() -> float | None:
        found = hardmine.threshold(Brightness(), "shelf", negatives="pool", max_alarms=0.5, out="t")
        return found.score_threshold

    before = choose()
    for path in Path("pool").iterdir():
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).copy()
        pixels[..., 2] //= 2
        Image.fromarray(pixels).save(path)
    after = choose()
    assert before is not None
    assert after is not None
    assert after < 0.6 * before


def test_near_copies_count_once(world: Path) -> None:
    for index in range(5):
        with Image.open("pool/p3.png") as picture:
            picture.save(f"pool/copy{index}.png")
    result = hardmine.threshold("shelf/predictions.json", "shelf", negatives="pool", max_alarms=0.5)
    assert result.tables[0][0].alarms.num_images == 6
    assert any(
        note.startswith("5 of 11 images without objects are near-copies") for note in result.notes
    )


class SeesRed(Brightness):
    """A detector that finds a red square where one is drawn."""

    model_id = "sees red"

    def detect_images(self, paths: Sequence[Path], progress: object = None) -> list[Detections]:
        square = Detections(
            np.array([[10, 10, 12, 12]], np.float32),
            np.array([0.9], np.float32),
            np.ones(1, np.int64),
        )
        return [square if "object" in path.name else Detections.none() for path in paths]


def test_of_near_copies_one_with_an_object_counts(tmp_path: Path) -> None:
    """A camera that does not move: the empty picture comes first, then one with a small object."""
    records = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        scene = Image.fromarray(noise).resize((64, 64))
        scene.save(tmp_path / f"{number}-empty.png")
        empty = ImageRecord.empty(
            tmp_path / f"{number}-empty.png", 64, 64, ImageState.VERIFIED_EMPTY
        )
        scene.paste("red", (10, 10, 12, 12))
        scene.save(tmp_path / f"{number}-object.png")
        box, one = np.array([[10, 10, 12, 12]], np.float32), np.ones(1, np.int64)
        state = ImageState.LABELLED
        path = tmp_path / f"{number}-object.png"
        records += [empty, ImageRecord(path, 64, 64, box, one, np.zeros(1, np.bool_), state)]
    data = Dataset(("bottle", "can"), tuple(records), tmp_path)
    result = hardmine.threshold(SeesRed(), data, min_recall=0.3, out=tmp_path / "t")
    assert (result.tables[0][0].recall.found, result.tables[0][0].recall.objects) == (6, 6)
    assert "6 of 12 labelled images are near-copies of others" in result.notes[0]


def test_faults_of_labels_are_no_images_that_cannot_be_read(world: Path) -> None:
    boxes = Path("shelf/boxes.csv")
    row = boxes.read_text().splitlines()[-1].split(",")
    boxes.write_text(f"{boxes.read_text()}{row[0]},9,9,5,12,{row[-1]}\n")
    Path("pool/none.jpg").write_bytes(b"")
    result = hardmine.threshold("shelf/predictions.json", "shelf", negatives="pool", max_alarms=0.5)
    (note,) = (note for note in result.notes if "cannot be read" in note)
    assert note.startswith("1 image cannot be read, such as none.jpg")


def test_an_empty_image_that_repeats_a_labelled_one_is_left_out(world: Path) -> None:
    shutil.copy("shelf/images/00.png", "pool/labelled.png")
    result = hardmine.threshold("shelf/predictions.json", "shelf", negatives="pool", max_alarms=0.5)
    assert result.tables[0][0].alarms.num_images == 6
    assert any("labelled.png" in note and "00.png" in note for note in result.notes)


def test_what_cannot_be_promised_is_said_and_not_written(world: Path) -> None:
    with pytest.raises(hardmine.GateError, match=r"nothing is written.*293 further empty images"):
        hardmine.threshold(
            "first", "shelf", negatives="pool", max_alarms=0.01, write=True, device="cpu"
        )
    assert read_operating_point(Path("first/last.safetensors")) is None


@pytest.mark.parametrize("more", [[], ["--json"], ["--min-recall", "0.01"]])
def test_a_promise_that_cannot_be_given_ends_like_a_gate(
    world: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    line = ["threshold", "shelf/predictions.json", "shelf", "--negatives", "pool"]
    assert run([*line, "--max-alarms", "0.5", *more]) == 0
    assert run([*line, "--max-alarms", "0.01", *more]) == 3
    out, err = capsys.readouterr()
    assert "293 further empty images" in out
    assert "hardmine: gate not met: a promise cannot be given at any score" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing is promised"),
        ({"max_alarms": 0.1, "negatives": None}, "needs negatives"),
        ({"max_alarms": 2.0}, "for alarms per image give --count alarms"),
        (
            {"max_alarms": 5.0, "count": "alarms"},
            "got 5.0, wanted above 0 and below 5; of one image at most 5 alarms count",
        ),
        ({"min_recall": 1.0}, "min_recall: got 1.0"),
        ({"max_alarms": 0.1, "confidence": 1.0}, "confidence: got 1.0"),
        ({"max_alarms": 0.1, "min_recall": 0.5, "write": True}, "a model holds one threshold"),
        ({"max_alarms": 0.1, "write": True}, "only a checkpoint or an export"),
    ],
)
def test_contradictions_are_named(world: Path, options: dict[str, object], message: str) -> None:
    given = {"negatives": "pool", **options}
    with pytest.raises(hardmine.ConfigError, match=message):
        hardmine.threshold("shelf/predictions.json", "shelf", **given)  # type: ignore[arg-type]


def test_a_threshold_for_another_decoder_is_not_written_into_the_weights(world: Path) -> None:
    name = "first+decode.nms_iou=0.6"
    before = read_operating_point(Path("first/last.safetensors"))
    hardmine.threshold(name, "shelf", negatives="pool", max_alarms=0.5, device="cpu")
    with pytest.raises(hardmine.ConfigError, match="first keeps the decoder that it was trained"):
        hardmine.threshold(
            name, "shelf", negatives="pool", max_alarms=0.5, write=True, device="cpu"
        )
    assert read_operating_point(Path("first/last.safetensors")) == before


def test_the_command_says_what_was_found(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "threshold shelf/predictions.json shelf --negatives pool --max-alarms 0.5 --quiet"
    assert run(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("At score 0.9501 at most 50 %") for line in lines)
    assert lines[-1].endswith("threshold.html")
    assert run(["threshold", "shelf/predictions.json", "shelf"]) == 2
    assert "--max-alarms" in capsys.readouterr().err
    assert run([*words.split()[:-3], "0.5", "--quiet"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_exports_carry_the_threshold(world: Path, name: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    target = "onnx" if name.endswith("onnx") else "openvino"
    point = OperatingPoint(0.25, {"can": 0.5}, "a promise")
    write_operating_point(Path("first/last.safetensors"), point)
    hardmine.export("first", to=target, out=Path(name))  # type: ignore[arg-type]
    exported = hardmine.load_detector(name, "cpu")
    assert exported.operating_point == point
    before = exported.predict("shelf/images/00.png", score_threshold=0.0)
    result = hardmine.threshold(
        name, "shelf", negatives="pool", max_alarms=0.5, write=True, device="cpu"
    )
    again = hardmine.load_detector(name, "cpu")
    assert again.operating_point == result.point != point
    assert again.model_id == exported.model_id
    after = again.predict("shelf/images/00.png", score_threshold=0.0)
    assert after.scores.tolist() == before.scores.tolist()


def said_of_alarms(images: int, limit: float, confidence: float, **unit: Any) -> list[str]:
    """Return what is said of empty images of which every hundredth has a hundred alarms."""
    firing = np.repeat(np.arange(0, images, 100), 100)
    alarms = AlarmScores(np.full(len(firing), 0.9, np.float32), firing, images)
    promise = promise_alarms(alarms, limit, confidence=confidence, **unit)
    hits = Hits(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    figures = recall_figures(hits, promise.score_threshold, confidence)
    row = ThresholdRow("all classes", "all", promise, None, None, figures, alarms, hits)
    return statements(row)


def test_one_image_and_several_have_their_own_words() -> None:
    # .95 ** 59 = .0485 <= .05 < .95 ** 58 = .0510: for a share of .05 at 95 %, 59 images are needed.
    def empty(images: int) -> str:
        nothing = AlarmScores(np.zeros(0, np.float32), np.zeros(0, np.int64), images)
        promise, hits = promise_alarms(nothing, 0.05), Hits(*(np.zeros(0, np.int64) for _ in "123"))
        figures = recall_figures(hits, None, 0.95)
        row = ThresholdRow("all classes", "all", promise, None, None, figures, nothing, hits)
        return statements(row)[0]

    assert "58 images without a single alarm promise a share of 0.05" in empty(58)
    assert empty(58).endswith(
        "At least 1 further empty image is needed, and more if one of them fires."
    )
    assert "1 image without a single alarm promises" in empty(1)
    assert "At least 58 further empty images are needed" in empty(1)

    def labelled(images: int) -> str:
        hits = Hits(np.full(images, 0.9, np.float32), np.arange(images), np.ones(images, np.int64))
        promise = promise_recall(hits, 0.95, unit="image")
        nothing = AlarmScores(np.zeros(0, np.float32), np.zeros(0, np.int64), 0)
        figures = recall_figures(hits, None, 0.95)
        row = ThresholdRow("all classes", "all", promise, None, None, figures, nothing, hits)
        return statements(row)[0]

    assert (
        "58 images with 58 objects are too few for 95 %. At least 1 further image with"
        in labelled(58)
    )
    assert "1 image with 1 object is too few" in labelled(1)


@pytest.mark.parametrize(
    ("limit", "confidence", "said"),
    [
        (0.125, 0.999, "at most 12.5 % of new empty images fire, with a confidence of 99.9 %."),
        (0.0255, 0.975, "at most 2.55 % of new empty images fire, with a confidence of 97.5 %."),
        (0.07, 0.95, "at most 7 % of new empty images fire, with a confidence of 95 %."),
    ],
)
def test_what_is_promised_is_not_rounded(limit: float, confidence: float, said: str) -> None:
    assert said_of_alarms(3000, limit, confidence)[0].endswith(said)
    hits = Hits(np.full(9000, 0.9, np.float32), np.arange(9000), np.ones(9000, np.int64))
    promise = promise_recall(hits, 0.9955, confidence=confidence)
    assert "at least 99.55 % of new objects are found" in promise_sentence(promise)


def test_a_mean_of_alarms_is_promised_with_its_largest_count() -> None:
    # Every hundredth image has 100 alarms: one per image, and .05 of at most 5 in one image.
    promised, seen, *_ = said_of_alarms(3000, 0.2, 0.95, unit="alarms", cap=5)
    assert "at most 0.2 alarms each on average (of one image at most 5 count)" in promised
    assert seen == "On these 3000 images 30 fire (1 %), with 3000 alarms."


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1999 / 2000, "99.95 %"),
        (1.0, "100 %"),
        (0.987, "99 %"),
        (0.12, "12 %"),
        (1 / 300, "0.33 %"),
    ],
)
def test_nearly_all_is_not_all(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize(
    ("highest", "said"),
    [(0.94, "More images with objects are needed"), (0.87, "A better detector")],
)
def test_a_recall_that_the_sample_exceeds_may_only_want_more_images(
    highest: float, said: str
) -> None:
    hits = Hits(np.zeros(0, np.float32), np.zeros(0, np.int64), np.ones(61, np.int64))
    promise = replace(promise_recall(hits, 0.87), highest=highest, further_images=0)
    nothing = AlarmScores(np.zeros(0, np.float32), np.zeros(0, np.int64), 0)
    figures = recall_figures(hits, None, 0.95)
    row = ThresholdRow("all classes", "all", promise, None, None, figures, nothing, hits)
    assert said in statements(row)[0]
