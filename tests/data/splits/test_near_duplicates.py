from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from data_files import picture, put_image, put_text, real_data
from hardmine.data.formats.image_files import list_images
from hardmine.data.images import read_image, read_picture
from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import (
    MAX_DISTANCE,
    find_near,
    group_duplicates,
    hash_images,
    perceptual_hash,
)

HASHES = st.lists(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 255),
        st.sampled_from([0, -1, 2**63 - 1, -(2**63)]),
    ),
    max_size=30,
)


def distance(a: int, b: int) -> int:
    return ((a ^ b) % 2**64).bit_count()


def test_the_hash_is_a_signed_64_bit_number_with_half_of_its_bits_set() -> None:
    hashes = [perceptual_hash(picture(seed)) for seed in range(50)]
    assert all(-(2**63) <= h < 2**63 for h in hashes)
    assert {(h % 2**64).bit_count() for h in hashes} == {32}
    assert any(h < 0 for h in hashes)


def test_the_bits_are_low_frequencies_against_their_median() -> None:
    """A slow DCT-II of 32 x 32 grey, the first 8 x 8 coefficients, row by row."""
    small = picture(3).convert("L").resize((32, 32), Image.Resampling.BOX)
    grey = np.asarray(small, float)
    wave = [[np.cos(np.pi * (2 * x + 1) * k / 64) for x in range(32)] for k in range(8)]
    scale = [np.sqrt(1 / 32)] + [np.sqrt(2 / 32)] * 7
    values = [
        sum(
            grey[y, x] * wave[v][y] * wave[u][x] * scale[u] * scale[v]
            for y in range(32)
            for x in range(32)
        )
        for v in range(8)
        for u in range(8)
    ]
    bits = "".join("1" if value > np.median(values) else "0" for value in values)
    assert perceptual_hash(picture(3)) % 2**64 == int(bits, 2)


def test_near_copies_are_near_and_others_are_not() -> None:
    original = picture(1, (200, 150))
    jpeg = io.BytesIO()
    original.save(jpeg, "JPEG", quality=40)
    copies = [
        Image.open(jpeg),
        original.resize((120, 90)),
        original.convert("L"),
        ImageEnhance.Brightness(original).enhance(0.9),
        ImageEnhance.Contrast(original).enhance(0.8),
    ]
    first = perceptual_hash(original)
    assert all(distance(first, perceptual_hash(copy)) <= MAX_DISTANCE for copy in copies)
    others = [perceptual_hash(picture(seed)) for seed in range(60)]
    assert min(distance(a, b) for a, b in combinations(others, 2)) > MAX_DISTANCE


@pytest.mark.parametrize("grey", [0, 1, 128, 255])
def test_uniform_pictures_hash_to_zero_whatever_their_shade(grey: int) -> None:
    assert perceptual_hash(Image.new("RGB", (50, 40), (grey,) * 3)) == 0


def test_nearly_uniform_pictures_do_not_hash_their_noise() -> None:
    noise = np.random.default_rng(0).integers(127, 129, (64, 64), dtype=np.uint8)
    assert perceptual_hash(Image.fromarray(noise)) == 0


def test_files_are_hashed_in_order_and_unreadable_ones_are_none(tmp_path: Path) -> None:
    paths = [put_image(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    paths.insert(1, put_text(tmp_path / "bad.jpg", "not an image"))
    paths.append(tmp_path / "missing.jpg")
    hashes = hash_images(paths)
    expected = [perceptual_hash(picture(seed)) for seed in range(3)]
    assert hashes == [expected[0], None, *expected[1:], None]


def test_a_large_jpeg_hashes_as_its_small_copy(tmp_path: Path) -> None:
    large = put_image(tmp_path / "large.jpg", 1, (1600, 1200))
    small = put_image(tmp_path / "small.png", 1, (160, 120))
    first, second = hash_images([large, small])
    assert first is not None
    assert second is not None
    assert distance(first, second) <= 2


def slow_groups(hashes: list[int], limit: int) -> list[int]:
    """Every pair compared, labels spread until nothing changes."""
    groups = list(range(len(hashes)))
    changed = True
    while changed:
        changed = False
        for i, j in combinations(range(len(hashes)), 2):
            if distance(hashes[i], hashes[j]) <= limit and groups[i] != groups[j]:
                groups[i] = groups[j] = min(groups[i], groups[j])
                changed = True
    return groups


@settings(max_examples=60, deadline=None)
@given(HASHES, st.sampled_from([0, 1, 6, 12]), st.randoms(use_true_random=False))
def test_groups_equal_those_of_every_pair(hashes: list[int], limit: int, random) -> None:
    flipped = [h ^ sum(1 << b for b in random.sample(range(63), limit)) for h in hashes[:5]]
    hashes = hashes + flipped
    assert group_duplicates(hashes, limit) == slow_groups(hashes, limit)


def test_chains_make_one_group() -> None:
    # 0, 1, 3, 7 … differ by one bit from the next; the ends by 7
    assert group_duplicates([2**k - 1 for k in range(8)], 1) == [0] * 8
    # two bits apart, then three; only the last two differ by one
    assert group_duplicates([0, 3, 7 << 40, (7 << 40) + 1], 1) == [0, 1, 2, 2]


def test_a_bucket_larger_than_a_block_is_compared_as_a_whole() -> None:
    random = np.random.default_rng(0)
    hashes = [int(h) << 9 for h in random.integers(0, 2**50, 3000)]  # bits 0 to 8 are one band
    # One bit in each of the six other bands (which start at 9, 18, 27, 37, 46, 55): only the shared
    # band brings the two together, and bit 60 sorts the copy behind all others.
    first = hashes.index(min(hashes))
    copy = hashes[first] ^ sum(1 << bit for bit in (10, 20, 30, 40, 50, 60))
    groups = group_duplicates([*hashes, copy], 6)
    assert groups[3000] == first
    assert len(set(groups)) == 3000


@settings(max_examples=60, deadline=None)
@given(HASHES, HASHES)
def test_the_nearest_copy_across_two_lists(a: list[int], b: list[int]) -> None:
    expected = {}
    for j, h in enumerate(b):
        near = [(distance(g, h), i) for i, g in enumerate(a) if distance(g, h) <= 6]
        if near:
            expected[j] = min(near)[0]
    found = find_near(a, b, 6)
    assert {j: distance(a[i], b[j]) for j, i in found.items()} == expected


def test_unreadable_images_have_no_copies() -> None:
    assert find_near([None, 5], [None, 5, 4]) == {1: 1, 2: 1}
    assert find_near([], [1]) == {}


@pytest.mark.data
def test_the_known_copies_in_real_photographs_and_no_others() -> None:
    root = real_data()
    if not (root / "raccoon").is_dir():
        pytest.skip(f"no real data at {root} (HARDMINE_DATA)")
    folders = ["raccoon/images", "cards/train", "cards/test"]
    paths = [path for folder in folders for path in list_images(root / folder)]
    hashes = hash_images(paths)
    groups: dict[int, list[str]] = {}
    for path, group in zip(paths, group_duplicates([h or 0 for h in hashes]), strict=True):
        groups.setdefault(group, []).append(path.stem)
    found = sorted(sorted(names) for names in groups.values() if len(names) > 1)
    assert found == [
        ["IMG_2464", "IMG_2465"],
        ["IMG_2466", "IMG_2467"],
        ["IMG_2468", "IMG_2469"],
        ["IMG_2471", "IMG_2472"],
        ["IMG_2473", "IMG_2474"],
        ["cam_image1", "cam_image54"],
        ["raccoon-11", "raccoon-116"],
        ["raccoon-120", "raccoon-83"],
        ["raccoon-21", "raccoon-45"],
        ["raccoon-50", "raccoon-52", "raccoon-74"],
        ["raccoon-51", "raccoon-85"],
        ["raccoon-65", "raccoon-98"],
    ]


def test_a_large_photograph_hashes_alike_at_every_decoding_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    scene = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    large = np.asarray(scene.resize((2407, 1801), Image.Resampling.BICUBIC), np.int16)
    grain = np.tile(rng.integers(-20, 21, (256, 256, 1)), (8, 10, 1))[:1801, :2407]
    path = tmp_path / "large.jpg"
    Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(path)
    whole, [listed] = perceptual_hash(read_image(path)), hash_images([path])
    assert listed is not None
    for side, factor in ((640, 2), (320, 4), (160, 8)):
        scaled = read_picture(path, Resize(side, side).cover)
        assert scaled.factor == factor
        for other in (whole, listed):
            assert distance(other, perceptual_hash(scaled.pixels)) <= MAX_DISTANCE // 3
