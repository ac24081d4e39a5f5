"""Hardmine: object detectors that stop over-firing.

    >>> data = hardmine.load_dataset("shelf")
    >>> detector = hardmine.load_detector("shelf/predictions.json")
    >>> mined = hardmine.mine(detector, "pool", top=2)
    >>> [Path(candidate.image).name for candidate in mined.candidates]
    ['p3.png', 'p1.png']

Everything below loads when it is first used, so that ``import hardmine`` is quick and brings neither
torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardmine.data.convert import convert as convert
    from hardmine.data.data_options import SplitOptions as SplitOptions
    from hardmine.data.load_dataset import load_dataset as load_dataset
    from hardmine.data.splits.split import split as split
    from hardmine.detections import Detection as Detection
    from hardmine.detections import Detections as Detections
    from hardmine.diagnosis.diagnose import diagnose as diagnose
    from hardmine.errors import CheckpointError as CheckpointError
    from hardmine.errors import CommandError as CommandError
    from hardmine.errors import ConfigError as ConfigError
    from hardmine.errors import DataError as DataError
    from hardmine.errors import GateError as GateError
    from hardmine.errors import HardmineError as HardmineError
    from hardmine.errors import MissingExtraError as MissingExtraError
    from hardmine.inference.load_detector import load_detector as load_detector
    from hardmine.inference.predictions_file import Predictions as Predictions
    from hardmine.loop.loop import run_loop as run_loop
    from hardmine.loop.loop_options import LoopOptions as LoopOptions
    from hardmine.mining.mine import mine as mine
    from hardmine.mining.mine_options import MineOptions as MineOptions
    from hardmine.mining.mine_options import RankOptions as RankOptions
    from hardmine.review.apply_decisions import apply_decisions as apply_decisions
    from hardmine.review.apply_journal import undo_apply as undo_apply
    from hardmine.types import Dataset as Dataset
    from hardmine.types import ImageRecord as ImageRecord
    from hardmine.types import ImageState as ImageState
    from hardmine.workflows.check_data import check as check
    from hardmine.workflows.choose_threshold import threshold as threshold
    from hardmine.workflows.export_model import export as export
    from hardmine.workflows.train_and_evaluate import evaluate as evaluate
    from hardmine.workflows.train_and_evaluate import train as train
    from hardmine.workflows.train_options import CheckOptions as CheckOptions
    from hardmine.workflows.train_options import EvaluateOptions as EvaluateOptions
    from hardmine.workflows.train_options import ExportOptions as ExportOptions
    from hardmine.workflows.train_options import ThresholdOptions as ThresholdOptions
    from hardmine.workflows.train_options import TrainOptions as TrainOptions

__version__ = "0.1.0"

_HOLDS = {
    "hardmine.data.convert": "convert",
    "hardmine.data.load_dataset": "load_dataset",
    "hardmine.data.splits.split": "split",
    "hardmine.data.data_options": "SplitOptions",
    "hardmine.detections": "Detection Detections",
    "hardmine.diagnosis.diagnose": "diagnose",
    "hardmine.errors": (
        "CheckpointError CommandError ConfigError DataError GateError HardmineError MissingExtraError"
    ),
    "hardmine.inference.load_detector": "load_detector",
    "hardmine.inference.predictions_file": "Predictions",
    "hardmine.loop.loop": "run_loop",
    "hardmine.loop.loop_options": "LoopOptions",
    "hardmine.mining.mine": "mine",
    "hardmine.mining.mine_options": "MineOptions RankOptions",
    "hardmine.review.apply_decisions": "apply_decisions",
    "hardmine.review.apply_journal": "undo_apply",
    "hardmine.types": "Dataset ImageRecord ImageState",
    "hardmine.workflows.check_data": "check",
    "hardmine.workflows.choose_threshold": "threshold",
    "hardmine.workflows.export_model": "export",
    "hardmine.workflows.train_and_evaluate": "evaluate train",
    "hardmine.workflows.train_options": (
        "CheckOptions EvaluateOptions ExportOptions ThresholdOptions TrainOptions"
    ),
}
_PUBLIC = {name: module for module, names in _HOLDS.items() for name in names.split()}
"""Where each public name is; a test holds that the imports for type checkers above say the same."""
__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hardmine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
