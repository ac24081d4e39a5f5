"""KITTI files as the development kit describes them; torchvision reads what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import Kitti

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.convert import convert
from hardmine.data.load_dataset import load_dataset, load_splits
from hardmine.errors import ConfigError
from hardmine.types import Dataset, ImageState

# From the development kit: a car, and a region where nothing was labelled.
CAR = "Car 0.00 0 1.57 {} {} {} {} 1.52 1.63 3.88 -2.70 1.74 3.68 -1.29"
REGION = "DontCare -1 -1 -10 {} {} {} {} -1 -1 -1 -1000 -1000 -1000 -10"
WALKER = "Pedestrian 0.00 0 -0.20 {} {} {} {} 1.89 0.48 1.20 1.84 1.47 8.41 0.01"


def put(root: Path, *texts: str | None) -> None:
    for number, text in enumerate(texts):
        put_image(root / "image_2" / f"{number:06}.png", number)
        (root / "label_2").mkdir(parents=True, exist_ok=True)
        if text is not None:
            put_text(root / "label_2" / f"{number:06}.txt", text)


def test_boxes_classes_and_regions_without_labels(tmp_path: Path) -> None:
    lines = [CAR.format(1.5, 2, 11, 12), WALKER.format(5, 6, 7, 8), REGION.format(20, 3, 30, 9)]
    put(tmp_path / "training", "\n".join(lines) + "\n", "", None)
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("Car", "Pedestrian")
    record = dataset.records[0]
    np.testing.assert_allclose(
        record.boxes, [[1.5, 2, 11, 12], [5, 6, 7, 8], [20, 3, 30, 9], [20, 3, 30, 9]]
    )
    assert record.labels.tolist() == [1, 2, 1, 2]  # the region counts for every class
    assert record.ignore.tolist() == [False, False, True, True]
    assert [r.state for r in dataset.records] == [
        ImageState.LABELLED,
        ImageState.VERIFIED_EMPTY,
        ImageState.UNREVIEWED,
    ]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("line", "kind", "boxes"),
    [
        (CAR.format(1, 2, 11, 12) + " 0.93", "columns_left_out", 2),
        (CAR.format(1, 2, 11, 12) + " 0.93 7", "box_malformed", 1),
        ("Car 0 0 0 1 2 11 12", "box_malformed", 1),
        (CAR.format(1, "x", 11, 12), "box_malformed", 1),
    ],
)
def test_lines_of_another_length(tmp_path: Path, line: str, kind: str, boxes: int) -> None:
    put(tmp_path, f"{CAR.format(1, 2, 30, 12)}\n{line}\n")
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.index) for p in dataset.problems] == [(kind, 1)]
    assert len(dataset.records[0].boxes) == boxes


def test_an_image_with_a_region_alone_is_not_known_to_be_empty(tmp_path: Path) -> None:
    put(tmp_path, REGION.format(20, 3, 30, 9), "")
    no_classes = load_dataset(tmp_path)
    states = [record.state for record in no_classes.records]
    assert (no_classes.categories, states) == (
        (),
        [ImageState.UNREVIEWED, ImageState.VERIFIED_EMPTY],
    )
    put_text(tmp_path / "classes.txt", "Car\n")
    record = load_dataset(tmp_path).records[0]
    assert (record.state, record.ignore.tolist()) == (ImageState.LABELLED, [True])


def test_beside_the_images_it_is_told_from_yolo(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    put_text(tmp_path / "a.txt", CAR.format(1, 2, 11, 12))
    assert load_dataset(tmp_path).categories == ("Car",)


def written(tmp_path: Path) -> Dataset:
    lines = [CAR.format(1, 2, 11, 12), WALKER.format(5, 6, 7, 8), REGION.format(20, 3, 30, 9)]
    put(tmp_path / "in", "\n".join(lines), "")
    return load_dataset(tmp_path / "in")


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_torchvision_reads_what_is_written(tmp_path: Path) -> None:
    before = written(tmp_path)
    raw = tmp_path / "Kitti" / "raw"
    raw.parent.mkdir()
    convert({"train": before, "val": before.subset([0])}, raw, "kitti")
    found = Kitti(str(tmp_path), train=True)
    assert len(found) == 2
    order = [Path(path).stem for path in found.images]
    _, target = found[order.index("000000")]
    assert [item["type"] for item in target] == ["Car", "Pedestrian", "DontCare"]
    assert target[0]["bbox"] == [1, 2, 11, 12]
    assert target[2]["bbox"] == [20, 3, 30, 9]
    _, nothing = found[order.index("000001")]
    assert nothing == []
    assert list(load_splits(raw)) == ["train", "val"]


def test_an_object_to_ignore_of_one_class_stays_of_that_class(tmp_path: Path) -> None:
    before = written(tmp_path)
    before.records[0].ignore[:] = [True, False, True, True]
    out = convert(before, tmp_path / "out", "kitti").out
    lines = (out / "label_2" / "000000.txt").read_text().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["Car", "0", "3"],  # occlusion 3: KITTI's own evaluation does not count it
        ["Pedestrian", "0", "0"],
        ["DontCare", "-1", "-1"],
    ]
    after = by_name(load_dataset(out))["000000.png"]
    assert after.labels.tolist() == [1, 2, 1, 2]
    assert after.ignore.tolist() == [True, False, True, True]


def test_class_names_that_become_one_word_are_refused(tmp_path: Path) -> None:
    before = written(tmp_path)
    twins = Dataset(("a b", "a_b"), before.records, before.root)
    with pytest.raises(ConfigError, match="'a b' and 'a_b'"):
        convert(twins, tmp_path / "out", "kitti")
    assert not (tmp_path / "out").exists()


def test_spaces_in_class_names_survive(tmp_path: Path) -> None:
    before = written(tmp_path)
    named = Dataset(("fire truck", "a person"), before.records, before.root)
    out = convert(named, tmp_path / "out", "kitti").out
    assert (out / "label_2" / "000000.txt").read_text().startswith("fire_truck 0 ")
    after = load_dataset(out)
    assert after.categories == ("fire truck", "a person")
    assert kinds(after) == []
    assert states(after)["000001.png"] is ImageState.VERIFIED_EMPTY


def test_labels_may_keep_the_ending_of_the_picture(tmp_path: Path) -> None:
    put(tmp_path, None)
    put_text(tmp_path / "label_2" / "000000.png.txt", CAR.format(1, 2, 11, 12))
    dataset = load_dataset(tmp_path)
    assert dataset.records[0].boxes.tolist() == [[1, 2, 11, 12]]
    assert dataset.problems == ()
