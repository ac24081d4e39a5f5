"""The exception tree. Every message says what was got, what was wanted and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NOTICE = 25
"""Level of log lines that a user sees without asking for them though nothing is wrong; between
``logging.INFO`` and ``logging.WARNING``."""


MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What taking values out of JSON, XML or YAML of an unexpected shape raises."""


class HardmineError(Exception):
    """Root of all errors that a user's input can cause; the command line prints it as one line.

    Example:
        >>> try:
        ...     hardmine.load_detector("gone.safetensors")
        ... except hardmine.HardmineError as error:
        ...     print(error)
        gone.safetensors: no such file; wanted ...
    """


class DataError(HardmineError):
    """An image, label file or dataset that cannot be used.

    Example:
        >>> Dataset.from_yolo("shelf")
        Traceback (most recent call last):
        hardmine.errors.DataError: shelf: got coco data, wanted yolo; load_dataset reads any format
    """


class ConfigError(HardmineError):
    """A recipe or option with an unknown key, a wrong type or contradictory values.

    Example:
        >>> data.split({"train": 0.8, "val": 0.8})
        Traceback (most recent call last):
        hardmine.errors.ConfigError: fractions {'train': 0.8, 'val': 0.8}: wanted positive shares ...
    """


class CheckpointError(HardmineError):
    """Weights that do not fit the model, are truncated, or would execute code.

    Example:
        >>> hardmine.load_detector("gone.safetensors")
        Traceback (most recent call last):
        hardmine.errors.CheckpointError: gone.safetensors: no such file; wanted weights ...
    """


class MissingExtraError(HardmineError):
    """An optional dependency is not installed; the message names the install command.

    Example:
        >>> try:
        ...     found.to_supervision()
        ... except hardmine.MissingExtraError as error:
        ...     print(error)  # supervision is not installed: pip install 'hardmine[supervision]'
        Detections(...)
    """


class CommandError(HardmineError):
    """A user's own command (an external trainer) failed; the message holds its last lines.

    Example:
        >>> hardmine.run_loop(
        ...     "shelf", pool="pool", val=0.25, train_command="false {train_json} {weights_out}"
        ... )
        Traceback (most recent call last):
        hardmine.errors.CommandError: ...
    """


class GateError(HardmineError):
    """A measured value misses a gate that the user set (exit code 3).

    Example:
        >>> hardmine.evaluate(detector, "shelf", min_ap50=0.99, draws=20)
        Traceback (most recent call last):
        hardmine.errors.GateError: gate not met: AP50: got 0..., wanted at least 0.99
    """


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def on_one_line(text: object) -> str:
    """Return a text with its control characters written out, so that a name cannot break a line.

    Bytes of a file name that are no text are written out too.

    Example:
        >>> on_one_line("pool/a\\nb.jpg")
        'pool/a\\\\nb.jpg'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def did_you_mean(got: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'epochs'?"`` for the known name that is nearest, else nothing."""
    near = difflib.get_close_matches(str(got), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def not_one_of(where: str, got: object, known: Iterable[str]) -> str:
    """Return the message for a name that is unknown: what was given, what may be given, the nearest.

    ``not_one_of("model", "small16", ["small160"])`` is ``"model: got 'small16', wanted one of
    small160; did you mean 'small160'?"``.
    """
    names = list(known)
    return f"{where}: got {got!r}, wanted one of {', '.join(names)}{did_you_mean(got, names)}"
