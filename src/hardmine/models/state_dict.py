"""Reading other people's weights: tensors by name, nothing executed."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from hardmine.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from ``.safetensors`` or a ``torch.save`` file, executing nothing.

    Raises:
        CheckpointError: missing, truncated, not a mapping of tensors, or a file that holds code.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable weights file ({error})") from None
    state = load_plain(path, "weights file")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: wanted a state dict (names to tensors)")
    return state


def plain_state(tree: Any) -> Any:
    """Return the state dict in what training scripts save: under ``model`` or a like key, or itself.

    What distributed training puts before the names (``module.``) is taken away.
    """
    if not isinstance(tree, Mapping):
        return tree
    inner = next((tree[key] for key in _INNER if isinstance(tree.get(key), Mapping)), tree)
    return {str(key).removeprefix("module."): value for key, value in inner.items()}


_INNER = ("model", "state_dict", "model_state_dict")


def load_plain(path: Path, what: str) -> Any:
    """Return what ``torch.save`` wrote, if it is tensors and plain values; no code in it is run.

    Args:
        what: the kind of file, for the error.

    Raises:
        CheckpointError: missing, truncated, TorchScript, or a file that wants to run code (which is
            named).
    """
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: TorchScript, which does not say what its outputs mean. {_EXPORT}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001  (unpickling raises many kinds)
        text = str(error)
        names = code_in(path) or re.findall(r"Unsupported global: GLOBAL (\S+)", text)
        if names:
            raise CheckpointError(refuse_code(path, names)) from None
        # Torch begins with advice to load the file without protection; its reason comes after that.
        lines = text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
        reason = lines[0][:120] if lines and not lines[0].isdecimal() else type(error).__name__
        raise CheckpointError(f"{path}: not a readable {what} ({reason})") from None


def code_in(path: Path) -> list[str]:
    """Return the names that a PyTorch file wants to import, found by reading its opcodes alone."""
    try:
        if is_pytorch_file(path):
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        with path.open("rb") as stream:
            return _names_in_pickle(stream)
    except Exception:  # noqa: BLE001  (damaged, or no pickle at all)
        return []


def _names_in_pickle(stream: IO[bytes]) -> list[str]:
    names, texts = [], ["", ""]
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":  # module and name are the last two texts
            names.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return [name for name in names if not name.startswith(("torch.", "collections."))]


def is_pytorch_file(path: Path) -> bool:
    """True for what ``torch.save`` writes: a zip archive with a ``data.pkl``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def refuse_code(path: Path, names: Sequence[str]) -> str:
    """Return the error for a file that wants to run code: whose it is, and what to do."""
    maker = next((word for word in _MAKERS if any(n.startswith(word) for n in names)), None)
    whose = f" of {_MAKERS[maker][0]}" if maker else ""
    way_on = _MAKERS[maker][1] if maker else _PLAIN
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return (
        f"{path}: a PyTorch checkpoint{whose} that wants to run code ({shown}); it was refused and "
        f"nothing in it was run. {way_on}"
    )


_PLAIN = (
    "Save plain weights where the file comes from: torch.save(model.state_dict(), 'weights.pth')"
)
_EXPORT = "Export it to ONNX with its own framework and name the .onnx file instead"
_MAKERS = {
    "ultralytics.": (
        "Ultralytics",
        "As a detector it is run by the package ultralytics; or export it there "
        "(yolo export model=FILE format=onnx) and name the .onnx file instead",
    ),
    "models.yolo.": ("YOLOv5 or YOLOv7", _EXPORT),
    "mmengine.": ("OpenMMLab", _EXPORT),
    "mmcv.": ("OpenMMLab", _EXPORT),
    "mmdet.": ("OpenMMLab", _EXPORT),
    "yolox.": ("YOLOX", _EXPORT),
    "super_gradients.": ("SuperGradients", _EXPORT),
}
"""Known frameworks by the modules that their checkpoints name, and what the user can do."""


def copy_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load into ``module`` the tensors of ``state`` that carry its names; others are left out.

    Args:
        what: the name of the network whose weights are wanted, for the error.

    Raises:
        CheckpointError: a name is missing or a shape differs.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise CheckpointError(
            f"{path}: not the weights of {what}: lacks {len(missing)} of its {len(own)} tensors, first "
            f"{missing[0]!r}"
        )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise CheckpointError(
                f"{path}: not the weights of {what}: {key} has shape {tuple(state[key].shape)}, wanted "
                f"{tuple(value.shape)}"
            )
    module.load_state_dict({key: state[key] for key in own})
