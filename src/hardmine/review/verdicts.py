"""Verdicts on candidates: read from a CSV or from a labelling program's file, kept in the pool store.

What the programs' files say is read in `labelling_files`; which image a name means, in `known_images`.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from hardmine.data.formats.csv_boxes import csv_body
from hardmine.errors import DataError
from hardmine.files import peek_text
from hardmine.mining.candidates_file import read_sheet, verdict_in
from hardmine.mining.pool_store import LABELS, PoolStore
from hardmine.plurals import counted
from hardmine.review.known_images import ROBOFLOW, KnownImages, base_name, read_copies
from hardmine.review.labelling_files import (
    SUFFIXES,
    boxes_in_pixels,
    read_labelling_file,
    verdict_of_word,
)
from hardmine.types import Decision, NamedBox, Verdict

_log = logging.getLogger("hardmine")
_VERDICTS = ", ".join(verdict.value for verdict in Verdict)


class Said(NamedTuple):
    """A verdict, where a file says it (``v.csv:7``, ``tasks.json[3]``), and the objects drawn there."""

    verdict: Verdict
    where: str
    boxes: tuple[NamedBox, ...] = ()


def read_verdicts(path: Path, known: Mapping[str, str]) -> dict[str, Said]:
    """Read ``image,verdict`` rows, or a labelling program's file (``.json``, ``.xml``).

    Further columns (those of ``candidates.csv``) are allowed. Rows whose verdict is blank, and images
    on which a program's file does not say that a person decided, count as not decided yet.

    Args:
        path: the CSV file, UTF-8, with a header line; or the file of a labelling program.
        known: every image ever handed out, by the name it has in ``candidates.csv`` and by its
            path, each to its path.

    Returns:
        dict: verdict, place and boxes by the image's path.

    Raises:
        DataError: no such columns, an unknown verdict, an image that was never handed out, or two
            different verdicts on one image; the line or entry is named.
    """
    if path.suffix.lower() in SUFFIXES:
        return _read_labelled(path, known)
    verdicts: dict[str, Said] = {}
    images = KnownImages(known, read_copies(path))
    for line, row in read_sheet(path, ("image", "verdict")):
        name, said = (row.get("image") or "").strip(), verdict_in(row)
        if not name and not said:
            continue
        where = f"{path}:{line}"
        image = images.find(name, where, with_folders=True)
        if said:
            _add(verdicts, image, name, Said(_verdict(said, where), where))
    return verdicts


def _read_labelled(path: Path, known: Mapping[str, str]) -> dict[str, Said]:
    images = KnownImages(known, read_copies(path))
    verdicts: dict[str, Said] = {}
    bare: list[str] = []
    for entry in read_labelling_file(path):
        where = f"{path}[{entry.place}]"
        image = images.find(entry.name, where)
        if entry.verdict is not None:
            resized = ROBOFLOW.match(base_name(entry.name)) is not None
            own = base_name(image) == base_name(entry.name)
            boxes = () if resized and not own else boxes_in_pixels(entry, image)
            if entry.boxes and not boxes:
                bare.append(entry.name)
            said = Said(entry.verdict, where, boxes)
            _add(verdicts, image, entry.name, said)
    if bare:
        _log.warning(
            "%s: the boxes of %s are left out: the image that was labelled has another shape "
            "than that of the pool, or a box lies outside (%s)",
            path,
            counted(len(bare), "image"),
            ", ".join(bare[:3]),
        )
    return verdicts


def _add(verdicts: dict[str, Said], image: str, name: str, said: Said) -> None:
    earlier = verdicts.setdefault(image, said)
    if earlier.verdict is not said.verdict:
        raise DataError(
            f"{said.where}: {name} is {said.verdict.value} here and {earlier.verdict.value} in "
            f"{earlier.where}"
        )


def has_verdicts(path: Path) -> bool:
    """Return whether a CSV has a column of verdicts."""
    delimiter, text = csv_body(peek_text(path))
    cells = next(csv.reader([text.partition("\n")[0]], delimiter=delimiter), [])
    return "verdict" in {cell.strip().lower() for cell in cells}


def _verdict(said: str, where: str) -> Verdict:
    found = verdict_of_word(said)
    if found is None:
        raise DataError(f"{where}: verdict {said!r}, wanted one of {_VERDICTS}")
    return found


def store_verdicts(store: PoolStore, verdicts: Mapping[str, Said], who: str, model_id: str) -> int:
    """Append what :func:`new_decisions` returns; return how many those were.

    Raises:
        DataError: as :func:`new_decisions`.
    """
    fresh = new_decisions(store, verdicts, who, model_id)
    store.add_decisions(fresh)
    return len(fresh)


def new_decisions(
    store: PoolStore | None, verdicts: Mapping[str, Said], who: str, model_id: str
) -> list[Decision]:
    """Return the verdicts of a file that differ from the latest on file, as decisions.

    Boxes are added to a verdict that has none yet. What a person decided on the page after this file's
    verdict was taken in holds, and is named in a warning.

    Args:
        store: what is on file; ``None``: nothing is.

    Raises:
        DataError: the file contradicts a decision of the page, and nothing shows which of them is later.
    """
    history = {} if store is None else _history(store, verdicts)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh: list[Decision] = []
    overruled: list[str] = []
    for image, (verdict, where, boxes) in verdicts.items():
        said = history.get(image, [])
        if said and said[-1].verdict is verdict and not _adds_boxes(said[-1], boxes):
            continue
        same = bool(said) and said[-1].verdict is verdict
        if not said or same or said[-1].who == who or _is_file(said[-1].who):
            fresh.append(Decision(image, verdict, who, now, model_id, boxes=boxes))
        elif any(_same_list(each.who, who) and each.verdict is verdict for each in said):
            overruled.append(f"{image} ({said[-1].verdict.value}, {said[-1].who})")
        else:
            raise DataError(
                f"{where}: {image} is {verdict.value} here, and {said[-1].who} said "
                f"{said[-1].verdict.value} on the page at {said[-1].when}: change the file, or decide "
                "on the page again"
            )
    if overruled:
        some = ", ".join(overruled[:3]) + (" …" if len(overruled) > 3 else "")
        changed = counted(len(overruled), "verdict was", "verdicts were")
        _log.warning("%s: %s changed on the page: %s", who, changed, some)
    return fresh


def _adds_boxes(said: Decision, boxes: tuple[NamedBox, ...]) -> bool:
    """Return whether a file's boxes count: those of the page stay, those of a file are replaced."""
    if not boxes or not said.boxes:
        return bool(boxes)
    return _is_file(said.who) and said.boxes != boxes


def _history(store: PoolStore, images: Collection[str]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for each in store.decisions_after(0, list(images)):
        if each.queue != LABELS:
            found.setdefault(each.decision.image, []).append(each.decision)
    return found


def _same_list(who: str, other: str) -> bool:
    """Return whether both are one list, also where its folder moved or mining kept it as an old one."""
    names = (re.sub(r"-old(-\d+)?(?=\.\w+$)", "", Path(each).name) for each in (who, other))
    return len(set(names)) == 1


def _is_file(who: str) -> bool:
    return who.lower().endswith((".csv", *SUFFIXES))


def undecided(
    candidates: Sequence[str], decided: Collection[str], path: Path, mentioned: Collection[str]
) -> list[str]:
    """Return the candidates that still lack a verdict.

    Raises:
        DataError: the file has verdicts for some of these candidates and not for others: it is
            half filled in, which is a mistake rather than a file of an earlier round.
    """
    missing = [image for image in candidates if image not in decided]
    if missing and any(image in mentioned for image in candidates):
        some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise DataError(
            f"{path}: {len(missing)} of {len(candidates)} candidates have no verdict: {some}"
        )
    return missing
