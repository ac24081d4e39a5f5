"""Records and datasets that a program makes itself: what is taken over, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardmine.errors import DataError
from hardmine.types import Dataset, ImageRecord, ImageState

BOX = np.array([[1, 2, 3, 4], [0, 0, 9, 9]], np.float32)


def record(**changed: Any) -> ImageRecord:
    values: dict[str, Any] = {
        "path": Path("a.png"),
        "width": 9,
        "height": 9,
        "boxes": BOX,
        "labels": np.array([1, 2], np.int64),
        "ignore": np.zeros(2, np.bool_),
        "state": ImageState.LABELLED,
    }
    return ImageRecord(**{**values, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "a.png"},
        {"boxes": BOX.tolist()},
        {"boxes": BOX.astype(np.float64)},
        {"boxes": BOX.astype(np.int32)},
        {"boxes": torch.tensor(BOX)},
        {"labels": [1, 2]},
        {"labels": np.array([1, 2], np.uint8)},
        {"labels": np.array([1.0, 2.0])},
        {"ignore": [False, False]},
        {"state": "labelled"},
    ],
)
def test_what_a_program_gives_becomes_the_same_record(changed: dict[str, Any]) -> None:
    usual = Dataset(("cat", "dog"), (record(),), Path("root"))
    given = Dataset(["cat", "dog"], [record(**changed)], "root")  # type: ignore[arg-type]
    assert given.fingerprint == usual.fingerprint
    assert repr(given) == repr(usual)
    assert given.categories == usual.categories
    one = given[0]
    kinds = [array.dtype.str[1:] for array in (one.boxes, one.labels, one.ignore)]
    assert kinds == ["f4", "i8", "b1"]
    assert one.state.is_trainable
    assert one.path.name == "a.png"


def test_arrays_of_the_right_kind_are_not_copied() -> None:
    assert record().boxes is BOX


def test_empty_lists_are_no_objects() -> None:
    empty = record(boxes=[], labels=[], ignore=[], state=ImageState.VERIFIED_EMPTY)
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.shape == (0,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": BOX[0]}, r"a.png: boxes: got an array \[4\], wanted \[N, 4\]"),
        ({"boxes": [["a", "b", "c", "d"]]}, r"a.png: boxes: got .*wanted numbers \[N, 4\]"),
        (
            {"boxes": BOX[:, [2, 3, 0, 1]]},
            r"got the box \[3.0, 4.0, 1.0, 2.0\], wanted .* x1 <= x2",
        ),
        ({"boxes": BOX * np.nan}, r"got the box \[nan, nan, nan, nan\], wanted finite"),
        ({"boxes": np.where(BOX == 9, np.inf, BOX)}, r"got the box \[0.0, 0.0, inf, inf\]"),
        ({"labels": [1]}, "a.png: labels: got 1, wanted 2, one for each box"),
        ({"labels": [1.5, 2]}, r"a.png: labels: got \[1.5, 2\], wanted whole numbers"),
        ({"ignore": [False]}, "a.png: ignore: got 1, wanted 2, one for each box"),
        ({"state": "labeled"}, "state: got 'labeled', wanted .*did you mean 'labelled'"),
    ],
)
def test_a_record_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        record(**changed)


@pytest.mark.parametrize(
    ("categories", "labels", "message"),
    [
        (("cat", "dog"), [0, 1], "a.png: got the label 0, wanted 1 to 2 for the classes cat, dog"),
        (("cat",), [1, 2], "a.png: got the label 2, wanted 1 to 1 for the classes cat"),
        (("cat", "cat"), [1, 2], "the class name 'cat' occurs twice"),
        ("cat", [1, 1], "categories: got 'cat', wanted a list of class names"),
    ],
)
def test_labels_and_classes_that_contradict_are_refused(
    categories: Any, labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(categories, (record(labels=labels),), Path("root"))
