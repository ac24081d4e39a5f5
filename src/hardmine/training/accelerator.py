"""Where and in which precision training runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hardmine.errors import MissingExtraError


def make_accelerator(precision: str, tracked: Path | None = None) -> Accelerator:
    """Return accelerate's driver; ``auto`` takes bf16 where the device computes in it natively.

    Args:
        tracked: a folder to write TensorBoard's event files into.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16() else "fp32"
    mixed = "bf16" if precision == "bf16" else "no"
    if tracked is None:
        return Accelerator(mixed_precision=mixed)
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard is not installed: pip install 'hardmine[tracking]'")
    accelerator = Accelerator(mixed_precision=mixed, log_with="tensorboard", project_dir=tracked)
    accelerator.init_trackers("tensorboard")
    return accelerator


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    read: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(read().get("avx512_bf16", False))
