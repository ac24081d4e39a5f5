"""Two processes on one machine (gloo): the joint batch's loss and gradient, and a whole training."""

from __future__ import annotations

import os
import pickle
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from hardmine.augment.chain import augment_preset
from hardmine.losses.multibox_loss import (
    ByBatch,
    ByImage,
    ByMovingAverage,
    BySelected,
    LossConfig,
    MultiBoxLoss,
)
from hardmine.losses.negative_mining import RatioConfig
from hardmine.recipes.recipe import BatchConfig, Recipe
from hardmine.tensors import Batch, Priors, RawOutput, ScoreForm
from hardmine.types import Dataset
from tiny_models import tiny_rectangle

PRIORS = Priors(
    torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [25, 5, 10, 10], [35, 5, 10, 10]]),
    torch.zeros(4, dtype=torch.int64),
    ((1, 4),),
)
CONFIGS = [
    LossConfig(selection=RatioConfig(neg_to_pos_ratio=1.0, floor=2), normaliser=normaliser)
    for normaliser in (BySelected(), ByBatch(), ByImage(), ByMovingAverage())
]


def joint() -> tuple[Batch, RawOutput]:
    """Five images, one box in the first two: an uneven split leaves rank 1 without objects."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[1], [2], [0], [0], [0]])
    boxes = torch.zeros(5, 1, 4)
    boxes[0, 0], boxes[1, 0] = torch.tensor([1.0, 0, 11, 9]), torch.tensor([14.0, 1, 27, 10])
    images = torch.zeros(5, 3, 1, 1, dtype=torch.uint8)
    batch = Batch(images, boxes, labels, torch.zeros(5, 1, dtype=torch.bool), torch.arange(5))
    logits = torch.randn(5, 4, 3, generator=generator)
    return batch, RawOutput(logits, torch.randn(5, 4, 4, generator=generator), ScoreForm.SOFTMAX)


def part(rows: slice) -> tuple[Batch, RawOutput]:
    batch, out = joint()
    fields = (batch.images, batch.boxes, batch.labels, batch.ignore, batch.image_ids)
    cut = RawOutput(out.class_logits[rows], out.box_deltas[rows], out.score_form)
    return Batch(*(f[rows] for f in fields)), cut


def gradients(batch: Batch, output: RawOutput) -> torch.Tensor:
    """Return (loss, its derivative) of each normaliser."""
    return torch.stack([torch.stack(gradient(config, batch, output)) for config in CONFIGS])


def gradient(
    config: LossConfig, batch: Batch, output: RawOutput
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (loss, its derivative by a shift that all logits and deltas share)."""
    shift = torch.zeros((), requires_grad=True)
    ramp = torch.arange(3.0)  # softmax ignores a shift that is equal for all classes
    moved = RawOutput(
        output.class_logits + shift * ramp, output.box_deltas + shift, output.score_form
    )
    loss = MultiBoxLoss(config, PRIORS)(moved, batch).total
    loss.backward()
    assert shift.grad is not None
    return loss.detach(), shift.grad


def environment(rank: int, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)


def loss_worker(rank: int, port: int, out: str) -> None:
    environment(rank, port)
    dist.init_process_group("gloo")
    values = gradients(*part(slice(0, 3) if rank == 0 else slice(3, 5)))
    dist.all_reduce(values)
    if rank == 0:
        torch.save(values / 2, out)
    leave()


def norm_world() -> tuple[torch.nn.Module, torch.Tensor]:
    """A network with a norm of torch's and one that an activation follows, and five images."""
    torch.manual_seed(0)
    norm = NormAndActivation(2, momentum=0.3)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 1), norm)
    images = torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return network, images


class NormAndActivation(torch.nn.BatchNorm2d):
    """As timm's: a batch norm that is also the activation behind it."""

    def __init__(self, features: int, momentum: float) -> None:
        super().__init__(features, momentum=momentum)
        self.act = torch.nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(super().forward(input))
        return activated


def norm_figures(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return what two steps leave: the gradients of all parameters, then all statistics."""
    for _ in range(2):
        network(images).square().sum().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    buffers = [buffer.float().flatten() for buffer in network.buffers()]
    return torch.cat([*gradients, *buffers])


def norm_worker(rank: int, port: int, out: str) -> None:
    environment(rank, port)
    dist.init_process_group("gloo")
    from hardmine.models.layers import sync_batch_norms

    network, images = norm_world()
    sync_batch_norms(network)
    values = norm_figures(network, images[:3] if rank == 0 else images[3:])
    count = sum(p.numel() for p in network.parameters())
    dist.all_reduce(values)
    values[count:] /= 2  # gradients add up over processes, statistics are the same in each
    if rank == 0:
        torch.save(values, out)
    leave()


def start_worker(rank: int, port: int, run: str, out: str) -> None:
    """Process 0 finds a saved state and process 1 none."""
    environment(rank, port)
    from hardmine.errors import CheckpointError
    from hardmine.training.run_state import Run, Start

    dataset, recipe = pickle.loads(Path(run).read_bytes())
    made = Run(dataset, recipe, Path(out), seed=0, total=4, start=Start(), device="cpu")
    made.step = 3 if rank == 0 else 0
    try:
        made.hold_same_step()
    except CheckpointError as error:
        Path(f"{out}-{rank}").write_text(str(error))
    leave()


def fit_worker(rank: int, port: int, run: str, out: str) -> None:
    environment(rank, port)
    from hardmine.training.trainer import fit

    dataset, recipe = pickle.loads(Path(run).read_bytes())
    path = fit(dataset, recipe, Path(out), steps=4)
    assert path.exists()
    if dist.is_initialized():
        leave()


def exact_worker(rank: int, world: int, port: int, run: str, out: str) -> None:
    """Train in float64: ``Tensor.float`` gives float64, too, so nothing is rounded on the way."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    if world > 1:
        environment(rank, port)
    from hardmine.training.run_state import Run
    from hardmine.training.trainer import fit

    fresh = Run._fresh_model
    Run._fresh_model = lambda made, *given: fresh(made, *given).double()  # type: ignore[method-assign]
    dataset, recipe = pickle.loads(Path(run).read_bytes())
    fit(dataset, recipe, Path(out), steps=EXACT_STEPS)
    if world > 1:
        leave()


def leave() -> None:
    """End a worker once all are here; gloo's threads can abort one that takes its group down."""
    dist.barrier()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_loss_and_gradient_equal_the_joint_batch(tmp_path: Path) -> None:
    mp.spawn(loss_worker, (free_port(), str(tmp_path / "v.pt")), nprocs=2)  # type: ignore[no-untyped-call]
    got = torch.load(tmp_path / "v.pt", weights_only=True)
    assert torch.allclose(got, gradients(*joint()), rtol=1e-5)


@pytest.mark.slow
def test_training_on_two_processes(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((squares, tiny_recipe)))
    arguments = (free_port(), str(tmp_path / "run.pickle"), str(tmp_path / "out"))
    mp.spawn(fit_worker, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    from hardmine.recipes.checkpoint import load_checkpoint

    model, _ = load_checkpoint(tmp_path / "out" / "last.safetensors")
    assert all(p.isfinite().all() for p in model.parameters())


EXACT_STEPS = 6


def everything(recipe: Recipe) -> Recipe:
    """Return a recipe with batch norm, every augmentation, averaged weights, and an odd batch."""
    return replace(
        recipe,
        model=tiny_rectangle(),
        batch=BatchConfig(size=5),
        augment=augment_preset("strong"),
        optim=replace(recipe.optim, lr=1e-2, warmup_steps=1, ema_decay=0.5),
        precision="fp32",
    )


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_but_for_the_order_of_summation(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """In float64, where the order of summation changes the 16th digit.

    In float32 it changes a gradient of such a network by 1e-3, and nothing could be told from it.
    """
    recipe = everything(tiny_recipe)
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((squares, recipe)))
    for world in (1, 2):
        given = (world, free_port(), str(tmp_path / "run.pickle"), str(tmp_path / f"{world}"))
        mp.spawn(exact_worker, given, nprocs=world)  # type: ignore[no-untyped-call]
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in "12")
    assert one.keys() == two.keys()
    assert {tensor.dtype for tensor in one.values()} >= {torch.float64}
    far = {k: float((one[k].double() - two[k].double()).abs().max()) for k in one}
    assert max(far.values()) < 1e-9, far


def test_batch_norm_over_two_processes_is_that_of_the_joint_batch(tmp_path: Path) -> None:
    mp.spawn(norm_worker, (free_port(), str(tmp_path / "v.pt")), nprocs=2)  # type: ignore[no-untyped-call]
    got = torch.load(tmp_path / "v.pt", weights_only=True)
    assert torch.allclose(got, norm_figures(*norm_world()), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_processes_that_would_go_on_from_different_steps_stop(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((squares, tiny_recipe)))
    arguments = (free_port(), str(tmp_path / "run.pickle"), str(tmp_path / "out"))
    mp.spawn(start_worker, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    for rank in (0, 1):
        assert (
            "got step 0 in one process and 3 in another" in (tmp_path / f"out-{rank}").read_text()
        )
