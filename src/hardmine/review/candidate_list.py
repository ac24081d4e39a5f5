"""What there is to look at: candidates of a run, of a store or of a CSV, and the queues beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from hardmine.data.formats.image_files import relative_name
from hardmine.errors import ConfigError, DataError
from hardmine.evaluation.doubtful_labels import DoubtfulLabels
from hardmine.mining.candidates_file import read_sheet
from hardmine.mining.mine_options import RankOptions
from hardmine.mining.pool_store import LABELS, PoolStore, StoredDecision
from hardmine.mining.sources.remote import is_url
from hardmine.types import F32, I64, Dataset, Verdict

CANDIDATES, SECOND_LOOK, SET_ASIDE, FIRES = "candidates", "second_look", "set_aside", "fires"
FIRES_AT = 0.9
"""A confirmed negative on which another model fires with this score or more is asked about again."""
DOUBTFUL_LABELS = "doubtful_labels.json"
"""The file of a loop's directory that lists the labelled images whose boxes the model contradicts."""
_WANTED = "the folder of a mining run or of a loop, its pool.sqlite, or a candidates.csv"


@dataclass(frozen=True, slots=True)
class Queue:
    """A list of images with one question. ``question`` has a place ``{object}``."""

    name: str
    title: str
    question: str
    help: str


QUEUES: tuple[Queue, ...] = (
    Queue(
        CANDIDATES,
        "Candidates",
        "Is there a real {object} in this picture?",
        "Images that should be empty and on which the detector fires.",
    ),
    Queue(
        SECOND_LOOK,
        "Second look",
        "The model was trained on this picture as empty, and still fires. Is there a real {object}?",
        "Negatives on which the model still fires after it was trained on them.",
    ),
    Queue(
        SET_ASIDE,
        "Set aside",
        "This picture was set aside because of its high score. Is there a real {object} in it?",
        "Candidates that were not trained on, because they score so high (--quarantine).",
    ),
    Queue(
        FIRES,
        "Really empty?",
        "Somebody called this picture empty, and another model is sure that it is not. "
        "Is there a real {object} in it?",
        f"Confirmed negatives that another model scores {FIRES_AT} or more.",
    ),
    Queue(
        LABELS,
        "Labels in doubt",
        "The model contradicts the labels of this picture. Is a real {object} without a correct box?",
        "Labelled images on which the model sees something else than their labels say.",
    ),
)
"""The queues in the order in which they are shown; those without an image are not."""


@dataclass(slots=True, eq=False)
class Item:
    """One image of one queue.

    Attributes:
        path: the name by which its source reads it, and by which decisions are kept.
        name: what people call it: its path inside the pool.
        score, category: of the hardest alarm; ``None`` and "" when no model ranked the image.
        queue: the name of a row of :data:`QUEUES`.
        round: such as "mined 2"; "" outside a loop.
        model_id: the model whose alarms are shown.
        boxes: rows ``[x1, y1, x2, y2, score, class]``; ``None``: the store has them.
        labels: the labelled boxes, in the queue of labels; with score 0 where nothing is found.
        leader: the position of the image that stands for this one; -1 for one that stands for itself.
        members: the positions of the images that it stands for.
        mined_at: when its list was written, seconds since 1970.
    """

    path: str
    name: str
    score: float | None
    category: str
    queue: str
    round: str = ""
    model_id: str = ""
    boxes: Sequence[Sequence[Any]] | None = None
    labels: Sequence[Sequence[Any]] = ()
    leader: int = -1
    members: tuple[int, ...] = ()
    mined_at: float = 0.0

    def is_settled(self, said: StoredDecision | None) -> bool:
        """Say whether the latest decision on this image answers the question of this queue."""
        if said is None:
            return False
        if self.queue in (SECOND_LOOK, FIRES):
            return said.queue == self.queue and said.decision.model_id == self.model_id
        return True


@dataclass(frozen=True, eq=False)
class CandidateList:
    """All images to look at, of all queues, and where decisions on them go.

    Attributes:
        store: the file of the pool store.
        items: leaders and members; a member comes somewhere after its leader.
        categories: names of the classes.
        group_of: gives an image's group (a camera, a folder) by its name inside the pool.
        thresholds: by round, the score at which the model finds 80 % of the validation objects.
        csv: a CSV of verdicts that was given, with what it says filled in.
    """

    store: Path
    items: tuple[Item, ...]
    categories: tuple[str, ...]
    pool: str
    group_of: Callable[[str], str]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    csv: Path | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(item.leader < 0 for item in self.items)

    def __repr__(self) -> str:
        counts = {
            q.name: sum(i.queue == q.name and i.leader < 0 for i in self.items) for q in QUEUES
        }
        parts = [f"{number} {name}" for name, number in counts.items() if number]
        return f"CandidateList({self.pool}: {', '.join(parts) or 'nothing'})"

    def boxes(self, item: Item, store: PoolStore) -> list[list[Any]]:
        """Return an image's alarms, best first, as rows ``[x1, y1, x2, y2, score, class]``."""
        if item.boxes is not None:
            return [list(row) for row in item.boxes]
        found = store.alarms(item.model_id, item.path)
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        return [
            [*(round(value, 2) for value in box), round(score, 6), self._name(label)]
            for box, score, label in rows
        ]

    def _name(self, label: int) -> str:
        return self.label_names.get(label) or f"class {label}"


def open_candidates(target: Path) -> CandidateList:
    """Return what there is to look at in a run, a store or a list of candidates.

    Args:
        target: the folder of a mining run or of a loop; its ``pool.sqlite``; or a ``candidates.csv``
            (or ``.json``, or the sheet of a round).

    Raises:
        DataError: nothing of this kind is there, a file is broken, or the store is of another version.
        ConfigError: a pattern of groups in the list cannot be read.
    """
    target = target.resolve()
    if target.is_dir():
        return _Reader(target, target / "pool.sqlite").read()
    if not target.exists():
        raise DataError(f"{target}: no such file or folder, wanted {_WANTED}")
    if target.suffix.lower() in (".csv", ".json"):
        store = _store_of(target)
        return _Reader(store.parent, store).read_list(target)
    return _Reader(target.parent, target).read()


def labels_in_doubt(
    found: Sequence[DoubtfulLabels], dataset: Dataset, model_id: str
) -> dict[str, Any]:
    """Return what :data:`DOUBTFUL_LABELS` holds: the images with the model's boxes and their labels."""

    def rows(boxes: F32, labels: I64, scores: Sequence[float | None]) -> list[list[Any]]:
        """Return boxes as the page takes them: corners, score, class."""
        names = [dataset.categories[int(label) - 1] for label in labels]
        corners = [[round(float(value), 2) for value in box] for box in boxes]
        return [[*box, s, name] for box, s, name in zip(corners, scores, names, strict=True)]

    candidates = []
    for each in found:
        record, seen = each.record, each.detections
        top = dataset.categories[int(seen.labels[0]) - 1] if len(seen) else ""
        candidates.append(
            {
                "image": relative_name(record.path, dataset.root),
                "path": str(record.path),
                "score": round(each.score, 6),
                "class": top,
                "boxes": rows(seen.boxes, seen.labels, [round(float(s), 6) for s in seen.scores]),
                "labels": rows(
                    record.boxes, record.labels, [0.0 if u else None for u in each.unseen]
                ),
            }
        )
    return {"model_id": model_id, "candidates": candidates}


def _store_of(listed: Path) -> Path:
    """Return the store that belongs to a list: beside it or above it; a new one beside it if none."""
    for folder in (listed.parent, *listed.parents[1:4]):
        if (folder / "pool.sqlite").is_file():
            return folder / "pool.sqlite"
    return listed.with_name("pool.sqlite")


def run_of(file: Path) -> Path:
    """Return the folder of the run that a labelling program's file lies in.

    Raises:
        DataError: there is no ``pool.sqlite`` beside the file or above it.
    """
    store = _store_of(file.resolve())
    if not store.is_file():
        raise DataError(
            f"{file}: no pool.sqlite beside it or above it, wanted the file in the folder of a mining "
            "run or of a loop, so that it is known which images it speaks of"
        )
    return store.parent


@dataclass
class _Reader:
    """Gathers the items of one run."""

    folder: Path
    store: Path
    items: list[Item] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    pool: str = ""
    group: str | None = None

    def read(self) -> CandidateList:
        """Return all that a run has."""
        if not self.store.is_file() and not self._lists():
            raise DataError(
                f"{self.folder}: neither pool.sqlite nor candidates.json, wanted {_WANTED}"
            )
        for path, label, queue in self._lists():
            self._add_file(path, label, queue)
        self._read_store()
        return self._done()

    def read_list(self, path: Path) -> CandidateList:
        """Return the images of one list, with the verdicts that a CSV has filled in."""
        beside = path.with_suffix(".json")
        if beside.is_file():
            self._add_file(beside, "", CANDIDATES)
        else:
            self._add_sheet(path)
        if path.suffix.lower() == ".csv" and beside.is_file():
            self._keep([row["image"] or "" for row in _sheet_rows(path)])
        self._add_members_of_store()
        return self._done(path if path.suffix.lower() == ".csv" else None)

    def _lists(self) -> list[tuple[Path, str, str]]:
        """Return the files that list images, with their round and queue."""
        found = [(self.folder / "candidates.json", "", CANDIDATES)]
        rounds = sorted(
            (path for path in (self.folder / "rounds").glob("*-*") if _round_of(path)[1] > 0),
            key=lambda path: (_round_of(path)[1], path.name),
        )
        for path in rounds:
            arm, number = _round_of(path)
            label = f"{arm} {number}"
            found.append((path / "candidates.json", label, CANDIDATES))
            found.append((path / "second_look.json", label, SECOND_LOOK))
            found.append((path / "quarantine.json", label, SET_ASIDE))
        found.append((self.folder / DOUBTFUL_LABELS, "", LABELS))
        return [row for row in found if row[0].is_file()]

    def _add_file(self, path: Path, label: str, queue: str) -> None:
        """Add the images of a ``candidates.json``; of a second look the latest round counts."""
        values = _read_json(path)
        self.pool = self.pool or values.pool
        self.group = self.group or (values.rank or {}).get("group")
        model = values.model_id or label
        known = {item.path: at for at, item in enumerate(self.items) if item.queue == queue}
        written = path.stat().st_mtime
        for row in values.candidates:
            name, score, category = row.image, row.score, row.category
            item = Item(row.path, name, score, category, queue, label, model, row.boxes, row.labels)
            item.mined_at = written
            self._add_row(item, row.similar, known)

    def _add_row(self, item: Item, similar: Sequence[str], known: dict[str, int]) -> None:
        at = known.get(item.path)
        if at is not None:
            if item.queue == SECOND_LOOK:
                self.items[at] = item
            return
        at = known[item.path] = len(self.items)
        self.items.append(item)
        for other in similar:
            self._add_member(at, other)

    def _add_member(self, leader: int, name: str) -> None:
        """Add an image that another one stands for; its alarms are in the store."""
        first = self.items[leader]
        path = _path_beside(first, name)
        member = Item(path, name, None, first.category, first.queue, first.round, first.model_id)
        member.leader, member.mined_at = leader, first.mined_at
        first.members = (*first.members, len(self.items))
        self.items.append(member)

    def _add_sheet(self, path: Path) -> None:
        """Add the images of a CSV without boxes beside it: those of the run that it names, or files."""
        rows = _sheet_rows(path)
        for listed, label, queue in self._lists():
            if queue == CANDIDATES:
                self._add_file(listed, label, queue)
        by_name = {text: i for i in self.items if i.leader < 0 for text in (i.name, i.path)}
        for row in rows:
            if row["image"] not in by_name:
                self.items.append(_item_of_row(row, path))
        self._keep([row["image"] or "" for row in rows])

    def _keep(self, names: Iterable[str]) -> None:
        """Keep the images of these names and the members of their groups."""
        wanted = set(names)
        kept = [
            at
            for at, item in enumerate(self.items)
            if {item.name, item.path} & wanted
            or (
                item.leader >= 0
                and {self.items[item.leader].name, self.items[item.leader].path} & wanted
            )
        ]
        place = {old: new for new, old in enumerate(kept)}
        items = [self.items[at] for at in kept]
        for item in items:
            item.leader = place.get(item.leader, -1)
            item.members = tuple(place[at] for at in item.members if at in place)
        self.items = items

    def _read_store(self) -> None:
        """Add what only the store knows: the class numbers, members' scores, and its own queue."""
        if not self.store.is_file():
            return
        self._add_members_of_store()
        with PoolStore(self.store, read_only=True) as store:
            if not any(item.queue == CANDIDATES for item in self.items):
                self.items += _items_of_store(store, self.names)
            self.items += _firing_negatives(store, self.items, self.names)

    def _add_members_of_store(self) -> None:
        if not self.store.is_file():
            return
        with PoolStore(self.store, read_only=True) as store:
            self.names = _class_names(store, self.items)
            for item in self.items:
                if item.leader >= 0:
                    found = store.find(item.model_id, item.path)
                    item.score = None if found is None else found.score
                    item.boxes = None if found is not None else []

    def _done(self, given: Path | None = None) -> CandidateList:
        rows = (row for item in self.items for row in (item.boxes or ()))
        classes = {item.category for item in self.items} | {str(row[5]) for row in rows}
        classes |= {str(row[5]) for item in self.items for row in item.labels} | set(
            self.names.values()
        )
        return CandidateList(
            self.store,
            tuple(self.items),
            tuple(sorted(classes - {""})),
            self.pool or str(self.folder),
            _grouping(self.group),
            _thresholds(self.folder / "rounds.json"),
            given,
            self.names,
        )


def _round_of(folder: Path) -> tuple[str, int]:
    arm, _, number = folder.name.rpartition("-")
    return arm, int(number) if number.isdecimal() and arm != "round" else 0


Row = tuple[float, float, float, float, float | None, str]


class _Row(msgspec.Struct, gc=False):
    """What is read of one candidate in ``candidates.json``."""

    image: str
    path: str
    score: float | None
    boxes: list[Row]
    category: str = msgspec.field(default="", name="class")
    similar: list[str] = []
    labels: list[Row] = []


class _List(msgspec.Struct):
    """What is read of ``candidates.json`` and the files like it."""

    candidates: list[_Row]
    pool: str = ""
    model_id: str = ""
    rank: dict[str, Any] | None = None


def _read_json(path: Path) -> _List:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_List)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not a list of candidates ({error})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None


def _sheet_rows(path: Path) -> list[dict[str, str | None]]:
    """Return the rows of a CSV that name an image, under its name without spaces around it."""
    rows = [row for _, row in read_sheet(path)]
    return [{**row, "image": name} for row in rows if (name := (row["image"] or "").strip())]


def _item_of_row(row: Mapping[str, str | None], path: Path) -> Item:
    name = row["image"] or ""
    place = name if is_url(name) else str((path.parent / name).absolute())
    try:
        score = float(row["score"] or "") if row.get("score") else None
    except ValueError:
        raise DataError(f"{path}: {name}: score {row['score']!r} is no number") from None
    return Item(place, name, score, row.get("class") or "", CANDIDATES, boxes=[])


def _path_beside(item: Item, name: str) -> str:
    """Return the path of another image of the same pool by its name inside it."""
    for own, other in ((item.name, name), (quote(item.name), quote(name))):
        if item.path.endswith(own):
            return item.path.removesuffix(own) + other
    return str(Path(item.path).parent / name)


def _grouping(pattern: str | None) -> Callable[[str], str]:
    try:
        return RankOptions(group=pattern or "folder").group_of
    except ConfigError as error:
        raise ConfigError(f"the list of candidates: {error}") from None


def _thresholds(path: Path) -> dict[str, float]:
    """Return by round the score threshold of the model that mined it: the one of the round before."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = {(row["arm"], row["round"]): row["score_threshold"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {f"{arm} {n + 1}": float(t) for (arm, n), t in found.items() if t is not None}


def _class_names(store: PoolStore, items: Sequence[Item]) -> dict[int, str]:
    """Return the names of the class numbers in the store, from images that have both."""
    names: dict[int, str] = {}
    known = {str(box[5]) for item in items for box in (item.boxes or ())}
    for item in items:
        if set(names.values()) >= known:
            break
        if item.boxes:
            labels = store.alarms(item.model_id, item.path).labels.tolist()
            names |= {int(n): str(box[5]) for n, box in zip(labels, item.boxes, strict=False)}
    return names


def _items_of_store(store: PoolStore, names: Mapping[int, str]) -> Iterator[Item]:
    """Yield what was handed out, or else all that fires, of a store without lists of candidates."""
    mined = store.all_mined()
    for arm, number, image, model in mined:
        found = store.find(model, image)
        score, category = (found.score, names.get(found.label, "")) if found else (None, "")
        label = f"{arm} {number}" if number else ""
        yield Item(image, image, score, category, CANDIDATES, label, model)
    models = store.model_ids()
    if not mined and models:
        for row in store.iter_ranked(models[-1]):
            if row.num_alarms or row.num_alarms < 0:
                category = names.get(row.label, f"class {row.label}")
                yield Item(row.image, row.image, row.score, category, CANDIDATES, "", row.model_id)


def _firing_negatives(
    store: PoolStore, items: Sequence[Item], names: Mapping[int, str]
) -> list[Item]:
    """Return the confirmed negatives on which a model fires that was not there at their decision."""
    looked_at: dict[str, set[str]] = {}
    for said in store.decisions_after(0):
        looked_at.setdefault(said.decision.image, set()).add(said.decision.model_id)
    empty = {i for i, said in store.decisions().items() if said.verdict is Verdict.EMPTY}
    again = {item.path for item in items if item.queue == SECOND_LOOK}
    inside = {item.path: item.name for item in items}
    found: dict[str, Item] = {}
    for model in store.model_ids():
        for row in store.iter_ranked(model):
            if row.score < FIRES_AT:
                break
            image = row.image
            if image in empty and image not in again and model not in looked_at[image]:
                category = names.get(row.label, f"class {row.label}")
                name = inside.get(image, image)
                found[image] = Item(image, name, row.score, category, FIRES, "", model)
    return sorted(found.values(), key=lambda item: -(item.score or 0))
