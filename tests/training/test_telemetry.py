"""Telemetry: a slow loop as its oracle, and a training that does not notice it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from test_distributed import environment, free_port

from hardmine.losses.loss_functions import ClassificationConfig, FocalConfig, SoftmaxConfig
from hardmine.losses.multibox_loss import Loss, LossConfig, MultiBoxLoss
from hardmine.losses.negative_mining import AllConfig, RatioConfig
from hardmine.recipes.recipe import Recipe
from hardmine.tensors import Batch, Priors, RawOutput
from hardmine.training import training_log as module
from hardmine.training.trainer import Progress, fit
from hardmine.training.training_log import Telemetry, interval
from hardmine.types import Dataset
from loss_worlds import random_world

NAMES = ("a", "b", "c")
FORMS = (SoftmaxConfig(), FocalConfig())


def watched(
    priors: Priors, worlds: list[tuple[Batch, RawOutput]], config: LossConfig
) -> tuple[dict[str, Any], list[tuple[Loss, RawOutput]]]:
    """Return the row over some steps, and each step's loss and output with gradients."""
    telemetry = Telemetry(config, priors, NAMES, num_images=11, total=len(worlds))
    loss_of, steps = MultiBoxLoss(config, priors), []
    for batch, output in worlds:
        logits = output.class_logits.clone().requires_grad_()
        deltas = output.box_deltas.clone().requires_grad_()
        held = RawOutput(logits * 1, deltas * 1, output.score_form)
        loss = loss_of(held, batch)
        telemetry.watch(held, batch, loss)
        loss.total.backward()
        steps.append((loss, RawOutput(logits, deltas, output.score_form)))
        telemetry.finish_step(len(steps))
    assert len(telemetry.rows) == 1
    return telemetry.rows[0], steps


def world(seed: int, config: ClassificationConfig) -> tuple[Priors, Batch, RawOutput]:
    return random_world(seed, form=config.score_form)


@pytest.mark.parametrize("gathers", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_a_row_is_what_a_loop_over_all_priors_counts(
    form: ClassificationConfig, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image of the world holds no object; its quota is the floor."""
    monkeypatch.setattr(module, "_gathers", lambda _: gathers)
    config = LossConfig(selection=RatioConfig(floor=3), classification=form)
    priors, batch, output = world(5, form)
    row, ((loss, held),) = watched(priors, [(batch, output)], config)
    assert loss.selection is not None
    assert loss.assignment is not None
    assert held.class_logits.grad is not None
    assert held.box_deltas.grad is not None
    squares = held.class_logits.grad.square().sum(-1)
    scores = output.class_logits.softmax(-1)[..., 1:]
    if form.kind == "focal":
        scores = output.class_logits.sigmoid()
    counts: Counter[str] = Counter()
    sums: dict[str, float] = dict.fromkeys(row, 0.0)
    norms = [0.0] * len(batch.labels)
    for image in range(len(batch.labels)):
        for prior, level in enumerate(priors.level.tolist()):
            iou = float(loss.assignment.iou[image, prior])
            label = int(loss.assignment.labels[image, prior])
            norms[image] += float(squares[image, prior])
            if loss.selection.positives[image, prior]:
                counts[f"level{level}.positives"] += 1
                counts[f"own {level} {label}"] += 1
                sums[f"level{level}.positive_gradient"] += float(squares[image, prior])
                box = held.box_deltas.grad[image, prior]
                sums[f"level{level}.box_gradient"] += float(box.square().sum())
                own = f"level{level}.own.{NAMES[label - 1]}"
                sums[own] += float(scores[image, prior, label - 1])
            if loss.selection.negatives[image, prior]:
                counts[f"level{level}.negatives"] += 1
                mine = int(loss.selection.positives[image].sum())
                # the quota of 3 per positive is at least the floor of 3 where there is a positive
                counts[f"level{level}.floor_negatives"] += mine == 0
                counts[NAMES[int(scores[image, prior].argmax())]] += 1
                sums[f"level{level}.negative_gradient"] += float(squares[image, prior])
                sums[f"level{level}.iou"] += iou
                edges = [edge for edge in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5) if iou > edge]
                name = f"iou_{edges[-1]:g}+" if edges else "iou_0"
                sums[name] += 1
                sums[f"{name}.gradient"] += float(squares[image, prior].sqrt())
    negatives = sum(counts[f"level{level}.negatives"] for level in range(3))
    assert negatives > 20
    assert sum(counts[f"level{level}.floor_negatives"] for level in range(3)) == 3
    for level in range(3):
        assert row[f"level{level}.priors"] == int((priors.level == level).sum())
        assert row[f"level{level}.positives"] == counts[f"level{level}.positives"]
        assert row[f"level{level}.negatives"] == counts[f"level{level}.negatives"]
        filled = f"level{level}.floor_negatives"
        assert row[filled] == counts[filled]
        for name in ("positive_gradient", "negative_gradient", "box_gradient"):
            key = f"level{level}.{name}"
            assert row[key] == pytest.approx(sums[key] ** 0.5, rel=1e-4)
        key = f"level{level}.iou"
        assert row[key] == pytest.approx(sums[key] / counts[f"level{level}.negatives"], rel=1e-4)
        for label, name in enumerate(NAMES, 1):
            key, count = f"level{level}.own.{name}", counts[f"own {level} {label}"]
            assert row[f"{key}.positives"] == count
            assert row[key] == (pytest.approx(sums[key] / count, rel=1e-4) if count else None)
    for name in NAMES:
        assert row[f"confused.{name}"] == pytest.approx(counts[name] / negatives, rel=1e-4)
    bins = [name for name in row if name.startswith("iou_")]
    for name in (n for n in bins if not n.endswith("gradient")):
        assert row[name] == pytest.approx(sums[name] / negatives, rel=1e-4)
    gradient = sum(sums[name] for name in bins if name.endswith("gradient"))
    for name in (n for n in bins if n.endswith("gradient")):
        assert row[name] == pytest.approx(sums[name] / gradient, rel=1e-3)
    lengths = [norm**0.5 for norm in norms]
    assert row["images"] == 4
    assert row["images_without_objects"] == 1
    assert row["floor_share"] == 0.25
    share = lengths[-1] / sum(lengths)
    assert row["gradient_share_without_objects"] == pytest.approx(share, rel=1e-4)
    assert row["class_gradient"] == pytest.approx(sum(norms) ** 0.5, rel=1e-4)
    assert row["class_gradient_max"] == pytest.approx(sum(norms) ** 0.5, rel=1e-4)


def test_a_prior_that_is_selected_at_every_visit_is_repeated() -> None:
    """The same batch twice: the second visit selects what the first did, and the first counts not."""
    config = LossConfig(selection=RatioConfig(floor=3))
    priors, batch, output = world(5, SoftmaxConfig())
    again, _ = watched(priors, [(batch, output)] * 2, config)
    assert [again[f"level{level}.repeated"] for level in range(3)] == [1.0, 1.0, 1.0]
    _, other, changed = world(6, SoftmaxConfig())
    turned = replace(other, image_ids=batch.image_ids)
    mixed, _ = watched(priors, [(batch, output), (turned, changed)], config)
    assert all(mixed[f"level{level}.repeated"] < 0.9 for level in range(3))
    first, _ = watched(priors, [(batch, output)], config)
    assert first["level0.repeated"] is None


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 1]], ids=["300 visits", "twice in a batch"])
def test_repetition_is_right_however_often_an_image_is_visited(rows: list[int]) -> None:
    """Each step selects what the one before did; a byte counts to 255."""
    config = LossConfig(selection=RatioConfig(floor=3))
    priors, whole, out = world(5, SoftmaxConfig())
    fields = (whole.images, whole.boxes, whole.labels, whole.ignore, whole.image_ids)
    batch = Batch(*(field[rows] for field in fields))
    output = RawOutput(out.class_logits[rows], out.box_deltas[rows], out.score_form)
    telemetry = Telemetry(config, priors, NAMES, num_images=11, total=300)
    loss = MultiBoxLoss(config, priors)(output, batch)
    for step in range(300):
        telemetry.watch(output, batch, loss)
        telemetry.finish_step(step + 1)
    known = {row[f"level{level}.repeated"] for row in telemetry.rows[1:] for level in range(3)}
    assert known - {None} == {1.0}


def test_negatives_are_counted_on_where_float32_no_longer_counts_by_ones() -> None:
    """50 steps at batch 32 select 20 million priors of 320 px where every prior is trained on."""
    many = 2.0**24  # one more is the same number in float32
    config = LossConfig(selection=AllConfig())
    priors, batch, output = world(5, SoftmaxConfig())
    loss = MultiBoxLoss(config, priors)(output, batch)
    assert loss.selection is not None
    counts = {}
    for start in (0.0, many):
        telemetry = Telemetry(config, priors, NAMES, num_images=11, total=9)
        sums = telemetry.state_dict()["sums"]
        for name in ("confused", "iou"):
            sums[name] += start
        telemetry.watch(output, batch, loss)
        counts[start] = torch.cat([sums["confused"], sums["iou"][:, 0]]).double() - start
    assert counts[0.0].sum() == 2 * loss.selection.negatives.sum() > 100
    assert (counts[many] - counts[0.0]).abs().max() <= 1.0  # numbers beyond 2^24 are even


def joint_worker(rank: int, port: int, out: str) -> None:
    environment(rank, port)
    dist.init_process_group("gloo")
    priors, batch, output = world(5, SoftmaxConfig())
    rows = slice(0, 1) if rank == 0 else slice(1, 4)
    fields = (batch.images, batch.boxes, batch.labels, batch.ignore, batch.image_ids)
    cut = RawOutput(output.class_logits[rows], output.box_deltas[rows], output.score_form)
    part = Batch(*(field[rows] for field in fields))
    row, _ = watched(priors, [(part, cut)], LossConfig(selection=RatioConfig(floor=3)))
    if rank == 0:
        torch.save(row, out)
    dist.destroy_process_group()


def test_two_processes_count_what_one_counts(tmp_path: Path) -> None:
    mp.spawn(joint_worker, (free_port(), str(tmp_path / "row.pt")), nprocs=2)  # type: ignore[no-untyped-call]
    got = torch.load(tmp_path / "row.pt", weights_only=True)
    priors, batch, output = world(5, SoftmaxConfig())
    want, _ = watched(priors, [(batch, output)], LossConfig(selection=RatioConfig(floor=3)))
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == (value if value is None else pytest.approx(value, rel=1e-4)), name


@pytest.mark.parametrize(("total", "steps"), [(1, 5), (300, 5), (1200, 20), (10**6, 50)], ids=str)
def test_interval_gives_some_sixty_rows_within_limits(total: int, steps: int) -> None:
    assert interval(total) == steps


def test_a_training_does_not_notice_it(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    on = fit(squares, tiny_recipe, tmp_path / "on", steps=12)
    off = fit(squares, replace(tiny_recipe, telemetry=False), tmp_path / "off", steps=12)
    a, b = load_file(on), load_file(off)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (tmp_path / "on/log.csv").read_text() == (tmp_path / "off/log.csv").read_text()
    assert not (tmp_path / "off/telemetry.csv").exists()
    rows = list(csv.DictReader((tmp_path / "on/telemetry.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["5", "10", "12"]
    assert [row["images"] for row in rows] == ["20", "20", "8"]


def test_an_interrupted_run_writes_the_same_telemetry(
    squares: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    def stop(where: Progress) -> None:
        if where.step == 8:
            raise KeyboardInterrupt

    fit(squares, tiny_recipe, tmp_path / "whole", steps=12, save_every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(squares, tiny_recipe, tmp_path / "cut", steps=12, save_every=3, progress=stop)
    fit(squares, tiny_recipe, tmp_path / "cut", steps=12, save_every=3, resume=True)
    whole, cut = ((tmp_path / name / "telemetry.csv").read_text() for name in ("whole", "cut"))
    assert whole == cut


def test_tensorboard_shows_it(squares: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(squares, replace(tiny_recipe, tensorboard=True), tmp_path, steps=6)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events.parent)).Reload()
    assert [event.step for event in read.Scalars("level0.negatives")] == [5, 6]


def test_a_run_of_a_version_that_counted_less_goes_on() -> None:
    """Its table of levels is narrower, and its rows lack a column: the column is blank in these."""
    priors, batch, output = world(5, SoftmaxConfig())
    telemetry = Telemetry(LossConfig(), priors, NAMES, num_images=11, total=1)
    telemetry.rows = [{"step": 7, "images": 3}]
    state = telemetry.state_dict()
    state["sums"] = {**state["sums"], "level": state["sums"]["level"][:, :10] + 5.0}
    resumed = Telemetry(LossConfig(), priors, NAMES, num_images=11, total=1)
    resumed.load_state_dict(state)
    resumed.watch(output, batch, MultiBoxLoss(LossConfig(), priors)(output, batch))
    resumed.finish_step(1)
    first, last = list(csv.DictReader(io.StringIO(resumed.text())))
    assert (first["step"], first["level0.floor_negatives"]) == ("7", "")
    assert last["level0.floor_negatives"] != ""
