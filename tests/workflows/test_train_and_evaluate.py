from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine import evaluate, train
from hardmine.errors import CheckpointError, ConfigError, DataError, GateError
from hardmine.types import Dataset, ImageState
from hardmine.workflows.cached_models import TrainingRequest
from hardmine.workflows.image_sets import count_labelled, load_train_val
from hardmine.workflows.sets_apart import crop_set, describe_leaks, hash_once
from hardmine.workflows.step_cache import Steps
from loop_fakes import World, draw, labelled, pool_of

SMALL: dict[str, Any] = {"draws": 5, "model": "small160"}


def checkpoint(folder: Path, *learned: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "last.safetensors"
    path.write_text(json.dumps({"learned": learned}))
    return path


def metrics_of(out: Path) -> Any:
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return labelled(tmp_path / "data", 20, 1000)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return pool_of(tmp_path / "held", 6, 2, 9000)


@pytest.mark.usefixtures("no_page")
def test_train_splits_trains_measures_and_writes_it_down(
    data: Dataset, held: Path, tmp_path: Path
) -> None:
    out, world = tmp_path / "run", World()
    result = world.call(train, data, val=0.2, negatives=held, out=out, **SMALL)
    # .2 of 20 are held out for validation
    assert world.trainings[0]["images"] == 16
    assert result.checkpoint == out / "last.safetensors"
    assert result.measurement.images == 4
    assert str(result) == f"checkpoint: {out}/last.safetensors\nreport: {out}/report.html"
    figures = metrics_of(out)["measurement"]
    assert figures["negatives"]["held_out"]["images"] == 12
    # the eighth of ten … here the fourth of four scores: every threshold lies below .9, so .95 and
    # .94 of kind 0 fire: 2 alarms on 12 images
    assert figures["negatives"]["held_out"]["alarms"] == 2
    for name in ("recipe.yaml", "report.html", "detections/val.json", "detections/held_out.json"):
        assert (out / name).is_file()


@pytest.mark.usefixtures("no_page")
def test_train_negatives_are_trained_on_and_negatives_never(
    data: Dataset, held: Path, tmp_path: Path
) -> None:
    more = pool_of(tmp_path / "more", 1, 5, 7000)
    out, world = tmp_path / "run", World()
    result = world.call(train, data, negatives=held, train_negatives=more, out=out, **SMALL)
    # .3 of 20 are held out when nothing is said
    assert world.trainings[0]["images"] == 14 + 5
    assert json.loads(result.checkpoint.read_text())["learned"] == ["k0"]
    assert metrics_of(out)["train_negatives"] == 5
    # Every object is found; the five images without objects have no part in it.
    assert metrics_of(out)["measurement"]["training"] == {"images": 14, "AP50": 1.0}
    assert metrics_of(out)["measurement"]["negatives"]["held_out"]["alarms"] == 0


@pytest.mark.usefixtures("no_page")
def test_labelled_images_are_not_trained_on_as_empty_too(
    data: Dataset, held: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of all images was given as that of the negatives; copies of files count as well."""
    more = pool_of(tmp_path / "more", 1, 2, 7000)
    known = [record for record in data.records if len(record.boxes)]
    for record in known:
        shutil.copy(record.path, more / f"copy-{record.path.name}")
    out, world = tmp_path / "run", World()
    world.call(train, data, negatives=held, train_negatives=more, out=out, **SMALL)
    assert world.trainings[0]["images"] == 14 + 2
    leaks = metrics_of(out)["leaks"]
    assert len(leaks) == len(known)
    assert {line.partition("(")[2].partition(")")[0] for line in leaks} == {
        "train_negatives/train",
        "train_negatives/val",
    }
    all_of_them, copied = len(known) + 2, len(known)
    assert f"{copied} of the {all_of_them} images of train_negatives are in the" in caplog.text


@pytest.mark.usefixtures("no_page")
def test_held_out_images_that_were_trained_on_are_left_out_and_reported(
    data: Dataset, held: Path, tmp_path: Path
) -> None:
    more = pool_of(tmp_path / "more", 1, 1, 9000)  # the same picture as one of those held out
    out = tmp_path / "run"
    World().call(train, data, negatives=held, train_negatives=more, out=out, **SMALL)
    metrics = metrics_of(out)
    assert metrics["measurement"]["negatives"]["held_out"]["images"] == 11
    assert len(metrics["leaks"]) == 1
    assert "held_out/train" in metrics["leaks"][0]


@pytest.mark.usefixtures("no_page")
def test_a_picture_that_does_not_decode_is_not_trained_on_and_is_named(
    data: Dataset, tmp_path: Path
) -> None:
    bad = data.records[3].path
    bad.write_bytes(bad.read_bytes()[:200])
    out, world = tmp_path / "run", World()
    val = labelled(tmp_path / "val", 4, 2000, "val")
    world.call(train, data, val=val, out=out, **SMALL)
    assert world.trainings[0]["images"] == 19
    assert metrics_of(out)["problems"] == [f"{bad}: the image does not decode"]


def cut(data: Dataset) -> Dataset:
    """Leave only the heads of all pictures, which still tell their sizes."""
    for record in data.records:
        record.path.write_bytes(record.path.read_bytes()[:200])
    return data


@pytest.mark.usefixtures("no_page")
def test_sets_of_which_no_picture_decodes_are_refused_before_training(
    data: Dataset, tmp_path: Path
) -> None:
    val, world = cut(labelled(tmp_path / "val", 4, 2000, "val")), World()
    with pytest.raises(
        DataError, match=r"val: no image is left to validate on: .* 4 images .*val-000"
    ):
        world.call(train, data, val=val, out=tmp_path / "run", **SMALL)
    assert world.trainings == []
    with pytest.raises(DataError, match=r"val: no image is left to validate on"):
        world.call(evaluate, checkpoint(tmp_path / "w"), val, out=tmp_path / "v", draws=5)
    good = labelled(tmp_path / "good", 4, 3000, "val")
    with pytest.raises(DataError, match=r"no image is left to train on: .* 20 images .*object-000"):
        world.call(train, cut(data), val=good, out=tmp_path / "run", **SMALL)


@pytest.mark.usefixtures("no_page")
def test_a_run_directory_is_not_written_over(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    World().call(train, data, out=out, **SMALL)
    with pytest.raises(ConfigError, match="holds a run already"):
        World().call(train, data, out=out, **SMALL)
    World().call(train, data, out=out, resume=True, **SMALL)


class Failing(World):
    """A world whose trainings fail: before the first step, or with weights that were saved."""

    def __init__(self, *, saved: bool) -> None:
        super().__init__()
        self.saved = saved

    def fit(self, request: TrainingRequest) -> Path:
        """Fail."""
        if self.saved:
            super().fit(request)
        raise ConfigError("device: got cuda")


@pytest.mark.usefixtures("no_page")
def test_a_training_that_fails_before_its_first_step_leaves_the_folder_free(
    data: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="device: got cuda"):
        Failing(saved=False).call(train, data, out=out, **SMALL)
    assert not (out / "train.json").exists()
    World().call(train, data, out=out, **SMALL)
    with pytest.raises(ConfigError, match="device: got cuda"):
        Failing(saved=True).call(train, data, out=tmp_path / "saved", **SMALL)
    with pytest.raises(ConfigError, match="holds a run already"):
        World().call(train, data, out=tmp_path / "saved", **SMALL)
    with pytest.raises(ConfigError, match="device: got cuda"):
        Failing(saved=False).call(train, data, out=out, resume=True, **SMALL)
    assert (out / "train.json").exists()  # the run that it held before


@pytest.mark.usefixtures("no_page")
def test_a_resumed_training_that_is_refused_keeps_the_choices_of_the_run(
    data: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    World().call(train, data, out=out, **SMALL)
    before = [(out / name).read_bytes() for name in ("train.json", "recipe.yaml")]
    other = {**SMALL, "epochs": 77, "device": "cuda"}
    with pytest.raises(ConfigError, match="device: got cuda"):
        Failing(saved=False).call(train, data, out=out, resume=True, **other)
    assert [(out / name).read_bytes() for name in ("train.json", "recipe.yaml")] == before


@pytest.mark.usefixtures("no_page")
def test_what_follows_from_another_choice_is_said_as_it_is(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(World):
        def fit(self, request: TrainingRequest) -> Path:
            raise CheckpointError("belongs to a run with another seed")

    out = tmp_path / "run"
    World().call(train, data, out=out, **SMALL)
    with pytest.raises(CheckpointError, match=r"another seed \(seed is 3, and was 0"):
        Refusing().call(train, data, out=out, resume=True, seed=3, **SMALL)
    assert "seed is 3, and was 0 when the run began; a saved training that depends" in caplog.text
    assert "on it is refused" in caplog.text


@pytest.mark.usefixtures("no_page")
def test_a_training_knows_its_pictures_by_their_content(data: Dataset, tmp_path: Path) -> None:
    asked: list[str | None] = []

    class Asked(World):
        def fit(self, request: TrainingRequest) -> Path:
            asked.append(request.pictures)
            return super().fit(request)

    val = labelled(tmp_path / "val", 4, 2000, "val")
    for change in (None, "date", "content"):
        picture = data.records[3].path
        if change == "date":
            os.utime(picture, (1, 1))
        elif change == "content":
            draw(picture, 77)
        Asked().call(train, data, val=val, out=tmp_path / "run", resume=len(asked) > 0, **SMALL)
    assert None not in asked
    assert asked[0] == asked[1] != asked[2]


def test_evaluate_measures_and_draws_the_page(data: Dataset, held: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w")
    out = tmp_path / "val"
    measurement = World().call(evaluate, weights, data, negatives=held, out=out, draws=5)
    # 20 objects with scores .900 … .881; recall .8 at the sixteenth: .885; .95 and .94 fire
    assert measurement.score_threshold == pytest.approx(0.885)
    assert measurement.negatives["held_out"].at_recall is not None
    assert measurement.negatives["held_out"].at_recall.alarms == 2
    page = (out / "report.html").read_text()
    assert "held-out images" in page
    assert metrics_of(out)["measurement"]["AP50"] == 1.0


@pytest.mark.usefixtures("no_page")
def test_the_report_of_a_training_is_not_replaced(data: Dataset, tmp_path: Path) -> None:
    out, world = tmp_path / "run", World()
    result = world.call(train, data, out=out, **SMALL)
    before = (out / "metrics.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a run, whose report this would replace"):
        world.call(evaluate, result.checkpoint, data, out=out, draws=5)
    assert (out / "metrics.json").read_bytes() == before


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    ("gates", "missed"),
    [
        ({"max_alarms": 2 / 12, "min_ap50": 1.0}, None),  # both inclusive
        ({"max_alarms": 0.16}, "alarms per image at recall 0.8: got 0.1667, wanted at most 0.16"),
        ({"min_ap50": 0.96}, "AP50: got 0.9406, wanted at least 0.96"),
        ({"max_alarms": 0.0, "min_ap50": 1.0}, "at most 0; AP50"),
    ],
)
def test_gates(
    data: Dataset, held: Path, tmp_path: Path, gates: dict[str, float], missed: str | None
) -> None:
    weights = checkpoint(tmp_path / "w")
    keywords: dict[str, Any] = {"out": tmp_path / "val", "draws": 5}
    world = World()
    if missed is None:
        world.call(evaluate, weights, data, negatives=held, **keywords, **gates)
        return
    # The last of twenty objects lies elsewhere: recall stops at .95, 95 of the 101 points.
    moved = replace(data.records[-1], boxes=np.array([[0, 0, 24, 24]], np.float32))
    data = data.with_records([*data.records[:-1], moved])
    with pytest.raises(GateError, match=missed):
        world.call(evaluate, weights, data, negatives=held, **keywords, **gates)
    written = metrics_of(tmp_path / "val")["measurement"]["AP50"]  # written all the same
    assert written == pytest.approx(95 / 101)


@pytest.mark.usefixtures("no_page")
def test_a_gate_on_a_recall_that_is_not_reached_fails(
    data: Dataset, held: Path, tmp_path: Path
) -> None:
    world = World()

    def blind(detector: Any, paths: Sequence[Path], *, progress: Any = None) -> Any:
        from hardmine.detections import Detections

        return [Detections.none() for _ in paths]

    world.detect_images = blind  # type: ignore[method-assign]
    with pytest.raises(GateError, match="got undefined, wanted at most 5"):
        world.call(
            evaluate,
            checkpoint(tmp_path / "w"),
            data,
            negatives=held,
            max_alarms=5.0,
            out=tmp_path / "val",
            draws=5,
        )


@pytest.mark.usefixtures("no_page")
def test_a_gate_without_negatives_fails(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="got undefined"):
        World().call(
            evaluate,
            checkpoint(tmp_path / "w"),
            data,
            max_alarms=5.0,
            out=tmp_path / "val",
            draws=5,
        )


def test_unreviewed_images_are_left_out_and_labelled_ones_must_remain(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unseen = [r.with_state(ImageState.UNREVIEWED) for r in data.records[:5]]
    mixed = data.with_records([*unseen, *data.records[5:]])
    val = labelled(tmp_path / "val", 4, 2000, "val")
    both = load_train_val(mixed, val, Steps(tmp_path / "run"), seed=0)
    assert count_labelled(both.train.records) == len(both.train) == 15
    assert "5 of 20 training images are unreviewed or set aside" in caplog.text
    with pytest.raises(
        DataError, match="nothing to learn in the training images: no labelled image among 5"
    ):
        load_train_val(data.with_records(unseen), val, Steps(tmp_path / "run"), seed=0)


def test_validation_images_that_repeat_training_images_are_reported(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = labelled(tmp_path / "val", 4, 1003, "val")  # pictures 3 … 6 of the training set
    both = load_train_val(data, val, Steps(tmp_path / "run"), seed=0)
    assert [Path(a).name for a, _ in both.leaks] == [f"object-{i:03}.png" for i in (3, 4, 5, 6)]
    assert "4 near-duplicates of validation images are trained on" in caplog.text


def test_files_that_are_validated_and_trained_on_are_counted_once(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = data.subset([0, 3, 7])
    both = load_train_val(data, val, Steps(tmp_path / "run"), seed=0)
    assert "3 of 3 validation images are trained on as well" in caplog.text
    assert "near-duplicates" not in caplog.text
    assert describe_leaks(both.leaks) == [
        "3 validation images are trained on as well; still in use"
    ]
    assert describe_leaks([("a", "b"), ("c", "c")]) == [
        "a (trained on) and b (validation) are near-duplicates; both stay in use",
        "1 validation image is trained on as well; still in use",
    ]
    assert describe_leaks([]) == []


def test_a_split_keeps_near_duplicates_together_and_is_the_same_again(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 20, 1000)
    for i in range(10):
        draw(data.records[i + 10].path, 1000 + i)  # ten pairs
    one = load_train_val(data, 0.3, Steps(tmp_path / "a"), seed=4)
    two = load_train_val(data, 0.3, Steps(tmp_path / "b"), seed=4)
    assert one.val.fingerprint == two.val.fingerprint
    assert len(one.train) + len(one.val) == 20
    assert one.leaks == ()
    numbers = {int(r.path.stem.split("-")[1]) % 10 for r in one.val.records}
    assert len(one.val) == 2 * len(numbers)


def test_other_classes_are_refused(data: Dataset, tmp_path: Path) -> None:
    val = replace(labelled(tmp_path / "val", 4, 2000, "val"), categories=("other",))
    with pytest.raises(DataError, match=r"classes \['other'\], wanted those of the training data"):
        load_train_val(data, val, Steps(tmp_path / "run"), seed=0)
    with pytest.raises(DataError, match=r"classes \['other'\], wanted \['thing'\]"):
        World().call(evaluate, checkpoint(tmp_path / "w"), val, out=tmp_path / "val")


@pytest.mark.usefixtures("no_page")
def test_crops_stand_beside_when_objects_leave_room(data: Dataset, tmp_path: Path) -> None:
    small = [replace(r, boxes=np.array([[0, 0, 6, 6]], np.float32)) for r in data.records]
    world = World()
    real = world.detect_images

    def detect(detector: Any, paths: Sequence[Path], *, progress: Any = None) -> Any:
        names = [Path("k5-40-0.png") if "crops" in str(path) else path for path in paths]
        return real(detector, names, progress=progress)

    world.detect_images = detect  # type: ignore[method-assign]
    measurement = world.call(
        evaluate,
        checkpoint(tmp_path / "w"),
        data.with_records(small),
        out=tmp_path / "val",
        draws=5,
    )
    assert set(measurement.negatives) == {"crops"}
    assert measurement.negatives["crops"].images >= 20


@pytest.mark.parametrize("lost", ["pictures", "crops"])
def test_crops_are_cut_anew_when_pictures_were_replaced_or_crops_removed(
    data: Dataset, tmp_path: Path, lost: str
) -> None:
    small = [replace(r, boxes=np.array([[0, 0, 6, 6]], np.float32)) for r in data.records]
    given = data.with_records(small)
    run_of = Steps(tmp_path / "val")
    hash_once([given], run_of)
    before = [record.path.read_bytes() for record in crop_set(given, run_of, seed=0)]
    if lost == "pictures":
        for number, record in enumerate(given):
            draw(record.path, 7000 + number)
    else:
        crop_set(given, run_of, seed=0)[0].path.unlink()
    hash_once([given], run_of)
    after = [record.path.read_bytes() for record in crop_set(given, run_of, seed=0)]
    assert (after == before) == (lost == "crops")
