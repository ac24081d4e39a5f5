"""Files that are either whole or absent: write to a neighbour, then rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardmine.disk import clear_disk_errors


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
