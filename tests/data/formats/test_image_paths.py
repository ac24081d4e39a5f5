from __future__ import annotations

import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import put_text
from hardmine.data.formats.image_files import ImageFinder, OutsideRootError, relative_name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    put_text(tmp_path / "secret.jpg", "s")
    put_text(tmp_path / "root" / "a.jpg", "a")
    put_text(tmp_path / "root" / "cam 1" / "b.jpg", "b")
    return tmp_path


def test_finds_names_below_the_root(tree: Path) -> None:
    finder = ImageFinder(tree / "root")
    assert finder.find("a.jpg") == tree / "root" / "a.jpg"
    assert finder.find("./cam 1/../cam 1/b.jpg") == tree / "root" / "cam 1" / "b.jpg"
    assert finder.find("cam 1\\b.jpg") == tree / "root" / "cam 1" / "b.jpg"
    assert finder.find(str(tree / "root" / "a.jpg")) == tree / "root" / "a.jpg"
    assert finder.find("c.jpg") is None
    assert finder.find("cam 1") is None  # a folder is no image


def test_bases_are_tried_in_order(tree: Path) -> None:
    finder = ImageFinder(tree / "root", [tree / "root" / "cam 1", tree / "root"])
    assert finder.find("b.jpg") == tree / "root" / "cam 1" / "b.jpg"
    assert finder.find("a.jpg") == tree / "root" / "a.jpg"
    assert finder.find("../a.jpg") == tree / "root" / "a.jpg"  # leaves the base, not the root


@pytest.mark.parametrize("name", ["../secret.jpg", "cam 1/../../secret.jpg", "..\\secret.jpg"])
def test_names_that_leave_the_root_are_refused(tree: Path, name: str) -> None:
    with pytest.raises(OutsideRootError, match="outside"):
        ImageFinder(tree / "root").find(name)


def test_absolute_names_outside_are_refused(tree: Path) -> None:
    with pytest.raises(OutsideRootError, match=r"secret\.jpg"):
        ImageFinder(tree / "root").find(str(tree / "secret.jpg"))


def test_absolute_names_that_are_right_are_taken_from_the_root_of_all(tree: Path) -> None:
    """As of the COCO files that a loop gives to a trainer; the refusal says how."""
    name = str(tree / "secret.jpg")
    with pytest.raises(OutsideRootError, match=r"\(--images\), or / to take absolute names"):
        ImageFinder(tree / "root").find(name)
    assert ImageFinder(Path("/"), by_base_name=True).find(name) == Path(name)


def test_a_sibling_whose_name_starts_alike_is_outside(tree: Path) -> None:
    put_text(tree / "root2" / "x.jpg", "x")
    with pytest.raises(OutsideRootError):
        ImageFinder(tree / "root").find("../root2/x.jpg")


def test_links_out_of_the_root_are_refused_and_links_within_are_not(tree: Path) -> None:
    (tree / "root" / "out.jpg").symlink_to(tree / "secret.jpg")
    (tree / "root" / "in.jpg").symlink_to(tree / "root" / "a.jpg")
    (tree / "root" / "folder").symlink_to(tree)
    finder = ImageFinder(tree / "root")
    with pytest.raises(OutsideRootError, match=r"link to .*secret\.jpg"):
        finder.find("out.jpg")
    with pytest.raises(OutsideRootError):
        finder.find("folder/secret.jpg")
    assert finder.find("in.jpg") == tree / "root" / "in.jpg"


def test_a_root_that_is_itself_a_link_is_fine(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "root")
    assert ImageFinder(tree / "link").find("a.jpg") == tree / "link" / "a.jpg"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "cam 1", "a.jpg", "secret.jpg", "", "/"]), max_size=6))
def test_whatever_the_name_nothing_outside_is_returned(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    base = tmp_path_factory.getbasetemp() / "names"
    if not base.exists():
        put_text(base / "secret.jpg", "s")
        put_text(base / "root" / "a.jpg", "a")
    try:
        found = ImageFinder(base / "root").find("/".join(parts))
    except OutsideRootError:
        return
    assert found is None or found.resolve().is_relative_to((base / "root").resolve())


def test_relative_name() -> None:
    assert relative_name(Path("/d/cam/a.jpg"), Path("/d")) == "cam/a.jpg"
    assert relative_name(Path("/e/a.jpg"), Path("/d")) == "/e/a.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "C:\\Users\\me\\a.jpg",
        "D:/data/cam 1/b.jpg",
        "https://host/data/a.jpg?key=1",
        "s3://bucket/data/cam%201/b.jpg",
        "/data/upload/7/0123abcd-a.jpg",
        "/data/local-files/?d=set/cam%201/b.jpg",
        "../../elsewhere/a.jpg",
        "/root/nowhere/a.jpg",
    ],
)
def test_names_of_another_machine_are_found_by_their_last_part_on_request(
    tree: Path, name: str
) -> None:
    with (
        pytest.raises(OutsideRootError, match="--images")
        if name.startswith(("/", ".."))
        else nullcontext()
    ):
        assert ImageFinder(tree / "root").find(name) is None
    finder = ImageFinder(tree / "root", by_base_name=True)
    found = finder.find(name)
    assert found == tree / "root" / ("cam 1/b.jpg" if "b.jpg" in name else "a.jpg")
    (remark,) = finder.remarks("c.json")
    assert "1 image was found by the base name" in remark.reason


def test_a_base_name_must_be_unique_and_never_leads_outside(tree: Path) -> None:
    put_text(tree / "root" / "cam 2" / "b.jpg", "b")
    (tree / "root" / "out.jpg").symlink_to(tree / "secret.jpg")
    finder = ImageFinder(tree / "root", by_base_name=True)
    assert finder.find("C:\\b.jpg") is None
    assert "2 files are called so" in finder.hint("C:\\b.jpg")
    assert finder.find("C:\\data\\cam 2\\b.jpg") == tree / "root" / "cam 2" / "b.jpg"
    assert finder.find("C:\\secret.jpg") is None
    assert finder.find("C:\\data\\out.jpg") is None


def test_accents_and_capital_letters_of_a_name(tmp_path: Path) -> None:
    apart, joined = (unicodedata.normalize(form, "käse.jpg") for form in ("NFD", "NFC"))
    put_text(tmp_path / apart, "a")
    put_text(tmp_path / "IMG.JPG", "b")
    put_text(tmp_path / "x.jpg", "c")
    put_text(tmp_path / "X.jpg", "d")
    finder = ImageFinder(tmp_path)
    assert finder.find(joined) == tmp_path / apart
    assert finder.remarks("c") == []
    assert finder.find("img.jpg") == tmp_path / "IMG.JPG"
    assert "another case of letters" in finder.remarks("c")[0].reason
    assert finder.find("x.JPG") is None  # two fit


def test_a_name_may_be_the_part_of_a_url(tree: Path) -> None:
    put_text(tree / "root" / "50%20off.jpg", "as it is written")
    finder = ImageFinder(tree / "root")
    assert finder.find("cam%201/b.jpg") == tree / "root" / "cam 1" / "b.jpg"
    assert finder.find("cam%201%5Cb.jpg") is None  # an escaped \\ is a letter of the name
    assert finder.find("50%20off.jpg") == tree / "root" / "50%20off.jpg"
    (said,) = finder.remarks("c.json")
    assert "1 image was found with %20 and the like read" in said.reason
    for name in ("..%2Fsecret.jpg", "%2e%2e/secret.jpg"):
        with pytest.raises(OutsideRootError):
            finder.find(name)
    assert finder.find("a%00.jpg") is None
    assert finder.find("cam%00/b.jpg") is None
