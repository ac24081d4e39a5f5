"""Hardmine: object detectors that stop over-firing.

The public calls load lazily, so that ``import hardmine`` and ``hardmine --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardmine.data.load_dataset import load_dataset as load_dataset
    from hardmine.loop.loop import run_loop as run_loop
    from hardmine.mining.mine import mine as mine
    from hardmine.workflows.train_and_evaluate import evaluate as evaluate
    from hardmine.workflows.train_and_evaluate import train as train

__version__ = "0.1.0"

_PUBLIC = {
    "evaluate": "hardmine.workflows.train_and_evaluate",
    "load_dataset": "hardmine.data.load_dataset",
    "mine": "hardmine.mining.mine",
    "run_loop": "hardmine.loop.loop",
    "train": "hardmine.workflows.train_and_evaluate",
}
__all__ = ["__version__", "evaluate", "load_dataset", "mine", "run_loop", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hardmine' has no attribute {name!r}")
