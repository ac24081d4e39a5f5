"""Verdicts on candidates: read from a CSV that a person filled in, kept in the pool store."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hardmine.errors import DataError
from hardmine.mining.pool_store import LABELS, PoolStore
from hardmine.types import Decision, Verdict

_log = logging.getLogger("hardmine")
_VERDICTS = ", ".join(verdict.value for verdict in Verdict)


def read_verdicts(path: Path, known: Mapping[str, str]) -> dict[str, tuple[Verdict, int]]:
    """Read ``image,verdict`` rows; further columns (those of ``candidates.csv``) are allowed.

    Rows whose verdict is blank count as not decided yet.

    Args:
        path: the CSV file, UTF-8, with a header line.
        known: every image ever handed out, by the name it has in ``candidates.csv`` and by its
            path, each to its path.

    Returns:
        dict: verdict and line number by the image's path.

    Raises:
        DataError: no such columns, an unknown verdict, an image that was never handed out, or two
            different verdicts on one image; the line is named.
    """
    rows = _rows(path)
    verdicts: dict[str, tuple[Verdict, int]] = {}
    for line, row in rows:
        name, said = (row.get("image") or "").strip(), (row.get("verdict") or "").strip().lower()
        if not name and not said:
            continue
        if name not in known:
            raise DataError(f"{path}:{line}: image {name!r} was never handed out")
        if not said:
            continue
        verdict = _verdict(said, f"{path}:{line}")
        earlier = verdicts.setdefault(known[name], (verdict, line))
        if earlier[0] is not verdict:
            raise DataError(
                f"{path}:{line}: {name} is {said} here and {earlier[0].value} in line {earlier[1]}"
            )
    return verdicts


def _rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            names = [str(name).strip() for name in reader.fieldnames or ()]
            if not {"image", "verdict"} <= set(names):
                raise DataError(f"{path}:1: got columns {names}, wanted image and verdict")
            reader.fieldnames = names
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _verdict(said: str, where: str) -> Verdict:
    try:
        return Verdict(said)
    except ValueError:
        raise DataError(f"{where}: verdict {said!r}, wanted one of {_VERDICTS}") from None


def store_verdicts(
    store: PoolStore, verdicts: Mapping[str, tuple[Verdict, int]], who: str, model_id: str
) -> int:
    """Append the verdicts that differ from the latest on file; return how many those were.

    What a person decided on the page after this file's verdict was taken in holds, and is named in a
    warning.

    Raises:
        DataError: the file contradicts a decision of the page, and it cannot be told which is later.
    """
    history = _history(store, verdicts)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh: list[Decision] = []
    overruled: list[str] = []
    for image, (verdict, line) in verdicts.items():
        said = history.get(image, [])
        if said and said[-1].verdict is verdict:
            continue
        if not said or said[-1].who == who or _is_file(said[-1].who):
            fresh.append(Decision(image, verdict, who, now, model_id))
        elif any(each.who == who and each.verdict is verdict for each in said):
            overruled.append(f"{image} ({said[-1].verdict.value}, {said[-1].who})")
        else:
            raise DataError(
                f"{who}:{line}: {image} is {verdict.value} here, and {said[-1].who} said "
                f"{said[-1].verdict.value} on the page at {said[-1].when}: change the line, or decide "
                "on the page again"
            )
    if overruled:
        some = ", ".join(overruled[:3]) + (" …" if len(overruled) > 3 else "")
        _log.warning("%s: %d verdicts were changed on the page: %s", who, len(overruled), some)
    if fresh:
        store.add_decisions(fresh)
    return len(fresh)


def _history(store: PoolStore, images: Collection[str]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for each in store.decisions_after(0, list(images)):
        if each.queue != LABELS:
            found.setdefault(each.decision.image, []).append(each.decision)
    return found


def _is_file(who: str) -> bool:
    return who.lower().endswith(".csv")


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
