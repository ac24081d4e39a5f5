from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
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
        ("0 0.5 0.5 0.1 0.1 9", "box_malformed", "got 6"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "box_malformed", "got 8"),
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


def test_outlines_give_their_bounding_box(root: Path) -> None:
    put_text(root / "labels/train/a.txt", "1 0.1 0.2 0.5 0.1 0.4 0.6\n")
    train = load_splits(root)["train"]
    np.testing.assert_allclose(by_name(train)["a.jpg"].boxes, [[4, 3, 20, 18]], atol=1e-5)
    assert train.problems == ()


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
        ("train: images/train\nnames: {a: cat}\n", "names is {'a': 'cat'}, wanted a list"),
        ("train: images/train\nnames: cat\n", "names is 'cat', wanted a list"),
        ("names: [cat]\n", "none of train, val, test"),
        ("train: nowhere\nnames: [cat]\n", "none of train, val, test"),
        ("train: {a: b}\nnames: [cat]\n", "train is {'a': 'b'}, wanted a path"),
        ("train: /\nnames: [cat]\n", "names /, the whole file system"),
        ("kpt_shape: 17\ntrain: images/train\nnames: [cat]\n", "kpt_shape is '17'"),
        ("train: !!python/object/apply:os.system ['true']\nnames: [cat]\n", "cannot be read"),
    ],
)
def test_a_bad_yaml_is_one_clear_line(root: Path, text: str, message: str) -> None:
    put_text(root / "data.yaml", text)
    with pytest.raises(DataError, match=message) as caught:
        load_splits(root)
    assert str(root / "data.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_here_falls_back_to_the_yaml(root: Path) -> None:
    put_text(root / "data.yaml", YAML.replace("path: .", "path: ../datasets/pets"))
    splits = load_splits(root)
    assert list(splits) == ["train", "val"]
    assert kinds(splits["train"]) == ["config_remark"]
    assert "datasets/pets is not here" in splits["train"].problems[0].reason


@pytest.mark.parametrize("where", ["path", "train", "list"])
def test_a_yaml_may_name_any_folder(
    root: Path, tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("config") / "data.yaml"
    if where == "path":
        put_text(
            elsewhere, f"path: {root}\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
        )
    elif where == "train":
        put_text(
            elsewhere, f"train: {root}/images/train\nval: {root}/images/val\nnames: [cat, dog]\n"
        )
    else:
        put_text(
            root / "train.txt", "./images/train/a.jpg\nimages/train/b.jpg\nimages/train/c.jpg\n"
        )
        put_text(elsewhere, f"train: {root}/train.txt\nval: {root}/images/val\nnames: [cat, dog]\n")
    splits = load_splits(elsewhere)
    assert [len(r.boxes) for r in splits["train"].records] == [2, 0, 0]
    assert splits["val"].records[0].path == root / "images/val/d.jpg"
    assert splits["train"].problems == ()


def test_what_list_files_name_stays_in_the_folders_that_the_yaml_names(root: Path) -> None:
    secret = put_image(root.parent / f"{root.name}-secret.jpg")
    (root / "images" / "linked.jpg").symlink_to(secret)
    put_text(
        root / "lists" / "train.txt", f"{secret}\n../images/train/a.jpg\n../images/linked.jpg\n"
    )
    put_text(root / "data.yaml", "train: lists/train.txt\nnames: [cat, dog]\n")
    dataset = load_dataset(root)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED}
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("path_outside", 0),
        ("path_outside", 2),
    ]
    assert all("--images" in p.reason for p in dataset.problems)


def test_a_list_that_was_true_on_another_machine(root: Path) -> None:
    names = ["/content/pets/images/train/a.jpg", "C:\\pets\\images\\train\\b.jpg"]
    put_text(root / "train.txt", "\n".join(names))
    put_text(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"train.txt: none of its 2 images.*--images"):
        load_dataset(root)
    dataset = load_dataset(root / "data.yaml", images=root)
    assert [len(r.boxes) for r in dataset.records] == [2, 0]
    assert kinds(dataset) == ["image_found_otherwise"]
    assert "2 images were found by the base name" in dataset.problems[0].reason


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


def yaml_names(root: Path, text: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes and what is said of a data.yaml that ends so."""
    put_text(root / "data.yaml", f"train: images/train\nval: images/val\n{text}")
    splits = load_splits(root)
    said = [p.reason for ds in splits.values() for p in ds.problems if p.kind == "config_remark"]
    return splits["train"].categories, said


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("names: [no, yes]", ("no", "yes"), []),
        ("names: ['010', 1.0]", ("010", "1.0"), []),
        ("names:\n  '0': a\n  '1': b\n", ("a", "b"), []),
        ("names: {0: a, 1: b, 4: c}", ("a", "b", "c"), ["names has no class 2, 3"]),
        ("names: [a, b]\nnc: 2", ("a", "b"), []),
        ("names: [a, b]\nnc: 3", ("a", "b"), ["nc is 3 and names has 2"]),
        ("nc: 2", ("class_0", "class_1"), ["has nc: 2 and no names"]),
        ("names: [a, a, b]", ("a", "b"), ["names calls class 0 and class 1 'a'"]),
        ("names: [a, b]\ntest: ''", ("a", "b"), ["test is empty"]),
        ("names: [a, b]\ntest:", ("a", "b"), ["test is empty"]),
        ("names: [a, b]\ntest: nowhere", ("a", "b"), ["test names nowhere, which is not here"]),
        ("names: [a, b]\nnames: [c, d]", ("c", "d"), ["names is there twice"]),
        (
            "names: [a, b]\ntest: /content/pets/images/val",
            ("a", "b"),
            ["test names /content/pets/images/val, which is not here; using"],
        ),
    ],
)
def test_slips_in_a_yaml_are_said(
    root: Path, text: str, names: tuple[str, ...], said: list[str]
) -> None:
    found, remarks = yaml_names(root, text)
    assert found == names
    assert len(remarks) == len(said)
    assert all(part in remark for part, remark in zip(said, remarks, strict=True))


def test_a_class_between_the_names_is_unknown(root: Path) -> None:
    put_text(root / "labels/train/a.txt", "2 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n")
    put_text(root / "data.yaml", "train: images/train\nnames: {0: cat, 2: dog}\n")
    train = load_dataset(root)
    assert by_name(train)["a.jpg"].labels.tolist() == [2]
    assert kinds(train) == ["config_remark", "class_unknown"]
    assert "class 1, wanted 0, 2" in train.problems[1].reason


def test_an_empty_line_among_the_classes_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    put(tmp_path, "", {"a": "2 0.5 0.5 0.1 0.1\n"})
    (tmp_path / "Classes.TXT").write_bytes("cat\r\n\r\ndog\r\n\r\n".encode("utf-8-sig"))
    dataset = load_dataset(tmp_path)
    assert dataset.categories == ("cat", "dog")
    assert dataset.records[0].labels.tolist() == [2]


def test_labels_of_any_spelling_pair_with_their_images(tmp_path: Path) -> None:
    apart, joined = (unicodedata.normalize(form, "käse") for form in ("NFD", "NFC"))
    put(tmp_path, "", {apart: None, "B": None, "c": None})
    for name, encoding in ((f"{joined}.TXT", "utf-8-sig"), ("b.txt", "utf-8"), ("c.Txt", "utf-16")):
        path = put_text(tmp_path / "labels" / name, "")
        path.write_bytes("0 0.5 0.5 0.1 0.1\r\n\r\n".encode(encoding))
    dataset = load_dataset(tmp_path)
    assert set(states(dataset).values()) == {ImageState.LABELLED}
    assert dataset.problems == ()


def test_a_label_that_is_not_utf8_is_named(root: Path) -> None:
    (root / "labels/train/a.txt").write_bytes("0 0.5 0.5 0.1 0.1 ä\n".encode("latin-1"))
    train = load_splits(root)["train"]
    assert [(p.kind, p.file) for p in train.problems] == [("label_encoding", "labels/train/a.txt")]
    assert states(train)["a.jpg"] is ImageState.UNREVIEWED


@pytest.mark.parametrize("labels", [False, True])
def test_labels_beside_images_of_a_folder_called_images(tmp_path: Path, labels: bool) -> None:
    put_text(tmp_path / "data.yaml", "train: [pics/images]\nnames: {0: a}\n")
    for seed, stem in enumerate("ab"):
        put_image(tmp_path / "pics/images" / f"{stem}.jpg", seed)
        put_text(tmp_path / "pics/images" / f"{stem}.txt", "0 0.5 0.5 0.1 0.1\n")
    put_text(tmp_path / "pics/images/lost.txt", "0 0.5 0.5 0.1 0.1\n")
    if labels:
        put_text(tmp_path / "pics/labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
    dataset = load_dataset(tmp_path)
    assert set(states(dataset).values()) == {ImageState.LABELLED}
    width = by_name(dataset)["a.jpg"].boxes[0, 2] - by_name(dataset)["a.jpg"].boxes[0, 0]
    assert width == pytest.approx(8 if labels else 4)
    expected = [("image_missing", "pics/images/lost.txt")]
    expected += [("labels_not_read", "pics/images/a.txt")] if labels else []
    assert [(p.kind, p.file) for p in dataset.problems] == expected


def test_numbers_that_are_left_out_are_said_once(root: Path) -> None:
    put_text(root / "labels/train/a.txt", "1 0.5 0.5 0.5 0.2 0.9\n0 0.25 0.5 0.1 0.1 0.8\n")
    train = load_splits(root)["train"]
    np.testing.assert_allclose(
        by_name(train)["a.jpg"].boxes, [[10, 12, 30, 18], [8, 13.5, 12, 16.5]], atol=1e-5
    )
    assert [str(p) for p in train.problems] == [
        "labels/train/a.txt[0]: a line of 6 numbers, the confidence left out (2 times, here first)"
    ]


def test_kpt_shape_makes_lines_poses(root: Path) -> None:
    put_text(root / "labels/train/a.txt", "0 .5 .5 .2 .2 .4 .4 2 .6 .6 2\n0 .5 .5 .2\n")
    put_text(root / "data.yaml", YAML + "kpt_shape: [2, 3]\n")
    train = load_splits(root)["train"]
    np.testing.assert_allclose(by_name(train)["a.jpg"].boxes, [[16, 12, 24, 18]], atol=1e-5)
    assert kinds(train) == ["box_malformed", "columns_left_out"]
    assert "or 11 numbers (kpt_shape: [2, 3]), got 4" in train.problems[0].reason


def plain(root: Path, line: str = "1 0.5 0.5 0.5 0.5\n", folder: str = "") -> Path:
    put_image(root / folder / "images" / "a.png")
    put_text(root / folder / "labels" / "a.txt", line)
    return root


@pytest.mark.parametrize("name", ["_darknet.labels", "coco.names", "Classes.txt"])
def test_class_lists_of_other_names_and_in_the_folder_above_a_split(
    tmp_path: Path, name: str
) -> None:
    put_text(plain(tmp_path / "one") / name, "cat\ndog\n")
    assert load_dataset(tmp_path / "one").categories == ("cat", "dog")
    put_text(plain(tmp_path / "two", folder="train") / name, "cat\ndog\n")
    assert load_dataset(tmp_path / "two").categories == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0 cat\n1 dog\n", ("cat", "dog")),
        ("0: cat\n1: dog\n", ("cat", "dog")),
        ("1 cat\n2 dog\n", ("1 cat", "2 dog")),
        ("0 cat\ndog\n", ("0 cat", "dog")),
    ],
)
def test_a_number_in_front_of_each_name_is_no_part_of_it(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    put_text(plain(tmp_path) / "classes.txt", text)
    assert load_dataset(tmp_path).categories == names


def test_darknet_configuration_and_its_lists(tmp_path: Path) -> None:
    """CVAT's export: names begin with a folder that is not there."""
    for split, name in (("train", "a"), ("valid", "b")):
        put_image(tmp_path / f"obj_{split}_data" / f"{name}.png")
        put_text(tmp_path / f"obj_{split}_data" / f"{name}.txt", "1 0.5 0.5 0.5 0.5\n")
        put_text(tmp_path / f"{split}.txt", f"data/obj_{split}_data/{name}.png\n")
    put_text(tmp_path / "obj.names", "cat\ndog\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    put_text(tmp_path / "obj.data", text)
    for path in (tmp_path, tmp_path / "obj.data"):
        splits = load_splits(path)
        assert {n: [r.path.name for r in s.records] for n, s in splits.items()} == {
            "train": ["a.png"],
            "val": ["b.png"],
        }
        assert splits["train"].categories == ("cat", "dog")
        assert "by the last parts of the name" in str(splits["train"].problems)


def test_a_darknet_configuration_without_its_lists_changes_nothing(tmp_path: Path) -> None:
    put_text(plain(tmp_path) / "obj.data", "classes = 2\ntrain = x/train.txt\nnames = obj.names\n")
    put_text(tmp_path / "obj.names", "cat\ndog\n")
    assert load_dataset(tmp_path).categories == ("cat", "dog")
    with pytest.raises(DataError, match="none of train, val, test"):
        load_dataset(tmp_path / "obj.data")


def test_names_without_their_ending_are_found_where_one_file_fits(tmp_path: Path) -> None:
    plain(tmp_path)
    put_text(tmp_path / "list.txt", "images/a\n")
    put_text(tmp_path / "data.yaml", "train: list.txt\nnames: [cat, dog]\nkpt_shape:\n")
    data = load_dataset(tmp_path)
    assert [r.path.name for r in data.records] == ["a.png"]
    put_image(tmp_path / "images" / "a.jpg")
    with pytest.raises(DataError, match="no image images/a"):
        load_dataset(tmp_path)


def test_labels_may_keep_the_ending_of_the_picture(tmp_path: Path) -> None:
    put(tmp_path, "", {"a": None, "b": None})
    for name, width in (("a.jpg.txt", 0.2), ("b.jpg.txt", 0.4), ("b.txt", 0.6)):
        put_text(tmp_path / "labels" / name, f"0 0.5 0.5 {width} 0.5\n")
    dataset = load_dataset(tmp_path)
    widths = {p: r.boxes[0, 2] - r.boxes[0, 0] for p, r in by_name(dataset).items()}
    assert widths == pytest.approx({"a.jpg": 8, "b.jpg": 24})  # .2 and .6 of 40 px
    assert [problem.file for problem in dataset.problems] == ["labels/b.jpg.txt"]  # left out, named
