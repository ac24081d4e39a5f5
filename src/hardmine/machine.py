"""The versions and the machine that figures come from."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import hardmine

_PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "faster-coco-eval",
    "numpy",
    "pillow",
)


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
