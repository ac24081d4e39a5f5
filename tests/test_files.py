"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hardmine import files
from hardmine.errors import DataError
from hardmine.files import csv_text, read_json, write_atomic, write_json, write_text


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a" / "x.json"
    write_text(target, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match=r"x\.json: no space left on the disk"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_name_with_any_line_break_is_one_cell_of_csv() -> None:
    rows = [["image", "score"], ["a\nb.jpg", "1"], ["c\rd.jpg", "2"], ['e,"f.jpg', "3"]]
    text = csv_text(rows)
    assert text == 'image,score\n"a\nb.jpg",1\n"c\rd.jpg",2\n"e,""f.jpg",3\n'
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows


SAFETENSORS = "Error while serializing: I/O error: No space left on device (os error 28)"
TORCH = "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(SAFETENSORS),
        RuntimeError(TORCH),
        RuntimeError("basic_ios::clear: iostream error"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
    ids=["safetensors", "torch", "openvino", "sqlite", "sqlite's memory", "file system", "quota"],
)
def test_a_full_disk_is_said_whichever_library_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The texts are those that the libraries gave on a file system of 256 kB."""
    monkeypatch.setattr(files, "_free_space", lambda _: 0)

    def write(part: Path) -> None:
        raise error

    with pytest.raises(DataError, match=r"w\.safetensors: no space left on the disk"):
        write_atomic(tmp_path / "w.safetensors", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(TORCH),
        RuntimeError("basic_ios::clear: iostream error"),
        sqlite3.OperationalError("disk I/O error"),
        SafetensorError("InvalidHeader"),
    ],
)
def test_other_faults_of_a_writer_are_not_called_a_full_disk(
    tmp_path: Path, error: Exception
) -> None:
    def write(part: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        write_atomic(tmp_path / "w", write)


def test_a_writer_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def half(part: Path) -> None:
        part.write_text("hal")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", half)
    assert list(tmp_path.iterdir()) == []


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_kill_9_while_writing(tmp_path: Path) -> None:
    """A process that rewrites one file for ever is killed; the file is one of its whole versions."""
    target = tmp_path / "x.json"
    script = (
        "import sys\nfrom pathlib import Path\nfrom hardmine.files import write_json\n"
        "print('ready', flush=True)\n"
        "for n in range(10**9):\n    write_json(Path(sys.argv[1]), [n] * 20000)\n"
    )
    command = [sys.executable, "-c", script, str(target)]
    for delay in (0.05, 0.13):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            while not target.exists():
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        import json

        values = json.loads(target.read_text())
        assert len(values) == 20000
        assert len(set(values)) == 1


def test_half_of_an_emoji_stays_as_it_is_written(tmp_path: Path) -> None:
    whole, half = json.dumps("\U0001f600"), '"cat \\ud83d"'
    file = tmp_path / "names.json"
    file.write_text(f"{{{half}: [{whole}, {half}, 1]}}", encoding="utf-8")
    read = read_json(file)
    assert read == {"cat \\ud83d": ["\U0001f600", "cat \\ud83d", 1]}
    json.dumps(read, ensure_ascii=False).encode("utf-8")
