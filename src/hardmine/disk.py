"""A full disk as one clear error."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from hardmine.errors import DataError

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
