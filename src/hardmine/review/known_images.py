"""Which image of the pool a file names that comes back from a labelling program or another machine.

A name is that of the pool, or its end; or what an upload has made of it: Label Studio puts eight
characters before it and leaves others out, Roboflow writes ``name_jpg.rf.HASH.jpg``. Nothing is given to
an image in doubt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from hardmine.data.convert import NAMES_FILE
from hardmine.data.images import has_picture_name
from hardmine.errors import DataError
from hardmine.files import read_json, same_text

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
ROBOFLOW = re.compile(r"^(?P<stem>.+)_(?P<suffix>[A-Za-z]+)\.rf\.[\w-]+\.\w+$")
"""How Roboflow calls the pictures that it has made of an image."""


def read_copies(path: Path) -> dict[str, str]:
    """Return what the pictures are copies of, where the file still lies in the folder that was written.

    Raises:
        DataError: the list of names beside the file is broken.
    """
    names = path.with_name(NAMES_FILE)
    if not names.is_file():
        return {}
    value = read_json(names)
    copies = value.get("copies") if isinstance(value, dict) else None
    if not isinstance(copies, dict) or not all(isinstance(each, str) for each in copies.values()):
        raise DataError(f"{names}: got {str(value)[:80]}, wanted 'copies': names, each with a path")
    return copies


class KnownImages:
    """Finds the pool's image that a labelling program's file names.

    Args:
        known: every image handed out, by its name in the pool and by its path, each to its path.
        copies: by the name of a picture that was written for the program, what it is a copy of.
    """

    def __init__(self, known: Mapping[str, str], copies: Mapping[str, str]) -> None:
        self._exact = {same_text(name): path for name, path in known.items()}
        self._copies: dict[str, set[str]] = {}
        self._cleaned_copies: dict[str, set[str]] = {}
        for name, origin in copies.items():
            if origin in known:
                for text in (name, name.rpartition(".")[0]):
                    self._copies.setdefault(same_text(text), set()).add(known[origin])
                _add_cleaned(self._cleaned_copies, name, known[origin])
        self._names: dict[str, set[str]] = {}
        for name, path in known.items():
            self._names.setdefault(path, set()).update((same_text(name), same_text(path)))
        self._cleaned: dict[str, set[str]] = {}
        self._by_name: dict[str, set[str]] = {}
        for path in set(known.values()):
            base = base_name(path)
            folder = base_name(path.replace("\\", "/").rpartition("/")[0])
            for name in (base, f"{folder}_{base}"):  # the second where convert had to rename
                for text in (name, name.rpartition(".")[0]):
                    self._by_name.setdefault(same_text(text), set()).add(path)
            _add_cleaned(self._cleaned, base, path)

    def find(self, written: str, where: str, *, with_folders: bool = False) -> str:
        """Return the image's path.

        Args:
            where: the place in the file, for errors.
            with_folders: folders that the file names are those of the pool, maybe on another machine;
                a labelling program has folders of its own.

        Raises:
            DataError: no such image was handed out, or several have this name.
        """
        bare = written.partition("?")[0] if "://" in written else written
        for name in dict.fromkeys((written, bare, unquote(bare))):
            plain = same_text(name.strip().replace("\\", "/"))
            if plain in self._exact:
                return self._exact[plain]
            base = base_name(plain)
            renamed = ROBOFLOW.match(base)
            first = f"{renamed['stem']}.{renamed['suffix']}" if renamed else _UPLOADED.sub("", base)
            for text in dict.fromkeys((base, first)):
                copies, found = self._copies.get(text, set()), self._by_name.get(text, set())
                if text != base:  # the program has changed the name, maybe in more than one way
                    copies = copies | self._cleaned_copies.get(text, set())
                    found = found | self._cleaned.get(text, set())
                if len(copies) == 1:
                    return next(iter(copies))
                found = copies or found
                if with_folders:
                    found = {path for path in found if self._fits(path, plain)}
                ending = {path for path in found if _ends_with(path, plain)}
                if len(found) == 1 or len(ending) == 1:
                    return next(iter(ending or found))
                if found:
                    some = ", ".join(sorted(found)[:3])
                    raise DataError(
                        f"{where}: image {written!r} may be {some}, wanted a name of one image alone"
                    )
        raise DataError(f"{where}: image {written!r} was never handed out")

    def _fits(self, path: str, name: str) -> bool:
        """Return whether a name with folders is the end of the image's own name, or ends with it."""
        name = name.removeprefix("./").rpartition("../")[2]
        stem = name.rpartition(".")[0] if has_picture_name(name) else name
        for own in self._names[path]:
            plain = own.replace("\\", "/").rpartition(".")[0]
            if f"/{plain}".endswith(f"/{stem}") or f"/{stem}".endswith(f"/{plain}"):
                return True
        return False


def _add_cleaned(images: dict[str, set[str]], name: str, path: str) -> None:
    """Add an image under the names that programs make of its own."""
    for text in (_as_uploaded(name), _as_in_roboflow(name)):
        images.setdefault(same_text(text), set()).add(path)


def _as_uploaded(name: str) -> str:
    """Return a file's name as Label Studio keeps it after an upload (Django's `get_valid_filename`)."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _as_in_roboflow(name: str) -> str:
    """Return a file's name as Roboflow keeps it before ``_jpg.rf.``: other characters become ``-``."""
    return re.sub(r"[^-\w.]+", "-", name)


def base_name(path: str) -> str:
    """Return the last part of a path, of whichever system."""
    return path.replace("\\", "/").rpartition("/")[2]


def _ends_with(path: str, name: str) -> bool:
    return "/" in name and f"/{same_text(path)}".endswith(f"/{name}")
