"""Verdicts on candidates: read from a CSV that a person filled in, kept in the pool store."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.types import Decision, Verdict

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
    """Append the verdicts that differ from the latest on file; return how many those were."""
    latest = store.decisions()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh = [
        Decision(image, verdict, who, now, model_id)
        for image, (verdict, _) in verdicts.items()
        if image not in latest or latest[image].verdict is not verdict
    ]
    if fresh:
        store.add_decisions(fresh)
    return len(fresh)


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
