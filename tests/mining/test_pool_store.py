from __future__ import annotations

import errno
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.files import clear_disk_errors
from hardmine.mining import pool_store
from hardmine.mining.pool_store import (
    LABELS,
    MAX_STORED_ALARMS,
    PoolStore,
    pack_alarms,
    unpack_alarms,
)
from hardmine.types import Decision, ImageState, NamedBox, PoolScore, Problem, Verdict


def score_of(image: str, score: float, model: str = "m", phash: int = 0) -> PoolScore:
    return PoolScore(image, score, 1, 1, 0, phash, model)


def found(*scores: float) -> Detections:
    boxes = np.array([[i, 0.5, i + 2, 4] for i in range(len(scores))], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float32), np.ones(len(scores), np.int64))


def fill(store: PoolStore, *pairs: tuple[str, float], model: str = "m") -> None:
    store.add_scores([(score_of(i, s, model), found(s)) for i, s in pairs], model_id=model)


def test_scores_come_back_hardest_first_with_ties_by_name(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        fill(store, ("b", 0.5), ("c", 0.9), ("a", 0.5))
        fill(store, ("z", 1.0), model="other")
        assert [s.image for s in store.iter_ranked("m")] == ["c", "a", "b"]
        assert len(list(store.iter_ranked("m"))) == 3


def test_ranking_reads_the_index_and_sorts_nothing(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        fill(store, ("a", 0.5))
        seen: list[str] = []
        store._database.set_trace_callback(seen.append)
        list(store.iter_ranked("m"))
        store._database.set_trace_callback(None)
        plan = " ".join(map(str, store._database.execute(f"EXPLAIN QUERY PLAN {seen[0]}")))
    assert "scores_by_score" in plan
    assert "TEMP B-TREE" not in plan


def test_it_is_in_wal_mode(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        assert store._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_all_survives_closing(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as store:
        lowest = -(2**63)
        store.add_scores(
            [(PoolScore("a", 0.25, 2, 7, 3, lowest, "m"), found(0.25, 0.125))],
            [Problem("image_truncated", "bad.jpg", -1, "cut off")],
            model_id="m",
        )
        store.add_mined("mined", 1, ["a"], "m")
    with PoolStore(path) as store:
        assert list(store.iter_ranked("m")) == [PoolScore("a", 0.25, 2, 7, 3, lowest, "m")]
        assert store.problems("m") == (Problem("image_truncated", "bad.jpg", -1, "cut off"),)
        assert store.problems("other") == ()
        assert store.mined("mined") == {"a": "m"}
        kept = store.alarms("m", "a")
    assert kept.scores.tolist() == [0.25, 0.125]
    assert kept.boxes.tolist() == [[0.0, 0.5, 2.0, 4.0], [1.0, 0.5, 3.0, 4.0]]


def test_pending_leaves_out_what_this_model_scored_or_failed_on(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        fill(store, ("a", 0.5))
        store.add_scores([], [Problem("image_missing", "bad", -1, "r")], model_id="m")
        assert store.pending("m", ["c", "bad", "a", "b"]) == ["c", "b"]
        assert store.pending("other", ["bad", "a"]) == ["bad", "a"]
        assert store.pending("m", []) == []


def test_what_could_not_be_reached_is_looked_for_again(tmp_path: Path) -> None:
    faults = [
        Problem(kind, f"{kind}.jpg", -1, "r") for kind in ("image_unreachable", "image_missing")
    ]
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_scores([], faults, model_id="m")
        assert store.pending("m", [fault.file for fault in faults]) == ["image_unreachable.jpg"]
        assert store.count_problems("m", [*(fault.file for fault in faults), "c"]) == 2
        assert store.count_problems("other", [fault.file for fault in faults]) == 0


def test_what_was_written_anew_is_looked_at_again(tmp_path: Path) -> None:
    cut_off = Problem("image_truncated", "bad", -1, "r")
    before, after = {"a": "9 1", "bad": "5 1"}, {"a": "9 2", "bad": "6 2", "b": "7 7"}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        scored = [(score_of("a", 0.5), found(0.5))]
        store.add_scores(scored, [cut_off], model_id="m", stamps=before)
        fill(store, ("b", 0.5))  # without a stamp, as in a store of an earlier version
        assert store.pending("m", ["a", "bad"], stamps=before) == []
        assert store.pending("m", ["bad", "b", "a"], stamps=after) == ["bad", "a"]
        fill(store, ("a", 0.25))  # scored again at full precision: of the same file
        assert store.pending("m", ["a"], stamps=before) == []
        assert store.pending("m", ["a"], stamps=after) == ["a"]


def test_what_a_person_decided_on_keeps_the_hash_that_was_seen(tmp_path: Path) -> None:
    """Else ``apply`` could not tell that another picture stands under the name now."""
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_scores([(score_of("a", 0.5), found(0.5))], stamps={"a": "9 1"})
        assert store.pending("m", ["a"], stamps={"a": "9 2"}) == ["a"]
        decision = Decision("a", Verdict.EMPTY, "eve", "2026-01-01T00:00:00+00:00", "m")
        store.add_decisions([decision])
        assert store.pending("m", ["a"], stamps={"a": "9 2"}) == []
        assert store.pending("other", ["a"], stamps={"a": "9 2"}) == ["a"]


def test_a_store_that_another_process_brought_up_meanwhile_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as store:
        fill(store, ("a", 0.5))
        pool_store._change(store._database, pool_store._CHANGES[3])  # "duplicate column name"
        assert [row.image for row in store.iter_ranked("m")] == ["a"]
        with pytest.raises(sqlite3.Error):
            store._database.execute("PRAGMA user_version = 3")
            pool_store._change(store._database, pool_store._CHANGES[3])


def test_the_fast_score_of_a_replaced_picture_is_forgotten(tmp_path: Path) -> None:
    fast = PoolScore("a", 0.25, 1, -1, 0, 0, "m", exact=False), Detections.none()
    exact = score_of("a", 0.75), found(0.75)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_scores([fast])  # as in a store of an earlier version
        store.add_scores([exact], stamps={"a": "9 1"})
        assert store.score_pairs("m").tolist() == [[0.75, 0.25]]
        store.add_scores([exact], stamps={"a": "9 2"})
        assert store.score_pairs("m").tolist() == []


def test_an_image_has_a_score_or_a_problem_whichever_came_last(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        fill(store, ("a", 0.5), ("b", 0.5))
        fill(store, ("a", 0.5), model="other")
        store.add_scores([], [Problem("image_missing", "a", -1, "r")], model_id="m")
        assert store.find("m", "a") is None
        assert store.find("other", "a") is not None
        assert [problem.file for problem in store.problems("m")] == ["a"]
        fill(store, ("a", 0.25))
        assert store.problems("m") == ()
        assert [s.image for s in store.iter_ranked("m")] == ["b", "a"]


def test_a_fast_score_is_kept_beside_the_exact_one(tmp_path: Path) -> None:
    def fast(score: float) -> tuple[PoolScore, Detections]:
        return PoolScore("a", score, 1, -1, 0, 0, "m", exact=False), Detections.none()

    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_scores([fast(0.25)])
        assert store.pending("m", ["a"]) == []
        assert store.pending("m", ["a"], exact=True) == ["a"]
        assert store.score_pairs("m").tolist() == []
        fill(store, ("a", 0.5))
        assert store.pending("m", ["a"], exact=True) == []
        fill(store, ("a", 0.75))
        assert store.score_pairs("m").tolist() == [[0.75, 0.25]]
        assert store.score_pairs("other").tolist() == []
        store.add_scores([fast(0.125)])
        fill(store, ("a", 0.5))
        assert store.score_pairs("m").tolist() == [[0.5, 0.125]]


@pytest.mark.parametrize("exact", [True, False])
def test_pages_of_a_ranking_follow_each_other_without_gap_or_repeat(
    tmp_path: Path, exact: bool
) -> None:
    scores = {f"{i}": (0.5, 0.25, 0.5, 1.0, 0.25)[i % 5] for i in range(9)}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        for kind in (exact, not exact):  # under other names, those of the other kind
            rows = [
                PoolScore(name if kind is exact else f"x{name}", s, 1, 0, 0, 0, "m", exact=kind)
                for name, s in scores.items()
            ]
            store.add_scores([(row, Detections.none()) for row in rows])
        fill(store, ("1", 0.75), model="other")
        ranked: list[PoolScore] = []
        while page := store.ranked_after("m", ranked[-1] if ranked else None, 2, exact=exact):
            assert len(page) == 2 or len(ranked) == 8
            ranked += page
    assert [row.image for row in ranked] == sorted(scores, key=lambda name: (-scores[name], name))
    assert all(row.exact is exact for row in ranked)


def test_the_latest_decision_counts_and_the_earlier_stays(tmp_path: Path) -> None:
    first = Decision("a", Verdict.EMPTY, "eve", "2026-01-01T00:00:00+00:00", "m")
    later = Decision("a", Verdict.CONTAINS_OBJECT, "bob", "2026-01-02T00:00:00+00:00", "m")
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([first])
        store.add_decisions([later])
        assert store.decisions() == {"a": later}
        assert store._database.execute("SELECT COUNT(*) FROM decisions").fetchone()[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM decisions",
        "UPDATE decisions SET verdict = 'x'",
        "DELETE FROM taken_back",
        "UPDATE taken_back SET who = 'x'",
    ],
)
def test_decisions_cannot_be_changed(tmp_path: Path, change: str) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.take_back(store.add_decisions([said("a")]), "eve", "t")
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            store._database.execute(change)


def said(image: str, verdict: Verdict = Verdict.EMPTY, who: str = "eve") -> Decision:
    return Decision(image, verdict, who, "2026-01-01T00:00:00+00:00", "m")


def test_what_was_seen_and_drawn_comes_back_and_makes_an_image_labelled(tmp_path: Path) -> None:
    seen = (NamedBox((1.5, 2, 3, 4), "cat", 0.25),)
    drawn = (NamedBox((0, 0.125, 9, 9), "dog"),)
    full = Decision("a", Verdict.CONTAINS_OBJECT, "eve", "t", "m", seen, drawn)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([full])
        assert store.decisions() == {"a": full}
    assert full.state is ImageState.LABELLED
    assert said("a", Verdict.CONTAINS_OBJECT).state is ImageState.CONTAINS_OBJECT


def test_an_action_is_taken_back_whole_and_what_was_before_counts_again(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        first = store.add_decisions([said("a")])
        both = store.add_decisions([said(i, Verdict.IGNORE) for i in ("a", "b")])
        store.add_decisions([said("c", who="bob")])
        assert store.last_action("eve") == both
        store.take_back(both, "eve", "t")
        store.take_back(both, "eve", "t")  # twice is harmless
        assert {i: d.verdict for i, d in store.decisions().items()} == {
            "a": Verdict.EMPTY,
            "c": Verdict.EMPTY,
        }
        assert [image for _, image in store.taken_back_after(0)] == ["a", "b"]
        assert [image for _, image in store.taken_back_after(1)] == ["b"]
        assert store.last_action("eve") == first
        store.take_back(first, "eve", "t")
        assert store.last_action("eve") is None
        assert set(store.decisions()) == {"c"}
        assert store._database.execute("SELECT COUNT(*) FROM decisions").fetchone()[0] == 4


def test_what_is_said_about_labels_is_no_verdict_on_the_image(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([said("a")], queue=LABELS)
        assert store.decisions() == {}
        store.add_decisions([said("a", Verdict.IGNORE)], queue="second look")
        assert store.decisions()["a"].verdict is Verdict.IGNORE
        found = store.decisions_after(0, ["a", "z"])
        assert [(each.queue, each.number) for each in found] == [(LABELS, 1), ("second look", 2)]
        assert [each.number for each in store.decisions_after(1)] == [2]


def test_decisions_are_appended_while_a_run_scans(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as run, PoolStore(path, beside_a_run=True) as page:
        assert page.is_being_scanned()
        fill(run, ("a", 0.5))
        page.add_decisions([said("a")])
        fill(run, ("b", 0.5))
        assert set(run.decisions()) == {"a"}
        assert len(list(page.iter_ranked("m"))) == 2
    with PoolStore(path, beside_a_run=True) as page:
        assert not page.is_being_scanned()


def test_an_image_handed_out_twice_keeps_its_first_round(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_mined("mined", 1, ["a", "b"], "m1")
        store.add_mined("mined", 2, ["b", "c"], "m2")
        assert store.mined("mined") == {"a": "m1", "b": "m1", "c": "m2"}
        assert store.mined("random") == {}


def test_what_was_handed_out_and_who_scored_comes_back_in_order(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "new" / "folder" / "pool.sqlite") as store:
        store.add_mined("random", 1, ["e"], "m")
        store.add_mined("mined", 2, ["d"], "m")
        store.add_mined("mined", 1, ["c", "a", "b"], "m")
        assert list(store.mined("mined")) == ["c", "a", "b", "d"]
        assert store.all_mined() == [
            *(("mined", 1, image, "m") for image in "cab"),
            ("random", 1, "e", "m"),
            ("mined", 2, "d", "m"),
        ]
        fill(store, ("a", 0.5), ("b", 0.5), model="first")
        for model in ("z", "c"):
            fill(store, ("a", 0.5), model=model)
        assert store.model_ids() == ["c", "z", "first"]
        assert store.add_decisions([]) == 0
        for image in "ba":
            store.add_decisions([said(image)])
        assert list(store.decisions()) == ["b", "a"]


def test_a_second_writer_is_told_and_a_reader_is_let_in(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as store:
        fill(store, ("a", 0.5))
        with pytest.raises(DataError, match=r"pool\.sqlite: another run is writing"):
            PoolStore(path)
        with PoolStore(path, read_only=True) as reader:
            assert [s.image for s in reader.iter_ranked("m")] == ["a"]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                fill(reader, ("b", 0.5))
    PoolStore(path).close()


def test_a_batch_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        fill(store, ("a", 0.5))
        broken: Any = Problem("image_missing", "file", -1, None)  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            store.add_scores([(score_of("b", 0.5), found(0.5))], [broken], model_id="m")
        assert [s.image for s in store.iter_ranked("m")] == ["a"]


def test_a_full_disk_is_one_clear_error_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as store:
        fill(store, ("a", 0.5))
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DataError, match=r"pool\.sqlite: no space left on the disk"):
            for i in range(200):
                fill(store, *[(f"{i}-{j}" + "x" * 200, 0.5) for j in range(20)])
        before = len(list(store.iter_ranked("m")))
        assert before % 20 == 1  # whole batches and the first image
    with PoolStore(path) as store:
        assert len(list(store.iter_ranked("m"))) == before
        fill(store, ("b", 0.5))


def test_other_faults_of_the_disk_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no space left"), clear_disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), clear_disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_file_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("this is no database " * 100)
    with pytest.raises(DataError, match="cannot be used as a pool store"):
        PoolStore(text)
    newer = tmp_path / "newer.sqlite"
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DataError, match="pool store of version 99, this release reads 4"):
        PoolStore(newer)
    PoolStore(tmp_path / "fresh.sqlite").close()  # the lock of a refused file is given back
    with pytest.raises(DataError, match="version 99"):
        PoolStore(newer)


def test_only_the_best_boxes_are_kept() -> None:
    many = found(*(1 - i / 100 for i in range(80)))
    assert (
        unpack_alarms(pack_alarms(many)).scores.tolist() == many.scores[:MAX_STORED_ALARMS].tolist()
    )
    assert len(unpack_alarms(pack_alarms(Detections.none()))) == 0


@given(st.lists(st.floats(0, 1, width=32), max_size=20))
def test_boxes_come_back_bit_for_bit(scores: list[float]) -> None:
    before = found(*scores)
    after = unpack_alarms(pack_alarms(before))
    assert np.array_equal(after.scores, before.scores)
    assert np.array_equal(after.boxes, before.boxes)
    assert np.array_equal(after.labels, before.labels)


def test_a_reader_sees_whole_batches_while_a_writer_works(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    seen: list[int] = []
    with PoolStore(path) as store:
        done = threading.Event()

        def read() -> None:
            with PoolStore(path, read_only=True) as reader:
                while not done.is_set():
                    seen.append(len(list(reader.iter_ranked("m"))))

        thread = threading.Thread(target=read)
        thread.start()
        for batch in range(10):
            fill(store, *[(f"{batch}-{i}", 0.5) for i in range(10)])
        done.set()
        thread.join()
    assert all(count % 10 == 0 for count in seen)


_VERSION_1 = """
CREATE TABLE scores (
    model_id TEXT NOT NULL, image TEXT NOT NULL, score REAL NOT NULL, label INTEGER NOT NULL,
    num_alarms INTEGER NOT NULL, level INTEGER NOT NULL, phash INTEGER NOT NULL,
    alarms BLOB NOT NULL, PRIMARY KEY (model_id, image)
) WITHOUT ROWID;
CREATE INDEX scores_by_score ON scores (model_id, score DESC, image);
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
INSERT INTO problems VALUES ('m', 'bad', 'image_unreadable', 'zero bytes long');
INSERT INTO decisions VALUES (1, 'a', 'EARLIER', 'ann', '2026-01-01', 'm');
INSERT INTO decisions VALUES (2, 'a', 'LATER', 'bob', '2026-01-02', 'm');
INSERT INTO mined VALUES ('mine', 'b', 1, 0, 'm');
PRAGMA user_version = 1;
"""


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A store that the first version wrote."""
    path = tmp_path / "pool.sqlite"
    first, *_, last = Verdict
    old = sqlite3.connect(path)
    old.executescript(_VERSION_1.replace("EARLIER", first.value).replace("LATER", last.value))
    rows = [
        ("m", "b", 0.9, 2, 2, 1, 7),
        ("m", "a", 0.5, 1, 1, 0, -3),
        ("n", "a", 0.25, 1, 0, 0, -3),
    ]
    for row in rows:
        old.execute(
            "INSERT INTO scores VALUES (?,?,?,?,?,?,?,?)", (*row, pack_alarms(found(row[2])))
        )
    old.commit()
    old.close()
    return path


def test_a_store_of_version_1_is_read_as_it_is(version_1: Path) -> None:
    before = version_1.read_bytes()
    with PoolStore(version_1, read_only=True) as store:
        assert store.pending("m", ["a", "b", "c", "bad"]) == ["c"]
        assert store.count_problems("m", ["a", "bad"]) == 1
        assert store.find("m", "b") == PoolScore("b", 0.9, 2, 2, 1, 7, "m", exact=True)
        assert [s.image for s in store.ranked_after("m", None, 9, exact=True)] == ["b", "a"]
        assert store.ranked_after("m", None, 9, exact=False) == []
        assert store.score_pairs("m").shape == (0, 2)
        assert store.alarms("m", "b").scores.tolist() == [np.float32(0.9)]
        assert store.decisions()["a"].who == "bob"
    assert version_1.read_bytes() == before


def test_a_store_of_version_1_is_brought_up_with_all_that_it_holds(version_1: Path) -> None:
    path, last = version_1, list(Verdict)[-1]
    for _ in range(2):  # brought up once, then simply opened
        with PoolStore(path) as store:
            assert list(store.iter_ranked("m")) == [
                PoolScore("b", 0.9, 2, 2, 1, 7, "m", exact=True),
                PoolScore("a", 0.5, 1, 1, 0, -3, "m", exact=True),
            ]
            assert len(list(store.iter_ranked("n"))) == 1
            assert store.alarms("m", "b").scores.tolist() == [np.float32(0.9)]
            assert store.problems("m") == (
                Problem("image_unreadable", "bad", -1, "zero bytes long"),
            )
            assert store.decisions() == {"a": Decision("a", last, "bob", "2026-01-02", "m")}
            assert store.mined("mine") == {"b": "m"}
            assert store.score_pairs("m").shape == (0, 2)
            assert store._database.execute("PRAGMA user_version").fetchone()[0] == 4
            # Scores without stamps stay; what could not be read then is looked at once more.
            now = {"a": "9 1", "bad": "5 1"}
            assert store.pending("m", ["a", "bad"], stamps=now) == ["bad"]
    with PoolStore(path) as store:  # what is written then is as in a new store
        store.add_scores([(PoolScore("c", 0.7, 1, -1, 0, 5, "m", exact=False), Detections.none())])
        assert [s.image for s in store.ranked_after("m", None, 9, exact=True)] == ["b", "a"]
        assert [s.image for s in store.ranked_after("m", None, 9, exact=False)] == ["c"]
        with pytest.raises(sqlite3.DatabaseError, match="only appended"):
            store._database.execute("DELETE FROM decisions")


def test_a_store_of_version_3_is_read_as_it_is_and_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite"
    with PoolStore(path) as store:
        fill(store, ("a", 0.5))
        store.add_scores([], [Problem("image_truncated", "bad", -1, "r")], model_id="m")
    old = sqlite3.connect(path)
    old.executescript(
        "ALTER TABLE scores DROP COLUMN stamp; ALTER TABLE problems DROP COLUMN stamp;"
        "PRAGMA user_version = 3;"
    )
    old.close()
    for read_only in (True, False, True):
        with PoolStore(path, read_only=read_only) as store:
            now = {"a": "9 1", "bad": "5 1"}
            assert store.pending("m", ["a", "bad", "c"], stamps=now) == ["bad", "c"]
            assert store.find("m", "a") == score_of("a", 0.5)
            assert [problem.file for problem in store.problems("m")] == ["bad"]
