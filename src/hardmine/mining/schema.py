"""The tables of the pool store and its single-writer lock."""

from __future__ import annotations

import fcntl
import sqlite3
from pathlib import Path
from typing import IO

from hardmine.errors import DataError

SCHEMA_VERSION = 2

INDEXES = """
CREATE INDEX scores_by_score ON scores (model_id, score DESC, image);
CREATE INDEX scores_by_exact ON scores (model_id, exact, score DESC, image);
"""

_TABLES = f"""
CREATE TABLE scores (
    model_id TEXT NOT NULL, image TEXT NOT NULL, score REAL NOT NULL, label INTEGER NOT NULL,
    num_alarms INTEGER NOT NULL, level INTEGER NOT NULL, phash INTEGER NOT NULL,
    alarms BLOB NOT NULL, exact INTEGER NOT NULL DEFAULT 1, first_cut REAL,
    PRIMARY KEY (model_id, image)
) WITHOUT ROWID;
{INDEXES}
CREATE TABLE problems (
    model_id TEXT NOT NULL, image TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (model_id, image)
) WITHOUT ROWID;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, image TEXT NOT NULL, verdict TEXT NOT NULL,
    who TEXT NOT NULL, at TEXT NOT NULL, model_id TEXT NOT NULL
);
CREATE INDEX decisions_by_image ON decisions (image, id);
CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
    BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
CREATE TRIGGER decisions_last BEFORE DELETE ON decisions
    BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
CREATE TABLE mined (
    arm TEXT NOT NULL, image TEXT NOT NULL, round INTEGER NOT NULL, position INTEGER NOT NULL,
    model_id TEXT NOT NULL, PRIMARY KEY (arm, image)
) WITHOUT ROWID;
"""


_FROM_VERSION_1 = f"""
ALTER TABLE scores ADD COLUMN exact INTEGER NOT NULL DEFAULT 1;
ALTER TABLE scores ADD COLUMN first_cut REAL;
DROP INDEX scores_by_score;
{INDEXES}
"""


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database, making its tables when it is new.

    Raises:
        DataError: the file is not a pool store, or one of another version.
    """
    try:
        return _open_checked(path, read_only=read_only)
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error):
            raise
        raise DataError(f"{path}: cannot be used as a pool store: {error}") from error


def _open_checked(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30.0)
    try:
        database.isolation_level = None  # transactions are opened explicitly
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version == 0 and not read_only:
            database.execute("PRAGMA journal_mode = WAL")
            _change(database, _TABLES)
        elif version == 1 and not read_only:
            _change(database, _FROM_VERSION_1)
        elif version != SCHEMA_VERSION:
            raise DataError(
                f"{path}: pool store of version {version}, this release reads {SCHEMA_VERSION}"
            )
        if not read_only:
            database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _change(database: sqlite3.Connection, script: str) -> None:
    """Run a script that leads to the present version, whole or not at all."""
    try:
        database.executescript(f"BEGIN;{script}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def lock_writer(path: Path) -> IO[bytes]:
    """Take the store's writer lock; it goes when the returned file closes or the process dies.

    Raises:
        DataError: another run holds it.
    """
    handle = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise DataError(
            f"{path}: another run is writing to this pool store; wait for it or use another --out"
        ) from None
    return handle
