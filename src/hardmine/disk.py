"""A full disk as one clear error."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hardmine.errors import DataError


@contextmanager
def clear_disk_errors(where: Path) -> Iterator[None]:
    """Turn "no space left" of the file system or of SQLite into one ``DataError``.

    Args:
        where: the file or folder that was being written; it is named in the message.

    Raises:
        DataError: the disk is full. What was committed before stays.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not _is_full(error):
            raise
        raise DataError(
            f"{where}: no space left on the disk; what was written before is kept: "
            "free some space and start the same command again"
        ) from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
