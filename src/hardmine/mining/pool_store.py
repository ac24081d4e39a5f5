"""The pool store: scores, problems, decisions and what was handed out, in one SQLite file.

WAL mode, one run at a time that scans (an advisory lock beside the file), one transaction per batch,
decisions only appended. Killed anywhere, every committed batch is there and the one under way is absent
whole. Decisions may be appended while a run scans: SQLite lets one transaction follow the other.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.files import clear_disk_errors, means_full_disk
from hardmine.types import F32, Decision, NamedBox, PoolScore, Problem, Verdict

SCHEMA_VERSION = 4

INDEXES = """
CREATE INDEX scores_by_score ON scores (model_id, score DESC, image);
CREATE INDEX scores_by_exact ON scores (model_id, exact, score DESC, image);
"""

_TAKEN_BACK = """
CREATE TABLE taken_back (
    id INTEGER PRIMARY KEY AUTOINCREMENT, decision INTEGER NOT NULL UNIQUE,
    who TEXT NOT NULL, at TEXT NOT NULL
);
CREATE TRIGGER taken_back_stay BEFORE UPDATE ON taken_back
    BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
CREATE TRIGGER taken_back_last BEFORE DELETE ON taken_back
    BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
"""

_TABLES = f"""
CREATE TABLE scores (
    model_id TEXT NOT NULL, image TEXT NOT NULL, score REAL NOT NULL, label INTEGER NOT NULL,
    num_alarms INTEGER NOT NULL, level INTEGER NOT NULL, phash INTEGER NOT NULL,
    alarms BLOB NOT NULL, exact INTEGER NOT NULL DEFAULT 1, first_cut REAL, stamp TEXT,
    PRIMARY KEY (model_id, image)
) WITHOUT ROWID;
{INDEXES}
CREATE TABLE problems (
    model_id TEXT NOT NULL, image TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
    stamp TEXT NOT NULL DEFAULT '', PRIMARY KEY (model_id, image)
) WITHOUT ROWID;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, image TEXT NOT NULL, verdict TEXT NOT NULL,
    who TEXT NOT NULL, at TEXT NOT NULL, model_id TEXT NOT NULL,
    shown TEXT NOT NULL DEFAULT '[]', boxes TEXT NOT NULL DEFAULT '[]',
    action INTEGER, queue TEXT NOT NULL DEFAULT ''
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
{_TAKEN_BACK}
"""


_VIEW_OF_VERSION_1 = """
CREATE TEMP VIEW scores AS
    SELECT *, 1 AS exact, NULL AS first_cut, NULL AS stamp FROM main.scores;
"""
"""Stands before the table in every query, so that what may only be read can be read as it is."""

_VIEW_OF_VERSION_2 = """
CREATE TEMP VIEW decisions AS
    SELECT *, '[]' AS shown, '[]' AS boxes, NULL AS action, '' AS queue FROM main.decisions;
CREATE TEMP TABLE taken_back (id INTEGER, decision INTEGER, who TEXT, at TEXT);
"""

_VIEW_OF_PROBLEMS = """
CREATE TEMP VIEW problems AS SELECT *, '' AS stamp FROM main.problems;
"""
_VIEW_OF_VERSION_3 = f"""
CREATE TEMP VIEW scores AS SELECT *, NULL AS stamp FROM main.scores;
{_VIEW_OF_PROBLEMS}
"""

_FROM_VERSION_1 = f"""
ALTER TABLE scores ADD COLUMN exact INTEGER NOT NULL DEFAULT 1;
ALTER TABLE scores ADD COLUMN first_cut REAL;
DROP INDEX scores_by_score;
{INDEXES}
"""

_FROM_VERSION_2 = f"""
ALTER TABLE decisions ADD COLUMN shown TEXT NOT NULL DEFAULT '[]';
ALTER TABLE decisions ADD COLUMN boxes TEXT NOT NULL DEFAULT '[]';
ALTER TABLE decisions ADD COLUMN action INTEGER;
ALTER TABLE decisions ADD COLUMN queue TEXT NOT NULL DEFAULT '';
{_TAKEN_BACK}
"""

_FROM_VERSION_3 = """
ALTER TABLE scores ADD COLUMN stamp TEXT;
ALTER TABLE problems ADD COLUMN stamp TEXT NOT NULL DEFAULT '';
"""

_VIEWS = {
    1: _VIEW_OF_VERSION_1 + _VIEW_OF_VERSION_2 + _VIEW_OF_PROBLEMS,
    2: _VIEW_OF_VERSION_2 + _VIEW_OF_VERSION_3,
    3: _VIEW_OF_VERSION_3,
}
_CHANGES = {
    1: _FROM_VERSION_1 + _FROM_VERSION_2 + _FROM_VERSION_3,
    2: _FROM_VERSION_2 + _FROM_VERSION_3,
    3: _FROM_VERSION_3,
}


_PATIENCE = 30.0
"""Seconds that a transaction waits for one of another process."""


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database, making its tables when it is new; one of an earlier version is brought up to
    the present one, or read as it is when it may only be read.

    Raises:
        DataError: the file is not a pool store, or one of another version.
    """
    try:
        return _open_checked(path, read_only=read_only)
    except sqlite3.DatabaseError as error:
        if means_full_disk(error, path):
            raise  # the caller says it
        raise DataError(f"{path}: cannot be used as a pool store: {error}") from error


def _open_checked(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=_PATIENCE
    )
    try:
        database.isolation_level = None  # transactions are opened explicitly
        version = _version_of(database)
        if version == 0 and not read_only:
            database.execute("PRAGMA journal_mode = WAL")
            _change(database, _TABLES)
        elif version in _CHANGES:
            if read_only:
                database.executescript(_VIEWS[version])
            else:
                _change(database, _CHANGES[version])
        elif version != SCHEMA_VERSION:
            newer = ": update hardmine to open it" if version > SCHEMA_VERSION else ""
            raise DataError(
                f"{path}: pool store of version {version}, this release reads {SCHEMA_VERSION}{newer}"
            )
        if not read_only:
            database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _change(database: sqlite3.Connection, script: str) -> None:
    """Run a script that leads to the present version, whole or not at all; another process may too."""
    steps = f"BEGIN IMMEDIATE;{script}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
    try:
        database.executescript(steps)
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        if _version_of(database) != SCHEMA_VERSION:
            raise


def _version_of(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


_ATTEMPTS = 4


def lock_writer(path: Path) -> IO[bytes]:
    """Take the store's writer lock; it goes when the returned file closes or the process dies.

    Raises:
        DataError: another run holds it.
    """
    handle = path.with_name(path.name + ".lock").open("ab")
    for attempt in range(_ATTEMPTS):  # a review page looks for an instant whether the lock is free
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02 * (attempt < _ATTEMPTS - 1))
        else:
            return handle
    handle.close()
    raise DataError(
        f"{path}: another run is writing to this pool store; wait for it or use another --out"
    )


MAX_STORED_ALARMS = 100
"""Boxes kept per image and model, the best ones; a gallery or a review page shows fewer."""

_COLUMNS = "image, score, label, num_alarms, level, phash, model_id, exact"


LABELS = "labels"
"""The queue of labelled images whose boxes a model contradicts: decisions there are about the labels."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision with its number in the store, the action that it is a part of, and its queue."""

    number: int
    action: int
    queue: str
    decision: Decision


class PoolStore:
    """Scores and decisions about a pool; use it as a context manager.

    Images are named by the string that the caller gives (an absolute path). Beside a score or a problem
    stands the stamp of the image's file, so that a picture that was replaced is scored anew.

    Args:
        path: the SQLite file, made with its folder when absent.
        read_only: open without the writer lock; writing then fails.
        beside_a_run: open without the writer lock, to append decisions while a run may be scanning.

    Raises:
        DataError: not a pool store, another version, another run is writing, or the disk is full.
    """

    def __init__(self, path: Path, *, read_only: bool = False, beside_a_run: bool = False) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        with clear_disk_errors(path):
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not beside_a_run:
                    self._lock = lock_writer(path)
            try:
                self._database = connect(path, read_only=read_only)
                if beside_a_run:
                    self._database.execute("PRAGMA busy_timeout = 3000")  # a person waits
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
        stamps: Mapping[str, str] | None = None,
    ) -> None:
        """Write one batch in one transaction; an image scored again by the same model is replaced.

        Args:
            scores: each image with the boxes that fired (the best ``MAX_STORED_ALARMS`` are kept).
            problems: images that could not be read; ``model_id`` names the scan that met them.
            stamps: the ``file_stamp`` of each image's file before it was read; one that is scored again
                without it keeps what is known.
        """
        known = stamps or {}
        rows = [(*_to_row(score, found), known.get(score.image)) for score, found in scores]
        faults = [(model_id, p.file, p.kind, p.reason, known.get(p.file, "")) for p in problems]
        gone = [(model_id, p.file) for p in problems]
        with self._transaction() as database:
            database.executemany(_WRITE_SCORE, rows)
            database.executemany(_FORGET_PROBLEM, [row[:2] for row in rows])
            if problems:  # an image that could be read before is no candidate any more
                database.executemany("DELETE FROM scores WHERE model_id = ? AND image = ?", gone)
            database.executemany("INSERT OR REPLACE INTO problems VALUES (?,?,?,?,?)", faults)

    def forget_gone(self, model_id: str, packed: Mapping[str, str]) -> None:
        """Forget what a model made of images that an archive or a video held before it was changed.

        Args:
            packed: how the names in each file begin, to the stamp of the file; all that it holds now has
                been scored with this stamp. Nothing is known of a file whose stamp is "".
        """
        ranges = [
            (model_id, start, _after(start), stamp) for start, stamp in packed.items() if stamp
        ]
        with self._transaction() as database:
            for table in ("scores", "problems"):
                database.executemany(
                    f"DELETE FROM {table} WHERE model_id = ? AND image >= ? AND image < ? "
                    "AND stamp != '' AND stamp != ?",
                    ranges,
                )

    def one_per_range(
        self, model_id: str, mark: str, start_of: Callable[[str], str]
    ) -> Iterator[tuple[str, str]]:
        """Yield (start, image): one image with the mark in its name for each start of such names.

        Args:
            start_of: how the names that belong together with an image's begin; "" for none.
        """
        for table in ("scores", "problems"):
            query = (
                f"SELECT image FROM {table} WHERE model_id = ? AND image >= ? AND instr(image, ?) > 0 "
                "ORDER BY image LIMIT 1"
            )
            at = ""
            while row := self._database.execute(query, (model_id, at, mark)).fetchone():
                if start := start_of(row[0]):
                    yield start, row[0]
                at = _after(start) if start else row[0] + "\0"

    def pending(
        self,
        model_id: str,
        images: Sequence[str],
        *,
        stamps: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> list[str]:
        """Return those images, in order, that this model has neither scored nor failed to read.

        What could not be reached is looked for again, and so is what was written anew since then. Scores
        of earlier versions of the store, which noted no stamps, are taken as they are, and so is what
        stands of an image that a person decided on: it shows that the picture is another one now. Meant
        for some thousands at once.

        Args:
            stamps: the ``file_stamp`` of each image's file as it is now; "" where none is given.
            exact: a score of the fast pass does not count as scored.
        """
        query = (
            "WITH asked AS (SELECT key, json_extract(value, '$[0]') AS name, "
            "json_extract(value, '$[1]') AS now FROM json_each(?2)) "
            "SELECT key FROM asked WHERE "
            "NOT EXISTS (SELECT 1 FROM scores WHERE model_id = ?1 AND image = name "
            "AND (COALESCE(stamp, now) = now "
            "OR EXISTS (SELECT 1 FROM decisions WHERE decisions.image = name)) "
            f"{'AND exact' if exact else ''}) AND "
            "NOT EXISTS (SELECT 1 FROM problems WHERE model_id = ?1 AND image = name "
            "AND stamp = now AND kind != 'image_unreachable')"
        )
        known = stamps or {}
        asked = json.dumps([(image, known.get(image, "")) for image in images])
        return [images[key] for (key,) in self._database.execute(query, (model_id, asked))]

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

    def add_decisions(self, decisions: Sequence[Decision], *, queue: str = "") -> int:
        """Append verdicts in one transaction; earlier ones on the same image stay on file.

        Args:
            queue: what they were asked in: "" for candidates; :data:`LABELS` when the question was
                whether the labels of an image are right.

        Returns:
            int: the action, by which they are taken back together; 0 without decisions.
        """
        rows = [
            (d.image, d.verdict.value, d.who, d.when, d.model_id, _boxes(d.shown), _boxes(d.boxes))
            for d in decisions
        ]
        if not rows:
            return 0
        with self._transaction() as database:
            last = database.execute("SELECT MAX(id) FROM decisions").fetchone()[0]
            action = (last or 0) + 1
            database.executemany(_ADD_DECISION, [(*row, action, queue) for row in rows])
        return int(action)

    def take_back(self, action: int, who: str, when: str) -> None:
        """Take back all decisions of one action; they stay on file, and count no longer."""
        with self._transaction() as database:
            database.execute(_TAKE_BACK, {"action": action, "who": who, "when": when})

    def decisions(self) -> dict[str, Decision]:
        """Return the latest verdict on each image that has one and that was not taken back.

        What was said in the queue :data:`LABELS` is about labels, and is left out.
        """
        found = self.decisions_after(0)
        return {each.decision.image: each.decision for each in found if each.queue != LABELS}

    def decisions_after(
        self, number: int, images: Sequence[str] | None = None
    ) -> list[StoredDecision]:
        """Return the decisions with a higher number that were not taken back, in their order.

        Args:
            images: return those on these images only.
        """
        where, values = "", [number]
        if images is not None:
            where = "AND image IN (SELECT value FROM json_each(?2))"
            values.append(json.dumps(images))  # type: ignore[arg-type]
        query = (
            "SELECT id, COALESCE(action, id), queue, image, verdict, who, at, model_id, shown, boxes "
            "FROM decisions WHERE id > ?1 AND id NOT IN (SELECT decision FROM taken_back) "
            f"{where} ORDER BY id"
        )
        return [_stored(row) for row in self._database.execute(query, values)]

    def taken_back_after(self, number: int) -> list[tuple[int, str]]:
        """Return (number, image) of each decision that was taken back, after the one of ``number``."""
        query = (
            "SELECT t.id, d.image FROM taken_back t JOIN decisions d ON d.id = t.decision "
            "WHERE t.id > ? ORDER BY t.id"
        )
        return [(int(at), str(image)) for at, image in self._database.execute(query, (number,))]

    def last_action(self, who: str) -> int | None:
        """Return the latest action of a person that was not taken back."""
        query = (
            "SELECT COALESCE(action, id) FROM decisions WHERE who = ? "
            "AND id NOT IN (SELECT decision FROM taken_back) ORDER BY id DESC LIMIT 1"
        )
        row = self._database.execute(query, (who,)).fetchone()
        return None if row is None else int(row[0])

    def is_being_scanned(self) -> bool:
        """Say whether a run holds the writer lock now."""
        try:
            lock_writer(self.path).close()
        except DataError:
            return True
        return False

    def add_mined(self, arm: str, round_number: int, images: Sequence[str], model_id: str) -> None:
        """Note what was handed out; an image that the arm had before keeps its first round."""
        rows = [(arm, image, round_number, i, model_id) for i, image in enumerate(images)]
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO mined VALUES (?,?,?,?,?)", rows)

    def mined(self, arm: str) -> dict[str, str]:
        """Return the images handed out to an arm, each with the model that they were ranked by."""
        query = "SELECT image, model_id FROM mined WHERE arm = ? ORDER BY round, position"
        return dict(self._database.execute(query, (arm,)).fetchall())

    def all_mined(self) -> list[tuple[str, int, str, str]]:
        """Return (arm, round, image, model) of all that was handed out, in that order."""
        query = "SELECT arm, round, image, model_id FROM mined ORDER BY round, arm, position"
        return self._database.execute(query).fetchall()

    def model_ids(self) -> list[str]:
        """Return the models that have scored images; by number of images, fewest first."""
        query = "SELECT model_id FROM scores GROUP BY model_id ORDER BY COUNT(*), model_id"
        return [str(model) for (model,) in self._database.execute(query)]


_WRITE_SCORE = """
INSERT INTO scores VALUES (?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (model_id, image) DO UPDATE SET
    score = excluded.score, label = excluded.label, num_alarms = excluded.num_alarms,
    level = excluded.level, phash = excluded.phash, alarms = excluded.alarms,
    exact = excluded.exact,
    first_cut = CASE
        WHEN excluded.exact
            AND COALESCE(excluded.stamp, scores.stamp) IS COALESCE(scores.stamp, excluded.stamp)
        THEN scores.first_cut ELSE excluded.first_cut END,
    stamp = COALESCE(excluded.stamp, scores.stamp)
"""
_FORGET_PROBLEM = "DELETE FROM problems WHERE model_id = ? AND image = ?"


_ADD_DECISION = """
INSERT INTO decisions (image, verdict, who, at, model_id, shown, boxes, action, queue)
VALUES (?,?,?,?,?,?,?,?,?)
"""
_TAKE_BACK = """
INSERT OR IGNORE INTO taken_back (decision, who, at)
SELECT id, :who, :when FROM decisions WHERE COALESCE(action, id) = :action
"""


def _boxes(boxes: Sequence[NamedBox]) -> str:
    return json.dumps([box.to_list() for box in boxes], allow_nan=False)


def _stored(row: tuple[Any, ...]) -> StoredDecision:
    number, action, queue, image, verdict, who, at, model_id, shown, boxes = row
    seen, drawn = (tuple(map(NamedBox.from_list, json.loads(text))) for text in (shown, boxes))
    said = Decision(image, Verdict(verdict), who, at, model_id, seen, drawn)
    return StoredDecision(number, action, queue, said)


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


def _after(start: str) -> str:
    """Return what sorts after every name that begins so, and before all others after them."""
    return start[:-1] + chr(ord(start[-1]) + 1)


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
