"""Frames of videos: chosen by time or by number, and read again by their time.

A frame's name is that of its file and its time in seconds, ``cam3.mp4#t=12.480``. The same name gives
the same pixels whenever it is read: decoding is exact, and time is the container's own, so that a
variable frame rate changes nothing. Frames stand upright whatever the camera's rotation is.

PyAV reads them. It brings FFmpeg along in its wheels, needs no torch, decodes by packets (so that key
frames alone can be read quickly) and gives each frame's own time; torchcodec needs an FFmpeg of the
system and a version of its own for each torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardmine.data.images import Picture
from hardmine.errors import ConfigError, DataError, MissingExtraError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4"})
AT = "#t="
"""Stands between a video's name and a frame's time, seconds with three decimals."""

_EVERY = re.compile(r"(?P<seconds>\d+(\.\d+)?)s|(?P<frames>[1-9]\d*)|(?P<key>key)")
_FRAME = re.compile(r"(?P<video>.+)#t=(?P<time>\d+\.\d{3})")
_SMALL = (64, 36)
_SAME = 4
"""Frames whose small grey copies differ by so little everywhere (of 255) are taken for one."""
_EARLY = 2.0
"""A video that ends so many seconds before its header says is cut off."""
_FALLBACK_RATE = 25


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames are taken: one in so many seconds or frames, or the key frames alone.

    Key frames need no decoding of those between them; one stands every few seconds in most files.
    """

    seconds: float | None = 1.0
    frames: int | None = None
    key: bool = False

    @staticmethod
    def parse(text: str) -> Sampling:
        """Read ``1s``, ``0.5s``, ``25`` (frames) or ``key``.

        Raises:
            ConfigError: none of these.
        """
        found = _EVERY.fullmatch(text)
        if found is None or (found["seconds"] and float(found["seconds"]) <= 0):
            raise ConfigError(f"every: got {text!r}, wanted seconds as 1s, frames as 25, or key")
        if found["key"]:
            return Sampling(None, None, True)
        seconds, frames = found["seconds"], found["frames"]
        return Sampling(float(seconds) if seconds else None, int(frames) if frames else None)


ONE_A_SECOND = Sampling()
"""Which frames are taken when the user gives no choice."""


def holds_videos(path: Path) -> bool:
    """Return whether a path is a video, or a folder with one in it or below it."""
    files = [path] if path.is_file() else path.rglob("*")
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in files)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame ``time`` seconds after the video's beginning."""

    time: float
    picture: Picture


def is_video(name: str | Path) -> bool:
    """Say whether a file's name ends as that of a video."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def frame_name(video: Path | str, time: float) -> str:
    """Return the name of the frame at that time."""
    return f"{video}{AT}{time:.3f}"


def split_frame(name: str) -> tuple[str, float] | None:
    """Return the video and the time that a frame's name says; ``None`` for any other name."""
    found = _FRAME.fullmatch(name) if AT in name else None
    return (found["video"], float(found["time"])) if found and is_video(found["video"]) else None


def frames_per_hour(names: Iterable[str]) -> float | None:
    """Return how many frames an hour has, by the time from one to the next of the same video.

    A tenth of these times are shorter than the one that is taken: where a set holds only a part of the
    frames that were looked at, most neighbours are missing.

    Args:
        names: of frames, or of the files into which frames were extracted (``cam3.mp4#t=12.480.png``).

    Returns:
        ``None`` where a name is not that of a frame, or no video has two.
    """
    times: dict[str, list[float]] = {}
    for name in names:
        found = split_frame(name.removesuffix(".png"))
        if found is None:
            return None
        times.setdefault(found[0], []).append(found[1])
    gaps = sorted(
        later - earlier
        for each in times.values()
        for earlier, later in pairwise(sorted(each))
        if later > earlier
    )
    return 3600 / gaps[len(gaps) // 10] if gaps else None


def hours_of_videos(names: Iterable[str]) -> float | None:
    """Return how long the videos are from which frames were taken; ``None`` where none is a frame.

    The length is that of the header; of a video that breaks off or whose header does not say, the time
    of its last frame.
    """
    last: dict[str, float] = {}
    for name in names:
        found = split_frame(name)
        if found is not None:
            last[found[0]] = max(found[1], last.get(found[0], 0.0))
    return sum(_seconds_seen(*each) for each in last.items()) / 3600 if last else None


def _seconds_seen(video: str, last: float) -> float:
    try:
        length = video_seconds(video)
    except (DataError, MissingExtraError):
        return last
    return last if length is None else max(last, length)


def video_seconds(path: Path | str) -> float | None:
    """Return how long a video is by its header; ``None`` where that does not say.

    Raises:
        DataError: it cannot be opened.
    """
    with _opened(path) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6


def iter_frames(path: Path | str, sampling: Sampling) -> Iterator[Frame]:
    """Yield the frames of a video that are asked for, without those that look like the one before.

    Raises:
        DataError: it cannot be opened, holds no frame, or breaks off; the frames before have been
            yielded.
    """
    previous: Any = None
    due, last, read = 0.0, -1.0, _Read()
    with _opened(path) as (container, stream):
        length = _length(container, stream)
        if sampling.key:
            stream.codec_context.skip_frame = "NONKEY"
        for index, (time, frame) in enumerate(_decoded(container, stream, path, read)):
            last = time
            if sampling.frames is not None and index % sampling.frames:
                continue
            if sampling.seconds is not None:
                if time + 5e-4 < due:
                    continue
                due = (int((time + 5e-4) / sampling.seconds) + 1) * sampling.seconds
            small = _small(frame)
            if previous is not None and int(np.abs(small - previous).max()) <= _SAME:
                continue
            previous = small
            yield Frame(time, _upright(frame))
        if last < 0:
            raise DataError(f"{path}: holds no frame")
        last = max(last, read.until)
        if length is not None and last < length - max(_EARLY, _gap(stream)):
            raise DataError(f"{path}: breaks off at {last:.1f} s; its header says {length:.1f} s")


def read_frame(path: Path | str, time: float) -> Picture:
    """Return the frame at a time that :func:`iter_frames` gave.

    Raises:
        DataError: the video cannot be opened, or has no frame at that time.
    """
    with _opened(path) as (container, stream):
        start = float((stream.start_time or 0) * stream.time_base)
        for early in (0.0, 1.0, 10.0, float("inf")):  # some files seek to a frame that is too late
            target = max(0.0, time - early)
            if not _sought(container, stream, start + target):
                break
            found = _frame_at(_decoded(container, stream, path), time)
            if found is not None:
                return _upright(found)
            if target == 0.0:
                break
    with _opened(path) as (container, stream):  # what cannot be sought is read from its beginning
        found = _frame_at(_decoded(container, stream, path), time)
        if found is not None:
            return _upright(found)
    raise DataError(f"{path}: has no frame at {time:.3f} s")


def _frame_at(frames: Iterator[tuple[float, Any]], time: float) -> Any:
    for now, frame in frames:
        if abs(now - time) < 6e-4:
            return frame
        if now > time:
            break
    return None


def _sought(container: Any, stream: Any, time: float) -> bool:
    """Go to the key frame at or before a time; return whether the file can (a bare stream cannot)."""
    try:
        container.seek(int(time / stream.time_base), stream=stream, backward=True)
    except _faults():
        return False
    return True


def _faults() -> tuple[type[Exception], ...]:
    """Return what PyAV raises: OSError, ValueError, EOFError (no frames) or LookupError (no decoder)."""
    from av import FFmpegError

    return (FFmpegError, OSError, ValueError)


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        raise MissingExtraError(
            f"{path}: videos are read by PyAV; pip install 'hardmine[video]'"
        ) from None
    try:
        container = av.open(str(path))
    except _faults() as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read as a video ({reason})") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: holds no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


@dataclass
class _Read:
    """How far a video was read, seconds since its beginning; key frames may stand far before that."""

    until: float = 0.0


def _frames(container: Any, stream: Any, read: _Read) -> Iterator[Any]:
    """Yield the decoded frames, and note the end of all that was read, decoded or not."""
    start = stream.start_time or 0
    for packet in container.demux(stream):
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None:
            end = float((at - start + (packet.duration or 0)) * stream.time_base)
            read.until = max(read.until, end)
        yield from packet.decode()


def _decoded(
    container: Any, stream: Any, path: Path | str, read: _Read | None = None
) -> Iterator[tuple[float, Any]]:
    """Yield (seconds since the beginning, frame); what a file does not time counts by its rate."""
    rate = float(stream.average_rate or stream.guessed_rate or _FALLBACK_RATE)
    begin: float | None = None
    if stream.start_time is not None:
        begin = float(stream.start_time * stream.time_base)
    decode = _frames(container, stream, read or _Read())
    index = 0
    while True:
        try:
            frame = next(decode, None)
        except _faults() as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: breaks off after {index} frames ({reason})") from None
        if frame is None:
            return
        time = index / rate if frame.time is None else float(frame.time)
        if begin is None:
            begin = time
        yield max(0.0, time - begin), frame
        index += 1


def _length(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else float(container.duration) / 1e6


def _gap(stream: Any) -> float:
    """Return the seconds by which the last frame may stand before the end."""
    return 2 / float(stream.average_rate or _FALLBACK_RATE)


def _small(frame: Any) -> Any:
    """Return a small grey copy, i16[36, 64], before any colour is converted."""
    return frame.reformat(*_SMALL, format="gray").to_ndarray().astype(np.int16)


def _upright(frame: Any) -> Picture:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(int(frame.rotation or 0) / 90) % 4
    if turns:
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    return Picture.of(Image.fromarray(pixels))
