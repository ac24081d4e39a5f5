"""Grey pictures of more than 8 bits come out as bright as their twins of 8 bits, by one rule per set."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from hardmine.data.images import decode_image, read_image, to_eight_bits, white_of
from hardmine.mining.sources.pool_source import open_source


def twins(folder: Path, bits: int, *, suffix: str = ".png", seed: int = 0) -> list[np.ndarray]:
    """Write ten pictures of ``bits`` bits, each darker than the one before; return those of 8 bits."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    eight = [
        (rng.integers(0, 256, (12, 16)) * (1 - k / 10)).astype(np.uint8).clip(0, 255)
        for k in range(10)
    ]
    eight[0][0, 0] = 255
    for k, values in enumerate(eight):
        deep = np.round(values * ((2**bits - 1) / 255)).astype(np.uint16)
        Image.fromarray(deep).save(folder / f"{k}{suffix}")
    return eight


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., 0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_every_depth_is_as_bright_as_its_twin(tmp_path: Path, bits: int, suffix: str) -> None:
    """The last picture holds a tenth of white: stretched by itself it would be much brighter."""
    for k, values in enumerate(twins(tmp_path, bits, suffix=suffix)):
        np.testing.assert_array_equal(grey(read_image(tmp_path / f"{k}{suffix}")), values)


def test_each_folder_is_a_set_of_its_own(tmp_path: Path) -> None:
    for bits in (12, 16):
        twins(tmp_path / str(bits), bits)
    wanted = twins(tmp_path / "again", 12)
    for bits in (12, 16):
        for k, values in enumerate(wanted):
            np.testing.assert_array_equal(
                grey(read_image(tmp_path / str(bits) / f"{k}.png")), values
            )


def test_other_pictures_of_the_folder_have_no_say(tmp_path: Path) -> None:
    wanted = twins(tmp_path, 12)
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "other.tif")
    Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    np.testing.assert_array_equal(grey(read_image(tmp_path / "5.png")), wanted[5])


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_the_members_of_an_archive_are_a_set(tmp_path: Path, kind: str) -> None:
    wanted = twins(tmp_path / "set", 12)
    archive = tmp_path / f"pool.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for k in range(10):
                packed.write(tmp_path / "set" / f"{k}.png", f"{k}.png")
    else:
        with tarfile.open(archive, "w:gz" if kind.endswith("gz") else "w") as packed:
            for k in range(10):
                packed.add(tmp_path / "set" / f"{k}.png", f"{k}.png")
    for item in open_source(archive).items():
        assert item.read is not None
        k = int(Path(item.name).stem)
        np.testing.assert_array_equal(grey(decode_image(item.read(), item.name).pixels), wanted[k])


def test_a_file_that_says_its_depth_is_believed(tmp_path: Path) -> None:
    """PGM says its white; TIFF may name its largest sample; both though the set holds dark ones only."""
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + bytes([0, 100, 3, 255]))
    assert grey(read_image(tmp_path / "a.pgm")).tolist() == [[25, 255]]  # 100 / 1023 · 255 = 24.9
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert grey(read_image(tmp_path / "a.tif")).tolist() == [[0, 19]]  # 300 / 4095 · 255 = 18.7


def test_numbers_of_floating_point(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "unit.tif")
    assert grey(read_image(tmp_path / "unit.tif")).tolist() == [[0, 128, 255]]
    Image.fromarray(np.array([[0.0, 100.4, np.nan]], np.float32)).save(tmp_path / "unit.tiff")
    assert grey(read_image(tmp_path / "unit.tiff")).tolist() == [[0, 100, 0]]


@pytest.mark.parametrize(
    ("largest", "white"),
    [(1, 255), (255, 255), (256, 1023), (1024, 4095), (4096, 16383), (16384, 65535)],
)
def test_white_by_hand(largest: int, white: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, largest]], np.uint16)).save(file, "PNG")
    assert white_of([file.getvalue()]) == white
    assert white_of([]) == 65535


def test_a_picture_brighter_than_the_sample_is_not_cut_off() -> None:
    image = Image.fromarray(np.array([[0, 1023, 4095]], np.uint16))
    assert np.asarray(to_eight_bits(image, 1023.0)).tolist() == [[0, 64, 255]]
