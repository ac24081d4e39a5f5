"""The training loop: plain, resumable to the bit, and the same on one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hardmine.device import process_count
from hardmine.errors import ConfigError, DataError
from hardmine.files import alone
from hardmine.models.ssd import Network
from hardmine.option_fields import takes_options
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch
from hardmine.training.batches import BatchLoader, BatchPlan
from hardmine.training.run_state import Run, Start
from hardmine.types import Dataset


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands after a step; ``loss`` is the last one that was read."""

    step: int
    steps: int
    loss: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a training starts, how long it lasts, and when it saves.

    Attributes:
        seed: of the added layers, the batches and the augmentation.
        init: a checkpoint to continue from (its weights only).
        weights: pretrained weights; ignored with ``init``.
        steps: optimiser steps; ``None`` follows ``recipe.epochs``.
        resume: go on from ``out/state.pt`` when it is there.
        pictures: what is known of the pictures' content; a state that was saved with another is refused.
        device: such as "cpu" or "cuda:1"; ``None``: the best there is.
        validate_every: steps between two calls of ``validate``; 0: at the end only.
        save_every: steps between two saved states.
    """

    seed: int = 0
    init: Path | None = None
    weights: Path | None = None
    steps: int | None = None
    resume: bool = False
    pictures: str | None = None
    device: str | None = None
    validate_every: int = 0
    save_every: int = 100


@takes_options(FitSettings)
def fit(
    dataset: Dataset,
    recipe: Recipe,
    out: Path,
    *,
    validate: Callable[[Network], float] | None = None,
    progress: Callable[[Progress], None] | None = None,
    options: FitSettings | None = None,
) -> Path:
    """Train a detector and return its checkpoint, ``out/last.safetensors``.

    Killed at any moment and called again with ``resume``, it ends with the weights that an undisturbed
    run gives (on the CPU bit for bit). A finished run is not repeated; weights that were removed are
    written again from its state.

    Args:
        dataset: labelled images and negatives; images in any other state are left out.
        recipe: every choice.
        out: folder for ``last.safetensors``, ``best.safetensors``, ``state.pt``, ``log.csv``,
            ``telemetry.csv`` and, with ``validate``, ``validation.csv``.
        validate: called with the averaged model; the highest value is kept as ``best.safetensors``.
        progress: called after each step on the main process.
        options: start, length and saving; each of its fields is also a keyword.

    Raises:
        ConfigError: no such device, or fewer images in a batch than processes.
        DataError: no usable image, an image that cannot be read, a loss that is not finite, or another
            training at work in ``out``.
        CheckpointError: weights that do not fit, or a state of another run.
    """
    how = options or FitSettings()
    run, loader = _prepare(dataset, recipe, out, how)
    with _alone_in(run):
        restored = how.resume and run.restore()
        run.hold_same_step()
        if restored and run.step == run.total:
            run.hold_checkpoint()
        else:
            run.start_trackers()
            _train(run, loader, how, validate, progress)
    return run.checkpoint


def _alone_in(run: Run) -> AbstractContextManager[None]:
    """Keep other trainings out of a run's folder: each would write over what the other has saved."""
    if not run.accelerator.is_main_process:
        return nullcontext()
    run.out.mkdir(parents=True, exist_ok=True)
    return alone(
        run.out, "another training is writing to this folder; wait for it, or use another one"
    )


def _train(
    run: Run,
    loader: BatchLoader,
    how: FitSettings,
    validate: Callable[[Network], float] | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Do the steps that are left, and save, validate and report meanwhile."""
    every = how.validate_every or run.total
    clock = time.monotonic()
    for step in train_steps(run, loader):
        if run.accelerator.is_main_process:
            if validate is not None and (step % every == 0 or step == run.total):
                run.keep_best(validate(run.average.module))
            if step % how.save_every == 0 or step == run.total:
                run.save()
            if progress is not None:
                rate = run.recipe.batch.size / max(1e-9, time.monotonic() - clock)
                progress(Progress(step, run.total, run.journal.last_loss, rate))
        clock = time.monotonic()
    run.accelerator.wait_for_everyone()
    for tracker in run.accelerator.trackers:  # end_training() would end the process group too
        tracker.finish()


def _prepare(
    dataset: Dataset, recipe: Recipe, out: Path, how: FitSettings
) -> tuple[Run, BatchLoader]:
    """Return the run at its start and the source of its batches."""
    usable = dataset.with_records([r for r in dataset.records if r.state.is_trainable])
    if not len(usable):
        raise DataError(f"{dataset.root}: got 0 usable images of {len(dataset)}, wanted >= 1")
    holds_objects = [len(record.labels) > 0 for record in usable.records]
    _check_batch_size(recipe.batch.size, len(usable))
    total = how.steps if how.steps is not None else recipe.steps(max(1, sum(holds_objects)))
    start = Start(how.init, how.weights)
    run = Run(
        usable,
        recipe,
        out,
        seed=how.seed,
        total=total,
        start=start,
        device=how.device,
        pictures=how.pictures,
    )
    plan = BatchPlan(holds_objects, recipe.batch, how.seed)
    return run, BatchLoader(usable, plan, recipe.resize, recipe.augment, how.seed)


MOST_REPEATED = 1024
"""A batch may hold images several times up to so many places."""


def _check_batch_size(size: int, images: int) -> None:
    if size < process_count():
        raise ConfigError(
            f"batch.size: got {size} for {process_count()} processes, wanted at least one image for each"
        )
    most = max(MOST_REPEATED, images)
    if size > most:
        raise ConfigError(
            f"batch.size: got {size} for {images} training images, wanted {most} at most: a larger "
            "batch would only hold the same images more often"
        )


class BatchSource(Protocol):
    """Gives the batches of a training, such as a ``BatchLoader``."""

    def batches(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches ``start`` … ``stop`` − 1; process ``rank`` of ``world`` gets its part."""
        ...


def train_steps(run: Run, loader: BatchSource) -> Iterator[int]:
    """Do the steps that are left; yield the number of steps done after each of them.

    Nothing here waits for a GPU: batches are copied and figures are read while it computes.
    """
    accelerator, clip_norm = run.accelerator, run.recipe.optim.clip_norm
    rank, world = accelerator.process_index, accelerator.num_processes
    for batch in loader.batches(run.step, run.total, rank, world):
        lr = run.prepare_step()
        loss = run.objective(run.network, batch.to(run.device), run.step, run.total)
        accelerator.backward(loss.total)
        accelerator.clip_grad_norm_(run.model.parameters(), clip_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.average.update(run.model)
        run.step += 1
        run.journal.note(run.step, loss, lr, batch.image_ids)
        if run.telemetry is not None and (figures := run.telemetry.finish_step(run.step)):
            accelerator.log(figures, run.step)
        yield run.step
