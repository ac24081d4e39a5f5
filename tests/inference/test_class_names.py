"""Class names in each of the files in which people keep them, however those were saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardmine.errors import ConfigError, DataError
from hardmine.inference.class_names import choose_classes, read_classes
from hardmine.inference.predictions_file import load_predictions

FILES = {
    "names.txt": "no\n010\nkäse\n",
    "data.yaml": "nc: 3\nnames: [no, 010, käse]\n",
    "numbered.yaml": "names:\n  2: käse\n  0: no\n  1: 010\n",
    "list.yml": "- no\n- 010\n- käse\n",
    "coco.json": json.dumps(
        {
            "categories": [
                {"id": 7, "name": "010"},
                {"id": 9, "name": "käse"},
                {"id": 2, "name": "no"},
            ]
        },
        ensure_ascii=False,
    ),
    "list.json": json.dumps(["no", "010", "käse"], ensure_ascii=False),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", FILES)
def test_names_stay_as_they_are_written(tmp_path: Path, name: str, encoding: str) -> None:
    text = FILES[name].replace("\n", "\r\n")
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_classes(tmp_path / name) == ("no", "010", "käse")


def test_eleven_numbered_names_come_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    """As text, 10 comes before 2."""
    numbers = [10, 2, 0, 1, *range(3, 10)]
    lines = "".join(f"  {number}: n{number}\n" for number in numbers)
    (tmp_path / "data.yaml").write_text(f"names:\n{lines}", encoding="utf-8")
    rows = [{"id": number, "name": f"n{number}"} for number in numbers]
    (tmp_path / "coco.json").write_text(json.dumps({"categories": rows}), encoding="utf-8")
    for name in ("data.yaml", "coco.json"):
        assert read_classes(tmp_path / name) == tuple(f"n{number}" for number in range(11))


@pytest.mark.parametrize("name", FILES)
def test_another_encoding_is_named_instead_of_read_as_other_letters(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(FILES[name].encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}: .*not UTF-8 text \(byte 0xe4 in line"):
        read_classes(tmp_path / name)


def test_an_accent_in_two_spellings_is_one_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ka\u0308se\nk\u00e4se\n", encoding="utf-8")
    with pytest.raises(DataError, match="wanted class names, each once"):
        read_classes(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("ka\u0308se\n", encoding="utf-8")
    assert read_classes(tmp_path / "names.txt") == ("k\u00e4se",)


CAT_DOG = {
    "numbers.txt": "0 cat\n1: dog\n",
    "from_1.txt": "2) dog\n1) cat\n",
    "comments.txt": "# of the first camera\ncat\ndog\n",
    "quotes.names": '"cat"\n"dog"\n',
    "labelme.txt": "__ignore__\ncat\ndog\n",
    "ids.csv": "id,name\n2,dog\n1,cat\n",
    "keras.csv": "dog,1\ncat,0\n",
    "spreadsheet.csv": "class_id;class_name\n0;cat\n5;dog\n",
    "one_column.csv": "name\ncat\ndog\n",
    "tab.tsv": "0\tcat\n1\tdog\n",
    "head.txt": "id,name\n1,cat\n2,dog\n",
    "map.pbtxt": "item {\n  id: 2\n  name: 'dog'\n}\nitem {\n  name: '/m/01'\n  id: 1\n"
    '  display_name: "cat"\n}\n',
    "ids.yaml": "names: {cat: 0, dog: 1}\n",
    "bare.yaml": "0: cat\n1: dog\n",
    "objects.yaml": "names:\n- {id: 2, name: dog}\n- {id: 1, name: cat}\n",
    "objects.json": '[{"name": "cat", "attributes": []}, {"name": "dog"}]',
    "config.json": '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}',
    "classes.json": '{"classes": ["cat", "dog"], "labels": {}}',
    "quoted.csv": '"cat"\n"dog"\n',
    "label_is_number.csv": "label,name\n1,dog\n0,cat\n",
    "class_is_number.csv": "class,label\n1,dog\n0,cat\n",
    "floats.json": '{"categories": [{"id": 2.0, "name": "dog"}, {"id": 1.0, "name": "cat"}]}',
    "comment.pbtxt": "# item { id: 0 name: 'owl' }\nitem { id: 1 name: 'cat' }\n"
    "item { id: 2 name: 'dog' }\n",
    "megadetector.json": '{"detection_categories": {"1": "cat", "2": "dog"}, "images": []}',
}


@pytest.mark.parametrize("name", CAT_DOG)
def test_lists_of_other_programs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(CAT_DOG[name])
    assert read_classes(tmp_path / name) == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("c.csv", '"cat, big"\ndog\n', ("cat, big", "dog")),
        ("c.txt", "1 Euro\n2 Euro\n", ("1 Euro", "2 Euro")),
        ("c.json", '{"label2id": {"7": "0", "8": "1"}}', ("7", "8")),
        ("c.json", '{"id2label": {"0": "7", "1": "8"}}', ("7", "8")),
        ("c.json", '[{"id": 0, "name": 7}]', ("7",)),
        ("c.yaml", "classes: {names: 0, cat: 1}\n", ("names", "cat")),
    ],
)
def test_names_that_look_like_something_else_are_names(
    tmp_path: Path, name: str, text: str, names: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n", "numbers of boxes"),
        ("c.txt", "images/a.jpg\nimages/b.jpg\n", "a list of images"),
        ("c.csv", "image,xmin,ymin,xmax,ymax,label\na.png,1,2,3,4,cat\n", "a table of boxes"),
        ("c.csv", "a.png,1,2,3,4,cat\n", "wanted id,name or name,id"),
        ("c.csv", "7,0\n8,1\n", "the number may be either column"),
        ("c.yaml", "names: {7: 0, 8: 1}\n", "either may be the number"),
        ("c.yaml", "names: {0: cat, 1: }\n", "place 1 of 2 has no name"),
        ("c.json", '[{"id": 1, "name": "dog"}, {"name": "cat"}]', "wanted a category"),
        ("c.pbtxt", "item { id: 1 name: 'a' }\nitem { name: 'b' }\n", "wanted an id and a name"),
        ("c.pbtxt", "item { id: 1 name: 'a' }\nitem { id: 1 name: 'b' }\n", "have the id 1"),
        ("c.txt", '["cat", "dog"]\n', r"begins '\[\"cat\", .* wanted one name a line"),
        ("c.txt", "names:\n  0: cat\n", "begins 'names:'"),
        ("c.txt", "- cat\n- dog\n", "begins '- cat'"),
        ("c.txt", "cat,dog\n", "begins 'cat,dog'"),
        ("obj.data", "classes = 2\nnames = obj.names\n", r"got a \.data file, wanted text"),
        ("obj.txt", "classes = 2\nnames = obj.names\n", "begins 'classes = 2'"),
        ("c.csv", "/m/01,Cat\n/m/02,Dog\n", "wanted id,name or name,id"),
        ("c.csv", "id,name\n1,cat\nx,dog\n", "got 'x,dog', wanted a number and a name"),
        ("c.csv", "id,name\n1,cat\n1,dog\n", "number 1 is 'cat' and 'dog'"),
        ("c.json", '["cat", null]', "entry 1 is None, wanted a name"),
        ("c.json", '[["cat", "dog"]]', "wanted a name"),
        ("c.json", '{"0": "cat", "1": "dog", "nc": 2}', "has 0, 1, nc; wanted 'names'"),
        (
            "c.json",
            '{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "number 1 is",
        ),
        ("c.yaml", "nc: 3\n", "has nc; wanted 'names'"),
        ("c.yaml", "names:\n  0: cat\n  0: dog\n", "has the key '0' twice"),
        ("c.yaml", "names: obj.names\n", "wanted a list of names, .* got 'obj.names'"),
    ],
)
def test_what_is_no_list_of_names_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", "cat\nCat\n", "differ in capital letters only: cat, Cat"),
        ("c.txt", "cat\n\ndog\n", "empty lines between the names"),
        ("c.yaml", "nc: 3\nnames: [cat, dog]\n", "nc is 3, but 2 names are given"),
        ("c.txt", "# by me\ncat\ndog\n", "lines that begin with # are comments and no classes"),
    ],
)
def test_what_may_be_a_slip_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    assert len(read_classes(tmp_path / name)) == 2
    assert said in caplog.text


def test_the_background_in_front_is_no_class_of_a_model_with_one_less() -> None:
    assert choose_classes(["BACKGROUND", "a", "b"], ["x", "y"], "m") == ("a", "b")
    assert choose_classes(["background", "a"], ["x", "y"], "m") == ("background", "a")
    with pytest.raises(ConfigError, match="the model has 2"):
        choose_classes(["other", "a", "b"], ["x", "y"], "m")


@pytest.mark.parametrize("kind", ["COCO rows", "YOLO texts"])
def test_numbers_of_predictions_count_the_background_as_0(tmp_path: Path, kind: str) -> None:
    """Number 1 is the first class behind the background for torchvision and for YOLO."""
    path = tmp_path / "found"
    if kind == "COCO rows":
        path = path.with_suffix(".json")
        row = {"image_id": "a", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
        path.write_text(json.dumps([row]))
    else:
        path.mkdir()
        (path / "a.txt").write_text("1 0.5 0.5 0.1 0.1 0.5\n")
    found = load_predictions(path, ["__background__", "cat", "dog"])
    assert found.categories == ("cat", "dog")
    assert found.by_name["a"].labels.tolist() == [1]
