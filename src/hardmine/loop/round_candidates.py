"""What an arm is handed in a round.

An arm is handed the candidates of its round (`CandidateSearch`), and those that deserve a second
look. What fired on the confirmed negatives of an arm is kept for the alarm-paste augmentation of its
later rounds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from hardmine.augment.paste import Alarm, write_alarms
from hardmine.data.formats.image_files import relative_name
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import NOTICE
from hardmine.evaluation.alarms import KnownAlarms, RepeatedAlarms, count_repeated
from hardmine.files import read_json
from hardmine.loop.control_arms import Arm
from hardmine.loop.loop_options import Amount, ChosenAmount, LoopOptions, choose_amount
from hardmine.loop.stopping import RoundPoint
from hardmine.mining.candidates_file import (
    Candidate,
    candidate_of,
    write_candidates,
)
from hardmine.mining.confirmed_alarms import worth_knowing
from hardmine.mining.image_selection import ImageSelector, Reason, Rejection, select_random
from hardmine.mining.mine_options import RULES, MineOptions, RankOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import wide_margin
from hardmine.mining.scan import scan, scan_exactly
from hardmine.mining.sources.pool_source import DatasetSource
from hardmine.option_fields import changed_options
from hardmine.types import ImageRecord, NamedBox, PoolScore, reaches
from hardmine.workflows.cached_models import Backend, MeasuredModel, TrainedModel
from hardmine.workflows.sets_apart import LoopSets
from hardmine.workflows.step_cache import Steps, fingerprint

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe


@dataclass
class ArmState:
    """What an arm has gathered; it is rebuilt from the finished steps on every start."""

    arm: Arm
    results: list[MeasuredModel]
    """The measured model of each round, round 0 first."""
    history: list[RoundPoint]
    """What the stop rules know of each round."""
    negatives: list[ImageRecord] = field(default_factory=list)
    """Images accepted as empty so far, in the order in which they came."""
    handed_out: list[str] = field(default_factory=list)
    """Every image ever handed out, whatever was decided on it."""

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    @property
    def last_round(self) -> int:
        """The number of the round that was measured last."""
        return len(self.results) - 1

    @property
    def result(self) -> MeasuredModel:
        """The measured model of the last round."""
        return self.results[-1]

    @property
    def model(self) -> TrainedModel:
        """The model of the last round."""
        return self.result.model


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArmCandidates:
    """What an arm is handed in a round: image paths in order, and how they were found.

    Attributes:
        duplicates: how many images were left out as near-duplicates of another one.
        quarantined: images set aside because they score so high that an object may hide in them.
        unreadable: how many images of the pool could not be read.
        folder: of ``candidates.csv`` and the files that belong to it.
        model_id: the model that ranked them; empty when none did.
        why: why so many were wanted, in one sentence; empty where it was not chosen.
    """

    images: tuple[str, ...]
    duplicates: int
    quarantined: tuple[str, ...]
    unreadable: int
    folder: Path
    model_id: str
    why: str = ""


@dataclass(frozen=True)
class CandidateSearch:
    """Finds the images that arms are handed: each at most once per arm, near-duplicates once.

    Images that score ``options.quarantine`` or more are set aside as possibly hidden objects.
    """

    steps: Steps
    backend: Backend
    sets: LoopSets
    store: PoolStore
    options: LoopOptions

    def find(self, state: ArmState, round_number: int, amount: Amount) -> ArmCandidates:
        """Return as many images as wanted for an arm, or fewer, chosen as the arm draws them."""
        inputs: dict[str, Any] = {
            "pool": self.steps.identity(self.sets.mine_from),
            "groups": fingerprint(dict(self.sets.group_of)),
            **amount.inputs(),
            "taken": fingerprint(state.handed_out),
        }
        label = f"round {round_number}, {state.name}"
        rank = self._rank_for(state)
        match state.arm.draw:
            case "hardest":
                inputs |= {
                    "model": state.model.key,
                    "min_score": self.options.rank.min_score,
                    "quarantine": self.options.quarantine,
                    **self._ranking_inputs(),
                }
                if rank.class_scores:
                    inputs["class_scores"] = list(rank.class_scores)
                compute = partial(self._take_hardest, state, amount, rank, inputs, label)
            case "random":
                inputs["seed"] = self.options.seed
                compute = partial(self._take_random, state, amount.count)
            case "nothing":
                raise AssertionError(f"arm {state.name} adds no images")
            case _:
                assert_never(state.arm.draw)
        folder = f"rounds/{state.name}-{round_number}"
        outputs = ("candidates.csv", "candidates.json")
        found = self.steps.run(f"{folder}/mine", inputs, compute, outputs, f"{label}: mine")
        self.store.add_mined(state.name, round_number, found["images"], found["model_id"])
        return ArmCandidates(
            tuple(found["images"]),
            found["duplicates"],
            tuple(found["quarantined"]),
            found["unreadable"],
            self.steps.root / folder,
            found["model_id"],
            found.get("why", ""),
        )

    def _rank_for(self, state: ArmState) -> RankOptions:
        """Give a rule of each class the thresholds at which the arm's model reaches recall .8 of it.

        A class that does not reach it, or has no object to tell, is compared with the lowest score of an
        alarm.
        """
        rank = self.options.rank
        if not RULES[rank.rule].of_each_class or rank.class_scores:
            return rank
        known: Mapping[str, float | None] = state.result.figures["class_thresholds"]
        scores = (known.get(name) for name in self._categories)
        return replace(rank, class_scores=tuple(rank.min_score if s is None else s for s in scores))

    def _take_random(self, state: ArmState, count: int, folder: Path) -> dict[str, Any]:
        pool = self.sets.mine_from
        names = {str(r.path): relative_name(r.path, pool.root) for r in pool.records}
        drawn = select_random(
            names,
            count=count,
            seed=self.options.seed,
            group_of=self.sets.group_of,
            names=names,
            taken=state.handed_out,
        )
        candidates = [
            Candidate(names[image], image, None, "", Detections.none()) for image in drawn.images
        ]
        return self._write(folder, candidates, drawn.num_represented, model_id="")

    def _take_hardest(
        self,
        state: ArmState,
        amount: Amount,
        rank: RankOptions,
        inputs: Mapping[str, Any],
        label: str,
        folder: Path,
    ) -> dict[str, Any]:
        detector = self.backend.load_detector(state.model.checkpoint, self.options.device)

        def progress(what: str, done: int, total: int) -> None:
            """Hand progress on with the arm's name before it."""
            self.steps.progress(f"{label}: {what}", done, total)

        options = MineOptions(top=amount.count, rank=rank)
        scanned = scan(detector, self.sets.mine_from, self.store, options, progress=progress)
        chosen = self._choose_amount(amount, detector.model_id, state, inputs, folder)
        options = replace(options, top=chosen.count)
        if chosen.why:
            _log.log(NOTICE, "%s: adds at most %s", label, chosen.why)
        before = Rejection(Reason.HANDED_OUT_BEFORE, "handed out before")
        selector = ImageSelector(
            scanned,
            options,
            taken=dict.fromkeys(state.handed_out, before),
            group_of=self.sets.group_of,
            margin=wide_margin,
            progress=partial(progress, "score again in float32"),
        )
        aside = self._set_aside(selector, detector.model_id, folder)
        selected = replace(selector, taken={**selector.taken, **aside}).select()
        rows = [selected.shortlist[image].score for image in selected.images]
        return self._write(
            folder,
            self._candidates(rows, selected.similar),
            selected.num_represented,
            quarantined=tuple(aside),
            unreadable=len(self.store.problems(detector.model_id)),
            model_id=detector.model_id,
            why=chosen.why,
        )

    def _choose_amount(
        self,
        amount: Amount,
        model_id: str,
        state: ArmState,
        inputs: Mapping[str, Any],
        folder: Path,
    ) -> ChosenAmount:
        """Choose how many to add before any image is scored again, and keep it if this is killed."""

        def compute(folder: Path) -> dict[str, Any]:
            """Choose from the scores as the scan left them."""
            return asdict(choose_amount(amount, self._open_scores(model_id, state)))

        key = (folder / "amount").relative_to(self.steps.root).as_posix()
        return ChosenAmount(**self.steps.run(key, inputs, compute))

    def _open_scores(self, model_id: str, state: ArmState) -> Iterator[float]:
        """Yield the scores of the images that an arm may still be handed, each group once."""
        group_of = self.sets.group_of
        seen = {group_of[image] for image in state.handed_out if image in group_of}
        for row in self.store.iter_ranked(model_id):
            group = group_of.get(row.image)
            if group is None or group in seen or self._scores_too_high(row):
                continue
            seen.add(group)
            yield row.score

    def _set_aside(
        self, selector: ImageSelector, model_id: str, folder: Path
    ) -> dict[str, Rejection]:
        """List what scores too high to be trained on as empty, without what was handed out."""
        limit = self.options.quarantine
        if limit is None:
            return {}
        ranking = takewhile(self._scores_too_high, selector.exact_ranking(limit))
        rows = [row for row in ranking if row.image not in selector.taken]
        if rows:
            candidates = self._candidates(rows)
            write_candidates(
                folder, candidates, self._categories, name="quarantine", model_id=model_id
            )
        too_high = Rejection(Reason.SET_ASIDE, "set aside: it scores too high")
        return dict.fromkeys((row.image for row in rows), too_high)

    def _scores_too_high(self, row: PoolScore) -> bool:
        limit = self.options.quarantine
        return limit is not None and reaches(row.score, limit)

    def second_look(
        self, state: ArmState, round_number: int, threshold: float | None
    ) -> tuple[str, ...]:
        """Return the arm's negatives on which its new model still fires; write ``second_look.csv``.

        What still fires after having been trained on as empty may hold an object after all.

        Args:
            threshold: the score at the reference recall; the lowest score of an alarm when that
                recall is not reached.
        """
        rank = self.options.rank
        rank = rank if threshold is None else replace(rank, min_score=threshold)
        images = [str(record.path) for record in state.negatives]
        inputs = {
            "model": state.model.key,
            "images": fingerprint(images),
            "threshold": rank.min_score,
            **self._ranking_inputs(),
        }

        def compute(folder: Path) -> list[str]:
            """Score the arm's negatives by its new model and write those on which it fires."""
            detector = self.backend.load_detector(state.model.checkpoint, self.options.device)
            pool, wanted = self.sets.mine_from, set(images)
            if images:
                scan_exactly(detector, pool.with_records(state.negatives), self.store)
            source = DatasetSource(pool)
            trained_on = [
                candidate_of(row, self.store, self._categories, rank, source)
                for row in self.store.iter_ranked(detector.model_id)
                if row.image in wanted
            ]
            still = [candidate for candidate in trained_on if len(candidate.alarms)]
            write_candidates(
                folder,
                still,
                self._categories,
                name="second_look",
                threshold=rank.min_score,
                model_id=detector.model_id,
            )
            return [candidate.path for candidate in still]

        key = f"rounds/{state.name}-{round_number}/second_look"
        return tuple(self.steps.run(key, inputs, compute, ("second_look.csv",)))

    def known_alarms(
        self, state: ArmState, round_number: int, threshold: float | None
    ) -> RepeatedAlarms | None:
        """Return how many alarms of the images that the arm trained on as empty fire again.

        The alarms are those for which the images were handed out, in this round and before. What the
        new model says there was stored by :meth:`second_look`. ``None`` without such an alarm.
        """
        images = {str(record.path) for record in state.negatives}
        boxes: dict[str, tuple[NamedBox, ...]] = {}
        for number in range(1, round_number + 1):
            for row in self._listed(state, number, "candidates")["candidates"]:
                seen = worth_knowing([NamedBox.from_list(box) for box in row["boxes"]])
                if row["path"] in images and seen:
                    boxes.setdefault(row["path"], seen)
        if not boxes:
            return None
        model_id = self._listed(state, round_number, "second_look")["model_id"]
        found = {image: self.store.alarms(model_id, image) for image in boxes}
        point = None if threshold is None else OperatingPoint(threshold)
        return count_repeated(KnownAlarms(boxes), found, point)

    def _listed(self, state: ArmState, number: int, name: str) -> dict[str, Any]:
        path = self.steps.root / "rounds" / f"{state.name}-{number}" / f"{name}.json"
        found: dict[str, Any] = read_json(path)
        return found

    @property
    def _categories(self) -> tuple[str, ...]:
        return self.sets.train.categories

    def _ranking_inputs(self) -> dict[str, Any]:
        """Return what was chosen of the ranking, without the score that is named apart.

        What was not chosen is absent, so that an option that is added later mines nothing anew.
        """
        chosen = changed_options(self.options.rank)
        chosen.pop("min_score", None)
        return {"rank": chosen} if chosen else {}

    def _candidates(
        self, rows: Sequence[PoolScore], similar: Mapping[str, Sequence[str]] | None = None
    ) -> list[Candidate]:
        """Return those images with what fired on them."""
        rank, source = self.options.rank, DatasetSource(self.sets.mine_from)
        return [
            candidate_of(
                row, self.store, self._categories, rank, source, (similar or {}).get(row.image, ())
            )
            for row in rows
        ]

    def _write(
        self,
        folder: Path,
        candidates: list[Candidate],
        duplicates: int,
        *,
        model_id: str,
        quarantined: tuple[str, ...] = (),
        unreadable: int = 0,
        why: str = "",
    ) -> dict[str, Any]:
        write_candidates(
            folder,
            candidates,
            self._categories,
            pool=str(self.sets.mine_from.root),
            model_id=model_id,
            min_score=self.options.rank.min_score,
            duplicates_grouped=duplicates,
            quarantined=list(quarantined),
        )
        return {
            "images": [candidate.path for candidate in candidates],
            "duplicates": duplicates,
            "quarantined": list(quarantined),
            "unreadable": unreadable,
            "model_id": model_id,
            "why": why,
        }


ALARMS = "alarms.json"


def write_arm_alarms(
    steps: Steps, arm: str, number: int, negatives: Sequence[ImageRecord]
) -> Path | None:
    """Write what fired on an arm's negatives, in all rounds so far, into ``alarms.json``.

    Args:
        negatives: the images that were confirmed to hold no object.

    Returns:
        Path: the file; None when nothing fired (images drawn at random were shown to no model).
    """
    confirmed = {str(record.path) for record in negatives}
    folders = [steps.root / "rounds" / f"{arm}-{n}" for n in range(1, number + 1)]
    alarms = [a for folder in folders for a in _alarms_of(folder) if str(a.image) in confirmed]
    if not alarms:
        return None

    def compute(place: Path) -> int:
        write_alarms(place / ALARMS, alarms)
        return len(alarms)

    key = f"rounds/{arm}-{number}/alarms"
    inputs = {"alarms": fingerprint([[str(a.image), *a.box, a.score] for a in alarms])}
    steps.run(key, inputs, compute, (ALARMS,))
    return folders[-1] / ALARMS


def with_alarms(recipe: Recipe, alarms: Path | None) -> Recipe:
    """Return the recipe with an arm's own alarms to paste, unless it names others or pastes none."""
    config = recipe.augment.alarm_paste
    if alarms is None or config.source is not None or config.probability == 0:
        return recipe
    augment = replace(recipe.augment, alarm_paste=replace(config, source=str(alarms)))
    return replace(recipe, augment=augment)


def _alarms_of(folder: Path) -> list[Alarm]:
    """Return what ``candidates.json`` says fired; its boxes are [x1, y1, x2, y2, score, class]."""
    try:
        found = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [
        Alarm(Path(row["path"]), (box[0], box[1], box[2], box[3]), box[4])
        for row in found["candidates"]
        for box in row["boxes"]
        if box[2] > box[0] and box[3] > box[1]
    ]
