"""What must stay on one side of a split: the images of one camera or site, neighbours in time."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from hardmine.data.formats.image_paths import relative_name
from hardmine.data.images import open_picture
from hardmine.errors import ConfigError, DataError
from hardmine.types import ImageRecord

_STAMP = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[T_ \-.]?(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)"
    r"(?:[.,](\d{1,6}))?(?!\d)"
)
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)$")
_EXIF_IFD, _EXIF_TAKEN, _EXIF_FORMAT = 0x8769, 0x9003, "%Y:%m:%d %H:%M:%S"

SECONDS, FRAMES = 60.0, 30.0
"""Default gap between neighbours: seconds where images have times, else frame numbers."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an image lies: the sequence that it belongs to, and its place in it."""

    sequence: str
    place: float
    """Seconds since 1970, or the number in the file's name."""


def group_by_pattern(records: Sequence[ImageRecord], root: Path, pattern: str) -> list[str | None]:
    """Return what the pattern's groups match in each image's path below ``root``.

    None where it does not match: such an image is bound to no other.

    Raises:
        ConfigError: no regular expression, or one without a group.
        DataError: it matches no image.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group pattern {pattern!r}: {error}") from None
    if not compiled.groups:
        raise ConfigError(f"group pattern {pattern!r}: wanted a group in round brackets")
    found: list[str | None] = []
    for record in records:
        match = compiled.search(relative_name(record.path, root))
        found.append(None if match is None else "\0".join(part or "" for part in match.groups()))
    if not any(name is not None for name in found):
        first = relative_name(records[0].path, root) if records else "(no images)"
        raise DataError(f"group pattern {pattern!r}: fits no image, such as {first}")
    return found


def moments(records: Sequence[ImageRecord]) -> tuple[list[Moment], str]:
    """Return each image's moment and what it was read from.

    The first of these that every image has: a time in its EXIF data, a time in its name
    (``20240131_235959`` and the like), a number at the end of its name. Times make one sequence;
    numbers one for each folder and beginning of the name.

    Raises:
        DataError: none of these.
    """
    sources: tuple[tuple[str, Callable[[Path], Moment | None]], ...] = (
        ("EXIF times", _exif_time),
        ("times in names", _name_time),
        ("numbers in names", _name_number),
    )
    missing = ""
    for what, read in sources:
        found: list[Moment] = []
        for record in records:
            moment = read(record.path)
            if moment is None:
                missing = record.path.name
                break
            found.append(moment)
        else:
            return found, what
    raise DataError(f"no order in time: {missing} has neither an EXIF time nor a time or number")


def cut_in_time(
    found: Sequence[Moment], gap: float, longest: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Cut sequences into clips, between which lies more than ``gap``.

    A clip of more than ``longest`` images is cut further, into even pieces.

    Returns:
        A clip number for each image, and the pairs of images that are within ``gap`` of each other
        but in different clips (made by such further cuts).
    """
    by_sequence: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(found)), key=lambda i: (found[i].place, i)):
        by_sequence[found[index].sequence].append(index)
    clips = [0] * len(found)
    number = 0
    for members in by_sequence.values():
        for run in _runs(members, found, gap):
            pieces = -(-len(run) // max(1, longest))
            for piece in range(pieces):
                start, end = piece * len(run) // pieces, (piece + 1) * len(run) // pieces
                for index in run[start:end]:
                    clips[index] = number
                number += 1
    return clips, _close(by_sequence, found, clips, gap)


def _runs(members: Sequence[int], found: Sequence[Moment], gap: float) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in members:
        if runs and found[index].place - found[runs[-1][-1]].place <= gap:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _close(
    by_sequence: dict[str, list[int]], found: Sequence[Moment], clips: Sequence[int], gap: float
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for members in by_sequence.values():
        first = 0
        for at, index in enumerate(members):
            while found[index].place - found[members[first]].place > gap:
                first += 1
            pairs += [(m, index) for m in members[first:at] if clips[m] != clips[index]]
    return pairs


def _exif_time(path: Path) -> Moment | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(path) as image:
                text = str(image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_TAKEN, ""))
        taken = datetime.strptime(text.strip("\0 "), _EXIF_FORMAT).replace(tzinfo=UTC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Moment("", taken.timestamp())


def _name_time(path: Path) -> Moment | None:
    match = _STAMP.search(path.stem)
    if match is None:
        return None
    *parts, fraction = match.groups()
    try:
        taken = datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return Moment("", taken.timestamp() + (float(f"0.{fraction}") if fraction else 0.0))


def _name_number(path: Path) -> Moment | None:
    match = _NUMBER.match(path.stem)
    if match is None:
        return None
    before, number, after = match.groups()
    return Moment(f"{path.parent}\0{before}\0{after}", float(number))
