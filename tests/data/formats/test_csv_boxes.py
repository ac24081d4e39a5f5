from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_files import by_name, kinds, put_image, put_text, states
from hardmine.data.load_dataset import load_dataset, load_splits
from hardmine.errors import DataError
from hardmine.types import Dataset, ImageState

HEADER = "image,xmin,ymin,xmax,ymax,label\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the images a.png, b.png and images/cam1/c.png, all 40 x 30."""
    for seed, name in enumerate(("a.png", "b.png", "images/cam1/c.png")):
        put_image(tmp_path / name, seed)
    return tmp_path


def load(root: Path, text: str, name: str = "labels.csv", **options) -> Dataset:
    return load_dataset(put_text(root / name, text), **options)


def test_boxes_classes_and_empty_images(root: Path) -> None:
    text = (
        HEADER + "a.png,1,2,11,22,dog\na.png,3.5,4,8.5,10,cat\nb.png,,,,,\ncam1/c.png,1,1,9,9,cat\n"
    )
    dataset = load(root, text)
    assert dataset.categories == ("cat", "dog")
    records = by_name(dataset)
    np.testing.assert_array_equal(records["a.png"].boxes, [[1, 2, 11, 22], [3.5, 4, 8.5, 10]])
    assert records["a.png"].labels.tolist() == [2, 1]
    assert records["c.png"].path == root / "images" / "cam1" / "c.png"
    assert states(dataset)["b.png"] is ImageState.VERIFIED_EMPTY
    assert dataset.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,30,cat,1,2,11,22\n",
        "\ufeffPath;X1;Y1;X2;Y2;Class_Name\na.png;1;2;11;22;cat\n",
        "image\txmin\tymin\txmax\tymax\tlabel\na.png\t1\t2\t11\t22\tcat\n",
        "a.png,1,2,11,22,cat\n",
        'image,xmin,ymin,xmax,ymax,label\n"a.png"," 1",2,11,22,"cat"\n\n',
        HEADER + "a.png,1,2,11,22,cat\n./a.png,1,2,11,22,cat\n",  # one file, two spellings
    ],
)
def test_the_usual_headers_or_none(root: Path, text: str) -> None:
    record = load(root, text).records[0]
    np.testing.assert_array_equal(record.boxes, [[1, 2, 11, 22]])
    assert (record.width, record.height) == (40, 30)


def test_each_fault_has_its_line(root: Path) -> None:
    lines = [
        "a.png,1,2,11,22,cat",
        "a.png,1,x,11,22,cat",
        "a.png,1,2,11",
        "a.png,1,2,11,22,",
        "a.png,20,2,10,22,cat",
        "a.png,nan,2,10,22,cat",
        "gone.png,1,2,3,4,cat",
        "gone.png,1,2,3,4,cat",
        "../../etc/passwd,1,2,3,4,cat",
        ",1,2,3,4,cat",
    ]
    dataset = load(root, HEADER + "\n".join(lines))
    assert [(p.kind, p.index) for p in dataset.problems] == [
        ("box_malformed", 1),
        ("box_malformed", 2),
        ("class_unknown", 3),
        ("image_missing", 6),
        ("path_outside", 8),
        ("image_missing", 9),
        ("box_inverted", 4),
        ("box_nan", 5),
    ]
    assert {p.file for p in dataset.problems} == {"labels.csv"}
    assert len(dataset.records[0].boxes) == 1


def test_a_line_with_more_cells_than_columns_is_refused(root: Path) -> None:
    # A decimal comma shifts the cells: read by their places, they would be another box.
    dataset = load(root, HEADER + "a.png,1,5,2,11,22,cat\nb.png,1,2,11,22,cat,\n")
    assert [(p.kind, p.index) for p in dataset.problems] == [("box_malformed", 0)]
    assert "7 cells, wanted 6" in dataset.problems[0].reason
    assert states(dataset) == {"a.png": ImageState.UNREVIEWED, "b.png": ImageState.LABELLED}


@pytest.mark.parametrize(
    ("flag", "ignored", "found"),
    [
        ("0", False, []),
        ("no", False, []),
        ("False", False, []),
        ("Unspecified", False, []),
        ("", False, []),
        ("1", True, []),
        ("yes", True, []),
        ("TRUE", True, []),
        ("maybe", False, ["flag_unknown"]),
        ("2", False, ["flag_unknown"]),
    ],
)
def test_flags_are_read_by_their_meaning(
    root: Path, flag: str, ignored: bool, found: list[str]
) -> None:
    text = f"image,xmin,ymin,xmax,ymax,label,ignore\na.png,1,2,3,4,cat,{flag}\n"
    dataset = load(root, text)
    assert dataset.records[0].ignore.tolist() == [ignored]
    assert kinds(dataset) == found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_and_line_ends_change_nothing(root: Path, encoding: str) -> None:
    text = "image,xmin,ymin,xmax,ymax,label\r\na.png,1,2,3,4,kät\r\n\r\nb.png,,,,,\r\n"
    (root / "labels.CSV").write_bytes(text.encode(encoding))
    dataset = load_dataset(root)
    assert dataset.categories == ("kät",)
    assert len(dataset) == 2
    assert dataset.problems == ()


def test_text_that_is_not_utf8_is_named(root: Path) -> None:
    (root / "labels.csv").write_bytes((HEADER + "a.png,1,2,3,4,kät\n").encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.csv: not UTF-8 text \(byte 0xe4 in line 2\)"):
        load_dataset(root)


def test_an_image_that_lost_all_boxes_is_no_negative(root: Path) -> None:
    dataset = load(
        root, HEADER + "a.png,20,2,10,22,cat\nb.png,oops,,,,cat\nimages/cam1/c.png,,,,,\n"
    )
    assert states(dataset) == {
        "a.png": ImageState.UNREVIEWED,
        "b.png": ImageState.UNREVIEWED,
        "c.png": ImageState.VERIFIED_EMPTY,
    }


def test_states_and_ignored_objects(root: Path) -> None:
    header = "image,xmin,ymin,xmax,ymax,label,state,ignore\n"
    text = "a.png,1,2,3,4,cat,,1\nb.png,,,,,,unreviewed,\nimages/cam1/c.png,,,,,,nonsense,\n"
    dataset = load(root, header + text)
    assert dataset.records[0].ignore.tolist() == [True]
    assert states(dataset)["b.png"] is ImageState.UNREVIEWED
    assert kinds(dataset) == ["state_unknown"]


def test_a_folder_is_recognised_by_its_csv_files(root: Path) -> None:
    put_text(root / "train_labels.csv", HEADER + "a.png,1,2,11,22,cat\n")
    put_text(root / "val_labels.csv", HEADER + "b.png,1,2,11,22,dog\n")
    put_text(root / "notes.csv", "what,when\nnothing,never\n")
    splits = load_splits(root)
    assert {name: len(ds) for name, ds in splits.items()} == {"train": 1, "val": 1}
    assert splits["val"].categories == ("cat", "dog")
    put_text(root / "train_more.csv", HEADER + "a.png,1,2,11,22,cat\n")
    with pytest.raises(DataError, match="several CSV files for 'train'"):
        load_splits(root)


def test_images_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    labels = tmp_path_factory.mktemp("labels")
    put_text(labels / "boxes.csv", HEADER + "cam1/c.png,1,2,11,22,cat\n")
    for path in (labels, labels / "boxes.csv"):
        dataset = load_dataset(path, images=root / "images")
        assert dataset.records[0].path == root / "images" / "cam1" / "c.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line ''"),
        ("hello\n", "wanted image,xmin,ymin,xmax,ymax,label"),
        (
            '# CSV_HEADER = metadata_id,file_list\n"1_a","[""0.jpg""]"\n',
            "this is the CSV of VIA 3: give its project, saved as JSON",
        ),
        ("image,xmin,ymin,xmax,ymax\na.png,1,2,3,4\n", "first line 'image,xmin"),
        (HEADER, "none of its images"),
        (HEADER + "gone.png,1,2,3,4,cat\n", "no image 'gone.png'.*--images"),
        ("\x00" * 10, "holds zero bytes"),
    ],
)
def test_what_is_no_table_of_boxes_is_one_clear_line(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(root, text)
    assert "\n" not in str(caught.value)


def test_a_split_column_gives_splits(tmp_path: Path) -> None:
    for name in "abc":
        put_image(tmp_path / f"{name}.jpg")
    lines = "a.jpg,1,2,20,10,cat,train\nb.jpg,1,2,20,10,cat,valid\nc.jpg,1,2,20,10,dog,TEST\n"
    put_text(tmp_path / "boxes.csv", HEADER.replace("\n", ",split\n") + lines)
    splits = load_splits(tmp_path)
    names = {name: [r.path.name for r in split.records] for name, split in splits.items()}
    assert names == {"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]}
    assert all(split.categories == ("cat", "dog") for split in splits.values())


def test_cells_that_pandas_left_out_are_empty(tmp_path: Path) -> None:
    for name in "ab":
        put_image(tmp_path / f"{name}.jpg")
    put_text(tmp_path / "x.csv", f"{HEADER}a.jpg,nan,NaN,nan,nan,nan\nb.jpg,1,2,20,10,cat\n")
    data = load_dataset(tmp_path / "x.csv")
    assert data.categories == ("cat",)
    assert states(data) == {"a.jpg": ImageState.VERIFIED_EMPTY, "b.jpg": ImageState.LABELLED}
    assert kinds(data) == []


def test_a_comma_is_a_decimal_point_where_it_separates_nothing(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    text = HEADER.replace(",", ";") + "a.jpg;1,5;2;20,25;10;cat\n"
    data = load_dataset(put_text(tmp_path / "x.csv", text))
    assert data.records[0].boxes.tolist() == [[1.5, 2, 20.25, 10]]


def test_open_images_and_makesense(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"
    rows = "a,x,/m/01,1,0.1,0.3,0.2,0.5,0\na,x,/m/01,1,0.5,0.7,0.2,0.5,1\n"
    data = load_dataset(put_text(tmp_path / "oi.csv", f"{header}\n{rows}"))
    assert data.records[0].boxes[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.5])
    assert data.records[0].ignore.tolist() == [False, True]
    path = put_text(tmp_path / "make.csv", "cat,1,2,19,8,a.jpg,80,60\n")
    record = load_dataset(path).records[0]
    assert (record.boxes.tolist(), record.width) == ([[1, 2, 20, 10]], 80)


def test_scores_of_a_model_are_told_of(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    header = HEADER.replace("\n", ",confidence\n")
    data = load_dataset(put_text(tmp_path / "x.csv", f"{header}a.jpg,1,2,20,10,cat,0.7\n"))
    assert kinds(data) == ["columns_left_out"]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nimage;xmin;ymin;xmax;ymax;label\na.png;1;2;11;22;cat\n",
        '\n\n# made by hand\n"SEP=|"\nimage|xmin|ymin|xmax|ymax|label\na.png|1|2|11|22|cat\n',
        "image|xmin|ymin|xmax|ymax|label\na.png|1|2|11|22|cat\n",
        "filename,class,x,y,w,h\na.png,cat,1,2,10,20\n",
        "image;label;bbox_x;bbox_y;bbox_width;bbox_height;width;height\na.png;cat;1,0;2;10,0;20;40;30\n",
        "image,x,y,w,h,xmin,ymin,xmax,ymax,label\na.png,9,9,9,9,1,2,11,22,cat\n",
        "image,label,xmin,ymin,w,h\na.png,cat,1,2,10,20\n",
    ],
)
def test_what_spreadsheets_and_scripts_write_before_and_into_the_header(
    root: Path, text: str
) -> None:
    dataset = load(root, text)
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1, 2, 11, 22]])
    assert dataset.categories == ("cat",)
    assert kinds(dataset) == []


def test_sizes_with_a_decimal_comma_are_added_to_the_corner(root: Path) -> None:
    """10.5 + 5.25 = 15.75; taken as a far corner, 5.25 would lie left of 10.5."""
    dataset = load(root, "image;label;x;y;w;h\na.png;cat;10,5;2;5,25;20\n")
    np.testing.assert_array_equal(dataset.records[0].boxes, [[10.5, 2, 15.75, 22]])


def test_a_width_that_may_be_the_images_is_not_taken_for_the_boxs(root: Path) -> None:
    with pytest.raises(DataError, match="or a header with such columns"):
        load(root, "filename,class,x,y,width,height\na.png,cat,1,2,10,20\n")


@pytest.mark.parametrize("name", ["cam1/c.png", "images/cam1/c.png"])
def test_a_folder_of_images_may_be_a_link(tmp_path: Path, root: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(root / "images")
    dataset = load(tmp_path / "data", f"filename,class,xmin,ymin,xmax,ymax\n{name},cat,1,2,3,4\n")
    assert [r.path for r in dataset.records] == [tmp_path / "data" / "images" / "cam1" / "c.png"]
    assert dataset.problems == ()
