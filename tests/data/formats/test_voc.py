from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states, voc_object, voc_xml
from hardmine.data.load_dataset import load_dataset, load_splits
from hardmine.types import ImageState


def cat(*box: object) -> str:
    return voc_object("cat", box)


def beside(root: Path, **xml_by_stem: str) -> None:
    """Put an image and an XML file for each name."""
    for seed, (stem, xml) in enumerate(xml_by_stem.items()):
        put_image(root / f"{stem}.jpg", seed)
        put_text(root / f"{stem}.xml", xml)


def test_boxes_are_taken_as_written(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20), voc_object("dog", (3, 4, 5.5, 6), 1)]))
    dataset = load_dataset(tmp_path)
    record = dataset.records[0]
    assert dataset.categories == ("cat", "dog")
    assert (record.width, record.height) == (40, 30)
    np.testing.assert_array_equal(record.boxes, [[1, 2, 30, 20], [3, 4, 5.5, 6]])
    assert record.labels.tolist() == [1, 2]
    assert record.ignore.tolist() == [False, True]


def test_the_challenge_itself_counts_from_one(tmp_path: Path) -> None:
    extra = "<source><annotation>PASCAL VOC2007</annotation></source>"
    beside(tmp_path, a=voc_xml([cat(1, 1, 40, 30)], extra=extra))
    # 1-based with the last pixel included: the whole image of 40 x 30 is 1, 1, 40, 30
    np.testing.assert_array_equal(load_dataset(tmp_path).records[0].boxes, [[0, 0, 40, 30]])


def test_no_xml_is_unreviewed_and_an_empty_one_is_verified(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20)]), b=voc_xml())
    put_image(tmp_path / "c.jpg", 9)
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {
        "a.jpg": ImageState.LABELLED,
        "b.jpg": ImageState.VERIFIED_EMPTY,
        "c.jpg": ImageState.UNREVIEWED,
    }
    assert dataset.problems == ()
    trusting = load_dataset(tmp_path, empty_is_verified=True)
    assert states(trusting)["c.jpg"] is ImageState.VERIFIED_EMPTY


def test_pairs_by_stem_whatever_filename_and_suffix_say(tmp_path: Path) -> None:
    put_image(tmp_path / "IMG_1.jpg").rename(tmp_path / "IMG_1.JPG")
    xml = voc_xml(
        [cat(1, 2, 30, 20)], filename="IMG_1.jpeg", extra=r"<path>C:\cards\train\IMG_1.JPG</path>"
    )
    put_text(tmp_path / "IMG_1.xml", xml)
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {"IMG_1.JPG": ImageState.LABELLED}
    assert dataset.problems == ()


def test_filename_helps_where_no_stem_fits(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "photo.png")
    xml = voc_xml([cat(1, 2, 30, 20)], filename="photo.png")
    put_text(tmp_path / "annotations" / "0001.xml", xml)
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {"photo.png": ImageState.LABELLED}


def test_a_second_xml_for_one_image_is_left_out_and_named(tmp_path: Path) -> None:
    beside(tmp_path, b=voc_xml([cat(1, 2, 30, 20)], filename="b.jpg"))
    put_text(tmp_path / "a.xml", voc_xml([cat(3, 4, 5, 6)], filename="b.jpg"))
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file) for p in dataset.problems] == [("label_ambiguous", "a.xml")]
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 2, 30, 20]])


def test_sister_folders_pair_by_path_below_them(tmp_path: Path) -> None:
    for seed, camera in enumerate(("cam1", "cam2")):
        put_image(tmp_path / "images" / camera / "0042.jpg", seed)
        box = cat(1, 2, 10 + seed, 20)
        put_text(tmp_path / "Annotations" / camera / "0042.xml", voc_xml([box]))
    dataset = load_dataset(tmp_path)
    assert [record.path.parent.name for record in dataset.records] == ["cam1", "cam2"]
    assert [record.boxes[0, 2] for record in dataset.records] == [10, 11]


def test_a_filename_outside_the_root_is_not_followed(tmp_path: Path) -> None:
    put_image(tmp_path / "secret.jpg", 1)
    beside(tmp_path / "data", a=voc_xml([cat(1, 2, 30, 20)]))
    for stem, name in (("b", "../secret.jpg"), ("c", str(tmp_path / "secret.jpg"))):
        put_text(tmp_path / "data" / f"{stem}.xml", voc_xml([cat(1, 2, 3, 4)], filename=name))
    dataset = load_dataset(tmp_path / "data")
    assert list(states(dataset)) == ["a.jpg"]
    assert kinds(dataset) == ["path_outside", "path_outside"]
    assert "secret.jpg" in dataset.problems[0].reason
    assert dataset.problems[0].file == "b.xml"


def test_a_label_without_its_image_is_named(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20)]))
    put_text(tmp_path / "lost.xml", voc_xml([cat(1, 2, 3, 4)], filename="lost.jpg"))
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file) for p in dataset.problems] == [("image_missing", "lost.xml")]
    assert len(dataset) == 1


def test_broken_xml_costs_that_image_only_and_makes_no_negative(tmp_path: Path) -> None:
    beside(
        tmp_path,
        bad="<annotation><object>",
        empty="",
        good=voc_xml([cat(1, 2, 30, 20)]),
        html="<html></html>",
    )
    dataset = load_dataset(tmp_path)
    assert kinds(dataset) == ["label_broken"] * 3
    assert "wanted <annotation>" in dataset.problems[2].reason
    assert states(dataset) == {
        "bad.jpg": ImageState.UNREVIEWED,
        "empty.jpg": ImageState.UNREVIEWED,
        "good.jpg": ImageState.LABELLED,
        "html.jpg": ImageState.UNREVIEWED,
    }
    assert (by_name(dataset)["bad.jpg"].width, by_name(dataset)["bad.jpg"].height) == (40, 30)


def test_entity_bombs_and_external_entities_are_refused(tmp_path: Path) -> None:
    put_text(tmp_path / "secret.txt", "42")
    bomb = (
        '<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;&x;&x;">]>'
        "<annotation><filename>&y;</filename></annotation>"
    )
    outside = (
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>'
        "<annotation><filename>&x;</filename></annotation>"
    )
    beside(tmp_path, bomb=bomb, good=voc_xml([cat(1, 2, 30, 20)]), outside=outside)
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file) for p in dataset.problems] == [
        ("label_entities", "bomb.xml"),
        ("label_entities", "outside.xml"),
    ]
    assert states(dataset)["bomb.jpg"] is ImageState.UNREVIEWED
    assert states(dataset)["good.jpg"] is ImageState.LABELLED


def test_an_object_without_numbers_is_named_by_its_index(tmp_path: Path) -> None:
    objects = [cat(1, 2, 30, 20), cat(1, "two", 3, 4), "<object><name>cat</name></object>"]
    beside(tmp_path, a=voc_xml(objects))
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file, p.index) for p in dataset.problems] == [
        ("box_malformed", "a.xml", 1),
        ("box_malformed", "a.xml", 2),
    ]
    assert len(dataset.records[0].boxes) == 1


def test_bad_boxes_are_named_with_file_and_index(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20), cat(25, 2, 12, 20), cat("nan", 1, 2, 3)]))
    dataset = load_dataset(tmp_path)
    assert [str(p) for p in dataset.problems] == [
        "a.xml[1]: xmax 12 < xmin 25",
        "a.xml[2]: box nan 1 2 3 is not a number",
    ]


def test_a_missing_size_is_read_from_the_image(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20)], size=(0, 0)))
    record = load_dataset(tmp_path).records[0]
    assert (record.width, record.height) == (40, 30)


def test_two_images_of_one_stem_filename_decides(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg", 1)
    put_image(tmp_path / "a.png", 2)
    put_text(tmp_path / "a.xml", voc_xml([cat(1, 2, 30, 20)], filename="a.png"))
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {"a.jpg": ImageState.UNREVIEWED, "a.png": ImageState.LABELLED}
    assert kinds(dataset) == ["label_ambiguous"]


def devkit(root: Path, lists: dict[str, str]) -> None:
    for seed, stem in enumerate(("a", "b", "c")):
        put_image(root / "JPEGImages" / f"{stem}.jpg", seed)
        name = "dog" if stem == "c" else "cat"
        xml = voc_xml([voc_object(name, (1, 2, 30, 20))])
        put_text(root / "Annotations" / f"{stem}.xml", xml)
    for name, text in lists.items():
        put_text(root / "ImageSets" / "Main" / f"{name}.txt", text)


def test_devkit_splits_share_one_class_list(tmp_path: Path) -> None:
    devkit(
        tmp_path,
        {"train": "a\nb\n", "val": "c\n", "trainval": "a\nb\nc\n", "cat_train": "a  1\nb -1\n"},
    )
    splits = load_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert list(states(splits["train"])) == ["a.jpg", "b.jpg"]
    assert splits["val"].categories == splits["train"].categories == ("cat", "dog")
    assert splits["val"].records[0].labels.tolist() == [2]


def test_a_list_that_names_a_missing_image(tmp_path: Path) -> None:
    devkit(tmp_path, {"train": "a\nnowhere\n", "test": "b\n"})
    splits = load_splits(tmp_path)
    assert kinds(splits["train"]) == ["image_missing"]
    assert splits["train"].problems[0].file == "ImageSets/Main/train.txt"
    assert "nowhere" in splits["train"].problems[0].reason
    assert list(states(splits["train"])) == ["a.jpg"]


def test_a_devkit_without_lists_is_one_dataset(tmp_path: Path) -> None:
    devkit(tmp_path, {})
    assert {name: len(ds) for name, ds in load_splits(tmp_path).items()} == {"all": 3}


def test_given_categories_decide_labels_and_reject_others(tmp_path: Path) -> None:
    devkit(tmp_path, {})
    dataset = load_dataset(tmp_path, categories=["dog"])
    assert kinds(dataset) == ["class_unknown"] * 2
    assert [record.labels.tolist() for record in dataset.records] == [[], [], [1]]
    assert states(dataset)["a.jpg"] is ImageState.UNREVIEWED


@pytest.mark.parametrize(
    ("flag", "ignored", "found"),
    [
        ("0", False, []),
        ("1", True, []),
        ("Unspecified", False, []),
        ("false", False, []),
        ("True", True, []),
        ("", False, []),
        ("hard", False, ["flag_unknown"]),
    ],
)
def test_difficult_is_read_by_its_meaning(
    tmp_path: Path, flag: str, ignored: bool, found: list[str]
) -> None:
    item = cat(1, 2, 30, 20).replace("<difficult>0<", f"<difficult>{flag}<")
    beside(tmp_path, a=voc_xml([item]), b=voc_xml([item]))
    dataset = load_dataset(tmp_path)
    assert [r.ignore.tolist() for r in dataset.records] == [[ignored], [ignored]]
    assert kinds(dataset) == found  # once for both
    assert all("(2 times, here first)" in p.reason for p in dataset.problems)


def test_an_object_without_a_name_is_no_class(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20), voc_object(" ", (1, 2, 3, 4))]))
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("cat",)
    assert [(p.kind, p.index) for p in dataset.problems] == [("class_unknown", 1)]


def test_suffixes_capitals_accents_and_encodings_pair(tmp_path: Path) -> None:
    apart, joined = (unicodedata.normalize(form, "käse") for form in ("NFD", "NFC"))
    for seed, stem in enumerate((apart, "IMG_1", "c")):
        put_image(tmp_path / f"{stem}.jpg", seed)
    (tmp_path / f"{joined}.XML").write_bytes(voc_xml([cat(1, 2, 30, 20)]).encode("utf-8-sig"))
    put_text(tmp_path / "img_1.xml", voc_xml([cat(1, 2, 30, 20)]))
    text = '<?xml version="1.0" encoding="latin-1"?>' + voc_xml(
        [voc_object("käse", (1, 2, 30, 20))]
    )
    (tmp_path / "c.xml").write_bytes(text.encode("latin-1"))
    dataset = load_dataset(tmp_path)
    assert set(states(dataset).values()) == {ImageState.LABELLED}
    assert dataset.categories == ("cat", "käse")
    assert kinds(dataset) == ["image_found_otherwise"]
    assert "capital letters" in dataset.problems[0].reason


def test_xml_of_another_encoding_than_it_says_is_named(tmp_path: Path) -> None:
    beside(tmp_path, a=voc_xml([cat(1, 2, 30, 20)]), b="")
    (tmp_path / "b.xml").write_bytes(voc_xml([voc_object("käse", (1, 2, 3, 4))]).encode("latin-1"))
    dataset = load_dataset(tmp_path)
    assert [(p.kind, p.file) for p in dataset.problems] == [("label_encoding", "b.xml")]
    assert states(dataset)["b.jpg"] is ImageState.UNREVIEWED
    assert dataset.categories == ("cat",)


def only(root: Path, item: str) -> tuple[list[list[float]], list[str]]:
    put_image(root / "0.jpg")
    put_text(root / "0.xml", voc_xml([f"<object><name>cat</name>{item}</object>"]))
    data = load_dataset(root)
    return data.records[0].boxes.tolist(), [p.reason for p in data.problems]


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>20</xmax><ymax>10</ymax></bndbox>"


def test_of_two_boxes_of_one_object_none_is_chosen(tmp_path: Path) -> None:
    boxes, said = only(tmp_path / "two", BOX.format(1) + BOX.format(5))
    assert boxes == []
    assert "2 different <bndbox>" in said[0]
    assert only(tmp_path / "same", BOX.format(1) * 2) == ([[1, 2, 20, 10]], [])


def test_a_turned_box_and_an_outline_give_the_box_around_them(tmp_path: Path) -> None:
    # 20 x 10 about (20, 15), turned by a right angle.
    turned = "<cx>20</cx><cy>15</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle>"
    assert only(tmp_path / "a", f"<robndbox>{turned}</robndbox>")[0][0] == pytest.approx(
        [15, 5, 25, 25]
    )
    pairs = "<x1>4</x1><y1>6</y1><x2>20</x2><y2>5</y2><x3>9</x3><y3>22</y3>"
    assert only(tmp_path / "b", f"<polygon>{pairs}</polygon>")[0] == [[4, 5, 20, 22]]
    nested = "<username>x</username><pt><x>4</x><y>6</y></pt><pt><x>20</x><y>22</y></pt>"
    assert only(tmp_path / "c", f"<polygon>{nested}</polygon>")[0] == [[4, 6, 20, 22]]
    boxes, said = only(tmp_path / "d", "<polygon></polygon>")
    assert boxes == []
    assert "lacks numbers" in said[0]


@pytest.mark.parametrize(
    ("deleted", "boxes"), [("1", []), ("0", [[1, 2, 20, 10]]), ("", [[1, 2, 20, 10]])]
)
def test_what_was_deleted_in_labelmes_web_version_is_no_object(
    tmp_path: Path, deleted: str, boxes: list[list[float]]
) -> None:
    item = f"<deleted>{deleted}</deleted>{BOX.format(1)}"
    assert only(tmp_path, item) == (boxes, [])


@pytest.mark.parametrize(
    "line", ["a", "a  1", "a.jpg", "./JPEGImages/a.jpg", "JPEGImages\\a.jpg -1"]
)
def test_a_list_may_name_endings_and_folders(tmp_path: Path, line: str) -> None:
    for seed, stem in enumerate("ab"):
        put_image(tmp_path / "JPEGImages" / f"{stem}.jpg", seed)
        put_text(tmp_path / "Annotations" / f"{stem}.xml", voc_xml([cat(1, 2, 30, 20)]))
    put_text(tmp_path / "ImageSets" / "Main" / "train.txt", f"{line}\n")
    train = load_splits(tmp_path)["train"]
    assert states(train) == {"a.jpg": ImageState.LABELLED}
    assert train.problems == ()


def test_labels_may_keep_the_ending_of_the_picture(tmp_path: Path) -> None:
    put_image(tmp_path / "JPEGImages" / "x" / "a.jpg")
    put_text(tmp_path / "Annotations" / "x" / "a.jpg.xml", voc_xml([cat(1, 2, 30, 20)]))
    (tmp_path / "JPEGImages" / "a").mkdir()  # no image
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED}
    assert dataset.problems == ()
