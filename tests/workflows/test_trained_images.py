"""What is measured on the data of a training: the images that it split off, or all with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardmine import Dataset, evaluate, train
from hardmine.data.formats.image_files import load_images
from hardmine.types import ImageState
from hardmine.workflows.image_sets import load_train_val
from hardmine.workflows.step_cache import Steps
from hardmine.workflows.trained_images import not_trained_on, warn_of_trained_negatives
from loop_fakes import World, labelled, pool_of, run

SMALL: dict[str, Any] = {"draws": 5, "model": "small160"}
pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return labelled(tmp_path / "data", 20, 1000)


def names(data: Dataset) -> set[str]:
    return {record.path.name for record in data.records}


def test_of_data_that_a_training_divided_its_validation_images_are_measured(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, world = tmp_path / "run", World()
    # An image that nobody reviewed is in one of the parts and takes no part in either.
    data = data.with_records([data.records[0].with_state(ImageState.UNREVIEWED), *data.records[1:]])
    trained = world.call(train, data, val=0.2, out=folder, **SMALL)
    caplog.clear()
    measured = world.call(evaluate, trained.checkpoint, data, out=tmp_path / "val", draws=5)
    assert measured.images == trained.measurement.images
    assert f"of 20 images were trained on in {folder}; the other" in caplog.text
    caplog.clear()
    apart = not_trained_on(data, str(folder))  # the folder names its weights
    assert apart.fingerprint == not_trained_on(data, folder / "best.safetensors").fingerprint
    assert 3 <= len(apart) <= 5
    assert names(not_trained_on(data.subset(range(1, 20)), folder)) == names(
        data.subset(range(1, 20))
    )


def test_data_of_another_run_or_of_no_run_is_measured_whole(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    World().call(train, data, val=0.2, out=tmp_path / "run", **SMALL)
    caplog.clear()
    other = labelled(tmp_path / "other", 5, 3000)
    assert not_trained_on(other, tmp_path / "run") is other
    assert not_trained_on(data, tmp_path / "elsewhere.safetensors") is data
    assert not_trained_on(data, tmp_path / "run" / "predictions.json") is data
    assert not_trained_on(data, object()) is data
    assert not_trained_on(data, "torchvision:ssd300_vgg16") is data
    assert caplog.text == ""


def test_data_that_was_trained_on_as_a_whole_is_measured_with_a_warning(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = tmp_path / "val.json"
    labelled(tmp_path / "val", 4, 2000, "val").to_coco(val)
    folder, world = tmp_path / "run", World()
    trained = world.call(train, data, val=val, out=folder, **SMALL)
    caplog.clear()
    measured = world.call(evaluate, trained.checkpoint, data, out=tmp_path / "v", draws=5)
    assert measured.images == 20
    assert f"all 20 images were trained on in {folder}" in caplog.text
    assert caplog.text.rstrip().endswith(f"validated on: {val}")
    caplog.clear()
    world.call(evaluate, trained.checkpoint, val, out=tmp_path / "w", draws=5)
    assert "trained on" not in caplog.text


def test_a_division_that_the_run_gave_up_says_nothing(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, world = tmp_path / "run", World()
    world.call(train, data, val=0.2, out=folder, **SMALL)
    val = labelled(tmp_path / "val", 4, 2000, "val")
    world.call(train, data, val=val, out=folder, resume=True, **SMALL)
    caplog.clear()
    assert not_trained_on(data, folder) is data
    assert caplog.text.count("all 20 images were trained on") == 1
    assert caplog.text.rstrip().endswith("validated on")


def test_the_models_of_a_loop_go_by_what_the_loop_split_off(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    data, out = labelled(tmp_path / "all", 20, 5000), tmp_path / "loop"
    run({**inputs, "data": data, "val": 0.2}, out, World(), arms=("mined",), rounds=1)
    (weights, *_) = sorted(out.glob("models/*/last.safetensors"))
    assert not_trained_on(data, weights).fingerprint == not_trained_on(data, out).fingerprint
    assert len(not_trained_on(data, weights)) == 4


def test_later_calls_in_the_folder_of_a_run_change_nothing(data: Dataset, tmp_path: Path) -> None:
    """As a resumed run that is refused for its data, or a diagnosis of other data, does."""
    folder = tmp_path / "run"
    World().call(train, data, val=0.2, out=folder, **SMALL)
    before = not_trained_on(data, folder).fingerprint
    other = labelled(tmp_path / "other", 20, 7000)
    load_train_val(other, 0.2, Steps(folder), seed=0)
    assert not_trained_on(data, folder).fingerprint == before != data.fingerprint
    assert not_trained_on(other, folder) is other


def test_a_run_in_a_folder_called_models_is_no_loop(data: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "first"
    World().call(train, data, val=0.2, out=folder, **SMALL)
    assert len(not_trained_on(data, folder)) == 4


def test_alarms_on_images_that_were_trained_on_as_empty_are_measured_with_a_warning(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, new = (pool_of(tmp_path / name, 1, 4, seed) for name, seed in (("seen", 1), ("new", 9)))
    folder, world = tmp_path / "run", World()
    trained = world.call(train, data, val=0.2, train_negatives=seen, out=folder, **SMALL)
    options = {"draws": 5, "out": tmp_path / "val"}
    caplog.clear()
    world.call(evaluate, trained.checkpoint, data, negatives=new, **options)
    assert "trained on as empty" not in caplog.text
    world.call(evaluate, trained.checkpoint, data, negatives=seen, **options)
    assert (
        f"{seen}: 4 of 4 images without objects were trained on as empty in {folder}" in caplog.text
    )


def test_the_pool_that_a_loop_mined_is_named_as_trained_on_by_each_of_its_models(
    inputs: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "loop"
    result = run(inputs, out, World(), rounds=2)
    pool = load_images(inputs["pool"], state=ImageState.ASSUMED_EMPTY)
    for row, count in zip(result.rows, (0, 3, 6), strict=True):
        caplog.clear()
        warn_of_trained_negatives(pool, out / "models" / row["model"] / "last.safetensors")
        assert (f": {count} of 60 images" in caplog.text) == (count > 0)
    caplog.clear()
    warn_of_trained_negatives(pool, out)  # the folder names the weights of the last round
    assert ": 6 of 60 images without objects were trained on as empty" in caplog.text
    caplog.clear()
    for other in (object(), "torchvision:ssd300_vgg16", tmp_path / "predictions.json"):
        warn_of_trained_negatives(pool, other)
    assert caplog.text == ""
