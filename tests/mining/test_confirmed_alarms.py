"""The regression set: what people confirmed as false alarms, and whether it fires again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hardmine
from hardmine.cli.main import run
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import DataError, GateError
from hardmine.evaluation.alarms import KnownAlarms, count_repeated
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import predict
from hardmine.mining.confirmed_alarms import detect_again, read_confirmed
from hardmine.mining.pool_store import PoolStore
from hardmine.types import Decision, NamedBox, Verdict
from shelf_world import BOTTLE, CAN, make_world


def found(*rows: tuple[float, float]) -> Detections:
    """Return detections (score, left edge) of 10 × 10 pixels."""
    boxes = np.array([[x, 0, x + 10, 10] for _, x in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for score, _ in rows], np.float32)
    return Detections(boxes, scores, np.full(len(rows), 2, np.int64))


def seen(*lefts: float) -> tuple[NamedBox, ...]:
    return tuple(NamedBox((x, 0.0, x + 10.0, 10.0), "can", 0.5) for x in lefts)


def test_an_alarm_fires_again_at_the_same_place_only() -> None:
    known = KnownAlarms({"a": seen(0, 50), "b": seen(0), "c": seen(0), "gone": seen(0, 1, 2)})
    now = {
        # 3 px to the right: 70 shared of 130 square pixels, IoU .54; 4 px: 60 of 140, .43
        "a": found((0.9, 3), (0.8, 54)),
        "b": found((0.3, 0)),
        "c": found((0.95, 0), (0.9, 1)),
    }
    again = count_repeated(known, now, OperatingPoint(0.5), ["gone: no such file"])
    assert (again.alarms, again.images, again.again) == (4, 3, 2)
    assert again.again_images == ("c", "a")  # hardest first
    assert str(again) == ("2 of 4 known alarms fire again, on 2 of 3 images, from score 0.500 on")
    assert count_repeated(known, now, OperatingPoint(0.3)).again == 3
    assert count_repeated(known, now, None).again is None
    assert again.to_dict() == {
        "score_threshold": 0.5,
        "per_class": {},
        "alarms": 4,
        "images": 3,
        "again": 2,
        "again_images": ["c", "a"],
        "unreadable": ["gone: no such file"],
    }


def test_each_known_alarm_of_an_image_counts_and_only_what_lies_there_ranks_it() -> None:
    half = NamedBox((0.0, 0.0, 10.0, 5.0), "can", 0.5)  # IoU 50 / 100 with a detection at 0
    known = KnownAlarms({"a": seen(0, 50, 90), "b": (half,), "c": (half,)})
    now = {
        "a": found((0.9, 0), (0.6, 50)),
        "b": found((0.95, 200), (0.7, 0)),
        "c": found((0.8, 0)),
    }
    again = count_repeated(known, now, OperatingPoint(0.5))
    assert (again.again, again.again_images) == (4, ("a", "c", "b"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    detector = load_detector("shelf/predictions.json")
    hardmine.mine(detector, "pool", top=3, out="mined")
    with PoolStore(Path("mined/pool.sqlite")) as store:
        store.add_decisions(
            [
                said(
                    "p3.png", Verdict.EMPTY, detector.model_id, (NamedBox(BOTTLE, "bottle", 0.95),)
                ),
                said("p1.png", Verdict.EMPTY, detector.model_id),
                said("p4.png", Verdict.CONTAINS_OBJECT, detector.model_id),
            ]
        )
    return tmp_path


def said(name: str, verdict: Verdict, model_id: str, shown: tuple[NamedBox, ...] = ()) -> Decision:
    return Decision(str(Path("pool", name).resolve()), verdict, "me", "now", model_id, shown)


def test_what_was_shown_or_stored_on_confirmed_images_is_the_set(world: Path) -> None:
    confirmed = read_confirmed("mined")
    by_name = {Path(name).name: boxes for name, boxes in confirmed.known.boxes.items()}
    assert sorted(by_name) == ["p1.png", "p3.png"]
    assert by_name["p3.png"][0].box == BOTTLE
    assert by_name["p1.png"][0].box == CAN  # from the store: nothing was shown for the verdict
    assert len(confirmed.known) == 2
    assert all(confirmed.phash.values())


def test_boxes_that_no_threshold_would_show_are_left_out(tmp_path: Path) -> None:
    def boxes(*scores: float | None) -> tuple[NamedBox, ...]:
        return tuple(NamedBox((0.0, 0.0, 9.0, 9.0), "can", score) for score in scores)

    shown = {"a": boxes(0.9, 0.3, 0.29), "b": boxes(0.2, 0.1), "c": boxes(None, 0.1)}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions(
            [Decision(name, Verdict.EMPTY, "me", "now", "m", seen) for name, seen in shown.items()]
        )
    known = read_confirmed(tmp_path).known.boxes
    assert [box.score for box in known["a"]] == [0.9, 0.3]
    assert [box.score for box in known["b"]] == [0.2]
    assert [box.score for box in known["c"]] == [None]


def test_val_counts_the_known_alarms_and_gates_on_them(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = load_detector("shelf/predictions.json")
    # Recall .8 is not reached by this detector: nothing can be counted, so the gate is not met.
    with pytest.raises(GateError, match="known alarms that fire again: got undefined"):
        hardmine.evaluate(detector, "shelf", known_alarms=Path("mined"), draws=5, out="v")
    rows = json.loads(Path("shelf/predictions.json").read_text(encoding="utf-8"))
    labels = json.loads(Path("shelf/annotations/instances_all.json").read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in labels["images"]}
    category = {row["id"]: row["name"] for row in labels["categories"]}
    # p1's can has .7; the threshold at recall .8 becomes .8, above it and below p3's .95.
    better = [row for row in rows if row["file_name"].startswith("p")] + [
        {
            "file_name": Path(names[a["image_id"]]).name,
            "category": category[a["category_id"]],
            "bbox": a["bbox"],
            "score": 0.8,
        }
        for a in labels["annotations"]
    ]
    Path("better.json").write_text(json.dumps(better), encoding="utf-8")
    measured = hardmine.evaluate(
        "better.json", "shelf", known_alarms=Path("mined"), max_known_alarms=1, draws=5, out="v"
    )
    assert measured.known_alarms is not None
    assert (measured.known_alarms.again, measured.known_alarms.alarms) == (1, 2)
    kept = json.loads(Path("v/metrics.json").read_text(encoding="utf-8"))
    assert kept["measurement"]["known_alarms"]["again"] == 1
    page = Path("v/report.html").read_text(encoding="utf-8")
    assert "1 of 2 known alarms fire again, on 1 of 2 images, from score 0.800 on." in page
    assert "Known alarms that fire again" in page
    line = "val better.json shelf --known-alarms mined --draws 5 --out w --quiet"
    words = line.split()
    assert run(words) == 3
    out, err = capsys.readouterr()
    assert "1 of 2 known alarms fire again" in out
    assert "known alarms that fire again: got 1, wanted at most 0" in err
    assert run([*words, "--max-known-alarms", "1"]) == 0


def said_of(*names: str, file: str = "some.json") -> str:
    """Write the rows of the predictions file that name some images, and return the new file."""
    rows = json.loads(Path("shelf/predictions.json").read_text(encoding="utf-8"))
    Path(file).write_text(json.dumps([r for r in rows if r["file_name"] in names]))
    return file


def test_images_that_a_predictions_file_does_not_name_are_not_silent(world: Path) -> None:
    options = {"known_alarms": Path("mined"), "draws": 5, "out": "v"}
    with pytest.raises(DataError, match=r"looked at, such as .*: some\.json does not name it"):
        hardmine.evaluate(said_of("00.png", "02.png", "08.png"), "shelf", **options)
    measured = hardmine.evaluate(
        said_of("00.png", "02.png", "08.png", "p3.png"), "shelf", max_known_alarms=None, **options
    )
    known = measured.known_alarms
    assert known is not None
    assert (known.alarms, known.images) == (1, 1)
    assert known.unreadable == (
        f"{Path('pool/p1.png').resolve()}: some.json does not name it, so it may not have been "
        "looked at",
    )


def test_an_image_that_a_coco_file_lists_was_looked_at(world: Path) -> None:
    images = [{"id": i, "file_name": name} for i, name in enumerate(["00.png", "p1.png", "p3.png"])]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [40, 10, 12, 32], "score": 0.9}
    classes = [{"id": 1, "name": "bottle"}, {"id": 2, "name": "can"}]
    tree = {"images": images, "annotations": [box], "categories": classes}
    Path("listed.json").write_text(json.dumps(tree))
    seen_now, unlooked = detect_again(load_detector("listed.json"), read_confirmed("mined"))
    assert unlooked == ()
    assert [len(one) for one in seen_now.values()] == [0, 0]


def test_an_entry_for_a_labelled_image_says_nothing_of_one_with_its_name(world: Path) -> None:
    confirmed = read_confirmed("mined")
    image = str(Path("pool/p3.png").resolve())
    detector = load_detector(said_of("p3.png"))
    labelled = [Path("shelf/images/p3.png").resolve()]
    seen_now, _ = detect_again(detector, confirmed)
    assert list(seen_now) == [image]
    seen_now, unlooked = detect_again(detector, confirmed, beside=labelled)
    assert seen_now == {}
    assert len(unlooked) == 2


class WithPoint:
    """A detector that holds an operating point."""

    def __init__(self, detector: Any, point: OperatingPoint) -> None:
        self._detector, self.operating_point = detector, point
        self.categories, self.model_id, self.resize = detector.categories, "with point", None

    def score(self, images: Any) -> Any:
        raise NotImplementedError

    def detect(self, images: Any) -> Any:
        raise NotImplementedError

    def detect_images(self, paths: Any, progress: Any = None) -> Any:
        return self._detector.detect_images(paths, progress)

    def score_items(self, items: Any) -> Any:
        return self._detector.score_items(items)


@pytest.mark.parametrize(
    ("point", "again", "at"),
    [
        (OperatingPoint(0.7), ["p3.png", "p1.png"], "from score 0.700 on"),
        # p1's can has .7, p3's bottle .95
        (OperatingPoint(0.4, {"can": 0.8}), ["p3.png"], "from the score of each class on"),
        (OperatingPoint(0.96, {"can": 0.7}), ["p1.png"], "from the score of each class on"),
    ],
)
def test_known_alarms_count_from_the_scores_of_the_model(
    world: Path, point: OperatingPoint, again: list[str], at: str
) -> None:
    detector = WithPoint(load_detector("shelf/predictions.json"), point)
    shown = [name for name in ("p3.png", "p1.png") if len(predict(detector, f"pool/{name}"))]
    assert shown == again  # what `predict` shows
    measured = hardmine.evaluate(
        detector, "shelf", known_alarms=Path("mined"), max_known_alarms=9, draws=5, out="v"
    )
    known = measured.known_alarms
    assert known is not None
    assert [Path(name).name for name in known.again_images] == again
    assert str(known).endswith(at)
    assert (known.score_threshold, dict(known.per_class)) == (point.score, dict(point.per_class))
    page = Path("v/report.html").read_text(encoding="utf-8")
    assert "Known alarms that fire again" in page


def test_images_that_are_gone_or_changed_are_named(world: Path) -> None:
    confirmed = read_confirmed("mined/pool.sqlite")
    detector = load_detector("shelf/predictions.json")
    Path("pool/p3.png").unlink()
    other = np.random.default_rng(9).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(other).resize((64, 48)).save("pool/p1.png")
    seen_now, unreadable = detect_again(detector, confirmed)
    assert seen_now == {}
    assert len(unreadable) == 2
    assert any("has changed since it was mined" in line for line in unreadable)
    with pytest.raises(DataError, match="none of their images can be looked at"):
        hardmine.evaluate(detector, "shelf", known_alarms=Path("mined"), draws=5, out="v")


def test_images_of_archives_are_read_through_their_source(world: Path) -> None:
    with zipfile.ZipFile("shard.zip", "w") as file:
        file.write("pool/p1.png", "p1.png")
    image = f"{Path('shard.zip').resolve()}!/p1.png"
    with PoolStore(Path("z/pool.sqlite")) as store:
        shown = (NamedBox(CAN, "can", 0.7),)
        store.add_decisions([Decision(image, Verdict.EMPTY, "me", "now", "model", shown)])
    found_now, unreadable = detect_again(
        load_detector("shelf/predictions.json"), read_confirmed("z")
    )
    assert unreadable == ()
    assert found_now[image].scores.tolist() == pytest.approx([0.7])


def test_a_store_without_a_confirmed_alarm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such pool store"):
        read_confirmed(tmp_path)
    PoolStore(tmp_path / "pool.sqlite").close()
    with pytest.raises(DataError, match="nobody has confirmed an alarm yet"):
        read_confirmed(tmp_path)
