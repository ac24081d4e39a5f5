"""Reading other people's weights: tensors by name, nothing executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hardmine.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from ``.safetensors`` or a ``torch.save`` file, executing nothing.

    Raises:
        CheckpointError: missing, truncated, not a mapping of tensors, or a pickle with other content.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001  (safetensors and pickle raise many kinds)
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "unreadable"
        raise CheckpointError(f"{path}: not a readable weights file ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: wanted a state dict (names to tensors)")
    return state


def copy_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load into ``module`` the tensors of ``state`` that carry its names; others are left out.

    Raises:
        CheckpointError: a name is missing or a shape differs; ``what`` says whose.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise CheckpointError(
            f"{path}: lacks {len(missing)} of the {what}'s tensors, first {missing[0]!r}"
        )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, wanted {tuple(value.shape)}"
            )
    module.load_state_dict({key: state[key] for key in own})
