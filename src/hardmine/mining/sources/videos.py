"""Videos as pools: their frames are images whose names say file and time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hardmine.data.images import Picture
from hardmine.data.video import (
    AT,
    ONE_A_SECOND,
    Sampling,
    frame_name,
    is_video,
    iter_frames,
    read_frame,
    split_frame,
)
from hardmine.errors import DataError, MissingExtraError
from hardmine.finding_kinds import FindingKind
from hardmine.inference.image_loading import ImageItem
from hardmine.types import Problem

_MARK = "#every="


def split_sampling(pool: str, every: str | None = None) -> tuple[str, Sampling]:
    """Return the pool and which frames of its videos are taken: ``cam3.mp4#every=2s``, else ``every``.

    Raises:
        ConfigError: what stands after ``#every=`` is not understood.
    """
    place, mark, own = pool.rpartition(_MARK)
    said = own if mark else every
    return (place if mark else pool), ONE_A_SECOND if said is None else Sampling.parse(said)


def iter_video(path: str, sampling: Sampling) -> Iterator[ImageItem | Problem]:
    """Yield the frames of a video, and last what is wrong with it."""
    try:
        for frame in iter_frames(path, sampling):
            picture = frame.picture
            yield ImageItem(frame_name(path, frame.time), partial(_as_png, picture), True, picture)
    except (DataError, MissingExtraError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        yield Problem(FindingKind.IMAGE_UNREADABLE, path, -1, reason)


def open_frame(name: str) -> ImageItem:
    """Return a frame by its name."""
    return ImageItem(name, partial(read_frame_file, name))


def read_frame_file(name: str) -> bytes:
    """Return a frame as a PNG file, which loses nothing.

    Raises:
        DataError: the video is gone or broken, or has no such frame.
    """
    found = split_frame(name)
    if found is None:
        raise DataError(f"{name}: not the name of a frame")
    return _as_png(read_frame(*found))


def _as_png(picture: Picture) -> bytes:
    file = io.BytesIO()
    picture.pixels.save(file, format="PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class VideoSource:
    """The frames of one video."""

    name: str
    sampling: Sampling

    @property
    def prefix(self) -> str:
        """The video's folder with a separator: people call a frame by file and time."""
        return str(Path(self.name).parent).rstrip("/") + "/"

    def items(self) -> Iterator[ImageItem | Problem]:
        """Yield the frames in the order of time."""
        return iter_video(self.name, self.sampling)

    def count(self) -> int | None:
        """Unknown: which frames look alike is seen on the way."""
        return None

    def holds(self, image: str) -> bool:
        """Say whether the image is a frame of the video (or the video itself, as what is broken)."""
        mine = image == self.name or image.startswith(self.name + AT)
        return mine and Path(self.name).exists()


def videos_among(files: Iterator[str]) -> Iterator[str]:
    """Yield those files that are videos."""
    return (file for file in files if is_video(file))
