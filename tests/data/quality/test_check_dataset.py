from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import (
    coco,
    coco_box,
    coco_image,
    picture,
    put_image,
    put_text,
    real_data,
    voc_object,
    voc_xml,
)
from hardmine.data.formats.image_files import load_images
from hardmine.data.load_dataset import load_splits, read_splits
from hardmine.data.quality.check_dataset import CheckReport, check_dataset
from hardmine.errors import DataError
from hardmine.finding_kinds import Severity
from hardmine.workflows.check_data import render_check_page

SIZE = (40, 30)


def check(root: Path, *names: str, boxes: bool = True) -> CheckReport:
    """Check a COCO file that names the given images."""
    images = [coco_image(i, name) for i, name in enumerate(names)]
    annotations = [coco_box(i, [1, 2, 3, 4], 1 + i % 2) for i in range(len(names)) if boxes]
    return check_dataset(put_text(root / "all.json", coco(images, annotations)))


def found(report: CheckReport) -> dict[str, str]:
    return {problem.file: problem.kind for problem in report.problems}


def test_a_good_dataset_is_ok_and_counted(tmp_path: Path) -> None:
    names = [put_image(tmp_path / f"{seed}.png", seed).name for seed in range(4)]
    report = check(tmp_path, *names)
    assert report.ok
    assert report.problems == ()
    assert report.rows() == [
        "all: 4 images (4 labelled), 4 boxes (cat 2, dog 2)",
        "no problems",
    ]
    assert report.to_dict()["splits"]["all"] == {
        "images": 4,
        "states": {"labelled": 4},
        "boxes": 4,
        "ignored_boxes": 0,
        "classes": {"cat": 2, "dog": 2},
    }


def test_images_that_cannot_be_decoded_are_errors(tmp_path: Path) -> None:
    whole = put_image(tmp_path / "whole.jpg", 1, (400, 300)).read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    put_image(tmp_path / "good.jpg", 2)
    report = check(tmp_path, "good.jpg", "truncated.jpg", "zero.jpg", "text.jpg")
    assert found(report) == {
        "truncated.jpg": "image_truncated",
        "zero.jpg": "image_zero_bytes",
        "text.jpg": "image_not_image",
    }
    assert not report.ok
    assert all(problem.kind.severity is Severity.ERROR for problem in report.problems)


def test_odd_images_are_noted_and_do_no_harm(tmp_path: Path) -> None:
    picture(1, SIZE).convert("CMYK").save(tmp_path / "cmyk.jpg")
    deep = np.asarray(picture(2, SIZE).convert("L"), np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    frames = [picture(seed, SIZE) for seed in (3, 4)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°: 30 x 40 in the file, 40 x 30 to a person
    picture(5, SIZE[::-1]).save(tmp_path / "turned.jpg", exif=exif)
    report = check(tmp_path, "cmyk.jpg", "deep.png", "moving.gif", "turned.jpg")
    assert [(problem.file, problem.kind) for problem in report.problems] == [
        ("cmyk.jpg", "image_cmyk"),
        ("deep.png", "image_16bit"),
        ("deep.png", "image_grey"),
        ("moving.gif", "image_animated"),
        ("turned.jpg", "image_turned"),
    ]
    assert report.ok


def test_a_size_that_differs_from_the_labels_is_an_error(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png", 1, (30, 40))
    put_image(tmp_path / "b.png", 2)
    report = check(tmp_path, "a.png", "b.png")
    assert [str(p) for p in report.problems] == [
        "a.png: image is 30 x 40, its label says 40 x 30: width and height are swapped, its boxes stay "
        "where they are"
    ]
    assert not report.ok
    (line,) = report.to_dict()["placements"]["all"]
    assert line in "\n".join(report.rows())


def test_a_split_without_an_object_to_learn_is_an_error(tmp_path: Path) -> None:
    names = [put_image(tmp_path / f"{seed}.png", seed).name for seed in range(2)]
    images = [coco_image(i, name) for i, name in enumerate(names)]
    crowds = [coco_box(i, [1, 2, 3, 4], 1, iscrowd=1) for i in range(2)]
    report = check_dataset(put_text(tmp_path / "all.json", coco(images, crowds)))
    assert "all: all 2 boxes are to be ignored" in str(
        next(p for p in report.problems if p.kind == "no_objects")
    )
    assert not report.ok
    assert report.rows()[0].endswith("2 boxes (cat 2, dog 0), 2 of them to be ignored")
    empty = check_dataset(tmp_path / "all.json", empty_is_verified=True)
    assert not empty.ok
    negatives = put_text(tmp_path / "all.json", coco(images))
    assert check_dataset(negatives, empty_is_verified=True).ok  # a set of negatives is one


def split_of(root: Path, split: str, seeds: range | tuple[int, ...], shift: int = 0) -> None:
    for seed in seeds:
        put_image(root / split / f"{seed + shift}.png", seed)
    images = [coco_image(seed, f"{seed + shift}.png") for seed in seeds]
    boxes = [coco_box(seed, [1, 2, 3, 4], 1) for seed in seeds]
    text = coco(images, boxes, [{"id": 1, "name": "cat"}])
    put_text(root / split / "labels.json", text)


def repeats(report: CheckReport) -> list[tuple[str, str]]:
    wanted = ("split_same_files", "split_leak", "duplicate_images")
    return [(str(p.kind), p.reason) for p in report.problems if p.kind in wanted]


def test_a_file_in_two_splits_is_said_once_with_a_count(tmp_path: Path) -> None:
    for seed in range(6):
        put_image(tmp_path / f"{seed}.png", seed)

    def listing(*seeds: int) -> str:
        images = [coco_image(seed, f"{seed}.png") for seed in seeds]
        boxes = [coco_box(seed, [1, 2, 3, 4], 1) for seed in seeds]
        return coco(images, boxes, [{"id": 1, "name": "cat"}])

    train = put_text(tmp_path / "train.json", listing(0, 1, 2, 3))

    def against(*seeds: int) -> list[tuple[str, str]]:
        other = put_text(tmp_path / "val.json", listing(*seeds))
        report = check_dataset(train, val={"val": read_splits(other)["all"]})
        assert report.copy_pairs == 0  # a file is no copy of itself
        return repeats(report)

    assert against(0, 4, 5) == [("split_same_files", "0.png is in both all and val")]
    two = "2 files are in both all and val, the first: 0.png"
    assert against(0, 1, 5) == [("split_same_files", two)]
    assert against(0, 1) == [("split_same_files", "all 2 files of val are in all too")]
    assert against(0, 1, 2, 3) == [("split_same_files", "all and val are the same 4 files")]
    assert against(0, 1, 2, 3, 4) == [("split_same_files", "all 4 files of all are in val too")]
    assert against(4, 5) == []


def test_a_split_that_repeats_another_as_a_whole_is_one_line(tmp_path: Path) -> None:
    split_of(tmp_path, "train", range(5))
    split_of(tmp_path, "val", range(1, 4), shift=100)  # other files, the same pictures
    split_of(tmp_path, "test", (3, 9), shift=200)
    assert repeats(check_dataset(tmp_path)) == [
        ("split_same_files", "each of the 3 pictures of val has a near-copy in train"),
        ("split_leak", "near-copy in train of 103.png (val), 203.png (test)"),
    ]


def test_reading_problems_and_the_count_of_unreviewed_images_are_in_the_report(
    tmp_path: Path,
) -> None:
    for seed in range(2):
        put_image(tmp_path / f"{seed}.png", seed)
    report = check(tmp_path, "0.png", "1.png", "gone.png", boxes=False)
    assert [(p.kind, p.index) for p in report.problems] == [
        ("image_missing", 2),
        ("images_unreviewed", -1),
        ("no_objects", -1),
        ("class_empty", -1),
        ("class_empty", -1),
    ]
    assert "2 of 2 images are unreviewed" in report.problems[1].reason


def test_copies_within_a_split_warn_and_across_splits_are_errors(tmp_path: Path) -> None:
    for split, seeds in (("train", (1, 2)), ("val", (2, 3))):
        for seed in seeds:
            put_image(tmp_path / split / f"{seed}.png", seed)
        images = [coco_image(seed, f"{seed}.png") for seed in seeds]
        boxes = [coco_box(seed, [1, 2, 3, 4], 1) for seed in seeds]
        text = coco(images, boxes, [{"id": 1, "name": "cat"}])
        put_text(tmp_path / split / "labels.json", text)
    report = check_dataset(tmp_path)
    assert [(p.kind, str(p)) for p in report.problems] == [
        ("split_leak", "2.png: near-copy in train of 2.png (val)")
    ]
    assert not report.ok
    put_image(tmp_path / "train" / "1.png", 2)
    put_image(tmp_path / "val" / "2.png", 4)
    report = check_dataset(load_splits(tmp_path))
    assert [(p.kind, str(p)) for p in report.problems] == [
        ("duplicate_images", "1.png: near-copy of 2.png")
    ]
    assert report.ok


def test_the_report_is_json_and_its_rows_start_with_the_worst(tmp_path: Path) -> None:
    picture(1, SIZE).convert("CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "zero.jpg").write_bytes(b"")
    report = check(tmp_path, "cmyk.jpg", "zero.jpg")
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["ok"] is False
    assert loaded["counts"] == {"image_cmyk": 1, "image_zero_bytes": 1}
    assert [p["severity"] for p in loaded["problems"]] == ["info", "error"]
    assert report.rows()[1:] == [
        "error: 1 x image_zero_bytes",
        "  image_zero_bytes: zero.jpg: zero bytes long",
        "info: 1 x image_cmyk",
        "  image_cmyk: cmyk.jpg: CMYK colours, read as RGB",
    ]


def test_progress_and_a_dataset_in_memory(tmp_path: Path) -> None:
    for seed in range(3):
        put_image(tmp_path / f"{seed}.png", seed)
    seen: list[tuple[int, int]] = []
    report = check_dataset(load_images(tmp_path), progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert report.data == str(tmp_path)


def test_what_is_not_recognised_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled data recognised"):
        check_dataset(tmp_path)


def test_every_fault_of_coco_labels_is_named_with_its_index(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png", "d.png"]
    for seed, name in enumerate(names):
        put_image(tmp_path / name, seed)
    images = [coco_image(index, name) for index, name in enumerate(names)]
    images += [coco_image(3, "a.png"), coco_image(9, "gone.png"), coco_image(10, "../../etc/x")]
    nan, infinite = float("nan"), float("inf")
    annotations = [
        coco_box(0, [1, 2, 10, 10]),
        coco_box(0, [nan, 2, 10, 10]),
        coco_box(0, [1, 2, infinite, 10]),
        coco_box(0, [20, 2, -10, 10]),
        coco_box(0, [1, 2, 0, 10]),
        coco_box(0, [100, 2, 10, 10]),
        coco_box(0, [30, 2, 20, 10]),
        coco_box(0, [1, 2, 10, 10]),
        coco_box(0, [1, 2, 10, 10], 77),
        coco_box(55, [1, 2, 10, 10]),
        coco_box(0, [1, 2]),
    ]
    images.append(coco_image(3, "d.png") | {"file_name": "e.png"})
    put_image(tmp_path / "e.png", 5)
    report = check_dataset(put_text(tmp_path / "all.json", coco(images, annotations)))
    named = {(p.kind, p.file, p.index) for p in report.problems if p.file == "all.json"}
    assert named == {
        ("box_nan", "all.json", 1),
        ("box_infinite", "all.json", 2),
        ("box_inverted", "all.json", 3),
        ("box_empty", "all.json", 4),
        ("box_outside", "all.json", 5),
        ("box_clipped", "all.json", 6),
        ("box_repeated", "all.json", 7),
        ("class_unknown", "all.json", 8),
        ("image_id_unknown", "all.json", 9),
        ("box_malformed", "all.json", 10),
        ("file_repeated", "all.json", 4),
        ("image_missing", "all.json", 5),
        ("path_outside", "all.json", 6),
        ("image_id_repeated", "all.json", 7),
    }
    located = {p.kind: p for p in report.problems}
    assert located["box_clipped"].image == tmp_path / "a.png"
    assert located["box_clipped"].boxes == ((30.0, 2.0, 50.0, 12.0),)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert '"boxes": [[null, 2.0, null, 12.0]]' in text


def test_every_fault_of_xml_labels_is_named(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    for seed, (name, text) in enumerate(
        {
            "good": voc_xml([voc_object("cat", (1, 2, 9, 9))]),
            "bomb": bomb,
            "broken": "<annotation><object>",
            "short": voc_xml([voc_object("cat", (1, 2, 9, "x"))]),
        }.items()
    ):
        put_image(tmp_path / f"{name}.png", seed)
        put_text(tmp_path / f"{name}.xml", text)
    put_text(tmp_path / "alone.xml", voc_xml([voc_object("cat", (1, 2, 9, 9))]))
    report = check_dataset(tmp_path)
    assert {(p.kind, p.file, p.index) for p in report.problems} == {
        ("label_entities", "bomb.xml", -1),
        ("label_broken", "broken.xml", -1),
        ("box_malformed", "short.xml", 0),
        ("image_missing", "alone.xml", -1),
        ("images_unreviewed", "all", -1),
    }
    # An image that lost all its labels is not taken for a negative.
    assert report.splits["all"].states == {"labelled": 1, "unreviewed": 3}


def test_sets_that_are_only_compared_with(tmp_path: Path) -> None:
    names = [put_image(tmp_path / "data" / f"{seed}.png", seed).name for seed in range(3)]
    images = [coco_image(i, name) for i, name in enumerate(names)]
    boxes = [coco_box(i, [1, 2, 3, 4], 1 + i % 2) for i in range(3)]
    path = put_text(tmp_path / "data" / "all.json", coco(images, boxes))
    for name, seed in (("x", 2), ("y", 8), ("z", 8)):
        put_image(tmp_path / "pool" / f"{name}.png", seed)
    whole = (tmp_path / "pool" / "x.png").read_bytes()
    (tmp_path / "pool" / "cut.png").write_bytes(whole[: len(whole) // 2])
    report = check_dataset(path, against={"pool": load_images(tmp_path / "pool")})
    assert [(p.kind, p.split, p.file) for p in report.problems] == [
        ("image_truncated", "pool", "cut.png"),
        ("split_leak", "all", "2.png"),
    ]
    assert list(report.splits) == ["all"]
    assert (report.copy_pairs, report.copy_groups) == (1, 1)
    assert report.to_dict()["compared"] == {"pool": {"images": 3, "shared": 1}}  # x of x, y, z
    assert "compared with pool: 3 images, 1 is in the data too" in report.rows()


def test_a_set_that_shares_no_picture_is_named_too(tmp_path: Path) -> None:
    for folder, seeds in (("data", (1, 2)), ("pool", (3,)), ("linked", ())):
        for seed in seeds:
            put_image(tmp_path / folder / f"{seed}.png", seed)
    (tmp_path / "linked").mkdir()
    for seed in (1, 2):
        (tmp_path / "linked" / f"{seed}.png").symlink_to(tmp_path / "data" / f"{seed}.png")
    boxes = [coco_box(0, [1, 2, 3, 4])]
    label = coco([coco_image(0, "1.png"), coco_image(1, "2.png")], boxes)
    against = {name: load_images(tmp_path / name) for name in ("pool", "linked")}
    report = check_dataset(put_text(tmp_path / "data/all.json", label), against=against)
    assert [row for row in report.rows() if row.startswith("compared")] == [
        "compared with pool: 1 image, none is in the data",
        "compared with linked: 2 images, 2 are in the data too",
    ]
    assert "Compared with pool: 1 image, none is in the data." in render_check_page(report)


def test_only_some_of_many_problems_are_printed(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    boxes = [coco_box(0, [i, 1, -1, 5]) for i in range(30)] + [coco_box(0, [1, 2, 3, 4], 2)]
    report = check_dataset(put_text(tmp_path / "all.json", coco([coco_image(0, "a.png")], boxes)))
    rows = report.rows()
    assert sum(row.startswith("  box_inverted") for row in rows) == 20
    assert "  … 10 more (--json and --html list all)" in rows
    assert len(report.to_dict()["problems"]) >= 30


@pytest.mark.data
@pytest.mark.parametrize(("name", "pairs", "groups"), [("raccoon", 8, 6), ("cards", 6, 6)])
def test_the_known_near_copies_are_found(name: str, pairs: int, groups: int) -> None:
    if not (real_data() / name).is_dir():
        pytest.skip(f"no real data at {real_data()} (HARDMINE_DATA)")
    report = check_dataset(real_data() / name)
    assert (report.copy_pairs, report.copy_groups) == (pairs, groups)
    assert not any(verdict.doubtful for verdict in report.forms.values())
    assert report.ok
    assert sum(report.grey.values()) == (3 if name == "raccoon" else 0)
