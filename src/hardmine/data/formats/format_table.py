"""The label formats: one row for each, from which everything that lists formats is made.

The table is read by the recognition of data (`load_dataset`), by ``convert --to`` (choices and help), by
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

from hardmine.errors import ConfigError, DataError, not_one_of

if TYPE_CHECKING:
    from hardmine.data.formats.label_format import Appender, Reader, Writer


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

    @property
    def appender(self) -> Appender:
        """How images are added to data that are there: ``APPENDER`` of its module.

        Raises:
            DataError: the format has none; those that have one are named.
        """
        appender: Appender | None = getattr(self._load(), "APPENDER", None)
        if appender is None:
            able = ", ".join(row.name for row in FORMATS if hasattr(row._load(), "APPENDER"))
            raise DataError(
                f"images cannot be added to {self.name} data, only to {able}; convert the data first "
                "(hardmine convert DATA OUT --to coco)"
            )
        return appender

    def _load(self) -> ModuleType:
        return import_module(f"hardmine.data.formats.{self.module or self.name}")


FORMATS: tuple[LabelFormat, ...] = (
    LabelFormat(
        "voc",
        "Pascal VOC: one XML file per image",
        recognised_by="`JPEGImages/` and `Annotations/` (splits in `ImageSets/Main/`); or XML files "
        "in a folder of any name beside `images/`, or beside the images",
        written="`JPEGImages/`, `Annotations/`, `ImageSets/Main/`",
    ),
    LabelFormat(
        "yolo",
        "YOLO: one text file per image",
        recognised_by="a `data.yaml`, or Darknet's `obj.data`; or `images/` and `labels/` side by "
        "side, or text files `class cx cy w h` beside the images",
        written="`data.yaml`, `images/`, `labels/`",
        how_to_import="`yolo train data=OUT/data.yaml`, from any folder",
    ),
    LabelFormat(
        "coco",
        "COCO: one JSON file for all images of a split",
        recognised_by="a `.json` with `images`, `annotations` and `categories`, in the folder, in "
        "`annotations/`, or beside `data/` (FiftyOne)",
        written="`annotations/instances_*.json`, `images/`",
    ),
    LabelFormat(
        "rfdetr",
        "COCO in a folder per split",
        written="`train/`, `valid/`, `test/` with `_annotations.coco.json` in each",
        how_to_import="RF-DETR and Roboflow take it as it is; read back as COCO",
        module="coco_writing",
    ),
    LabelFormat(
        "labelme",
        "LabelMe, X-AnyLabeling: one JSON file per image",
        recognised_by="a `.json` with `shapes` beside each picture, or in a folder beside `images/`",
        written="pictures with a `.json` beside each, `labels.txt`",
        how_to_import="`labelme OUT --labels OUT/labels.txt`",
    ),
    LabelFormat(
        "kitti",
        "KITTI: one text file per image",
        recognised_by="`image_2/` and `label_2/`, or text files of 15 words beside the images",
        written="`image_2/`, `label_2/` (splits in `training/`, `validation/`, `testing/`)",
    ),
    LabelFormat(
        "createml",
        "CreateML: one JSON list beside the images",
        recognised_by="`_annotations.createml.json`, or a `.json` that is a list of `image` and "
        "`annotations`",
        written="`images/` (or a folder per split) with `_annotations.createml.json`",
        how_to_import="each folder is a data source of Create ML",
    ),
    LabelFormat(
        "labelstudio",
        "Label Studio",
        recognised_by="its export as JSON or JSON-MIN",
        written="`tasks.json`, `labels.xml`, `images/`",
        how_to_import="serve local files with OUT as document root, set up the project with "
        "`labels.xml`, add `OUT/images` as local storage, import `tasks.json`",
        module="label_studio",
        for_labelling=True,
    ),
    LabelFormat(
        "cvat",
        "CVAT for images 1.1",
        recognised_by="an `.xml` with `<annotations>`",
        written="`annotations.xml`, `images/`",
        how_to_import="make a task from `images/`, upload the annotations",
        for_labelling=True,
    ),
    LabelFormat(
        "fiftyone",
        "FiftyOne's image detection dataset",
        recognised_by="`labels.json` with `classes` and `labels`, beside `data/`",
        written="`labels.json`, `data/`",
        how_to_import="`fo.Dataset.from_dir(OUT, fo.types.FiftyOneImageDetectionDataset)`",
        for_labelling=True,
    ),
    LabelFormat(
        "via",
        "VGG Image Annotator (VIA)",
        recognised_by="its project, or its annotations as `.json` or `.csv`",
    ),
    LabelFormat(
        "csv",
        "CSV: one line per object",
        recognised_by="a `.csv` with the columns `image,xmin,ymin,xmax,ymax,label`, with or without "
        "a header; Open Images' and MakeSense's",
        module="csv_boxes",
    ),
)
"""The formats in the order in which they are tried: those that a folder names itself come first."""

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


def formats_read() -> str:
    """Return the names of the formats that are read, with commas between them."""
    return ", ".join(row.words.partition(":")[0] for row in READ)


def looked_for() -> str:
    """Return what data of each format look like, for the error where nothing was recognised."""
    looks = "; ".join(f"{row.words} ({row.recognised_by})" for row in READ)
    return f"{looks}; or folders train/, val/ (or valid/), test/ with one of these in each".replace(
        "`", ""
    )
