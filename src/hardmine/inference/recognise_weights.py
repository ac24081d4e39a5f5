"""Whose weights a PyTorch file holds, found without running anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hardmine.errors import CheckpointError, ConfigError
from hardmine.models.state_dict import code_in, load_plain, plain_state

Maker = Literal["ultralytics", "libreyolo", "rfdetr"]

PYTORCH_SUFFIXES = frozenset({".pt", ".pth", ".ckpt"})
_LIBREYOLO = frozenset({"libreyolo_version", "model_family"})
_RFDETR = (frozenset({"model", "args", "model_name"}), frozenset({"model", "rfdetr_version"}))


@dataclass(frozen=True, slots=True)
class TorchvisionWeights:
    """A plain state dict of torchvision's network ``name``, trained for ``num_classes`` classes."""

    name: str
    num_classes: int


def whose_weights(path: Path) -> Maker | TorchvisionWeights | None:
    """Return who wrote a PyTorch file, or ``None`` where it cannot be told.

    Raises:
        CheckpointError: damaged.
        ConfigError: the weights fit several of torchvision's networks; they are named.
    """
    names = code_in(path)
    if any(name.startswith("ultralytics.") for name in names):
        return "ultralytics"
    if names and not all(name.startswith("argparse.") for name in names):
        return None
    try:
        tree = load_plain(path, "weights file")
    except CheckpointError:
        if names:  # older RF-DETR checkpoints hold their arguments as argparse's own type
            return "rfdetr"
        raise
    if not isinstance(tree, Mapping):
        return None
    keys = frozenset(map(str, tree))
    if keys >= _LIBREYOLO:
        return "libreyolo"
    if any(keys >= wanted for wanted in _RFDETR):
        return "rfdetr"
    return _torchvision(plain_state(tree), path)


def _torchvision(state: Mapping[str, Tensor], path: Path) -> TorchvisionWeights | None:
    """Find the networks that have these tensors, whatever their number of classes."""
    from torchvision.models import detection as models
    from torchvision.models import get_model, list_models

    family = next(
        (names for part, names in _FAMILIES.items() if any(part in k for k in state)), None
    )
    if family is None:
        return None
    fitting: dict[str, int] = {}
    for name in list_models(module=models):
        if not name.startswith(family):
            continue
        with torch.device("meta"):
            network = get_model(name, weights=None, weights_backbone=None)
        count = _num_classes(network.state_dict(), state)
        if count is not None:
            fitting[name] = count
    if len(fitting) > 1:
        forms = ", ".join(f"torchvision:{name}:{path}" for name in fitting)
        raise ConfigError(f"{path}: these weights fit several networks; name one of {forms}")
    return next((TorchvisionWeights(name, count) for name, count in fitting.items()), None)


def _num_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes weights are for, or ``None`` where they are another network's.

    ``own`` is the network for COCO: its tensors that depend on the classes have 91 × n rows.
    """
    if own.keys() != state.keys():
        return None
    counts = set()
    for key, value in own.items():
        rows, found = value.shape, state[key].shape
        if rows == found:
            continue
        each = rows[0] // _COCO_ROWS if rows and rows[0] % _COCO_ROWS == 0 else 0
        if rows[1:] != found[1:] or not each or found[0] % each:
            return None
        counts.add(found[0] // each - 1)
    if len(counts) > 1:
        return None
    return counts.pop() if counts else _COCO_ROWS - 1


_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "roi_heads.mask_": ("maskrcnn",),
    "roi_heads.box_": ("fasterrcnn",),
    "head.classification_head.module_list.": ("ssd",),
    "head.classification_head.cls_logits.": ("fcos", "retinanet"),
}
"""What the names of torchvision's detection networks begin with, by a part of a tensor's name."""

_COCO_ROWS = 91
"""Classes of torchvision's published weights, with the background."""
