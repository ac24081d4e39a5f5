"""Decisions of several people at once: written before the page moves on, taken back, never overwritten.

All access to the store goes through one thread, so that a decision is one transaction after another and
nobody waits for the disk but who decides. Other processes (a run, another server) may write the same
store: what they add is taken up by :meth:`DecisionDesk.refresh`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeVar

from hardmine.errors import DataError, HardmineError
from hardmine.files import means_full_disk
from hardmine.mining.pool_store import LABELS, PoolStore, StoredDecision
from hardmine.review.candidate_list import CANDIDATES, Item
from hardmine.types import Decision, NamedBox, Verdict

T = TypeVar("T")

PAUSE = 60.0
"""Seconds between two decisions of one person that count as a pause, and not as their pace."""
_PACE_OF = 40
"""The pace is the median over the pictures of so many decisions."""
_RECENT = 6000
"""So many decisions are remembered: more than one call can write."""
RUN_OF_EMPTY = 60
"""From so many decisions in a row that all say "empty", the page says what this allows to expect."""
_CONFIDENCE = 0.95


class StoreBusyError(HardmineError):
    """Another process holds the store for longer than a decision can wait; it was not written."""


class DiskFullError(DataError):
    """There is no room for a decision; it was not written, and what was written before is kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """The latest decision on an image in a queue's sense; ``None``: there is none any more."""

    image: str
    labels: bool
    said: StoredDecision | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call wrote: the action (0: nothing), what others had said, and what changed."""

    action: int
    conflicts: tuple[StoredDecision, ...] = ()
    changes: tuple[Change, ...] = ()
    taken_back: tuple[StoredDecision, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One image of a decision: what the person saw, and the latest decision that they knew of."""

    item: Item
    shown: tuple[NamedBox, ...] = ()
    seen: int = 0
    boxes: tuple[NamedBox, ...] = ()


class DecisionDesk:
    """Takes decisions into a store; use it as a context manager.

    Args:
        store: the pool store's file, made when absent.

    Raises:
        DataError: not a pool store, or one of another version.
    """

    def __init__(self, store: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decisions")
        self._latest: dict[tuple[str, bool], StoredDecision] = {}
        self._number, self._taken_back = 0, 0
        self._recent: deque[StoredDecision] = deque(maxlen=_RECENT)
        self._changes: list[Change] = []
        try:
            self._store = self._do(lambda: PoolStore(store, beside_a_run=True))
            self.refresh()
        except BaseException:
            self._thread.shutdown()
            raise

    def __enter__(self) -> DecisionDesk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; what is under way is finished first."""
        self._do(self._store.close)
        self._thread.shutdown()

    def read(self, work: Callable[[PoolStore], T]) -> T:
        """Return what ``work`` reads from the store."""
        return self._do(lambda: work(self._store))

    def latest(self, item: Item) -> StoredDecision | None:
        """Return the latest decision on an image: on its labels in the queue of labels."""
        return self._latest.get((item.path, item.queue == LABELS))

    def number_of(self, item: Item) -> int:
        """Return the number of the latest decision on an image; 0 without one."""
        said = self.latest(item)
        return 0 if said is None else said.number

    @property
    def recent(self) -> list[StoredDecision]:
        """The latest decisions of all people, the latest last."""
        return list(self._recent)

    @property
    def cursor(self) -> int:
        """The point from which :meth:`changes_after` continues."""
        return len(self._changes)

    def changes_after(self, cursor: int) -> list[Change]:
        """Return what has changed since then, in this process or in any other."""
        self.refresh()
        return self._changes[max(0, cursor) :]

    def refresh(self) -> None:
        """Take up what other processes wrote."""
        self._do(self._refresh)

    def decide(
        self,
        asked: Sequence[Asked],
        verdict: Verdict,
        who: str,
        *,
        queue: str = "",
        overrule: bool = False,
    ) -> Outcome:
        """Write one decision on one or several images, all or none, to the disk.

        Args:
            overrule: write it also where somebody said something else that ``seen`` does not know of.

        Returns:
            Outcome: with ``conflicts``, and nothing written, where somebody did.

        Raises:
            StoreBusyError: another process holds the store; nothing was written.
            DiskFullError: the disk is full; nothing was written.
        """
        return self._do(lambda: self._decide(asked, verdict, who, queue, overrule))

    def take_back(self, who: str) -> Outcome:
        """Take back the latest action of a person, and say what it was; ``action`` 0: there is none.

        Raises:
            StoreBusyError, DiskFullError: as for :meth:`decide`.
        """
        return self._do(lambda: self._take_back(who))

    def history(self, image: str) -> list[StoredDecision]:
        """Return all that was said of an image and not taken back, the first first."""
        return self.read(lambda store: store.decisions_after(0, [image]))

    def _do(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()

    def _decide(
        self, asked: Sequence[Asked], verdict: Verdict, who: str, queue: str, overrule: bool
    ) -> Outcome:
        self._refresh()
        conflicts = [
            said
            for each in asked
            if (said := self.latest(each.item)) is not None
            and said.number > each.seen
            and said.decision.verdict is not verdict
        ]
        if conflicts and not overrule:
            return Outcome(0, tuple(conflicts))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        decisions = [
            Decision(each.item.path, verdict, who, now, each.item.model_id, each.shown, each.boxes)
            for each in asked
        ]
        before = self.cursor
        stored_queue = "" if queue == CANDIDATES else queue
        action = self._write(lambda: self._store.add_decisions(decisions, queue=stored_queue))
        self._refresh()
        return Outcome(action, changes=tuple(self._changes[before:]))

    def _take_back(self, who: str) -> Outcome:
        self._refresh()
        action = self._store.last_action(who)
        if action is None:
            return Outcome(0)
        gone = [d for d in self._store.decisions_after(action - 1) if d.action == action]
        before, now = self.cursor, datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write(lambda: self._store.take_back(action, who, now))
        self._refresh()
        return Outcome(action, (), tuple(self._changes[before:]), tuple(gone))

    def _write(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreBusyError(
                    f"{self._store.path}: another process is writing to the store; "
                    "this decision is not saved yet"
                ) from error
            raise
        except DataError as error:
            why = error.__cause__
            if isinstance(why, Exception) and means_full_disk(why, self._store.path):
                raise DiskFullError(
                    f"{self._store.path}: no space left on the disk; this decision is not saved yet, "
                    "those before are: free some space"
                ) from error
            raise

    def _refresh(self) -> None:
        fresh = self._store.decisions_after(self._number)
        for said in fresh:
            self._set(said.decision.image, said.queue == LABELS, said)
            self._number = said.number
        self._recent.extend(fresh)
        gone = self._store.taken_back_after(self._taken_back)
        if not gone:
            return
        self._taken_back = gone[-1][0]
        images = list(dict.fromkeys(image for _, image in gone))
        left: dict[tuple[str, bool], StoredDecision] = {}
        for said in self._store.decisions_after(0, images):
            left[said.decision.image, said.queue == LABELS] = said
        for image in images:
            for labels in (False, True):
                said_now = left.get((image, labels))
                if self._latest.get((image, labels)) != said_now:
                    self._set(image, labels, said_now)
        numbers = {said.number for said in left.values()}
        kept = [s for s in self._recent if s.decision.image not in images or s.number in numbers]
        self._recent.clear()
        self._recent.extend(kept)

    def _set(self, image: str, labels: bool, said: StoredDecision | None) -> None:
        if said is None:
            self._latest.pop((image, labels), None)
        else:
            self._latest[image, labels] = said
        self._changes.append(Change(image, labels, said))


def pace(recent: Sequence[StoredDecision]) -> float | None:
    """Return the seconds that one picture takes: the median of the latest, without pauses.

    Of pictures that were decided together, each takes its share of the time.
    """
    pictures = Counter(said.action for said in recent)
    at: dict[str, list[tuple[float, int]]] = {}
    for action, said in {said.action: said for said in recent}.items():
        when = datetime.fromisoformat(said.decision.when).timestamp()
        at.setdefault(said.decision.who, []).append((when, pictures[action]))
    gaps = [
        ((later - earlier) / count, count)
        for times in at.values()
        for (earlier, _), (later, count) in pairwise(times)
        if 0 < later - earlier <= PAUSE
    ]
    each = [seconds for seconds, count in gaps[-_PACE_OF:] for _ in range(count)]
    return median(each) if each else None


def advise_on_emptiness(recent: Sequence[StoredDecision], left: int) -> str:
    """Return what a long run of empty pictures says of those that are left; "" when nothing yet.

    Args:
        recent: the latest decisions, the latest last.
        left: how many candidates have no decision.
    """
    run = _empty_in_a_row(recent)
    if run < RUN_OF_EMPTY or not left:
        return ""
    # None of n: the exact binomial limit is 1 - (1 - confidence)^(1/n).
    most = 1 - (1 - _CONFIDENCE) ** (1 / run)
    return (
        f"The last {run} pictures were all empty: with {_CONFIDENCE:.0%} confidence, at most {most:.1%} "
        f"of pictures like these hold an object. Looking at each of the {left} that are left brings "
        "little; the grid shows many at once."
    )


def advise_on_scores(left: Sequence[Item], thresholds: Mapping[str, float]) -> str:
    """Return that no candidate without a decision is an alarm at the operating point; "" otherwise.

    Args:
        left: the candidates without a decision.
        thresholds: by round, the score at which the model finds 80 % of the validation objects.
    """
    limits = [thresholds.get(item.round, 0.0) for item in left]
    if not left or any(i.score is None or i.score >= t for i, t in zip(left, limits, strict=True)):
        return ""
    return (
        f"All {len(left)} candidates that are left score below {max(limits):.2f}. There the model "
        "finds 80 % of the objects, so that they raise no alarm there: more of them bring little."
    )


def _empty_in_a_row(recent: Sequence[StoredDecision]) -> int:
    """Return how many different images the latest decisions called empty without another verdict."""
    images: set[str] = set()
    for said in reversed(recent):
        if said.queue:
            continue
        if said.decision.verdict is not Verdict.EMPTY:
            break
        images.add(said.decision.image)
    return len(images)
