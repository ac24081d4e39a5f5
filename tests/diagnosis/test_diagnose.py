"""``diagnose`` on trainings of seconds: planted causes, a healthy run, and all that can be missing."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.cli.main import run as run_line
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.images import read_picture
from hardmine.diagnosis.diagnose import diagnose, diagnose_configuration
from hardmine.diagnosis.diagnosis_result import Diagnosis
from hardmine.diagnosis.evidence import gather
from hardmine.errors import ConfigError, DataError
from hardmine.losses.negative_mining import RatioConfig
from hardmine.models.postprocess import foreground_scores
from hardmine.models.priors import ExplicitPriors
from hardmine.models.ssd import SSDConfig
from hardmine.numpy_boxes import box_iou
from hardmine.recipes.checkpoint import load_checkpoint, save_checkpoint
from hardmine.recipes.recipe import Recipe, load_recipe
from hardmine.types import Dataset
from hardmine.workflows.train_and_evaluate import train
from tf_configs import MINER, PLAIN

Trained = Callable[..., Path]


@pytest.fixture
def trained(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> Trained:
    """Train on the squares and return the run's folder; validated on the images trained on."""

    def fit(change: Callable[[Recipe], Recipe] = lambda recipe: recipe, steps: float = 30) -> Path:
        labels = tmp_path / "squares.json"
        write_coco(squares, labels)
        recipe = replace(change(tiny_recipe), epochs=steps / 2)
        out = tmp_path / "run"
        train(
            labels,
            val=labels,
            recipe=recipe,
            out=out,
            draws=2,
            validate=0,
            seed=3,
            empty_is_verified=True,
        )
        return out

    return fit


def with_priors(*levels: tuple[tuple[float, float], ...]) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        assert isinstance(recipe.model, SSDConfig)
        return replace(recipe, model=replace(recipe.model, priors=ExplicitPriors(levels=levels)))

    return change


def without_floor(recipe: Recipe) -> Recipe:
    return replace(recipe, loss=replace(recipe.loss, selection=RatioConfig(floor=0)))


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("floor", without_floor),
        ("priors", with_priors(((40.0, 4.0),), ((4.0, 40.0),))),
        ("levels", with_priors(((20.0, 20.0), (24.0, 24.0)), ((2.0, 2.0),))),
    ],
)
def test_a_planted_cause_is_named_first(
    trained: Trained, cause: str, change: Callable[[Recipe], Recipe]
) -> None:
    found = diagnose(trained(change))
    assert found.causes[0] == cause
    if cause != "floor":
        check_fit(found.findings[0].command)
    assert found.findings[0].hypothesis.title in found.summary()


def check_fit(command: str) -> None:
    """The first two of the three commands run as they are printed: what they write is a recipe."""
    fit, lay, then = command.split(" && \\\n")
    line, _, target = lay.partition(" > ")
    assert run_line([*shlex.split(fit)[1:], "--force"]) == 0
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_line(shlex.split(line)[1:]) == 0
    Path(target).write_text(out.getvalue())
    fitted = load_recipe(Path(target))
    assert isinstance(fitted.model, SSDConfig)
    assert isinstance(fitted.model.priors, ExplicitPriors)
    assert fitted.batch.size == 4
    assert f"--recipe {target}" in then


@pytest.mark.slow
def test_a_healthy_run_is_accused_of_nothing(trained: Trained, tmp_path: Path) -> None:
    change = with_priors(((20.0, 20.0), (24.0, 24.0)), ((18.0, 18.0), (26.0, 26.0)))
    found = diagnose(trained(change, steps=300))
    assert found.causes == ()
    assert "None of the known causes" in found.summary()
    assert f"compare --preset mining {tmp_path / 'run/recipe.yaml'}" in found.page.read_text()


def test_what_is_written(trained: Trained, tmp_path: Path) -> None:
    """A page without scripts, the values, the places to look at, and a command with this run's data."""
    run = trained(without_floor)
    assert "What the training selected" in (run / "report.html").read_text()
    found = diagnose(run, out=tmp_path / "said")
    assert sorted(path.name for path in (tmp_path / "said").iterdir()) == [
        "diagnosis.html",
        "diagnosis.json",
        "missing_labels.csv",
    ]
    page = found.page.read_text()
    assert "<script" not in page
    assert "Images without objects do not train: supported" in page
    values = json.loads((tmp_path / "said/diagnosis.json").read_text())
    assert values["causes"] == list(found.causes)
    assert len(values["hypotheses"]) == 8
    command = values["hypotheses"][0]["command"]
    assert command.startswith(
        f"hardmine train {tmp_path / 'squares.json'} --empty-is-verified --val "
    )
    assert f"--recipe {run / 'recipe.yaml'}" in command
    assert "--set loss.selection.floor=32 --seed 3 --out" in command
    assert (tmp_path / "said/missing_labels.csv").read_text().startswith("image,xmin,ymin")
    check_hardest(found, run)


def check_hardest(found: Diagnosis, run: Path) -> None:
    """Of one class and softmax, what costs most as background is what looks most like an object."""
    model, recipe = load_checkpoint(run / "last.safetensors")
    assert found.evidence is not None
    assert found.evidence.train is not None
    assert found.evidence.data is not None
    records = [record for record in found.evidence.data if len(record.labels)]
    hardest = found.evidence.train.hardest
    assert sorted(each.image for each in hardest) == list(range(len(records)))
    assert list(hardest) == sorted(hardest, key=lambda each: -each.score)
    priors = cxcywh_to_xyxy(model.priors.cxcywh).double().numpy()
    for each in hardest[:4]:
        pixels, place = recipe.resize.apply(read_picture(records[each.image].path))
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        with torch.no_grad():
            scores = foreground_scores(model.eval()(image))[0, :, 0].double().numpy()
        objects = place.forward(records[each.image].boxes.astype(np.float64))
        iou = box_iou(priors, objects).max(1)
        background = iou < 0.5
        # an object whose best prior is below .5 gets this one all the same
        background[box_iou(priors, objects).argmax(0)] = False
        assert each.score == pytest.approx(scores[background].max(), abs=1e-5)
        at = np.flatnonzero(background)[scores[background].argmax()]
        assert each.iou == pytest.approx(iou[at], abs=1e-5)
        assert each.box == pytest.approx(place.inverse(priors[at : at + 1])[0], abs=1e-3)


def says(found: Diagnosis, part: str) -> bool:
    return any(part in line for line in found.limits)


def test_a_run_that_lacks_something_says_what_cannot_be_concluded(trained: Trained) -> None:
    run = trained(without_floor)
    assert says(diagnose(run), "There is one class")
    (run / "metrics.json").unlink()
    assert says(diagnose(run), "was interrupted")
    (run / "log.csv").write_text("step,loss\n1,2\n")  # of another version
    values = json.loads((run / "train.json").read_text())
    values["inputs"]["data"] = str(run / "gone.json")
    (run / "train.json").write_text(json.dumps(values))
    gone = diagnose(run)
    assert says(gone, f"The run's data cannot be read again ({run / 'gone.json'}: no such file")
    assert gone.causes == ("floor",)
    with pytest.raises(DataError, match="no such file"):
        diagnose(run, data=run / "gone.json")
    values["inputs"]["data"] = {"dataset": "abc"}
    (run / "train.json").write_text(json.dumps(values))
    blind = diagnose(run)
    assert says(blind, "Give --data")
    assert blind.causes == ("floor",)
    assert [f.verdict.answer.value for f in blind.findings].count("not enough data") >= 4
    (run / "telemetry.csv").unlink()
    mute = diagnose(run)
    assert says(mute, "There is no telemetry.csv")
    assert mute.causes == ()
    assert not says(mute, "Version")
    for broken, part in (
        ("{", "cannot be read as JSON"),
        ("[]", "wanted the record of a training"),
        ('{"inputs": 3}', "train.json: inputs: got a int, wanted the record of a training"),
    ):
        (run / "train.json").write_text(broken)
        with pytest.raises(DataError) as error:
            diagnose(run)
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "telemetry.csv has no rows"),
        (b"\x00\xff", "telemetry.csv cannot be read ('utf-8'"),
        (
            b"epoch,loss\n1,2\n",
            "telemetry.csv has no column images, level0.negatives, level0.positives",
        ),
    ],
)
def test_telemetry_that_says_nothing_answers_nothing(
    trained: Trained, content: bytes, part: str
) -> None:
    run = trained(without_floor)
    (run / "telemetry.csv").write_bytes(content)
    found = diagnose(run)
    assert says(found, part)
    known = {f.hypothesis.key: f.verdict.answer.value for f in found.findings}
    assert {known[key] for key in ("floor", "levels", "gradient")} == {"not enough data"}
    assert known["priors"] == "not supported"


def test_a_network_that_has_learned_nothing_is_called_that(trained: Trained) -> None:
    found = diagnose(trained(steps=2))
    assert says(found, "has not learned its own training images (average precision 0.")
    known = {f.hypothesis.key: f.verdict.answer.value for f in found.findings}
    assert {known[key] for key in ("ambiguity", "labels")} == {"not enough data"}


def test_what_ends_a_training(trained: Trained) -> None:
    """The stamp of a loop's step ends one as its metrics do; a copied checkpoint was not interrupted."""
    run = trained(without_floor, steps=2)
    assert gather(run).is_finished
    (run / "metrics.json").unlink()
    cut = gather(run)
    assert not cut.is_finished
    assert any("judged by its weights may still change" in line for line in cut.limits)
    (run / "train.step.json").write_text("{}")
    assert gather(run).is_finished
    for name in ("train.step.json", "train.json", "state.pt"):
        assert (run / name).exists()
        (run / name).unlink()
    assert gather(run).is_finished


def test_weights_that_are_no_numbers_are_not_tested(trained: Trained) -> None:
    run = trained(without_floor)
    model, recipe = load_checkpoint(run / "last.safetensors")
    state = model.state_dict()
    next(iter(state.values())).fill_(float("nan"))
    save_checkpoint(run / "last.safetensors", state, recipe, model.categories)
    found = diagnose(run)
    assert says(found, "the training has diverged")
    assert found.causes == ("floor",)


def test_images_of_the_run_that_are_gone_do_not_hide_the_others(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained(without_floor)
    record = json.loads((run / "train.json").read_text())

    def rewrite(**inputs: str | None) -> None:
        changed = {**record, "inputs": {**record["inputs"], **inputs}}
        (run / "train.json").write_text(json.dumps(changed))

    rewrite(val=str(tmp_path / "gone.json"), train_negatives=str(tmp_path / "none"))
    found = diagnose(run)
    assert says(found, f"validation images cannot be read again ({tmp_path / 'gone.json'}: no such")
    assert says(found, f"images without objects cannot be read again ({tmp_path / 'none'}: no such")
    assert says(found, "There is no validation set")
    assert found.evidence is not None
    assert found.evidence.train is not None
    assert found.evidence.train.images == 8
    with pytest.raises(DataError, match="no such"):
        diagnose(run, negatives=tmp_path / "none")
    (run / "train.json").unlink()
    alone = diagnose(run, data=tmp_path / "squares.json")
    assert says(alone, "There is no validation set")
    assert alone.evidence is not None
    assert alone.evidence.train is not None
    assert alone.evidence.train.images == 8  # none is split off from those that were trained on


def test_a_training_of_a_loop_is_looked_at_with_the_data_of_the_loop(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained(without_floor, steps=4)
    inside = tmp_path / "loop/models/abc"
    inside.parent.mkdir(parents=True)
    (run / "train.json").rename(tmp_path / "loop/loop.json")
    (run / "metrics.json").rename(run / "train.step.json")
    run.rename(inside)
    found = gather(inside)
    assert found.train is not None
    assert found.val is not None
    assert found.is_finished
    assert any("those that its rounds added" in line for line in found.limits)
    assert not any("Give --data" in line for line in found.limits)


def test_the_command_for_a_training_of_a_loop_has_the_recipe_of_the_loop(
    trained: Trained, tmp_path: Path
) -> None:
    run, inside = trained(without_floor), tmp_path / "loop/models/abc"
    inside.parent.mkdir(parents=True)
    (run / "train.json").rename(tmp_path / "loop/loop.json")
    recipe = (run / "recipe.yaml").rename(tmp_path / "loop/recipe.yaml")
    run.rename(inside)
    found = diagnose(inside)
    assert f" --recipe {recipe} --set loss.selection.floor=32 " in found.findings[0].command
    assert f"compare --preset mining {recipe} " in found.compare


def test_fewer_images_may_be_looked_at_and_the_levels_of_objects_are_those_of_coverage(
    trained: Trained,
) -> None:
    run = trained(without_floor)
    found = diagnose(run, images=2)
    assert found.evidence is not None
    assert found.evidence.train is not None
    assert found.evidence.train.images == 2
    assert says(found, "2 of the ")
    assert says(found, "(--images looks at more)")
    whole = diagnose(run).evidence
    assert whole is not None
    assert whole.train is not None
    assert whole.coverage is not None
    assert whole.train.object_level.tolist() == whole.coverage.best.level.tolist()
    with pytest.raises(ConfigError, match="got images 0, wanted 1 or more"):
        diagnose(run, images=0)


def test_a_run_of_another_version_says_so(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(without_floor)
    model, recipe = load_checkpoint(run / "last.safetensors")
    monkeypatch.setattr("hardmine.__version__", "0.0.9")
    save_checkpoint(run / "last.safetensors", model.state_dict(), recipe, model.categories)
    monkeypatch.undo()
    assert says(diagnose(run), "Version 0.0.9 of Hardmine made the run")


def test_no_image_without_objects(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    labels = tmp_path / "some.json"
    write_coco(squares.subset(lambda record: len(record.labels) > 0), labels)
    train(labels, val=labels, recipe=replace(tiny_recipe, epochs=3), out=tmp_path / "run", draws=2)
    found = diagnose(tmp_path / "run")
    assert says(found, "No image without objects was trained on")


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ((), "got no run (no last.safetensors)"),
        (("loop.json", "models/abc/last.safetensors"), "is a loop; give one of its trainings"),
        (("loop.json", "models/abc/train.step.json"), "is a loop of another trainer"),
        (("last.pt", "train.log"), "holds the weights of another trainer (last.pt)"),
        (("a/b/last.safetensors",), "is no run, but holds some; give one of them"),
        (("train.json",), "interrupted before it saved any weights"),
    ],
)
def test_a_folder_without_a_run(tmp_path: Path, files: tuple[str, ...], part: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError) as error:
        diagnose(tmp_path)
    assert part in str(error.value)
    if files[:1] == ("loop.json",):  # the rounds that a loop has finished change nothing
        rounds = [{"arm": "mined", "round": 0, "model": "abc"}]
        (tmp_path / "rounds.json").write_text(json.dumps(rounds))
        with pytest.raises(DataError, match=re.escape(part)):
            diagnose(tmp_path)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        (("last.safetensors", "recipe.yaml"), "is a file of a run, wanted its folder"),
        (("recipe.yaml",), "got neither the folder of a training nor a pipeline.config"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, files: tuple[str, ...], part: str) -> None:
    for name in files:
        (tmp_path / name).write_text("model:\n  kind: ssd\n")
    with pytest.raises(ConfigError) as error:
        diagnose_configuration(tmp_path / "recipe.yaml", out=tmp_path / "said")
    assert part in str(error.value)
    assert not (tmp_path / "said").exists()


def configured(tmp_path: Path, miner: str, *, text: str = PLAIN, **options: Any) -> Diagnosis:
    path = tmp_path / "pipeline.config"
    path.write_text(text.replace("HERE", miner))
    return diagnose_configuration(path, out=tmp_path / "said", **options)


def test_a_configuration_is_judged_by_itself(tmp_path: Path) -> None:
    floor = configured(tmp_path, "max_negatives_per_positive: 3 min_negatives_per_image: 3")
    assert floor.causes == ("floor",)
    assert "3 negatives per image without objects" in floor.summary()
    assert "recipe --from" in floor.findings[0].command
    one = configured(tmp_path, "max_negatives_per_positive: 3 min_negatives_per_image: 1")
    assert "1 negative per image without objects" in one.summary()
    hardest = configured(tmp_path, MINER)
    assert hardest.causes == ("gradient",)
    focal = PLAIN.replace("weighted_sigmoid { }", "weighted_sigmoid_focal { alpha: 0.25 }")
    both = configured(
        tmp_path, "max_negatives_per_positive: 3 min_negatives_per_image: 9", text=focal
    )
    assert both.causes == ("gradient",)
    assert "focal loss and a miner together" in both.summary()
    good = configured(tmp_path, "max_negatives_per_positive: 3 min_negatives_per_image: 9")
    assert good.causes == ()


def test_a_random_sampler_is_no_miner_and_has_no_floor(tmp_path: Path) -> None:
    text = PLAIN.replace("hard_example_miner { HERE }", "random_example_sampler { }")
    found = configured(tmp_path, "", text=text)
    assert found.causes == ("floor",)
    effects = {each.hypothesis.key: each.verdict.effect for each in found.findings}
    assert effects["gradient"] == "99 random negatives per positive"  # (1 - .01) / .01


def test_anchors_are_measured_against_data(squares: Dataset, tmp_path: Path) -> None:
    """Squares of 20 of 48 px are 125 px at 300: between the anchors of 105 and 150 px."""
    write_coco(squares, tmp_path / "squares.json")
    miner = "max_negatives_per_positive: 3 min_negatives_per_image: 9"
    found = configured(tmp_path, miner, data=tmp_path / "squares.json")
    assert found.causes == ()
    tiny = PLAIN.replace("min_scale: 0.2 max_scale: 0.95", "min_scale: 0.01 max_scale: 0.05")
    none = configured(tmp_path, miner, text=tiny, data=tmp_path / "squares.json")
    assert none.causes == ("priors",)
    check_config_fit(none.findings[0].command, tmp_path)


def check_config_fit(command: str, folder: Path) -> None:
    """The first three of the four commands run as they are printed, in an empty folder."""
    *lines, then = command.split(" && \\\n")
    with contextlib.chdir(folder):
        for line in lines:
            words, _, target = line.partition(" > ")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                more = ["--force"] if " fit " in words else []
                assert run_line([*shlex.split(words)[1:], *more]) == 0
            if target:
                Path(target).write_text(out.getvalue())
        fitted = load_recipe(Path("fitted.yaml"))
    assert isinstance(fitted.model, SSDConfig)
    assert isinstance(fitted.model.priors, ExplicitPriors)
    assert fitted.model.name == "mobilenet_v2_from_tf"
    assert then == f"hardmine train {folder / 'squares.json'} --recipe fitted.yaml"


def test_the_command(trained: Trained, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = trained(without_floor)
    assert run_line(["diagnose", str(run)]) == 0
    out, err = capfd.readouterr()
    assert "Images without objects do not train" in out
    assert f"page: {run / 'diagnosis.html'}" in out
    assert "There is one class" in err
    assert run_line(["diagnose", str(run), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["causes"][0] == "floor"
    (tmp_path / "x.config").write_text("model { faster_rcnn { } }")
    assert run_line(["diagnose", str(tmp_path / "x.config")]) == 2
    assert "the model is faster_rcnn" in capfd.readouterr().err


def test_a_configuration_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no network of Hardmine's"):
        configured(
            tmp_path, MINER, text=PLAIN.replace("ssd_mobilenet_v2_keras", "ssd_inception_v2")
        )
