"""Listing folders: every file once, linked folders too, and pictures that are passed over named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hardmine.data.images import has_picture_name, looks_like_picture
from hardmine.errors import DataError
from hardmine.finding_kinds import FindingKind
from hardmine.types import Problem

_TEXTS = """
.txt .xml .json .jsonl .csv .tsv .yaml .yml .md .rst .html .log .py .ipynb .lock .cache .names
.sqlite .db .npy .npz .pkl .pt .pth .onnx .safetensors .doc .docx .xls .xlsx
"""
"""Suffixes that are not opened to find out whether the file is a picture."""
_OTHERS = """
.3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f
.avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv .jxl .svg .eps .ps .pdf
"""
"""Suffixes of raw pictures, films and drawings, which are not read as images."""
_TEXT, _NOT_READ = frozenset(_TEXTS.split()), frozenset(_OTHERS.split())
_RENAME = "the content is a picture, the name is not that of one; rename it"


def walk_files(folder: Path | str) -> Iterator[str]:
    """Yield the files below a folder, folder by folder, names in order; hidden ones are left out.

    Linked folders are entered after the others, and none twice: a link in a circle, or to a folder
    that was listed already, adds nothing.

    Raises:
        DataError: a folder cannot be listed.
    """
    links: list[str] = [os.fspath(folder)]
    seen: set[str] = set()
    while links:
        start = links.pop(0)
        if os.path.realpath(start) not in seen:
            yield from _walk(start, links, seen)


def _walk(folder: str, links: list[str], seen: set[str]) -> Iterator[str]:
    """Yield the files below a folder; linked folders on the way are added to ``links``."""
    seen.add(os.path.realpath(folder))
    try:
        with os.scandir(folder) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from None
    for entry in here:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if os.path.realpath(entry.path) not in seen:
                yield from _walk(entry.path, links, seen)
        elif entry.is_dir():
            links.append(entry.path)
        else:
            yield entry.path


@dataclass(slots=True)
class PassedOver:
    """Files that look like pictures and are not read, by suffix: how many, and the first."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def look(self, path: str) -> None:
        """Remember a file that is listed and not read, if it looks like a picture or a film."""
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
        if suffix in _TEXT or not (suffix in _NOT_READ or looks_like_picture(Path(path))):
            return
        count, first = self.found.get(suffix, (0, path))
        self.found[suffix] = (count + 1, first)

    def problems(self) -> list[Problem]:
        """Return one problem for each suffix, named after its first file."""
        return [
            Problem(
                FindingKind.FILES_PASSED_OVER,
                first,
                -1,
                f"{count} {'file' if count == 1 else 'files'} "
                f"{f'ending in {suffix}' if suffix else 'without a suffix'} passed over: "
                f"{'not a format that is read' if suffix in _NOT_READ else _RENAME}",
            )
            for suffix, (count, first) in self.found.items()
        ]


def walk_pictures(folder: Path | str, passed: PassedOver) -> Iterator[str]:
    """Yield the files below a folder that are named as pictures; ``passed`` gets the others."""
    for path in walk_files(folder):
        if has_picture_name(path):
            yield path
        else:
            passed.look(path)
