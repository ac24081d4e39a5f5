"""A small world of images and a detector that learns kinds of look-alikes, both without a network.

A picture is random noise (so that no two are near-duplicates) whose name carries its truth:
``object-*`` hold one object at ``BOX``; ``k<kind>-<score>-*`` hold none and fire with that score in
hundredths, or with a fifth of it once a picture of the same kind was trained on as a negative.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from hardmine import run_loop
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.inference.image_loading import ImageItem, item_problem, open_item
from hardmine.inference.predict import ScoredImage
from hardmine.loop.loop import LoopResult
from hardmine.types import Dataset, ImageRecord, ImageState, Problem
from hardmine.workflows.cached_models import Backend, TrainingRequest

BOX = (8.0, 8.0, 24.0, 24.0)
SIDE = 32


def draw(path: Path, seed: int) -> Path:
    """Write a noise picture; equal seeds give equal pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def labelled(folder: Path, count: int, first_seed: int, name: str = "object") -> Dataset:
    """Return ``count`` pictures that hold one object each."""
    records = []
    for i in range(count):
        path = draw(folder / f"{name}-{i:03}.png", first_seed + i)
        records.append(
            ImageRecord(
                path,
                SIDE,
                SIDE,
                np.array([BOX], np.float32),
                np.ones(1, np.int64),
                np.zeros(1, np.bool_),
                ImageState.LABELLED,
            )
        )
    return Dataset(("thing",), tuple(records), folder)


def pool_of(folder: Path, kinds: int, each: int, first_seed: int) -> Path:
    """Write a folder of pictures without objects: kind k fires with scores from .95 - k / 10 on."""
    for kind in range(kinds):
        for i in range(each):
            score = 95 - 10 * kind - i
            draw(folder / f"k{kind}-{score:02}-{i:02}.png", first_seed + 100 * kind + i)
    return folder


@dataclass(frozen=True)
class FakeDetector:
    """Fires by the picture's name and by what its checkpoint has learned."""

    learned: frozenset[str]
    model_id: str
    called: Callable[[str], None] = lambda name: None
    categories: tuple[str, ...] = ("thing",)
    resize: Any = None

    def score(self, images: Any) -> Any:
        """Refuse: it takes files."""
        raise NotImplementedError

    def detect(self, images: Any) -> Any:
        """Refuse: it takes files."""
        raise NotImplementedError

    def detect_images(self, paths: Any, progress: Any = None) -> Any:
        """Detect in every picture."""
        return [self.look(Path(path)) for path in paths]

    def score_items(self, items: Iterable[ImageItem]) -> Iterator[ScoredImage | Problem]:
        """Score every picture, dying after some of them when told to."""
        for i, item in enumerate(items):
            if i % 16 == 0:
                self.called("score")
            try:
                image = open_item(item).pixels
            except DataError as error:
                yield item_problem(item, error)
                continue
            found = self.look(Path(item.name))
            score = float(found.scores[0]) if len(found) else 0.0
            phash = perceptual_hash(image)
            yield ScoredImage(Path(item.name), score, 1, 0, found, phash, item.name)

    def look(self, path: Path) -> Detections:
        """Return what the detector finds in a picture."""
        stem = path.stem.split("-")
        if stem[0] in ("object", "val"):
            score = 0.9 - int(stem[1]) / 1000
        else:
            score = int(stem[1]) / 100 * (0.2 if stem[0] in self.learned else 1.0)
        if score <= 0:
            return Detections.none()
        return Detections(
            np.array([BOX], np.float32),
            np.array([score], np.float32),
            np.ones(1, np.int64),
            np.zeros(1, np.int64),
        )


@dataclass
class World:
    """A backend that counts its calls and can be told to die at the n-th of them."""

    die_at: int = -1
    calls: list[str] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)

    def backend(self) -> Backend:
        """Return what trains and detects in this world."""
        return Backend(self.fit, self.load_detector, self.detect_images)

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call ``train``, ``evaluate`` or ``run_loop`` in this world."""
        with (
            patch("hardmine.loop.loop.own_backend", self.backend),
            patch("hardmine.workflows.train_and_evaluate.own_backend", self.backend),
        ):
            return function(*arguments, **keywords)

    def _call(self, name: str) -> None:
        if len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        self.calls.append(name)

    def fit(self, request: TrainingRequest) -> Path:
        """Learn the kinds of the negatives in the dataset, on top of what ``init`` knows."""
        self._call("fit")
        init, seed, steps = request.init, request.seed, request.steps
        before = set(json.loads(init.read_text())["learned"]) if init else set()
        negatives = [r for r in request.dataset.records if r.state.is_negative]
        learned = sorted(before | {r.path.stem.split("-")[0] for r in negatives})
        text = json.dumps({"learned": learned, "seed": seed, "steps": steps})
        (request.out / "last.safetensors").write_text(text)
        if request.progress is not None:
            request.progress(SimpleNamespace(step=steps, steps=steps))
        trained = {"images": len(request.dataset), "steps": steps, "init": init, "seed": seed}
        self.trainings.append(trained)
        return request.out / "last.safetensors"

    def load_detector(self, checkpoint: Path, device: str | None = None) -> FakeDetector:
        """Load what ``fit`` wrote."""
        self._call("load")
        text = checkpoint.read_text()
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return FakeDetector(frozenset(json.loads(text)["learned"]), digest, self._call)

    def detect_images(self, detector: Any, paths: Any, *, progress: Any = None) -> Any:
        """Detect in every picture."""
        self._call("detect")
        return [detector.look(Path(path)) for path in paths]


def run(inputs: dict[str, Any], out: Path, world: World, **more: Any) -> LoopResult:
    """Run a loop in a world."""
    result: LoopResult = world.call(run_loop, **{**inputs, "out": out, **more})
    return result


def rows_of(out: Path) -> Any:
    """Return ``rounds.json``."""
    return json.loads((out / "rounds.json").read_text())


def sheet_of(out: Path, arm: str, number: int) -> list[str]:
    """Return the names of what an arm was handed in a round."""
    sheet = json.loads((out / "rounds" / f"{arm}-{number}" / "candidates.json").read_text())
    return [row["image"] for row in sheet["candidates"]]


def trained_on(out: Path, arm: str, number: int) -> list[str]:
    """Return the names of the negatives in a round's ``train.coco.json``."""
    table = json.loads((out / "rounds" / f"{arm}-{number}" / "train.coco.json").read_text())
    names = [Path(image["file_name"]).name for image in table["images"]]
    return [name for name in names if not name.startswith("object")]
