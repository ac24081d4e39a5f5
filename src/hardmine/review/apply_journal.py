"""The journal of an apply: what it writes and changes in a data set, so that it can be taken back.

It lies in ``.hardmine-apply/`` beside the labels, names every file that is made and holds a copy of
every file that is changed. It is written before anything else and marked as done last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_files import JOURNALS
from hardmine.data.formats.label_format import Additions
from hardmine.errors import DataError
from hardmine.files import alone, write_bytes, write_json

_log = logging.getLogger(__name__)
BUSY = "another apply is changing this data set; wait until it is done"
"""What a second apply is told: it would take back what the first has not finished."""


def undo_apply(data: Path | str, *, dry_run: bool = False) -> int:
    r"""Take the last apply back: remove the files that it made, and restore those that it changed.

    A file that was made and has been changed since stays, with a warning. In a copy of the data set, the
    files of the copy are meant.

    Args:
        dry_run: touch nothing, count only.

    Returns:
        How many files were removed or restored, or would be.

    Raises:
        DataError: nothing was applied, a label file has been changed since, or the data set was copied
            without all that was changed; then nothing is touched.

    Example:
        >>> mined = hardmine.mine(detector, "pool", top=2, out="mined")
        >>> sheet = Path("mined/candidates.csv")
        >>> _ = sheet.write_text(sheet.read_text().replace(",0,\n", ",0,empty\n"))
        >>> len(hardmine.apply_decisions(sheet, data.to_yolo("mine").out).empty)
        2
        >>> hardmine.undo_apply("mine")
        4
    """
    root = root_of(Path(data))
    journals = _journals(root)
    if not journals:
        raise DataError(
            f"{data}: nothing was applied here, so that there is nothing to undo"
            f"{_other_place(Path(data))}"
        )
    if dry_run:
        return take_back(root, journals[-1], dry_run=True)
    with alone(root, BUSY):
        return take_back(root, journals[-1])


def root_of(data: Path) -> Path:
    """Return the folder in which the journals of a data set lie, which is named by folder or file."""
    return data.resolve() if data.is_dir() else data.resolve().parent


def _journals(root: Path) -> list[Path]:
    return sorted((root / JOURNALS).glob("*.json"))


def _other_place(data: Path) -> str:
    """Return where the journal lies when the data were named by another path then, in words."""
    root = root_of(data)
    around = (root.parent,) if data.is_file() else sorted(root.iterdir()) if root.is_dir() else ()
    for folder in around:
        for journal in _journals(folder):
            with suppress(DataError):
                changed = [each["path"] for each in _read_journal(folder, journal)["changed"]]
                if data.is_dir() and changed:
                    return f"; something was applied to {changed[0]}: name that"
                if str(data.resolve()) in changed:
                    return f"; something was applied to {folder}: name that"
    return ""


def _read_journal(root: Path, journal: Path) -> dict[str, Any]:
    """Return a journal with the paths that its files have now, also where the data set was moved.

    Raises:
        DataError: it was moved, and what was written lies outside of it.
    """
    record: dict[str, Any] = json.loads(journal.read_text(encoding="utf-8"))
    before = Path(record["root"])
    if before == root:
        return record

    def place(written: str) -> str:
        """Return the path of a file of the data set here."""
        path = Path(written)
        if not path.is_relative_to(before):
            raise DataError(
                f"{root}: was copied or moved from {before}, and {path}, which the apply wrote, lies "
                "outside of that; nothing is undone"
            )
        return str(root / path.relative_to(before))

    record["made"] = {place(path): digest for path, digest in record["made"].items()}
    record["folders"] = [place(path) for path in record["folders"]]
    record["changed"] = [{**each, "path": place(each["path"])} for each in record["changed"]]
    return record


def take_back_unfinished(root: Path) -> None:
    """Take back what applies that were killed had written."""
    for journal in reversed(_journals(root)):
        if not json.loads(journal.read_text(encoding="utf-8"))["done"]:
            _log.warning("%s: an apply was interrupted; what it had written is taken back", root)
            take_back(root, journal)


def begin_journal(
    root: Path, additions: Additions, digests: Mapping[Path, str], stay: Sequence[Path]
) -> Path:
    """Write a journal of what will be written, and return its file.

    Args:
        digests: of each picture that will be made, by its path.
        stay: pictures that are named where they lie.
    """
    folder = root / JOURNALS
    number = 1 + max((int(path.stem) for path in _journals(root)), default=0)
    journal, backups = folder / f"{number:04d}.json", folder / f"{number:04d}"
    made = dict(digests)
    made |= {path: digest_of(text.encode()) for path, text in additions.new_files.items()}
    changed = []
    for index, (path, content) in enumerate(additions.edits.items()):
        before = path.read_bytes()
        write_bytes(backups / str(index), before)
        changed.append(
            {
                "path": str(path),
                "before": digest_of(before),
                "after": digest_of(content),
                "backup": f"{number:04d}/{index}",
            }
        )
    record: dict[str, Any] = {
        "root": str(root),
        "done": False,
        "references": [str(path) for path in stay],
        "made": {str(path): digest for path, digest in made.items()},
        "folders": [str(path) for path in _missing_folders(made)],
        "changed": changed,
    }
    write_json(journal, record)
    return journal


def end_journal(journal: Path) -> None:
    """Mark all that a journal names as written."""
    record = json.loads(journal.read_text(encoding="utf-8"))
    write_json(journal, {**record, "done": True})


def rewrite(path: Path, content: bytes) -> None:
    """Write a file of the user's anew: a link to it stays one, and so does who may read and write it."""
    place = path.resolve()
    mode = place.stat().st_mode & 0o7777
    write_bytes(place, content)
    place.chmod(mode)


def _missing_folders(files: Mapping[Path, str]) -> list[Path]:
    """Return the folders that will be made for the files, inner ones first."""
    missing = {folder for path in files for folder in path.parents if not folder.exists()}
    return sorted(missing, key=lambda folder: -len(folder.parts))


def take_back(root: Path, journal: Path, *, dry_run: bool = False) -> int:
    """Remove and restore what a journal names, and the journal; return how many files that were.

    Raises:
        DataError: as :func:`undo_apply`.
    """
    record = _read_journal(root, journal)
    restore = []
    for entry in record["changed"]:
        path = Path(entry["path"])
        now = digest_of(path.read_bytes()) if path.is_file() else ""
        if now == entry["after"]:
            restore.append((path, (root / JOURNALS / entry["backup"]).read_bytes()))
        elif now != entry["before"]:
            raise DataError(
                f"{path}: has been changed since it was written; nothing is undone. The file as it was "
                f"before lies in {root / JOURNALS / entry['backup']}"
            )
    made = {Path(name): digest for name, digest in record["made"].items()}
    going = [path for path, digest in made.items() if _is_as_made(path, digest)]
    if dry_run:
        return len(restore) + len(going)
    for path, content in restore:
        rewrite(path, content)
    for path in going:
        path.unlink()
    for folder in map(Path, record["folders"]):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    journal.unlink()
    shutil.rmtree(root / JOURNALS / journal.stem, ignore_errors=True)
    if not any((root / JOURNALS).iterdir()):
        (root / JOURNALS).rmdir()
    return len(restore) + len(going)


def _is_as_made(path: Path, digest: str) -> bool:
    """Return whether a file is as an apply made it; a symbolic link always is."""
    if path.is_symlink():
        return True
    if not path.is_file():
        return False
    if digest_of(path.read_bytes()) != digest:
        _log.warning("%s: has been changed since it was written, and stays", path)
        return False
    return True


def digest_of(content: bytes) -> str:
    """Return what tells whether a file is still as it was."""
    return hashlib.sha256(content).hexdigest()
