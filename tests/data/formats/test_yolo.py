from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.formats.yolo import parse_line
from hardmine.data.load_dataset import load_dataset, load_splits
from hardmine.errors import DataError
from hardmine.types import ImageState

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"


def put(root: Path, split: str, labels: dict[str, str | None]) -> None:
    """Put an image for each name, and its label file unless that is None."""
    for seed, (stem, text) in enumerate(labels.items()):
        put_image(root / "images" / split / f"{stem}.jpg", seed)
        if text is not None:
            put_text(root / "labels" / split / f"{stem}.txt", text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "train", {"a": "1 0.5 0.5 0.5 0.2\n0 0.25 0.5 0.1 0.1\n", "b": "", "c": None})
    put(tmp_path, "val", {"d": "0 0.5 0.5 1 1\n"})
    put_text(tmp_path / "data.yaml", YAML)
    return tmp_path


def test_boxes_and_states(root: Path) -> None:
    splits = load_splits(root)
    assert list(splits) == ["train", "val"]
    train = splits["train"]
    assert train.categories == ("cat", "dog")
    assert states(train) == {
        "a.jpg": ImageState.LABELLED,
        "b.jpg": ImageState.VERIFIED_EMPTY,
        "c.jpg": ImageState.UNREVIEWED,
    }
    # of 40 x 30: centre 20 15, size 20 x 6; centre 10 15, size 4 x 3
    expected = [[10, 12, 30, 18], [8, 13.5, 12, 16.5]]
    np.testing.assert_allclose(by_name(train)["a.jpg"].boxes, expected, atol=1e-5)
    assert by_name(train)["a.jpg"].labels.tolist() == [2, 1]
    np.testing.assert_array_equal(splits["val"].records[0].boxes, [[0, 0, 40, 30]])
    assert train.problems == ()


def test_a_missing_label_file_can_be_trusted_on_request(root: Path) -> None:
    train = load_splits(root / "data.yaml", empty_is_verified=True)["train"]
    assert states(train)["c.jpg"] is ImageState.VERIFIED_EMPTY


def test_one_split_by_name(root: Path) -> None:
    assert list(states(load_dataset(root, split="val"))) == ["d.jpg"]
    with pytest.raises(DataError, match="has the splits train, val; none was chosen"):
        load_dataset(root)
    with pytest.raises(DataError, match="has the splits train, val; not 'test'"):
        load_dataset(root, split="test")


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("0 0.5 0.5 0.1", "box_malformed", "got 4"),
        ("0 0.5 0.5 0.1 0.1 0.9", "box_malformed", "got 6"),
        ("cat 0.5 0.5 0.1 0.1", "box_malformed", "wanted 'class cx cy w h'"),
        ("0.5 0.5 0.5 0.1 0.1", "box_malformed", "whole number"),
        ("nan 0.5 0.5 0.1 0.1", "box_malformed", "whole number"),
        ("2 0.5 0.5 0.1 0.1", "class_unknown", "class 2, wanted 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class_unknown", "class -1, wanted 0 to 1"),
        ("0 nan 0.5 0.1 0.1", "box_nan", "not a number"),
        ("0 0.5 0.5 inf 0.1", "box_infinite", "box -inf 13.5 inf 16.5 is infinite"),
        ("0 0.5 0.5 -0.1 0.1", "box_inverted", "xmax 18 < xmin 22"),
        ("0 0.5 0.5 0 0.1", "box_empty", "xmax 20 = xmin 20"),
        ("0 20 15 4 3", "box_outside", "lies outside the image of 40 x 30"),
        ("0 0.9 0.5 0.4 0.1", "box_clipped", "clipped to the image of 40 x 30"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_goes_on(
    root: Path, line: str, kind: str, reason: str
) -> None:
    put_text(root / "labels/train/a.txt", f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    train = load_splits(root)["train"]
    assert [(p.kind, p.file, p.index) for p in train.problems] == [(kind, "labels/train/a.txt", 2)]
    assert reason in train.problems[0].reason
    assert len(by_name(train)["a.jpg"].boxes) == (2 if kind == "box_clipped" else 1)


def test_an_image_whose_only_line_is_bad_is_no_negative(root: Path) -> None:
    put_text(root / "labels/train/a.txt", "nonsense\n")
    assert states(load_splits(root)["train"])["a.jpg"] is ImageState.UNREVIEWED


def test_a_label_file_of_white_space_is_an_empty_one(root: Path) -> None:
    put_text(root / "labels/train/a.txt", " \n\n")
    assert states(load_splits(root)["train"])["a.jpg"] is ImageState.VERIFIED_EMPTY


def test_a_label_without_its_image_is_named(root: Path) -> None:
    put_text(root / "labels/train/lost.txt", "0 0.5 0.5 0.1 0.1\n")
    train = load_splits(root)["train"]
    assert [(p.kind, p.file) for p in train.problems] == [
        ("image_missing", "labels/train/lost.txt")
    ]


def test_unreadable_images_are_named_and_left_out(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"")
    (root / "images/train/b.jpg").write_text("not an image")
    train = load_splits(root)["train"]
    assert [(p.kind, p.file) for p in train.problems] == [
        ("image_zero_bytes", "images/train/a.jpg"),
        ("image_not_image", "images/train/b.jpg"),
    ]
    assert list(states(train)) == ["c.jpg"]


def test_two_images_that_share_a_label_file(root: Path) -> None:
    put_image(root / "images/train/a.png", 7)
    train = load_splits(root)["train"]
    assert kinds(train) == ["label_ambiguous"]
    assert "a.jpg and a.png" in train.problems[0].reason


def test_outlines_give_their_bounding_box() -> None:
    assert parse_line("3 0.1 0.2 0.5 0.1 0.4 0.6") == (3, (0.1, 0.1, 0.5, 0.6))


def test_names_may_be_a_mapping_and_train_a_list_of_folders(root: Path) -> None:
    put(root, "more", {"e": "1 0.5 0.5 0.1 0.1\n"})
    text = "train: [images/train, images/more]\nnames: {1: dog, 0: cat}\n"
    put_text(root / "data.yaml", text)
    dataset = load_dataset(root)
    assert dataset.categories == ("cat", "dog")
    assert list(states(dataset)) == ["a.jpg", "b.jpg", "c.jpg", "e.jpg"]
    assert by_name(dataset)["e.jpg"].labels.tolist() == [2]


def test_train_may_be_a_list_file_that_stays_in_the_root(root: Path) -> None:
    secret = put_image(root.parent / f"{root.name}-secret.jpg")
    lines = ["./images/train/a.jpg", f"../{secret.name}", str(secret), "images/train/gone.jpg"]
    put_text(root / "train.txt", "\n".join([*lines, str(root / "images/val/d.jpg")]))
    put_text(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    dataset = load_dataset(root)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED, "d.jpg": ImageState.LABELLED}
    assert [(p.kind, p.file, p.index) for p in dataset.problems] == [
        ("path_outside", "train.txt", 1),
        ("path_outside", "train.txt", 2),
        ("image_missing", "train.txt", 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "cannot be read as YAML"),
        ("- a\n", "got list, wanted keys"),
        ("train: images/train\n", "names is None"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "keys \\[0, 2\\], wanted 0, 1"),
        ("names: [cat]\n", "none of train, val, test"),
        ("train: nowhere\nnames: [cat]\n", "none of train, val, test"),
        ("train: 3\nnames: [cat]\n", "train is 3, wanted a path"),
        ("train: ../..\nnames: [cat]\n", "outside"),
        ("train: /\nnames: [cat]\n", "outside"),
        ("train: !!python/object/apply:os.system ['true']\nnames: [cat]\n", "cannot be read"),
    ],
)
def test_a_bad_yaml_is_one_clear_line(root: Path, text: str, message: str) -> None:
    put_text(root / "data.yaml", text)
    with pytest.raises(DataError, match=message) as caught:
        load_splits(root)
    assert str(root / "data.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_linked_folder_out_of_the_root_is_refused(root: Path) -> None:
    other = root.parent / f"{root.name}-other"
    put_image(other / "x.jpg")
    (root / "images" / "linked").symlink_to(other)
    put_text(root / "data.yaml", "train: images/linked\nnames: [cat]\n")
    with pytest.raises(DataError, match="outside"):
        load_splits(root)


def test_a_path_that_is_not_here_falls_back_to_the_yaml(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_text(root / "data.yaml", YAML.replace("path: .", "path: ../datasets/pets"))
    assert list(load_splits(root)) == ["train", "val"]
    assert "datasets/pets is not here" in caplog.text


def test_exports_that_write_dot_dot_for_their_own_folder(tmp_path: Path) -> None:
    put_image(tmp_path / "train/images/a.jpg")
    put_text(tmp_path / "train/labels/a.txt", "0 0.5 0.5 0.1 0.1\n")
    put_text(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    assert states(load_dataset(tmp_path)) == {"a.jpg": ImageState.LABELLED}


def test_folders_without_yaml_take_names_from_classes_txt(tmp_path: Path) -> None:
    put(tmp_path, "", {"a": "1 0.5 0.5 0.1 0.1\n", "b": None})
    unnamed = load_dataset(tmp_path)
    assert unnamed.categories == ("0", "1")
    put_text(tmp_path / "classes.txt", "cat\ndog\n")
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("cat", "dog")
    assert states(dataset) == {"a.jpg": ImageState.LABELLED, "b.jpg": ImageState.UNREVIEWED}


def test_an_absurd_class_number_makes_no_endless_class_list(tmp_path: Path) -> None:
    put(tmp_path, "", {"a": "0 0.5 0.5 0.1 0.1\n1e9 0.5 0.5 0.1 0.1\n"})
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("0",)
    assert kinds(dataset) == ["class_unknown"]


def test_labels_beside_the_images(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    put_text(tmp_path / "classes.txt", "cat\n")
    put_text(tmp_path / "README.txt", "about this data\n")
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("cat",)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED}
    assert dataset.problems == ()


def test_a_broken_side_file_is_named(root: Path) -> None:
    put_text(root / "labels/train/hardmine.json", "{")
    assert kinds(load_splits(root)["train"]) == ["states_broken"]
    text = '{"images": {"a.jpg": {"state": "x"}, "c.jpg": {"state": "assumed_empty"}, "b.jpg": 3}}'
    put_text(root / "labels/train/hardmine.json", text)
    train = load_splits(root)["train"]
    assert [(p.kind, p.index) for p in train.problems] == [
        ("state_unknown", 0),
        ("state_unknown", 2),
    ]
    assert states(train)["c.jpg"] is ImageState.ASSUMED_EMPTY
