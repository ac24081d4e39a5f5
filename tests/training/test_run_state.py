"""The state of a training run by itself: whose it is, what each step starts with, what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hardmine.errors import CheckpointError
from hardmine.recipes.recipe import BatchConfig, OptimConfig, Recipe
from hardmine.training.run_state import Run, Start
from hardmine.types import Dataset


def make_run(dataset: Dataset, recipe: Recipe, out: Path, **other: Any) -> Run:
    how: dict[str, Any] = {"seed": 3, "total": 8, "start": Start(), "device": "cpu"}
    return Run(dataset, recipe, out, **(how | other))


def test_a_state_belongs_to_its_data_recipe_seed_length_and_start(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    out, branch = tmp_path / "out", tmp_path / "branch"
    make_run(squares, tiny_recipe, out).save()
    assert make_run(squares, tiny_recipe, out).restore()
    start = Start(init=out / "last.safetensors")
    make_run(squares, tiny_recipe, branch, start=start).save()
    assert make_run(squares, tiny_recipe, branch, start=start).restore()
    fewer, faster = squares.with_records(squares.records[1:]), replace(tiny_recipe, epochs=99)
    for run in (
        make_run(squares, tiny_recipe, out, seed=4),
        make_run(squares, tiny_recipe, out, total=9),
        make_run(squares, tiny_recipe, out, start=start),
        make_run(squares, tiny_recipe, branch),
        make_run(fewer, tiny_recipe, out),
        make_run(squares, faster, out),
    ):
        with pytest.raises(
            CheckpointError, match="other data, recipe, seed or starting weights"
        ) as e:
            run.restore()
        # Without --resume the folder of a run is refused, and its message names --resume.
        assert str(e.value).endswith(
            "choose another --out, or resume it with the choices that it began with"
        )
    assert not make_run(squares, tiny_recipe, tmp_path / "empty").restore()


def test_each_step_sets_its_rates_and_its_random_numbers(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 warm-up steps of 20: step 1 has 2/5 of 1e-3; step 12 is half way down the cosine.
    optim = OptimConfig(lr=1e-3, warmup_steps=4, backbone_lr_scale=0.25)
    run = make_run(squares, replace(tiny_recipe, optim=optim), tmp_path, total=20)
    backbone = {id(p) for n, p in run.model.named_parameters() if n.startswith("backbone.")}
    drawn: dict[tuple[int, int], float] = {}
    for seed, step, rate in ((3, 1, 4e-4), (3, 12, 5e-4), (4, 12, 5e-4)):
        run.seed, run.step = seed, step
        assert run.prepare_step() == pytest.approx(rate)
        for group in run.optimizer.param_groups:
            inside = {id(p) in backbone for p in group["params"]}
            assert len(inside) == 1
            assert group["lr"] == pytest.approx(rate * (0.25 if inside == {True} else 1.0))
        drawn[seed, step] = float(torch.rand(()))
    assert len(set(drawn.values())) == 3
    run.seed, run.step = 3, 12
    run.prepare_step()
    assert float(torch.rand(())) == drawn[3, 12]
    monkeypatch.setattr(type(run.accelerator), "process_index", 1)
    run.prepare_step()
    assert float(torch.rand(())) not in drawn.values()


@pytest.mark.parametrize("size", [1, 2])
def test_statistics_of_norms_stand_still_in_batches_of_one_alone(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, size: int
) -> None:
    run = make_run(squares, replace(tiny_recipe, batch=BatchConfig(size=size)), tmp_path)
    run.model.eval()
    run.prepare_step()
    norms = [m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {norm.training for norm in norms} == {size > 1}
    assert run.model.training


def test_averaged_weights_are_written_and_the_first_of_the_best_stay(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    run = make_run(squares, tiny_recipe, tmp_path)
    name = next(iter(dict(run.model.named_parameters())))
    written: list[float] = []
    for step, value in enumerate((0.25, 0.75, 0.75), start=1):
        run.step = step
        for tensor in run.average.module.parameters():
            tensor.fill_(step)  # the network itself keeps its own
        run.keep_best(value)
        written.append(float(load_file(tmp_path / "best.safetensors")[name].max()))
    run.save()
    assert written == [1.0, 2.0, 2.0]
    assert float(load_file(tmp_path / "last.safetensors")[name].max()) == 3.0
    text = "step,value\n1,0.250000\n2,0.750000\n3,0.750000\n"
    assert (tmp_path / "validation.csv").read_text() == text
    again = make_run(squares, tiny_recipe, tmp_path)
    assert again.restore()
    assert (again.step, again.best, again.validations) == (3, 0.75, run.validations)
    branch = make_run(
        squares, tiny_recipe, tmp_path / "branch", start=Start(init=tmp_path / "best.safetensors")
    )
    assert branch.step == 0
    for module in (branch.model, branch.average.module):
        assert all(bool((weights == 2.0).all()) for weights in module.parameters())


def test_the_seed_gives_the_first_weights(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    first, same, other = (
        torch.cat([p.flatten() for p in run.model.parameters()])
        for run in (make_run(squares, tiny_recipe, tmp_path, seed=seed) for seed in (3, 3, 4))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
