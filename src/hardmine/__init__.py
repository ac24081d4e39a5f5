"""Hardmine: object detectors that stop over-firing.

The public calls load lazily, so that ``import hardmine`` and ``hardmine --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardmine.data.load import load_dataset as load_dataset
    from hardmine.loop.experiment import evaluate as evaluate
    from hardmine.loop.experiment import train as train
    from hardmine.loop.rounds import run_loop as run_loop
    from hardmine.pool.mining import mine as mine

__version__ = "0.1.0"

_PUBLIC = {
    "evaluate": "hardmine.loop.experiment",
    "load_dataset": "hardmine.data.load",
    "mine": "hardmine.pool.mining",
    "run_loop": "hardmine.loop.rounds",
    "train": "hardmine.loop.experiment",
}
__all__ = ["__version__", "evaluate", "load_dataset", "mine", "run_loop", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hardmine' has no attribute {name!r}")
