"""The machine: how many threads work on images, and the versions that figures come from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import hardmine
from hardmine.errors import ConfigError

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


def describe_machine() -> dict[str, str]:
    """Return the versions and the machine that the figures come from."""
    versions = {name: _version(name) for name in _PACKAGES}
    head = {"hardmine": hardmine.__version__, "python": platform.python_version()}
    return {**head, "machine": platform.platform(), **versions}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
