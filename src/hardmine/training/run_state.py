"""The state of a training run: what changes from step to step, and how it is saved and restored.

:func:`make_accelerator` says on which device and on how many processes a run takes place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from hardmine.device import choose_device, process_count, require_compiler, uses_bf16
from hardmine.errors import CheckpointError, ConfigError, MissingExtraError
from hardmine.files import write_text
from hardmine.models.layers import sync_batch_norms, use_float32_backward
from hardmine.models.ssd import SSD, Network, make_network
from hardmine.recipes.checkpoint import (
    file_digest,
    load_state,
    load_weights_into,
    save_checkpoint,
    save_state,
)
from hardmine.recipes.pretrained_weights import load_starting_weights
from hardmine.recipes.recipe import Recipe, recipe_identity, recipe_to_dict
from hardmine.training.optimization import (
    UNKNOWN,
    AveragedWeights,
    learning_rate,
    make_objective,
    make_optimizer,
)
from hardmine.training.training_log import NUM_LOSSES, Journal, Telemetry
from hardmine.types import Dataset

_log = logging.getLogger(__name__)

SHARED_DEVICES = (None, "cpu", "cuda")
"""What may be asked for where several processes train: each takes its own device of that kind."""
_READ_EVERY = 20
"""Steps between two looks at the figures on an accelerator; on a CPU there is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training begins: a checkpoint to continue from, or pretrained weights, or neither."""

    init: Path | None = None
    weights: Path | None = None

    def load_into(self, model: Network) -> None:
        """Fill a fresh network.

        Raises:
            CheckpointError: weights that do not fit.
        """
        if self.init is not None:
            load_weights_into(model, self.init)
        elif self.weights is not None:
            load_starting_weights(model, self.weights)

    @property
    def digest(self) -> str | None:
        """The identity of what is loaded."""
        path = self.init or self.weights
        return file_digest(path) if path else None


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


class Run:
    """Model, averaged weights, optimiser, journal, and the number of steps that are done."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        out: Path,
        *,
        seed: int,
        total: int,
        start: Start,
        device: str | None,
        pictures: str | None = None,
    ) -> None:
        self.recipe, self.out, self.seed, self.total = recipe, out, seed, total
        self.pictures = pictures
        self.accelerator = make_accelerator(out if recipe.tensorboard else None, device)
        self.device = training_device(self.accelerator, device)
        self.bf16 = uses_bf16(recipe.precision, self.device)
        self.freeze_norms = recipe.batch.size < 2
        self.step, self.best = 0, -math.inf
        self.validations: list[tuple[int, float]] = []
        self.model = self._fresh_model(dataset.categories, start)
        self.average = AveragedWeights(self.model, recipe.optim.ema_decay)
        if self.bf16 and self.device.type == "cpu":
            use_float32_backward(self.model)
        if self.accelerator.num_processes > 1:
            sync_batch_norms(self.model)
        self.optimizer = make_optimizer(self.model, recipe)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.model, self.optimizer, device_placement=[False, False]
        )
        self.network: Callable[..., Any] = self.wrapped
        if recipe.compile:
            require_compiler(self.device)
            self.network = torch.compile(self.wrapped)
        self.telemetry = self._make_telemetry(len(dataset))
        self.objective = make_objective(
            self.model, recipe, bf16=self.bf16, seed=seed, telemetry=self.telemetry
        )
        self.journal = self._make_journal([record.path for record in dataset.records])
        self.identity, self._former_identity = (
            _digest([dataset.fingerprint, form, seed, total, start.digest])
            for form in (recipe_identity(recipe), _former_form(recipe))
        )

    def _fresh_model(self, categories: tuple[str, ...], start: Start) -> Network:
        """Return the network with the weights that the training starts from, on the device."""
        torch.manual_seed(self.seed)
        model = make_network(self.recipe.model, categories)
        start.load_into(model)
        model.to(self.device).to(memory_format=torch.channels_last)
        if self.freeze_norms and any(map(_is_batch_norm, model.modules())):
            _log.warning(
                "batch.size 1: one image gives no statistics, so the layers of batch normalisation keep "
                "those that they have"
            )
        return model

    def _make_journal(self, paths: Sequence[Path]) -> Journal:
        every = 1 if self.device.type == "cpu" else _READ_EVERY
        log = self.accelerator.log
        return Journal(every, log, self._joint_figures, lambda place: str(paths[place]))

    def _make_telemetry(self, num_images: int) -> Telemetry | None:
        model = self.model
        if not self.recipe.telemetry or not isinstance(model, SSD):
            return None
        return Telemetry(
            self.recipe.loss,
            model.priors,
            model.categories,
            num_images=num_images,
            total=self.total,
        )

    @property
    def checkpoint(self) -> Path:
        """The file of the last weights."""
        return self.out / "last.safetensors"

    def start_trackers(self) -> None:
        """Open TensorBoard's files; steps after those that are done are written anew."""
        if self.recipe.tensorboard:
            later = {"purge_step": self.step + 1} if self.step else {}
            self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": later})

    def hold_same_step(self) -> None:
        """Hold that all processes go on from the same step.

        Raises:
            CheckpointError: some found a saved state and others did not.
        """
        if self.accelerator.num_processes == 1:
            return
        bounds = torch.tensor([self.step, -self.step], device=self.device)
        dist.all_reduce(bounds, dist.ReduceOp.MAX)
        last, first = int(bounds[0]), -int(bounds[1])
        if first != last:
            raise CheckpointError(
                f"{self.out / 'state.pt'}: got step {first} in one process and {last} in another, "
                "wanted the same; several machines need one shared folder for --out"
            )

    def _joint_figures(self, figures: Tensor) -> Tensor:
        """Return the mean losses and the summed counts of all processes; see ``Journal``."""
        world = self.accelerator.num_processes
        if world == 1:
            return figures
        dist.all_reduce(figures)
        unknown = figures[NUM_LOSSES:] < 0
        counts = figures[NUM_LOSSES:].masked_fill(unknown, UNKNOWN)
        return torch.cat([figures[:NUM_LOSSES] / world, counts])

    def prepare_step(self) -> float:
        """Set mode, learning rate and random state of the next step; return the rate.

        What draws on torch's generator (dropout, torchvision's samplers) gets the same numbers in step
        n of a resumed run as in one that was never stopped.
        """
        self.wrapped.train()
        if self.freeze_norms:
            for module in filter(_is_batch_norm, self.model.modules()):
                module.eval()
        seed = f"{self.seed}-{self.step}-{self.accelerator.process_index}".encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed).digest()[:8], "big"))
        lr = learning_rate(self.step, self.total, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        return lr

    def keep_best(self, value: float) -> None:
        """Note a validation; write ``best.safetensors`` when its value is the highest so far."""
        self.validations.append((self.step, value))
        if value > self.best:
            self.best = value
            self._write_weights(self.out / "best.safetensors")

    def save(self) -> None:
        """Write the log, the weights and, last, the state that refers to them."""
        self.journal.read()
        write_text(self.out / "log.csv", self.journal.text())
        if self.telemetry is not None:
            write_text(self.out / "telemetry.csv", self.telemetry.text())
        if self.validations:
            rows = "".join(f"{step},{value:.6f}\n" for step, value in self.validations)
            write_text(self.out / "validation.csv", "step,value\n" + rows)
        self._write_weights(self.checkpoint)
        save_state(
            self.out / "state.pt",
            {
                "identity": self.identity,
                "pictures": self.pictures,
                "step": self.step,
                "best": self.best,
                "validations": self.validations,
                "rows": self.journal.rows,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "objective": self.objective.state,
                "telemetry": None if self.telemetry is None else self.telemetry.state_dict(),
            },
        )

    def restore(self) -> bool:
        """Load ``state.pt`` when it is there; return whether it was.

        Raises:
            CheckpointError: the state belongs to another dataset, recipe, seed or starting point, or to
                other content of the pictures.
        """
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = load_state(path)
        if state.get("identity") not in (self.identity, self._former_identity):
            raise CheckpointError(
                f"{path}: belongs to a run with other data, recipe, seed or starting weights; "
                "choose another --out, or resume it with the choices that it began with"
            )
        if self.pictures is not None and state.get("pictures") not in (None, self.pictures):
            raise CheckpointError(
                f"{path}: some of the pictures that this run trains on have other content now than when "
                "it was saved; put the former ones back, or choose another --out"
            )
        self.step, self.best, self.journal.rows = state["step"], state["best"], state["rows"]
        self.validations = state["validations"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        carried = state["objective"]
        self.objective.state = None if carried is None else carried.to(self.device)
        if self.telemetry is not None and state.get("telemetry") is not None:
            self.telemetry.load_state_dict(state["telemetry"])
        return True

    def hold_checkpoint(self) -> None:
        """Write the last weights where a finished run has lost their file."""
        if self.accelerator.is_main_process and not self.checkpoint.exists():
            self._write_weights(self.checkpoint)
        self.accelerator.wait_for_everyone()

    def _write_weights(self, path: Path) -> None:
        state = self.average.module.state_dict()
        save_checkpoint(path, state, self.recipe, self.model.categories)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _former_form(recipe: Recipe) -> dict[str, Any]:
    """Return what identified a recipe until November 2026: all of its fields, as they were then."""
    values = recipe_to_dict(recipe)
    was = {"suspect_score": "quarantine"}
    values["loss"] = {was.get(key, key): value for key, value in values["loss"].items()}
    came_later = {"telemetry"} if recipe.compile else {"telemetry", "compile"}
    return {key: value for key, value in values.items() if key not in came_later}


def make_accelerator(tracked: Path | None = None, device: str | None = None) -> Accelerator:
    """Return accelerate's driver: devices, processes, trackers.

    Precision is left to :func:`uses_bf16` and autocast: accelerate fixes its own once per process, and
    two trainings in one process may want different ones.

    Args:
        tracked: a folder to write TensorBoard's event files into.
        device: "cpu" keeps several processes off the GPUs.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    several_on_cpu = process_count() > 1 and (device == "cpu" or not torch.cuda.is_available())
    cpu = {"cpu": True} if several_on_cpu else {}
    if tracked is None:
        return Accelerator(mixed_precision="no", **cpu)
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard is not installed: pip install 'hardmine[tracking]'")
    return Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=tracked, **cpu)


def training_device(accelerator: Accelerator, name: str | None) -> torch.device:
    """Return where a training runs: the device of that name, or accelerate's choice.

    Raises:
        ConfigError: a device that this machine lacks, or one device for several processes.
    """
    several = accelerator.num_processes > 1
    if several and name not in SHARED_DEVICES:
        raise ConfigError(
            f"device: got {name} for {accelerator.num_processes} processes, wanted cpu, cuda or none"
        )
    return torch.device(accelerator.device) if several or name is None else choose_device(name)
