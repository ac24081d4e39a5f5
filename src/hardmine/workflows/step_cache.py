"""Idempotent steps: what a run has done is found by fingerprint, not by memory.

A step names all that its result depends on. Its result is written, whole or not at all, as the
last thing it does; the next run finds it under the same fingerprint and does not repeat the work.
Two steps of one key and equal inputs are one step, so work that two arms share is done once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardmine.files import write_json
from hardmine.types import Dataset

FORMAT = 1
"""Raise it when what a step writes changes its meaning; older results are then made anew."""

Notify = Callable[[str, int, int], None]
"""``progress(name, done, total)``: where the work stands; total 0 means unknown."""


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over plain values, keys in any order."""
    text = json.dumps([FORMAT, value], sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def silent(name: str, done: int, total: int) -> None:
    """Take progress and say nothing."""
    del name, done, total


class Steps:
    """The steps of one run directory.

    Args:
        root: the run directory.
        progress: called with (name, 0, 1) when a step starts and (name, 1, 1) when it is done.
    """

    def __init__(self, root: Path, progress: Notify = silent) -> None:
        self.root = root
        self.progress = progress
        self.contents: dict[str, str] = {}
        """Digests of the pictures' files by path, as far as they were read in this call."""

    def identity(self, data: Dataset) -> str:
        """Return what a dataset is known by in the inputs of a step: its labels and its pictures.

        A picture counts by its content, not by its date, so that a copy of the data does nothing again.
        """
        contents = [self.contents.get(str(record.path)) for record in data.records]
        return fingerprint([data.fingerprint, contents])

    def run(
        self,
        key: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Path], Any],
        outputs: Sequence[str] | Callable[[Any], Sequence[str]] = (),
        label: str = "",
    ) -> Any:
        """Return the step's result, computing it only when it is not there yet.

        Args:
            key: folder and name below the root, such as ``rounds/mined-1/mine``; one step a key.
            inputs: plain values that determine the result.
            compute: does the work in the folder it is given and returns plain values.
            outputs: files in the folder without which the step counts as not done; or what names them
                from the result.
            label: what progress lines call it; the key if not given.
        """
        stamp_file = self.root / f"{key}.step.json"
        place = stamp_file.parent
        stamp = fingerprint(dict(inputs))
        found = _read(stamp_file, stamp)
        if found is None or not _are_there(place, outputs, found["result"]):
            self.progress(label or key, 0, 1)
            place.mkdir(parents=True, exist_ok=True)
            result = compute(place)
            record = {"fingerprint": stamp, "inputs": dict(inputs), "result": result}
            write_json(stamp_file, record)
            # Read back, so that a resumed run sees the very same values as an undisturbed one.
            found = json.loads(stamp_file.read_text(encoding="utf-8"))
            self.progress(label or key, 1, 1)
        return found["result"]


def _are_there(
    place: Path, outputs: Sequence[str] | Callable[[Any], Sequence[str]], result: Any
) -> bool:
    names = outputs(result) if callable(outputs) else outputs
    return all((place / name).is_file() for name in names)


def _read(path: Path, stamp: str) -> dict[str, Any] | None:
    """Return the record of a finished step; None when it is absent, broken or of other inputs."""
    record = _load(path)
    return None if record is None or record["fingerprint"] != stamp else record


def read_step(root: Path, key: str) -> dict[str, Any] | None:
    """Return ``inputs``, ``fingerprint`` and ``result`` of a step that a run directory finished.

    None where it was not done, or cannot be read.
    """
    return _load(root / f"{key}.step.json")


def _load(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"inputs", "fingerprint", "result"} <= record.keys()
    return record if whole else None
