"""Folders: linked ones once, no circle, and what looks like a picture is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from data_files import put_image, put_text
from hardmine.data.formats.image_files import PassedOver, load_images, walk_files, walk_pictures
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.mining.sources.pool_source import open_source
from hardmine.types import Problem


def names(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in walk_files(folder)]


def test_files_come_folder_by_folder_and_hidden_ones_do_not(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.jpg", "a.jpg", ".hidden.jpg", ".cache/x.jpg", "__MACOSX/b.jpg"):
        put_text(tmp_path / name, "")
    assert names(tmp_path) == ["a/z.jpg", "a.jpg", "b.jpg"]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    put_text(tmp_path / "elsewhere" / "d.jpg", "")
    put_text(tmp_path / "elsewhere" / "deep" / "e.jpg", "")
    pool = tmp_path / "pool"
    put_text(pool / "real" / "a.jpg", "")
    (pool / "a_link").symlink_to(tmp_path / "elsewhere")  # listed though outside
    (pool / "b_link").symlink_to(tmp_path / "elsewhere")  # again
    (pool / "c_link").symlink_to(pool / "real")  # a folder that is listed as itself
    (pool / "real" / "up").symlink_to(pool)  # a circle
    (tmp_path / "elsewhere" / "back").symlink_to(pool)  # and a longer one
    assert names(pool) == ["real/a.jpg", "a_link/d.jpg", "a_link/deep/e.jpg"]
    assert names(pool / "a_link") == ["d.jpg", "deep/e.jpg", "back/real/a.jpg"]


def test_a_linked_file_is_a_file(tmp_path: Path) -> None:
    put_text(tmp_path / "elsewhere" / "d.jpg", "")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "d.jpg").symlink_to(tmp_path / "elsewhere" / "d.jpg")
    assert names(tmp_path / "pool") == ["d.jpg"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: cannot be listed \(No such file"):
        list(walk_files(tmp_path / "gone"))


def test_what_looks_like_a_picture_is_counted_and_named(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    put_image(tmp_path / "b.jpg").rename(tmp_path / "b")
    put_image(tmp_path / "c.png").rename(tmp_path / "c.jpg_large")
    for name in ("raw1.CR2", "raw2.cr2", "film.mp4", "notes.txt", "labels.json", "model.bin"):
        put_text(tmp_path / name, "text")
    passed = PassedOver()
    assert [Path(p).name for p in walk_pictures(tmp_path, passed)] == ["a.jpg"]
    assert [(Path(p.file).name, p.reason.partition(":")[0]) for p in passed.problems()] == [
        ("b", "1 file without a suffix passed over"),
        ("c.jpg_large", "1 file ending in .jpg_large passed over"),
        ("film.mp4", "1 file ending in .mp4 passed over"),
        ("raw1.CR2", "2 files ending in .cr2 passed over"),
    ]


def test_pools_and_datasets_say_what_they_pass_over(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / "film.webm", "")
    (problem,) = load_images(tmp_path).problems
    assert problem.kind is FindingKind.FILES_PASSED_OVER
    listed = list(open_source(tmp_path).items())
    assert [type(item) is Problem for item in listed] == [False, True]
    assert listed[1] == problem
    assert open_source(tmp_path).count() == 1
    Path(tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no image in it or below it \(.*film.webm: 1 file"):
        load_images(tmp_path)


def test_a_film_is_a_pool_and_no_labelled_image(tmp_path: Path) -> None:
    """A data set says that it passes a film over; a pool reads it, and says what is wrong with it."""
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / "film.mov", "")
    (problem,) = load_images(tmp_path).problems
    assert problem.kind is FindingKind.FILES_PASSED_OVER
    listed = list(open_source(tmp_path).items())
    assert isinstance(listed[1], Problem)
    assert listed[1].kind is FindingKind.IMAGE_UNREADABLE


def test_every_format_that_pillow_reads_is_listed(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    suffixes = (
        "jpg JPEG jfif jpe png apng bmp dib gif tif TIFF webp ppm pnm tga avif jp2 ico pcx qoi"
    )
    for index, suffix in enumerate(suffixes.split()):
        picture.save(tmp_path / f"{index:02}.{suffix}")
    dataset = load_images(tmp_path)
    assert dataset.problems == ()
    assert [r.path.suffix[1:] for r in dataset.records] == suffixes.split()
    assert {(r.width, r.height) for r in dataset.records} == {(8, 8)}


def test_a_film_strip_of_a_phone_is_a_picture(tmp_path: Path) -> None:
    """MPO: two pictures in one file, which Pillow opens as JPEG."""
    image = Image.new("RGB", (64, 48), (200, 20, 20))
    image.save(tmp_path / "a.mpo", format="MPO", save_all=True, append_images=[image])
    assert [record.path.name for record in load_images(tmp_path).records] == ["a.mpo"]
