from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import coco, coco_box, coco_image, picture, put_image, put_text, voc_object, voc_xml
from hardmine.data.load_dataset import load_splits
from hardmine.data.quality.check_dataset import check_dataset
from hardmine.data.quality.repair import Repair, repair
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageState


def fix(path: Path, out: Path) -> tuple[Repair, Mapping[str, Dataset]]:
    report = check_dataset(path)
    done = repair(report.raws, report.seen, out)
    return done, load_splits(out)


def listed(out: Path) -> list[dict[str, str]]:
    with (out / "changes.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_fault_is_mended_or_removed_and_listed(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for seed in range(5):
        put_image(data / f"{seed}.png", seed)
    (data / "broken.png").write_bytes((data / "0.png").read_bytes()[:50])
    annotations = [
        coco_box(0, [30, 2, -10, 4]),  # 0: corners swapped: 20 2 30 6
        coco_box(1, [30, 2, 15, 4]),  # 1: passes the edge of 40
        coco_box(1, [400, 2, 15, 4], 2),  # 2: outside
        coco_box(2, [1, 2, 10, 10]),  # 3
        coco_box(2, [1, 2, 10, 10]),  # 4: repeats it
        coco_box(3, [1, 2, 20, 20], 2),  # 5
        coco_box(3, [1, 2, 20, 20.2], 2),  # 6: nearly the same
        coco_box(4, [1, 2, 3, 4], 9),  # 7: no such class
        coco_box(5, [1, 2, 3, 4]),  # 8: its image does not decode
        coco_box(1, [400, 2, -15, 4]),  # 9: swapped and outside
    ]
    images = [coco_image(i, f"{i}.png") for i in range(5)]
    images.append(coco_image(5, "broken.png"))
    images.append(coco_image(6, "gone.png"))
    images[4]["hardmine_state"] = "contains_object"
    done, splits = fix(put_text(data / "all.json", coco(images, annotations)), out)
    records = {record.path.name: record for record in splits["all"].records}
    assert sorted(records) == [f"{i}.png" for i in range(5)]
    np.testing.assert_array_equal(records["0.png"].boxes, [[20, 2, 30, 6]])
    np.testing.assert_array_equal(records["1.png"].boxes, [[30, 2, 40, 6]])
    assert [len(records[f"{i}.png"].boxes) for i in range(5)] == [1, 1, 1, 1, 0]
    assert records["4.png"].state is ImageState.CONTAINS_OBJECT
    rows = {(row["file"], int(row["index"])): row for row in listed(out)}
    assert {key: row["change"] for key, row in rows.items()} == {
        ("all.json", 0): "box read anew",
        ("all.json", 1): "box clipped",
        ("all.json", 2): "box removed",
        ("all.json", 4): "box removed",
        ("all.json", 6): "image left out",  # gone.png, the seventh image
        ("all.json", 7): "box removed",
        ("all.json", 9): "box removed",
        ("3.png", 1): "box removed",
        ("broken.png", -1): "image left out",
    }
    assert rows["all.json", 0]["before"] == "30 2 20 6"
    assert rows["all.json", 0]["after"] == "20 2 30 6"
    assert len(done.changes) == len(rows)
    assert check_dataset(out).ok
    original = (data / "2.png").read_bytes()
    assert (out / "images" / "2.png").read_bytes() == original


def test_what_a_person_must_judge_is_no_change(tmp_path: Path) -> None:
    put_image(tmp_path / "data" / "0.png", 0)
    boxes = [coco_box(0, [1, 2, 10, 10]), coco_box(0, [20, 2, 10, 10], 2)]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat"}]
    labels = coco([coco_image(0, "0.png")], boxes, names)
    path = put_text(tmp_path / "data" / "all.json", labels)
    assert [str(p.kind) for p in load_splits(path)["all"].problems] == ["class_names_alike"]
    done, splits = fix(path, tmp_path / "out")
    assert (done.changes, listed(tmp_path / "out")) == ((), [])
    assert splits["all"].categories == ("cat", "Cat")


def test_of_two_labels_of_one_object_the_later_one_goes(tmp_path: Path) -> None:
    put_image(tmp_path / "data" / "0.png", 0)
    boxes = ([1, 2, 20, 20], [25, 3, 10, 10], [1, 2, 20, 20.2])
    text = coco([coco_image(0, "0.png")], [coco_box(0, box) for box in boxes])
    _, splits = fix(put_text(tmp_path / "data" / "all.json", text), tmp_path / "out")
    (record,) = splits["all"].records
    np.testing.assert_array_equal(record.boxes, [[1, 2, 21, 22], [25, 3, 35, 13]])
    (row,) = listed(tmp_path / "out")
    assert (row["file"], row["index"], row["change"]) == ("0.png", "2", "box removed")
    assert row["before"] == "1 2 21 22.2"


def test_another_form_is_read_as_what_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data, out = tmp_path / "data", tmp_path / "out"
    wanted = {}
    for i in range(12):
        extent = rng.integers(10, 25, 2)
        low = rng.integers(0, np.array([40, 30]) - extent)
        put_image(data / f"{i}.png", i)
        box = [*low.tolist(), *extent.tolist()]
        put_text(data / f"{i}.xml", voc_xml([voc_object("cat", box)]))
        wanted[f"{i}.png"] = [*low, *(low + extent)]
    _, splits = fix(data, out)
    for record in splits["all"].records:
        np.testing.assert_array_equal(record.boxes, [wanted[record.path.name]])
    assert len(listed(out)) == 12
    assert listed(out)[0]["reason"] == "read as xmin ymin width height, in pixels"


def test_of_copies_in_two_splits_the_training_image_goes(tmp_path: Path) -> None:
    for split, seeds in (("train", (1, 2)), ("val", (2, 3))):
        for seed in seeds:
            put_image(tmp_path / "data" / split / f"{seed}.png", seed)
            label = voc_xml([voc_object("cat", (1, 2, 9, 9))])
            put_text(tmp_path / "data" / split / f"{seed}.xml", label)
    _, splits = fix(tmp_path / "data", tmp_path / "out")
    names = {name: [r.path.name for r in ds.records] for name, ds in splits.items()}
    assert names == {"train": ["1.png"], "val": ["2.png", "3.png"]}
    (row,) = listed(tmp_path / "out")
    assert (row["split"], row["change"]) == ("train", "image left out")
    assert row["reason"] == "near-copy of 2.png (val)"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_an_unturned_picture_turn_with_it(tmp_path: Path, orientation: int) -> None:
    """The labelled box covers a white patch; after the repair it covers it as displayed.

    It reaches to x = 70, beyond the 60 px of the upright picture: it was drawn on the stored one.
    """
    stored = Image.new("RGB", (80, 60))
    stored.paste((255, 255, 255), (40, 20, 70, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    stored.save(data / "a.png", exif=exif)
    put_text(data / "a.xml", voc_xml([voc_object("cat", (40, 20, 70, 30))], size=(80, 60)))
    _, splits = fix(data, out)
    record = splits["all"].records[0]
    assert (record.width, record.height) == (60, 80)
    from hardmine.data.images import read_image

    white = np.argwhere(np.asarray(read_image(record.path)).min(axis=2) > 128)
    top, left = white.min(axis=0)
    bottom, right = white.max(axis=0) + 1
    np.testing.assert_array_equal(record.boxes, [[left, top, right, bottom]])
    assert listed(out)[0]["change"] == "size and boxes turned"


def test_boxes_that_fit_both_ways_stay_where_they_are(tmp_path: Path) -> None:
    stored = Image.new("RGB", (80, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    stored.save(data / "a.png", exif=exif)
    put_text(data / "a.xml", voc_xml([voc_object("cat", (10, 20, 40, 30))], size=(80, 60)))
    _, splits = fix(data, out)
    record = splits["all"].records[0]
    assert (record.width, record.height, record.boxes.tolist()) == (60, 80, [[10, 20, 40, 30]])
    (row,) = listed(out)
    assert (row["change"], row["before"], row["after"]) == ("size set", "80 x 60", "60 x 80")
    assert "as stored they would fit as well" in row["reason"]


def test_boxes_beyond_a_size_that_is_wrong_are_kept(tmp_path: Path) -> None:
    """The label says a thumbnail's size, the boxes are of the picture: none is outside it."""
    data, out = tmp_path / "data", tmp_path / "out"
    put_image(data / "a.png", 1, (160, 120))
    put_text(data / "a.xml", voc_xml([voc_object("cat", (90, 70, 150, 110))], size=(40, 30)))
    _, splits = fix(data, out)
    assert splits["all"].records[0].boxes.tolist() == [[90, 70, 150, 110]]
    assert [row["change"] for row in listed(out)] == ["size set"]


def test_of_the_same_file_in_two_splits_the_training_image_goes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed in range(3):
        put_image(data / "images" / f"{seed}.png", seed)
        put_text(data / "labels" / f"{seed}.txt", "0 0.5 0.5 0.4 0.4\n")
    put_text(data / "train.txt", "images/0.png\nimages/1.png\n")
    put_text(data / "val.txt", "images/1.png\nimages/2.png\n")
    put_text(data / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    fix(data, tmp_path / "out")
    (row,) = listed(tmp_path / "out")
    assert (row["split"], row["file"], row["reason"]) == (
        "train",
        "images/1.png",
        "the same file is in val",
    )
    put_text(data / "val.txt", "images/0.png\nimages/1.png\n")  # all of it: a person decides
    _, splits = fix(data, tmp_path / "again")
    assert {name: len(part) for name, part in splits.items()} == {"train": 2, "val": 2}


def test_sizes_that_differ(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    put_image(data / "half.png", 1, (80, 60))  # labelled at 40 x 30
    put_image(data / "other.png", 2, (50, 30))
    for name in ("half", "other"):
        put_text(data / f"{name}.xml", voc_xml([voc_object("cat", (10, 10, 20, 30))]))
    _, splits = fix(data, out)
    half, other = splits["all"].records
    np.testing.assert_array_equal(half.boxes, [[20, 20, 40, 60]])
    assert half.state is ImageState.LABELLED
    assert (other.width, other.state) == (50, ImageState.UNREVIEWED)
    assert [row["change"] for row in listed(out)] == [
        "size and boxes scaled",
        "size set, image unreviewed",
    ]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    put_text(tmp_path / "a.xml", voc_xml([voc_object("cat", (1, 2, 9, 9))]))
    report = check_dataset(tmp_path)
    with pytest.raises(DataError, match="not empty"):
        repair(report.raws, report.seen, tmp_path)
