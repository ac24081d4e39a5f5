"""A whole training step on a GPU waits for nothing that the device computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch
from hardmine.training.run_state import Run, Start
from hardmine.types import Dataset


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_device(tiny_recipe: Recipe, tmp_path: Path) -> None:
    data = Dataset(("square",), (), tmp_path)
    run = Run(data, tiny_recipe, tmp_path, seed=0, total=9, start=Start(), device="cuda")
    boxes = torch.tensor([[[4.0, 4.0, 30.0, 30.0]]]).expand(4, 1, 4).clone()
    labels = torch.tensor([[1], [1], [0], [0]])
    images = torch.randint(0, 255, (4, 3, 48, 48), dtype=torch.uint8)
    ignore = torch.zeros(4, 1, dtype=torch.bool)
    batch = Batch(images, boxes, labels, ignore, torch.arange(4)).to("cuda")

    def step() -> None:
        lr = run.prepare_step()
        loss = run.objective(run.network, batch, run.step, run.total)
        run.accelerator.backward(loss.total)
        run.accelerator.clip_grad_norm_(run.model.parameters(), 10.0)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.average.update(run.model)
        run.step += 1
        run.journal.note(run.step, loss, lr, torch.arange(4))

    run.journal.every = 2  # so that figures are copied while steps are watched
    step()  # makes the optimiser's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.journal.read()
    assert [row[0] for row in run.journal.rows] == [1, 2, 3, 4, 5, 6]
