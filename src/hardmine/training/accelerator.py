"""Where and in which precision training runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from accelerate import Accelerator

from hardmine.device import choose_device
from hardmine.errors import ConfigError, MissingExtraError


def make_accelerator(tracked: Path | None = None) -> Accelerator:
    """Return accelerate's driver: devices, processes, trackers.

    Precision is left to :func:`uses_bf16` and autocast: accelerate fixes its own once per process, and
    two trainings in one process may want different ones.

    Args:
        tracked: a folder to write TensorBoard's event files into.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    if tracked is None:
        return Accelerator(mixed_precision="no")
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard is not installed: pip install 'hardmine[tracking]'")
    accelerator = Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=tracked)
    accelerator.init_trackers("tensorboard")
    return accelerator


def training_device(accelerator: Accelerator, name: str | None) -> torch.device:
    """Return where a training runs: the device of that name, or accelerate's choice.

    Raises:
        ConfigError: a device that this machine lacks, or one device for several processes.
    """
    if name is None:
        return torch.device(accelerator.device)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"device: got {name} for {accelerator.num_processes} processes, wanted none"
        )
    return choose_device(name)
