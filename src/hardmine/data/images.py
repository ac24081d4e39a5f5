"""Reading pictures as a person sees them: RGB, upright, 8 bits, first frame.

Training, evaluation, mining and export all read through here, so that they see identical pixels.
JPEGs much larger than what the model takes are decoded at ½, ¼ or ⅛ of their size inside the decoder
(DCT scaling). simplejpeg does it for plain files and Pillow for odd ones: both give the same pixels.

A picture is whatever Pillow opens by itself; HEIF needs the extra ``heif``.

Grey pictures of more than 8 bits follow one rule for how bright they become. A file of 16 bits per
pixel often holds 10, 12 or 14: its own numbers do not say which, and stretching each picture to its
own maximum would make a dark one bright. So all pictures of a set share one white:

- what the file declares, where its format scales pictures to it (PGM, JPEG 2000) or says how many
  bits there are (TIFF's BitsPerSample below 16, MaxSampleValue);
- else the largest number of 8, 10, 12, 14 or 16 bits that holds every pixel of the set. The set are
  the files of the same folder or archive with the same suffix: of a folder an even sample of 64, of
  an archive or a folder on a network the first ones.

White becomes 255 and 0 stays 0. Numbers of floating point have the white 1.0 where none in the set is
larger. A picture that is brighter than the sample showed takes the white that holds it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from hardmine.errors import ConfigError, DataError, MissingExtraError
from hardmine.types import F64

try:
    import simplejpeg
except ImportError:  # Pillow alone decodes to the same pixels, more slowly
    simplejpeg = None

_CROP = re.compile(r"(?P<image>.+)#xywh=(?P<x>\d+),(?P<y>\d+),(?P<w>[1-9]\d*),(?P<h>[1-9]\d*)")
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_NOT_ALONE = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"})
"""Formats whose name Pillow knows and that it does not decode without another program."""
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
)
"""How the files of common picture formats begin."""
_MAX_PIXELS = "HARDMINE_MAX_PIXELS"
"""Environment variable that hands `allow_pixels` on to processes that this one starts."""

Cover = Callable[[int, int], tuple[float, float]]
"""From the (width, height) of an image as displayed to the (width, height) to which it will be resized,
pixels: what a decoder must at least deliver. ``Resize.cover`` is one.
"""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture, by its EXIF orientation; 5 to 8 exchange width and height."""
_SIDEWAYS = 5
_ORIENTATION = 0x0112
_FACTORS = (8, 4, 2)
READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What the decoders of so many formats raise when a file is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of ``width`` × ``height`` pixels as displayed, maybe held at a fraction of that size.

    Boxes and windows always refer to the whole image: point (x, y) of it lies at ``origin`` +
    (x, y) / ``factor`` of ``pixels``. ``factor`` is 1, 2, 4 or 8.
    """

    pixels: Image.Image
    width: int
    height: int
    factor: int = 1
    origin: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def of(image: Image.Image) -> Picture:
        """Return an image that is held at its own size."""
        return Picture(image, image.width, image.height)

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        window: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        """Resample the part inside ``window`` (xyxy of the whole image; default all) to ``size``."""
        if window is None:
            window = (0, 0, self.width, self.height)
        (x, y), (w, h) = self.origin, self.pixels.size
        low_x, low_y, high_x, high_y = (value / self.factor for value in window)
        box = (max(0.0, low_x + x), max(0.0, low_y + y), min(w, high_x + x), min(h, high_y + y))
        return self.pixels.resize(size, resample, box=box)


def usual_suffix(suffix: str) -> str:
    """Return a picture's suffix in lower case, that of a JPEG as all programs know it."""
    suffix = suffix.lower()
    return ".jpg" if suffix in (".jfif", ".jpe") else suffix


def has_picture_name(name: str | Path) -> bool:
    """Return whether a file's name ends as that of a picture, in any case."""
    return os.path.splitext(name)[1].lower() in picture_suffixes()  # noqa: PTH122


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes (lower case) of the formats that Pillow decodes, and of HEIF."""
    Image.init()
    known = Image.registered_extensions().items()
    decoded = {ext for ext, name in known if name in Image.OPEN and name not in _NOT_ALONE}
    decoded |= {ext for ext, name in known if name == "MPO"}  # opened as JPEG
    return frozenset(decoded | HEIF_SUFFIXES)


def looks_like_picture(path: Path) -> bool:
    """Return whether a file, whatever its name, begins as one of a common picture format."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    riff = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    return riff or start.startswith(_MAGIC) or start[4:8] == b"ftyp"


def allow_pixels(number: int) -> None:
    """Read pictures of up to so many pixels, here and in processes that this one starts.

    Without it Pillow's limit holds: about 179 million.

    Raises:
        ConfigError: not a positive number.
    """
    if number < 1:
        raise ConfigError(f"max pixels: got {number}, wanted at least 1")
    os.environ[_MAX_PIXELS] = str(number)
    Image.MAX_IMAGE_PIXELS = -(-number // 2)  # Pillow refuses what is larger than twice this


if os.environ.get(_MAX_PIXELS, "").isdecimal():
    allow_pixels(int(os.environ[_MAX_PIXELS]))


def crop_name(image: Path | str, rectangle: tuple[int, int, int, int]) -> str:
    """Return the name of a part of an image, ``a.jpg#xywh=10,20,300,200``.

    Args:
        rectangle: left, top, right, bottom in whole pixels; right and bottom are exclusive.
    """
    left, top, right, bottom = rectangle
    return f"{image}#xywh={left},{top},{right - left},{bottom - top}"


def split_crop(name: str) -> tuple[str, tuple[int, int, int, int]] | None:
    """Return the image and the rectangle that a crop's name says; ``None`` for any other name."""
    found = _CROP.fullmatch(name)
    if found is None:
        return None
    left, top, width, height = (int(found[key]) for key in ("x", "y", "w", "h"))
    return found["image"], (left, top, left + width, top + height)


def read_crop(name: str) -> bytes:
    """Return a part of an image by its name, as a PNG file, which loses nothing.

    Raises:
        DataError: the name is none of a crop, or the image is gone, broken or smaller than that.
    """
    found = split_crop(name)
    if found is None:
        raise DataError(f"{name}: not the name of a crop")
    path, (left, top, right, bottom) = found
    image = read_image(Path(path))
    if right > image.width or bottom > image.height:
        raise DataError(f"{name}: the image has {image.width}x{image.height} pixels")
    file = io.BytesIO()
    image.crop((left, top, right, bottom)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def read_image(path: Path) -> Image.Image:
    """Decode one image file at its full size; see :func:`decode_image`.

    Raises:
        DataError: the file is missing, empty, truncated, too large or no image.
    """
    return read_picture(path).pixels


def read_picture(path: Path, cover: Cover | None = None) -> Picture:
    """Read and decode one image file; see :func:`decode_image`.

    Raises:
        DataError: the file is missing, empty, truncated, too large or no image.
    """
    return decode_image(read_file(path), str(path), cover)


def read_file(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        DataError: it is missing or may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {_missing(error)}") from None


def decode_image(data: bytes, name: str, cover: Cover | None = None) -> Picture:
    """Decode an image file's content, wherever it came from (a file, an archive, a network).

    EXIF orientation is applied, CMYK, palette and grey become RGB, transparency is laid on white,
    deeper grey is scaled to 8 bits, and of an animation the first frame is taken.

    Args:
        data: the encoded image.
        name: what an error calls it.
        cover: the size to which the image will be resized. A JPEG that is at least twice as wide and
            twice as high is decoded at the smallest of ½, ¼ and ⅛ that still covers it; without
            ``cover`` all of it is decoded.

    Returns:
        Picture: with the original size, in which boxes are given.

    Raises:
        DataError: the content is empty, truncated, too large or no image.
        MissingExtraError: it is a HEIF picture, and the extra that reads them is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(io.BytesIO(data), name) as image:
                return _decode(image, data, name, cover)
    except READ_ERRORS as error:
        raise DataError(f"{name}: {_reason(len(data), error)}") from None


def as_picture(image: Image.Image) -> Picture:
    """Return an image that somebody else has opened as :func:`decode_image` would: upright, RGB."""
    turn = _left_to_turn(image)
    pixels = _to_rgb(image, str(getattr(image, "filename", "")))
    return Picture.of(pixels.transpose(_TURNS[turn]) if turn in _TURNS else pixels)


def open_picture(file: Path | io.BytesIO, name: str = "") -> Image.Image:
    """Open a picture as Pillow does, with the plug-in for HEIF where its name or content says so.

    Args:
        file: a path, or the content of a file.
        name: what the content is called; the path if not given.

    Raises:
        MissingExtraError: it is a HEIF picture, and the extra that reads them is not installed.
    """
    called = name or str(file)
    missing = f"{called}: HEIF pictures need pillow-heif; pip install 'hardmine[heif]'"
    if os.path.splitext(called)[1].lower() in HEIF_SUFFIXES and not _heif_plugin():  # noqa: PTH122
        raise MissingExtraError(missing)
    try:
        return pillow_open(file)
    except UnidentifiedImageError:
        if not _holds_heif(file):
            raise
    if not _heif_plugin():  # phones and chats rename such files to .jpg
        raise MissingExtraError(missing)
    return pillow_open(file)


def _holds_heif(file: Path | io.BytesIO) -> bool:
    """Return whether a file, whatever its name, begins as a HEIF picture."""
    if isinstance(file, io.BytesIO):
        start = file.getvalue()[:12]
    else:
        with file.open("rb") as opened:
            start = opened.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) as displayed, reading the header only.

    Raises:
        DataError: the file is missing, empty or no image.
    """
    return read_header(path)[0]


def encoded_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height) as displayed of an image file's content, reading the header only.

    Raises:
        DataError: the content is empty or no image; ``name`` is what the error calls it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(io.BytesIO(data), name) as image:
                return _displayed(image.size, _left_to_turn(image))
    except READ_ERRORS as error:
        raise DataError(f"{name}: {_reason(len(data), error)}") from None


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """Return (width, height) as displayed and the EXIF orientation 1 to 8, reading the header only.

    Raises:
        DataError: the file is missing, empty or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(path) as image:
                return _displayed(image.size, _left_to_turn(image)), orientation(image)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {_missing(error)}") from None
    except READ_ERRORS as error:
        raise DataError(f"{path}: {_reason(path.stat().st_size, error)}") from None


@cache
def _heif_plugin() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _decode(image: Image.Image, data: bytes, name: str, cover: Cover | None) -> Picture:
    turn = _left_to_turn(image)
    width, height = _displayed(image.size, turn)
    jpeg = image.format in {"JPEG", "MPO"}
    factor = _factor(width, height, cover) if jpeg and cover is not None else 1
    stored_width, stored_height = image.size
    pixels = _plain_jpeg(image, data, factor) if jpeg else None
    if pixels is None:
        if factor > 1:
            image.draft(image.mode, (stored_width // factor, stored_height // factor))
        image.load()
        pixels = _to_rgb(image, name)
    # What the last column and row reach beyond the image, in columns and rows.
    spare_x = pixels.width - stored_width / factor
    spare_y = pixels.height - stored_height / factor
    if turn in _TURNS:
        pixels = pixels.transpose(_TURNS[turn])
    return Picture(pixels, width, height, factor, _origin(turn, spare_x, spare_y))


def _plain_jpeg(image: Image.Image, data: bytes, factor: int) -> Image.Image | None:
    """Decode by simplejpeg, twice as quick; None for what it cannot or would judge otherwise."""
    if simplejpeg is None or image.mode not in {"RGB", "L"}:
        return None
    width, height = (-(-side // factor) for side in image.size)
    try:
        array = simplejpeg.decode_jpeg(
            data, "RGB", min_width=width, min_height=height, min_factor=float(factor)
        )
    except (ValueError, RuntimeError):
        return None  # truncated, or merely unusual: Pillow decides, and says what is wrong
    return Image.fromarray(array) if array.shape[:2] == (height, width) else None


def _factor(width: int, height: int, cover: Cover) -> int:
    """Return the largest reduction at which the decoded image still covers what is needed."""
    wide, high = cover(width, height)
    for factor in _FACTORS:
        if width >= factor * wide and height >= factor * high:
            return factor
    return 1


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation as it is stored, 1 to 8; 1 where there is none."""
    return int(image.getexif().get(_ORIENTATION, 1) or 1)


def _left_to_turn(image: Image.Image) -> int:
    """Return the orientation by which an image is still to be turned.

    Pillow turns TIFFs itself while it loads them, and gives their upright size before that.
    """
    return 1 if isinstance(image, TiffImageFile) else orientation(image)


def _displayed(size: tuple[int, int], turn: int) -> tuple[int, int]:
    width, height = size
    return (height, width) if turn in _TURNS and turn >= _SIDEWAYS else (width, height)


def _origin(turn: int, spare_x: float, spare_y: float) -> tuple[float, float]:
    """Return where the image's corner lies after turning: the spare part may now come first."""
    return {
        2: (spare_x, 0.0),
        3: (spare_x, spare_y),
        4: (0.0, spare_y),
        6: (spare_y, 0.0),
        7: (spare_y, spare_x),
        8: (0.0, spare_x),
    }.get(turn, (0.0, 0.0))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if is_deep_grey(image):
        white = declared_white(image) or (white_of_set(name) if name else None)
        return to_eight_bits(image, white).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        canvas = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(canvas, layered).convert("RGB")
    return image.convert("RGB")


def _missing(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, PermissionError):
        return "not readable (permission denied)"
    return f"not readable ({error.strerror or error})"


def _reason(length: int, error: Exception) -> str:
    if length == 0:
        return "zero bytes long"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too many pixels for Pillow's limit (--max-pixels N allows more)"
    return f"broken image ({error})"


BITS = (8, 10, 12, 14, 16)
SAMPLE = 64
"""Pictures of a set that are looked at."""

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_SCALED = frozenset({"PPM", "JPEG2000"})
"""Formats whose whole pictures Pillow scales to 16 bits."""
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)

SetOf = Callable[[str], str | None]
Contents = Callable[[str, str], Iterable[bytes]]
_readers: list[tuple[SetOf, Contents]] = []


def add_set_reader(set_of: SetOf, contents: Contents) -> None:
    """Let pictures that are no files of their own have a set, such as the members of an archive.

    Args:
        set_of: returns the name of a picture's set, None where the picture is not of this kind.
        contents: returns the first ``SAMPLE`` pictures of a set, given its name and their suffix.
    """
    _readers.append((set_of, contents))


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether a picture is grey with more than 8 bits per pixel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def declared_white(image: Image.Image) -> float | None:
    """Return the number that stands for white, where the file says so."""
    if image.format in _SCALED and image.mode != "F":
        return float(2**16 - 1)
    tags = getattr(image, "tag_v2", {})
    largest = tags.get(_MAX_SAMPLE_VALUE)
    if isinstance(largest, tuple):
        largest = largest[0]
    if isinstance(largest, int) and largest > 255:
        return float(largest)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    return float(2**bits - 1) if 8 < bits < 16 else None


def white_of_set(name: str) -> float:
    """Return the number that stands for white in the set of a picture, by the rule above."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    for index, (set_of, _) in enumerate(_readers):
        found = set_of(name)
        if found is not None:
            return _white_of(index, found, suffix)
    return _white_of(-1, os.path.dirname(name) or ".", suffix)  # noqa: PTH120


def white_of(contents: Iterable[str | bytes]) -> float:
    """Return the white of a set, given the paths or the contents of its pictures.

    What is not deep grey or cannot be read is passed over; without any picture it is that of 16 bits.
    """
    largest, whole = -1.0, False
    for content in contents:
        found = _largest(content)
        if found is not None:
            largest, whole = max(largest, found[0]), whole or found[1]
    return float(2**16 - 1) if largest < 0 else _white(largest, whole)


def to_eight_bits(image: Image.Image, white: float | None) -> Image.Image:
    """Return a deep grey picture as one of 8 bits: ``white`` becomes 255, 0 stays 0.

    None: the picture is a set of its own.
    """
    values = _values(image)
    largest = float(values.max(initial=0.0))
    if white is None or largest > white:
        white = _white(largest, image.mode != "F")
    return Image.fromarray((values * (255.0 / white)).clip(0, 255).round().astype(np.uint8))


@lru_cache(4096)
def _white_of(reader: int, name: str, suffix: str) -> float:
    """Return the white of a set: a folder's, or one that a reader knows."""
    return white_of(_sample(name, suffix) if reader < 0 else _readers[reader][1](name, suffix))


def _sample(folder: str, suffix: str) -> Iterator[str]:
    """Yield up to ``SAMPLE`` files of a folder that have the suffix, evenly over their names."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.lower().endswith(suffix))
    except OSError:
        return
    step = max(1, -(-len(names) // SAMPLE))
    yield from (os.path.join(folder, name) for name in names[::step])  # noqa: PTH118


def _largest(content: str | bytes) -> tuple[float, bool] | None:
    """Return a deep grey picture's largest number, and whether its numbers are whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow_open(content) as image:
                if not is_deep_grey(image):
                    return None
                values = _values(image)
                return float(values.max(initial=0.0)), image.mode != "F"
    except (*_BROKEN, Image.DecompressionBombError, MemoryError):
        return None


def _values(image: Image.Image) -> F64:
    values = np.asarray(image, np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _white(largest: float, whole: bool) -> float:
    if not whole and largest <= 1.0:
        return 1.0
    bits = next((bits for bits in BITS if largest <= 2**bits - 1), None)
    return largest if bits is None else float(2**bits - 1)


def pillow_open(file: Any) -> Image.Image:
    """Open a picture (a path, or a binary file) as ``PIL.Image.open`` does, without decoding it.

    ultralytics replaces ``PIL.Image.open`` for the whole process by a function that installs a package
    when a file is no picture. Here a broken file is an error and nothing is installed, whether or not
    ultralytics was imported before; it keeps Pillow's function as ``_image_open``.

    Raises:
        PIL.UnidentifiedImageError: no picture of a known format.
    """
    replaced = sys.modules.get(Image.open.__module__)
    opener = getattr(replaced, "_image_open", Image.open)
    opened: Image.Image = opener(io.BytesIO(file) if isinstance(file, bytes) else file)
    return opened
