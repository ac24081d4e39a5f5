"""The training loop: exact resume, what it refuses, what it leaves behind."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardmine.errors import CheckpointError, ConfigError, DataError
from hardmine.models.neck_and_head import ExtraLayersConfig
from hardmine.models.ssd import SSD, SSDConfig, make_network
from hardmine.recipes.checkpoint import load_checkpoint
from hardmine.recipes.recipe import (
    BatchConfig,
    OptimConfig,
    Recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from hardmine.tensors import ScoreForm
from hardmine.training.optimization import AveragedWeights, learning_rate
from hardmine.training.trainer import Progress, fit
from hardmine.types import Dataset, ImageState


class InterruptError(Exception):
    """Stands for whatever ends a process."""


def stop_at(step: int) -> object:
    def progress(where: Progress) -> None:
        if where.step == step:
            raise InterruptError

    return progress


def same(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("stopped_at", [1, 4, 7, 11])
def test_interrupted_and_resumed_gives_the_same_weights(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, stopped_at: int
) -> None:
    options = {"steps": 12, "save_every": 4, "seed": 3}
    whole = fit(squares, tiny_recipe, tmp_path / "whole", **options)  # type: ignore[arg-type]
    with pytest.raises(InterruptError):
        fit(squares, tiny_recipe, tmp_path / "cut", progress=stop_at(stopped_at), **options)  # type: ignore[arg-type]
    again = fit(squares, tiny_recipe, tmp_path / "cut", resume=True, **options)  # type: ignore[arg-type]
    assert same(whole, again)
    log = (tmp_path / "whole" / "log.csv").read_text()
    assert log == (tmp_path / "cut" / "log.csv").read_text()
    assert [int(row["step"]) for row in csv.DictReader(log.splitlines())] == list(range(1, 13))


def test_a_loss_with_memory_ramp_and_chance_resumes_too(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe_from_dict(
        {
            "loss": {
                "selection": {"kind": "mixed", "floor": 4},
                "classification": {"kind": "focal"},
                "localisation": {"kind": "giou"},
                "normaliser": {"kind": "moving_average"},
            }
        },
        tiny_recipe,
    )
    whole = fit(squares, recipe, tmp_path / "whole", steps=6, save_every=2)
    with pytest.raises(InterruptError):
        fit(squares, recipe, tmp_path / "cut", steps=6, save_every=2, progress=stop_at(3))
    assert same(whole, fit(squares, recipe, tmp_path / "cut", steps=6, save_every=2, resume=True))
    model, _ = load_checkpoint(whole)
    assert isinstance(model, SSD)
    output = model(torch.zeros(1, 3, 48, 48, dtype=torch.uint8))
    assert output.score_form is ScoreForm.SIGMOID
    assert output.class_logits.shape[-1] == len(model.categories)


def test_lost_weights_of_a_finished_run_are_written_again(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    path = fit(squares, tiny_recipe, tmp_path, steps=3)
    known = path.read_bytes()
    path.unlink()
    assert fit(squares, tiny_recipe, tmp_path, steps=3, resume=True).read_bytes() == known


def test_a_finished_run_is_not_repeated(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    fit(squares, tiny_recipe, tmp_path, steps=3)
    seen: list[Progress] = []
    fit(squares, tiny_recipe, tmp_path, steps=3, resume=True, progress=seen.append)
    assert seen == []


def test_a_run_whose_pictures_were_replaced_is_not_resumed(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    fit(squares, tiny_recipe, tmp_path, steps=3, pictures="before")
    state = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(CheckpointError, match="have other content now than when it was saved"):
        fit(squares, tiny_recipe, tmp_path, steps=3, pictures="after", resume=True)
    assert (tmp_path / "state.pt").read_bytes() == state
    fit(squares, tiny_recipe, tmp_path, steps=3, pictures="before", resume=True)
    fit(squares, tiny_recipe, tmp_path, steps=3, resume=True)  # nothing is known of them


def test_a_second_training_does_not_write_over_the_first(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    refused: list[int] = []

    def meanwhile(where: Progress) -> None:
        with pytest.raises(DataError, match="another training is writing to this folder"):
            fit(squares, tiny_recipe, tmp_path, steps=3, resume=where.step > 1)
        refused.append(where.step)

    fit(squares, tiny_recipe, tmp_path, steps=3, save_every=1, progress=meanwhile)
    assert refused == [1, 2, 3]
    fit(squares, tiny_recipe, tmp_path, steps=3, resume=True)  # the folder is free again


def test_another_seed_gives_other_weights(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    first = fit(squares, tiny_recipe, tmp_path / "a", steps=2, seed=0)
    assert not same(first, fit(squares, tiny_recipe, tmp_path / "b", steps=2, seed=1))


@pytest.mark.slow
def test_kill_9_and_resume(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A process that is killed while it trains and writes, twice, loses nothing."""
    script = tmp_path / "train.py"
    script.write_text(
        "import pickle, sys\nfrom pathlib import Path\nfrom hardmine.training.trainer import fit\n"
        "dataset, recipe = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print('ready', flush=True)\n"
        "fit(dataset, recipe, Path(sys.argv[2]), steps=60, save_every=1, resume=True)\n"
    )
    import pickle

    (tmp_path / "run.pickle").write_bytes(pickle.dumps((squares, tiny_recipe)))
    command = [sys.executable, str(script), str(tmp_path / "run.pickle"), str(tmp_path / "cut")]
    for delay in (0.1, 0.4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, capture_output=True)
    whole = fit(squares, tiny_recipe, tmp_path / "whole", steps=60)
    assert same(whole, tmp_path / "cut" / "last.safetensors")


def test_it_learns(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    losses: list[float] = []
    fit(squares, tiny_recipe, tmp_path, steps=60, progress=lambda p: losses.append(p.loss))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_a_state_of_another_run_is_refused(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    fit(squares, tiny_recipe, tmp_path, steps=2)
    with pytest.raises(CheckpointError, match="other data, recipe, seed"):
        fit(squares, tiny_recipe, tmp_path, steps=2, seed=9, resume=True)


def test_a_truncated_state_is_one_clear_error(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    fit(squares, tiny_recipe, tmp_path, steps=2)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="unreadable training state"):
        fit(squares, tiny_recipe, tmp_path, steps=2, resume=True)


def test_a_batch_far_larger_than_the_training_set_is_refused(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    at_limit, above = (
        replace(tiny_recipe, batch=replace(tiny_recipe.batch, size=size)) for size in (1024, 1025)
    )
    fit(squares, at_limit, tmp_path / "a", steps=0)
    message = "batch.size: got 1025 for 12 training images, wanted 1024 at most"
    with pytest.raises(ConfigError, match=message):
        fit(squares, above, tmp_path / "b", steps=0)


def test_unreviewed_images_are_not_trained_on(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    states = (ImageState.UNREVIEWED, ImageState.CONTAINS_OBJECT, ImageState.IGNORED)
    kept = [r.with_state(states[i % 3]) for i, r in enumerate(squares.records)]
    with pytest.raises(DataError, match="got 0 usable images of 12"):
        fit(squares.with_records(kept), tiny_recipe, tmp_path, steps=1)


def test_only_negatives_train(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    losses: list[float] = []
    negatives = squares.with_records(squares.records[8:])
    fit(negatives, tiny_recipe, tmp_path, steps=5, progress=lambda p: losses.append(p.loss))
    assert all(0.0 < loss < 50.0 for loss in losses)


def test_branching_starts_from_the_given_weights(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    first = fit(squares, tiny_recipe, tmp_path / "a", steps=5)
    frozen = replace(tiny_recipe, optim=OptimConfig(lr=1e-12, ema_decay=0.0, weight_decay=0.0))
    second = fit(squares, frozen, tmp_path / "b", steps=1, init=first, seed=8)
    a, b = load_file(first), load_file(second)
    assert all(
        torch.allclose(a[k], b[k], atol=1e-6) for k in a if "running" not in k and "num_" not in k
    )


def test_best_keeps_the_highest(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    values = iter([0.2, 0.9, 0.4])
    steps: list[float] = []

    def validate(model: torch.nn.Module) -> float:
        steps.append(next(values))
        return steps[-1]

    fit(squares, tiny_recipe, tmp_path, steps=6, validate=validate, validate_every=2)
    assert steps == [0.2, 0.9, 0.4]
    at_four = fit(squares, tiny_recipe, tmp_path / "x", steps=6, validate=None)
    assert not same(tmp_path / "best.safetensors", at_four)


def test_checkpoint_carries_recipe_and_classes(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    model, recipe = load_checkpoint(fit(squares, tiny_recipe, tmp_path, steps=1))
    assert recipe == tiny_recipe
    assert model.categories == ("square",)
    assert not model.training


def test_learning_rate_golden() -> None:
    # 4 warm-up steps of 20: 1/5, 2/5, 3/5, 4/5 of 1e-3, then cosine: whole at step 4, half at 12.
    recipe = Recipe(optim=OptimConfig(lr=1e-3, warmup_steps=4))
    rates = [learning_rate(step, 20, recipe) for step in (0, 3, 4, 12)]
    assert rates == pytest.approx([2e-4, 8e-4, 1e-3, 5e-4])


def test_tensorboard_event_files(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(squares, replace(tiny_recipe, tensorboard=True), tmp_path, steps=3)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events.parent)).Reload()
    assert [e.step for e in read.Scalars("localisation")] == [1, 2, 3]


def test_tensorboard_shows_a_resumed_run_once(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(done: Progress) -> None:
        if done.step == 4:
            raise InterruptError

    recipe = replace(tiny_recipe, tensorboard=True)
    with pytest.raises(InterruptError):
        fit(squares, recipe, tmp_path, steps=5, save_every=2, progress=stop)
    state = tmp_path / "state.pt"
    saved = state.read_bytes()
    assert fit(squares, recipe, tmp_path, steps=5, save_every=2, resume=True).exists()
    state.write_bytes(saved)  # as if it had been killed again
    fit(squares, recipe, tmp_path, steps=5, save_every=2, resume=True)
    folders = {events.parent for events in tmp_path.rglob("events.out.tfevents.*")}
    read = EventAccumulator(str(folders.pop())).Reload()
    assert not folders
    assert [e.step for e in read.Scalars("localisation")] == [1, 2, 3, 4, 5]


def test_a_full_disk_keeps_the_last_whole_state(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(squares, tiny_recipe, tmp_path / "whole", steps=6, save_every=2)
    sync, calls = os.fsync, 0

    def fill_up(handle: int) -> None:
        nonlocal calls
        calls += 1
        if (
            calls > 4
        ):  # the first save writes log, weights and state; the second stops in the middle
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(DataError, match="no space left on the disk"):
        fit(squares, tiny_recipe, tmp_path / "cut", steps=6, save_every=2)
    monkeypatch.setattr(os, "fsync", sync)
    again = fit(squares, tiny_recipe, tmp_path / "cut", steps=6, save_every=2, resume=True)
    assert same(whole, again)


def test_two_precisions_in_one_process(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Accelerate's own mixed precision is fixed once per process; ours is each run's."""
    exact = fit(squares, tiny_recipe, tmp_path / "a", steps=3)
    coarse = fit(squares, replace(tiny_recipe, precision="bf16"), tmp_path / "b", steps=3)
    again = fit(squares, tiny_recipe, tmp_path / "c", steps=3)
    assert same(exact, again)
    assert not same(exact, coarse)


def test_the_device_is_the_one_asked_for(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    named = fit(squares, tiny_recipe, tmp_path / "a", steps=2, device="cpu")
    if not torch.cuda.is_available():
        assert same(named, fit(squares, tiny_recipe, tmp_path / "b", steps=2))
    with pytest.raises(ConfigError, match=r"device: got cuda:99, but this machine"):
        fit(squares, tiny_recipe, tmp_path / "c", steps=2, device="cuda:99")


def test_averaged_weights_against_the_formula(tiny_recipe: Recipe) -> None:
    """a ← d·a + (1 − d)·w for weights and statistics; the first weights are taken whole.

    d rises as (1 + n) / (20 + n) with the updates before: 2/21, 3/22, 4/23, then stays at .2.
    """
    torch.manual_seed(0)
    model = make_network(tiny_recipe.model, ("a",))
    average = AveragedWeights(model, decay=0.2)
    wanted: dict[str, torch.Tensor] = {}
    for step, d in enumerate((0.0, 2 / 21, 3 / 22, 4 / 23, 0.2, 0.2)):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(step + 1)
        average.update(model)
        for key, value in model.state_dict().items():
            first = step == 0 or not value.is_floating_point()
            wanted[key] = value.clone() if first else d * wanted[key] + (1 - d) * value
    state = average.state_dict()["module"]
    assert all(torch.allclose(state[key], wanted[key], atol=1e-5) for key in wanted)
    again = AveragedWeights(model, decay=0.2)
    again.load_state_dict(average.state_dict())
    again.update(model)
    average.update(model)
    assert all(
        torch.equal(v, again.module.state_dict()[k]) for k, v in average.module.state_dict().items()
    )


def test_a_batch_of_one_trains_with_the_statistics_that_are_there(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Down to one cell a layer has one value per channel, which gives no statistics."""
    assert isinstance(tiny_recipe.model, SSDConfig)
    neck = ExtraLayersConfig(widths=(16, 16, 16), depthwise=False)
    model = replace(tiny_recipe.model, neck=neck)
    recipe = replace(tiny_recipe, model=model, batch=BatchConfig(size=1))
    weights = load_file(fit(squares, recipe, tmp_path / "one", steps=3))
    assert "batch.size 1: one image gives no statistics" in caplog.text
    means = {name: w for name, w in weights.items() if name.endswith("running_mean")}
    assert means and all(bool((mean == 0).all()) for mean in means.values())
    affine = [w for name, w in weights.items() if name.endswith("bn.weight") or ".1.weight" in name]
    assert all(bool(w.isfinite().all()) for w in weights.values())
    assert any(bool((w != 1).any()) for w in affine)  # scale and shift still train
    caplog.clear()
    two = load_file(fit(squares, tiny_recipe, tmp_path / "two", steps=3))
    assert "batch normalisation" not in caplog.text
    assert any(bool((w != 0).any()) for name, w in two.items() if name.endswith("running_mean"))


def test_a_loss_that_is_not_finite_names_the_step_and_its_images(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """The step after the last one that log.csv has, and paths that a user can open."""
    wild = replace(tiny_recipe, optim=OptimConfig(lr=1e30, warmup_steps=0, clip_norm=1e30))
    with pytest.raises(
        DataError, match=r"loss (nan|inf) at step \d+, with the images .* lower optim\.lr"
    ) as error:
        fit(squares, wild, tmp_path, steps=8, save_every=1)
    known = (tmp_path / "log.csv").read_text().splitlines()[-1].split(",")[0]
    assert f"at step {int(known) + 1}," in str(error.value)
    named = re.search(r"with the images (.*?)(?: and (\d+) more)?; lower", str(error.value))
    assert named is not None
    paths = named[1].split(", ")
    assert all(Path(path).is_file() for path in paths)
    assert len(paths) + int(named[2] or 0) == wild.batch.size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("kind", ["ratio", "mixed"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_training_gives_the_same_weights(
    squares: Dataset,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Through aot_eager: the graphs, forward and backward, without a C++ compiler's minute."""
    made: list[object] = []
    compile_with = torch.compile

    def traced(function: object) -> object:
        made.append(function)
        return compile_with(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    torch.compiler.reset()
    recipe = recipe_from_dict({"loss": {"selection": {"kind": kind}}}, tiny_recipe)
    plain = fit(squares, recipe, tmp_path / "plain", steps=4)
    assert not made
    compiled = fit(squares, replace(recipe, compile=True), tmp_path / "compiled", steps=4)
    assert len(made) == 2  # the network and the loss
    first, second = load_file(plain), load_file(compiled)
    assert first.keys() == second.keys()
    for key, values in first.items():
        assert torch.allclose(values.float(), second[key].float(), atol=1e-4), key


def test_compiling_without_a_compiler_is_one_clear_error(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="compile: found no C\\+\\+ compiler"):
        fit(squares, replace(tiny_recipe, compile=True), tmp_path, steps=1, device="cpu")


def test_a_state_of_an_earlier_version_is_taken_up(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Its identity was made from the whole recipe, without ``compile`` and ``telemetry``, with a
    ``quarantine``.
    """
    whole = fit(squares, tiny_recipe, tmp_path / "whole", steps=4)
    with pytest.raises(InterruptError):
        fit(squares, tiny_recipe, tmp_path / "cut", steps=4, save_every=2, progress=stop_at(3))
    path = tmp_path / "cut" / "state.pt"
    state = torch.load(path, weights_only=True)
    values = recipe_to_dict(tiny_recipe)
    del values["compile"], values["telemetry"]
    loss = values["loss"].items()
    values["loss"] = {"quarantine" if k == "suspect_score" else k: v for k, v in loss}
    parts = [squares.fingerprint, values, 0, 4, None]
    state["identity"] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    torch.save(state, path)
    assert same(whole, fit(squares, tiny_recipe, tmp_path / "cut", steps=4, resume=True))
