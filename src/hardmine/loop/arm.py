"""One arm's way through the rounds: what it was handed, what it trains on, how it fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from hardmine.data.formats.image_paths import relative_name
from hardmine.loop.loop_options import RANDOM, LoopOptions
from hardmine.loop.stopping import RoundPoint
from hardmine.mining.candidates_file import Candidate, candidate_of, write_candidates
from hardmine.mining.image_selection import ImageSelector, select_random
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.rejection_reasons import Reason, Rejection
from hardmine.mining.rescoring import wide_margin
from hardmine.mining.scan import scan, scan_exactly
from hardmine.mining.sources.pool_source import DatasetSource
from hardmine.option_fields import changed_options
from hardmine.types import Detections, ImageRecord, PoolScore
from hardmine.workflows.cached_measurement import Result
from hardmine.workflows.cached_training import Model
from hardmine.workflows.image_sets import LoopSets
from hardmine.workflows.replaceable import Tools
from hardmine.workflows.step_cache import Steps, fingerprint


@dataclass
class Arm:
    """The state of an arm between rounds; it is rebuilt from the steps on every start."""

    name: str
    result: Result
    negatives: list[ImageRecord] = field(default_factory=list)
    """Accepted as empty so far, in the order in which they came."""
    handed_out: list[str] = field(default_factory=list)
    """Every image ever handed out, whatever was said of it."""
    history: list[RoundPoint] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def model(self) -> Model:
        """The model of the last round."""
        return self.result.model


@dataclass(frozen=True, slots=True)
class Handed:
    """What an arm was handed in a round: image paths in order, and how the search went."""

    images: tuple[str, ...]
    duplicates: int
    quarantined: tuple[str, ...]
    unreadable: int
    folder: Path
    model_id: str


@dataclass(frozen=True)
class Miner:
    """Hands images to arms, each at most once per arm, near-duplicates once.

    Candidates that score ``options.quarantine`` or more are set aside as possibly hidden objects.
    """

    steps: Steps
    tools: Tools
    sets: LoopSets
    store: PoolStore
    options: LoopOptions
    device: str | None = None

    @property
    def categories(self) -> tuple[str, ...]:
        """The class names."""
        return self.sets.train.categories

    def hand_out(self, arm: Arm, round_number: int, count: int) -> Handed:
        """Return up to ``count`` images for the arm: the hardest for its model, or random ones."""
        pool = self.sets.mine_from
        inputs: dict[str, Any] = {
            "pool": pool.fingerprint,
            "groups": fingerprint(dict(self.sets.group_of)),
            "count": count,
            "taken": fingerprint(arm.handed_out),
        }
        if arm.name == RANDOM:
            inputs["seed"] = self.options.seed
            compute = partial(self._draw_random, arm, count)
        else:
            inputs |= {
                "model": arm.model.key,
                "min_score": self.options.rank.min_score,
                "quarantine": self.options.quarantine,
            }
            inputs |= self._ranking_inputs()
            compute = partial(self._mine, arm, count, round_number)
        key = f"rounds/{arm.name}-{round_number}/mine"
        label = f"round {round_number}, {arm.name}: mine"
        outputs = ("candidates.csv", "candidates.json")
        found = self.steps.run(key, inputs, compute, outputs, label)
        self.store.add_mined(arm.name, round_number, found["images"], found["model_id"])
        return Handed(
            tuple(found["images"]),
            found["duplicates"],
            tuple(found["quarantined"]),
            found["unreadable"],
            self.steps.root / "rounds" / f"{arm.name}-{round_number}",
            found["model_id"],
        )

    def _ranking_inputs(self) -> dict[str, Any]:
        """Return what was chosen of the ranking, without the score that is named apart.

        What was not chosen is absent, so that an option that is added later mines nothing anew.
        """
        chosen = changed_options(self.options.rank)
        chosen.pop("min_score", None)
        return {"rank": chosen} if chosen else {}

    def _draw_random(self, arm: Arm, count: int, folder: Path) -> dict[str, Any]:
        pool = self.sets.mine_from
        names = {str(r.path): relative_name(r.path, pool.root) for r in pool.records}
        drawn = select_random(
            names,
            count=count,
            seed=self.options.seed,
            group_of=self.sets.group_of,
            names=names,
            taken=arm.handed_out,
        )
        candidates = [
            Candidate(names[image], image, None, "", Detections.none()) for image in drawn.images
        ]
        return self._write(folder, candidates, drawn.num_represented, model_id="")

    def _mine(self, arm: Arm, count: int, round_number: int, folder: Path) -> dict[str, Any]:
        detector = self.tools.load_detector(arm.model.checkpoint, self.device)
        label = f"round {round_number}, {arm.name}"

        def told(what: str, done: int, total: int) -> None:
            self.steps.notify(f"{label}: {what}", done, total)

        options = MineOptions(top=count, rank=self.options.rank)
        scanned = scan(detector, self.sets.mine_from, self.store, options, progress=told)
        before = Rejection(Reason.HANDED_OUT_BEFORE, "handed out before")
        selector = ImageSelector(
            scanned,
            options,
            taken=dict.fromkeys(arm.handed_out, before),
            group_of=self.sets.group_of,
            margin=wide_margin,
            progress=partial(told, "score again in float32"),
        )
        held = self._quarantined(selector)
        too_high = Rejection(Reason.SET_ASIDE, "set aside: it scores too high")
        aside = dict.fromkeys((row.image for row in held), too_high)
        selected = replace(selector, taken={**selector.taken, **aside}).select()
        if held:
            write_candidates(folder, self._candidates(held), self.categories, name="quarantine")
        rows = [selected.shortlist[image].score for image in selected.images]
        return self._write(
            folder,
            self._candidates(rows, selected.similar),
            selected.num_represented,
            held=tuple(aside),
            unreadable=len(self.store.problems(detector.model_id)),
            model_id=detector.model_id,
        )

    def _quarantined(self, selector: ImageSelector) -> list[PoolScore]:
        limit = self.options.quarantine
        if limit is None:
            return []
        return list(takewhile(lambda row: row.score >= limit, selector.exact_ranking(limit)))

    def _candidates(
        self, rows: Sequence[PoolScore], similar: Mapping[str, Sequence[str]] | None = None
    ) -> list[Candidate]:
        """Return those images with what fired on them."""
        rank, source = self.options.rank, DatasetSource(self.sets.mine_from)
        return [
            candidate_of(
                row, self.store, self.categories, rank, source, (similar or {}).get(row.image, ())
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
        held: tuple[str, ...] = (),
        unreadable: int = 0,
    ) -> dict[str, Any]:
        write_candidates(
            folder,
            candidates,
            self.categories,
            pool=str(self.sets.mine_from.root),
            model_id=model_id,
            min_score=self.options.rank.min_score,
            duplicates_grouped=duplicates,
            quarantined=list(held),
        )
        return {
            "images": [candidate.path for candidate in candidates],
            "duplicates": duplicates,
            "quarantined": list(held),
            "unreadable": unreadable,
            "model_id": model_id,
        }

    def second_look(self, arm: Arm, round_number: int, threshold: float | None) -> tuple[str, ...]:
        """Return the arm's negatives on which its new model still fires; write ``second_look.csv``.

        What still fires after having been trained on as empty may hold an object after all.

        Args:
            threshold: the score at the reference recall; the mining floor when it is not reached.
        """
        rank = self.options.rank
        rank = rank if threshold is None else replace(rank, min_score=threshold)
        images = [str(record.path) for record in arm.negatives]
        inputs = {
            "model": arm.model.key,
            "images": fingerprint(images),
            "threshold": rank.min_score,
        }
        inputs |= self._ranking_inputs()
        folder = f"rounds/{arm.name}-{round_number}"

        def compute(place: Path) -> list[str]:
            detector = self.tools.load_detector(arm.model.checkpoint, self.device)
            pool, wanted = self.sets.mine_from, set(images)
            if images:
                scan_exactly(detector, pool.with_records(arm.negatives), self.store)
            source = DatasetSource(pool)
            trained_on = [
                candidate_of(row, self.store, self.categories, rank, source)
                for row in self.store.iter_ranked(detector.model_id)
                if row.image in wanted
            ]
            still = [candidate for candidate in trained_on if len(candidate.alarms)]
            write_candidates(
                place, still, self.categories, name="second_look", threshold=rank.min_score
            )
            return [candidate.path for candidate in still]

        return tuple(self.steps.run(f"{folder}/second_look", inputs, compute, ("second_look.csv",)))
