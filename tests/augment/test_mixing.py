"""Mosaic, copy-paste, alarm-paste and occlusion; presets; the trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hardmine.augment.chain import (
    AUGMENT_PRESETS,
    NO_AUGMENT,
    Augmenter,
    augment_preset,
    trace_augment,
)
from hardmine.augment.geometry_and_colour import MosaicConfig, mosaic
from hardmine.augment.paste import (
    Alarm,
    AlarmPasteConfig,
    CopyPasteConfig,
    Fill,
    OcclusionConfig,
    Part,
    alarm_paste,
    copy_paste,
    covered_share,
    limit_size,
    load_alarms,
    occlude,
    paste_part,
    read_alarms,
    sharper,
    write_alarms,
)
from hardmine.augment.sample import Rect, Sample, Source
from hardmine.data.images import Cover, Picture
from hardmine.data.resize import Mode, Resize
from hardmine.errors import ConfigError, DataError
from hardmine.recipes.recipe import recipe_from_dict

RESIZE = Resize(64, 96)
NO_BOX = np.zeros((0, 4), np.float32)


def source(boxes: list[list[float]], width: int = 120, height: int = 80, seed: int = 0) -> Source:
    """A grey noise picture on which every box is red (label 1) or blue (label 2), by turns."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(90, 110, (height, width, 3), np.uint8))
    for number, box in enumerate(boxes):
        image.paste(("red", "blue")[number % 2], tuple(int(v) for v in box))
    array = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int64) % 2 + 1
    return Source(Picture.of(image), array, labels, np.zeros(len(boxes), bool))


class Given:
    """Donors in memory; what was asked for is noted."""

    def __init__(self, *sources: Source) -> None:
        self.sources, self.asked = sources, list[bool]()

    def draw(self, rng: np.random.Generator, *, objects: bool, cover: Cover) -> Source:
        self.asked.append(objects)
        fitting = [s for s in self.sources if (len(s.boxes) > 0) == objects]
        return fitting[int(rng.integers(len(fitting)))]


ONE = source([[20, 10, 60, 50]])
DONORS = Given(source([[5, 5, 45, 45], [70, 20, 110, 60]], seed=1), source([], 60, 90, seed=2), ONE)


def on_canvas(boxes: list[list[float]], width: int = 96, height: int = 64) -> Sample:
    given = source(boxes, width, height)
    image = np.asarray(given.picture.pixels)
    return Sample(image, given.boxes, given.labels, given.ignore)


def draw(
    config_name: str, seed: int, mode: Mode = "stretch", boxes: list[list[float]] | None = None
) -> Sample:
    given = source([[20, 10, 60, 50]] if boxes is None else boxes)
    augmenter = Augmenter(Resize(64, 96, mode), augment_preset(config_name), DONORS)
    rng = np.random.default_rng(seed)
    return augmenter.draw(lambda _: given.picture, given.boxes, given.labels, given.ignore, rng)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["none", "light", "ssd", "strong"]),
    st.integers(0, 10_000),
    st.sampled_from(["stretch", "letterbox", "shortest", "inscribe"]),
    st.lists(
        st.tuples(*[st.floats(0, 70), st.floats(0, 40), st.floats(3, 50), st.floats(3, 40)]),
        max_size=4,
    ),
)
def test_boxes_lie_on_the_canvas(
    preset: str, seed: int, mode: Mode, corners: list[tuple[float, float, float, float]]
) -> None:
    boxes = [[x, y, x + w, y + h] for x, y, w, h in corners]
    sample = draw(preset, seed, mode, boxes)
    assert sample.image.shape == (64, 96, 3)
    assert sample.image.dtype == np.uint8
    assert sample.boxes.dtype == np.float32
    assert len(sample.boxes) == len(sample.labels) == len(sample.ignore)
    assert (sample.boxes >= -1e-3).all()
    assert (sample.boxes <= np.array([96, 64, 96, 64]) + 1e-3).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert set(sample.labels.tolist()) <= {1, 2}
    if not boxes:
        assert len(sample.boxes) == 0, "an image without objects stays one"
    if preset == "none":
        assert sample.labels.tolist() == [1 + i % 2 for i in range(len(boxes))]


def test_the_same_sample_for_the_same_generator() -> None:
    for seed in range(30):
        one, other = draw("strong", seed), draw("strong", seed)
        assert (one.image == other.image).all()
        assert (one.boxes == other.boxes).all()


def test_a_mixing_step_leaves_the_other_draws_alone() -> None:
    """With occlusion switched on, boxes are those of the plain chain."""
    plain = augment_preset("ssd")
    occluding = replace(plain, occlusion=OcclusionConfig(probability=1.0))
    for seed in range(20):
        a, b = (
            Augmenter(RESIZE, config).draw(
                lambda _: ONE.picture,
                ONE.boxes,
                ONE.labels,
                ONE.ignore,
                np.random.default_rng(seed),
            )
            for config in (plain, occluding)
        )
        assert (a.boxes == b.boxes).all()


@pytest.mark.parametrize("preset", list(AUGMENT_PRESETS))
def test_a_trace_ends_with_what_training_sees(preset: str) -> None:
    seen: set[str] = set()
    for seed in range(25):
        augmenter = Augmenter(RESIZE, augment_preset(preset), DONORS)
        rng = np.random.default_rng(seed)
        steps = trace_augment(ONE.picture, ONE.boxes, ONE.labels, ONE.ignore, augmenter, rng)
        sample = draw(preset, seed)
        assert steps[0].name == "read"
        assert (steps[0].boxes == ONE.boxes).all()
        assert (steps[-1].image == sample.image).all()
        assert (steps[-1].boxes == sample.boxes).all()
        for step in steps:
            high, wide = step.image.shape[:2]
            assert (step.boxes <= np.array([wide, high, wide, high]) + 0.51).all()
        seen.update(step.name for step in steps)
    assert ("mosaic" in seen) == (preset == "strong")
    assert {"read", "resize"} <= seen


# Mosaic.


def test_a_mosaic_shows_every_kept_box() -> None:
    config = MosaicConfig(probability=1.0)
    for seed in range(40):
        sample = mosaic(ONE, config, RESIZE, np.random.default_rng(seed), DONORS)
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            inside = sample.image[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].reshape(-1, 3).astype(int)
            if len(inside):
                colour = [255, 0, 0] if label == 1 else [0, 0, 255]
                assert np.abs(np.median(inside, 0) - colour).max() < 12


def test_images_without_objects_make_a_mosaic_without_any() -> None:
    donors = Given(*DONORS.sources)
    empty = DONORS.sources[1]
    sample = mosaic(empty, MosaicConfig(), RESIZE, np.random.default_rng(0), donors)
    assert sample.boxes.shape == (0, 4)
    assert donors.asked == [False] * 3


def test_a_tile_shows_one_of_its_objects_at_about_its_middle() -> None:
    """At .3 to .7 of the window, or as near to that as the picture's border lets it."""
    boxes = [[60.0, 50, 70, 60], [0, 0, 10, 10], [140, 110, 150, 120]]  # the second is ignored
    first, *others = (numbered(number, boxes) for number in (1, 2, 3, 4))
    middle = np.array([[65, 55], [145, 115]])
    config, found, inner = MosaicConfig(max_zoom=4.0), [], []
    for seed in range(40):
        sample = mosaic(first, config, RESIZE, np.random.default_rng(seed), InTurn(*others))
        for *_, window in tiles_of(sample):
            low, high = window[:2], window[2:]
            place = (middle - low) / (high - low)
            near = np.abs(place - 0.5) < 0.24
            near |= (place < 0.3) & (low < 2) | (place > 0.7) & (high > np.array([198, 158]))
            found.append(near.all(1))
            if found[-1].sum() == 1 and (low > 2).all() and (high < (198, 158)).all():
                inner.append(place[found[-1]][0])
    assert np.any(found, axis=1).all()
    only = np.array(found)[np.sum(found, axis=1) == 1]
    assert (only.sum(0) > 10).all()  # either object
    assert (np.min(inner, 0) < 0.36).all() and (np.max(inner, 0) > 0.64).all()


def test_the_visible_share_from_which_on_a_box_counts_is_not_enough_itself() -> None:
    config = MosaicConfig(min_visible=1.0)
    assert mosaic(ONE, config, RESIZE, np.random.default_rng(0), DONORS).ignore.all()


def test_a_mosaic_whose_centre_lies_at_the_border_shows_fewer_pictures() -> None:
    for seed in range(20):  # a share below 1/8 or above 7/8 of 4 px leaves tiles without a pixel
        config, rng = MosaicConfig(centre=0.01), np.random.default_rng(seed)
        assert mosaic(ONE, config, Resize(4, 4), rng, DONORS).image.shape == (4, 4, 3)


def test_what_is_left_of_a_cut_box() -> None:
    """A box that fills the image: a tile at full zoom shows a part of it, to be ignored."""
    whole = source([[0, 0, 120, 80]])
    config = MosaicConfig(max_zoom=4.0, min_visible=0.3)
    rng = np.random.default_rng(0)
    samples = [mosaic(whole, config, RESIZE, rng, Given(whole)) for _ in range(20)]
    ignore = np.concatenate([s.ignore for s in samples])
    assert 0 < ignore.sum() < len(ignore)
    kept = [s.boxes[~s.ignore] for s in samples]
    # At zoom z, 96 z x 64 z canvas pixels make the whole box; .3 of 96 x 64 at zoom 1.
    assert min((b[:, 2:] - b[:, :2]).prod(1).min() for b in kept if len(b)) > 0.3 * 0.3**2 * 96 * 64


def numbered(number: int, boxes: list[list[float]]) -> Source:
    """A picture of 200 x 160 px, each of which says where it lies: (x, y, 40 · number)."""
    across, down = np.meshgrid(np.arange(200), np.arange(160))
    image = np.stack([across, down, np.full_like(across, 40 * number)], -1).astype(np.uint8)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    labels, ignore = np.full(len(boxes), number), np.arange(len(boxes)) == 1
    return Source(Picture.of(Image.fromarray(image)), array, labels, ignore)


class InTurn(Given):
    """Donors that are drawn one after the other."""

    def draw(self, rng: np.random.Generator, *, objects: bool, cover: Cover) -> Source:
        self.asked.append(objects)
        return self.sources[len(self.asked) - 1]


def read_off(tile: NDArray[np.uint8], axis: int) -> tuple[float, float]:
    """Return where a tile's window begins in its picture along an axis, and its scale there."""
    shown = tile[..., axis].mean(axis).astype(float)  # the pixel's place, averaged over the others
    inner = np.arange(len(shown))[3:-3]  # the window's border has fewer neighbours
    slope, start = np.polyfit(inner, shown[3:-3], 1)
    return start + 0.5 - slope / 2, 1 / slope


def tiles_of(
    sample: Sample,
) -> Iterator[tuple[int, Rect, NDArray[np.float64], NDArray[np.float64]]]:
    """Give the number of the picture that each tile shows, its place, its scale and its window."""
    number = np.round(sample.image[..., 2] / 40).astype(int)
    column = int(np.argmax(number[0] != number[0, 0]))
    row = int(np.argmax(number[:, 0] != number[0, 0]))
    for y0, y1 in ((0, row), (row, 64)):
        for x0, x1 in ((0, column), (column, 96)):
            assert (number[y0:y1, x0:x1] == number[y0, x0]).all()
            tile = sample.image[y0:y1, x0:x1]
            (left, wide), (top, high) = read_off(tile, 0), read_off(tile, 1)
            window = np.array([left, top, left + (x1 - x0) / wide, top + (y1 - y0) / high])
            yield int(number[y0, x0]), (x0, y0, x1, y1), np.array([wide, high]), window


def test_a_mosaic_shows_the_part_of_each_picture_that_its_boxes_say() -> None:
    """Alone a picture is shown at .48 of its width and .4 of its height."""
    boxes = np.array([[60.0, 40, 110, 100], [0, 0, 70, 50], [150, 130, 190, 150]])
    first, *others = (numbered(number, boxes.tolist()) for number in (1, 2, 3, 4))
    config = MosaicConfig(centre=0.3, max_zoom=1.25, min_visible=0.4)
    places, centres, zooms = set(), [], []
    for seed in range(60):
        sample = mosaic(first, config, RESIZE, np.random.default_rng(seed), InTurn(*others))
        tiles = list(tiles_of(sample))
        assert sorted(which for which, *_ in tiles) == [1, 2, 3, 4]
        places.add([which for which, *_ in tiles].index(1))
        centres.append(tiles[0][1][2:])
        for which, (x0, y0, x1, y1), scale, window in tiles:
            zoom, least = scale[0] / 0.48, max((x1 - x0) / 96, (y1 - y0) / 64)
            assert scale[0] / scale[1] == pytest.approx(0.48 / 0.4, rel=0.03)
            zooms.append((zoom - least) / (1.25 - least))
            mine = sample.labels == which
            cuts = boxes.clip([*window[:2]] * 2, [*window[2:]] * 2)
            left = ((cuts[:, 2:] - cuts[:, :2]) * scale).min(1)  # canvas pixels, of which 2 stay
            assert (left > 2.5).sum() <= mine.sum() <= (left > 1.5).sum()
            for found, ignored in zip(sample.boxes[mine], sample.ignore[mine], strict=True):
                back = (found - [x0, y0] * 2) / [*scale, *scale] + [*window[:2]] * 2
                index = int(np.abs(cuts - back).max(1).argmin())  # which of the three it is
                assert np.abs(cuts[index] - back).max() < 2
                share = np.prod(back[2:] - back[:2]) / np.prod(boxes[index, 2:] - boxes[index, :2])
                assert ignored == (index == 1 or share < 0.4) or abs(share - 0.4) < 0.05
    assert places == {0, 1, 2, 3}
    assert (np.min(centres, 0) >= (29, 19)).all() and (np.min(centres, 0) <= (32, 22)).all()
    assert (np.max(centres, 0) <= (67, 45)).all() and (np.max(centres, 0) >= (64, 42)).all()
    assert -0.05 < np.min(zooms) < 0.05 and 0.95 < np.max(zooms) < 1.05


# Copy-paste.


def test_pasted_objects_lie_in_their_boxes() -> None:
    config = CopyPasteConfig(probability=1.0, same_image=0.0, max_cover=0.0, max_objects=1)
    pasted = 0
    for seed in range(40):
        before = on_canvas([[2, 2, 30, 30]])
        after = copy_paste(before, config, RESIZE, np.random.default_rng(seed), DONORS)
        assert (after.boxes[0] == before.boxes[0]).all()
        assert not after.ignore.any()
        for box, label in zip(after.boxes[1:], after.labels[1:], strict=True):
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            inside = after.image[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].astype(int)
            colour = [255, 0, 0] if label == 1 else [0, 0, 255]
            assert np.abs(np.median(inside, (0, 1)) - colour).max() < 12
            alike = (np.abs(after.image.astype(int) - colour) < 12).all(-1)
            alike[y0 - 1 if y0 else 0 : y1 + 1, x0 - 1 if x0 else 0 : x1 + 1] = False
            alike[2:30, 2:30] = False  # the object that was there
            assert not alike.any(), "more than the box is of its colour"
            pasted += 1
        if len(after.boxes) > 1:
            assert (covered_share(after.boxes[:1], after.boxes[1].astype(float)) == 0).all()
    assert pasted > 15


def test_the_edge_of_a_pasted_object_fades() -> None:
    white = Image.new("RGB", (120, 80), "white")
    boxes = np.array([[40, 20, 80, 60]], np.float32)
    donor = Source(Picture.of(white), boxes, np.ones(1, np.int64), np.zeros(1, bool))
    config = CopyPasteConfig(
        probability=1.0, same_image=0.0, max_objects=1, scale=(1, 1), feather=0.25, onto_empty=True
    )
    before = Sample(
        np.zeros((64, 96, 3), np.uint8), NO_BOX, np.zeros(0, np.int64), np.zeros(0, bool)
    )
    for seed in range(10):
        after = copy_paste(before, config, RESIZE, np.random.default_rng(seed), Given(donor))
        x0, y0, x1, y1 = (round(float(v)) for v in after.boxes[0])
        if x0 < 10:
            continue
        assert (after.image[y0:y1, x0:x1] > 240).all()
        row = after.image[(y0 + y1) // 2, x0 - 8 : x0, 0].astype(int)
        # 8 px of margin (a quarter of 32): from nearly nothing to nearly all, in equal steps of 32.
        assert np.abs(np.diff(row) - 255 / 8).max() < 2
        return
    raise AssertionError("no place away from the border was drawn")


def test_a_part_at_the_border_of_its_picture_fades_over_what_surrounds_it_there() -> None:
    """4 × 6 px, shown at 8 × 3: 2 px across and half a px down for each px of the picture.

    Half of the box on each side are 2 and 3 px, but above and below it the picture has 2 px.
    """
    picture = Picture.of(Image.new("RGB", (20, 10), "white"))
    part = Part(picture, np.array([5.0, 2, 9, 8]), width=8, height=3, feather=0.5)
    pixels, opacity, reach = part.render()
    assert reach == (4, 1, 4, 1)
    assert pixels.shape == (5, 16, 3)
    rising = [0.125, 0.375, 0.625, 0.875]
    assert opacity[2, :, 0].tolist() == [*rising, *[1.0] * 8, *rising[::-1]]
    assert opacity[:, 8, 0].tolist() == [0.5, 1, 1, 1, 0.5]
    # 1 px of surroundings on each side, of which the picture has none
    whole = Part(picture, np.array([0.0, 0, 20, 10]), width=20, height=10, feather=0.1)
    assert whole.render()[2] == (0, 0, 0, 0)
    assert (whole.render()[1] == 1).all()


def test_a_pasted_object_has_the_size_that_the_resize_gives_it() -> None:
    """40 × 30 px, on a canvas that shows half of the width and all of the height; then half of both."""
    donor = Given(source([[20, 10, 60, 40]]))
    config = CopyPasteConfig(
        probability=1.0, same_image=0.0, scale=(0.5, 0.5), feather=0.0, max_objects=1
    )
    for seed in range(5):
        before, rng = on_canvas([[0, 0, 4, 4]], 60, 80), np.random.default_rng(seed)
        after = copy_paste(before, config, Resize(80, 60), rng, donor)
        x0, y0, x1, y1 = after.boxes[1].tolist()
        assert (x1 - x0, y1 - y0, x0 % 1, y0 % 1) == (10, 15, 0, 0)  # on whole pixels
        inside = after.image[int(y0) + 1 : int(y1) - 1, int(x0) + 1 : int(x1) - 1]
        assert (inside == (255, 0, 0)).all()  # the outermost are mixed with what surrounds it


@pytest.mark.parametrize(("side", "pasted"), [(7.5, True), (7.4, False)])
def test_an_object_of_fewer_than_six_pixels_is_not_pasted(side: float, pasted: bool) -> None:
    # 96 of 120 px: 7.5 px are 6 px on the canvas
    for box in ([40, 40, 40 + side, 70], [40, 40, 70, 40 + side]):
        config = CopyPasteConfig(probability=1.0, same_image=0.0, onto_empty=True)
        rng = np.random.default_rng(0)
        after = copy_paste(on_canvas([]), config, RESIZE, rng, Given(source([box])))
        assert (len(after.boxes) > 0) is pasted


def test_without_other_images_nothing_is_pasted() -> None:
    config = CopyPasteConfig(probability=1.0, same_image=0.0)
    before = on_canvas([[2, 2, 30, 30]])
    assert copy_paste(before, config, RESIZE, np.random.default_rng(1), None) is before


@pytest.mark.parametrize("box", [[10.2, 10, 11.1, 40], [10, 10.2, 40, 11.1]])
def test_a_box_that_holds_no_whole_pixel_is_not_occluded(box: list[float]) -> None:
    sample = on_canvas([box])
    config = OcclusionConfig(probability=1.0)
    for seed in range(5):
        assert occlude(sample, config, (0, 0, 0), np.random.default_rng(seed)) is sample


@pytest.mark.parametrize("corner", [(61, 30), (16, 30), (40, 51), (40, 6)])
@pytest.mark.parametrize(("feather", "pasted"), [(0.0, True), (0.12, False)])
def test_copy_paste_leaves_an_object_whose_surroundings_show_another(
    feather: float, pasted: bool, corner: tuple[int, int]
) -> None:
    """A small one lies 1 px beside it: within .12 of 40 px, and outside the box itself."""
    x, y = corner
    donor = source([[20, 10, 60, 50], [x, y, x + 3, y + 3]])
    config = CopyPasteConfig(probability=1.0, same_image=0.0, feather=feather, onto_empty=True)
    rng = np.random.default_rng(0)
    after = copy_paste(on_canvas([]), config, RESIZE, rng, Given(donor))
    assert (len(after.boxes) > 0) is pasted


def test_objects_of_the_image_itself() -> None:
    config = CopyPasteConfig(probability=1.0, same_image=1.0)
    before = on_canvas([[2, 2, 30, 30]])
    after = copy_paste(before, config, RESIZE, np.random.default_rng(1), None)
    assert len(after.boxes) > 1
    assert set(after.labels.tolist()) == {1}


def test_pasted_objects_hide_no_more_than_allowed_in_all() -> None:
    config = CopyPasteConfig(probability=1.0, max_objects=8, max_cover=0.3, scale=(0.4, 0.8))
    for seed in range(30):
        before = on_canvas([[2, 2, 50, 60], [52, 4, 94, 40]])
        after = copy_paste(before, config, RESIZE, np.random.default_rng(seed), DONORS)
        grid = np.zeros((640, 960), bool)  # tenths of a pixel
        for x0, y0, x1, y1 in after.boxes[2:] * 10:
            grid[round(y0) : round(y1), round(x0) : round(x1)] = True
        for x0, y0, x1, y1 in (before.boxes * 10).astype(int):
            assert grid[y0:y1, x0:x1].mean() <= 0.31


def test_one_to_so_many_objects_are_pasted() -> None:
    config = CopyPasteConfig(
        probability=1.0, same_image=0.0, scale=(0.2, 0.2), max_objects=3, onto_empty=True
    )
    draws = [
        copy_paste(on_canvas([]), config, RESIZE, np.random.default_rng(seed), DONORS)
        for seed in range(20)
    ]
    assert {len(sample.boxes) for sample in draws} == {1, 2, 3}


def test_nothing_is_pasted_onto_padding() -> None:
    """The image covers 16..80 of 96 px across; neither boxes nor their faded edges leave it."""
    config = CopyPasteConfig(probability=1.0, same_image=0.0, feather=0.5, onto_empty=True)
    before = replace(on_canvas([]), inner=(16, 0, 80, 64))
    pasted = 0
    for seed in range(20):
        after = copy_paste(before, config, RESIZE, np.random.default_rng(seed), DONORS)
        assert (after.image[:, :16] == before.image[:, :16]).all()
        assert (after.image[:, 80:] == before.image[:, 80:]).all()
        assert (after.boxes[:, 0] >= 16).all() and (after.boxes[:, 2] <= 80).all()
        pasted += len(after.boxes)
    assert pasted > 15


def test_a_part_hides_as_much_of_an_object_as_is_allowed_in_all() -> None:
    """48 × 32 px of an object of 96 × 64, wherever they lie: a quarter."""
    sample = on_canvas([[0, 0, 96, 64]])
    part = Part(ONE.picture, np.array([0.0, 0, 48, 32]), width=48, height=32, feather=0.0)
    rng = np.random.default_rng(0)
    assert paste_part(sample, part, 0.24, rng) is None
    pasted = paste_part(sample, part, 0.25, rng)
    assert pasted is not None and pasted[0].hidden_share.tolist() == [0.25]
    assert paste_part(pasted[0], part, 0.25, rng) is None
    assert paste_part(pasted[0], part, 0.5, rng) is not None


def test_a_part_is_made_smaller_until_it_fits_the_image() -> None:
    # half of an image of 64 × 64 on the canvas: 32 px a side, of 96 px a third
    sample = replace(on_canvas([]), inner=(16, 0, 80, 64))
    assert limit_size(np.array([96.0, 30.0]), sample, 0.5).tolist() == pytest.approx([32, 10])
    assert limit_size(np.array([30.0, 96.0]), sample, 0.5).tolist() == pytest.approx([10, 32])
    assert limit_size(np.array([32.0, 8.0]), sample, 0.5).tolist() == [32, 8]
    # 96 × 32 on the canvas: half of the height is 16 px
    sample = replace(on_canvas([]), inner=(0, 16, 96, 48))
    assert limit_size(np.array([30.0, 32.0]), sample, 0.5).tolist() == pytest.approx([15, 16])


def test_parts_are_decoded_at_twice_the_size_of_the_image() -> None:
    """JPEG pictures are decoded smaller than they are, and parts of them are enlarged."""
    # 240 x 80 px on a canvas of 96 x 64: all of it is shown at 96 x 64
    assert RESIZE.cover(240, 80) == (96, 64)
    assert sharper(RESIZE.cover)(240, 80) == (192, 128)


def test_an_image_without_objects_stays_one_unless_asked() -> None:
    empty = Sample(
        np.zeros((64, 96, 3), np.uint8), NO_BOX, np.zeros(0, np.int64), np.zeros(0, bool)
    )
    config = CopyPasteConfig(probability=1.0)
    assert copy_paste(empty, config, RESIZE, np.random.default_rng(0), DONORS) is empty
    filled = copy_paste(
        empty, replace(config, onto_empty=True), RESIZE, np.random.default_rng(0), DONORS
    )
    assert len(filled.boxes)


def test_a_part_that_shows_another_object_is_not_pasted() -> None:
    overlapping = Given(source([[10, 10, 60, 60], [20, 20, 50, 50]]))
    config = CopyPasteConfig(probability=1.0, same_image=0.0, feather=0.0)
    for seed in range(10):
        after = copy_paste(
            on_canvas([[2, 2, 10, 10]]), config, RESIZE, np.random.default_rng(seed), overlapping
        )
        # The large box shows all of the small one; the small one shows .36 of the large one.
        assert len(after.boxes) == 1


# Alarm-paste.


@pytest.fixture
def alarms(tmp_path: Path) -> tuple[Alarm, ...]:
    image = Image.new("RGB", (120, 80), "grey")
    image.paste((0, 255, 0), (30, 20, 70, 60))
    image.save(tmp_path / "negative.png")
    rows = [
        {"image": "negative.png", "bbox": [30, 20, 40, 40], "score": 0.9, "category": "thing"},
        {"image": str(tmp_path / "negative.png"), "bbox": [30, 20, 20, 20], "score": 0.1},
    ]
    (tmp_path / "alarms.json").write_text(json.dumps(rows))
    return read_alarms(tmp_path / "alarms.json")


def test_alarms_lie_beside_objects(alarms: tuple[Alarm, ...]) -> None:
    config = AlarmPasteConfig(probability=1.0, max_cover=0.1)
    shown = 0
    for seed in range(40):
        before = on_canvas([[2, 2, 40, 40]])
        after = alarm_paste(before, config, RESIZE, np.random.default_rng(seed), alarms)
        assert (after.boxes == before.boxes).all()
        green = (after.image[..., 1] > 200) & (after.image[..., 0] < 60)
        assert green[2:40, 2:40].mean() <= 0.1
        shown += bool(green.sum() > 30)
    assert shown > 25


@pytest.mark.parametrize("size", [(20, 20), (20, 8), (8, 20)])
def test_not_even_the_edge_of_an_alarm_hides_an_object(
    size: tuple[int, int], alarms: tuple[Alarm, ...]
) -> None:
    config = AlarmPasteConfig(probability=1.0, max_cover=0.0, feather=0.5)
    given = [replace(alarms[0], box=(30, 20, 30 + size[0], 20 + size[1]))]
    changed = 0
    for seed in range(40):
        before = on_canvas([[30, 2, 60, 62]])
        after = alarm_paste(before, config, RESIZE, np.random.default_rng(seed), given)
        assert (after.image[2:62, 30:60] == before.image[2:62, 30:60]).all()
        changed += after is not before
    assert changed > 5


@pytest.fixture
def at_the_border(tmp_path: Path) -> Path:
    """A grey picture of 120 × 80 with 40 × 30 px of green at its left border."""
    image = Image.new("RGB", (120, 80), "grey")
    image.paste((0, 255, 0), (0, 20, 40, 50))
    image.save(tmp_path / "border.png")
    return tmp_path / "border.png"


def test_one_to_so_many_alarms_are_pasted_at_the_size_that_the_resize_gives(
    at_the_border: Path,
) -> None:
    """Of the alarm 40 × 30 px are in its picture; half of the width, then half of both: 10 × 15."""
    alarm = Alarm(at_the_border, (-10, 20, 40, 50), 0.9)
    config = AlarmPasteConfig(probability=1.0, scale=(0.5, 0.5), feather=0.0, max_patches=2)
    areas = set()
    for seed in range(20):
        before, rng = on_canvas([[0, 0, 4, 4]], 60, 80), np.random.default_rng(seed)
        after = alarm_paste(before, config, Resize(80, 60), rng, [alarm])
        green = (after.image[..., 1] > 200) & (after.image[..., 0] < 60)
        areas.add(int(green.sum()))
    assert min(areas) == 150
    assert 150 < max(areas) <= 300  # two of them may overlap


def test_an_alarm_that_lies_outside_its_picture_is_not_pasted(at_the_border: Path) -> None:
    config = AlarmPasteConfig(probability=1.0)
    before, rng = on_canvas([[0, 0, 4, 4]]), np.random.default_rng(0)
    for box in ((120.0, 20.0, 150.0, 50.0), (20.0, -40.0, 50.0, 0.0)):
        assert alarm_paste(before, config, RESIZE, rng, [Alarm(at_the_border, box, 0.9)]) is before


def test_alarms_need_a_source_and_an_object(alarms: tuple[Alarm, ...]) -> None:
    config = AlarmPasteConfig(probability=1.0)
    empty = on_canvas([])
    rng = np.random.default_rng(0)
    assert alarm_paste(empty, config, RESIZE, rng, alarms) is empty
    assert load_alarms(config) == ()
    full = on_canvas([[2, 2, 40, 40]])
    assert alarm_paste(full, config, RESIZE, rng, ()) is full
    never = AlarmPasteConfig(probability=0.0)
    assert alarm_paste(full, never, RESIZE, rng, alarms) is full


def test_alarm_file_round_trip_and_floor(tmp_path: Path, alarms: tuple[Alarm, ...]) -> None:
    assert alarms[0].box == (30, 20, 70, 60)
    assert alarms[0].image == tmp_path / "negative.png"
    path = tmp_path / "again.json"
    write_alarms(path, alarms)
    assert read_alarms(path) == alarms
    config = AlarmPasteConfig(probability=0.5, source=str(path), min_score=0.5)
    assert load_alarms(config) == alarms[:1]
    # .1 is below half of .9, the image's best
    assert load_alarms(AlarmPasteConfig(probability=0.5, source=str(path))) == alarms[:1]
    everything = AlarmPasteConfig(probability=1.0, source=str(path), min_share=0.0)
    assert load_alarms(everything) == alarms


def test_alarms_are_written_in_hundredths_of_a_pixel(tmp_path: Path) -> None:
    path = tmp_path / "alarms.json"
    alarm = Alarm(tmp_path / "a.png", (1.004, 2.996, 11.254, 22.006), 0.1234564)
    write_alarms(path, [alarm])
    rows = [{"image": str(alarm.image), "bbox": [1.0, 3.0, 10.25, 19.01], "score": 0.123456}]
    assert json.loads(path.read_text()) == rows


def test_the_alarms_of_what_is_switched_off_need_not_be_there(tmp_path: Path) -> None:
    missing = AlarmPasteConfig(probability=0.0, source=str(tmp_path / "none.json"))
    assert load_alarms(missing) == ()
    with pytest.raises(DataError, match=r"none\.json"):
        load_alarms(replace(missing, probability=0.1))


@pytest.mark.parametrize(
    ("min_score", "min_share", "kept"),
    [
        (0.2, 0.5, [0.9, 0.2, 0.4]),
        (0.21, 0.5, [0.9, 0.4]),
        (0.0, 0.51, [0.9, 0.4]),
        (0.4, 1.0, [0.9, 0.4]),
        (0.41, 0.0, [0.9]),
    ],
)
def test_the_limits_of_alarms_are_inclusive_and_by_image(
    min_score: float, min_share: float, kept: list[float], tmp_path: Path
) -> None:
    """.2 is half of .4, the best score of its image; that of another image decides nothing there."""
    path = tmp_path / "alarms.json"
    rows = [("b", 0.9), ("a", 0.2), ("a", 0.4)]
    write_alarms(path, [Alarm(tmp_path / name, (0, 0, 4, 4), score) for name, score in rows])
    config = AlarmPasteConfig(1.0, str(path), min_score=min_score, min_share=min_share)
    assert [alarm.score for alarm in load_alarms(config)] == kept


def test_an_alarm_without_a_score_has_one(tmp_path: Path) -> None:
    (tmp_path / "alarms.json").write_text('[{"image": "a.png", "bbox": [1, 2, 0.5, 0.25]}]')
    alarms = read_alarms(tmp_path / "alarms.json")
    assert alarms == (Alarm(tmp_path / "a.png", (1, 2, 1.5, 2.25), 1.0),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "got dict, wanted a list of alarms"),
        ("[{]", "not a readable file of alarms"),
        ('[{"image": "a", "bbox": [0, 0, 4]}]', r"alarms.json\[0\]: got .* wanted image, bbox"),
        ('[{"image": "a", "bbox": [0, 0, 4, 0]}]', r"\[0\]: bbox .* wanted a width and height"),
        ('[{"image": "a", "bbox": [0, 0, 0, 4]}]', r"\[0\]: bbox .* wanted a width and height"),
        ('[{"image": "a", "bbox": [1e999, 0, 4, 4]}]', r"\[0\]: bbox \[inf, .* wanted a width"),
        ("[3]", r"alarms.json\[0\]: got 3"),
        (None, "not a readable file of alarms"),
    ],
)
def test_faulty_alarm_files(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "alarms.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=reason):
        read_alarms(path)


# Occlusion.


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_part_of_every_object_stays_visible(seed: int, max_cover: float) -> None:
    config = OcclusionConfig(probability=1.0, min_cover=0.05, max_cover=max_cover)
    boxes = [[4, 4, 60, 50], [10, 10, 30, 30], [50, 20, 92, 60]]
    before = on_canvas(boxes)
    before = replace(before, image=np.full_like(before.image, 7))
    after = occlude(
        before, replace(config, fills=("mean",)), (200, 0, 0), np.random.default_rng(seed)
    )
    assert (after.boxes == before.boxes).all()
    changed = (after.image != 7).any(-1)
    for x0, y0, x1, y1 in boxes:
        assert changed[y0:y1, x0:x1].mean() <= max_cover + 1e-6


def test_all_fills_occur_and_lie_on_objects_only() -> None:
    config = OcclusionConfig(probability=1.0)
    before = on_canvas([[20, 10, 70, 50]])
    images = [
        occlude(before, config, (1, 2, 3), np.random.default_rng(seed)).image for seed in range(30)
    ]
    outside = np.ones((64, 96), bool)
    outside[10:50, 20:70] = False
    for image in images:
        changed = (image != before.image).any(-1)
        assert not changed[outside].any()
        assert changed.sum() <= 0.4 * 50 * 40
    assert any((i == (1, 2, 3)).all(-1).sum() > 100 for i in images)


def test_no_box_no_patch() -> None:
    empty = on_canvas([])
    assert (
        occlude(empty, OcclusionConfig(probability=1), (0, 0, 0), np.random.default_rng(0)) is empty
    )


def test_a_box_that_was_hidden_before_stops_no_patch_elsewhere() -> None:
    boxes = [[2, 2, 40, 60], [50, 2, 94, 60]]
    before = replace(coded(boxes), hidden=np.array([0.5, 0.0]))
    config = OcclusionConfig(1.0, min_cover=0.2, max_cover=0.4)
    hidden = occlude(before, config, (0, 0, 0), np.random.default_rng(0)).hidden_share
    assert hidden[0] == 0.5
    assert hidden[1] > 0.1


def coded(boxes: list[list[float]]) -> Sample:
    """A canvas on which each pixel says where it lies: (x, y, 77)."""
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    image = np.stack([across, down, np.full_like(across, 77)], -1).astype(np.uint8)
    return replace(on_canvas(boxes), image=image)


def patches(fill: Fill, boxes: list[list[float]], seeds: int) -> Iterator[tuple[Sample, Rect]]:
    """Give occluded canvases with the rectangle that changed; each patch hides a quarter of a box."""
    config = OcclusionConfig(1.0, min_cover=0.25, max_cover=0.25, fills=(fill,))
    before = coded(boxes)
    for seed in range(seeds):
        after = occlude(before, config, (200, 201, 202), np.random.default_rng(seed))
        rows, columns = np.nonzero((after.image != before.image).any(-1))
        yield after, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_patch_hides_the_share_that_was_drawn_anywhere_in_the_box() -> None:
    """A quarter of 80 x 56 px: from 20 x 56 to 80 x 14 px, less the pixels that it covers in part."""
    found = []
    for after, (x0, y0, x1, y1) in patches("mean", [[8, 4, 88, 60]], 60):
        assert (after.image[y0:y1, x0:x1] == (200, 201, 202)).all()
        wide, high = x1 - x0, y1 - y0
        assert wide * high <= 80 * 56 / 4 < (wide + 2) * (high + 2)
        assert after.hidden_share.tolist() == [wide * high / (80 * 56)]
        found.append((x0, y0, x1, y1, wide, high))
    assert (np.min(found, 0) <= (10, 6, 40, 25, 23, 16)).all()
    assert (np.min(found, 0) >= (8, 4, 26, 16, 18, 12)).all()
    assert (np.max(found, 0) >= (55, 40, 86, 58, 75, 50)).all()
    assert (np.max(found, 0) <= (70, 48, 88, 60, 80, 56)).all()


def test_a_patch_of_the_image_is_cut_from_anywhere_in_it_as_it_was() -> None:
    seen = []
    for after, (x0, y0, x1, y1) in patches("image", [[38, 22, 58, 42]], 60):
        shown = after.image[y0:y1, x0:x1].astype(int)
        assert (shown[..., 2] == 77).all()
        assert (np.diff(shown[..., 0], axis=1) == 1).all()
        assert (np.diff(shown[..., 1], axis=0) == 1).all()
        seen.append((*shown[0, 0, :2], *shown[-1, -1, :2]))
    assert (np.min(seen, 0)[:2] <= 4).all()
    assert (np.max(seen, 0)[2:] >= (91, 59)).all()


def test_a_patch_of_noise_has_all_values() -> None:
    for after, (x0, y0, x1, y1) in patches("noise", [[8, 4, 88, 60]], 5):
        shown = after.image[y0:y1, x0:x1]
        assert (shown.min(), shown.max()) == (0, 255)
        assert 120 < shown.mean() < 135
        assert shown.std((0, 1, 2)) > 70  # 256 / √12 = 74


def test_each_box_is_occluded_as_often_as_asked_for() -> None:
    # .3 of 200: 60, three deviations are 3 · √(200 · .3 · .7) = 19
    before, config = coded([[2, 2, 40, 60], [50, 2, 94, 60]]), OcclusionConfig(probability=0.3)
    hidden = [
        occlude(before, config, (0, 0, 0), np.random.default_rng(seed)).hidden_share
        for seed in range(100)
    ]
    assert 41 <= np.count_nonzero(hidden) <= 79
    assert np.prod(hidden, 1).max() > 0  # both of an image, and not the first one only
    assert (np.count_nonzero(hidden, axis=0) > 15).all()


@pytest.mark.parametrize("earlier", [0.0, 0.2, 0.35])
def test_what_was_pasted_before_counts_as_hidden(earlier: float) -> None:
    """A tenth or more of a box that may lose .4 in all; with .35 gone, nothing more."""
    sample = replace(coded([[0, 0, 96, 64]]), hidden=np.array([earlier]))
    config = OcclusionConfig(1.0, min_cover=0.1, max_cover=0.4)
    shares = [
        occlude(sample, config, (0, 0, 0), np.random.default_rng(seed)).hidden_share[0]
        for seed in range(40)
    ]
    assert max(shares) <= 0.4
    if earlier == 0.35:
        assert max(shares) == earlier
    else:
        assert max(shares) > 0.37
        assert earlier + 0.07 < min(shares) < earlier + 0.15


# Presets and settings.


def test_a_preset_in_a_recipe() -> None:
    assert recipe_from_dict({"augment": "strong"}).augment == AUGMENT_PRESETS["strong"]
    chosen = recipe_from_dict({"augment": {"preset": "none", "mosaic": {"probability": 0.5}}})
    assert chosen.augment == replace(NO_AUGMENT, mosaic=MosaicConfig(probability=0.5))
    with pytest.raises(
        ConfigError, match=r"augment.preset: got 'heavy', wanted one of none, light"
    ):
        recipe_from_dict({"augment": "heavy"})
    with pytest.raises(ConfigError, match=r"unknown key 'augment.mosaic.probabilty'"):
        recipe_from_dict({"augment": {"mosaic": {"probabilty": 0.5}}})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MosaicConfig(probability=2), "augment.mosaic.probability: got 2"),
        (lambda: MosaicConfig(centre=0.7), "got centre 0.7"),
        (lambda: MosaicConfig(centre=0), "got centre 0"),
        (lambda: MosaicConfig(max_zoom=0), "got centre 0.3, max_zoom 0"),
        (lambda: MosaicConfig(min_visible=1.01), "augment.mosaic.min_visible: got 1.01"),
        (lambda: CopyPasteConfig(probability=1.01), "augment.copy_paste.probability: got 1.01"),
        (lambda: AlarmPasteConfig(probability=-0.1), "augment.alarm_paste.probability: got -0.1"),
        (lambda: OcclusionConfig(probability=1.01), "augment.occlusion.probability: got 1.01"),
        (lambda: CopyPasteConfig(max_side=0), "augment.copy_paste: got max_side 0"),
        (lambda: CopyPasteConfig(max_side=1.01), "augment.copy_paste: got max_side 1.01"),
        (lambda: CopyPasteConfig(scale=(0, 1)), "augment.copy_paste.scale"),
        (lambda: CopyPasteConfig(scale=(2, 1)), "augment.copy_paste.scale"),
        (lambda: CopyPasteConfig(max_objects=0), "got max_objects 0"),
        (lambda: CopyPasteConfig(feather=1.5), "augment.copy_paste: got .* feather 1.5"),
        (lambda: CopyPasteConfig(same_image=2), "augment.copy_paste.same_image: got 2"),
        (lambda: AlarmPasteConfig(max_patches=0), "got max_patches 0"),
        (lambda: AlarmPasteConfig(feather=1.5), "augment.alarm_paste: got .* feather 1.5"),
        (lambda: AlarmPasteConfig(min_share=2), "augment.alarm_paste.min_share: got 2"),
        (lambda: AlarmPasteConfig(max_cover=1.0), "augment.alarm_paste: got max_side"),
        (lambda: OcclusionConfig(min_cover=0.5), "got min_cover 0.5"),
        (lambda: OcclusionConfig(min_cover=0), "got min_cover 0"),
        (lambda: OcclusionConfig(max_cover=1.0), "got min_cover 0.1, max_cover 1.0"),
        (lambda: OcclusionConfig(fills=()), r"got \[\], wanted some of"),
        (lambda: OcclusionConfig(fills=("snow",)), "wanted some of"),
    ],
)
def test_settings_out_of_range(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()  # type: ignore[operator]
