"""What a round of the loop teaches: one round's training in several ways, all else equal.

    python -m benchmarks.round_variants [--sets NAME …] [--seeds N …] [--variants V …] [--add A]

A loop of one round trains round 0, mines, and trains with the mined images as by default (``default``).
Then the same round is trained again with one thing changed: ``half_batch``, as many negatives as
images with objects in each batch; ``paste``, what fired is also pasted beside objects; ``crops``, a
cut-out around the highest alarm of each mined image instead of the image; ``both``, image and
cut-out; ``longer``, twice the steps; ``fresh``, a whole training from the backbone's weights, as long as
round 0's and round 1's together. ``none`` trains as long as ``default`` without new images. Prints a
row each, then each against ``default`` over the seeds, with paired intervals. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.loops import compare_over_seeds, scores_in
from benchmarks.peer import RESULTS, asdict_machine, negatives_of
from benchmarks.trial_sets import DATA, MAKERS, TrialSet, make_set
from hardmine import evaluate, load_dataset, run_loop
from hardmine.augment.paste import Alarm, write_alarms
from hardmine.comparison.compare_figures import figures_of
from hardmine.data.formats.image_files import load_images
from hardmine.data.images import read_image
from hardmine.evaluation.intervals import ArmScores
from hardmine.files import write_json
from hardmine.loop.loop import BRANCH_SEED
from hardmine.loop.loop_options import read_add, steps_factor
from hardmine.recipes.recipe import Recipe, load_recipe
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.cached_models import TrainingRequest, own_backend

SHOWN = ("AP", "AP50", "alarms_at_0.5", "alarms_at_0.8", "alarms_at_0.9", "recall_at_0.1")
PAD = 1.0
"""A cut-out shows so much around an alarm on each side, in sides of the alarm."""


@dataclass(frozen=True)
class Round:
    """A finished first round: what it trained on, and from what."""

    recipe: Recipe
    start: Path
    train: Dataset
    negatives: tuple[ImageRecord, ...]
    alarms: tuple[Alarm, ...]
    seed: int
    steps: int
    folder: Path

    def on(self, negatives: tuple[ImageRecord, ...], **changed: Any) -> TrainingRequest:
        """Return the round's training with these images without objects."""
        data = self.train.with_records([*self.train.records, *negatives])
        request = TrainingRequest(
            data,
            self.recipe.for_branch(),
            self.folder,
            self.seed + BRANCH_SEED,
            init=self.start,
            steps=self.steps,
        )
        return replace(request, **changed)


def half_batch(given: Round) -> TrainingRequest:
    recipe = given.recipe.for_branch()
    batch = replace(recipe.batch, negative_share=0.5, min_object_share=0.5)
    return given.on(given.negatives, recipe=replace(recipe, batch=batch))


def paste(given: Round) -> TrainingRequest:
    source = given.folder.with_suffix(".alarms.json")
    write_alarms(source, given.alarms)
    recipe = given.recipe.for_branch()
    pasted = replace(recipe.augment.alarm_paste, probability=0.5, source=str(source))
    augment = replace(recipe.augment, alarm_paste=pasted)
    return given.on(given.negatives, recipe=replace(recipe, augment=augment))


def crops(given: Round) -> TrainingRequest:
    cut = cut_out(given)
    left = {alarm.image for alarm in given.alarms}
    return given.on((*cut, *(r for r in given.negatives if r.path not in left)))


def cut_out(given: Round) -> tuple[ImageRecord, ...]:
    """Write what surrounds the highest alarm of each negative, and return it as images."""
    highest: dict[Path, Alarm] = {}
    for alarm in given.alarms:
        if alarm.image not in highest or alarm.score > highest[alarm.image].score:
            highest[alarm.image] = alarm
    place = given.folder.with_name("cut_out")
    place.mkdir(parents=True, exist_ok=True)
    for alarm in highest.values():
        picture = read_image(alarm.image)
        x1, y1, x2, y2 = alarm.box
        right, down = PAD * (x2 - x1), PAD * (y2 - y1)
        left, top = int(max(0, x1 - right)), int(max(0, y1 - down))
        edge = (left, top, int(min(picture.width, x2 + right)), int(min(picture.height, y2 + down)))
        picture.crop(edge).save(place / f"{alarm.image.stem}.png")
    return load_images(place, state=ImageState.ASSUMED_EMPTY, source="negatives").records


def fresh(given: Round) -> TrainingRequest:
    weights = DATA / "backbones/mobilenet_v2_imagenet.pth"
    steps = given.recipe.steps(len(given.train.records)) + given.steps
    return given.on(
        given.negatives,
        recipe=given.recipe,
        seed=given.seed,
        init=None,
        weights=weights,
        steps=steps,
    )


VARIANTS: dict[str, Callable[[Round], TrainingRequest]] = {
    "default": lambda given: given.on(given.negatives),
    "none": lambda given: given.on(()),
    "half_batch": half_batch,
    "paste": paste,
    "crops": crops,
    "both": lambda given: given.on((*given.negatives, *cut_out(given))),
    "longer": lambda given: given.on(given.negatives, steps=2 * given.steps),
    "fresh": fresh,
}


def first_round(made: TrialSet, seed: int, out: Path, add: str, epochs: float | None) -> Round:
    """Run the loop that round 0 and the mined images come from, or find it."""
    run_loop(
        made.train,
        val=made.val,
        pool=made.pool,
        negatives=made.negatives,
        weights=DATA / "backbones/mobilenet_v2_imagenet.pth",
        rounds=1,
        arms=("mined",),
        add=read_add(add),
        stop="never",
        epochs=epochs,
        seed=seed,
        out=out / "loop",
        resume=True,
        draws=20,
    )
    recipe = load_recipe(out / "loop/recipe.yaml")
    rows = json.loads((out / "loop/rounds.json").read_text())
    both = load_dataset(out / "loop/rounds/mined-1/train.coco.json", images="/")
    names = {record.path for record in load_dataset(made.train).records}
    train = both.with_records([r for r in both.records if r.path in names])
    negatives = tuple(r for r in both.records if r.path not in names)
    found = json.loads((out / "loop/rounds/mined-1/candidates.json").read_text())["candidates"]
    alarms = tuple(
        Alarm(Path(row["path"]), tuple(box[:4]), box[4]) for row in found for box in row["boxes"]
    )
    labelled = len(train.records)
    factor = steps_factor(labelled, len(negatives), 1) if add == "auto" else 1.0
    steps = round(recipe.branch_steps(labelled) * factor)
    start = out / "loop/models" / rows[0]["model"] / "last.safetensors"
    return Round(recipe, start, train, negatives, alarms, seed, steps, out)


def scores_of(checkpoint: Path, made: TrialSet) -> ArmScores:
    val = load_dataset(made.val)
    empty = negatives_of(made, val.categories)
    places = checkpoint.parent / "scores" / "detections"
    if not (places / "held_out.json").exists():
        evaluate(checkpoint, val, negatives=empty, out=places.parent, draws=10)
    return scores_in(places, val, empty)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="*", choices=list(MAKERS), default=["crowd", "fridge60"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--add", default="auto")
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--data", type=Path, default=Path("runs/trial_sets"))
    parser.add_argument("--out", type=Path, default=Path("runs/round_variants"))
    parser.add_argument("--results", type=Path, default=RESULTS / "round_variants.json")
    given = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": asdict_machine(), "rows": [], "against": []}
    for name in given.sets:
        made = make_set(name, given.data)
        by_seed: list[dict[str, ArmScores]] = []
        for seed in given.seeds:
            out = given.out / f"{name}-{seed}"
            mined = first_round(made, seed, out, given.add, given.epochs)
            checkpoints = {"round 0": mined.start}
            scores: dict[str, ArmScores] = {}
            for variant in ["round 0", *given.variants]:
                start = time.perf_counter()
                if variant != "round 0":
                    how = VARIANTS[variant](replace(mined, folder=out / variant))
                    checkpoints[variant] = own_backend().fit(how)
                minutes = round((time.perf_counter() - start) / 60, 2)
                scores[variant] = scores_of(checkpoints[variant], made)
                row = figures_of(scores[variant])
                of = {"set": name, "seed": seed, "variant": variant, "minutes": minutes}
                found["rows"].append({**of, "images_added": len(mined.negatives), **row})
                figures = {k: None if (v := row[k]) is None else round(v, 3) for k in SHOWN}
                print(name, seed, variant, len(mined.negatives), figures, minutes, flush=True)
                write_json(given.results, found)
            by_seed.append(scores)
        if "default" not in by_seed[0]:
            continue
        for other in by_seed[0]:
            if other == "default":
                continue
            found["against"].append(compare_over_seeds(name, other, "default", by_seed))
        write_json(given.results, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
