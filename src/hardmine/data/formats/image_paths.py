"""Files that labels name, never outside the folders that they may name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hardmine.errors import DataError

_PLAIN = re.compile(r"\w[^/\\]*")


class OutsideRootError(DataError):
    """A label file names a file outside the dataset's root."""


class ImageFinder:
    """Finds named files below a root; lists each folder once instead of asking for each file.

    Args:
        root: the folder that no name may leave, symbolic links included.
        bases: folders that relative names are tried against, first match wins; default the root.
    """

    def __init__(self, root: Path, bases: Sequence[Path] = ()) -> None:
        self.root = plain_path(root)
        self.bases = [str(plain_path(base)) for base in bases or [root]]
        self._real_root = os.path.realpath(self.root)
        self._listed: dict[str, dict[str, bool]] = {}

    def find(self, name: str) -> Path | None:
        """Return the named file, or None where there is none.

        Args:
            name: as written in the label file; ``\\`` counts as ``/`` when nothing else fits.

        Raises:
            OutsideRootError: every reading of the name leaves the root.
        """
        if _PLAIN.fullmatch(name) and (found := self._find_plain(name)) is not None:
            return found
        spellings = [name, name.replace("\\", "/")] if "\\" in name else [name]
        outside = ""
        for spelling in spellings:
            for base in self.bases:
                path = _join(base, spelling)
                if not _is_within(path, str(self.root)):
                    outside = outside or path
                    continue
                linked = self._lookup(path)
                if linked is None:
                    continue
                if linked and not _is_within(os.path.realpath(path), self._real_root):
                    raise OutsideRootError(
                        f"{name!r} is a link to {os.path.realpath(path)}, outside {self.root}"
                    )
                return Path(path)
        if outside:
            raise OutsideRootError(f"{name!r} names {outside}, outside {self.root}")
        return None

    def _find_plain(self, name: str) -> Path | None:
        """Return a file right in a base, no link on the way; None leaves it to the careful way."""
        for base in self.bases:
            if base not in self._listed:
                self._listed[base] = self._list(base)
            linked = self._listed[base].get(name)
            if linked is not None:
                plain = not linked and _is_within(base, str(self.root))
                return Path(f"{base}{os.sep}{name}") if plain else None
        return None

    def _lookup(self, path: str) -> bool | None:
        """Return None where the file is missing, else whether a link is on the way to it."""
        folder, leaf = os.path.split(path)
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        return self._listed[folder].get(leaf)

    def _list(self, folder: str) -> dict[str, bool]:
        linked = os.path.realpath(folder) != os.path.normpath(
            os.path.join(self._real_root, os.path.relpath(folder, self.root))  # noqa: PTH118
        )
        try:
            with os.scandir(folder) as entries:
                return {e.name: linked or e.is_symlink() for e in entries if e.is_file()}
        except OSError:
            return {}


def plain_path(path: Path | str) -> Path:
    """Return the absolute path without ``..``; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve follows links)


def relative_name(path: Path, root: Path) -> str:
    """Return ``path`` below ``root`` with forward slashes, or whole where it is not below it."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def _join(base: str, name: str) -> str:
    """Return the normal form of ``base/name``, quickly for the usual plain names."""
    path = os.path.join(base, name)  # noqa: PTH118
    return path if _PLAIN.fullmatch(name) else os.path.normpath(path)


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
