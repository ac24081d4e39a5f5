"""Scenes: what stands where, what stays visible, boxes of the visible part."""

from dataclasses import replace

import numpy as np
import pytest

from hardmine.demo import world as scenes
from hardmine.demo.items import CATEGORIES, HELD_OUT_ONLY, LOOK_ALIKES, TARGETS
from hardmine.demo.world import (
    MIN_VISIBLE,
    SPLITS,
    Scene,
    SceneKind,
    _Picture,
    _Place,
    _put,
    _visible_objects,
    draw_image,
    draw_scene,
)

CARTON, CAN = TARGETS[1], TARGETS[2]
COUNT = 40


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    return {split: [draw_image(0, split, i) for i in range(COUNT)] for split in SPLITS}


def names(scenes: list[Scene]) -> set[str]:
    return {name for scene in scenes for name in scene.families}


def test_labelled_scenes_hold_objects_of_every_class(drawn: dict[str, list[Scene]]) -> None:
    for split in ("train", "val"):
        assert all(len(scene.labels) for scene in drawn[split])
        assert {int(k) for scene in drawn[split] for k in scene.labels} == {1, 2, 3, 4}


def test_boxes_lie_inside_and_match_the_families(drawn: dict[str, list[Scene]]) -> None:
    for scene in (*drawn["train"], *drawn["val"]):
        height, width = scene.image.shape[:2]
        left, top, right, bottom = scene.boxes.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= width).all()
        assert (bottom <= height).all()
        assert (right - left >= 4).all()
        assert (bottom - top >= 7).all()
        objects = [CATEGORIES.index(name) + 1 for name in scene.families if name in CATEGORIES]
        assert scene.labels.tolist() == objects


def test_negatives_hold_no_object(drawn: dict[str, list[Scene]]) -> None:
    for split in ("pool", "negatives"):
        assert not names(drawn[split]) & set(CATEGORIES)
        assert all(len(scene.boxes) == 0 for scene in drawn[split])


def test_held_out_families_occur_in_held_out_negatives_alone(
    drawn: dict[str, list[Scene]],
) -> None:
    unseen = {family.name for family in HELD_OUT_ONLY}
    assert unseen <= names(drawn["negatives"])
    assert not unseen & (names(drawn["train"]) | names(drawn["val"]) | names(drawn["pool"]))


def test_look_alikes_never_stand_in_labelled_scenes(drawn: dict[str, list[Scene]]) -> None:
    known = {family.name for family in LOOK_ALIKES}
    assert known <= names(drawn["pool"])
    assert known <= names(drawn["negatives"])
    assert not known & (names(drawn["train"]) | names(drawn["val"]))


def test_sizes_vary(drawn: dict[str, list[Scene]]) -> None:
    sides = {scene.image.shape[:2] for scene in drawn["train"]}
    assert len(sides) > COUNT / 2
    assert all(144 <= side <= 192 for shape in sides for side in shape)
    heights = np.concatenate([scene.boxes[:, 3] - scene.boxes[:, 1] for scene in drawn["train"]])
    assert heights.max() > 4 * heights.min()


def blank() -> _Picture:
    return _Picture(np.full((120, 160, 3), 0.5, np.float32), np.full((120, 160), -1), 0.0)


def place(center: float, width: float = 40, height: float = 80, base: float = 100) -> _Place:
    return _Place(CARTON, center, base, width, height, 0.0)


def test_box_is_tight_around_an_upright_carton() -> None:
    picture = blank()
    _put(np.random.default_rng(0), picture, place(80))
    boxes, labels = _visible_objects(picture)
    # Base centre (80, 100), 40 by 80 pixels: x 60..100, y 20..100.
    assert boxes.tolist() == [[60, 20, 100, 100]]
    assert labels.tolist() == [2]


def test_box_is_of_the_visible_part() -> None:
    picture, rng = blank(), np.random.default_rng(0)
    _put(rng, picture, place(80))
    _put(rng, picture, place(108))
    boxes, _ = _visible_objects(picture)
    # The second covers x 88..128, all of the first's right edge below its narrower roof (y >= 46).
    assert boxes[1].tolist() == [88, 20, 128, 100]
    assert boxes[0][0] == 60
    assert 88 <= boxes[0][2] < 100
    lower = np.nonzero((picture.owner == 0)[60:])[1]
    assert lower.max() + 1 == 88


def test_item_that_would_hide_an_object_is_left_out() -> None:
    picture, rng = blank(), np.random.default_rng(0)
    _put(rng, picture, place(80))
    _put(rng, picture, place(90))
    assert len(picture.families) == 1
    # A can half outside the picture is left out too: 20 of its 40 columns show.
    _put(rng, picture, _Place(CAN, 160, 100, 40, 60, 0.0))
    _put(rng, picture, _Place(CAN, 300, 100, 40, 60, 0.0))
    _put(rng, picture, _Place(CAN, -300, 100, 40, 60, 0.0))
    assert len(picture.families) == 1


def test_every_object_keeps_its_visible_share(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = scenes._visible_objects

    def spy(picture: _Picture) -> tuple[scenes.F32, scenes.I64]:
        seen.append(picture)
        return original(picture)

    monkeypatch.setattr(scenes, "_visible_objects", spy)
    for index in range(25):
        draw_image(1, "train", index)
    shares = [
        np.count_nonzero(picture.owner == index) / picture.areas[index]
        for picture in seen
        for index, family in enumerate(picture.families)
        if family in TARGETS
    ]
    assert min(shares) >= MIN_VISIBLE
    assert min(shares) < 0.95


def test_items_of_another_size_keep_their_class() -> None:
    small = tuple(
        replace(family, height=(family.height[0] / 3, family.height[1] / 3)) for family in TARGETS
    )
    kind = SceneKind(((small, 0.6),), objects=True)
    found = draw_scene(np.random.default_rng(0), kind)
    names = [CATEGORIES[label - 1] for label in found.labels]
    assert names
    assert names == list(found.families)
