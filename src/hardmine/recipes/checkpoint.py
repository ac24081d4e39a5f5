"""Checkpoints: weights in safetensors, with recipe and classes beside them as text.

Loading one executes nothing; anything that is not such a file is refused with one line.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hardmine
from hardmine.detections import OperatingPoint
from hardmine.errors import CheckpointError, ConfigError
from hardmine.files import peek_text, write_atomic, write_bytes
from hardmine.models.ssd import Network, make_network
from hardmine.models.state_dict import code_in, is_pytorch_file, load_plain, refuse_code
from hardmine.recipes.recipe import Recipe, current_form, recipe_from_dict, recipe_to_dict

_FORMAT = "hardmine-1"
_IDENTITY, _OPERATING_POINT = "identity", "operating_point"
_NOT_A_DETECTOR = (
    "{}: a PyTorch file with plain weights, which do not say what network they belong to; name the "
    "network too (torchvision:NAME:FILE), train from them with --weights, or export the model to ONNX "
    "with its own framework and name the .onnx file"
)


def save_checkpoint(
    path: Path, state: dict[str, Tensor], recipe: Recipe, categories: tuple[str, ...]
) -> None:
    """Write weights, recipe and classes to ``path`` atomically."""
    metadata = {
        "format": _FORMAT,
        "version": hardmine.__version__,
        "recipe": json.dumps(recipe_to_dict(recipe)),
        "categories": json.dumps(list(categories)),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    _write(path, tensors, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and facts to ``path`` atomically, the same bytes for the same content.

    safetensors writes the facts in an order that differs from call to call, and a checkpoint's identity
    is a digest of its bytes; so they are sorted. The file begins with the length of its header, 8 bytes
    little endian, and the header in JSON (https://github.com/huggingface/safetensors#format).
    """
    from safetensors.torch import save

    content = save(tensors, metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(start - 8)
    assert len(text) == start - 8, "no character is written longer than it was"
    write_bytes(path, content[:8] + text + content[start:])


def find_checkpoint(path: Path) -> Path:
    """Return the weights file that a path names: itself, or a run directory's last weights.

    A loop's are those of its last round: of the arm that mines, or else of its first arm.
    """
    if not path.is_dir():
        return path
    return last_of_loop(path) or path / "last.safetensors"


def last_of_loop(folder: Path) -> Path | None:
    """Return the weights of a loop's last round; ``None`` where the folder holds no loop's rounds."""
    rounds = folder / "rounds.json"
    if not rounds.is_file() or (folder / "last.safetensors").exists():
        return None
    try:
        rows = json.loads(rounds.read_text(encoding="utf-8"))
        arms = [row["arm"] for row in rows]
        arm = "mined" if "mined" in arms else arms[0]
        last = next(row for row in reversed(rows) if row["arm"] == arm)
        return folder / "models" / str(last["model"]) / "last.safetensors"
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def is_checkpoint(path: Path) -> bool:
    """True when a file is a checkpoint of ours, whatever its recipe.

    Raises:
        CheckpointError: missing, or a truncated ``.safetensors`` file.
    """
    return path.suffix == ".safetensors" and _metadata(path).get("format") == _FORMAT


def read_metadata(path: Path) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe and the classes of a checkpoint.

    Raises:
        CheckpointError: missing, truncated, or not written by Hardmine.
    """
    metadata = _metadata(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a Hardmine checkpoint (no {_FORMAT!r} mark)")
    try:
        values, categories = json.loads(metadata["recipe"]), json.loads(metadata["categories"])
        if not isinstance(values, dict):
            raise ValueError(f"recipe: got {type(values).__name__}, wanted a mapping")
        if not isinstance(categories, list) or not all(isinstance(c, str) for c in categories):
            raise ValueError(f"categories: got {categories!r}, wanted a list of names")
        return recipe_from_dict(current_form(values)), tuple(categories)
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: unreadable recipe or classes ({error})") from None


def checkpoint_id(path: Path) -> str:
    """Return the identity of a checkpoint's weights: 16 hex digits.

    It is the digest of the file as it was written first, so that an operating point that is written
    into it later makes no other model of it.
    """
    return _metadata(path).get(_IDENTITY) or file_digest(path)


def read_operating_point(path: Path) -> OperatingPoint | None:
    """Return the score threshold that was written into a checkpoint, if one was.

    Raises:
        CheckpointError: it cannot be read.
    """
    text = _metadata(path).get(_OPERATING_POINT)
    try:
        return None if text is None else OperatingPoint.from_dict(json.loads(text))
    except ValueError as error:
        raise CheckpointError(f"{path}: unreadable operating point ({error})") from None


def write_operating_point(path: Path, point: OperatingPoint) -> None:
    """Write a score threshold into a checkpoint, in place of an earlier one; all else stays.

    Raises:
        CheckpointError: no Hardmine checkpoint.
    """
    from safetensors.torch import load_file

    read_metadata(path)  # refuses what is no checkpoint
    facts = {_IDENTITY: checkpoint_id(path), _OPERATING_POINT: json.dumps(point.to_dict())}
    metadata = {**_metadata(path), **facts}
    tensors = load_file(path)
    _write(path, tensors, metadata)


def read_version(path: Path) -> str:
    """Return the version of Hardmine that wrote a checkpoint; "" where it is not said.

    Raises:
        CheckpointError: missing or truncated.
    """
    return _metadata(path).get("version", "")


def load_checkpoint(path: Path) -> tuple[Network, Recipe]:
    """Return the model (evaluation mode, CPU) and its recipe.

    Raises:
        CheckpointError: missing, truncated, foreign, or weights that do not fit the recipe.
    """
    recipe, categories = read_metadata(path)
    try:
        model = make_network(recipe.model, categories)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its network cannot be built ({error})") from None
    load_weights_into(model, path)
    return model.eval(), recipe


def load_weights_into(model: Network, path: Path) -> None:
    """Load a checkpoint's weights into ``model``.

    Raises:
        CheckpointError: other classes or another architecture.
    """
    from safetensors.torch import load_file

    recipe, categories = read_metadata(path)
    if categories != model.categories:
        raise CheckpointError(
            f"{path}: has classes {list(categories)}, wanted {list(model.categories)}"
        )
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: weights of {recipe.model.name!r} do not fit {model.config.name!r} ({reason})"
        ) from None


def file_digest(path: Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256: the identity of a set of weights."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what an exact resume needs (tensors and plain values) atomically."""
    write_atomic(path, lambda part: torch.save(state, part))


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; no code in the file is executed.

    Raises:
        CheckpointError: truncated or foreign.
    """
    try:
        state = load_plain(path, "training state")
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: unreadable training state; remove it to start the run again ({error})"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: got {type(state).__name__}, wanted a training state")
    return state


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if is_pytorch_file(path):
        names = code_in(path)
        raise CheckpointError(refuse_code(path, names) if names else _NOT_A_DETECTOR.format(path))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        looks = foreign_kind(path)
        why = f"; it looks like {looks}" if looks else f" ({error})"
        raise CheckpointError(f"{path}: not a readable checkpoint{why}") from None


def foreign_kind(path: Path) -> str:
    """Return what a file that is no checkpoint of ours looks like, in words; empty where unknown."""
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "an empty file"
    suffix = path.suffix.lower()
    found = _BY_SUFFIX.get(suffix, "")
    found = found or next((kind for start, kind in _BY_START if head.startswith(start)), "")
    if found or head[4:8] == b"ftyp":
        return found or "a video"
    start = peek_text(path, 60).strip().partition("\n")[0]
    return f"a text that begins {start!r}" if start.isprintable() and "\ufffd" not in start else ""


_EXPORT = "export it to ONNX in its framework and give the .onnx file"
_CHECKPOINT = "a checkpoint (.safetensors) is wanted here"
_BY_SUFFIX = {
    ".onnx": f"an ONNX file; {_CHECKPOINT}",
    ".tflite": f"a LiteRT model; {_CHECKPOINT}",
    ".pb": f"a TensorFlow graph: {_EXPORT}",
    ".keras": f"a Keras model: {_EXPORT}",
    ".engine": f"an engine of TensorRT, which runs on one kind of GPU only: {_EXPORT}",
    ".plan": f"an engine of TensorRT, which runs on one kind of GPU only: {_EXPORT}",
    ".weights": f"weights of Darknet: {_EXPORT}",
    ".torchscript": f"a TorchScript file: {_EXPORT}",
    ".pdmodel": f"a model of Paddle: {_EXPORT}",
    ".pdparams": f"weights of Paddle: {_EXPORT}",
    ".mlmodel": f"a model of Core ML: {_EXPORT}",
}
_BY_START = (
    (b"\x89HDF", f"an HDF5 file, such as Keras writes: {_EXPORT}"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xff\xd8\xff", "a picture; a detector was wanted here"),
    (b"\x1f\x8b", "a file packed by gzip: unpack it and give what is in it"),
    (b"\x89PNG", "a picture; a detector was wanted here"),
    (b"RIFF", "a picture or a film; a detector was wanted here"),
    (
        b"\x80",
        "a Python pickle, which can run code and is not opened: predict with the framework that "
        "wrote it (such as detectron2) and name the file of detections here",
    ),
)
"""First bytes of files, and what such a file is."""
