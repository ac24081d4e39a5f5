"""Files: those that we write are whole or absent, and the text of those that people wrote is decoded
once.

What is written is written beside its place, then renamed; a full disk is one clear error.

Label files come from many programs and machines. Whatever reads text (labels, lists, class names,
JSON, CSV, YAML, XML) reads it through here, so that a byte-order mark, Windows line ends or another
spelling of an accent never change what is read, and so that text of an unknown encoding is named
instead of being turned into other letters.
"""

from __future__ import annotations

import codecs
import csv
import errno
import fcntl
import io
import json
import logging
import os
import re
import sqlite3
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shutil import disk_usage
from typing import Any

import yaml

from hardmine.errors import DataError

_log = logging.getLogger(__name__)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file in ``path``'s folder, then rename it to ``path``.

    Killed or out of disk in the middle, the old file (or none) is what remains.

    Raises:
        DataError: the disk is full, whichever library was writing.
    """
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            with clear_disk_errors(path):  # before the part is removed, which frees its space
                write(part)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda part: _dump(part, text))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV, a line each; a name that holds a line break of any kind is quoted."""
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow(row)  # quotes what its own line end, \\r\\n, is made of
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda part: _fill(part, data))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, no NaN (which is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def file_stamp(path: Path | str) -> str:
    """Return size and date of a file, which change when it is written anew; "" where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  (for each image of a pool: a Path costs more than this)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _dump(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")


def _fill(part: Path, data: bytes) -> None:
    part.write_bytes(data)


_WRITERS_WORDS = ("inline_container", "PytorchStreamWriter", "iostream error")
"""What torch and OpenVINO say where any write fails."""

_LITTLE = 16 << 20
"""Free bytes below which a failed write of theirs counts as a full disk."""


@contextmanager
def clear_disk_errors(where: Path) -> Iterator[None]:
    """Turn "no space left" of the file system or of any library that writes into one ``DataError``.

    Args:
        where: the file or folder that was being written; it is named in the message.

    Raises:
        DataError: the disk is full. What was committed before stays.
    """
    try:
        yield
    except Exception as error:
        if not means_full_disk(error, where):
            raise
        raise DataError(
            f"{where}: no space left on the disk; what was written before is kept: "
            "free some space and start the same command again"
        ) from error


def means_full_disk(error: Exception, where: Path) -> bool:
    """True where an error means a full disk, in the words of whichever library was writing.

    The file system says it by number. SQLite and safetensors (Rust) say it in their text; torch and
    OpenVINO only say that their writer failed, which means a full disk where no space is left.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    if isinstance(error, sqlite3.OperationalError):
        shared = "disk I/O error" in text and _free_space(where) < _LITTLE  # its -shm file
        return "disk is full" in text or shared
    if any(f"(os error {code})" in text for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    if isinstance(error, RuntimeError) and any(word in text for word in _WRITERS_WORDS):
        return _free_space(where) < _LITTLE
    return False


def _free_space(where: Path) -> int:
    folder = where
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return disk_usage(folder).free


@contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes that ask for the same out of ``folder`` meanwhile; it ends with the process.

    Args:
        folder: one that does not exist, or lies on a disk without locks, keeps nobody out.
        busy: the rest of the message, such as "another apply is changing this data set".

    Raises:
        DataError: another process is at work there.
    """
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: {busy}") from None
        except OSError:  # a network disk that has no locks
            _log.debug("%s: cannot be locked", folder)
        yield
    finally:
        os.close(handle)


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the mark of that one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")

_ZERO_BYTES = "holds zero bytes: no text, or UTF-16 without its mark; save it as UTF-8"
_TRUE = frozenset({"1", "true", "yes", "y", "t", "on"})
_FALSE = frozenset({"0", "false", "no", "n", "f", "off", "", "-"})
_NOT_SAID = frozenset(
    {"none", "null", "nil", "n/a", "na", "unspecified", "unknown", "undefined", "default"}
)


class TextError(DataError):
    """A file whose content cannot be read as text; the message does not name the file."""


def decode_text(data: bytes, first_line: int = 1) -> str:
    """Return UTF-8 text (or what a byte-order mark says), line ends as ``\\n``, without the mark.

    Args:
        first_line: the number of its first line in the file, for errors.

    Raises:
        TextError: the bytes are in another encoding.
    """
    encoding = _encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + first_line
        raise TextError(
            f"not {encoding.removesuffix('-sig').upper()} text (byte 0x{data[error.start]:02x} in "
            f"line {line}); save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise TextError(_ZERO_BYTES)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding_of(data: bytes) -> str:
    """Return the encoding that a byte-order mark says; UTF-8 without one."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def decode_xml(data: bytes) -> str:
    """Return XML text without its declaration, decoded as that or a byte-order mark says.

    Raises:
        TextError: the bytes are in another encoding.
    """
    declared = _DECLARED.match(data)
    if declared is None:
        return _DECLARATION.sub("", decode_text(data))
    name = declared[1].decode("ascii")
    try:
        return _DECLARATION.sub("", data.decode(name))
    except (LookupError, UnicodeError):
        raise TextError(f"declares the encoding {name}, which its bytes are not in") from None


def read_text(path: Path) -> str:
    """Return the text of a file; see :func:`decode_text`.

    Raises:
        OSError: the file cannot be read.
        TextError: it is in another encoding.
    """
    return decode_text(path.read_bytes())


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without their ends; see :func:`read_text`."""
    return read_text(path).split("\n")


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends, one at a time: for lists that may be long.

    Raises:
        OSError: the file cannot be read.
        TextError: it is in another encoding.
    """
    with path.open("rb") as file:
        if _encoding_of(file.read(4)) not in ("utf-8", "utf-8-sig"):
            yield from read_lines(path)
            return
        file.seek(0)
        for number, data in enumerate(file, start=1):
            yield from decode_text(data, number).removesuffix("\n").split("\n")


def peek_text(path: Path, size: int = 65536) -> str:
    """Return about the beginning of a file as text, to see what it may be; never to read values from.

    Letters of an unknown encoding become question marks; a file that cannot be read is empty.
    """
    try:
        data = _peek(path, size, path.stat().st_mtime_ns)
    except OSError:
        return ""
    text = data.decode(_encoding_of(data), errors="replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@lru_cache(maxsize=4)
def _peek(path: Path, size: int, changed: int) -> bytes:
    """Read the beginning of a file, which several formats look at one after the other."""
    del changed
    with path.open("rb") as file:
        return file.read(size)


def read_json(path: Path, **options: Any) -> Any:
    """Return the value in a JSON file; ``options`` go to `json_value`.

    Raises:
        DataError: not readable, not UTF-8, or not JSON; the message names the file.
    """
    try:
        return json_value(read_text(path), **options)
    except (OSError, ValueError, RecursionError, TextError) as error:
        reason = str(error) if isinstance(error, TextError) else f"cannot be read as JSON ({error})"
        raise DataError(f"{path}: {reason}") from None


def json_value(text: str, **options: Any) -> Any:
    """Return what a text of JSON holds; ``options`` go to `json.loads`.

    Programs that cut a text in the middle of an emoji write one half of it, such as ``\\ud83d`` alone.
    No file in UTF-8 can hold that, so it stays as it is written: six signs.
    """
    value = json.loads(text, **options)
    return _halves_as_written(value) if _HALF.search(text) else value


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What the escape of one half of a sign begins with."""


def _halves_as_written(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [_halves_as_written(item) for item in value]
    if isinstance(value, dict):
        return {_halves_as_written(key): _halves_as_written(item) for key, item in value.items()}
    return value


def same_text(text: str) -> str:
    """Return one spelling for texts that look the same (an accent of its own, or one letter: NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain_name(text: object) -> str:
    """Return a name as classes are compared: without space around it, accents in one spelling."""
    return same_text(str(text).strip())


def parse_flag(value: object) -> bool | None:
    """Return what a flag means (``"0"``, ``no``, ``Unspecified``, 1 …); None where that is unknown."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if not isinstance(value, str):
        return None
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE or word in _NOT_SAID:
        return False
    try:
        return parse_flag(float(word))
    except ValueError:
        return None


class TextLoader(yaml.BaseLoader):
    """Reads YAML whose scalars all stay text: ``no``, ``yes`` and ``010`` are names like others.

    ``repeated`` lists the keys that a mapping has twice (the last one counts).
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node's value; an unknown tag is refused, not ignored."""
        if not re.fullmatch(r"tag:yaml\.org,2002:[a-z]+", node.tag):
            raise yaml.constructor.ConstructorError(
                None, None, f"the tag {node.tag!r} is not read", node.start_mark
            )
        return super().construct_object(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, and note the keys that it has twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        self.repeated += sorted({key for key in keys if keys.count(key) > 1})
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        shared = found.get("<<")  # YAML's merge key: the entries of another mapping
        return {**shared, **found} if isinstance(shared, dict) and found.pop("<<") else found


def read_yaml(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the value in a YAML file, scalars as text, and the keys that occur twice.

    Raises:
        DataError: not readable, not UTF-8, or not YAML; the message names the file.
    """
    try:
        loader = TextLoader(read_text(path))
        try:
            return loader.get_single_data(), tuple(loader.repeated)
        finally:
            loader.dispose()
    except TextError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as YAML ({reason})") from None
