from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hardmine.data.formats.image_files import load_images
from hardmine.data.load_dataset import load_dataset
from hardmine.evaluation import source_shortcut as shortcut
from hardmine.evaluation.source_shortcut import (
    _weighted_auc,
    area_under_curve,
    cross_validate,
    find_shortcut,
)
from hardmine.types import Dataset, ImageRecord, ImageState


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blobs at several scales with fine noise: no two alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    noise = rng.normal(0, 12, (size[1], size[0], 3))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float64) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def labelled(folder: Path, seeds: range, quality: int = 90) -> Dataset:
    """Images with an object in their left quarter."""
    folder.mkdir()
    records = []
    for seed in seeds:
        scene(seed).save(folder / f"{seed}.jpg", quality=quality)
        box = np.array([[0, 0, 40, 120]], np.float32)
        one, no = np.ones(1, np.int64), np.zeros(1, np.bool_)
        path = folder / f"{seed}.jpg"
        records.append(ImageRecord(path, 160, 120, box, one, no, ImageState.LABELLED))
    return Dataset(("cat",), tuple(records), folder)


def test_the_same_source_is_not_told_apart(tmp_path: Path) -> None:
    positives = labelled(tmp_path / "a", range(24))
    labelled(tmp_path / "b", range(24, 48))
    report = find_shortcut(positives, load_images(tmp_path / "b"))
    assert report is not None
    assert not report.told_apart
    assert (report.positives, report.negatives) == (24, 24)
    assert [f.family for f in report.families] == ["all", *shortcut.FAMILIES, "pixels"]
    assert all(f.low <= f.auc <= f.high for f in report.families)
    again = find_shortcut(positives, load_images(tmp_path / "b"))
    assert again == report


def test_another_encoding_and_blur_are_told_by_their_own_families(tmp_path: Path) -> None:
    positives = labelled(tmp_path / "a", range(24))
    (tmp_path / "b").mkdir()
    for seed in range(24, 48):
        blurred = scene(seed).filter(ImageFilter.GaussianBlur(1.0))
        blurred.save(tmp_path / "b" / f"{seed}.jpg", quality=60)
    report = find_shortcut(positives, load_images(tmp_path / "b"))
    assert report is not None
    auc = {f.family: f.auc for f in report.families}
    assert report.told_apart
    assert auc["encoding"] > 0.99
    assert auc["spectrum"] > 0.95
    assert auc["size"] == pytest.approx(0.5, abs=0.1)
    assert auc["colour"] < 0.9
    assert "learn the source" in str(report)


def test_with_too_few_images_nothing_is_said_and_none_is_read(tmp_path: Path) -> None:
    positives = labelled(tmp_path / "a", range(24))
    labelled(tmp_path / "b", range(24, 40))
    seen: list[int] = []
    few = load_images(tmp_path / "b")
    assert find_shortcut(positives, few, progress=lambda done, _: seen.append(done)) is None
    assert not seen


def test_colours_of_a_large_crop_are_those_of_a_part_of_its_pixels() -> None:
    """Of 1,500 x 1,400 px every second one of every second row; of a small crop all."""
    pixels = np.asarray(scene(1, (1400, 1500)))
    assert np.array_equal(
        shortcut.colour_features(pixels), shortcut.colour_features(pixels[::2, ::2])
    )
    columns = shortcut.colour_features(pixels[:1000, :1000])[:3]
    assert np.allclose(columns, pixels[:1000, :1000].reshape(-1, 3).mean(axis=0) / 255)


def test_auc_counts_pairs() -> None:
    odds = np.array([0.1, 0.4, 0.4, 0.9, 0.2])
    sides = np.array([0, 0, 1, 1, 1])
    wins = sum(
        (a > b) + (a == b) / 2 for a in odds[sides == 1] for b in odds[sides == 0]
    )  # 1 + .5 + 1 + 1 + 1 + 0 of 6
    assert area_under_curve(odds, sides) == pytest.approx(wins / 6) == pytest.approx(4.5 / 6)


def test_weights_count_rows_as_often() -> None:
    rng = np.random.default_rng(0)
    odds, sides = rng.integers(0, 6, 30).astype(float), rng.integers(0, 2, 30)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for row, got in zip(weights, _weighted_auc(odds, sides, weights), strict=True):
        index = np.repeat(np.arange(30), row.astype(int))
        assert got == pytest.approx(area_under_curve(odds[index], sides[index]))


def test_a_group_is_never_on_both_sides() -> None:
    """A feature that only names the group tells nothing of groups that were not seen."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    sides = np.repeat(np.arange(40) % 2, 5)
    table = np.eye(40)[groups] + rng.normal(0, 0.01, (200, 40))
    assert area_under_curve(cross_validate(table, sides, groups), sides) < 0.65
    assert area_under_curve(cross_validate(table, sides, np.arange(200)), sides) > 0.95


def test_a_wave_lies_in_its_band() -> None:
    # a quarter of a cycle a pixel: half of the highest radius, so band 10 of 20
    x = np.arange(128)
    wave = (128 + 100 * np.sin(2 * np.pi * x / 4)).astype(np.uint8)
    pixels = np.broadcast_to(wave[None, :, None], (128, 128, 3))
    spectrum = shortcut.spectrum_features(np.ascontiguousarray(pixels))
    assert int(spectrum.argmax()) == 10
    assert shortcut.spectrum_features(np.zeros((3, 1, 3), np.uint8)).shape == (shortcut.BANDS,)


def test_headers_tell_format_and_sampling(tmp_path: Path) -> None:
    scene(1).save(tmp_path / "a.jpg", quality=90, subsampling=0)
    scene(1).save(tmp_path / "b.jpg", quality=50, subsampling=2)
    scene(1).save(tmp_path / "c.png")
    a, b, c = (shortcut.encoding_features(tmp_path / n) for n in ("a.jpg", "b.jpg", "c.png"))
    assert (a[0], a[1], c[0], c[1]) == (1, 0, 0, 1)
    assert (a[4], b[6]) == (1, 1)
    assert b[-8] > a[-8] > 0  # mean log of the luma table: coarser at lower quality
    assert not c[-8:].any()


@pytest.mark.data
def test_raccoons_and_the_held_out_negatives_are_told_apart() -> None:
    root = Path(os.environ.get("HARDMINE_DATA") or Path(__file__).parents[2] / "../shared/data")
    if not (root / "raccoon").is_dir():
        pytest.skip(f"no real data at {root} (HARDMINE_DATA)")
    every = load_dataset(root / "raccoon")
    positives = every.subset(range(0, len(every), 3))
    held_out = load_images(root / "negatives" / "held_out")
    report = find_shortcut(positives, held_out.subset(range(0, len(held_out), 8)))
    assert report is not None
    assert report.told_apart
