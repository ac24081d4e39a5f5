"""Files that are whole or absent (written beside, then renamed); a full disk is one clear error."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage
from typing import Any

from hardmine.errors import DataError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file in ``path``'s folder, then rename it to ``path``.

    Killed or out of disk in the middle, the old file (or none) is what remains.

    Raises:
        DataError: the disk is full, whichever library was writing.
    """
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            with clear_disk_errors(path):  # before the part is removed, which frees its space
                write(part)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda part: _dump(part, text))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda part: _fill(part, data))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, no NaN (which is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _dump(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")


def _fill(part: Path, data: bytes) -> None:
    part.write_bytes(data)


_TORCH_WRITER = ("inline_container", "PytorchStreamWriter")


_LITTLE = 16 << 20
"""Free bytes below which a failed write of torch's counts as a full disk."""


@contextmanager
def clear_disk_errors(where: Path) -> Iterator[None]:
    """Turn "no space left" of the file system or of any library that writes into one ``DataError``.

    Args:
        where: the file or folder that was being written; it is named in the message.

    Raises:
        DataError: the disk is full. What was committed before stays.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error, where):
            raise
        raise DataError(
            f"{where}: no space left on the disk; what was written before is kept: "
            "free some space and start the same command again"
        ) from error


def _is_full(error: Exception, where: Path) -> bool:
    """True where an error means a full disk, in the words of whichever library was writing.

    The file system says it by number. SQLite and safetensors (Rust) say it in their text; torch only
    says that its writer failed, which means a full disk where no space is left.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    if isinstance(error, sqlite3.OperationalError):
        return "disk is full" in text
    if any(f"(os error {code})" in text for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    if isinstance(error, RuntimeError) and any(word in text for word in _TORCH_WRITER):
        return _free_space(where) < _LITTLE
    return False


def _free_space(where: Path) -> int:
    folder = where
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return disk_usage(folder).free
