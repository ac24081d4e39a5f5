"""Where and in which precision training runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

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


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the best there is: CUDA, else the CPU.

    Raises:
        ConfigError: a device that this machine lacks.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if (device.index or 0) >= int(count.get(device.type, 1)):
        raise ConfigError(f"device: got {name}, but this machine (or this torch) has none such")
    return device


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


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether a training of this precision runs in bf16 there; ``auto`` takes it where the
    device computes in it natively.
    """
    return precision == "bf16" or (precision == "auto" and _has_fast_bf16(device))


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    read: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(read().get("avx512_bf16", False))
