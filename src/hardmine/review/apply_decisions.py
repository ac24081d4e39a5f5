"""Confirmed negatives and new labels go into the user's own data set.

What is written is planned in full before anything is touched, and then into a journal
(`apply_journal`). So an apply that was killed half way is taken back by the next one, or by
:func:`~hardmine.review.apply_journal.undo_apply`, and one that is repeated finds its images there and
adds nothing twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hardmine.data.formats.format_table import FORMATS
from hardmine.data.formats.image_files import plain_path
from hardmine.data.formats.label_format import ALL, Additions, NewImage
from hardmine.data.images import decode_image, picture_suffixes, usual_suffix
from hardmine.data.load_dataset import find_sources
from hardmine.data.quality.usable_data import load_usable
from hardmine.data.splits.near_duplicates import (
    MAX_DISTANCE,
    find_near,
    group_duplicates,
    hash_images,
    perceptual_hash,
)
from hardmine.errors import DataError
from hardmine.files import alone, plain_name, write_bytes
from hardmine.inference.image_loading import path_of, read_item
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.sources.pool_source import open_image
from hardmine.plurals import counted
from hardmine.review.apply_journal import (
    BUSY,
    begin_journal,
    digest_of,
    end_journal,
    rewrite,
    root_of,
    take_back,
    take_back_unfinished,
)
from hardmine.review.candidate_list import CANDIDATES
from hardmine.review.labelling_files import SUFFIXES
from hardmine.types import F32, Dataset, Decision, ImageState

How = Literal["copy", "link", "reference"]
"""An image becomes a copy, a hard link, or a reference: a symbolic link to where it is, or its path in
those label files that name images by path."""

ADDED_BEFORE = "was added before"
"""The reason why an image is not added a second time."""
_BY_PATH = ("coco", "csv")
"""Formats whose label files can name an image anywhere."""
_PLAIN = re.compile(r"[^\w.-]+")
_NAME_BYTES = 180
"""Bytes of an image's own name that its copy keeps: file systems allow 255 with all that is added."""
_SAME = 0.51
"""Pixels by which a box may differ when it is read back: label files round, VOC's to whole pixels."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """An image that was not added, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class ApplyResult:
    """What was added to a data set, or would be.

    Attributes:
        split: the part that the images went into.
        empty: names of the files that were added as verified negatives; paths of those that stay where
            they are.
        labelled: names of those that were added with objects.
        skipped: images that were not added, each with the reason.
        undecided: images with another verdict (unsure, ignore, an object without a box), each with it.
        journal: what :func:`undo_apply` reads; None when nothing was written.
        store: what the decisions were read from.
        open: how many candidates there have no decision yet; near-duplicates count once.
    """

    data: Path
    split: str
    empty: tuple[str, ...]
    labelled: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    undecided: tuple[Skipped, ...]
    dry_run: bool
    journal: Path | None = None
    store: Path | None = None
    open: int = 0

    @property
    def not_added(self) -> tuple[Skipped, ...]:
        """All images with a decision that were not added."""
        return self.skipped + self.undecided

    def __str__(self) -> str:
        verb = "would be added" if self.dry_run else "added"
        lines = [
            f"{self.data} ({self.split}): {counted(len(self.empty), 'verified negative')} "
            f"and {counted(len(self.labelled), 'labelled image')} {verb}"
        ]
        reasons = Counter(each.reason.partition(":")[0] for each in self.not_added)
        lines += [f"not added, {count}: {reason}" for reason, count in reasons.items()]
        if self.open:
            where = shlex.quote(str(self.store))
            lines.append(f"{self.open} without a decision: hardmine review {where}")
        if self.journal is not None:
            given = shlex.join((str(self.store), str(self.data)))
            lines.append(f"hardmine apply {given} --undo takes this back")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A decided image as it is now: digest of its bytes, size, hash; ``place`` where it is to stay."""

    decision: Decision
    name: str
    digest: str
    size: tuple[int, int]
    phash: int
    place: Path | None = None


@dataclass(slots=True)
class _Plan:
    split: str
    images: dict[str, _Candidate] = field(default_factory=dict)
    additions: Additions = field(default_factory=Additions)
    skipped: list[Skipped] = field(default_factory=list)


def apply_decisions(
    store: Path | str,
    data: Path | str,
    *,
    how: How = "copy",
    images: Path | str | None = None,
    dry_run: bool = False,
) -> ApplyResult:
    r"""Write what people decided into a data set: verified negatives, and images with their new labels.

    Images go into the training part, in the data set's own format (YOLO, VOC, COCO or CSV); never into
    the validation or test part, except where the data takes both from the same folder, with a warning.
    One that is a near-copy of any image of the data set, or of another one that is added, is left out;
    so is one that has changed since it was mined.

    Args:
        store: the folder of ``mine`` or of a loop, its ``pool.sqlite``, a ``candidates.csv`` with
            verdicts, or a labelling program's file in that folder. Verdicts of a file, and of the
            ``candidates.csv`` of a folder, go into the store first.
        data: the data set.
        how: copy the images, make hard links, or leave them where they are (reference): YOLO and VOC
            get symbolic links, COCO and CSV name them by path, relative where they lie below the data
            set. Images in archives, videos and behind URLs are always copied.
        images: the folder of the data set's images, where it is not found beside the labels.
        dry_run: write nothing; verdicts of a file count and do not go into the store.

    Returns:
        ApplyResult: what was added and what was not, with reasons.

    Raises:
        DataError: there is no training part, a format that images cannot be added to, a class that the
            data set does not have, boxes that training refuses too, an added image that is not read
            back as it was decided, or a file that cannot be read or written.

    Example:
        >>> mined = hardmine.mine(detector, "pool", top=2, out="mined")
        >>> sheet = Path("mined/candidates.csv")
        >>> _ = sheet.write_text(sheet.read_text().replace(",0,\n", ",0,empty\n"))
        >>> print(hardmine.apply_decisions(sheet, "shelf", dry_run=True))
        shelf (all): 2 verified negatives and 0 labelled images would be added
    """
    root = root_of(Path(data))
    if dry_run:
        return _apply(root, store, data, how, images, dry_run=True)
    with alone(root, BUSY):
        take_back_unfinished(root)
        return _apply(root, store, data, how, images, dry_run=False)


def _apply(
    root: Path,
    store: Path | str,
    data: Path | str,
    how: How,
    images: Path | str | None,
    *,
    dry_run: bool,
) -> ApplyResult:
    decisions, phash_of, waiting = _decided(Path(store), dry_run)
    splits = load_usable(data, images=images)
    plan = _plan(decisions, phash_of, splits, data, images, how)
    told = {each.image for each in plan.skipped}
    rest = {image: said for image, said in decisions.items() if image not in told}
    undecided = [Skipped(i, _why_not(d)) for i, d in rest.items() if not _is_added(d)]
    if plan.images:
        _warn_of_shared(data, splits, plan.split)
    empty = [n for n, c in plan.images.items() if c.decision.state is ImageState.VERIFIED_EMPTY]
    labelled = [name for name in plan.images if name not in empty]
    journal = None
    if plan.images and not dry_run:
        journal = _write(root, plan, how, lambda: load_usable(data, images=images))
    return ApplyResult(
        Path(data),
        plan.split,
        tuple(empty),
        tuple(labelled),
        tuple(plan.skipped),
        tuple(undecided),
        dry_run,
        journal,
        Path(store),
        waiting,
    )


def _decided(target: Path, dry_run: bool) -> tuple[dict[str, Decision], dict[str, int], int]:
    """Return the latest decision on each image, the hash that mining saw, how many images have none.

    Verdicts of a file go into the store first; in a dry run they only count.
    """
    from hardmine.review.run_review import open_listed, read_listed

    is_file = target.is_file() and target.suffix.lower() in (".csv", *SUFFIXES)
    path = target / "pool.sqlite" if target.is_dir() else target
    if not is_file and not path.is_file():
        raise DataError(
            f"{path}: no such pool store; wanted the folder of mine or of a loop, or a file in it "
            "(hardmine convert FOLDER OUT --to coco makes one of a folder of labels)"
        )
    listed, fresh = read_listed(target) if dry_run else (open_listed(target), [])
    decisions = {each.image: each for each in fresh}
    phash_of: dict[str, int] = {}
    if listed.store.is_file():
        with PoolStore(listed.store, read_only=True) as store:
            decisions = store.decisions() | decisions
            for image, decision in decisions.items():
                row = store.find(decision.model_id, image)
                if row is not None:
                    phash_of[image] = row.phash
    handed_out = {i.path for i in listed.items if i.queue == CANDIDATES and i.leader < 0}
    return decisions, phash_of, len(handed_out - decisions.keys())


def _is_added(decision: Decision) -> bool:
    return decision.state in (ImageState.VERIFIED_EMPTY, ImageState.LABELLED)


def _why_not(decision: Decision) -> str:
    if decision.state is ImageState.CONTAINS_OBJECT:
        return "holds an object that has no box yet"
    return f"the verdict is {decision.verdict.value}"


def _plan(
    decisions: Mapping[str, Decision],
    phash_of: Mapping[str, int],
    splits: Mapping[str, Dataset],
    data: Path | str,
    images: Path | str | None,
    how: How,
) -> _Plan:
    plan = _Plan(_target_split(splits, data))
    source = find_sources(plain_path(data), None if images is None else plain_path(images))[
        plan.split
    ]
    row = next(row for row in FORMATS if row.name == source.format)
    stay = how == "reference" and row.name in _BY_PATH
    candidates: list[_Candidate] = []
    changed = _changed_since(decisions, splits, stay)
    plan.skipped += changed.values()
    for image, decision in decisions.items():
        if image in changed or not _is_added(decision):
            continue
        found = _read(decision, phash_of.get(image, 0), stay)
        if isinstance(found, Skipped):
            plan.skipped.append(found)
        else:
            candidates.append(found)
    kept = _apart(candidates, splits, plan)
    plan.images = {candidate.name: candidate for candidate in kept}
    new = [_new_image(candidate) for candidate in kept]
    if new:
        plan.additions = row.appender(source, splits[plan.split], new)
        _check_free(plan.additions)
    return plan


def _changed_since(
    decisions: Mapping[str, Decision], splits: Mapping[str, Dataset], stay: bool
) -> dict[str, Skipped]:
    """Return the images that were added before and of which the decision says something else now."""
    records = [record for part in splits.values() for record in part.records]
    there = {name: each for each in records for name in (each.path.name, str(each.path))}
    found: dict[str, Skipped] = {}
    for image, decision in decisions.items():
        place = plain_path(image) if stay and open_image(image).read is None else None
        record = there.get(_file_name(image) if place is None else str(place))
        if record is None or record.state is decision.state:
            continue
        if record.state.is_negative and decision.state.is_negative:
            continue
        reason = (
            f"{ADDED_BEFORE}, and the decision is another one now: {decision.state.value}, and "
            f"{record.state.value} in the data; remove {record.path} and its labels there, then apply "
            "again"
        )
        found[image] = Skipped(image, reason)
    return found


def _target_split(splits: Mapping[str, Dataset], data: Path | str) -> str:
    for name in ("train", ALL):
        if name in splits:
            return name
    raise DataError(
        f"{data}: has the parts {', '.join(splits)} and no part to train on; nothing is added to those "
        "that are measured on"
    )


def _warn_of_shared(data: Path | str, splits: Mapping[str, Dataset], target: str) -> None:
    """Warn of parts that hold the whole training part: what is added to a shared folder is in both."""
    trained_on = {record.path for record in splits[target].records}
    for name, part in splits.items():
        if name != target and trained_on <= {record.path for record in part.records}:
            _log.warning(
                "%s: %s holds every image of %s, so that what is added there is measured on too; "
                "'hardmine split' makes a validation part of its own",
                data,
                name,
                target,
            )


def _read(decision: Decision, mined: int, stay: bool) -> _Candidate | Skipped:
    item = open_image(decision.image)
    try:
        content = read_item(item)
        picture = decode_image(content, decision.image)
    except (DataError, OSError) as error:
        return Skipped(decision.image, f"cannot be read: {error}")
    phash = perceptual_hash(picture.pixels)
    if mined and phash and bin((phash ^ mined) & (2**64 - 1)).count("1") > MAX_DISTANCE:
        return Skipped(decision.image, "has changed since it was mined")
    digest = hashlib.sha256(content).hexdigest()
    place = plain_path(item.name) if stay and item.read is None else None
    name = _file_name(decision.image) if place is None else str(place)
    return _Candidate(decision, name, digest, (picture.width, picture.height), phash, place)


def _file_name(image: str) -> str:
    """Return a name that no other image has: the same for the same image, whenever it is added."""
    path = path_of(image)
    suffix = usual_suffix(path.suffix) if path.suffix.lower() in picture_suffixes() else ".jpg"
    plain = _PLAIN.sub("_", path.stem).strip("._") or "image"
    short = plain[:80].encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"hardmine_{short}_{hashlib.sha256(image.encode()).hexdigest()[:8]}{suffix}"


def _apart(
    candidates: Sequence[_Candidate], splits: Mapping[str, Dataset], plan: _Plan
) -> list[_Candidate]:
    """Return those that repeat no image of the data set and none of each other."""
    there = [(name, record.path) for name, part in splits.items() for record in part.records]
    hashes = hash_images([path for _, path in there])
    near = find_near(hashes, [candidate.phash for candidate in candidates])
    groups = group_duplicates([candidate.phash for candidate in candidates])
    names = {path.name for _, path in there} | {str(path) for _, path in there}
    kept: dict[int, _Candidate] = {}
    for index, candidate in enumerate(candidates):
        image = candidate.decision.image
        if candidate.name in names:
            plan.skipped.append(Skipped(image, ADDED_BEFORE))
        elif index in near:
            part, path = there[near[index]]
            plan.skipped.append(Skipped(image, f"is a near-copy of an image of {part}: {path}"))
        elif groups[index] in kept:
            other = kept[groups[index]].decision.image
            plan.skipped.append(Skipped(image, f"is a near-copy of one that is added: {other}"))
        else:
            kept[groups[index]] = candidate
    return list(kept.values())


def _new_image(candidate: _Candidate) -> NewImage:
    width, height = candidate.size
    boxes = np.array([box.box for box in candidate.decision.boxes], np.float32).reshape(-1, 4)
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    classes = tuple(box.category for box in candidate.decision.boxes)
    return NewImage(candidate.name, width, height, boxes, classes, candidate.place)


def _check_free(additions: Additions) -> None:
    for path in (*additions.pictures.values(), *additions.new_files):
        if path.exists() or path.is_symlink():
            raise DataError(f"{path}: is there already; remove it, or undo what was applied before")


def _write(root: Path, plan: _Plan, how: How, read: Callable[[], Mapping[str, Dataset]]) -> Path:
    """Write what was planned, and read it back: what is read otherwise is taken back at once."""
    additions = plan.additions
    stay = [each.place for each in plan.images.values() if each.place is not None]
    digests = {path: plan.images[name].digest for name, path in additions.pictures.items()}
    journal = begin_journal(root, additions, digests, stay)
    try:
        for name, path in additions.pictures.items():
            _place(plan.images[name], path, how)
        for path, text in additions.new_files.items():
            write_bytes(path, text.encode())
        for path, content in additions.edits.items():
            rewrite(path, content)
    except (DataError, OSError) as error:
        take_back(root, journal)
        raise DataError(f"nothing was added: {error}") from error
    try:
        _check_read_back(plan, read()[plan.split])
    except DataError as error:
        take_back(root, journal)
        raise DataError(
            f"nothing was added: {error}. 'hardmine check DATA --fix OUT' writes a copy whose boxes are "
            "pixels of upright pictures"
        ) from None
    end_journal(journal)
    return journal


def _check_read_back(plan: _Plan, split: Dataset) -> None:
    """Raise ``DataError`` where an added image is not read as it was decided."""
    records = {record.path: record for record in split.records}
    for name, candidate in plan.images.items():
        path = plan.additions.pictures.get(name, candidate.place)
        new, record = _new_image(candidate), None if path is None else records.get(path)
        classes = [] if record is None else [split.categories[n - 1] for n in record.labels]
        if record is None or record.state is not candidate.decision.state:
            got = "nothing" if record is None else str(record.state.value)
        elif sorted(classes) != sorted(plain_name(text) for text in new.classes):
            got = f"objects of {', '.join(classes)}"
        elif not np.allclose(_in_order(record.boxes), _in_order(new.boxes), atol=_SAME):
            got = f"boxes {record.boxes.tolist()} in place of {new.boxes.tolist()}"
        else:
            continue
        raise DataError(f"{name} would be read back as {got}, since the other boxes decide how")


def _in_order(boxes: F32) -> F32:
    ordered: F32 = boxes[np.lexsort(boxes.T)]
    return ordered


def _place(candidate: _Candidate, path: Path, how: How) -> None:
    item = open_image(candidate.decision.image)
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.read is None and how == "reference":
        path.symlink_to(Path(item.name).resolve())
        return
    if item.read is None and how == "link":
        try:
            os.link(Path(item.name).resolve(), path)
            return
        except OSError:
            _log.warning("%s: cannot be linked here, copied", item.name)
    content = read_item(item)
    if digest_of(content) != candidate.digest:
        raise DataError(f"{candidate.decision.image}: has changed while it was copied")
    write_bytes(path, content)
