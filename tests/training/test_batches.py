"""Batches: composition, reproducibility, padding."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine.augment.chain import NO_AUGMENT, AugmentConfig, Augmenter, augment_preset
from hardmine.augment.geometry_and_colour import MosaicConfig
from hardmine.augment.paste import Alarm, AlarmPasteConfig, CopyPasteConfig, write_alarms
from hardmine.data.resize import Resize
from hardmine.errors import DataError
from hardmine.recipes.recipe import BatchConfig
from hardmine.training.batches import BatchLoader, BatchPlan, RecordDonors, collate, load_sample
from hardmine.types import Dataset, ImageRecord, ImageState


def make_dataset(folder: Path, objects: int, negatives: int) -> Dataset:
    records = []
    for index in range(objects + negatives):
        path = folder / f"{index}.png"
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(path)
        if index < objects:
            boxes = np.array([[5, 5, 30, 30], [20, 10, 55, 38]], np.float32)[: 1 + index % 2]
            labels, ignore = np.ones(len(boxes), np.int64), np.zeros(len(boxes), bool)
            records.append(ImageRecord(path, 60, 40, boxes, labels, ignore, ImageState.LABELLED))
        else:
            records.append(ImageRecord.empty(path, 60, 40, ImageState.VERIFIED_EMPTY))
    return Dataset(("thing",), tuple(records), folder)


def test_every_batch_holds_its_share_of_objects() -> None:
    """Ten times as many negatives as objects: half of every batch holds objects all the same."""
    plan = BatchPlan([True] * 10 + [False] * 100, BatchConfig(size=8), seed=0)
    for step in range(50):
        indices = [index for index, _ in plan.batch(step)]
        assert sum(index < 10 for index in indices) == 4
        assert len(indices) == 8


def test_natural_share_is_carried_over() -> None:
    # 3 negatives of 15 in batches of 4: .8 negatives a batch, 40 in 50 batches.
    plan = BatchPlan([True] * 12 + [False] * 3, BatchConfig(size=4), seed=0)
    counts = [sum(i >= 12 for i, _ in plan.batch(step)) for step in range(50)]
    assert set(counts) == {0, 1}
    assert sum(counts) == 40


def test_every_image_once_in_a_pass() -> None:
    plan = BatchPlan([True] * 12, BatchConfig(size=5), seed=3)
    flat = [item for step in range(12) for item in plan.batch(step)]
    for visit in range(5):
        assert sorted(i for i, v in flat if v == visit) == list(range(12))


def test_each_pass_and_each_seed_has_an_order_of_its_own() -> None:
    def order(seed: int, step: int) -> list[int]:
        plan = BatchPlan([True] * 12 + [False] * 12, BatchConfig(size=24), seed)
        return [index for index, _ in plan.batch(step)]

    whole = [order(seed, step) for seed in (3, 4) for step in range(3)]
    # Positives are 0 to 11, negatives 12 to 23: each of the twelve orders is another one.
    orders = [tuple(part) for each in whole for part in (each[:12], [i - 12 for i in each[12:]])]
    assert all(sorted(each) == list(range(12)) for each in orders)
    assert len(set(orders)) == 12
    assert order(3, 2) == whole[2]


def test_each_image_is_augmented_anew_in_each_pass(tmp_path: Path) -> None:
    """Four images that are one picture: whatever differs comes from the augmentation."""
    dataset = make_dataset(tmp_path, 1, 0)
    dataset = dataset.with_records([dataset.records[0]] * 4)
    plan = BatchPlan([True] * 4, BatchConfig(size=4), seed=5)

    def load(seed: int) -> list[torch.Tensor]:
        loader = BatchLoader(dataset, plan, Resize(32, 32), AugmentConfig(), seed)
        return [image for batch in loader.batches(0, 2) for image in batch.images]

    images = [*load(5), *load(6)]
    assert len(images) == 16
    assert len({image.numpy().tobytes() for image in images}) == 16


def test_only_negatives_and_only_objects() -> None:
    empty = BatchPlan([False] * 3, BatchConfig(size=2), seed=0)
    assert Counter(i for s in range(3) for i, _ in empty.batch(s)) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(DataError, match="got 0 usable images"):
        BatchPlan([], BatchConfig(), seed=0)


def test_same_batches_whatever_the_threads_or_the_start(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 6, 3)
    plan = BatchPlan([True] * 6 + [False] * 3, BatchConfig(size=4), seed=5)

    def load(workers: int, start: int) -> list[torch.Tensor]:
        loader = BatchLoader(dataset, plan, Resize(32, 32), AugmentConfig(), 5, workers=workers)
        return [batch.images for batch in loader.batches(start, 6)]

    first, second = load(1, 0), load(3, 0)
    assert len(first) == 6
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[4:], load(2, 4), strict=True))


def test_parts_of_two_processes_make_the_joint_batch(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 5, 2)
    plan = BatchPlan([True] * 5 + [False] * 2, BatchConfig(size=5), seed=1)
    loader = BatchLoader(dataset, plan, Resize(32, 32), AugmentConfig(), 1)
    whole = [set(b.image_ids.tolist()) for b in loader.batches(0, 3)]
    parts = [[set(b.image_ids.tolist()) for b in loader.batches(0, 3, r, 2)] for r in (0, 1)]
    assert whole == [a | b for a, b in zip(*parts, strict=True)]


def test_a_batch_without_any_box_keeps_its_shape(tmp_path: Path) -> None:
    """Trap: an image without objects has boxes of shape (0, 4), never a made-up one."""
    dataset = make_dataset(tmp_path, 0, 2)
    plan = BatchPlan([False, False], BatchConfig(size=2), seed=0)
    batch = next(iter(BatchLoader(dataset, plan, Resize(32, 32), AugmentConfig(), 0).batches(0, 1)))
    assert batch.boxes.shape == (2, 1, 4)
    assert batch.labels.eq(0).all()
    assert batch.images.dtype == torch.uint8


def test_padding(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 2, 1)
    rng = np.random.default_rng(0)
    plain = Augmenter(Resize(40, 60), NO_AUGMENT)
    samples = [load_sample(r, plain, rng) for r in dataset.records]
    batch = collate(samples, [0, 1, 2])
    assert batch.labels.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert batch.boxes[1, 1].tolist() == [20, 10, 55, 38]


def test_an_unreadable_image_stops_training_with_its_name(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 2, 0)
    (tmp_path / "1.png").write_bytes(b"")
    plan = BatchPlan([True, True], BatchConfig(size=2), seed=0)
    loader = BatchLoader(dataset, plan, Resize(32, 32), AugmentConfig(), 0)
    with pytest.raises(DataError, match=r"1\.png: zero bytes long"):
        list(loader.batches(0, 1))


def test_mixed_samples_are_the_same_whatever_the_threads_or_the_start(tmp_path: Path) -> None:
    """Mosaic and copy-paste take other images, drawn by (seed, visit, index) like everything else."""
    dataset = make_dataset(tmp_path, 6, 3)
    plan = BatchPlan([True] * 6 + [False] * 3, BatchConfig(size=4), seed=5)
    config = replace(
        augment_preset("strong"),
        mosaic=MosaicConfig(probability=0.5),
        copy_paste=CopyPasteConfig(probability=0.5),
    )

    def load(workers: int, start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = BatchLoader(dataset, plan, Resize(32, 32), config, 5, workers=workers)
        return [(batch.images, batch.boxes) for batch in loader.batches(start, 6)]

    first = load(1, 0)
    for again in (load(3, 0), [*first[:4], *load(2, 4)]):
        for (images, boxes), (same_images, same_boxes) in zip(first, again, strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(boxes, same_boxes)


def test_donors_hold_objects_or_not_as_asked(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 4, 2)
    donors = RecordDonors(dataset.records)
    rng = np.random.default_rng(0)
    for objects in (True, False):
        drawn = [donors.draw(rng, objects=objects, cover=Resize(32, 32).cover) for _ in range(8)]
        assert {len(source.boxes) > 0 for source in drawn} == {objects}
    with pytest.raises(DataError, match="got no image without objects"):
        RecordDonors(dataset.records[:4]).draw(rng, objects=False, cover=Resize(32, 32).cover)


def test_alarms_are_pasted_by_the_loader(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 3, 0)
    Image.new("RGB", (60, 40), (0, 255, 0)).save(tmp_path / "negative.png")
    alarm = Alarm(tmp_path / "negative.png", (10, 10, 40, 30), 0.9)
    write_alarms(tmp_path / "alarms.json", [alarm])
    source = str(tmp_path / "alarms.json")
    config = replace(
        NO_AUGMENT, alarm_paste=AlarmPasteConfig(probability=1.0, source=source, max_cover=0.9)
    )
    plan = BatchPlan([True] * 3, BatchConfig(size=3), seed=0)
    (batch,) = BatchLoader(dataset, plan, Resize(32, 32), config, 0).batches(0, 1)
    green = (batch.images[:, 1] > 240) & (batch.images[:, 0] < 15) & (batch.images[:, 2] < 15)
    assert (green.flatten(1).sum(1) > 20).any()
