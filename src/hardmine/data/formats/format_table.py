"""The label formats: one row for each, from which everything that lists formats is made.

The table is read by the recognition of data (`recognise`), by ``convert --to`` (choices and help), by
the error for data that nothing fits, by the tables in the documentation (a test compares them) and by
the round-trip test. To add a format: a module with ``READER`` and ``WRITER`` (see `label_format`), its
row here, its tests.

The rows hold words only; a format's module is imported when it is used, so that the command line can
list the formats at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from hardmine.errors import ConfigError, not_one_of

if TYPE_CHECKING:
    from hardmine.data.formats.label_format import Reader, Writer


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """One row.

    Attributes:
        name: what ``convert --to`` takes.
        words: the format in a few words.
        recognised_by: what a folder or file of this format holds; empty where it is only written.
        written: what ``convert`` writes, one line of help; empty where it is only read.
        how_to_import: how another program takes what was written, where that needs saying.
        module: the module below `hardmine.data.formats`, where it is not called ``name``.
        for_labelling: a labelling program takes it, so that what a model saw can be written as
            predictions beside the labels.
    """

    name: str
    words: str
    recognised_by: str = ""
    written: str = ""
    how_to_import: str = ""
    module: str = ""
    for_labelling: bool = False

    @property
    def reader(self) -> Reader:
        """How it is recognised and read: ``READER`` of its module."""
        reader: Reader = self._load().READER
        return reader

    @property
    def writer(self) -> Writer:
        """How it is written: ``WRITER`` of its module."""
        writer: Writer = self._load().WRITER
        return writer

    def _load(self) -> ModuleType:
        return import_module(f"hardmine.data.formats.{self.module or self.name}")


FORMATS: tuple[LabelFormat, ...] = (
    LabelFormat(
        "voc",
        "Pascal VOC: one XML file per image",
        recognised_by="`JPEGImages/` and `Annotations/` (splits in `ImageSets/Main/`); or `images/` "
        "and `annotations/` side by side, or XML files beside the images",
        written="`JPEGImages/`, `Annotations/`, `ImageSets/Main/`",
    ),
    LabelFormat(
        "yolo",
        "YOLO: one text file per image",
        recognised_by="a `data.yaml`; or `images/` and `labels/` side by side, or text files "
        "`class cx cy w h` beside the images",
        written="`data.yaml`, `images/`, `labels/`",
    ),
    LabelFormat(
        "coco",
        "COCO: one JSON file for all images of a split",
        recognised_by="a `.json` with `images`, `annotations` and `categories`, in the folder or in "
        "`annotations/`",
        written="`annotations/instances_*.json`, `images/`",
    ),
    LabelFormat(
        "csv",
        "CSV: one line per object",
        recognised_by="a `.csv` with the columns `image,xmin,ymin,xmax,ymax,label`, with or without "
        "a header",
        module="csv_boxes",
    ),
    LabelFormat(
        "labelstudio",
        "Label Studio",
        written="`tasks.json`, `labels.xml`, `images/`",
        how_to_import="serve local files with OUT as document root, set up the project with "
        "`labels.xml`, add `OUT/images` as local storage, import `tasks.json`",
        module="label_studio",
        for_labelling=True,
    ),
    LabelFormat(
        "cvat",
        "CVAT for images 1.1",
        written="`annotations.xml`, `images/`",
        how_to_import="make a task from `images/`, upload the annotations",
        for_labelling=True,
    ),
    LabelFormat(
        "fiftyone",
        "FiftyOne's image detection dataset",
        written="`labels.json`, `data/`",
        how_to_import="`fo.Dataset.from_dir(OUT, fo.types.FiftyOneImageDetectionDataset)`",
        for_labelling=True,
    ),
)
"""In the order of looking: what a folder declares itself to be comes first."""

READ = tuple(row for row in FORMATS if row.recognised_by)
WRITTEN = tuple(row for row in FORMATS if row.written)


def written_format(name: str) -> LabelFormat:
    """Return the row of a format that can be written.

    Raises:
        ConfigError: there is none of that name.
    """
    names = [row.name for row in WRITTEN]
    if name not in names:
        raise ConfigError(not_one_of("format", name, names))
    return WRITTEN[names.index(name)]


def looked_for() -> str:
    """Return what data of each format look like, for the error where nothing was recognised."""
    looks = "; ".join(f"{row.words} ({row.recognised_by})" for row in READ)
    return f"{looks}; or folders train/, val/ (or valid/), test/ with one of these in each".replace(
        "`", ""
    )
