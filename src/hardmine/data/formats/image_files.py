"""Image files: listing folders, finding the images that labels name, and measuring many at once.

Every file is listed once, linked folders too, and pictures that are passed over are named. What
labels name never lies outside the folders that they may name (`ImageFinder`). A folder of images
without labels is a dataset too (`load_images`).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hardmine.data.formats.label_validation import RawImage
from hardmine.data.images import has_picture_name, image_size, looks_like_picture
from hardmine.errors import DataError
from hardmine.files import same_text
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import Dataset, ImageRecord, ImageState, Problem

_TEXTS = """
.txt .xml .json .jsonl .csv .tsv .yaml .yml .md .rst .html .log .py .ipynb .lock .cache .names
.sqlite .db .npy .npz .pkl .pt .pth .onnx .tflite .safetensors .doc .docx .xls .xlsx
"""
"""Suffixes that are not opened to find out whether the file is a picture."""
_OTHERS = """
.3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f
.avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv .jxl .svg .eps .ps .pdf
"""
"""Suffixes of raw pictures, films and drawings, which are not read as images."""
_TEXT, _NOT_READ = frozenset(_TEXTS.split()), frozenset(_OTHERS.split())
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
"""Suffixes of packed files."""
PACKED_PICTURES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
"""Endings of the archives that may be a pool."""
_RENAME = "the content is a picture, the name is not that of one; rename it"


NOT_THEIRS = frozenset({"__MACOSX", "@eaDir"})
"""Folders of copies and thumbnails that systems make."""


def walk_files(folder: Path | str) -> Iterator[str]:
    """Yield the files below a folder, folder by folder, names in order; hidden ones are left out.

    So are the folders that macOS and network disks put beside people's files.

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
        if entry.name.startswith(".") or entry.name in NOT_THEIRS:
            continue
        if entry.is_dir(follow_symlinks=False):
            if os.path.realpath(entry.path) not in seen:
                yield from _walk(entry.path, links, seen)
        elif entry.is_dir():
            links.append(entry.path)
        else:
            yield entry.path


_LINK = "link"
"""Stands for links where others have their suffix, which begins with a dot."""
_PACK_FILES = (
    "links in an archive are not followed; pack the files themselves (tar --dereference "
    "--hard-dereference)"
)


@dataclass(slots=True)
class PassedOver:
    """Files that look like pictures and are not read, by suffix: how many, and the first.

    ``why`` is said of those whose suffix is known not to be read.
    """

    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    why: str = "not a format that is read"
    archives: list[str] = field(default_factory=list)

    def look(self, path: str) -> None:
        """Remember a file that is listed and not read, if it looks like a picture or a film."""
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
        if path.lower().endswith(PACKED_PICTURES):
            self.archives.append(path)
        elif suffix not in _TEXT and (suffix in _NOT_READ or looks_like_picture(Path(path))):
            self._add(suffix, path)

    def look_at_name(self, name: str) -> None:
        """Remember a file that cannot be opened by its name: a raw picture, a film or an archive."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix in _NOT_READ | ARCHIVES:
            self._add(suffix, name)

    def add_link(self, name: str) -> None:
        """Remember a link in an archive: it has no content of its own."""
        self._add(_LINK, name)

    def _add(self, suffix: str, path: str) -> None:
        count, first = self.found.get(suffix, (0, path))
        self.found[suffix] = (count + 1, first)

    def problems(self) -> list[Problem]:
        """Return one problem for each suffix, named after its first file."""
        return [
            Problem(FindingKind.FILES_PASSED_OVER, first, -1, self._told(suffix, count))
            for suffix, (count, first) in self.found.items()
        ]

    def packed(self) -> list[Problem]:
        """Return the problem that archives of a folder of pictures are not opened, if there are any."""
        if not self.archives:
            return []
        count = counted(len(self.archives), "archive")
        reason = (
            f"{count} passed over: of a folder, pictures and videos are read; name archives by a glob "
            "in quotes, or in a .txt list"
        )
        return [Problem(FindingKind.FILES_PASSED_OVER, self.archives[0], -1, reason)]

    def _told(self, suffix: str, count: int) -> str:
        if suffix == _LINK:
            return f"{counted(count, 'link')} to pictures passed over: {_PACK_FILES}"
        which = f"ending in {suffix}" if suffix else "without a suffix"
        why = self.why if suffix in _NOT_READ | ARCHIVES else _RENAME
        return f"{counted(count, 'file')} {which} passed over: {why}"


def walk_pictures(folder: Path | str, passed: PassedOver) -> Iterator[str]:
    """Yield the files below a folder that are named as pictures; ``passed`` gets the others."""
    for path in walk_files(folder):
        if has_picture_name(path):
            yield path
        else:
            passed.look(path)


JOURNALS = ".hardmine-apply"
"""The folder beside labels in which ``hardmine apply`` says what it added to them."""
_PLAIN = re.compile(r"\w[^/\\]*")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|/.*\?d=", re.IGNORECASE)
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""

_BY_BASE_NAME = "by the base name"
_BY_CASE = "in another case of letters"
_BY_STEM = "by the name without its ending"
_BY_TAIL = "by the last parts of the name"
_BY_ESCAPE = "with %20 and the like read as the characters that they stand for"


class OutsideRootError(DataError):
    """A label file names a file outside the dataset's root."""


class ImageFinder:
    """Finds named files below a root; lists each folder once instead of asking for each file.

    A name is looked up as it is written, with ``\\`` as ``/``, with the characters that ``%20`` and the
    like stand for, with accents spelled the other way and, where that is unique, in another case of
    letters.

    Args:
        root: the folder that no name may leave, symbolic links included.
        bases: folders that relative names are tried against, first match wins; default the root.
        by_base_name: the user named ``root`` as the folder of images, so that a name that was true on
            another machine (a drive letter, a URL, ``../..``) is found by its last part anywhere
            below it, where only one file is called so.
        by_tail: a relative name may begin with folders that are not here (``data/images/a.jpg`` in
            an export of which only ``images`` was kept).
        more_roots: further folders that names may lead into.
        labels: the label file, beside which images outside the root are named that
            ``hardmine apply --how reference`` made part of the data.
    """

    def __init__(
        self,
        root: Path,
        bases: Sequence[Path] = (),
        *,
        by_base_name: bool = False,
        by_tail: bool = False,
        more_roots: Iterable[Path] = (),
        labels: Path | None = None,
    ) -> None:
        self.root = plain_path(root)
        self.bases = [str(plain_path(base)) for base in bases or [root]]
        self._roots = [str(self.root), *(str(plain_path(folder)) for folder in more_roots)]
        self._real_roots = [os.path.realpath(folder) for folder in self._roots]
        self._by_base_name = by_base_name
        self._labels = labels
        self._referenced: frozenset[str] | None = None
        self._by_tail = by_tail
        self._listed: dict[str, dict[str, bool]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}
        self._everywhere: dict[str, list[Path]] | None = None
        self._found_otherwise: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def find(self, name: str) -> Path | None:
        """Return the named file, or None where there is none.

        Raises:
            OutsideRootError: every reading of the name leaves the roots.
        """
        if _PLAIN.fullmatch(name) and (found := self._find_plain(name)) is not None:
            return found
        outside = ""
        for spelling in _spellings(name):
            for base in self.bases:
                path = _join(base, spelling)
                if not any(_is_within(path, root) for root in self._roots):
                    if self._is_referenced(path):
                        return Path(path)
                    outside = outside or path
                    continue
                found = self._look_up(path, name)
                if found is not None:
                    if "%" in name and "%" not in spelling:
                        self._note(_BY_ESCAPE, name)
                    return found
        if self._by_base_name and (found := self._find_by_base_name(name)) is not None:
            return found
        if self._by_tail and (found := self._find_by_tail(name)) is not None:
            return found
        if outside and not self._by_base_name:
            is_there = os.path.isabs(name) and os.path.exists(name)  # noqa: PTH110, PTH117
            absolute = f", or {Path(name).anchor} to take absolute names as they are" * is_there
            raise OutsideRootError(
                f"{name!r} names {outside}, outside {self.root}; name the folder of the images "
                f"with images= (--images){absolute}"
            )
        return None

    def hint(self, name: str) -> str:
        """Return what to add to the words that a name was not found, maybe nothing."""
        if not self._by_base_name:
            way = "; name the folder of the images with images= (--images)"
            return way if _is_foreign(name) else ""
        number = max((len(self._called(base)) for base in _base_names(name)), default=0)
        return f": {number} files are called so below {self.root}" if number > 1 else ""

    def remarks(self, file: str) -> list[Problem]:
        """Return what to say of names that were found otherwise than as they are written."""
        return [
            Problem(
                FindingKind.IMAGE_FOUND_OTHERWISE,
                file,
                -1,
                f"{counted(number, 'image was', 'images were')} found {way} below {self.root}, not "
                f"as written (the first: {self._first[way]})",
            )
            for way, number in self._found_otherwise.items()
        ]

    def _is_referenced(self, path: str) -> bool:
        if self._referenced is None:
            self._referenced = frozenset(
                () if self._labels is None else referenced_images(self._labels)
            )
        return path in self._referenced and os.path.isfile(path)  # noqa: PTH113

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

    def _look_up(self, path: str, name: str) -> Path | None:
        folder, leaf = os.path.split(path)
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        listed = self._listed[folder]
        if leaf not in listed:
            leaf, way = self._spelled_otherwise(folder, leaf)
            if not leaf:
                return None
            if way:
                self._note(way, name)
        found = os.path.join(folder, leaf)  # noqa: PTH118
        if listed[leaf]:
            real = os.path.realpath(found)
            if not any(_is_within(real, root) for root in self._real_roots):
                raise OutsideRootError(
                    f"{name!r} is a link to {real}, outside {self.root}; name the folder that it "
                    "leads to with images= (--images)"
                )
        return Path(found)

    def _spelled_otherwise(self, folder: str, leaf: str) -> tuple[str, str]:
        """Return the file whose name differs in its spelling only, and how it differs."""
        if folder not in self._folded:
            folded: dict[str, list[str]] = defaultdict(list)
            for entry in self._listed[folder]:
                folded[same_text(entry).casefold()].append(entry)
            self._folded[folder] = folded
        alike = self._folded[folder].get(same_text(leaf).casefold(), [])
        for entry in alike:
            if same_text(entry) == same_text(leaf):
                return entry, ""
        if not alike and not has_picture_name(leaf):
            pictures = [entry for entry in self._listed[folder] if has_picture_name(entry)]
            named = [p for p in pictures if same_text(Path(p).stem) == same_text(leaf)]
            return (named[0], _BY_STEM) if len(named) == 1 else ("", "")
        return (alike[0], _BY_CASE) if len(alike) == 1 else ("", "")

    def _find_by_tail(self, name: str) -> Path | None:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
            return None
        for start in range(1, len(parts)):
            for base in self.bases:
                path = os.path.join(base, *parts[start:])  # noqa: PTH118
                if any(_is_within(path, root) for root in self._roots):
                    found = self._look_up(path, name)
                    if found is not None:
                        self._note(_BY_TAIL, name)
                        return found
        return None

    def _find_by_base_name(self, name: str) -> Path | None:
        for base in _base_names(name):
            found = self._called(base)
            folders = re.split(r"[/\\]", name)[-2::-1]
            for depth, folder in enumerate(folders):  # of several, the one whose folders agree
                if len(found) < 2:
                    break
                found = [path for path in found if path.parents[depth].name == folder]
            if len(found) == 1:
                self._note(_BY_BASE_NAME, name)
                return found[0]
        return None

    def _called(self, base: str) -> list[Path]:
        """Return the files below the root that have that name; linked folders are not entered."""
        if self._everywhere is None:
            self._everywhere = defaultdict(list)
            for parent, folders, files in os.walk(self.root):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for file in sorted(files):
                    path = Path(parent, file)
                    if not path.is_symlink():
                        self._everywhere[same_text(file)].append(path)
        return self._everywhere.get(same_text(base), [])

    def _note(self, way: str, name: str) -> None:
        self._found_otherwise[way] += 1
        self._first.setdefault(way, name)

    def _list(self, folder: str) -> dict[str, bool]:
        try:
            linked = not any(
                os.path.realpath(folder)
                == os.path.normpath(os.path.join(real, os.path.relpath(folder, root)))  # noqa: PTH118
                for root, real in zip(self._roots, self._real_roots, strict=True)
            )
            with os.scandir(folder) as entries:
                return {e.name: linked or e.is_symlink() for e in entries if e.is_file()}
        except (OSError, ValueError):  # a zero byte in the name is a ValueError
            return {}


def referenced_images(labels: Path) -> set[str]:
    """Return the images that ``hardmine apply --how reference`` left where they are.

    A journal counts only for the folder in which it was written, so that data that come from elsewhere
    cannot name images of this machine.

    Args:
        labels: the label file; journals lie in its folder or in the one above.
    """
    found: set[str] = set()
    for folder in (labels.parent, labels.parent.parent):
        for journal in (folder / JOURNALS).glob("*.json"):
            try:
                record = json.loads(journal.read_text(encoding="utf-8"))
                if record.get("root") == str(folder.resolve()):
                    found.update(map(str, record.get("references", ())))
            except (OSError, ValueError, AttributeError, TypeError):
                continue
    return found


def plain_path(path: Path | str) -> Path:
    """Return the absolute path without ``..``; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve follows links)


def relative_name(path: Path, root: Path) -> str:
    """Return ``path`` below ``root`` with forward slashes, or whole where it is not below it."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def _spellings(name: str) -> list[str]:
    """Return a name as it is written, with ``\\`` as ``/``, and as the part of a URL that it may be."""
    plain = name.replace("\\", "/")
    return list(dict.fromkeys((name, plain, unquote(plain))))


def _base_names(name: str) -> list[str]:
    """Return what the file itself may be called, of a path or URL that was true elsewhere."""
    whole = name
    if _URL.match(name):
        with suppress(ValueError):  # where it only looks like a URL
            parts = urlsplit(name)
            asked = parse_qs(parts.query).get(
                "d"
            )  # Label Studio's local files: …?d=folder/name.jpg
            whole = asked[0] if asked else unquote(parts.path)
    last = re.split(r"[/\\]", whole)[-1]
    names = [last, unquote(last), _UPLOADED.sub("", last)]
    return [base for base in dict.fromkeys(names) if base]


def _is_foreign(name: str) -> bool:
    return "\\" in name or bool(_URL.match(name)) or name.startswith("/")


def _join(base: str, name: str) -> str:
    """Return the normal form of ``base/name``, quickly for the usual plain names."""
    path = os.path.join(base, name)  # noqa: PTH118
    return path if _PLAIN.fullmatch(name) else os.path.normpath(path)


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


THREADS = 8
"""Reading headers waits for the disk more than for the processor."""


_FAULTS = (
    ("zero bytes", FindingKind.IMAGE_ZERO_BYTES),
    ("no such file", FindingKind.IMAGE_MISSING),
    ("truncated", FindingKind.IMAGE_TRUNCATED),
    ("not an image", FindingKind.IMAGE_NOT_IMAGE),
    ("too many pixels", FindingKind.IMAGE_TOO_LARGE),
)
"""What `hardmine.data.images` says of a file, and the kind of problem that it is."""


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files below a folder with one of the suffixes (any case), sorted, hidden ones not.

    Linked folders are entered once each, so a link in a circle does no harm.
    """
    wanted = frozenset(suffixes)
    files = walk_files(folder) if folder.is_dir() else ()
    return sorted(Path(file) for file in files if os.path.splitext(file)[1].lower() in wanted)  # noqa: PTH122


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files right in a folder with one of the suffixes (any case), sorted, not hidden."""
    wanted = frozenset(suffixes)
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in wanted and not path.name.startswith(".") and path.is_file()
    )


def list_images(folder: Path, passed: PassedOver | None = None) -> list[Path]:
    """Return the image files below a folder, sorted; ``passed`` gets what looks like one and is none."""
    return sorted(Path(file) for file in walk_pictures(folder, passed or PassedOver()))


def stem_name(path: Path, folder: Path) -> str:
    """Return the path below ``folder`` without its suffix: what pairs an image with its label."""
    return relative_name(path.with_suffix(""), folder)


def pair_name(path: Path, folder: Path) -> str:
    """Return `stem_name` with accents in one spelling, so that names that look the same pair."""
    return same_text(stem_name(path, folder))


def read_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | DataError]:
    """Return (width, height) as displayed of each image, or why its header cannot be read."""

    def size(path: Path) -> tuple[int, int] | DataError:
        """Return the size of a picture, or why it has none."""
        try:
            return image_size(path)
        except DataError as error:
            return error

    if len(paths) <= THREADS:  # to start threads takes longer than to read a few headers
        return [size(path) for path in paths]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(size, paths))


def image_problem(path: Path, root: Path, error: Exception) -> Problem:
    """Return the problem of an image that cannot be read."""
    reason = str(error).removeprefix(f"{path}: ")
    kind = next((k for words, k in _FAULTS if words in reason), FindingKind.IMAGE_UNREADABLE)
    return Problem(kind, relative_name(path, root), -1, reason)


def measure(images: Iterable[RawImage], root: Path, problems: list[Problem]) -> list[RawImage]:
    """Fill in the sizes that the labels do not give; leave out images that have no readable header.

    What is left out is added to ``problems``.
    """
    images = list(images)
    unknown = [image for image in images if image.width <= 0 or image.height <= 0]
    for image, size in zip(unknown, read_sizes([i.path for i in unknown]), strict=True):
        if isinstance(size, DataError):
            problems.append(image_problem(image.path, root, size))
            image.width = 0
        else:
            image.width, image.height = size
    return [image for image in images if image.width > 0 and image.height > 0]


def refuse_run(folder: Path) -> None:
    """Refuse the folder of a training or a loop, whose pictures are parts and frames that the run made.

    Raises:
        DataError: it is one.
    """
    records = (folder / "loop.json", folder / "train.json")
    if (folder / "recipe.yaml").is_file() and any(record.is_file() for record in records):
        raise DataError(
            f"{folder}: the folder of a run, wanted images; the images of each round of a loop, with "
            "those that it added, are listed in rounds/*/train.coco.json there"
        )


def load_images(
    folder: Path | str,
    *,
    state: ImageState | str = ImageState.UNREVIEWED,
    source: str = "",
    categories: Sequence[str] = (),
) -> Dataset:
    """Return the images below a folder as records without boxes.

    Args:
        state: what is known of them all: ``unreviewed`` for a pool to mine, ``verified_empty``
            for negatives that a person looked through, ``assumed_empty`` on a user's word.
        source: kept in each record; the folder's name when empty.

    Returns:
        Dataset: unreadable images are not in it but among its ``problems``.

    Raises:
        DataError: the folder is missing, is that of a run, or holds no image file.
    """
    root = plain_path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder, wanted a folder of images")
    refuse_run(root)
    passed = PassedOver()
    paths = list_images(root, passed)
    problems = [*passed.problems(), *passed.packed()]
    if not paths:
        others = f" ({problems[0]})" if problems else ""
        raise DataError(f"{root}: no image in it or below it{others}")
    records: list[ImageRecord] = []
    for path, size in zip(paths, read_sizes(paths), strict=True):
        if isinstance(size, DataError):
            problems.append(image_problem(path, root, size))
        else:
            name = source or root.name
            records.append(ImageRecord.empty(path, *size, ImageState(state), name))
    return Dataset(tuple(categories), tuple(records), root, tuple(problems))
