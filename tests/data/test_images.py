"""Pictures as a person sees them, and the ones that nobody can see."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from hardmine.data import images as image_io
from hardmine.data.images import (
    allow_pixels,
    as_picture,
    decode_image,
    encoded_size,
    has_picture_name,
    image_size,
    read_header,
    read_image,
    read_picture,
)
from hardmine.data.resize import Mode, Resize
from hardmine.errors import ConfigError, DataError, MissingExtraError


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), "black")
    image.paste("red", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == image_size(tmp_path / "a.png") == (20, 30)
    assert upright.getpixel((15, 5)) == (255, 0, 0)


UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),  # clockwise
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}
"""By EXIF orientation, how the stored picture u8[H, W, 3] is turned (EXIF 2.3, table 4.6.4)."""


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("turn", UPRIGHT)
def test_a_picture_is_turned_once_whoever_turns_it(tmp_path: Path, turn: int, suffix: str) -> None:
    """Pillow turns TIFFs itself while it loads them, and leaves the others to the reader."""
    if not features.check(suffix[1:].replace("png", "zlib").replace("tif", "libtiff")):
        pytest.skip(f"this Pillow has no {suffix}")
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8], stored[8:, 24:] = 255, 128
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = turn
    path = tmp_path / f"a{suffix}"
    how: dict[str, Any] = {"quality": 100} if suffix == ".avif" else {"lossless": True}
    image.save(path, exif=exif, **how)
    wanted = UPRIGHT[turn](stored)
    got = np.asarray(read_image(path)).astype(int)
    assert got.shape == wanted.shape
    assert abs(got - wanted).max() < 30
    assert image_size(path) == encoded_size(path.read_bytes(), "a") == wanted.shape[1::-1]
    assert read_header(path) == (wanted.shape[1::-1], turn)
    with Image.open(path) as opened:
        assert abs(np.asarray(as_picture(opened).pixels).astype(int) - wanted).max() < 30


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "a.jpg").getpixel((4, 4))  # type: ignore[misc]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 100], [200, 255]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((1, 1)) == (255, 0, 0)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((1, 1)) == (7, 7, 7)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes long"),
        (b"hello, I am a text", "not an image of a known format"),
        (None, "no such file"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=f"bad.jpg: {reason}"):
            read(path)


def test_heif_under_another_name_is_recognised_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48), (200, 20, 20)).save(path, format="HEIF")
    registered = {name: Image.OPEN.pop(name) for name in ("HEIF", "AVIF") if name in Image.OPEN}
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in registered])
    monkeypatch.setattr(image_io, "_heif_plugin", lambda: False)
    try:
        for read in (read_image, image_size):
            with pytest.raises(MissingExtraError, match=r"a.jpg: HEIF pictures need"):
                read(path)
    finally:
        Image.OPEN.update(registered)
    monkeypatch.undo()
    assert image_size(path) == (64, 48)
    assert read_image(path).size == (64, 48)


def test_heif_needs_its_extra_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    Image.new("RGB", (64, 48), (200, 20, 20)).save(tmp_path / "a.HEIC", format="HEIF")
    assert has_picture_name("a.HEIC")
    assert image_size(tmp_path / "a.HEIC") == (64, 48)
    assert (
        np.abs(np.array(read_image(tmp_path / "a.HEIC").getpixel((9, 9))) - [200, 20, 20]).max() < 9
    )
    monkeypatch.setattr(image_io, "_heif_plugin", lambda: False)
    for read in (read_image, image_size):
        with pytest.raises(MissingExtraError, match=r"a.HEIC: .*pip install 'hardmine\[heif\]'"):
            read(tmp_path / "a.HEIC")


def test_names_of_pictures() -> None:
    for name in ("a.jpg", "a.JFIF", "sub/a.b.Webp", "a.avif", "a.tiff", "a.ppm", "a.heic"):
        assert has_picture_name(name), name
    for name in ("a", "jpg", "a.txt", "a.pdf", "a.eps", "a.h5", "a.mpg", ".jpg"):
        assert not has_picture_name(name), name


def test_a_picture_beyond_the_limit_can_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setenv("HARDMINE_MAX_PIXELS", "1000")
    Image.new("RGB", (41, 30), "red").save(tmp_path / "a.png")  # 1230 pixels, more than 2 · 500
    with pytest.raises(DataError, match=r"a.png: too many pixels .*--max-pixels N"):
        read_image(tmp_path / "a.png")
    allow_pixels(1228)
    with pytest.raises(DataError, match="too many pixels"):
        image_size(tmp_path / "a.png")
    allow_pixels(1230)
    assert read_image(tmp_path / "a.png").size == (41, 30)
    assert os.environ["HARDMINE_MAX_PIXELS"] == "1230"
    with pytest.raises(ConfigError, match="max pixels: got 0, wanted at least 1"):
        allow_pixels(0)


def test_a_process_that_is_started_keeps_the_limit() -> None:
    code = "import hardmine.data.images; from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HARDMINE_MAX_PIXELS": "2000000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1000000000\n"


def test_truncated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="broken image"):
        read_image(tmp_path / "a.jpg")


def test_folder_instead_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder, not an image"):
        read_image(tmp_path)


# Decoding at a fraction of the size.

RESIZE = Resize(64, 64)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((127, 127), 1),
        ((128, 127), 1),
        ((128, 128), 2),
        ((300, 256), 4),
        ((2000, 511), 4),
        ((2000, 512), 8),
        ((4000, 3000), 8),
    ],
)
def test_the_smallest_scale_that_covers_the_input(size: tuple[int, int], factor: int) -> None:
    picture = decode_image(jpeg(smooth(*size)), "a", RESIZE.cover)
    assert picture.factor == factor
    assert (picture.width, picture.height) == size
    assert picture.pixels.size == tuple(-(-side // factor) for side in size)
    assert min(picture.pixels.size) >= 64 or factor == 1


@pytest.mark.parametrize("size", [(500, 375), (333, 251)])
@pytest.mark.parametrize("grey", [False, True])
def test_both_decoders_give_the_same_pixels(
    size: tuple[int, int], grey: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = smooth(*size)
    data = jpeg(image.convert("L") if grey else image)
    for cover in (None, RESIZE.cover, lambda w, h: (40, 30)):
        quick = decode_image(data, "a", cover)
        with monkeypatch.context() as patch:
            patch.setattr(image_io, "simplejpeg", None)
            plain = decode_image(data, "a", cover)
        assert quick.factor == plain.factor
        assert (np.asarray(quick.pixels) == np.asarray(plain.pixels)).all()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_scaled_and_turned_gives_the_picture_of_the_full_decode(turn: int, mode: Mode) -> None:
    """263 x 157 at 1/4 leaves spare columns, which turning moves to other sides."""
    exif = Image.Exif()
    exif[0x0112] = turn
    data = jpeg(smooth(263, 157), exif=exif)
    resize = Resize(32, 32, mode)
    whole, scaled = decode_image(data, "a"), decode_image(data, "a", resize.cover)
    assert scaled.factor in (4, 8)
    assert (scaled.width, scaled.height) == ((263, 157) if turn < 5 else (157, 263))
    expected, placement = resize.apply(whole)
    pixels, same_placement = resize.apply(scaled)
    assert placement == same_placement
    difference = np.abs(expected.astype(int) - pixels.astype(int))
    assert difference.mean() < 1.5
    assert difference.max() < 16


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_window_of_a_scaled_picture_lies_where_it_lay(turn: int) -> None:
    image = Image.new("RGB", (411, 207), "black")
    image.paste("white", (160, 80, 240, 120))
    exif = Image.Exif()
    exif[0x0112] = turn
    whole = decode_image(jpeg(image, exif=exif), "a")
    scaled = decode_image(jpeg(image, exif=exif), "a", lambda w, h: (20, 20))
    assert scaled.factor == 8
    rows, columns = np.nonzero(np.asarray(whole.pixels)[..., 0] > 127)
    x, y = columns.min(), rows.min()
    window = (x - 30.0, y - 20.0, x + 110.0, y + 90.0)
    a, b = (np.asarray(p.resize((55, 55), window=window))[..., 0] / 255 for p in (whole, scaled))
    for axis in (0, 1):  # the centre of the white part
        centres = [np.arange(55) @ i.sum(axis) / i.sum() for i in (a, b)]
        assert abs(centres[0] - centres[1]) < 0.25


def test_other_formats_are_read_whole(tmp_path: Path) -> None:
    smooth(640, 640).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", RESIZE.cover).factor == 1


def test_bad_files_on_the_scaled_path(tmp_path: Path) -> None:
    whole = jpeg(smooth(640, 480, 1))
    cases = {
        b"": "zero bytes long",
        b"hello, I am a text": "not an image of a known format",
        whole[: len(whole) // 2]: "broken image",
    }
    for data, reason in cases.items():
        with pytest.raises(DataError, match=rf"^shard.tar/a\.jpg: {reason}"):
            decode_image(data, "shard.tar/a.jpg", RESIZE.cover)
    with pytest.raises(DataError, match="no such file"):
        read_picture(tmp_path / "missing.jpg", RESIZE.cover)
    with pytest.raises(DataError, match="a folder, not an image"):
        read_picture(tmp_path, RESIZE.cover)


def test_odd_files_on_the_scaled_path() -> None:
    cmyk = jpeg(Image.new("CMYK", (640, 480), (0, 255, 255, 0)))
    picture = decode_image(cmyk, "a", RESIZE.cover)
    assert picture.factor == 4
    assert picture.pixels.size == (160, 120)
    red, green, blue = picture.pixels.getpixel((4, 4))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 60
    unusual = jpeg(smooth(640, 480)) + b"left-over bytes"
    assert decode_image(unusual, "a", RESIZE.cover).factor == 4
    progressive = jpeg(smooth(640, 480), progressive=True)
    assert decode_image(progressive, "a", RESIZE.cover).factor == 4


def test_no_damage_raises_anything_but_a_data_error() -> None:
    """Every other byte of a small file is overwritten, by two values each."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(smooth(48, 40), exif=exif)
    read = 0
    for place in range(0, len(data), 2):
        for value in (0, 255):
            broken = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                read += decode_image(broken, "a", lambda w, h: (20, 20)).width > 0
            except DataError:
                continue
    assert 0 < read < len(data)


def test_a_broken_file_is_an_error_also_where_another_package_replaced_pillows_opener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ultralytics does so, and its function installs a package for whatever is no picture."""
    patches = ModuleType("other.patches")
    pillows = getattr(sys.modules[Image.open.__module__], "_image_open", Image.open)
    patches._image_open = pillows  # type: ignore[attr-defined]

    def replaced(*_: object, **__: object) -> Image.Image:
        raise ModuleNotFoundError("No module named 'pi_heif'")

    replaced.__module__ = "other.patches"
    monkeypatch.setitem(sys.modules, "other.patches", patches)
    monkeypatch.setattr(Image, "open", replaced)
    broken, good = tmp_path / "broken.png", tmp_path / "good.png"
    broken.write_bytes(b"no picture")
    Image.new("RGB", (5, 4)).save(good)
    with pytest.raises(DataError, match="not an image of a known format"):
        read_image(broken)
    assert read_image(good).size == (5, 4)
