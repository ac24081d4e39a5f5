"""Where and in which precision training runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hardmine.errors import MissingExtraError


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


def uses_bf16(precision: str) -> bool:
    """Return whether a training of this precision runs in bf16 here; ``auto`` takes it where the
    device computes in it natively.
    """
    return precision == "bf16" or (precision == "auto" and _has_fast_bf16())


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    read: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(read().get("avx512_bf16", False))
