"""The training loop: plain, resumable to the bit, and the same on one process or many."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hardmine.data.batches import BatchLoader, BatchPlan
from hardmine.errors import CheckpointError, DataError
from hardmine.files import write_text
from hardmine.model.backbone import Taps
from hardmine.model.ssd import SSD
from hardmine.training.accelerator import make_accelerator, training_device, uses_bf16
from hardmine.training.checkpoint import (
    file_digest,
    load_state,
    load_weights_into,
    save_checkpoint,
    save_state,
)
from hardmine.training.loss import Loss, MultiBoxLoss
from hardmine.training.optim import average_weights, learning_rate, make_optimizer
from hardmine.training.recipe import Recipe, recipe_to_dict
from hardmine.types import Dataset

_LOG_FIELDS = ("step", "loss", "classification", "localisation", "positives", "negatives", "lr")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands, told after each step."""

    step: int
    steps: int
    loss: float
    images_per_second: float


def fit(
    dataset: Dataset,
    recipe: Recipe,
    out: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    weights: Path | None = None,
    steps: int | None = None,
    resume: bool = False,
    device: str | None = None,
    validate: Callable[[SSD], float] | None = None,
    validate_every: int = 0,
    save_every: int = 100,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a detector and return its checkpoint, ``out/last.safetensors``.

    Killed at any moment and called again with ``resume``, it ends with the weights that an undisturbed
    run gives (on the CPU bit for bit). A finished run is not repeated.

    Args:
        dataset: labelled images and negatives; images in any other state are left out.
        recipe: every choice.
        out: folder for ``last.safetensors``, ``best.safetensors``, ``state.pt`` and ``log.csv``.
        seed: of the added layers, the batches and the augmentation.
        init: a checkpoint to continue from (its weights only).
        weights: an ImageNet state dict for the backbone; ignored with ``init``.
        steps: optimiser steps; ``None`` follows ``recipe.epochs``.
        resume: go on from ``out/state.pt`` when it is there.
        device: such as "cpu" or "cuda:1"; ``None``: the best there is.
        validate: called with the averaged model; the highest value is kept as ``best.safetensors``.
        validate_every: steps between two calls of ``validate``; 0: at the end only.
        save_every: steps between two saved states.
        progress: called after each step on the main process.

    Raises:
        DataError: no usable image, or an image that cannot be read.
        CheckpointError: weights that do not fit, or a state of another run.
    """
    usable = dataset.with_records([r for r in dataset.records if r.state.is_trainable])
    if not len(usable):
        raise DataError(f"{dataset.root}: got 0 usable images of {len(dataset)}, wanted >= 1")
    num_labelled = sum(len(record.labels) > 0 for record in usable.records)
    total = steps if steps is not None else recipe.steps(max(1, num_labelled))
    run = _Run(usable, recipe, out, seed, total, init, weights, device)
    if resume and run.restore() and run.step == total:
        return run.checkpoint
    every = validate_every or total
    clock = time.monotonic()
    for loss in run.train():
        if run.accelerator.is_main_process:
            if validate is not None and (run.step % every == 0 or run.step == total):
                run.keep_best(validate(run.averaged()))
            if run.step % save_every == 0 or run.step == total:
                run.save()
            if progress is not None:
                rate = recipe.batch.size / max(1e-9, time.monotonic() - clock)
                progress(Progress(run.step, total, float(loss.total.detach()), rate))
        clock = time.monotonic()
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    return run.checkpoint


class _Run:
    """The state of one training run: everything that changes from step to step."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        out: Path,
        seed: int,
        total: int,
        init: Path | None,
        weights: Path | None,
        device: str | None,
    ) -> None:
        self.recipe, self.out, self.seed, self.total = recipe, out, seed, total
        self.accelerator = make_accelerator(out if recipe.tensorboard else None)
        self.device = training_device(self.accelerator, device)
        self.bf16 = uses_bf16(recipe.precision, self.device)
        self.step, self.best, self.rows = 0, -math.inf, list[list[Any]]()
        torch.manual_seed(seed)
        self.model = SSD(recipe.model, dataset.categories)
        self._load_initial(init, weights)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.ema = average_weights(self.model, recipe.optim.ema_decay)
        self.optimizer = make_optimizer(self.model, recipe)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.model, self.optimizer, device_placement=[False, False]
        )
        plan = BatchPlan([len(r.labels) > 0 for r in dataset.records], recipe.batch, seed)
        self.loader = BatchLoader(dataset, plan, recipe.resize, recipe.augment, seed)
        self.identity = self._identity(dataset, init, weights)

    @property
    def checkpoint(self) -> Path:
        return self.out / "last.safetensors"

    def train(self) -> Any:
        """Yield the loss of each step that is still to do."""
        loss_of = MultiBoxLoss(self.recipe.loss, self.model.priors)
        accelerator = self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        for batch in self.loader.batches(self.step, self.total, rank, world):
            self.wrapped.train()
            lr = self._set_learning_rate()
            batch = batch.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                output = self.wrapped(batch.images)
            loss = loss_of(output, batch)
            if not torch.isfinite(loss.total):
                raise DataError(
                    f"training: loss {float(loss.total.detach())} at step {self.step}, images "
                    f"{batch.image_ids.tolist()}; lower optim.lr"
                )
            accelerator.backward(loss.total)
            accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.ema.update_parameters(self.model)
            self.step += 1
            self._note(loss, lr)
            yield loss

    def averaged(self) -> SSD:
        """Return the averaged model in evaluation mode."""
        module = self.ema.module.eval()
        assert isinstance(module, SSD)
        return module

    def keep_best(self, value: float) -> None:
        """Write ``best.safetensors`` when ``value`` is the highest so far."""
        if value > self.best:
            self.best = value
            self._write_weights(self.out / "best.safetensors")

    def save(self) -> None:
        """Write the log, the weights and, last, the state that refers to them."""
        self._write_log()
        self._write_weights(self.checkpoint)
        save_state(
            self.out / "state.pt",
            {
                "identity": self.identity,
                "step": self.step,
                "best": self.best,
                "rows": self.rows,
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def restore(self) -> bool:
        """Load ``state.pt`` when it is there; return whether it was.

        Raises:
            CheckpointError: the state belongs to another dataset, recipe, seed or starting point.
        """
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = load_state(path)
        if state.get("identity") != self.identity:
            raise CheckpointError(
                f"{path}: belongs to a run with other data, recipe, seed or starting weights; "
                "choose another --out or leave out --resume"
            )
        self.step, self.best, self.rows = state["step"], state["best"], state["rows"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def _load_initial(self, init: Path | None, weights: Path | None) -> None:
        if init is not None:
            load_weights_into(self.model, init)
        elif weights is not None:
            backbone = self.model.backbone
            if not isinstance(backbone, Taps):
                raise CheckpointError(
                    f"{weights}: {self.recipe.model.name} has no pretrained form, "
                    "wanted --weights none"
                )
            backbone.load_weights(weights)

    def _set_learning_rate(self) -> float:
        lr = learning_rate(self.step, self.total, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        return lr

    def _note(self, loss: Loss, lr: float) -> None:
        counts = (int(loss.num_positives), int(loss.num_negatives))
        values = [
            round(float(v), 6)
            for v in (loss.total.detach(), loss.classification, loss.localisation)
        ]
        row = [self.step, *values, *counts, lr]
        self.rows.append(row)
        self.accelerator.log(dict(zip(_LOG_FIELDS[1:], row[1:], strict=True)), step=self.step)

    def _write_log(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_LOG_FIELDS)
        writer.writerows(self.rows)
        write_text(self.out / "log.csv", text.getvalue())

    def _write_weights(self, path: Path) -> None:
        state = self.ema.module.state_dict()
        save_checkpoint(path, state, self.recipe, self.model.categories)

    def _identity(self, dataset: Dataset, init: Path | None, weights: Path | None) -> str:
        start = init or weights
        parts = [
            dataset.fingerprint,
            recipe_to_dict(self.recipe),
            self.seed,
            self.total,
            file_digest(start) if start else None,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
