"""Which of the images to measure on a checkpoint was trained on, as the folder of its run says."""

from __future__ import annotations

import logging
from pathlib import Path

from hardmine.errors import DataError
from hardmine.files import read_json
from hardmine.types import Dataset
from hardmine.workflows.step_cache import read_step

_RECORDS = ("train.json", "loop.json")
_log = logging.getLogger(__name__)


def not_trained_on(data: Dataset, checkpoint: object) -> Dataset:
    """Return the images that a checkpoint was not trained on, as far as its run says; the log names it.

    Of data that the run divided these are the ones that it split off. Where it was trained on all of
    the data, all are returned, and a warning says so.

    Args:
        data: labelled images, as they are before unreviewed ones are left out.
        checkpoint: a detector, or what names one; only a file in the folder of a run says something.
    """
    run = _run_of(checkpoint)
    checked = None if run is None else read_step(run, "prepare/leaks")
    if run is None or checked is None:
        return data
    trained_on = checked["inputs"].get("train")
    if _trainable(data).fingerprint == trained_on:
        _log.warning(
            "%s: all %d images were trained on in %s, so that what is measured on them says little; "
            "give the images that it was validated on%s",
            data.root,
            len(data),
            run,
            _validated_on(run),
        )
        return data
    split = read_step(run, "prepare/split")
    if split is None or split["inputs"].get("data") != data.fingerprint:
        return data
    train, val = (data.subset(split["result"][name]) for name in ("train", "val"))
    if _trainable(train).fingerprint != trained_on:  # resumed with other validation images
        return data
    _log.warning(
        "%s: %d of %d images were trained on in %s; the other %d, which it split off to validate on, "
        "are measured",
        data.root,
        len(train),
        len(data),
        run,
        len(val),
    )
    return val


def _run_of(checkpoint: object) -> Path | None:
    """Return the folder of the run, or of the loop, that a checkpoint lies in; None where it is none."""
    from hardmine.inference.load_detector import PREDICTION_SUFFIXES, named_path
    from hardmine.recipes.checkpoint import find_checkpoint

    path = named_path(str(checkpoint)) if isinstance(checkpoint, str | Path) else None
    if path is None or path.suffix.lower() in PREDICTION_SUFFIXES:
        return None
    folder = find_checkpoint(path).resolve().parent
    return folder.parent.parent if folder.parent.name == "models" else folder


def _trainable(data: Dataset) -> Dataset:
    return data.subset(lambda record: record.state.is_trainable)


def _validated_on(run: Path) -> str:
    """Return the path that a run was given to validate on, behind a colon; "" where there is none."""
    for record in (run / name for name in _RECORDS):
        try:
            values = read_json(record) if record.is_file() else {}
        except DataError:
            continue
        given = values.get("inputs", {}).get("val")
        if isinstance(given, str):
            return f": {given}"
    return ""
