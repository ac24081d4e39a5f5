from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hardmine.data.formats.coco as careful
from data_files import coco, coco_box, coco_image, put_image, put_text
from hardmine.data.formats.coco import read_fast
from hardmine.data.load_dataset import load_dataset
from hardmine.errors import DataError
from hardmine.types import Dataset

NAMES = ("a.png", "b.png", "sub/c.png", "gone.png", "../x.png", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for seed, name in enumerate(NAMES[:3]):
        put_image(folder / name, seed)
    return folder


def both(path: Path) -> tuple[Any, Any, bool]:
    """Read a file the usual way and with the quick way closed; and whether that was open."""

    def read() -> Any:
        try:
            return load_dataset(path)
        except DataError as error:
            return str(error)

    used = []

    def spy(*args: Any) -> Any:
        used.append(read_fast(*args))
        return used[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(careful, "read_fast", spy)
        usual = read()
        patch.setattr(careful, "read_fast", lambda *args: None)
        slow = read()
    return usual, slow, used[-1] is not None


def assert_same(usual: Any, slow: Any) -> None:
    if not isinstance(slow, Dataset):
        assert usual == slow
        return
    assert isinstance(usual, Dataset)
    assert usual.fingerprint == slow.fingerprint
    assert usual.problems == slow.problems
    assert [r.source for r in usual.records] == [r.source for r in slow.records]


def test_a_sound_file_is_read_quickly_and_alike(root: Path) -> None:
    images = [
        coco_image(30, "b.png", hardmine_state="assumed_empty", hardmine_source="pool"),
        coco_image("x", "sub/c.png"),
        {"id": 7, "file_name": "a.png"},  # its size comes from the header
    ]
    annotations = [
        coco_box(7, [1, 2, 10, 20], 2, segmentation=[[1, 2, 3, 4]], iscrowd=1),
        coco_box("x", [3.5, 4, 500, 6], 1, id=9),
        coco_box(7, [1, 2, 10, 20], 2),
        coco_box(7, [1, 2, -3, 20], 2),
    ]
    path = put_text(root / "sound.json", coco(images, annotations))
    usual, slow, quick = both(path)
    assert quick
    assert_same(usual, slow)
    assert [p.kind for p in usual.problems] == ["box_clipped", "box_repeated", "box_inverted"]
    assert [p.index for p in usual.problems] == [1, 2, 3]


def test_faults_take_the_careful_way(root: Path) -> None:
    odd = [coco_image(1, "a.png", hardmine_state="odd"), coco_image(2, "b.png")]
    twice = [coco_image(1, "a.png"), coco_image(2, "a.png")]
    for images in (odd, twice):
        path = put_text(root / "odd.json", coco(images, [coco_box(2, [1, 2, 3, 4])]))
        usual, slow, quick = both(path)
        assert not quick
        assert_same(usual, slow)
        assert len(usual.problems) == 1


def test_an_image_without_a_readable_header_closes_ranks(root: Path) -> None:
    put_text(root / "broken.png", "no image")
    images = [
        {"id": 1, "file_name": "broken.png"},
        coco_image(2, "a.png"),
        {"id": 3, "file_name": "b.png"},
    ]
    annotations = [coco_box(i, [i, 2, 3, 4]) for i in (1, 2, 3)]
    usual, slow, quick = both(put_text(root / "headers.json", coco(images, annotations)))
    assert quick
    assert_same(usual, slow)
    assert [r.boxes[0, 0] for r in usual.records] == [2, 3]


numbers = st.one_of(st.integers(-5, 60), st.floats(-5, 60, width=32), st.just(None), st.just("x"))
images = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 3), "file_name": st.sampled_from(NAMES)},
        optional={
            "width": st.sampled_from([40, 40.0, 0, -1, "wide", None]),
            "height": st.sampled_from([30, 10**12]),
            "hardmine_state": st.sampled_from(["labelled", "verified_empty", "odd", None]),
        },
    ),
    max_size=4,
)
annotations = st.lists(
    st.fixed_dictionaries(
        {"image_id": st.integers(0, 4), "category_id": st.sampled_from([1, 2, 3, True])},
        optional={
            "bbox": st.one_of(
                st.lists(st.integers(0, 20), min_size=4, max_size=4),
                st.lists(numbers, min_size=3, max_size=5),
            ),
            "iscrowd": st.sampled_from([0, 1, True, 0.0]),
        },
    ),
    max_size=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(images, annotations, st.booleans())
def test_both_ways_say_the_same_of_any_file(
    root: Path, entries: list[Any], boxes: list[Any], repeat: bool
) -> None:
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat" if repeat else "dog"}]
    text = json.dumps({"images": entries, "annotations": boxes, "categories": names})
    usual, slow, _ = both(put_text(root / "any.json", text))
    assert_same(usual, slow)
