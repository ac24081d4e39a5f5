"""The images of several sources, each once, with the places where pictures of them can be saved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hardmine.data.video import is_video, split_frame
from hardmine.errors import ConfigError
from hardmine.inference.image_loading import ImageItem
from hardmine.mining.sources.archives_and_videos import is_archive
from hardmine.mining.sources.pool_source import Source, name_inside, open_source
from hardmine.types import Problem


class ListedImages:
    """The images of files, folders and whatever else may be a pool, each once.

    Attributes:
        targets: of each image that was listed, the relative path to save its picture at, which no two
            images share.
        problems: what could not be listed.
    """

    def __init__(self, sources: Sequence[str], every: str | None = None) -> None:
        """Open the sources.

        Raises:
            DataError: no such file or folder.
        """
        self._parts = [s if _is_picture(s) else open_source(s, every) for s in sources]
        self._given = [*sources]
        self._taken: set[Path] = set()
        self.targets: dict[str, Path] = {}
        self.problems: list[Problem] = []

    def count(self) -> int | None:
        """Return how many images there are, each source counted by itself; ``None`` if not known."""
        counts = [1 if isinstance(part, str) else part.count() for part in self._parts]
        return None if None in counts else sum(count or 0 for count in counts)

    def items(self) -> Iterator[ImageItem]:
        """Yield the images; of a folder that was given by a relative path by relative names."""
        for given, part in zip(self._given, self._parts, strict=True):
            if isinstance(part, str):
                if self._is_new(part, Path(part).name):
                    yield ImageItem(part)
                continue
            for item in part.items():
                if isinstance(item, Problem):
                    self.problems.append(item)
                    continue
                inside = name_inside(part, item.name)
                of_folder = item.read is None and Path(given).is_dir()
                name = str(Path(given) / inside) if of_folder else item.name
                if self._is_new(name, inside):
                    yield replace(item, name=name)

    def place(self, name: str, folder: Path) -> Path:
        """Return where the picture of an image that was listed is saved below a folder.

        Raises:
            ConfigError: one of the images is there; it would be lost.
        """
        path = folder / self.targets[name]
        if path.exists() and any(self._is_image_of(part, path) for part in self._parts):
            raise ConfigError(
                f"{path}: is one of the images that are read, and saving a picture there would "
                f"replace it; give another --out than {folder}"
            )
        return path

    def _is_image_of(self, part: str | Source, path: Path) -> bool:
        if isinstance(part, str):
            return path.samefile(part)
        return any(part.holds(form) for form in (os.path.abspath(path), os.path.realpath(path)))  # noqa: PTH100

    def _is_new(self, name: str, inside: str) -> bool:
        if name in self.targets:
            return False
        parts = PurePosixPath(inside.replace("!/", "/")).parts
        place = Path(*(part for part in parts if part not in ("/", "..")))
        is_frame = split_frame(name) is not None
        target = place.with_name(f"{place.name}.jpg") if is_frame else place.with_suffix(".jpg")
        number = 2
        while target in self._taken:
            target = place.with_name(f"{place.stem}-{number}.jpg")
            number += 1
        self._taken.add(target)
        self.targets[name] = target
        return True


def _is_picture(source: str) -> bool:
    """Say whether a source is one file that holds one image."""
    of_many = source.lower().endswith(".txt") or is_video(source) or is_archive(source)
    return not of_many and Path(source).is_file()
