"""The pool store: scores, problems, decisions and what was handed out, in one SQLite file.

WAL mode, one writer (an advisory lock beside the file), one transaction per batch, decisions only
appended. Killed anywhere, every committed batch is there and the one under way is absent whole.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.files import clear_disk_errors
from hardmine.types import F32, Decision, PoolScore, Problem, Verdict

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


_VIEW_OF_VERSION_1 = """
CREATE TEMP VIEW scores AS SELECT *, 1 AS exact, NULL AS first_cut FROM main.scores;
"""
"""Stands before the table in every query, so that what may only be read can be read as it is."""

_FROM_VERSION_1 = f"""
ALTER TABLE scores ADD COLUMN exact INTEGER NOT NULL DEFAULT 1;
ALTER TABLE scores ADD COLUMN first_cut REAL;
DROP INDEX scores_by_score;
{INDEXES}
"""


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database, making its tables when it is new; one of an earlier version is brought up to
    the present one, or read as it is when it may only be read.

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
        elif version == 1:
            if read_only:
                database.executescript(_VIEW_OF_VERSION_1)
            else:
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


MAX_STORED_ALARMS = 100
"""Boxes kept per image and model, the best ones; a gallery or a review page shows fewer."""

_COLUMNS = "image, score, label, num_alarms, level, phash, model_id, exact"


class PoolStore:
    """Scores and decisions about a pool; use it as a context manager.

    Images are named by the string that the caller gives (an absolute path).

    Args:
        path: the SQLite file, made with its folder when absent.
        read_only: open without the writer lock; writing then fails.

    Raises:
        DataError: not a pool store, another version, another run is writing, or the disk is full.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        with clear_disk_errors(path):
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = lock_writer(path)
            try:
                self._database = connect(path, read_only=read_only)
            except BaseException:
                self._release()
                raise

    def __enter__(self) -> PoolStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give the lock back; calling it twice is harmless."""
        self._database.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with clear_disk_errors(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # SQLite rolls some errors back itself
                    self._database.execute("ROLLBACK")
                raise

    def add_scores(
        self,
        scores: Sequence[tuple[PoolScore, Detections]],
        problems: Sequence[Problem] = (),
        *,
        model_id: str = "",
    ) -> None:
        """Write one batch in one transaction; an image scored again by the same model is replaced.

        Args:
            scores: each image with the boxes that fired (the best ``MAX_STORED_ALARMS`` are kept).
            problems: images that could not be read; ``model_id`` names the scan that met them.
        """
        rows = [_to_row(score, found) for score, found in scores]
        faults = [(model_id, p.file, p.kind, p.reason) for p in problems]
        gone = [(model_id, p.file) for p in problems]
        with self._transaction() as database:
            database.executemany(_WRITE_SCORE, rows)
            database.executemany(_FORGET_PROBLEM, [row[:2] for row in rows])
            if problems:  # an image that could be read before is no candidate any more
                database.executemany("DELETE FROM scores WHERE model_id = ? AND image = ?", gone)
            database.executemany("INSERT OR REPLACE INTO problems VALUES (?,?,?,?)", faults)

    def pending(self, model_id: str, images: Sequence[str], *, exact: bool = False) -> list[str]:
        """Return those images, in order, that this model has neither scored nor failed to read.

        What could not be reached is looked for again. Meant for some thousands at once.

        Args:
            exact: a score of the fast pass does not count as scored.
        """
        query = (
            "SELECT key FROM json_each(?2) WHERE "
            "NOT EXISTS (SELECT 1 FROM scores WHERE model_id = ?1 AND image = value "
            f"{'AND exact' if exact else ''}) AND "
            "NOT EXISTS (SELECT 1 FROM problems "
            "WHERE model_id = ?1 AND image = value AND kind != 'image_unreachable')"
        )
        rows = self._database.execute(query, (model_id, json.dumps(images)))
        return [images[key] for (key,) in rows]

    def count_problems(self, model_id: str, images: Sequence[str]) -> int:
        """Return how many of those images this model failed to read."""
        query = (
            "SELECT COUNT(*) FROM json_each(?2) WHERE "
            "EXISTS (SELECT 1 FROM problems WHERE model_id = ?1 AND image = value)"
        )
        return int(self._database.execute(query, (model_id, json.dumps(images))).fetchone()[0])

    def iter_ranked(self, model_id: str) -> Iterator[PoolScore]:
        """Yield this model's scores, hardest first (ties by name), straight from the index."""
        query = f"SELECT {_COLUMNS} FROM scores WHERE model_id = ? ORDER BY score DESC, image"
        for row in self._database.execute(query, (model_id,)):
            yield _from_row(row)

    def ranked_after(
        self, model_id: str, last: PoolScore | None, limit: int, *, exact: bool
    ) -> list[PoolScore]:
        """Return up to ``limit`` scores that follow ``last`` (``None``: the first), hardest first.

        Args:
            exact: those at full precision, or else those of the fast pass alone.
        """
        where, values = "", [model_id, int(exact)]
        if last is not None:
            where = "AND score <= ?3 AND (score < ?3 OR image > ?4)"
            values += [last.score, last.image]
        query = (
            f"SELECT {_COLUMNS} FROM scores WHERE model_id = ?1 AND exact = ?2 {where} "
            f"ORDER BY score DESC, image LIMIT {limit:d}"
        )
        return [_from_row(row) for row in self._database.execute(query, values)]

    def score_pairs(self, model_id: str) -> F32:
        """Return exact and fast score of each image that has both, f32[N, 2]."""
        query = (
            "SELECT score, first_cut FROM scores "
            "WHERE model_id = ? AND exact = 1 AND first_cut IS NOT NULL"
        )
        rows = self._database.execute(query, (model_id,)).fetchall()
        return np.array(rows, np.float32).reshape(-1, 2)

    def find(self, model_id: str, image: str) -> PoolScore | None:
        """Return what a model said of one image; nothing when it has not scored it."""
        query = f"SELECT {_COLUMNS} FROM scores WHERE model_id = ? AND image = ?"
        row = self._database.execute(query, (model_id, image)).fetchone()
        return None if row is None else _from_row(row)

    def alarms(self, model_id: str, image: str) -> Detections:
        """Return the stored boxes of one image, best first; none when the image is unknown."""
        query = "SELECT alarms FROM scores WHERE model_id = ? AND image = ?"
        row = self._database.execute(query, (model_id, image)).fetchone()
        return Detections.none() if row is None else unpack_alarms(row[0])

    def problems(self, model_id: str) -> tuple[Problem, ...]:
        """Return the images that this model's scan could not read, by name."""
        query = "SELECT kind, image, -1, reason FROM problems WHERE model_id = ? ORDER BY image"
        return tuple(Problem(*row) for row in self._database.execute(query, (model_id,)))

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Append verdicts in one transaction; earlier ones on the same image stay on file."""
        rows = [(d.image, d.verdict.value, d.who, d.when, d.model_id) for d in decisions]
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO decisions (image, verdict, who, at, model_id) VALUES (?,?,?,?,?)", rows
            )

    def decisions(self) -> dict[str, Decision]:
        """Return the latest verdict on each image that has one."""
        query = "SELECT image, verdict, who, at, model_id FROM decisions ORDER BY id"
        latest = {}
        for image, verdict, who, at, model_id in self._database.execute(query):
            latest[image] = Decision(image, Verdict(verdict), who, at, model_id)
        return latest

    def add_mined(self, arm: str, round_number: int, images: Sequence[str], model_id: str) -> None:
        """Note what was handed out; an image that the arm had before keeps its first round."""
        rows = [(arm, image, round_number, i, model_id) for i, image in enumerate(images)]
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO mined VALUES (?,?,?,?,?)", rows)

    def mined(self, arm: str) -> dict[str, str]:
        """Return the images handed out to an arm, each with the model that they were ranked by."""
        query = "SELECT image, model_id FROM mined WHERE arm = ? ORDER BY round, position"
        return dict(self._database.execute(query, (arm,)).fetchall())


_WRITE_SCORE = """
INSERT INTO scores VALUES (?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (model_id, image) DO UPDATE SET
    score = excluded.score, label = excluded.label, num_alarms = excluded.num_alarms,
    level = excluded.level, phash = excluded.phash, alarms = excluded.alarms,
    exact = excluded.exact,
    first_cut = CASE WHEN excluded.exact THEN scores.first_cut ELSE excluded.first_cut END
"""
_FORGET_PROBLEM = "DELETE FROM problems WHERE model_id = ? AND image = ?"


def _to_row(score: PoolScore, found: Detections) -> tuple[Any, ...]:
    return (
        score.model_id,
        score.image,
        score.score,
        score.label,
        score.num_alarms,
        score.level,
        score.phash,
        pack_alarms(found),
        int(score.exact),
        None if score.exact else score.score,
    )


def _from_row(row: tuple[Any, ...]) -> PoolScore:
    image, score, label, num_alarms, level, phash, model_id, exact = row
    return PoolScore(image, score, label, num_alarms, level, phash, model_id, bool(exact))


def pack_alarms(found: Detections) -> bytes:
    """Return the best ``MAX_STORED_ALARMS`` detections as bytes."""
    kept = min(len(found), MAX_STORED_ALARMS)
    table = np.zeros((kept, 6), "<f4")
    table[:, 0] = found.scores[:kept]
    table[:, 1] = found.labels[:kept]
    table[:, 2:] = found.boxes[:kept]
    return table.tobytes()


def unpack_alarms(blob: bytes) -> Detections:
    """Return the detections that :func:`pack_alarms` packed."""
    table = np.frombuffer(blob, "<f4").reshape(-1, 6)
    return Detections(
        table[:, 2:].astype(np.float32),
        table[:, 0].astype(np.float32),
        table[:, 1].astype(np.int64),
    )
