"""The review page's server: lists, pictures and decisions over HTTP, for browsers of this machine.

Every request names images by their position in the list, never by a path. All state is in the store:
a server that is killed and started again goes on where it was.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hardmine.errors import HardmineError
from hardmine.mining.pool_store import LABELS, MAX_STORED_ALARMS, PoolStore, StoredDecision
from hardmine.review.candidate_list import QUEUES, CandidateList, Item
from hardmine.review.decisions import (
    Asked,
    Change,
    DecisionDesk,
    DiskFullError,
    StoreBusyError,
    advise_on_emptiness,
    advise_on_scores,
    pace,
)
from hardmine.review.request_guard import Access, RequestGuard
from hardmine.review.review_pictures import (
    SCREENS,
    THUMBNAILS,
    Encoded,
    ReviewPictures,
    stamp,
    what_is_wrong,
)
from hardmine.types import NamedBox, Verdict

if TYPE_CHECKING:
    from hardmine.review.request_guard import App

MAX_IMAGES = 5000
"""Images of one decision."""
MAX_DETAILS = 100
MAX_DRAWN = 100
_MAX_NAME = 60
_CODES = {
    Verdict.EMPTY: "1",
    Verdict.CONTAINS_OBJECT: "2",
    Verdict.IGNORE: "3",
    Verdict.UNSURE: "4",
}
UNDECIDED, LABELLED = "0", "5"
_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "stage.js": "text/javascript; charset=utf-8",
    "grid.js": "text/javascript; charset=utf-8",
    "keys.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_MANY_CLASSES = 4


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    """One image of a decision as the page sends it."""

    id: int
    seen: int = 0
    boxes: list[tuple[float, float, float, float, str]] = []


class _DecideBody(msgspec.Struct, forbid_unknown_fields=True):
    images: list[_Said]
    verdict: Verdict
    who: str = ""
    shown: int = MAX_STORED_ALARMS
    overrule: bool = False


class _UndoBody(msgspec.Struct, forbid_unknown_fields=True):
    who: str = ""


class Review:
    """What the page works on: the list, the decisions, the pictures.

    Args:
        who: under whose name decisions are kept when the page sends none.
    """

    def __init__(self, listed: CandidateList, desk: DecisionDesk, who: str) -> None:
        self.listed, self.desk, self.who = listed, desk, who
        self.pictures = ReviewPictures(listed.store.with_name(THUMBNAILS))
        self.run_id = secrets.token_hex(6)
        self._at: dict[str, list[int]] = {}
        for at, item in enumerate(listed.items):
            self._at.setdefault(item.path, []).append(at)
        self._open: dict[str, set[int]] = {queue.name: set() for queue in QUEUES}
        self._total = dict.fromkeys(self._open, 0)
        for at, item in enumerate(listed.items):
            if item.leader < 0:
                self._total[item.queue] += 1
                if not item.is_settled(desk.latest(item)):
                    self._open[item.queue].add(at)
        self._cursor = desk.cursor
        self._lock = threading.Lock()
        self._fixed = _fixed_columns(listed)

    def session(self, key: str) -> dict[str, Any]:
        """Return what the page needs first."""
        nouns = self.listed.categories
        return {
            "key": key,
            "run": self.run_id,
            "who": self.who,
            "pool": self.listed.pool,
            "store": str(self.listed.store),
            "classes": list(nouns),
            "next": _next_command(self.listed.store.parent),
            "export": f"hardmine review {shlex.quote(str(self.listed.store.parent))} "
            "--export labelstudio --out to_label",
            "object": _object(nouns),
            "queues": [
                {
                    "name": queue.name,
                    "title": queue.title,
                    "question": queue.question.replace("{object}", _object(nouns)),
                    "help": queue.help,
                    "count": self._total[queue.name],
                }
                for queue in QUEUES
                if self._total[queue.name]
            ],
        }

    def columns(self) -> bytes:
        """Return the whole list, a column for each property, as JSON."""
        self._take_up()
        verdicts, seen = [], {}
        for at, item in enumerate(self.listed.items):
            said = self.desk.latest(item)
            verdicts.append(_code(item, said))
            if said is not None:
                seen[at] = said.number
        values = {
            "fixed": msgspec.Raw(self._fixed),
            "verdict": "".join(verdicts),
            "seen": seen,
            "cursor": self._cursor,
            "run": self.run_id,
        }
        return msgspec.json.encode(values)

    def details(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return what is shown of some images: names, boxes, history, what is wrong with the file."""

        def read(store: PoolStore) -> list[tuple[list[list[Any]], int]]:
            """Return boxes and perceptual hash of each item."""
            rows = []
            for at in ids:
                item = self.listed.items[at]
                scored = store.find(item.model_id, item.path)
                rows.append((self.listed.boxes(item, store), scored.phash if scored else 0))
            return rows

        found = self.desk.read(read)
        return [self._detail(at, *row) for at, row in zip(ids, found, strict=True)]

    def _detail(self, at: int, boxes: list[list[Any]], phash: int) -> dict[str, Any]:
        item = self.listed.items[at]
        history = self.desk.history(item.path)
        said = self.desk.latest(item)
        return {
            "id": at,
            "name": item.name,
            "path": item.path,
            "score": item.score,
            "class": item.category,
            "round": item.round,
            "group": self.listed.group_of(item.name),
            "boxes": boxes,
            "labels": [list(row) for row in item.labels],
            "drawn": [box.to_list() for box in said.decision.boxes] if said is not None else [],
            "members": list(item.members),
            "fault": what_is_wrong(item, phash),
            "stamp": stamp(item),
            "history": [
                _told(each) for each in history if (each.queue == LABELS) == (item.queue == LABELS)
            ],
        }

    def search(self, text: str) -> list[int]:
        """Return the images whose name holds a text, in any case."""
        wanted = text.casefold()
        return [at for at, i in enumerate(self.listed.items) if wanted in i.name.casefold()]

    def decide(self, body: _DecideBody) -> tuple[int, dict[str, Any]]:
        """Write a decision on some images; return the status and the answer to the page."""
        items = [self.item(each.id) for each in body.images]
        if not items or len(items) > MAX_IMAGES:
            raise HTTPException(400, f"got {len(items)} images, wanted 1 to {MAX_IMAGES}")
        queues = {item.queue for item in items}
        if len(queues) > 1:
            raise HTTPException(400, "images of several queues in one decision")
        if body.verdict is not Verdict.CONTAINS_OBJECT and any(each.boxes for each in body.images):
            raise HTTPException(400, "boxes belong to the verdict contains_object")
        seen = self.desk.read(lambda store: [self._shown(i, store, body.shown) for i in items])
        asked = [
            Asked(item, shown, each.seen, self._drawn(each))
            for item, shown, each in zip(items, seen, body.images, strict=True)
        ]
        done = self.desk.decide(
            asked, body.verdict, self._who(body.who), queue=queues.pop(), overrule=body.overrule
        )
        if done.conflicts:
            asked_at = {item.path: each.id for item, each in zip(items, body.images, strict=True)}
            told = [{"id": asked_at[said.decision.image], **_told(said)} for said in done.conflicts]
            return 409, {"conflicts": told}
        return 200, {"action": done.action, "changes": self._changed(done.changes)}

    def undo(self, body: _UndoBody) -> dict[str, Any]:
        """Take back the latest action of a person; say what it was and on which images."""
        who = self._who(body.who)
        done = self.desk.take_back(who)
        gone = [said.decision for said in done.taken_back]
        ids = [at for said in gone for at in self._at.get(said.image, ())]
        return {
            "action": done.action,
            "verdict": gone[0].verdict.value if gone else "",
            "images": len({said.image for said in gone}),
            "ids": ids,
            "queue": _queue_of(done.taken_back[0]) if gone else "",
            "changes": self._changed(done.changes),
        }

    def changes(self, run: str, cursor: int, queue: str) -> dict[str, Any]:
        """Return what others have decided since, and how far a queue is."""
        if run != self.run_id or not 0 <= cursor <= self.desk.cursor:
            return {"restarted": True}
        changes = self.desk.changes_after(cursor)
        now = cursor + len(changes)
        self._take_up()
        return {
            "cursor": now,
            "changes": self._changed(changes),
            "progress": self.progress(queue),
            "scanning": self.desk.read(lambda store: store.is_being_scanned()),
        }

    def progress(self, queue: str) -> dict[str, Any]:
        """Return how far a queue is, how long the rest takes, and what to know about the rest."""
        recent = [said for said in self.desk.recent if self._stands_for_itself(said)]
        seconds = pace(recent)
        with self._lock:
            left = len(self._open.get(queue, ()))
            weigh = bool(self.listed.thresholds) and queue == QUEUES[0].name
            open_ones = [self.listed.items[at] for at in self._open[queue]] if weigh else []
        advice = [
            advise_on_emptiness(recent, left),
            advise_on_scores(open_ones, self.listed.thresholds),
        ]
        total = self._total.get(queue, 0)
        return {
            "decided": total - left,
            "total": total,
            "seconds": seconds,
            "left": None if seconds is None else seconds * left,
            "advice": [text for text in advice if text and queue == QUEUES[0].name],
        }

    def _stands_for_itself(self, said: StoredDecision) -> bool:
        """Say whether a decision is on a picture that was looked at, and not on one beside it."""
        places = self._at.get(said.decision.image, ())
        return not places or any(self.listed.items[at].leader < 0 for at in places)

    def item(self, at: int) -> Item:
        """Return an image by its position in the list."""
        if not 0 <= at < len(self.listed.items):
            raise HTTPException(404, "no such image in the list")
        return self.listed.items[at]

    def _take_up(self) -> None:
        """Bring the sets of open images up to date with the decisions."""
        with self._lock:
            fresh = self.desk.changes_after(self._cursor)
            self._cursor += len(fresh)
            for change in fresh:
                for at in self._at.get(change.image, ()):
                    item = self.listed.items[at]
                    if item.leader < 0 and (item.queue == LABELS) == change.labels:
                        settled = item.is_settled(self.desk.latest(item))
                        (set.discard if settled else set.add)(self._open[item.queue], at)

    def _changed(self, changes: Sequence[Change]) -> list[list[Any]]:
        """Return [position, code, number] for each image of the list that changed."""
        latest = {(change.image, change.labels): change.said for change in changes}
        rows = []
        for (image, labels), said in latest.items():
            for at in self._at.get(image, ()):
                item = self.listed.items[at]
                if (item.queue == LABELS) == labels:
                    rows.append([at, _code(item, said), said.number if said else 0])
        return rows

    def _shown(self, item: Item, store: PoolStore, count: int) -> tuple[NamedBox, ...]:
        rows = self.listed.boxes(item, store)[: max(0, count)]
        return tuple(map(NamedBox.from_list, rows))

    def _drawn(self, each: _Said) -> tuple[NamedBox, ...]:
        if len(each.boxes) > MAX_DRAWN:
            raise HTTPException(400, f"got {len(each.boxes)} boxes, wanted at most {MAX_DRAWN}")
        for x1, y1, x2, y2, name in each.boxes:
            if not (0 <= x1 < x2 < 1e6 and 0 <= y1 < y2 < 1e6):
                raise HTTPException(400, f"box {[x1, y1, x2, y2]}: wanted x1 < x2 and y1 < y2")
            if name not in self.listed.categories:
                raise HTTPException(400, "a box of a class that the list does not have")
        return tuple(NamedBox((x1, y1, x2, y2), name) for x1, y1, x2, y2, name in each.boxes)

    def _who(self, given: str) -> str:
        name = " ".join("".join(c for c in given if c.isprintable()).split())[:_MAX_NAME]
        return name or self.who


def _fixed_columns(listed: CandidateList) -> bytes:
    """Return the columns that no decision changes, as JSON."""
    queues = {queue.name: at for at, queue in enumerate(QUEUES)}
    names: dict[str, dict[str, int]] = {"classes": {}, "rounds": {}, "groups": {}}

    def number(kind: str, name: str) -> int:
        """Return the number that stands for a name."""
        return names[kind].setdefault(name, len(names[kind]))

    items = listed.items
    columns = {
        "score": [None if i.score is None else round(i.score, 4) for i in items],
        "class": [number("classes", i.category) for i in items],
        "round": [number("rounds", i.round) for i in items],
        "group": [number("groups", listed.group_of(i.name)) for i in items],
        "queue": [queues[i.queue] for i in items],
        "leader": [i.leader for i in items],
        **{kind: list(found) for kind, found in names.items()},
        "queues": list(queues),
    }
    columns |= {kind: list(found) for kind, found in names.items()}
    return msgspec.json.encode(columns)


def _code(item: Item, said: StoredDecision | None) -> str:
    if said is None or not item.is_settled(said):
        return UNDECIDED
    return LABELLED if said.decision.boxes else _CODES[said.decision.verdict]


def _told(said: StoredDecision) -> dict[str, Any]:
    return {
        "number": said.number,
        "verdict": said.decision.verdict.value,
        "who": said.decision.who,
        "when": said.decision.when,
        "boxes": len(said.decision.boxes),
    }


def _queue_of(said: StoredDecision) -> str:
    return said.queue or QUEUES[0].name


def _object(classes: Sequence[str]) -> str:
    if not classes:
        return "object"
    if len(classes) > _MANY_CLASSES:
        return f"object of one of the {len(classes)} classes ({', '.join(classes[:3])} …)"
    *first, last = classes
    return f"{', '.join(first)} or {last}" if first else last


def make_app(review: Review, access: Access) -> App:
    """Return the ASGI application, guarded; see the module and ``request_guard``."""
    answers = _Answers(review, access.key)
    faults: Mapping[Any, Any] = {HTTPException: _http_fault, HardmineError: _fault}
    app = Starlette(routes=answers.routes(), exception_handlers=dict(faults))
    return RequestGuard(app, access)


class _Answers:
    """What the server answers to each request; what takes long runs in threads of its own."""

    def __init__(self, review: Review, key: str) -> None:
        self._review = review
        self._key = key
        self._page = {
            name: (files("hardmine.review").joinpath("page", name).read_bytes(), kind)
            for name, kind in _PAGE.items()
        }

    def routes(self) -> list[Route]:
        """Return who answers which address."""
        pictures = self._review.pictures
        large, small = pictures.readers, pictures.thumbnail_readers
        full = self._picture(lambda item, _: pictures.full(item), large)
        return [
            Route("/", self.index),
            Route("/page/{name}", self.static),
            Route("/api/session", self.session),
            Route("/api/list", self.listed),
            Route("/api/images", self.details),
            Route("/api/search", self.search),
            Route("/api/changes", self.changes),
            Route("/api/decide", self.decide, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route(
                "/thumbnail/{at:int}",
                self._picture(lambda item, _: pictures.thumbnail(item), small),
            ),
            Route("/picture/{at:int}", self._picture(pictures.screen, large)),
            Route("/picture/{at:int}/full", full),
        ]

    async def index(self, request: Request) -> Response:
        """Answer with the page."""
        return _static(*self._page["index.html"])

    async def static(self, request: Request) -> Response:
        """Answer with a file of the page."""
        found = self._page.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "no such file")
        return _static(*found)

    async def session(self, request: Request) -> Response:
        """Answer with what the page has to know at its start."""
        return _json(self._review.session(self._key))

    async def listed(self, request: Request) -> Response:
        """Answer with the columns of all items."""
        columns = await run_in_threadpool(self._review.columns)
        return Response(columns, media_type="application/json")

    async def details(self, request: Request) -> Response:
        """Answer with the boxes of some items."""
        wanted = request.query_params.get("ids", "").split(",")[:MAX_DETAILS]
        ids = [_number(part) for part in wanted]
        for at in ids:
            self._review.item(at)
        return _json(await run_in_threadpool(self._review.details, ids))

    async def search(self, request: Request) -> Response:
        """Answer with the items whose names hold a text."""
        text = request.query_params.get("q", "")[:200]
        return _json(await run_in_threadpool(self._review.search, text))

    async def changes(self, request: Request) -> Response:
        """Answer with what others decided since then."""
        given = request.query_params
        after, queue = _number(given.get("after", "0")), given.get("queue", "")
        changed = self._review.changes
        return _json(await run_in_threadpool(changed, given.get("run", ""), after, queue))

    async def decide(self, request: Request) -> Response:
        """Keep decisions."""
        body = _read(await request.body(), _DecideBody)
        status, told = await run_in_threadpool(self._review.decide, body)
        return _json(told, status)

    async def undo(self, request: Request) -> Response:
        """Take decisions back."""
        body = _read(await request.body(), _UndoBody)
        return _json(await run_in_threadpool(self._review.undo, body))

    def _picture(
        self, read: Callable[[Item, int], Encoded], pool: Executor
    ) -> Callable[[Request], Any]:
        """Return what answers with pictures that ``read`` makes."""

        async def answer(request: Request) -> Response:
            """Answer with one item's picture and the size of the whole one."""
            item = self._review.item(request.path_params["at"])
            side = _number(request.query_params.get("side", str(SCREENS[-1])))
            found = await asyncio.get_running_loop().run_in_executor(pool, read, item, side)
            headers = {
                "cache-control": "private, max-age=3600",
                "x-image-width": str(found.width),
                "x-image-height": str(found.height),
            }
            return Response(found.data, media_type=found.media_type, headers=headers)

        return answer


def _next_command(run: Path) -> str:
    """Return what to do when all is decided: a loop goes on, other decisions go into the data."""
    where = shlex.quote(str(run))
    if (run / "loop.json").is_file():
        return f"hardmine loop --out {where} --resume"
    return f"hardmine apply {where} DATA"


def _static(data: bytes, kind: str) -> Response:
    return Response(data, headers={"content-type": kind, "cache-control": "no-cache"})


def _json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise HTTPException(400, "wanted a number")
    return int(text)


def _read(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise HTTPException(400, f"a request that cannot be read: {error}") from None


async def _http_fault(request: Request, error: HTTPException) -> Response:
    return _json({"error": error.detail}, error.status_code)


async def _fault(request: Request, error: HardmineError) -> Response:
    """A store that is busy and a disk that is full may be asked again; others say what is wrong."""
    status = {StoreBusyError: 503, DiskFullError: 507}.get(type(error), 422)
    return _json({"error": str(error)}, status)
