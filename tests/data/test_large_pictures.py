"""Windows of a large picture hold the same pixels as the whole picture does."""

from __future__ import annotations

import io
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from data_files import picture
from hardmine.data.cut_tiles import Tiles
from hardmine.data.images import read_image
from hardmine.data.picture_windows import WindowedPicture, _PngRows, open_windows

SIZE = (300, 230)
WINDOWS = Tiles(64, 0.25).windows(*SIZE)


def same(path: Path) -> WindowedPicture:
    whole = read_image(path)
    for file in (path, path.read_bytes()):
        found = open_windows(file, str(path), least=1)
        assert found is not None
        assert found.size == whole.size
        for window in WINDOWS:
            np.testing.assert_array_equal(found.crop(window), whole.crop(window))
    assert found is not None
    return found


CODINGS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]
MODES = ["RGB", "L", "P", "CMYK", "RGBA", "1"]


@pytest.mark.parametrize(
    ("mode", "compression"), [("RGB", "jpeg"), ("L", "jpeg"), *product(MODES, CODINGS)]
)
def test_strips(tmp_path: Path, mode: str, compression: str) -> None:
    path = tmp_path / "a.tif"
    strips = {TiffImagePlugin.ROWSPERSTRIP: 32}
    picture(0, SIZE).convert(mode).save(path, compression=compression, tiffinfo=strips)
    found = same(path)
    assert found.sides[1] < SIZE[1], "several strips"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_tiles_of_a_tiff(tmp_path: Path, order: bytes, packed: bool) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiled_tiff(picture(0, SIZE), 64, order, packed))
    found = same(path)
    assert found.sides == (64, 64)


def test_only_the_tiles_of_the_present_row_are_held(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiled_tiff(picture(0, SIZE), 32, b"II", True))
    found = open_windows(path, str(path), least=1)
    assert found is not None
    for window in WINDOWS:
        found.crop(window)
        assert len(found._held) <= 10 * 3, "ten columns, and three rows that a window of 64 touches"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_decoded_once(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    picture(0, SIZE).convert(mode).save(path)
    same(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA"])
def test_bands_of_a_png(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardmine.data.picture_windows._PNG_BAND", 48)
    monkeypatch.setattr("hardmine.data.picture_windows._FEED", 1000)
    path = tmp_path / "a.png"
    image = picture(0, SIZE)
    if mode in {"RGBA", "LA"}:
        image.putalpha(picture(1, SIZE).convert("L"))
    image = image.convert(mode)
    clear = {"transparency": 3} if mode == "P" else {}
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "a camera")
    image.save(path, pnginfo=info, **clear)
    found = same(path)
    assert found.sides == (300, 48)
    last, first = (found.crop((0, y, 300, y + 10)) for y in (220, 0))  # back: it begins again
    whole = read_image(path)
    np.testing.assert_array_equal(first, whole.crop((0, 0, 300, 10)))
    np.testing.assert_array_equal(last, whole.crop((0, 220, 300, 230)))


def test_a_png_is_decompressed_once_for_all_windows_of_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    picture(0, SIZE).save(path)
    monkeypatch.setattr("hardmine.data.picture_windows._PNG_BAND", 16)
    begun = []
    restart = _PngRows._restart
    monkeypatch.setattr(_PngRows, "_restart", lambda rows: begun.append(1) or restart(rows))
    found = open_windows(path, str(path), least=1)
    assert found is not None
    for window in WINDOWS:
        found.crop(window)
        assert len(found._held) <= 5, "bands of 16 rows that a window of 64 touches"
    assert len(begun) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "checksum"])
def test_a_damaged_png_is_told_of(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.png"
    picture(0, (300, 300)).save(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT")
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "changed":
        data[len(data) // 2] ^= 0xFF
    else:
        end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
        data[end] ^= 0xFF
    path.write_bytes(bytes(data))
    found = open_windows(path, str(path), least=1)
    assert found is not None
    with pytest.raises(OSError, match=r"PNG|unrecognized data stream"):
        for row in range(0, 300, 50):
            found.crop((0, row, 300, row + 50))
        found.reduced()


def test_small_ones_turned_ones_and_other_formats_are_read_whole(tmp_path: Path) -> None:
    image = picture(0, SIZE)
    turn = Image.Exif()
    turn[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=turn)
    image.save(tmp_path / "interlaced.png")
    data = bytearray((tmp_path / "interlaced.png").read_bytes())
    data[28] = 1  # says that it is; only the header is looked at
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "interlaced.png").write_bytes(data)
    Image.fromarray(np.zeros((230, 300), np.uint16)).save(tmp_path / "deep.png")
    image.save(tmp_path / "a.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.zeros((230, 300), np.uint16)).save(tmp_path / "deep.tif")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    image.save(tmp_path / "small.jpg")
    names = ("a.webp", "turned.png", "interlaced.png", "deep.png")
    for name in (*names, "turned.jpg", "deep.tif", "broken.jpg", "none.tif"):
        assert open_windows(tmp_path / name, name, least=1) is None
    assert open_windows(tmp_path / "small.jpg", "small.jpg") is None


def test_the_reduced_picture_is_the_mean_of_what_it_covers(tmp_path: Path) -> None:
    size = (3000, 2200)
    image = picture(0, size)
    path = tmp_path / "a.tif"
    path.write_bytes(tiled_tiff(image, 256, b"II", True))
    found = open_windows(path, str(path), least=1)
    assert found is not None
    np.testing.assert_array_equal(found.reduced(), image.reduce(3))


def tiled_tiff(image: Image.Image, side: int, order: bytes, packed: bool) -> bytes:
    """Write a TIFF in tiles, which Pillow only reads."""
    endian = "little" if order == b"II" else "big"
    array = np.asarray(image)
    height, width = array.shape[:2]
    tiles = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = np.zeros((side, side, 3), np.uint8)
            part = array[y : y + side, x : x + side]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(zlib.compress(tile.tobytes()) if packed else tile.tobytes())
    head = order + (b"*\0" if order == b"II" else b"\0*") + (8).to_bytes(4, endian)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    plain = {256: width, 257: height, 258: (8, 8, 8), 259: 8 if packed else 1, 262: 2, 277: 3}
    for tag, value in (plain | {322: side, 323: side}).items():
        tags[tag] = value
    lengths = [len(tile) for tile in tiles]
    tags.tagtype[324] = tags.tagtype[325] = 4
    tags[324], tags[325] = tuple(lengths), tuple(lengths)
    start = len(head) + len(tags.tobytes(len(head)))
    tags[324] = tuple(start + sum(lengths[:i]) for i in range(len(tiles)))
    out = io.BytesIO()
    out.write(head + tags.tobytes(len(head)) + b"".join(tiles))
    return out.getvalue()
