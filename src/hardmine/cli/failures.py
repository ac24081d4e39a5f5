"""From an exception to one line and an exit code."""

from __future__ import annotations

import errno
from typing import Final

import typer

from hardmine.errors import ConfigError, GateError, HardmineError

DONE: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
GATE: Final = 3
INTERRUPTED: Final = 130

MAX_LENGTH: Final = 500
"""Longest line that is told, in characters; --debug shows all."""

_REASONS: Final = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "is a folder, a file was wanted",
    errno.ENOTDIR: "is no folder, a folder was wanted",
}


def usage_error(message: str) -> typer.TyperException:
    """Return the exception for options that contradict each other (exit code 2)."""
    error = typer.TyperException(message)
    error.exit_code = USAGE
    return error


def exit_code(error: BaseException) -> int:
    """Return the exit code for an exception that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, typer.TyperException):
        return error.exit_code
    if isinstance(error, GateError):
        return GATE
    return USAGE if isinstance(error, ConfigError) else FAILURE


def is_expected(error: BaseException) -> bool:
    """True when the message says all: the input, machine or call is at fault, not the code."""
    expected = (HardmineError, typer.TyperException, OSError, MemoryError, KeyboardInterrupt)
    return isinstance(error, expected) or type(error).__name__ == "OutOfMemoryError"


def explain(error: BaseException) -> str:
    """Return the one line that a user sees."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was finished is kept, and the same command with --resume goes on"
    if isinstance(error, typer.TyperException):
        return _one_line(error.format_message())
    if isinstance(error, HardmineError):
        return _one_line(str(error))
    if isinstance(error, OSError):
        return _explain_os_error(error)
    detail = _one_line(str(error)) or "no detail"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory; a smaller batch or input helps ({detail})"
    return (
        f"unexpected {type(error).__name__}: {detail} "
        "(a fault in hardmine; run again with --debug for the traceback)"
    )


def _explain_os_error(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    where = error.filename2 or error.filename
    text = f"{where}: {reason}" if where is not None else reason
    return _one_line(text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 2] + " …"
