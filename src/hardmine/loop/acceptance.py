"""Which of the candidates of a round become negatives, and what a loop waits for.

A candidate becomes a negative when the pool is taken as empty, or when a person calls it empty: on the
review page, in a CSV file, or in a labelling program.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardmine.data.formats.image_files import relative_name
from hardmine.files import csv_text, write_text
from hardmine.loop.control_arms import ARMS, Arm
from hardmine.loop.loop_options import Accept
from hardmine.loop.round_candidates import ArmCandidates
from hardmine.mining.candidates_file import (
    keep_list,
    lists_images,
    read_rows,
    write_rows,
)
from hardmine.mining.pool_store import PoolStore
from hardmine.plurals import counted
from hardmine.review.labelling_files import SUFFIXES
from hardmine.review.verdicts import read_verdicts, store_verdicts, undecided
from hardmine.types import Dataset, ImageRecord, ImageState


@dataclass(frozen=True, slots=True)
class Waiting:
    """``candidates`` is the file to judge, ``verdicts`` where the filled-in CSV, or the export of a
    labelling program, is expected; ``None`` when a person decides on the review page.
    """

    round_number: int
    candidates: Path
    verdicts: Path | None
    num_images: int

    def __str__(self) -> str:
        out = shlex.quote(str(self.candidates.parent))
        images = counted(self.num_images, "image")
        if self.verdicts is None:
            return (
                f"round {self.round_number} waits for decisions on {images}: run "
                f"hardmine review {out}, then: hardmine loop --out {out} --resume"
            )
        if self.verdicts.suffix.lower() in SUFFIXES:
            return (
                f"round {self.round_number} waits for verdicts on {images}: judge those "
                f"of {self.candidates} in your labelling program, save its export as {self.verdicts}, "
                f"then run: hardmine loop --out {out} --resume"
            )
        return (
            f"round {self.round_number} waits for verdicts on {images}: fill in the"
            f" verdict column of {self.candidates} (empty, contains_object, ignore, unsure), save "
            f"it as {self.verdicts}, then run: hardmine loop --out {out} --resume"
        )


@dataclass(frozen=True)
class Acceptance:
    """Says which of the candidates are empty.

    ``accept`` is "auto", "review", or the file of verdicts; verdicts go into the store, append-only, and
    count from there: a file of a later round need not repeat those of an earlier one.
    """

    accept: Accept
    store: PoolStore
    root: Path
    pool: Dataset

    def accept_candidates(
        self, round_number: int, candidates: Mapping[Arm, ArmCandidates]
    ) -> dict[Arm, list[ImageRecord]] | Waiting:
        """Return each arm's new negatives, or what to wait for.

        An arm that takes as many images as another one gets no more than that one in the end, so that
        the two differ in the choice of images alone.

        Raises:
            DataError: the CSV is faulty or half filled in.
        """
        images = list(dict.fromkeys(i for part in candidates.values() for i in part.images))
        if self.accept != "auto":
            waiting = self._wait(self.accept, round_number, images, candidates)
            if waiting is not None:
                return waiting
        states = self._states(images)
        for part in candidates.values():
            self._write(part, states)
        records = {str(record.path): record for record in self.pool.records}
        accepted = {
            arm: [records[i].with_state(states[i]) for i in part.images if states[i].is_negative]
            for arm, part in candidates.items()
        }
        counts = {arm.name: len(found) for arm, found in accepted.items()}
        return {arm: found[: counts.get(arm.as_many_as or "")] for arm, found in accepted.items()}

    def _wait(
        self,
        accept: Path | Literal["review"],
        round_number: int,
        images: Sequence[str],
        candidates: Mapping[Arm, ArmCandidates],
    ) -> Waiting | None:
        """Return what to wait for, if a candidate has no decision yet."""
        if accept != "review":
            return self._take_verdicts(accept, round_number, images, candidates)
        decided = self.store.decisions()
        missing = [image for image in images if image not in decided]
        if not missing:
            return None
        sheet = self.root / f"candidates-round-{round_number}.csv"
        return Waiting(round_number, sheet, None, len(missing))

    def _take_verdicts(
        self,
        path: Path,
        round_number: int,
        images: Sequence[str],
        candidates: Mapping[Arm, ArmCandidates],
    ) -> Waiting | None:
        mentioned: set[str] = set()
        if path.exists():
            ever = {image for arm in ARMS for image in self.store.mined(arm.name)} | set(images)
            known = {image: image for image in ever}
            known |= {relative_name(Path(image), self.pool.root): image for image in ever}
            verdicts = read_verdicts(path, known)
            model_id = next(iter(candidates.values())).model_id if candidates else ""
            store_verdicts(self.store, verdicts, str(path), model_id)
            mentioned = set(verdicts)
        missing = undecided(images, set(self.store.decisions()), path, mentioned)
        if not missing:
            return None
        sheet = self.root / f"candidates-round-{round_number}.csv"
        self._write_sheet(sheet, missing, candidates.values())
        return Waiting(round_number, sheet, path, len(missing))

    def _write_sheet(
        self, sheet: Path, missing: Sequence[str], candidates: Iterable[ArmCandidates]
    ) -> None:
        """Write one file to fill in for all arms; an image that two arms hold comes once."""
        wanted = {relative_name(Path(image), self.pool.root) for image in missing}
        rows: dict[str, dict[str, str]] = {}
        for part in candidates:
            for row in read_rows(part.folder / "candidates.csv"):
                if row["image"] in wanted:
                    rows.setdefault(row["image"], row)
        if not lists_images(sheet, rows):  # else verdicts that are typed in stay
            keep_list(sheet)
            write_rows(sheet, rows.values())

    def _states(self, images: Sequence[str]) -> dict[str, ImageState]:
        decided = self.store.decisions()
        taken = ImageState.ASSUMED_EMPTY if self.accept == "auto" else ImageState.UNREVIEWED
        return {i: decided[i].state if i in decided else taken for i in images}

    def _write(self, part: ArmCandidates, states: Mapping[str, ImageState]) -> None:
        rows = [[relative_name(Path(i), self.pool.root), states[i].value] for i in part.images]
        write_text(part.folder / "decisions.csv", csv_text([["image", "state"], *rows]))
