"""A resumed training keeps what was validated before: the best weights, and every value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardmine.recipes.recipe import Recipe
from hardmine.training.trainer import Progress, fit
from hardmine.types import Dataset


class StoppedError(Exception):
    """Ends a training from outside."""


def stop_after(step: int) -> Callable[[Progress], None]:
    def progress(where: Progress) -> None:
        if where.step == step:
            raise StoppedError

    return progress


def saying(values: Iterator[float]) -> Callable[[torch.nn.Module], float]:
    return lambda model: next(values)


def tensors_equal(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("values", "best_step"),
    [
        ([0.9, 0.2, 0.4], 2),  # a lower value after the interruption must not replace the best
        ([0.2, 0.4, 0.9], 6),  # a higher one must
        ([0.9, 0.2, 0.9], 2),  # of equal values the first stays
    ],
)
def test_the_best_weights_and_all_values_survive_an_interruption(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path, values: list[float], best_step: int
) -> None:
    how = {"steps": 6, "save_every": 2, "validate_every": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(squares, tiny_recipe, whole, validate=saying(iter(values)), **how)  # type: ignore[arg-type]
    with pytest.raises(StoppedError):
        fit(
            squares,
            tiny_recipe,
            cut,
            validate=saying(iter(values)),
            progress=stop_after(4),
            **how,  # type: ignore[arg-type]
        )
    left = saying(iter(values[2:]))  # only what has not been validated yet
    fit(squares, tiny_recipe, cut, validate=left, resume=True, **how)  # type: ignore[arg-type]
    rows = "".join(f"{2 * i},{value:.6f}\n" for i, value in enumerate(values, start=1))
    assert (cut / "validation.csv").read_text() == "step,value\n" + rows
    assert tensors_equal(cut / "best.safetensors", whole / "best.safetensors")
    same_as_last = tensors_equal(cut / "best.safetensors", cut / "last.safetensors")
    assert same_as_last == (best_step == 6)
