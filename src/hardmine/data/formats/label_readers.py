"""Readers that many label formats share: one label file per image, or one file about many images.

A file per image (VOC, LabelMe, KITTI) is paired with its image by name; each format gives a function
that parses one file. A label file without objects says ``verified_empty``; an image without label
file is ``unreviewed``.

A file about many images (CSV, CreateML, VIA, CVAT, Label Studio, FiftyOne) names them; each format
gives a function that yields what its file says of each image. COCO, whose files are the largest,
reads its own way (`coco`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hardmine.data.formats.image_files import (
    ImageFinder,
    OutsideRootError,
    list_files,
    list_images,
    measure,
    pair_name,
    relative_name,
)
from hardmine.data.formats.image_states import NO_MARK, STATES_FILE, Mark, read_marks
from hardmine.data.formats.label_format import (
    ALL,
    ClassList,
    ImageLabels,
    Remarks,
    fill_image,
    split_of,
)
from hardmine.data.formats.label_validation import (
    Form,
    LabelError,
    RawImage,
    RawObject,
    RawSplit,
)
from hardmine.data.images import has_picture_name
from hardmine.errors import DataError
from hardmine.files import TextError, read_lines, same_text
from hardmine.finding_kinds import FindingKind
from hardmine.plurals import counted
from hardmine.types import ImageState, Problem

Parse = Callable[[Path], ImageLabels]
"""Reads one label file; raises `LabelError` where it cannot be used at all."""


@dataclass(frozen=True, slots=True)
class PerImageSource:
    """One split.

    Attributes:
        format: the name of the format in `format_table`.
        root: no name in a label file may leave it.
        images, labels: the folders, which pair by the path below them.
        suffix: of the label files, lower case.
        parse: reads one of them.
        list_file: names the images of the split (without suffix), where there is one.
        names: the class list, where the data come with one; classes that it lacks are added to it.
        by_base_name: the user named the folder of images, see `ImageFinder`.
        is_label: whether a file with the suffix is a label file; the others are left alone.
        region: the name by which the format marks a region that is to be ignored, for every class.
    """

    format: str
    root: Path
    images: Path
    labels: Path
    suffix: str
    parse: Parse
    list_file: Path | None = None
    names: tuple[str, ...] | None = None
    by_base_name: bool = False
    is_label: Callable[[Path], bool] | None = None
    region: str = ""

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the split; ``empty_is_verified``: an image without label file is a negative."""
        return _for_every_class(_PerImageReader(self, empty_is_verified).read(), self.region)


def _for_every_class(raw: RawSplit, region: str) -> RawSplit:
    """Put an object of each class in place of a region, which is then no class any more."""
    if region not in raw.names:
        return raw
    number_of_region = raw.names.index(region)
    names = [name for name in raw.names if name != region]
    for image in raw.images:
        if image.objects and not names:  # the regions are lost: not known to be empty
            image.state_if_empty = ImageState.UNREVIEWED
        objects: list[RawObject] = []
        for x0, y0, x1, y1, number, ignore, place in image.objects:
            is_region = number == number_of_region
            classes = range(len(names)) if is_region else [number - (number > number_of_region)]
            objects += [(x0, y0, x1, y1, one, ignore, place) for one in classes]
        image.objects = objects
    return replace(raw, names=names)


class _PerImageReader:
    def __init__(self, source: PerImageSource, empty_is_verified: bool) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.notes = Remarks()
        self.classes = ClassList(source.names)
        self.marks = read_marks(source.labels, source.root, self.problems)
        self.finder = ImageFinder(source.root, [source.images], by_base_name=source.by_base_name)
        self.missing = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED
        self.parsed: dict[Path, ImageLabels | LabelError] = {}
        """Label files that were read already to find out which image they are of."""

    def read(self) -> RawSplit:
        """Return the split: every image with what its label file says."""
        raws = [self._image(path, label) for path, label in self._pair().items()]
        root = self.source.root
        raws = measure(raws, root, self.problems)
        self.problems += self.notes.problems() + self.finder.remarks(self._name(self.source.labels))
        return RawSplit(root, self.classes.names, raws, self.problems, self.classes.declared)

    def _pair(self) -> dict[Path, Path | None]:
        """Return the split's images, each with its label file or None."""
        images: dict[str, list[Path]] = defaultdict(list)
        for path in list_images(self.source.images):
            images[pair_name(path, self.source.images)].append(path)
        labels = self._labels()
        other_case = _in_another_case(images, labels)
        pairs: dict[Path, Path | None] = {}
        strays: list[Path] = []
        for name in self._names(images.keys() | labels.keys()):
            found, label = images.get(name, []), labels.get(other_case.get(name, name))
            pairs.update(dict.fromkeys(found))
            if label is not None and found:
                pairs[self._choose(found, label)] = label
                if name in other_case:
                    reason = "the label's name has other capital letters than the image's"
                    kind = FindingKind.IMAGE_FOUND_OTHERWISE
                    self.notes.add(kind, reason, self._name(label))
            elif label is not None and name not in other_case.values():
                strays.append(label)
            elif not found and not label and self.source.list_file is not None:
                self._report(FindingKind.IMAGE_MISSING, self.source.list_file, f"no image {name}.*")
        for label in strays:
            self._follow(label, pairs)
        return pairs

    def _labels(self) -> dict[str, Path]:
        labels: dict[str, Path] = {}
        is_label = self.source.is_label
        for path in list_files(self.source.labels, {self.source.suffix}):
            if is_label is not None and not is_label(path):
                continue
            first = labels.setdefault(pair_name(path, self.source.labels), path)
            if first is not path:
                reason = f"left out: {first.name} is of the same image"
                self._report(FindingKind.LABEL_AMBIGUOUS, path, reason)
        return labels

    def _names(self, present: set[str]) -> list[str]:
        if self.source.list_file is None:
            return sorted(present)
        try:
            lines = [line.strip() for line in read_lines(self.source.list_file) if line.strip()]
        except (OSError, TextError) as error:
            raise DataError(f"{self.source.list_file}: {error}") from None
        return list(dict.fromkeys(_listed_name(line, present) for line in lines))

    def _choose(self, found: list[Path], label: Path) -> Path:
        """Return which of several images of one name a label file belongs to."""
        if len(found) == 1:
            return found[0]
        written = self._written_name(label)
        best = next((path for path in found if path.name == written), found[0])
        rest = ", ".join(path.name for path in found if path != best)
        reason = f"given to {best.name}; {rest} stays without"
        self._report(FindingKind.LABEL_AMBIGUOUS, label, reason)
        return best

    def _follow(self, label: Path, pairs: dict[Path, Path | None]) -> None:
        """Pair a label file whose name fits no image by the name that it holds."""
        written = self._written_name(label)
        full = label.with_suffix("")  # 0001.jpg.xml is of 0001.jpg
        try:
            image = self.finder.find(written) if written else None
            if image is None and has_picture_name(full.name):
                image = self.finder.find(relative_name(full, self.source.labels))
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, label, f"the image's name {error}")
            return
        if image is None:
            hint = self.finder.hint(written)
            reason = f"no image {label.stem}.* and none at {written!r}{hint}"
            self._report(FindingKind.IMAGE_MISSING, label, reason)
        elif (other := pairs.get(image)) is not None:
            reason = f"left out: its image {image.name} has {other.name} already"
            self._report(FindingKind.LABEL_AMBIGUOUS, label, reason)
        else:
            pairs[image] = label

    def _written_name(self, label: Path) -> str:
        labels = self.parsed[label] = self._parse(label)
        return "" if isinstance(labels, LabelError) else labels.image

    def _image(self, path: Path, label: Path | None) -> RawImage:
        mark = self.marks.get(relative_name(path, self.source.images), NO_MARK)
        raw = RawImage(path, self._name(label or path), state=mark.state, source=mark.source)
        if label is None:
            raw.state_if_empty = self.missing
            return raw
        labels = self.parsed.pop(label, None) or self._parse(label)
        if isinstance(labels, LabelError):
            self._report(labels.kind, label, str(labels))
            raw.rejected += 1
            return raw
        raw.state_if_empty = ImageState.VERIFIED_EMPTY if labels.looked_at else self.missing
        self.problems += fill_image(raw, labels, self.classes, mark.ignore, self.notes)
        return raw

    def _parse(self, label: Path) -> ImageLabels | LabelError:
        try:
            return self.source.parse(label)
        except LabelError as error:
            return error
        except TextError as error:
            return LabelError(FindingKind.LABEL_ENCODING, str(error))
        except OSError as error:
            return LabelError(FindingKind.LABEL_BROKEN, f"cannot be read ({error.strerror})")

    def _name(self, path: Path) -> str:
        return relative_name(path, self.source.root)

    def _report(self, kind: FindingKind, file: Path, reason: str) -> None:
        self.problems.append(Problem(kind, self._name(file), -1, reason))


def _listed_name(line: str, present: set[str]) -> str:
    """Return the image that a line of a list names: without its ending, as `pair_name` has it.

    A mark may stand behind it (``0001 -1``), an ending, and folders before it (``JPEGImages/0001.jpg``).
    """
    words = [line, line.split(maxsplit=1)[0]]
    shorter = [str(PurePosixPath(word).with_suffix("")) for word in words if has_picture_name(word)]
    whole = [same_text(word.replace("\\", "/")) for word in (*words, *shorter)]
    tried = [*whole, *(word.rpartition("/")[2] for word in whole)]
    return next((name for name in tried if name in present), words[1])


def _in_another_case(images: dict[str, list[Path]], labels: dict[str, Path]) -> dict[str, str]:
    """Return, by the name of an image, the name of the label that differs in its letters' case only."""
    left: dict[str, list[str]] = defaultdict(list)
    for name in labels.keys() - images.keys():
        left[name.casefold()].append(name)
    if not left:
        return {}
    alone: dict[str, list[str]] = defaultdict(list)
    for name in images.keys() - labels.keys():
        alone[name.casefold()].append(name)
    return {
        names[0]: left[folded][0]
        for folded, names in alone.items()
        if len(names) == 1 and len(left.get(folded, ())) == 1
    }


Entries = Callable[[Path], Iterable[ImageLabels]]
"""Reads a file, entry by entry; raises `DataError`, naming it, where it cannot be used at all."""


@dataclass(frozen=True, slots=True)
class OneFileSource:
    """One split.

    Attributes:
        format: the name of the format in `format_table`.
        root: no name in the file may leave it.
        bases: the folders, below ``root``, that names may start from.
        entries: reads the file.
        names: the class list, where the data come with one.
        by_base_name: the user named the folder of images, see `ImageFinder`.
        one_entry_per_image: a second entry for an image is reported.
        folder: images in it that the file does not name are ``unreviewed`` ones of the split.
        split: only the entries of that part of the data (`ImageLabels.split`); None: all.
        form: what the four numbers of a box are in the file.
    """

    format: str
    root: Path
    file: Path
    bases: tuple[Path, ...]
    entries: Entries
    names: tuple[str, ...] | None = None
    by_base_name: bool = False
    one_entry_per_image: bool = True
    folder: Path | None = None
    split: str | None = None
    form: Form = "xyxy"

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the file; ``empty_is_verified``: an image without an object is a negative.

        Raises:
            DataError: not readable, not of its format, or none of its images is found.
        """
        return _OneFileReader(self, empty_is_verified).read()


def one_file_source(
    format: str,
    path: Path,
    images: Path | None,
    entries: Entries,
    *,
    names: tuple[str, ...] | None = None,
    one_entry_per_image: bool = True,
) -> OneFileSource:
    """Return a label file with the folders that its images may lie in.

    Args:
        format: its name in `format_table`.
        images: the folder of images, where the user named it.
    """
    if images is not None:
        bases: tuple[Path, ...] = (images,)
        root = images
    else:
        root, bases = likely_folders(path)
    return OneFileSource(
        format,
        root,
        path,
        bases,
        entries,
        names=names,
        by_base_name=images is not None,
        one_entry_per_image=one_entry_per_image,
    )


def by_split(source: OneFileSource) -> dict[str, OneFileSource]:
    """Return the splits of a file that says of each entry to which one it belongs."""
    found = dict.fromkeys(labels.split for labels in source.entries(source.file))
    if not any(map(split_of, found)):
        return {ALL: source}
    names: dict[str, OneFileSource] = {}
    for written in found:
        name = split_of(written) or written or ALL
        names[name if name not in names else written] = replace(source, split=written)
    return names


def likely_folders(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """Return the root of a label file's data, and the folders below it that may hold its images."""
    here = path.parent
    root = here.parent if here.name.lower() == "annotations" else here
    stem = path.stem.removeprefix("instances_")
    names = dict.fromkeys([stem, split_of(stem) or stem])
    bases = [folder / name for name in names for folder in (root / "images", root)]
    return root, (*dict.fromkeys([*bases, root / "images", root / "data", here, root]),)


class _OneFileReader:
    def __init__(self, source: OneFileSource, empty_is_verified: bool) -> None:
        self.source = source
        self.file = relative_name(source.file, source.root)
        self.finder = ImageFinder(  # each of the folders may be a link to where the images are
            source.root,
            source.bases,
            by_base_name=source.by_base_name,
            more_roots=source.bases,
            labels=source.file,
        )
        self.empty = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED
        self.classes = ClassList(source.names)
        self.images: dict[str, RawImage | None] = {}
        self.by_path: dict[Path, RawImage] = {}
        self.notes = Remarks()
        self.problems: list[Problem] = []
        here = source.file.parent
        self.marked = here if (here / STATES_FILE).is_file() else here.parent
        self.marks = read_marks(self.marked, source.root, self.problems)

    def read(self) -> RawSplit:
        """Return the file's images and boxes; entries of one image are joined."""
        for labels in self.source.entries(self.source.file):
            if self.source.split not in (None, labels.split):
                continue
            raw = self._image(labels)
            if raw is not None:
                ignored = self._mark(raw.path).ignore
                found = fill_image(raw, labels, self.classes, ignored, self.notes)
                self.problems += found
        if self.source.folder is not None:
            for path in list_images(self.source.folder):
                if path not in self.by_path:
                    self._add(path, self.file, self.empty)
        if not self.by_path:
            raise DataError(none_found(self.source.file, self.source.bases, self.problems))
        images = measure(self.by_path.values(), self.source.root, self.problems)
        self.problems += self.notes.problems() + self.finder.remarks(self.file)
        classes, source = self.classes, self.source
        return RawSplit(
            source.root, classes.names, images, self.problems, classes.declared, source.form
        )

    def _image(self, labels: ImageLabels) -> RawImage | None:
        """Return the image of an entry; what is wrong with its name is said at its first entry only."""
        name = labels.image
        if name in self.images:
            raw = self.images[name]
            if raw is not None and self.source.one_entry_per_image:
                self._repeated(name, labels.place)
            return raw
        self.images[name] = None
        try:
            path = self.finder.find(name) if name else None
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, labels.place, str(error))
            return None
        if path is None:
            reason = f"no image {name!r}{self.finder.hint(name)}"
            self._report(FindingKind.IMAGE_MISSING, labels.place, reason)
            return None
        raw = self.by_path.get(path)
        if raw is None:
            state = ImageState.VERIFIED_EMPTY if labels.looked_at else self.empty
            raw = self._add(path, self.file, state)
        elif self.source.one_entry_per_image:
            self._repeated(name, labels.place)
        self.images[name] = raw
        return raw

    def _add(self, path: Path, file: str, state: ImageState) -> RawImage:
        mark = self._mark(path)
        raw = RawImage(path, file, state=mark.state, state_if_empty=state, source=mark.source)
        self.by_path[path] = raw
        return raw

    def _mark(self, path: Path) -> Mark:
        return self.marks.get(relative_name(path, self.marked), NO_MARK)

    def _repeated(self, name: str, place: int) -> None:
        reason = f"{name} is listed before; objects are merged"
        self._report(FindingKind.FILE_REPEATED, place, reason)

    def _report(self, kind: FindingKind, index: int, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, index, reason))


def none_found(file: Path, bases: Iterable[Path], problems: list[Problem]) -> str:
    """Return the message for a label file none of whose images can be used."""
    number = counted(len(problems), "image") if problems else "images"
    first = f" (first: {problems[0].reason})" if problems else ""
    way = "name their folder with images= (--images), where they are found by their base names too"
    told = f"; {way}" if "--images" not in first else ""
    looked = ", ".join(str(base) for base in bases)
    return f"{file}: none of its {number} can be used{first}{told}; looked in {looked}"
