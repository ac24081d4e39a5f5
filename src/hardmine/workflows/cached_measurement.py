"""Measuring a model as a step: detections are written once, figures derive from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.types import Dataset
from hardmine.workflows.cached_training import Model
from hardmine.workflows.replaceable import Tools
from hardmine.workflows.step_cache import Notify, Steps, fingerprint

if TYPE_CHECKING:
    from hardmine.evaluation.intervals import ArmScores
    from hardmine.evaluation.scored_images import Scored
    from hardmine.inference.detector import Detector

RECALL = 0.8
"""The reference recall at which alarms are counted."""


def detect_sets(
    detector: Detector, parts: Mapping[str, Dataset], tools: Tools, notify: Notify, label: str
) -> dict[str, Scored]:
    """Run a detector over every set."""
    from hardmine.evaluation.scored_images import Scored

    scored = {}
    for name, part in parts.items():
        paths = [record.path for record in part.records]
        found = tools.detect_images(detector, paths, progress=partial(notify, f"{label}: {name}"))
        scored[name] = Scored(part, tuple(found))
    return scored


@dataclass(frozen=True, slots=True)
class Result:
    """A measured model: ``figures`` as ``Measurement.to_dict()``; its detections in ``folder``."""

    model: Model
    folder: Path
    figures: dict[str, Any]


@dataclass(frozen=True)
class Examiner:
    """Measures models on fixed sets.

    ``sets`` are negatives by name: ``held_out`` (final), ``stop``, ``crops``.
    """

    steps: Steps
    tools: Tools
    val: Dataset
    sets: Mapping[str, Dataset]
    draws: int
    seed: int
    device: str | None = None

    def measure(self, model: Model, label: str = "measure") -> Result:
        """Return the model's figures, from its finished step when there is one."""
        inputs = {
            "model": model.key,
            "val": self.val.fingerprint,
            "negatives": {name: part.fingerprint for name, part in self.sets.items()},
            "recall": RECALL,
            "draws": self.draws,
            "seed": self.seed,
        }
        names = ["val", *self.sets]
        key = f"evaluations/{model.key}/measure"
        compute = partial(self._measure, model, label)
        figures = self.steps.run(key, inputs, compute, [f"{n}.json" for n in names], label)
        return Result(model, self.steps.root / "evaluations" / model.key, figures)

    def _measure(self, model: Model, label: str, folder: Path) -> dict[str, Any]:
        from hardmine.evaluation.measurement import measure
        from hardmine.evaluation.scored_images import save_detections

        detector = self.tools.load_detector(model.checkpoint, self.device)
        parts = {"val": self.val, **self.sets}
        scored = detect_sets(detector, parts, self.tools, self.steps.notify, label)
        for name, part in scored.items():
            save_detections(folder / f"{name}.json", part)
        val = scored.pop("val")
        return measure(val, scored, recall=RECALL, draws=self.draws, seed=self.seed).to_dict()

    def scored(self, result: Result, name: str) -> Scored:
        """Return a measured model's detections on ``val`` or on a negative set."""
        from hardmine.evaluation.scored_images import load_detections

        part = self.val if name == "val" else self.sets[name]
        return load_detections(result.folder / f"{name}.json", part)

    def recall_at(self, result: Result, threshold: float | None) -> float | None:
        """Return recall on the validation images at a score threshold."""
        from hardmine.evaluation.alarms import recall_at
        from hardmine.evaluation.detection_matching import match

        if threshold is None:
            return None
        return recall_at(match(self.scored(result, "val").with_known_truth()), threshold)

    def compare(self, a: Result, b: Result, name: str) -> dict[str, Any]:
        """Return ``ratio`` (alarms of ``a`` over those of ``b`` on a negative set) and ``ap50`` (the
        difference), both paired, as plain values.
        """
        from dataclasses import asdict

        from hardmine.evaluation.intervals import ap50_statistic
        from hardmine.evaluation.paired import paired_difference, paired_ratio

        inputs = {
            "models": [a.model.key, b.model.key],
            "val": self.val.fingerprint,
            "negatives": self.sets[name].fingerprint,
            "draws": self.draws,
            "seed": self.seed,
        }

        def compute(_: Path) -> dict[str, Any]:
            left, right = self._arm(a, name), self._arm(b, name)
            how = {"draws": self.draws, "seed": self.seed}
            ratio = paired_ratio(left, right, recall=RECALL, **how)
            ap50 = paired_difference(left, right, ap50_statistic, **how)
            return {"ratio": asdict(ratio), "ap50": asdict(ap50)}

        key = f"comparisons/{fingerprint(inputs)}"
        found: dict[str, Any] = self.steps.run(key, inputs, compute, label="compare")
        return found

    def _arm(self, result: Result, name: str) -> ArmScores:
        from hardmine.evaluation.intervals import ArmScores

        return ArmScores(self.scored(result, "val"), self.scored(result, name))
