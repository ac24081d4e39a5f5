"""Pascal VOC: one XML file per image.

Boxes are taken as written, as the edges of the object in pixels counted from 0: so LabelImg, CVAT
and most converters write them, and so a box survives a round trip exactly. The files of the VOC
challenges themselves (``<source><annotation>PASCAL VOC…``) count pixels from 1 and include the last
one; for those, 1 is taken from xmin and ymin.

An XML file without objects says ``verified_empty``; an image without XML is ``unreviewed``. Images
and XML files pair by their names; ``<filename>`` only helps where no name fits, and ``<path>``,
which is the path on the machine of whoever labelled, is never followed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse

from hardmine.data.formats.image_folder import list_files, list_images, measure, stem_name
from hardmine.data.formats.image_paths import ImageFinder, OutsideRootError, relative_name
from hardmine.data.formats.image_states import (
    NO_MARK,
    Mark,
    has_label_file,
    mark_of,
    read_marks,
    write_marks,
    write_plain,
)
from hardmine.data.formats.label_format import ALL, SPLITS, LabelPerImage, LabelSet, Reader, Writer
from hardmine.data.formats.label_validation import LabelError, RawImage, RawSplit
from hardmine.data.formats.yolo import class_names
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord, ImageState, Problem

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CHALLENGE = "PASCAL VOC"
_ANNOTATION = re.compile(rb"<annotation[\s>]")
_PEEK = 65536


@dataclass(frozen=True, slots=True)
class VocSource:
    """One split: the folders of images and XML files, and the list of names, where there is one."""

    root: Path
    images: Path
    labels: Path
    list_file: Path | None = None
    names: tuple[str, ...] | None = None
    """The class list, where the data come with one; classes that it lacks are added to it."""

    def read(self, *, empty_is_verified: bool = False) -> RawSplit:
        """Read the split; ``empty_is_verified``: an image without XML is a negative."""
        return _VocReader(self, empty_is_verified).read()


class _VocReader:
    def __init__(self, source: VocSource, empty_is_verified: bool) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.names = {name: index for index, name in enumerate(source.names or ())}
        self.marks = read_marks(source.labels, source.root, self.problems)
        self.finder = ImageFinder(source.root, [source.images])
        self.missing = ImageState.VERIFIED_EMPTY if empty_is_verified else ImageState.UNREVIEWED

    def read(self) -> RawSplit:
        raws = [self._image(path, label) for path, label in self._pair().items()]
        raws = measure(raws, self.source.root, self.problems)
        declared = self.source.names is not None
        return RawSplit(self.source.root, list(self.names), raws, self.problems, declared)

    def _pair(self) -> dict[Path, Path | None]:
        """Return the split's images, each with its XML file or None."""
        images: dict[str, list[Path]] = defaultdict(list)
        for path in list_images(self.source.images):
            images[stem_name(path, self.source.images)].append(path)
        labels = {
            stem_name(path, self.source.labels): path
            for path in list_files(self.source.labels, {".xml"})
        }
        pairs: dict[Path, Path | None] = {}
        strays: list[Path] = []
        for name in self._names(images.keys() | labels.keys()):
            found, label = images.get(name, []), labels.get(name)
            pairs.update(dict.fromkeys(found))
            if label is not None and found:
                pairs[self._choose(found, label)] = label
            elif label is not None:
                strays.append(label)
            elif not found and self.source.list_file is not None:
                self._report(FindingKind.IMAGE_MISSING, self.source.list_file, f"no image {name}.*")
        for label in strays:
            self._follow(label, pairs)
        return pairs

    def _names(self, present: set[str]) -> list[str]:
        if self.source.list_file is None:
            return sorted(present)
        text = self.source.list_file.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return list(dict.fromkeys(line if line in present else line.split()[0] for line in lines))

    def _choose(self, found: list[Path], label: Path) -> Path:
        """Return which of several images of one name an XML file belongs to."""
        if len(found) == 1:
            return found[0]
        written = self._written_name(label)
        best = next((path for path in found if path.name == written), found[0])
        rest = ", ".join(path.name for path in found if path != best)
        self._report(
            FindingKind.LABEL_AMBIGUOUS, label, f"given to {best.name}; {rest} stays without"
        )
        return best

    def _follow(self, label: Path, pairs: dict[Path, Path | None]) -> None:
        """Pair an XML file whose name fits no image by its <filename>."""
        written = self._written_name(label)
        try:
            image = self.finder.find(written) if written else None
        except OutsideRootError as error:
            self._report(FindingKind.PATH_OUTSIDE, label, f"<filename> {error}")
            return
        if image is None:
            self._report(
                FindingKind.IMAGE_MISSING, label, f"no image {label.stem}.* and none at {written!r}"
            )
        elif (other := pairs.get(image)) is not None:
            reason = f"left out: its image {image.name} has {other.name} already"
            self._report(FindingKind.LABEL_AMBIGUOUS, label, reason)
        else:
            pairs[image] = label

    def _written_name(self, label: Path) -> str:
        try:
            return (_parse(label).findtext("filename") or "").strip()
        except LabelError:
            return ""  # reported when the file is read for its objects, or as having no image

    def _image(self, path: Path, label: Path | None) -> RawImage:
        mark = self.marks.get(relative_name(path, self.source.images), NO_MARK)
        file = relative_name(label or path, self.source.root)
        raw = RawImage(path, file, state=mark.state, source=mark.source)
        if label is None:
            raw.state_if_empty = self.missing
            return raw
        raw.state_if_empty = ImageState.VERIFIED_EMPTY
        try:
            self._fill(raw, _parse(label), mark)
        except LabelError as error:
            self._report(error.kind, label, str(error))
            raw.rejected += 1
        return raw

    def _fill(self, raw: RawImage, annotation: Element, mark: Mark) -> None:
        raw.width = _count(annotation.findtext("size/width"))
        raw.height = _count(annotation.findtext("size/height"))
        base = annotation.findtext("source/annotation") or ""
        first = 1.0 if base.strip().upper().startswith(_CHALLENGE) else 0.0
        for index, item in enumerate(annotation.findall("object")):
            name = (item.findtext("name") or "").strip()
            difficult = (item.findtext("difficult") or "0").strip() not in ("0", "")
            try:
                x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{key}") or "") for key in _CORNERS)
            except ValueError:
                reason = f"<bndbox> of {name!r} lacks one of {', '.join(_CORNERS)} as a number"
                self.problems.append(Problem(FindingKind.BOX_MALFORMED, raw.file, index, reason))
                raw.rejected += 1
                continue
            label = self.names.setdefault(name, len(self.names))
            ignore = difficult or index in mark.ignore
            raw.objects.append((x0 - first, y0 - first, x1, y1, label, ignore, index))

    def _report(self, kind: FindingKind, file: Path, reason: str) -> None:
        name = relative_name(file, self.source.root)
        self.problems.append(Problem(kind, name, -1, reason))


def _parse(path: Path) -> Element:
    """Return the <annotation> element.

    Raises:
        LabelError: no XML, no annotation, or XML that defines entities (which can grow without end
            or read other files).
    """
    try:
        root = parse(path).getroot()
    except DefusedXmlException as error:
        raise LabelError(
            FindingKind.LABEL_ENTITIES, f"XML with entities is refused ({error})"
        ) from None
    except (ParseError, OSError, ValueError, LookupError) as error:
        raise LabelError(FindingKind.LABEL_BROKEN, f"not readable as XML ({error})") from None
    if root is None or root.tag != "annotation":
        found = "nothing" if root is None else f"<{root.tag}>"
        raise LabelError(FindingKind.LABEL_BROKEN, f"holds {found}, wanted <annotation>")
    return root


def _count(text: str | None) -> int:
    """Return a number of pixels, 0 where it is missing or senseless (then the header is read)."""
    try:
        return max(0, round(float(text or "")))
    except (ValueError, OverflowError):
        return 0


def write_voc(labels: LabelSet, out: Path) -> None:
    """Write XML files for the images in ``out/JPEGImages``, their splits and ``classes.txt``."""
    images, folder = out / "JPEGImages", out / "Annotations"
    folder.mkdir(parents=True, exist_ok=True)
    marks: dict[str, Mark] = {}
    for name, dataset in labels.splits.items():
        for record in dataset.records:
            if has_label_file(record):
                path = folder / f"{stem_name(record.path, images)}.xml"
                write_plain(path, _voc_xml(record, dataset.categories))
            marks[relative_name(record.path, images)] = mark_of(record, frozenset())
        if name != ALL:
            names = [stem_name(record.path, images) for record in dataset.records]
            text = "".join(f"{stem}\n" for stem in names)
            write_plain(out / "ImageSets" / "Main" / f"{name}.txt", text)
    write_marks(folder, marks)
    write_plain(out / "classes.txt", "".join(f"{name}\n" for name in labels.categories))


def _voc_xml(record: ImageRecord, categories: Sequence[str]) -> str:
    root = Element("annotation")
    _add(root, "filename", record.path.name)
    size = SubElement(root, "size")
    for key, value in (("width", record.width), ("height", record.height), ("depth", 3)):
        _add(size, key, value)
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True)
    for box, label, ignore in rows:
        item = SubElement(root, "object")
        _add(item, "name", categories[label - 1])
        _add(item, "difficult", int(ignore))
        corners = SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            _add(corners, key, int(value) if value.is_integer() else value)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, key: str, value: object) -> None:
    SubElement(parent, key).text = str(value)


def _layout(path: Path) -> dict[str, VocSource]:
    """Return the splits of a folder laid out as the VOC challenges do."""
    images, labels = path / "JPEGImages", path / "Annotations"
    if not (images.is_dir() and labels.is_dir()):
        return {}
    files = sorted((path / "ImageSets" / "Main").glob("*.txt"))
    lists = {file.stem: file for file in files if "_" not in file.stem}  # not aeroplane_train.txt
    chosen: dict[str, Path] = {name: lists[name] for name in SPLITS if name in lists}
    if "trainval" in lists and "train" not in chosen:
        chosen["train"] = lists["trainval"]
    names = class_names(path)
    lists = chosen or lists
    if not lists:
        return {ALL: VocSource(path, images, labels, None, names)}
    return {name: VocSource(path, images, labels, file, names) for name, file in lists.items()}


def _looks_like_voc(path: Path) -> bool:
    with path.open("rb") as file:
        return _ANNOTATION.search(file.read(_PEEK)) is not None


READER = Reader(layout=_layout, per_image=LabelPerImage(".xml", _looks_like_voc, VocSource))
WRITER = Writer(write_voc, lambda split: "JPEGImages")
