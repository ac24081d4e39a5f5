from __future__ import annotations

from pathlib import Path

import pytest

from data_files import coco, coco_box, coco_image, put_image, put_text, states, voc_object, voc_xml
from hardmine.data.formats.format_table import READ
from hardmine.data.formats.label_format import split_of
from hardmine.data.load_dataset import load_dataset, load_splits, passed_over, read_splits
from hardmine.errors import DataError
from hardmine.types import ImageState

XML = voc_xml([voc_object("cat", (1, 2, 30, 20))])
LINE = "0 0.5 0.5 0.1 0.1\n"


def one_coco(name: str) -> str:
    return coco([coco_image(1, name)], [coco_box(1, [1, 2, 3, 4])])


def test_nothing_recognised_lists_what_was_looked_for(tmp_path: Path) -> None:
    put_image(tmp_path / "deep" / "a.jpg")
    with pytest.raises(DataError, match=r"no labelled data recognised \(1 image below it\)") as got:
        load_splits(tmp_path)
    assert all(row.recognised_by.replace("`", "") in str(got.value) for row in READ)
    assert "\n" not in str(got.value)
    assert "below it); images without labels can be a pool ('hardmine mine" in str(got.value)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"\(0 images below it\); looked for"):
        load_splits(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "filename,class,x,y,width,height\n", "a.csv: first line 'filename,class,x"),
        ("a.json", "[1]", r"a.json: not a COCO file \(got list"),
        ("a.json", "{}{}", "a.json: cannot be read as JSON"),
    ],
)
def test_nothing_recognised_says_what_is_wrong_with_a_file_of_labels(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / name, text)
    with pytest.raises(DataError, match=reason):
        load_splits(tmp_path)


def test_a_path_that_is_not_there_and_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_splits(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"got a \.md file"):
        load_splits(put_text(tmp_path / "README.md", "x"))
    with pytest.raises(DataError, match="wanted the folder of images"):
        load_splits(tmp_path, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_train2017", "train"),
        ("Validation", "val"),
        ("valid", "val"),
        ("my-test-set", "test"),
        ("constraints", None),
        ("contest", None),
        ("instances_default", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_coco_as_the_challenge_lays_it_out(tmp_path: Path) -> None:
    for split in ("val", "train"):
        put_image(tmp_path / f"{split}2017" / "1.jpg")
        put_text(tmp_path / "annotations" / f"instances_{split}2017.json", one_coco("1.jpg"))
        put_text(tmp_path / "annotations" / f"captions_{split}2017.json", one_coco("1.jpg"))
    splits = load_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert splits["val"].records[0].path == tmp_path / "val2017" / "1.jpg"


def test_coco_with_a_file_in_each_split_folder(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        put_image(tmp_path / split / "1.jpg")
        put_text(tmp_path / split / "_annotations.coco.json", one_coco("1.jpg"))
    assert list(load_splits(tmp_path)) == ["train", "val", "test"]


def test_two_coco_files_for_one_split_are_ambiguous(tmp_path: Path) -> None:
    put_image(tmp_path / "1.jpg")
    for name in ("train_a.json", "train_b.json"):
        put_text(tmp_path / name, one_coco("1.jpg"))
    with pytest.raises(DataError, match=r"several COCO files for 'train' \(train_a.json, train_b"):
        load_splits(tmp_path)


def test_other_json_files_are_not_taken_for_coco(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / "a.xml", XML)
    put_text(tmp_path / "notes.json", '{"images": {"a.jpg": 1}}')
    assert states(load_dataset(tmp_path)) == {"a.jpg": ImageState.LABELLED}


def test_split_folders_of_any_format(tmp_path: Path) -> None:
    put_image(tmp_path / "train" / "a.jpg", 1)
    put_text(tmp_path / "train" / "a.xml", XML)
    put_image(tmp_path / "test" / "images" / "b.jpg", 2)
    put_text(tmp_path / "test" / "annotations" / "b.xml", XML)
    put_image(tmp_path / "other" / "c.jpg", 3)
    splits = load_splits(tmp_path)
    assert {name: list(states(ds)) for name, ds in splits.items()} == {
        "train": ["a.jpg"],
        "test": ["b.jpg"],
    }


def test_a_split_folder_without_labels_is_left_out_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_image(tmp_path / "train" / "a.jpg", 1)
    put_text(tmp_path / "train" / "a.xml", XML)
    put_image(tmp_path / "test" / "b.jpg", 2)
    assert list(load_splits(tmp_path)) == ["train"]
    assert "no labels recognised, left out" in caplog.text


def test_split_folders_inside_images_and_labels(tmp_path: Path) -> None:
    for split in ("val", "train"):
        put_image(tmp_path / "images" / split / "a.jpg")
        put_text(tmp_path / "labels" / split / "a.txt", LINE)
    assert {n: len(d) for n, d in load_splits(tmp_path).items()} == {"train": 1, "val": 1}


def test_folders_inside_images_that_are_no_splits(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        put_image(tmp_path / "images" / camera / "a.jpg")
        put_text(tmp_path / "labels" / camera / "a.txt", LINE)
    dataset = load_dataset(tmp_path)
    assert [r.state for r in dataset.records] == [ImageState.LABELLED] * 2


@pytest.mark.parametrize(
    ("name", "text"), [("a.xml", XML), ("a.txt", LINE), ("any.json", one_coco("a.jpg"))]
)
def test_labels_whose_images_are_elsewhere(tmp_path: Path, name: str, text: str) -> None:
    put_image(tmp_path / "pictures" / "a.jpg")
    put_text(tmp_path / "labels" / name, text)
    dataset = load_dataset(tmp_path / "labels", images=tmp_path / "pictures")
    assert states(dataset) == {"a.jpg": ImageState.LABELLED}
    assert dataset.problems == ()


def test_paths_are_absolute_however_the_data_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(tmp_path / "set" / "a.jpg")
    put_text(tmp_path / "set" / "a.xml", XML)
    monkeypatch.chdir(tmp_path)
    named = [load_dataset(name) for name in ("set", "./x/../set", tmp_path / "set")]
    assert {dataset.records[0].path for dataset in named} == {tmp_path / "set" / "a.jpg"}
    assert len({dataset.fingerprint for dataset in named}) == 1


def test_sources_with_different_class_lists_share_one(tmp_path: Path) -> None:
    for split, name in (("train", "dog"), ("val", "cat")):
        put_image(tmp_path / split / "a.jpg")
        put_text(tmp_path / split / "a.xml", voc_xml([voc_object(name, (1, 2, 30, 20))]))
    splits = load_splits(tmp_path)
    assert {ds.categories for ds in splits.values()} == {("cat", "dog")}
    assert splits["train"].records[0].labels.tolist() == [2]
    assert splits["val"].records[0].labels.tolist() == [1]


@pytest.mark.parametrize("labels", ["annots", "Annotation", "xml files", "bounding_boxes"])
@pytest.mark.parametrize("images", ["images", "photos", "Images"])
def test_labels_in_a_folder_of_any_name(tmp_path: Path, images: str, labels: str) -> None:
    put_image(tmp_path / images / "a.jpg")
    put_text(tmp_path / labels / "a.xml", XML)
    (tmp_path / "models").mkdir()
    dataset = load_dataset(tmp_path)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED}
    assert dataset.problems == ()


def test_coco_as_fiftyone_exports_it(tmp_path: Path) -> None:
    put_image(tmp_path / "data" / "a.jpg")
    put_text(tmp_path / "labels.json", one_coco("a.jpg"))
    assert load_dataset(tmp_path).records[0].path == tmp_path / "data" / "a.jpg"


def test_formats_of_one_suffix_are_told_apart(tmp_path: Path) -> None:
    """Among other files of the same suffix, each is read by its own format."""
    put_image(tmp_path / "a.jpg")
    box = '{"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}'
    put_text(tmp_path / "a.json", f'{{"shapes": [{box}], "imagePath": "a.jpg"}}')
    put_text(tmp_path / "notes.json", "{}")
    assert load_dataset(tmp_path).categories == ("cat",)
    put_text(tmp_path / "all.json", one_coco("a.jpg"))
    assert load_dataset(tmp_path).categories == ("cat", "dog")  # one file for all counts first


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        put_image(tmp_path / "images" / name, seed)
    put_text(tmp_path / "train.json", one_coco("a.jpg"))
    for stem in "abc":
        put_text(tmp_path / "labels" / f"{stem}.txt", LINE)
    put_text(tmp_path / "README.txt", "read me")
    said = [(p.kind, p.file, p.reason) for p in passed_over(tmp_path, read_splits(tmp_path))]
    assert said == [
        ("images_not_read", "images/b.jpg", "2 images are in no split (here the first)"),
        (
            "labels_not_read",
            "labels/a.txt",
            "3 files look like YOLO labels and are not read (here the first)",
        ),
    ]
    assert passed_over(tmp_path / "train.json", read_splits(tmp_path)) == []


def test_nothing_is_said_where_all_was_read(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.jpg")
    put_text(tmp_path / "labels" / "a.txt", LINE)
    put_text(tmp_path / "classes.txt", "cat\n")
    assert passed_over(tmp_path, read_splits(tmp_path)) == []


def test_classes_that_differ_in_capital_letters_only(tmp_path: Path) -> None:
    for seed, name in enumerate(("Cat", "cat", "dog")):
        put_image(tmp_path / f"{seed}.jpg", seed)
        put_text(tmp_path / f"{seed}.xml", voc_xml([voc_object(name, (1, 2, 30, 20))]))
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("Cat", "cat", "dog")
    assert [p.kind for p in dataset.problems] == ["class_names_alike"]
    assert "'Cat' and 'cat' differ in capital letters only" in dataset.problems[0].reason


def test_voc_data_keep_their_splits_and_states_where_the_images_lie_elsewhere(
    tmp_path: Path,
) -> None:
    for seed, stem in enumerate("ab"):
        put_image(tmp_path / "pictures" / f"{stem}.jpg", seed)
        put_text(tmp_path / "data" / "Annotations" / f"{stem}.xml", XML)
    put_text(tmp_path / "data" / "ImageSets" / "Main" / "train.txt", "a\n")
    put_text(tmp_path / "data" / "ImageSets" / "Main" / "val.txt", "b\n")
    marks = '{"images": {"b.jpg": {"state": "ignored"}}}'
    put_text(tmp_path / "data" / "Annotations" / "hardmine.json", marks)
    found = load_splits(tmp_path / "data", images=tmp_path / "pictures")
    assert {name: states(dataset) for name, dataset in found.items()} == {
        "train": {"a.jpg": ImageState.LABELLED},
        "val": {"b.jpg": ImageState.IGNORED},
    }


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize(
    ("folder", "text"),
    [("labels", LINE), ("label_2", f"cat 0 0 0 1 2 30 20 {'0 ' * 7}\n")],
)
def test_the_labels_folder_of_a_data_set_whose_images_lie_elsewhere(
    tmp_path: Path, split: str, folder: str, text: str
) -> None:
    put_image(tmp_path / "pictures" / f"{split}a.jpg")
    put_text(tmp_path / "data" / folder / f"{split}a.txt", text)
    put_text(tmp_path / "data" / "classes.txt", "cat\n")
    ((name, dataset),) = load_splits(tmp_path / "data", images=tmp_path / "pictures").items()
    assert name == split.strip("/") or name == "all"
    assert (states(dataset), dataset.problems) == ({"a.jpg": ImageState.LABELLED}, ())
    assert dataset.categories == ("cat",)
