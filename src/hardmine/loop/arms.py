"""One arm's way through the rounds: what it was handed, what it trains on, how it fared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hardmine.loop.learning import Model
from hardmine.loop.measuring import Result
from hardmine.loop.sets import LoopSets
from hardmine.loop.steps import Steps, fingerprint
from hardmine.loop.stopping import RoundPoint
from hardmine.loop.tools import Tools
from hardmine.pool.candidates import Candidate, candidate_of, name_inside, write_candidates
from hardmine.pool.rank import Ranking, rank_hardest, rank_random
from hardmine.pool.scan import scan_pool
from hardmine.pool.store import PoolStore
from hardmine.types import Detections, ImageRecord

MINED, RANDOM, NONE = "mined", "random", "none"
ARMS = (MINED, RANDOM, NONE)


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

    ``quarantine``: candidates that score this or more are set aside as possibly hidden objects;
    ``None`` sets none aside.
    """

    steps: Steps
    tools: Tools
    sets: LoopSets
    store: PoolStore
    min_score: float
    seed: int
    quarantine: float | None = None
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
            inputs["seed"] = self.seed
            compute = partial(self._draw_random, arm, count)
        else:
            inputs |= {
                "model": arm.model.key,
                "min_score": self.min_score,
                "quarantine": self.quarantine,
            }
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

    def _draw_random(self, arm: Arm, count: int, folder: Path) -> dict[str, Any]:
        pool = self.sets.mine_from
        names = {str(r.path): name_inside(str(r.path), pool.root) for r in pool.records}
        ranking = rank_random(
            names,
            count=count,
            seed=self.seed,
            group_of=self.sets.group_of,
            names=names,
            taken=arm.handed_out,
        )
        candidates = [
            Candidate(names[image], image, None, "", Detections.none()) for image in ranking.chosen
        ]
        return self._write(folder, candidates, ranking, model_id="")

    def _mine(self, arm: Arm, count: int, round_number: int, folder: Path) -> dict[str, Any]:
        detector = self.tools.load_detector(arm.model.checkpoint, self.device)
        pool = self.sets.mine_from
        label = f"round {round_number}, {arm.name}: scan"
        scan_pool(
            detector,
            [record.path for record in pool.records],
            self.store,
            score_images=self.tools.score_images,
            progress=partial(self.steps.notify, label),
        )
        held = self._quarantined(detector.model_id)
        ranking = rank_hardest(
            self.store.iter_ranked(detector.model_id),
            count=count,
            min_score=self.min_score,
            group_of=self.sets.group_of,
            taken=[*arm.handed_out, *held],
        )
        unreadable = len(self.store.problems(detector.model_id))
        chosen = self._candidates(detector.model_id, ranking.chosen, self.min_score)
        if held:
            aside = self._candidates(detector.model_id, held, self.min_score)
            write_candidates(folder, aside, self.categories, name="quarantine")
        return self._write(
            folder, chosen, ranking, held=held, unreadable=unreadable, model_id=detector.model_id
        )

    def _candidates(
        self, model_id: str, images: Sequence[str], min_score: float
    ) -> list[Candidate]:
        """Return those images with what fired on them, hardest first."""
        wanted, root = set(images), self.sets.mine_from.root
        return [
            candidate_of(score, self.store, self.categories, min_score, root)
            for score in self.store.iter_ranked(model_id)
            if score.image in wanted
        ]

    def _quarantined(self, model_id: str) -> tuple[str, ...]:
        if self.quarantine is None:
            return ()
        limit, known = self.quarantine, self.sets.group_of
        ranked = self.store.iter_ranked(model_id)
        return tuple(s.image for s in ranked if s.score >= limit and s.image in known)

    def _write(
        self,
        folder: Path,
        candidates: list[Candidate],
        ranking: Ranking,
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
            min_score=self.min_score,
            duplicates_grouped=ranking.num_duplicates,
            quarantined=list(held),
        )
        return {
            "images": list(ranking.chosen),
            "duplicates": ranking.num_duplicates,
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
        level = self.min_score if threshold is None else threshold
        images = [str(record.path) for record in arm.negatives]
        inputs = {"model": arm.model.key, "images": fingerprint(images), "threshold": level}
        folder = f"rounds/{arm.name}-{round_number}"

        def compute(place: Path) -> list[str]:
            detector = self.tools.load_detector(arm.model.checkpoint, self.device)
            paths = [Path(image) for image in images]
            scan_pool(detector, paths, self.store, score_images=self.tools.score_images)
            trained_on = self._candidates(detector.model_id, images, level)
            still = [candidate for candidate in trained_on if len(candidate.alarms)]
            write_candidates(place, still, self.categories, name="second_look", threshold=level)
            return [candidate.path for candidate in still]

        return tuple(self.steps.run(f"{folder}/second_look", inputs, compute, ("second_look.csv",)))
