"""Which of the images to measure on a checkpoint was trained on, as the folder of its run says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hardmine.data.formats.coco_writing import STATE_KEY
from hardmine.errors import DataError
from hardmine.files import read_json, write_json
from hardmine.types import Dataset, ImageState
from hardmine.workflows.step_cache import read_step

TRAINED_ON = "trained_on.json"
_RECORDS = ("train.json", "loop.json")
_log = logging.getLogger(__name__)


def note_trained_on(run: Path, train: Dataset) -> None:
    """Write down what a run was trained on, once it was: its other records may be of a later call."""
    checked, split = (read_step(run, f"prepare/{name}") for name in ("leaks", "split"))
    write_json(
        run / TRAINED_ON,
        {
            "train": None if checked is None else checked["inputs"].get("train"),
            "data": None if split is None else split["inputs"].get("data"),
            "split": None if split is None else split["result"],
            "negatives": [str(r.path) for r in train.records if r.state.is_negative],
        },
    )


def not_trained_on(data: Dataset, checkpoint: object) -> Dataset:
    """Return the images that a checkpoint was not trained on, as far as its run says; the log names it.

    Of data that the run divided these are the ones that it split off. Where it was trained on all of
    the data, all are returned, and a warning says so.

    Args:
        data: labelled images, as they are before unreviewed ones are left out.
        checkpoint: a detector, or what names one; only a file in the folder of a run says something.
    """
    run = _run_of(_folder_of(checkpoint))
    known = None if run is None else _read(run / TRAINED_ON)
    if run is None or known is None:
        return data
    trained_on = known.get("train")
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
    if known.get("split") is None or known.get("data") != data.fingerprint:
        return data
    train, val = (data.subset(known["split"][name]) for name in ("train", "val"))
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


def warn_of_trained_negatives(negatives: Dataset, checkpoint: object) -> None:
    """Say it where images to count alarms on were trained on as empty, as far as the run says.

    They are not left out: of a pool that was mined those that stay are the ones that fire least.
    """
    folder = _folder_of(checkpoint)
    run = _run_of(folder)
    if folder is None or run is None:
        return
    known = _negatives_of(run, folder)
    count = sum(str(record.path) in known for record in negatives.records)
    if count:
        _log.warning(
            "%s: %d of %d images without objects were trained on as empty in %s, so that new images "
            "will have more alarms than these; give images that nothing was trained on or mined from",
            negatives.root,
            count,
            len(negatives),
            run,
        )


def _negatives_of(run: Path, folder: Path) -> set[str]:
    """Return the images that the weights in a folder were trained on as empty."""
    known = set((_read(run / TRAINED_ON) or {}).get("negatives") or ())
    if folder == run:
        return known
    for row in _read(run / "rounds.json") or []:
        if row.get("model") == folder.name and row["round"]:
            place = run / "rounds" / f"{row['arm']}-{row['round']}"
            images = (_read(place / "train.coco.json") or {}).get("images", [])
            empty = [i for i in images if ImageState(i[STATE_KEY]).is_negative]
            return known | {str(place / image["file_name"]) for image in empty}
    return known


def _folder_of(checkpoint: object) -> Path | None:
    """Return the folder that the weights of a checkpoint lie in; None where it is none."""
    from hardmine.inference.load_detector import PREDICTION_SUFFIXES, named_path
    from hardmine.recipes.checkpoint import find_checkpoint

    path = named_path(str(checkpoint)) if isinstance(checkpoint, str | Path) else None
    if path is None or path.suffix.lower() in PREDICTION_SUFFIXES:
        return None
    return find_checkpoint(path).resolve().parent


def _run_of(folder: Path | None) -> Path | None:
    """Return the folder of the run, or of the loop, that weights in a folder belong to."""
    if folder is None:
        return None
    loop = folder.parent.parent
    return loop if folder.parent.name == "models" and (loop / "loop.json").is_file() else folder


def _trainable(data: Dataset) -> Dataset:
    return data.subset(lambda record: record.state.is_trainable)


def _validated_on(run: Path) -> str:
    """Return the path that a run was given to validate on, behind a colon; "" where there is none."""
    for name in _RECORDS:
        given = (_read(run / name) or {}).get("inputs", {}).get("val")
        if isinstance(given, str):
            return f": {given}"
    return ""


def _read(record: Path) -> Any:
    try:
        return read_json(record) if record.is_file() else None
    except DataError:
        return None
