"""Where and with what is computed: devices, threads, processes, names of fast runtimes, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from shutil import which
from typing import TYPE_CHECKING, Any, Literal, get_args

import hardmine
from hardmine.errors import ConfigError

if TYPE_CHECKING:
    import torch

RuntimeName = Literal["auto", "torch", "openvino", "onnxruntime"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
"""The runtimes of fast scoring; ``auto`` leaves the choice to the device and to what is installed."""

_COMPILERS = ("g++", "clang++", "cl")


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the best there is: CUDA, else the CPU.

    Raises:
        ConfigError: a device that this machine lacks, or no device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device: got {name!r}, wanted cpu, mps, cuda or cuda:N") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if (device.index or 0) >= int(count.get(device.type, 1)):
        raise ConfigError(f"device: got {name}, but this machine (or this torch) has none such")
    return device


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether a training of this precision runs in bf16 there; ``auto`` takes it where the
    device computes in it natively.
    """
    return precision == "bf16" or (precision == "auto" and _has_fast_bf16(device))


def require_compiler(device: torch.device) -> None:
    """Hold that ``torch.compile`` can make code for a device.

    Raises:
        ConfigError: no C++ compiler for the CPU, or no Triton for a GPU.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ConfigError("compile: Triton is not installed: pip install triton")
    elif which(os.environ.get("CXX", "")) is None and not any(map(which, _COMPILERS)):
        raise ConfigError(
            f"compile: found no C++ compiler ({', '.join(_COMPILERS)} or the one that CXX names); "
            "install one, or train without compile"
        )


def _has_fast_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    read: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(read().get("avx512_bf16", False))


_PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "faster-coco-eval",
    "numpy",
    "pillow",
)


_WORKERS = "HARDMINE_WORKERS"


def use_workers(number: int) -> None:
    """Let so many threads read and score images, here and in processes that this one starts.

    Raises:
        ConfigError: not a positive number.
    """
    if number < 1:
        raise ConfigError(f"workers: got {number}, wanted at least 1")
    os.environ[_WORKERS] = str(number)


def count_workers(usual: int) -> int:
    """Return how many threads read and score images: ``usual``, unless :func:`use_workers` said."""
    said = os.environ.get(_WORKERS, "")
    return int(said) if said.isdecimal() and int(said) else usual


def process_count() -> int:
    """Return how many processes share the run: what ``torchrun`` or ``accelerate launch`` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def process_index() -> int:
    """Return the number of this process among those that share the run, from 0."""
    return int(os.environ["RANK"]) if process_count() > 1 else 0


def describe_machine() -> dict[str, str]:
    """Return the versions and the machine that the figures come from."""
    versions = {name: _version(name) for name in _PACKAGES}
    head = {"hardmine": hardmine.__version__, "python": platform.python_version()}
    return {**head, "machine": platform.platform(), **versions}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
