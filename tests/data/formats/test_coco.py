from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_files import (
    coco,
    coco_box,
    coco_image,
    kinds,
    put_image,
    put_text,
    states,
)
from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.load_dataset import load_dataset
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord, ImageState


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the images a.jpg, b.jpg and cam1/c.jpg, all 40 x 30."""
    for seed, name in enumerate(("a.jpg", "b.jpg", "cam1/c.jpg")):
        put_image(tmp_path / "images" / name, seed)
    return tmp_path


def load(root: Path, text: str, **options) -> Dataset:
    return load_dataset(put_text(root / "annotations" / "train.json", text), **options)


def test_boxes_labels_and_crowds(root: Path) -> None:
    annotations = [
        coco_box(7, [1, 2, 10, 20], 90, iscrowd=0),
        coco_box(7, [3.5, 4, 5, 6], 18, iscrowd=1),
    ]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}]
    dataset = load(root, coco([coco_image(7, "a.jpg")], annotations, categories))
    record = dataset.records[0]
    assert dataset.categories == ("toothbrush", "dog")
    assert record.path == root / "images" / "a.jpg"
    np.testing.assert_array_equal(record.boxes, [[1, 2, 11, 22], [3.5, 4, 8.5, 10]])
    assert record.labels.tolist() == [1, 2]
    assert record.ignore.tolist() == [False, True]
    assert record.state is ImageState.LABELLED
    assert dataset.problems == ()


def test_without_annotations_an_image_is_unreviewed_and_that_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = coco([coco_image(1, "a.jpg"), coco_image(2, "b.jpg")], [coco_box(1, [1, 2, 3, 4])])
    with caplog.at_level(logging.WARNING):
        dataset = load(root, text)
    assert states(dataset) == {"a.jpg": ImageState.LABELLED, "b.jpg": ImageState.UNREVIEWED}
    assert "1 of 2 images are not labelled and not verified empty" in caplog.text
    assert "(--empty-is-verified says" in caplog.text
    caplog.clear()
    verified = load(root, text, empty_is_verified=True)
    assert states(verified)["b.jpg"] is ImageState.VERIFIED_EMPTY
    assert "unreviewed" not in caplog.text


def test_images_whose_boxes_are_all_refused_are_told_apart(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A box outside its image, an entry that is no box, and an image that says itself: unreviewed."""
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")]
    images.append(coco_image(3, "cam1/c.jpg", hardmine_state="unreviewed"))
    boxes = [coco_box(1, [900, 900, 3, 4]), coco_box(2, ["x"])]
    data = load(root, coco(images, boxes), empty_is_verified=True)
    assert set(states(data).values()) == {ImageState.UNREVIEWED}
    assert "2 of 3 images have labels none of which can be used: they are" in caplog.text
    assert "1 of 3 images are not labelled and not verified empty" in caplog.text
    assert "--empty-is-verified" not in caplog.text


def test_a_state_key_decides(root: Path) -> None:
    images = [
        coco_image(1, "a.jpg", hardmine_state="assumed_empty"),
        coco_image(2, "b.jpg", hardmine_state="contains_object"),
        coco_image(3, "cam1/c.jpg", hardmine_state="nonsense"),
    ]
    dataset = load(root, coco(images), empty_is_verified=True)
    assert states(dataset) == {
        "a.jpg": ImageState.ASSUMED_EMPTY,
        "b.jpg": ImageState.CONTAINS_OBJECT,
        "c.jpg": ImageState.VERIFIED_EMPTY,
    }
    assert [(p.kind, p.index) for p in dataset.problems] == [("state_unknown", 2)]
    assert "assumed_empty" in dataset.problems[0].reason


def test_repeated_ids_leave_both_images_unreviewed(root: Path) -> None:
    images = [coco_image(1, "a.jpg"), coco_image(2, "cam1/c.jpg"), coco_image(1, "b.jpg")]
    annotations = [coco_box(1, [1, 2, 3, 4]), coco_box(2, [1, 2, 3, 4])]
    dataset = load(root, coco(images, annotations), empty_is_verified=True)
    assert states(dataset) == {
        "a.jpg": ImageState.UNREVIEWED,
        "c.jpg": ImageState.LABELLED,
        "b.jpg": ImageState.UNREVIEWED,
    }
    assert [len(record.boxes) for record in dataset.records] == [0, 1, 0]
    assert [(p.kind, p.index) for p in dataset.problems] == [("image_id_repeated", 2)]
    assert "a.jpg" in dataset.problems[0].reason
    assert "b.jpg" in dataset.problems[0].reason


def test_a_file_listed_twice_is_one_image_with_all_objects(root: Path) -> None:
    images = [coco_image(1, "a.jpg"), coco_image(2, "a.jpg")]
    annotations = [
        coco_box(1, [1, 2, 3, 4]),
        coco_box(2, [1, 2, 3, 4]),
        coco_box(2, [5, 6, 7, 8]),
    ]
    dataset = load(root, coco(images, annotations))
    assert len(dataset) == 1
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert kinds(dataset) == ["file_repeated", "box_repeated"]


def test_annotations_that_fit_nothing_are_named(root: Path) -> None:
    annotations = [
        coco_box(1, [1, 2, 3, 4]),
        coco_box(99, [1, 2, 3, 4]),
        coco_box(1, [1, 2, 3, 4], category=77),
        coco_box(1, [1, 2, 3]),
        coco_box(1, ["x", 2, 3, 4]),
        {"image_id": 1, "category_id": 1},
        "not an annotation",
        coco_box(1, [10**400, 2, 3, 4]),
    ]
    dataset = load(root, coco([coco_image(1, "a.jpg")], annotations))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("image_id_unknown", 1),
        ("class_unknown", 2),
        ("box_malformed", 3),
        ("box_malformed", 4),
        ("box_malformed", 5),
        ("box_malformed", 6),
        ("box_malformed", 7),
    ]
    assert all(p.file == "annotations/train.json" for p in dataset.problems)
    assert "99" in dataset.problems[0].reason
    assert "77" in dataset.problems[1].reason
    assert "a.jpg" in dataset.problems[2].reason
    assert len(dataset.records[0].boxes) == 1


def test_bad_boxes_are_named_with_their_index_and_image(root: Path) -> None:
    annotations = [
        coco_box(1, [1, 2, 3, 4]),
        coco_box(1, [float("nan"), 2, 3, 4]),
        coco_box(1, [1, 2, float("inf"), 4]),
        coco_box(1, [30, 2, -10, 4]),
        coco_box(1, [5, 6, 0, 4]),
        coco_box(1, [400, 6, 10, 4]),
    ]
    dataset = load(root, coco([coco_image(1, "a.jpg")], annotations))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("box_nan", 1),
        ("box_infinite", 2),
        ("box_inverted", 3),
        ("box_empty", 4),
        ("box_outside", 5),
    ]
    assert str(dataset.problems[2]) == (
        "annotations/train.json[3]: xmax 20 < xmin 30 (image a.jpg)"
    )


def test_an_image_whose_only_box_is_bad_is_no_negative(root: Path) -> None:
    text = coco([coco_image(1, "a.jpg")], [coco_box(1, [5, 6, 0, 4])])
    assert states(load(root, text, empty_is_verified=True))["a.jpg"] is ImageState.UNREVIEWED


def test_names_outside_the_root_are_not_followed(root: Path) -> None:
    secret = put_image(root.parent / f"{root.name}-secret.jpg")
    images = [
        coco_image(1, "a.jpg"),
        coco_image(2, f"../../{secret.name}"),
        coco_image(3, str(secret)),
    ]
    dataset = load(root, coco(images, [coco_box(2, [1, 2, 3, 4])]))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("path_outside", 1),
        ("path_outside", 2),
    ]
    assert len(dataset) == 1


def test_missing_images_and_malformed_entries_are_named(root: Path) -> None:
    images = [
        coco_image(1, "a.jpg"),
        coco_image(2, "gone.jpg"),
        {"id": 3},
        "nonsense",
        coco_image([4], "b.jpg"),
    ]
    dataset = load(root, coco(images, [coco_box(2, [1, 2, 3, 4])]))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("image_missing", 1),
        ("image_malformed", 2),
        ("image_malformed", 3),
        ("image_malformed", 4),
    ]


def test_repeated_and_malformed_categories(root: Path) -> None:
    categories = [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "cat"},
        {"id": 1, "name": "dog"},
        {"id": 5},
    ]
    annotations = [coco_box(1, [1, 2, 3, 4], 2)]
    dataset = load(root, coco([coco_image(1, "a.jpg")], annotations, categories))
    assert kinds(dataset) == ["category_repeated", "category_repeated", "category_malformed"]
    assert dataset.records[0].labels.tolist() == [1]


def test_when_no_image_is_found_the_error_says_where_it_looked(root: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 image .*gone\.jpg.*--images"):
        load(root, coco([coco_image(1, "gone.jpg")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "got list"),
        ('{"a": 1}', "got keys a"),
        ('{"images": [], "annotations": {}}', "got dict under 'annotations'"),
    ],
)
def test_a_file_that_is_not_coco_is_one_clear_line(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(root, text)
    assert "train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_size_is_read_from_the_image(root: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, coco_image(2, "b.jpg") | {"width": "wide"}]
    dataset = load(root, coco(images))
    assert [(r.width, r.height) for r in dataset.records] == [(40, 30), (40, 30)]


def test_images_can_be_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = coco([coco_image(1, "cam1/c.jpg")])
    file = put_text(tmp_path_factory.mktemp("labels") / "x.json", text)
    dataset = load_dataset(file, images=root / "images")
    assert dataset.records[0].path == root / "images" / "cam1" / "c.jpg"


@pytest.mark.parametrize("folder", ["images", "train", "images/train"])
@pytest.mark.parametrize("in_name", [False, True])
def test_a_folder_of_images_may_be_a_link(
    tmp_path: Path, root: Path, folder: str, in_name: bool
) -> None:
    """As people lay out large sets: ``data/train2017`` leads to another disk."""
    data = tmp_path / "data"
    link = data / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(root / "images")
    name = f"{folder}/a.jpg" if in_name else "a.jpg"
    dataset = load(data, coco([coco_image(1, name)], [coco_box(1, [1, 2, 3, 4])]))
    assert [record.path for record in dataset.records] == [link / "a.jpg"]
    assert dataset.problems == ()


def test_a_linked_folder_that_is_no_folder_of_images_is_named(tmp_path: Path, root: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "else").symlink_to(root / "images")
    with pytest.raises(
        DataError, match=r"'else/a.jpg' is a link to .*images/a.jpg, outside .*--images"
    ):
        load(tmp_path / "data", coco([coco_image(1, "else/a.jpg")]))


def test_the_folder_in_which_most_names_exist_is_taken(root: Path) -> None:
    put_image(root / "train" / "a.jpg", 5)
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")]
    dataset = load(root, coco(images))
    assert [r.path.parent.name for r in dataset.records] == ["images", "images"]


def record(
    path: Path, state: ImageState, boxes: list[list[float]], source: str = ""
) -> ImageRecord:
    return ImageRecord(
        path,
        40,
        30,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(boxes), np.int64),
        np.zeros(len(boxes), np.bool_),
        state,
        source,
    )


def test_written_files_are_standard_and_come_back_exactly(root: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    records = (
        record(root / "images" / "a.jpg", ImageState.LABELLED, [[0.1, 0.2, 10.3, 20.7]], "yard"),
        record(root / "images" / "b.jpg", ImageState.ASSUMED_EMPTY, []),
    )
    dataset = Dataset(("cat", "dog"), records, root)
    path = root / "annotations" / "out.json"
    write_coco(dataset, path, images_root=root / "images")
    again = load_dataset(path)
    assert again.fingerprint == dataset.fingerprint
    assert [r.source for r in again.records] == ["yard", ""]
    oracle = pycocotools.COCO(str(path))
    assert oracle.getAnnIds() == [1]
    assert [c["name"] for c in oracle.loadCats(oracle.getCatIds())] == ["cat", "dog"]
    assert oracle.loadAnns([1])[0]["bbox"] == pytest.approx([0.1, 0.2, 10.2, 20.5], abs=1e-5)


def test_file_names_are_relative_where_they_can_be(root: Path, tmp_path: Path) -> None:
    inside = record(root / "images" / "a.jpg", ImageState.UNREVIEWED, [])
    outside = record(Path("/elsewhere/b.jpg"), ImageState.UNREVIEWED, [])
    path = root / "out.json"
    write_coco(Dataset((), (inside, outside), root), path)
    names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
    assert names == ["images/a.jpg", "/elsewhere/b.jpg"]


def test_a_failed_write_leaves_the_old_file(root: Path) -> None:
    path = put_text(root / "out.json", "old")
    bad = record(root / "images" / "a.jpg", ImageState.LABELLED, [[0, 0, 1, 1]])
    bad.boxes[0, 2] = np.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_coco(Dataset(("cat",), (bad,), root), path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in root.iterdir()) == ["images", "out.json"]


@pytest.mark.parametrize(
    ("flag", "ignored", "found"),
    [
        ("0", False, []),
        ("1", True, []),
        (True, True, []),
        (False, False, []),
        (None, False, []),
        ("false", False, []),
        ("Unspecified", False, []),
        (2, False, ["flag_unknown"]),
        ("crowd", False, ["flag_unknown"]),
    ],
)
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_are_read_by_their_meaning(
    root: Path, key: str, flag: object, ignored: bool, found: list[str]
) -> None:
    annotations = [coco_box(1, [1, 2, 3, 4], **{key: flag}), coco_box(1, [5, 6, 3, 4])]
    dataset = load(root, coco([coco_image(1, "a.jpg")], annotations))
    assert dataset.records[0].ignore.tolist() == [ignored, False]
    assert kinds(dataset) == found
    assert all(problem.index == 0 for problem in dataset.problems)


def test_ids_as_text_are_matched_by_what_they_say(root: Path) -> None:
    annotations = [coco_box("1", [1, 2, 3, 4], "2"), coco_box("001", [5, 6, 3, 4], 1)]
    dataset = load(root, coco([coco_image(1, "a.jpg")], annotations))
    assert dataset.records[0].labels.tolist() == [2, 1]
    assert [p.kind for p in dataset.problems] == ["id_as_text", "id_as_text"]
    assert "category_id is text where the ids are numbers, or otherwise, 1 times" in str(
        dataset.problems[0]
    )


def test_an_id_as_text_that_fits_two_is_no_id(root: Path) -> None:
    images = [coco_image(1, "a.jpg"), coco_image("01", "b.jpg")]
    dataset = load(root, coco(images, [coco_box("1", [1, 2, 3, 4]), coco_box(True, [1, 2, 3, 4])]))
    assert kinds(dataset) == ["image_id_unknown", "image_id_unknown"]


def test_an_object_that_has_only_an_outline_gets_the_box_around_it(root: Path) -> None:
    outline = {
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[3, 4, 9, 4, 9, 12], [1, 5, 2, 6, 1, 6]],
    }
    dataset = load(root, coco([coco_image(1, "a.jpg")], [outline]))
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 4, 9, 12]])


def test_names_true_on_another_machine(root: Path) -> None:
    names = [
        "C:\\Users\\me\\a.jpg",
        "https://host/data/b.jpg?key=1",
        "/data/upload/3/0123abcd-c.jpg",
    ]
    images = [coco_image(index, name) for index, name in enumerate(names)]
    text = coco(images, [coco_box(index, [index, 2, 3, 4]) for index in range(3)])
    with pytest.raises(DataError, match=r"none of its 3 images.*images= \(--images\)"):
        load(root, text)
    dataset = load(root, text, images=root / "images")
    assert [r.path.name for r in dataset.records] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [r.boxes[0, 0] for r in dataset.records] == [0, 1, 2]
    assert kinds(dataset) == ["image_found_otherwise"]


def test_a_mark_and_another_spelling_of_accents(root: Path) -> None:
    put_image(root / "images" / unicodedata.normalize("NFD", "käse.jpg"), 5)
    categories = [{"id": 1, "name": unicodedata.normalize("NFD", "käse")}]
    text = coco([coco_image(1, "käse.jpg")], [coco_box(1, [1, 2, 3, 4])], categories)
    path = root / "annotations" / "train.JSON"
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8-sig"))
    for data in (root, path):
        dataset = load_dataset(data)
        assert dataset.categories == ("käse",)
        assert len(dataset.records[0].boxes) == 1
        assert dataset.problems == ()


def test_text_that_is_not_utf8_is_named(root: Path) -> None:
    path = put_text(root / "c.json", "")
    path.write_bytes(b'{"images": [{"id": 1, "file_name": "\xe4.jpg"}]}')
    with pytest.raises(DataError, match=r"c\.json: not UTF-8 text \(byte 0xe4"):
        load_dataset(path)


def one_image(root: Path, annotation: dict[str, object], **image: object) -> Dataset:
    put_image(root / "0.jpg")
    entry = {"image_id": 0, "category_id": 1, **annotation}
    text = coco([{**coco_image(0, "0.jpg"), **image}], [entry])
    return load_dataset(put_text(root / "c.json", text))


def test_sizes_written_as_text_count(tmp_path: Path) -> None:
    data = one_image(tmp_path, {"bbox": [20, 24, 40, 20]}, width="80", height="60.0")
    assert (data.records[0].width, data.records[0].height) == (80, 60)


def test_ids_may_be_whole_numbers_with_a_point(tmp_path: Path) -> None:
    data = one_image(tmp_path, {"image_id": 7, "bbox": [1, 2, 10, 8]}, id=7.0)
    assert data.records[0].boxes.tolist() == [[1, 2, 11, 10]]


# 4 rows x 5 columns, a mask over rows 1..2 of columns 1..3: column-major runs.
RUNS = [5, 2, 2, 2, 2, 2, 5]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mask_without_a_box_gives_the_box_around_it(tmp_path: Path, compressed: bool) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:4] = 1
    from pycocotools import mask as masks

    counts = masks.encode(np.asfortranarray(mask))["counts"].decode() if compressed else RUNS
    outline = {"size": [4, 5], "counts": counts}
    data = one_image(tmp_path, {"segmentation": outline}, width=5, height=4)
    assert data.records[0].boxes.tolist() == [[1, 1, 4, 3]]


def test_a_mask_that_goes_on_in_the_next_column_spans_all_rows(tmp_path: Path) -> None:
    outline = {"size": [4, 5], "counts": [6, 4, 10]}  # rows 2, 3 of column 1, then 0, 1 of column 2
    data = one_image(tmp_path, {"segmentation": outline}, width=5, height=4)
    assert data.records[0].boxes.tolist() == [[1, 0, 3, 4]]


def test_a_box_that_its_attributes_turn_is_the_box_around_it(tmp_path: Path) -> None:
    # 20 x 10 about (20, 15), turned by 90 degrees: 10 x 20 about the same centre.
    turned = {"bbox": [10, 10, 20, 10], "attributes": {"rotation": 90.0, "occluded": False}}
    data = one_image(tmp_path, turned)
    assert data.records[0].boxes[0].tolist() == pytest.approx([15, 5, 25, 25])


def test_scores_of_a_model_are_told_of(tmp_path: Path) -> None:
    data = one_image(tmp_path, {"bbox": [1, 2, 10, 8], "score": 0.7})
    assert kinds(data) == ["columns_left_out"]


def test_a_category_without_a_name_is_none(tmp_path: Path) -> None:
    put_image(tmp_path / "0.jpg")
    text = coco([coco_image(0, "0.jpg")], [], [{"id": 1, "name": None}, {"id": 2, "name": "dog"}])
    data = load_dataset(put_text(tmp_path / "c.json", text))
    assert data.categories == ("dog",)
    assert kinds(data) == ["category_malformed"]


@pytest.mark.parametrize(
    ("used", "said"), [([0, 1], "one less"), ([2, 3], "one more"), ([0, 2], ""), ([1, 9], "")]
)
def test_ids_that_count_from_another_number_are_told_of(
    tmp_path: Path, used: list[int], said: str
) -> None:
    put_image(tmp_path / "0.jpg")
    boxes = [coco_box(0, [1 + i, 2, 10, 8], number) for i, number in enumerate(used)]
    data = load_dataset(
        put_text(tmp_path / "c.json", coco([coco_image(0, "0.jpg")], boxes))  # classes 1 and 2
    )
    told = [p.reason for p in data.problems if "all classes would be wrong" in p.reason]
    assert len(told) == bool(said)
    assert not said or said in told[0]


def test_lvis_names_its_images_by_url_alone(tmp_path: Path) -> None:
    put_image(tmp_path / "val" / "000000397133.jpg")
    url = "http://images.cocodataset.org/val2017/000000397133.jpg"
    entry = {"id": 397133, "coco_url": url, "width": 40, "height": 30, "neg_category_ids": []}
    put_text(tmp_path / "lvis.json", coco([entry], [coco_box(397133, [1, 2, 10, 10])]))
    dataset = load_dataset(tmp_path / "lvis.json", images=tmp_path / "val")
    assert dataset.records[0].boxes.tolist() == [[1, 2, 11, 12]]
