"""Every kind of fault or oddity that data can have: one row for each.

A row says how much the kind matters, what a page calls it, what it means and what to do, and what
`hardmine check --fix` does about it. Reports, pages, the table in docs/data.md and the tests are made
from these rows; a `Problem` of any other kind cannot be made.
"""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Something was rejected, or would spoil training or measuring."""
    WARNING = "warning"
    """Probably not what was meant; used all the same."""
    INFO = "info"
    """Handled; good to know."""


_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


class FindingKind(StrEnum):
    """A kind of finding. Its value is the name that reports, JSON and databases use.

    Each row: name, severity, heading for a page, what it means and what to do, and what ``--fix``
    does (empty: it leaves the finding for a person to judge).
    """

    severity: Severity
    heading: str
    help: str
    fix: str

    def __new__(
        cls, name: str, severity: Severity, heading: str, help: str, fix: str = ""
    ) -> FindingKind:
        """Return the member that a row describes."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.severity, member.heading, member.help, member.fix = severity, heading, help, fix
        return member

    @classmethod
    def named(cls, name: str) -> FindingKind:
        """Return the kind of that name.

        Raises:
            ValueError: there is no such kind.
        """
        member = cls._value2member_map_.get(name)
        if isinstance(member, cls):
            return member
        raise ValueError(f"got a finding of kind {name!r}, wanted a row of FindingKind")

    @property
    def about_box(self) -> bool:
        """True when the index of such a finding counts objects, not images or classes."""
        return self.startswith("box_") or self is FindingKind.CLASS_UNKNOWN

    # Images that cannot be used.
    IMAGE_MISSING = (
        "image_missing",
        _ERROR,
        "Images that are missing",
        "A label names an image that is not there; check its name, or give the folder (--images).",
        "image left out",
    )
    IMAGE_ZERO_BYTES = (
        "image_zero_bytes",
        _ERROR,
        "Image files of zero bytes",
        "The file is empty; copy it again.",
        "image left out",
    )
    IMAGE_TRUNCATED = (
        "image_truncated",
        _ERROR,
        "Truncated images",
        "The file ends too early; copy it again.",
        "image left out",
    )
    IMAGE_NOT_IMAGE = (
        "image_not_image",
        _ERROR,
        "Files that are no images",
        "The content is of no known image format.",
        "image left out",
    )
    IMAGE_UNREADABLE = (
        "image_unreadable",
        _ERROR,
        "Images that cannot be read",
        "The file is damaged, or reading it is not allowed; the reason names the fault.",
        "image left out",
    )
    IMAGE_TOO_LARGE = (
        "image_too_large",
        _ERROR,
        "Images beyond the limit of pixels",
        "A small file may claim so many pixels that they fill the memory, so there is a limit; "
        "--max-pixels N allows larger pictures.",
        "image left out",
    )
    FILES_PASSED_OVER = (
        "files_passed_over",
        _WARNING,
        "Files that look like pictures and are not read",
        "These are raw pictures, films, archives, and pictures without the usual ending of a picture's "
        "name. Convert, unpack or rename them.",
    )
    IMAGE_UNREACHABLE = (
        "image_unreachable",
        _ERROR,
        "Images that were not reached",
        "The storage did not answer; the image itself may be fine.",
    )
    IMAGE_MALFORMED = (
        "image_malformed",
        _ERROR,
        "Entries of images without a name or an id",
        "The entry lacks what labels need to refer to it; its objects are lost.",
        "image left out",
    )
    PATH_OUTSIDE = (
        "path_outside",
        _ERROR,
        "Names of files outside the data's folder",
        "A label file may only name files below the data's root.",
        "image left out",
    )
    ARCHIVE_MISSING = (
        "archive_missing",
        _ERROR,
        "Archives that are missing",
        "There is no such archive.",
    )
    ARCHIVE_BROKEN = (
        "archive_broken",
        _ERROR,
        "Broken archives",
        "The archive cannot be read to its end; the images before the fault are used.",
    )

    # Images that are read, and that other programs may read in another way or not at all.
    IMAGE_CMYK = (
        "image_cmyk",
        _INFO,
        "Images in CMYK colours",
        "Read as RGB; other programs may show other colours.",
    )
    IMAGE_16BIT = (
        "image_16bit",
        _INFO,
        "Grey images of more than 8 bits",
        "Read as 8 bits; one value is white for the whole set (docs/augmentation.md, Decoding).",
    )
    IMAGE_ANIMATED = (
        "image_animated",
        _INFO,
        "Animated images",
        "Only the first frame is used.",
    )
    IMAGE_TURNED = (
        "image_turned",
        _INFO,
        "Images turned by their EXIF orientation",
        "Read upright, as a person sees them; boxes are taken to be drawn on the upright picture.",
    )
    IMAGE_GREY = (
        "image_grey",
        _INFO,
        "Images without colour",
        "The picture holds no colour. Where only one of two sets has colour, a model may learn that "
        "difference alone.",
    )
    SIZE_DIFFERS = (
        "size_differs",
        _ERROR,
        "Images of another size than their label says",
        "The boxes were drawn on a picture of another size. Where one factor explains both sides, or "
        "width and height are swapped, the boxes are scaled or stay, as the reason says; train, val "
        "and loop do the same. Images of another shape are refused.",
        "size set, boxes scaled or turned; of another shape: image unreviewed",
    )
    BOXES_UNTURNED = (
        "boxes_unturned",
        _ERROR,
        "Boxes drawn before the EXIF turn",
        "The boxes fit the pictures as they are stored and not as they are displayed; train, val and "
        "loop turn them.",
        "boxes turned",
    )

    # Boxes that were rejected, or altered while reading.
    BOX_NAN = (
        "box_nan",
        _ERROR,
        "Boxes that are not numbers",
        "A side of the box is NaN; the box is not used.",
        "box removed",
    )
    BOX_INFINITE = (
        "box_infinite",
        _ERROR,
        "Boxes that are infinite",
        "A side of the box is infinite; the box is not used.",
        "box removed",
    )
    BOX_INVERTED = (
        "box_inverted",
        _ERROR,
        "Boxes with swapped corners",
        "The right edge lies left of the left one, or the lower above the upper; the box is not used.",
        "box removed",
    )
    BOX_EMPTY = (
        "box_empty",
        _ERROR,
        "Boxes without width or height",
        "The box covers nothing; it is not used.",
        "box removed",
    )
    BOX_OUTSIDE = (
        "box_outside",
        _ERROR,
        "Boxes outside their image",
        "No part of the box lies inside the image; it is not used.",
        "box removed",
    )
    BOX_MALFORMED = (
        "box_malformed",
        _ERROR,
        "Boxes that are not four numbers",
        "The entry has another shape than a box; it is not used.",
        "box removed",
    )
    BOX_CLIPPED = (
        "box_clipped",
        _WARNING,
        "Boxes that pass the edge of their image",
        "The box is cut at the image's edge.",
        "box clipped",
    )
    BOX_REPEATED = (
        "box_repeated",
        _WARNING,
        "Boxes written twice",
        "The same box and class again; the repetition is not used.",
        "box removed",
    )

    # Boxes that were accepted and look wrong.
    BOX_FORM = (
        "box_form",
        _ERROR,
        "Boxes in another form than their format's",
        "Nearly all boxes fit their images when they are read in another form, and few do as they are "
        "written. The picture shows the first box as it was read, then as the other form reads it.",
        "box read anew",
    )
    BOX_UNITS_MIXED = (
        "box_units_mixed",
        _ERROR,
        "Boxes in pixels and boxes as shares of the image in one set",
        "Some boxes make sense only in another unit than the rest. The picture shows the first of them "
        "as it was read, then in its own unit.",
        "box read anew",
    )
    BOX_FORM_DOUBTFUL = (
        "box_form_doubtful",
        _WARNING,
        "Boxes that another form would explain better",
        "Some boxes fit only when they are read in another form. The picture shows the first box as it "
        "was read, then as the other form reads it.",
        "box read anew",
    )
    BOX_TWICE = (
        "box_twice",
        _WARNING,
        "Objects labelled twice",
        "Two boxes of one class in an image, with an IoU of .95 or more.",
        "box removed",
    )
    BOX_TWO_CLASSES = (
        "box_two_classes",
        _WARNING,
        "Objects with two classes",
        "Two boxes of different classes in an image, with an IoU of .95 or more.",
    )
    BOX_COPIED = (
        "box_copied",
        _WARNING,
        "The same box in many images",
        "Exactly the same box stands in at least 5 images and a tenth of those with objects. It may be "
        "a default box that nobody moved.",
    )
    BOX_SIZE_ODD = (
        "box_size_odd",
        _WARNING,
        "Boxes much larger or smaller than their class",
        "The log of the box's share of the image is 4.5 robust deviations from its class's median "
        "(classes with 20 boxes or more).",
    )
    BOX_WHOLE_IMAGE = (
        "box_whole_image",
        _WARNING,
        "Boxes that cover the whole image",
        "The box covers 98 % of the width and of the height.",
    )
    BOX_BELOW_PIXEL = (
        "box_below_pixel",
        _WARNING,
        "Boxes smaller than a pixel",
        "The box is less than a pixel wide and high. It may be written as shares of the image (0 to 1) "
        "among boxes in pixels.",
    )
    BOX_BELOW_STRIDE = (
        "box_below_stride",
        _WARNING,
        "Boxes smaller than one cell of the model's finest map",
        "With --model: after the model's resize the box is smaller than one cell of its finest map.",
    )

    # Classes and what is known of the images.
    CLASS_UNKNOWN = (
        "class_unknown",
        _ERROR,
        "Unknown classes",
        "The object is of a class that is not in the class list; it is not used.",
        "box removed",
    )
    NO_OBJECTS = (
        "no_objects",
        _ERROR,
        "Splits without an object",
        "No box can be learnt from or measured on; train, val and loop refuse the split.",
    )
    CLASS_EMPTY = (
        "class_empty",
        _WARNING,
        "Classes without an object",
        "The class list names a class that no object has.",
    )
    CLASS_RARE = (
        "class_rare",
        _WARNING,
        "Rare classes",
        "The class has fewer objects than a tenth of the commonest class's.",
    )
    CATEGORY_MALFORMED = (
        "category_malformed",
        _ERROR,
        "Categories without a name or an id",
        "The category cannot be used; its objects are lost.",
        "class left out",
    )
    CATEGORY_REPEATED = (
        "category_repeated",
        _WARNING,
        "Categories listed twice",
        "A name or an id is listed again; the classes are taken as one.",
        "classes merged",
    )
    IMAGES_UNREVIEWED = (
        "images_unreviewed",
        _WARNING,
        "Images that nobody reviewed",
        "Images without labels that nobody verified as empty are not trained on "
        "(--empty-is-verified says that somebody did).",
    )

    # Label files that cannot be trusted.
    LABEL_BROKEN = (
        "label_broken",
        _ERROR,
        "Broken label files",
        "The file cannot be read; its image is unreviewed.",
        "label not used",
    )
    LABEL_ENTITIES = (
        "label_entities",
        _ERROR,
        "XML files that define entities",
        "Such a file can be made to fill the memory; it is not read.",
        "label not used",
    )
    LABEL_ENCODING = (
        "label_encoding",
        _ERROR,
        "Label files in an unknown encoding",
        "The file is not UTF-8 text, so that its names would turn into others; it is not read.",
        "label not used",
    )
    COLUMNS_LEFT_OUT = (
        "columns_left_out",
        _WARNING,
        "Lines with more than a class and a box",
        "Detection does not use these confidences, track ids or keypoints. Confidences are a sign that "
        "a model made the labels.",
        "numbers left out",
    )
    SHAPES_LEFT_OUT = (
        "shapes_left_out",
        _WARNING,
        "Shapes that are no boxes",
        "Points and lines have no box around an object; they are not used.",
        "shape left out",
    )
    FLAG_UNKNOWN = (
        "flag_unknown",
        _WARNING,
        "Flags that say neither yes nor no",
        "The flag is taken as no, so the object counts like any other.",
        "flag taken as no",
    )
    ID_AS_TEXT = (
        "id_as_text",
        _INFO,
        "Ids written as text",
        'The id is a number in one place and text in another; 7 and "7" are taken as the same.',
        "ids matched",
    )
    EMPTY_LIST = (
        "empty_list",
        _INFO,
        "Images with an empty list of labels",
        "FiftyOne writes one for an image that a person found empty, and for images that came from COCO "
        "without annotations.",
        "counted as looked at and empty",
    )
    IMAGE_FOUND_OTHERWISE = (
        "image_found_otherwise",
        _INFO,
        "Images found by another name than written",
        "The written path is that of another machine, or its capital letters differ. Exactly one file "
        "fits, and it is used.",
        "image found by another name",
    )
    CONFIG_REMARK = (
        "config_remark",
        _WARNING,
        "Mistakes in data.yaml",
        "A value cannot be right, or a file that it names does not exist; the reason says what was used "
        "instead.",
        "read as the reason says",
    )
    CLASS_NAMES_ALIKE = (
        "class_names_alike",
        _WARNING,
        "Classes whose names differ in capital letters only",
        "They are two classes as written; probably one was meant.",
    )
    LABELS_NOT_READ = (
        "labels_not_read",
        _INFO,
        "Label files that were passed over",
        "The files look like labels and are not part of what was recognised; name them to read them.",
        "label file left out",
    )
    IMAGES_NOT_READ = (
        "images_not_read",
        _INFO,
        "Images that were passed over",
        "The images lie in the folder that was named, and no label or list file of it names them.",
        "image left out",
    )
    LABEL_AMBIGUOUS = (
        "label_ambiguous",
        _WARNING,
        "Labels that fit several images",
        "Several images have the name that the label file stands for; one of them gets it.",
        "label given to one image",
    )
    FILE_REPEATED = (
        "file_repeated",
        _WARNING,
        "Images listed twice",
        "The label file lists an image again; their objects are joined.",
        "objects merged",
    )
    IMAGE_ID_REPEATED = (
        "image_id_repeated",
        _ERROR,
        "Ids of two images",
        "Two images have one id, so nobody can say whose objects are whose; both are unreviewed.",
        "image unreviewed",
    )
    IMAGE_ID_UNKNOWN = (
        "image_id_unknown",
        _ERROR,
        "Objects of no image",
        "The object's image_id is that of no image; it is not used.",
        "box removed",
    )
    STATE_UNKNOWN = (
        "state_unknown",
        _ERROR,
        "Unknown states",
        "The state is none of the known ones; it is not used.",
        "state not used",
    )
    STATES_BROKEN = (
        "states_broken",
        _ERROR,
        "Broken files of states",
        "The file of states beside the labels cannot be read; it is not used.",
        "states not used",
    )
    STATE_CONTRADICTED = (
        "state_contradicted",
        _ERROR,
        "Images called empty that hold objects",
        "The state says that the image is empty, and objects are labelled; it is unreviewed.",
        "image unreviewed",
    )

    # Images that are alike.
    DUPLICATE_IMAGES = (
        "duplicate_images",
        _WARNING,
        "Near-copies within a split",
        "Pictures of one split that look the same (perceptual hash, 6 bits of 64 or fewer).",
    )
    SPLIT_LEAK = (
        "split_leak",
        _ERROR,
        "Near-copies in more than one split",
        "Pictures that look the same in two of the sets given: DATA's splits, --val, --against, "
        "--negatives. What is trained on must not be measured on.",
        "image left out",
    )
    SPLIT_SAME_FILES = (
        "split_same_files",
        _ERROR,
        "The same files in more than one split",
        "Two of the sets given name the same files, or one repeats every picture of another.",
        "image left out",
    )
    SOURCE_TOLD_APART = (
        "source_told_apart",
        _WARNING,
        "Positives and negatives differ in more than the objects",
        "With --negatives: the shortcut test (below) separates the two sets by their background.",
    )


IMAGE_LEFT_OUT = "the image is left out and reported"
OBJECT_LEFT_OUT = "the object is left out; an image that loses all of its objects is unreviewed"
IMAGE_UNREVIEWED = "the image is unreviewed: neither trained nor measured on"
ENTRY_NOT_USED = "the entry is not used, and it is reported"
PLACED = "the boxes are placed on the pictures; where that is impossible, the data are refused"
REFUSED = "the data are refused; the error says what to do"
SAID = "reported before training; both images stay in use"
POOL_ONLY = "happens in pools only: the images before the fault are mined, the rest is reported"

IN_TRAINING: dict[FindingKind, str] = {
    FindingKind.IMAGE_MISSING: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_ZERO_BYTES: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_TRUNCATED: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_NOT_IMAGE: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_UNREADABLE: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_TOO_LARGE: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_MALFORMED: IMAGE_LEFT_OUT,
    FindingKind.PATH_OUTSIDE: IMAGE_LEFT_OUT,
    FindingKind.IMAGE_UNREACHABLE: POOL_ONLY,
    FindingKind.ARCHIVE_MISSING: POOL_ONLY,
    FindingKind.ARCHIVE_BROKEN: POOL_ONLY,
    FindingKind.SIZE_DIFFERS: PLACED,
    FindingKind.BOXES_UNTURNED: PLACED,
    FindingKind.BOX_NAN: OBJECT_LEFT_OUT,
    FindingKind.BOX_INFINITE: OBJECT_LEFT_OUT,
    FindingKind.BOX_INVERTED: OBJECT_LEFT_OUT,
    FindingKind.BOX_EMPTY: OBJECT_LEFT_OUT,
    FindingKind.BOX_OUTSIDE: OBJECT_LEFT_OUT,
    FindingKind.BOX_MALFORMED: OBJECT_LEFT_OUT,
    FindingKind.CLASS_UNKNOWN: OBJECT_LEFT_OUT,
    FindingKind.IMAGE_ID_UNKNOWN: ENTRY_NOT_USED,
    FindingKind.CATEGORY_MALFORMED: ENTRY_NOT_USED,
    FindingKind.STATE_UNKNOWN: ENTRY_NOT_USED,
    FindingKind.STATES_BROKEN: ENTRY_NOT_USED,
    FindingKind.BOX_FORM: REFUSED,
    FindingKind.BOX_UNITS_MIXED: REFUSED,
    FindingKind.NO_OBJECTS: REFUSED,
    FindingKind.LABEL_BROKEN: IMAGE_UNREVIEWED,
    FindingKind.LABEL_ENTITIES: IMAGE_UNREVIEWED,
    FindingKind.LABEL_ENCODING: IMAGE_UNREVIEWED,
    FindingKind.IMAGE_ID_REPEATED: IMAGE_UNREVIEWED,
    FindingKind.STATE_CONTRADICTED: IMAGE_UNREVIEWED,
    FindingKind.SPLIT_LEAK: SAID,
    FindingKind.SPLIT_SAME_FILES: SAID,
}
"""What `train`, `val` and `loop` do about each kind of error; `check` and they read by one rule."""
