from __future__ import annotations

import glob
import io
import os
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from PIL import Image

from hardmine.data.resize import Resize
from hardmine.errors import DataError, MissingExtraError
from hardmine.finding_kinds import FindingKind
from hardmine.inference.image_loading import UNREACHABLE, ImageItem, Loaded, load_item, read_item
from hardmine.mining.sources import remote as sources_remote
from hardmine.mining.sources.local_files import load_pool
from hardmine.mining.sources.pool_source import ListSource, Source, open_image, open_source
from hardmine.types import Problem

RESIZE = Resize(16, 16)


def picture(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (red, 9, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {"a.jpg": picture(15), "sub/b.jpg": picture(95), "sub/c.JPG": picture(205)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pool"
    for name, data in {**FILES, "notes.txt": b"hello", ".hidden.jpg": b"x"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, mode: Any = "w", files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in {**files, "a.json": b"{}"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def reds(source: Source) -> dict[str, int]:
    """Return each image's mean red, by name; a problem's is -1."""
    result = {}
    for item in source.items():
        loaded = item if isinstance(item, Problem) else load_item(item, RESIZE, hashed=False)
        name = loaded.file if isinstance(loaded, Problem) else loaded.name
        result[name] = round(loaded.pixels[..., 0].mean()) if isinstance(loaded, Loaded) else -1
    return result


def check(source: Source, prefix: str) -> None:
    """Every image is there, found again by its name alone, and belongs to the source."""
    assert {n.removeprefix(prefix): r // 10 for n, r in reds(source).items()} == {
        "a.jpg": 1,
        "sub/b.jpg": 9,
        "sub/c.JPG": 20,
    }
    for item in source.items():
        assert isinstance(item, ImageItem)
        assert source.holds(item.name)
        again = load_item(open_image(item.name), RESIZE, hashed=False)
        first = load_item(item, RESIZE, hashed=False)
        assert isinstance(again, Loaded) and isinstance(first, Loaded)
        assert (again.pixels == first.pixels).all()


def test_folder(folder: Path) -> None:
    source = open_source(folder)
    check(source, f"{folder}/")
    assert source.count() == 3
    assert not source.holds(f"{folder}x/a.jpg")
    assert not source.holds(f"{folder}/gone.jpg")


def test_folder_is_listed_lazily(folder: Path) -> None:
    walk = open_source(folder).items()
    next(walk)
    (folder / "sub" / "d.jpg").write_bytes(picture(50))
    assert f"{folder}/sub/d.jpg" in [i.name for i in walk if isinstance(i, ImageItem)]


def test_glob(folder: Path) -> None:
    source = open_source(f"{folder}/**/*.[jJ]*")
    check(source, f"{folder}/")
    assert source.prefix == f"{folder}/"
    assert not source.holds(f"{folder}/notes.txt")


@pytest.mark.parametrize(
    ("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")]
)
def test_tar(tmp_path: Path, name: str, mode: str) -> None:
    path = write_tar(tmp_path / name, mode)
    check(open_source(path), f"{path}!/")


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    check(open_source(path), f"{path}!/")


@pytest.mark.parametrize("name", ["pool.zip", "pool.tar", "pool.tar.gz"])
def test_what_is_passed_over_in_an_archive_is_named(tmp_path: Path, name: str) -> None:
    files = FILES | {
        "films/1.mp4": b"x",
        "films/2.MP4": b"x",
        "a.cr2": b"x",
        "__MACOSX/b.cr2": b"x",
        "more.zip": b"x",
    }
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
    else:
        write_tar(path, "w:gz" if name.endswith(".gz") else "w", files)
    source = open_source(str(path))
    for _ in range(2):  # listing it again counts anew
        found = [str(item) for item in source.items() if isinstance(item, Problem)]
        assert found == [
            f"{path}!/films/1.mp4: 2 files ending in .mp4 passed over: not read from an archive",
            f"{path}!/a.cr2: 1 file ending in .cr2 passed over: not read from an archive",
            f"{path}!/more.zip: 1 file ending in .zip passed over: not read from an archive",
        ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_tar_archive_are_named(tmp_path: Path, mode: Any) -> None:
    """tar keeps a second name of a file, and a symbolic link, without content."""
    path = tmp_path / ("pool.tar.gz" if mode == "w:gz" else "pool.tar")
    with tarfile.open(path, mode) as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = len(FILES["a.jpg"])
        archive.addfile(entry, io.BytesIO(FILES["a.jpg"]))
        for name, kind in (
            ("hard.jpg", tarfile.LNKTYPE),
            ("soft.jpg", tarfile.SYMTYPE),
            ("notes.txt", tarfile.SYMTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "a.jpg"
            archive.addfile(entry)
    for _ in range(2):
        first, *rest = open_source(str(path)).items()
        assert isinstance(first, ImageItem)
        assert first.name == f"{path}!/a.jpg"
        assert [str(item) for item in rest] == [
            f"{path}!/hard.jpg: 2 links to pictures passed over: links in an archive are not followed; "
            "pack the files themselves (tar --dereference --hard-dereference)"
        ]


def test_a_picture_whose_name_could_be_a_glob_is_no_pool(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").write_bytes(FILES["a.jpg"])
    with pytest.raises(DataError, match=r"a\[1\].jpg: not a pool, wanted a folder"):
        open_source(tmp_path / "a[1].jpg")


def test_archives_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar.gz", ".hidden.zip"):
        write_tar(tmp_path / name)
    (tmp_path / "a.jpg").write_bytes(FILES["a.jpg"])
    source = open_source(str(tmp_path))
    *_, last = source.items()
    said = (
        f"{tmp_path}/0.tar: 2 archives passed over: of a folder, pictures and videos are read; name "
        "archives by a glob in quotes, or in a .txt list"
    )
    assert isinstance(last, Problem)
    assert str(last) == said
    assert source.count() == 1
    assert [str(problem) for problem in load_pool(tmp_path).problems] == [said]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError) as caught:
        load_pool(tmp_path)
    assert (
        str(caught.value) == f"{tmp_path}: no readable image in it (1 problem, the first: {said})"
    )


def test_a_glob_names_the_folders_with_pictures_that_it_does_not_read(folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 .5 .5 .1 .1")
    *_, problem = open_source(f"{folder}/*").items()
    assert isinstance(problem, Problem) and problem.kind == FindingKind.FILES_PASSED_OVER
    assert Path(problem.file).name == "sub"
    assert "1 folder with pictures or videos passed over" in problem.reason
    for whole in (f"{folder}/**", f"{folder}/**/*", f"{folder}/*.jpg"):
        kinds = {item.kind for item in open_source(whole).items() if isinstance(item, Problem)}
        assert FindingKind.FILES_PASSED_OVER not in kinds


def test_shards_by_glob(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"shard-{i}.tar", files={f"{i}.jpg": picture(40 * i)})
    names = list(reds(open_source(f"{tmp_path}/shard-*.tar")))
    assert sorted(names) == [f"{tmp_path}/shard-{i}.tar!/{i}.jpg" for i in range(3)]


@pytest.mark.parametrize("pattern", ["*.jpg", "**", "**/*.jpg"])
def test_a_glob_holds_images_whose_names_look_like_patterns(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("img[1].jpg", "what?.jpg", "a*.jpg"):
        (tmp_path / name).write_bytes(picture(50))
    source = open_source(f"{tmp_path}/{pattern}")
    assert len(reds(source)) == 3
    assert all(source.holds(name) for name in reds(source))
    assert not source.holds(f"{tmp_path}/img1.jpg")


def test_a_glob_of_a_whole_tree_holds_what_is_deep_in_it(folder: Path) -> None:
    source = open_source(f"{folder}/**")
    assert all(source.holds(name) for name in reds(source))


@pytest.mark.parametrize("pattern", ["**", "**/*.jpg", "*/**", "**/sub/*"])
def test_a_glob_lists_no_whole_tree_for_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("x/sub/a.jpg", "x/sub/[1].jpg", "x/.hidden/sub/b.jpg", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(50))
    source = open_source(f"{tmp_path}/{pattern}")
    listed: list[str] = []
    iglob = glob.iglob

    def noted(name: str, **options: Any) -> Iterator[str]:
        listed.append(name)
        return iglob(name, **options)

    monkeypatch.setattr(glob, "iglob", noted)
    assert source.holds(f"{tmp_path}/x/sub/a.jpg") and source.holds(f"{tmp_path}/x/sub/[1].jpg")
    assert not any("**" in Path(name).parts for name in listed)
    assert not source.holds(f"{tmp_path}/x/.hidden/sub/b.jpg")
    assert not source.holds(f"{tmp_path}/x/a.jpg")


def test_a_list_may_name_members_whose_names_look_like_patterns(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", files={"img[1].jpg": picture(50)})
    listing = tmp_path / "pool.txt"
    listing.write_text("s.tar!/img[1].jpg\n")
    assert list(reds(open_source(listing))) == [f"{shard}!/img[1].jpg"]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.zip"])
def test_an_archive_in_a_folder_whose_name_ends_in_an_exclamation_mark(
    tmp_path: Path, name: str
) -> None:
    root = tmp_path / "wow!"
    root.mkdir()
    if name.endswith(".zip"):
        with zipfile.ZipFile(root / name, "w") as archive:
            for member, data in FILES.items():
                archive.writestr(member, data)
    else:
        write_tar(root / name, "w:gz" if name.endswith(".gz") else "w")
    check(open_source(root / name), f"{root / name}!/")


@pytest.mark.parametrize("name", ["s.tar", "s.zip"])
def test_of_members_of_one_name_the_last_one_counts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for red in (50, 120):
        if name.endswith(".zip"):
            with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
                warnings.simplefilter("ignore")
                archive.writestr("a.jpg", picture(red))
        else:
            write_tar(path, "a", {"a.jpg": picture(red)})
    items = [item for item in open_source(path).items() if isinstance(item, ImageItem)]
    assert [item.name for item in items] == [f"{path}!/a.jpg"]
    assert reds(open_source(path)) == {f"{path}!/a.jpg": pytest.approx(120, abs=3)}


def test_members_of_one_name_in_a_stream_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "s.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for red in (50, 120):
            entry = tarfile.TarInfo("a.jpg")
            entry.size = len(picture(red))
            archive.addfile(entry, io.BytesIO(picture(red)))
    items = [item for item in open_source(path).items() if isinstance(item, ImageItem)]
    assert [item.name for item in items] == [f"{path}!/a.jpg"]
    assert read_item(items[0]) == read_item(open_image(items[0].name)) == picture(50)


def test_an_image_that_a_list_names_twice_is_one_image(folder: Path, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", files={"t.jpg": picture(120)})
    listing = tmp_path / "pool.txt"
    listing.write_text(
        "pool/a.jpg\npool\npool/sub/b.jpg\ns.tar!/t.jpg\ns.tar\npool/sub\npool/a.jpg\n"
    )
    names = [item.name for item in images_of(listing)]
    assert sorted(names) == [
        f"{folder}/a.jpg",
        f"{folder}/sub/b.jpg",
        f"{folder}/sub/c.JPG",
        f"{shard}!/t.jpg",
    ]
    listing.write_text("pool/a.jpg\npool/a.jpg\n")
    assert open_source(listing).count() == 1
    assert len(load_pool(listing)) == 1


def test_list(folder: Path, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", files={"t.jpg": picture(120)})
    listing = tmp_path / "pool.txt"
    listing.write_text(f"# the pool\npool/a.jpg\n\n{folder}/sub/b.jpg\ns.tar\npool/gone.jpg\n")
    source = open_source(listing)
    found = reds(source)
    assert found == {
        f"{folder}/a.jpg": pytest.approx(15, abs=3),
        f"{folder}/sub/b.jpg": pytest.approx(95, abs=3),
        f"{shard}!/t.jpg": pytest.approx(120, abs=3),
        f"{folder}/gone.jpg": -1,
    }
    assert all(source.holds(name) for name in found)
    assert source.count() is None  # an archive is among the lines
    listing.write_text("pool/a.jpg\npool/notes.txt\n")
    assert isinstance(open_source(listing), ListSource)
    assert list(reds(open_source(listing)).values()) == [pytest.approx(15, abs=3), -1]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls(folder: Path, scheme: str) -> None:
    if scheme == "memory":
        system = fsspec.filesystem("memory")
        for name, data in {**FILES, "notes.txt": b"hello"}.items():
            system.pipe(f"/urls/{name}", data)
        root, wanted = "memory://urls", system.unstrip_protocol("/urls")
    else:
        root = wanted = f"file://{folder}"
        (folder / ".hidden.jpg").unlink()
    check(open_source(root), f"{wanted}/")


@pytest.mark.parametrize("root", ["file://photos", "local://photos/", "local://{}/photos"])
def test_urls_that_their_driver_spells_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """A relative path, and one of several schemes: the names that are listed begin otherwise."""
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check(open_source(root.format(tmp_path)), f"file://{tmp_path}/photos/")
    (one,) = open_source(f"{root.format(tmp_path).rstrip('/')}/su*/b.jpg").items()
    assert isinstance(one, ImageItem)
    assert one.name == f"file://{tmp_path}/photos/sub/b.jpg"


def test_an_archive_behind_a_url(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    check(open_source(f"file://{path}"), f"file://{path}!/")


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Arrow reads buckets of two schemes: one that fsspec does not know, one whose driver is absent."""
    fs = pytest.importorskip("pyarrow.fs")
    (folder / ".hidden.jpg").unlink()
    asked: list[str] = []

    def from_uri(url: str) -> tuple[Any, str]:
        asked.append(url)
        if url not in ("viewfs://photos/", "gs://photos/"):
            raise OSError("no such host")
        return fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem()), folder.name

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    sources_remote._arrow_root.cache_clear()
    yield asked
    sources_remote._arrow_root.cache_clear()


@pytest.mark.parametrize("root", ["viewfs://photos", "gs://photos"])
def test_file_systems_that_only_arrow_reads(folder: Path, bucket: list[str], root: str) -> None:
    check(open_source(root), f"{root}/")
    assert bucket == [f"{root}/"]  # connected once, not for every image
    (one,) = open_source(f"{root}/su*/b.jpg").items()
    assert isinstance(one, ImageItem)
    assert one.name == f"{root}/sub/b.jpg"
    assert open_source(root).holds(one.name)
    assert open_image(one.name).read() == FILES["sub/b.jpg"]  # type: ignore[misc]
    write_tar(folder / "sub" / "s.tar")
    check(open_source(f"{root}/sub/s.tar"), f"{root}/sub/s.tar!/")
    with pytest.raises(DataError, match="no such file"):
        sources_remote.read_remote(f"{root}/gone.jpg")
    with pytest.raises(DataError, match="nothing there"):
        list(open_source(f"{root}/gone").items())
    with pytest.raises(DataError, match=r"elsewhere/: cannot be reached \(no such host\)"):
        list(open_source(f"{root[:-6]}elsewhere/x").items())


def test_without_a_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(sources_remote, "_arrow_root", lambda url: None)
    with pytest.raises(MissingExtraError, match="need a driver for it"):
        list(open_source("gs://photos").items())


def test_arrow_and_fsspec_name_the_same_files(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    url = f"file://{folder}"
    place = sources_remote._connect_by_arrow(url)
    assert place is not None
    system, path, url_of = place
    by_arrow = sorted(url_of(name) for name in sources_remote._list(system, path))
    assert by_arrow == sorted(sources_remote.list_remote(url))
    assert sources_remote._connect_by_arrow("nosuchscheme://x/y") is None


def test_a_shard_that_ends_early(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    data = path.read_bytes()
    cut = data.index(FILES["sub/c.JPG"]) + 40
    path.write_bytes(data[:cut])
    *good, last = open_source(path).items()
    assert [i.name for i in good if isinstance(i, ImageItem)][:2] == [
        f"{path}!/a.jpg",
        f"{path}!/sub/b.jpg",
    ]
    assert isinstance(last, Problem)
    assert (last.kind, last.file) == ("archive_broken", str(path))
    assert "ends early" in last.reason
    packed = write_tar(tmp_path / "t.tar.gz", "w:gz").read_bytes()
    (tmp_path / "s.tar.gz").write_bytes(packed[: len(packed) // 2])
    *_, last = open_source(tmp_path / "s.tar.gz").items()
    assert isinstance(last, Problem) and last.kind == "archive_broken"


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    for name in ("x.tar", "x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive at all" * 99)
        (only,) = open_source(tmp_path / name).items()
        assert isinstance(only, Problem) and only.kind == "archive_broken"


def test_a_url_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_remote, "_PAUSE_S", 0.0)
    with pytest.raises(DataError, match="nothing there"):
        list(open_source("memory://nowhere-at-all").items())
    with pytest.raises(DataError, match="cannot be reached"):
        list(open_source("nosuchscheme://host/x").items())

    class Broken:
        def cat_file(self, path: str) -> bytes:
            raise OSError("connection refused")

    monkeypatch.setattr(sources_remote, "_connect", lambda url: (Broken(), url, str))
    problem = load_item(open_image("s3://bucket/a.jpg"), RESIZE, hashed=False)
    assert isinstance(problem, Problem)
    assert (problem.kind, "connection refused" in problem.reason) == (UNREACHABLE, True)


@pytest.mark.parametrize("name", ["gone", "a.jpg", "list.csv"])
def test_what_is_no_pool(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(FILES["a.jpg"])
    with pytest.raises(DataError, match=r"wanted a folder, a glob, a \.txt list"):
        open_source(tmp_path / name)


def test_names_do_not_change_with_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    before = list(reds(open_source("pool")))
    monkeypatch.chdir(folder)
    assert list(reds(open_source(os.curdir))) == before


def test_the_last_images_are_read_after_the_list_has_ended() -> None:
    """Whoever takes many items at once asks for their bytes when the list is through."""
    slow = [ImageItem(f"{i}", lambda i=i: time.sleep(0.01) or bytes([i])) for i in range(60)]  # type: ignore[misc]
    items = list(sources_remote.read_ahead(slow))
    assert [item.read() for item in items] == [bytes([i]) for i in range(60)]  # type: ignore[union-attr, misc]


def test_reading_ahead_stops_when_nobody_asks_any_more() -> None:
    read: list[int] = []
    items = (ImageItem(f"{i}", lambda i=i: read.append(i) or b"") for i in range(10_000))  # type: ignore[misc]
    walk = sources_remote.read_ahead(items)
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert len(read) < 200


def test_a_damaged_compressed_header_is_a_problem_and_no_fault(tmp_path: Path) -> None:
    """A gzip header that announces an extra field and ends: tarfile raises TypeError."""
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b\x08\x04" + bytes(6))
    (problem,) = open_source(tmp_path / "a.tar.gz").items()
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.file) == ("archive_broken", str(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_as_any_program_saved_it(tmp_path: Path, encoding: str) -> None:
    """Marks, line ends, backslashes, and an accent that the disk spells in two letters."""
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "ka\u0308se.jpg"):
        (tmp_path / name).write_bytes(picture(15))
    text = "a.jpg\r\n\r\n# b\r\nsub\\b.jpg\r\nk\u00e4se.jpg\r\n"
    (tmp_path / "pool.txt").write_bytes(text.encode(encoding))
    found = reds(open_source(tmp_path / "pool.txt"))
    assert [Path(name).relative_to(tmp_path).as_posix() for name in found] == [
        "a.jpg",
        "sub/b.jpg",
        "ka\u0308se.jpg",
    ]
    assert min(found.values()) >= 0


def test_a_list_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_bytes("a.jpg\nkäse.jpg\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"pool\.txt: not a list of files: not UTF-8 text .* line 2"
    ):
        list(open_source(tmp_path / "pool.txt").items())


@pytest.mark.parametrize(
    "line",
    ['"{}/pool/sub/b.jpg"', "'pool/sub/b.jpg'", '"pool\\sub\\b.jpg"', "pool/sub%2Fb.jpg"],
)
def test_quotes_and_signs_of_urls_in_a_list_are_no_part_of_a_name(folder: Path, line: str) -> None:
    listing = folder.parent / "pool.txt"
    listing.write_text(line.format(folder.parent) + "\n")
    assert [str(item.name) for item in images_of(listing)] == [f"{folder}/sub/b.jpg"]


def test_a_file_whose_name_has_such_signs_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a%20b.jpg").write_bytes(picture(15))
    (tmp_path / "a b.jpg").write_bytes(picture(95))
    (tmp_path / "pool.txt").write_text("a%20b.jpg\n")
    assert [item.name for item in images_of(tmp_path / "pool.txt")] == [f"{tmp_path}/a%20b.jpg"]


def test_a_file_whose_name_begins_like_a_comment_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "#1.jpg").write_bytes(picture(15))
    (tmp_path / "a.jpg").write_bytes(picture(95))
    (tmp_path / "pool.txt").write_text("#1.jpg\n#a.jpg\n# all\na.jpg\n")
    names = [item.name for item in images_of(tmp_path / "pool.txt")]
    assert names == [f"{tmp_path}/#1.jpg", f"{tmp_path}/a.jpg"]


def test_names_of_a_list_may_be_relative_to_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listing = folder.parent / "lists" / "pool.txt"
    listing.parent.mkdir()
    listing.write_text("pool/nothere.jpg\npool/a.jpg\n./pool/sub/b.jpg\n")
    monkeypatch.chdir(folder.parent)
    names = [item.name for item in images_of(listing)]
    assert names == [f"{folder}/nothere.jpg", f"{folder}/a.jpg", f"{folder}/sub/b.jpg"]
    assert "names are relative to the working folder" in caplog.text
    (listing.parent / "pool").mkdir()
    (listing.parent / "pool" / "a.jpg").write_bytes(picture(15))  # beside the list: that counts
    assert [item.name for item in images_of(listing)][1] == f"{listing.parent}/pool/a.jpg"


def test_a_line_that_gives_nothing_is_named(folder: Path) -> None:
    (folder.parent / "bare").mkdir()
    listing = folder.parent / "pool.txt"
    listing.write_text("pool/*.jpeg\nbare\npool/a.jpg\n")
    problems = [item for item in open_source(listing).items() if isinstance(item, Problem)]
    assert [(Path(p.file).name, p.reason) for p in problems] == [
        ("*.jpeg", "gives no image"),
        ("bare", "gives no image"),
    ]


def images_of(listing: Path) -> list[ImageItem]:
    return [item for item in open_source(listing).items() if isinstance(item, ImageItem)]


def test_a_list_of_paths_is_refused_with_what_takes_them(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jpg", tmp_path / "b[1].jpg"]
    with pytest.raises(
        DataError, match=r"^pool: got list \[.*, wanted a folder, .* a \.txt list names"
    ):
        open_source(paths)  # type: ignore[arg-type]
