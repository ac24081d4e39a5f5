from __future__ import annotations

from pathlib import Path

import pytest

from data_files import kinds, put_image, put_text, states
from hardmine.data.formats.image_files import list_images, load_images
from hardmine.errors import DataError
from hardmine.types import ImageState


def test_images_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "cam/c.jpeg", ".hidden.jpg", ".git/d.jpg"):
        path = tmp_path / name
        put_image(path.with_suffix(".png"), 1).rename(path)
    put_text(tmp_path / "notes.txt", "x")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.PNG", "b.jpg", "cam/c.jpeg"]


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    assert list_images(tmp_path) == [tmp_path / "a.jpg"]


def test_records_carry_state_source_and_size(tmp_path: Path) -> None:
    put_image(tmp_path / "pool" / "a.jpg", size=(64, 48))
    dataset = load_images(tmp_path / "pool", state=ImageState.VERIFIED_EMPTY)
    record = dataset.records[0]
    assert (record.width, record.height, record.source) == (64, 48, "pool")
    assert record.state is ImageState.VERIFIED_EMPTY
    assert record.boxes.shape == (0, 4)
    named = load_images(tmp_path / "pool", source="yard", categories=["cat"])
    assert (named.records[0].source, named.categories) == ("yard", ("cat",))


def test_unreadable_images_become_problems(tmp_path: Path) -> None:
    put_image(tmp_path / "good.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    put_text(tmp_path / "text.png", "not an image")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    dataset = load_images(tmp_path)
    assert list(states(dataset)) == ["good.jpg"]
    assert kinds(dataset) == ["image_zero_bytes", "image_missing", "image_not_image"]
    assert [str(p) for p in dataset.problems] == [
        "empty.jpg: zero bytes long",
        "gone.jpg: no such file",
        "text.png: not an image of a known format",
    ]


def test_an_empty_or_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in it or below it$"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        load_images(tmp_path / "nowhere")
