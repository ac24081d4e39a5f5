"""Decisions of several people: one after the other, never lost, taken back."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request

from hardmine.errors import DataError, HardmineError
from hardmine.mining.pool_store import LABELS, PoolStore, StoredDecision
from hardmine.review.candidate_list import CANDIDATES, FIRES, Item
from hardmine.review.decisions import (
    RUN_OF_EMPTY,
    Asked,
    DecisionDesk,
    DiskFullError,
    StoreBusyError,
    advise_on_emptiness,
    advise_on_scores,
    pace,
)
from hardmine.review.server import _fault
from hardmine.types import Decision, Verdict


def item(name: str, *, score: float = 0.5, queue: str = CANDIDATES, round_: str = "") -> Item:
    return Item(name, name, score, "raccoon", queue, round_, "m")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[DecisionDesk]:
    with DecisionDesk(tmp_path / "pool.sqlite") as opened:
        yield opened


def on_disk(desk: DecisionDesk) -> dict[str, str]:
    found = desk.read(lambda store: PoolStore(store.path, read_only=True).decisions())
    return {image: said.verdict.value for image, said in found.items()}


def test_an_action_is_one_transaction_and_is_taken_back_by_who_did_it(desk: DecisionDesk) -> None:
    both = [Asked(item("a")), Asked(item("b"))]
    done = desk.decide(both, Verdict.EMPTY, "ann")
    assert [(c.image, c.said is not None) for c in done.changes] == [("a", True), ("b", True)]
    desk.decide([Asked(item("c"))], Verdict.IGNORE, "ben")
    assert on_disk(desk) == {"a": "empty", "b": "empty", "c": "ignore"}
    gone = desk.take_back("ann")
    assert [said.decision.image for said in gone.taken_back] == ["a", "b"]
    assert on_disk(desk) == {"c": "ignore"}
    assert desk.latest(item("a")) is None
    assert desk.take_back("ann").action == 0
    assert on_disk(desk) == {"c": "ignore"}


def test_taking_back_brings_the_verdict_before_it_back(desk: DecisionDesk) -> None:
    first = desk.decide([Asked(item("a"))], Verdict.UNSURE, "ann")
    desk.decide([Asked(item("a"), seen=first.action)], Verdict.EMPTY, "ann")
    change = desk.take_back("ann").changes[0]
    assert change.said is not None
    assert change.said.decision.verdict is Verdict.UNSURE
    assert on_disk(desk) == {"a": "unsure"}


def test_nothing_is_written_where_somebody_said_something_else_meanwhile(
    desk: DecisionDesk,
) -> None:
    desk.decide([Asked(item("b"))], Verdict.EMPTY, "ann")
    both = [Asked(item("a")), Asked(item("b"))]
    refused = desk.decide(both, Verdict.IGNORE, "ben")
    assert [said.decision.who for said in refused.conflicts] == ["ann"]
    assert on_disk(desk) == {"b": "empty"}
    assert desk.decide(both, Verdict.EMPTY, "ben").conflicts == ()  # the same is no conflict
    assert desk.decide(both, Verdict.IGNORE, "cid", overrule=True).action > 0
    assert on_disk(desk) == {"a": "ignore", "b": "ignore"}


def test_many_people_at_once_lose_no_decision(desk: DecisionDesk) -> None:
    def work(who: int) -> None:
        for i in range(20):
            desk.decide([Asked(item(f"{who}-{i}"))], Verdict.EMPTY, str(who))

    with ThreadPoolExecutor(8) as people:
        list(people.map(work, range(8)))
    assert len(on_disk(desk)) == 160


def test_two_servers_on_one_store_see_each_other(desk: DecisionDesk, tmp_path: Path) -> None:
    with DecisionDesk(tmp_path / "pool.sqlite") as other:
        at = other.cursor
        desk.decide([Asked(item("a"))], Verdict.EMPTY, "ann")
        assert [change.image for change in other.changes_after(at)] == ["a"]
        assert other.decide([Asked(item("a"))], Verdict.IGNORE, "ben").conflicts
        desk.take_back("ann")
        assert other.changes_after(other.cursor)[0].said is None


def test_a_store_that_is_held_is_told_and_can_be_tried_again(desk: DecisionDesk) -> None:
    path = desk.read(lambda store: store.path)
    desk.read(lambda store: store._database.execute("PRAGMA busy_timeout = 30"))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="this decision is not saved yet"):
        desk.decide([Asked(item("a"))], Verdict.EMPTY, "ann")
    holder.execute("ROLLBACK")
    holder.close()
    desk.decide([Asked(item("a"))], Verdict.EMPTY, "ann")
    assert on_disk(desk) == {"a": "empty"}


def test_a_full_disk_is_told_and_the_decision_is_taken_once_there_is_room(
    desk: DecisionDesk,
) -> None:
    desk.decide([Asked(item("a"))], Verdict.EMPTY, "ann")
    pages = desk.read(lambda store: store._database.execute("PRAGMA page_count").fetchone()[0])
    desk.read(lambda store: store._database.execute(f"PRAGMA max_page_count = {pages}"))
    many = [Asked(item(f"{i:0200}")) for i in range(200)]  # more than fits the pages there are
    with pytest.raises(DiskFullError, match="not saved yet, those before are: free some space"):
        desk.decide(many, Verdict.IGNORE, "ann")
    assert on_disk(desk) == {"a": "empty"}
    desk.read(lambda store: store._database.execute("PRAGMA max_page_count = 100000"))
    desk.decide(many, Verdict.IGNORE, "ann")
    assert len(on_disk(desk)) == 201


@pytest.mark.parametrize(
    ("error", "status"), [(StoreBusyError, 503), (DiskFullError, 507), (DataError, 422)]
)
def test_the_page_learns_whether_it_may_send_a_decision_again(
    error: type[HardmineError], status: int
) -> None:
    answer = asyncio.run(_fault(Request({"type": "http"}), error("why")))
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, {"error": "why"})


def test_what_is_said_of_labels_is_kept_apart(desk: DecisionDesk) -> None:
    labels = item("a", queue=LABELS)
    desk.decide([Asked(labels)], Verdict.EMPTY, "ann", queue=LABELS)
    assert desk.latest(item("a")) is None
    assert desk.latest(labels) is not None
    desk.decide([Asked(item("a", queue=FIRES))], Verdict.EMPTY, "ann", queue=FIRES)
    found = desk.latest(item("a"))
    assert found is not None
    assert found.queue == FIRES


def said(
    number: int, when: str, who: str = "ann", verdict: Verdict = Verdict.EMPTY
) -> StoredDecision:
    return StoredDecision(number, number, "", Decision(f"i{number}", verdict, who, when, "m"))


def test_the_pace_is_the_median_without_pauses() -> None:
    # Gaps of ann: 2, 3, 600 (a pause), 4 seconds; ben's one gap is 10 seconds.
    times = ["10:00:00", "10:00:02", "10:00:05", "10:10:05", "10:10:09"]
    found = [said(i, f"2026-01-01T{t}+00:00") for i, t in enumerate(times)]
    found += [
        said(9, "2026-01-01T10:00:01+00:00", "ben"),
        said(10, "2026-01-01T10:00:11+00:00", "ben"),
    ]
    assert pace(found) == pytest.approx(3.5)  # the median of 2, 3, 4, 10
    assert pace(found[:1]) is None


def test_pictures_that_are_decided_together_share_the_time() -> None:
    found = [said(0, "2026-01-01T10:00:00+00:00"), said(1, "2026-01-01T10:00:02+00:00")]
    together = said(2, "2026-01-01T10:00:22+00:00")
    found += [replace(together, number=2 + i) for i in range(40)]
    assert pace(found) == pytest.approx(0.5)  # forty pictures took 20 seconds, one took 2


def test_a_long_run_of_empty_pictures_says_what_to_expect_of_the_rest() -> None:
    run = [said(i, "2026-01-01T00:00:00") for i in range(RUN_OF_EMPTY)]
    # None of 60: 1 - .05^(1/60) = 4.87 %.
    assert "at most 4.9% of pictures like these" in advise_on_emptiness(run, 7)
    assert advise_on_emptiness(run[1:], 7) == ""
    unsure = said(99, "2026-01-01T00:00:00", verdict=Verdict.UNSURE)
    assert advise_on_emptiness([*run, unsure], 7) == ""
    assert advise_on_emptiness(run, 0) == ""
    about_labels = StoredDecision(98, 98, LABELS, unsure.decision)
    assert "The last 60 pictures" in advise_on_emptiness([*run, about_labels], 7)


def test_candidates_below_the_operating_point_are_said_to_bring_little() -> None:
    below = [item("a", score=0.3, round_="mined 1"), item("b", score=0.39, round_="mined 1")]
    assert "score below 0.40" in advise_on_scores(below, {"mined 1": 0.4})
    above = item("c", score=0.4, round_="mined 1")
    assert advise_on_scores([*below, above], {"mined 1": 0.4}) == ""
    assert advise_on_scores(below, {}) == ""
    assert advise_on_scores([], {"mined 1": 0.4}) == ""
