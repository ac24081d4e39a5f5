"""The side file of formats that cannot say an image's state: what is written, read and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardmine.data.formats.image_states import (
    NO_MARK,
    STATES_FILE,
    Mark,
    has_label_file,
    mark_of,
    parse_state,
    read_marks,
    write_marks,
)
from hardmine.finding_kinds import FindingKind
from hardmine.types import ImageRecord, ImageState, Problem


def test_marks_come_back_and_images_without_one_are_not_listed(tmp_path: Path) -> None:
    marks = {
        "plain.jpg": NO_MARK,
        "empty.jpg": Mark(ImageState.ASSUMED_EMPTY),
        "ignored.jpg": Mark(None, frozenset({8, 1})),
        "ä.jpg": Mark(None, frozenset(), "yard"),
        "all.jpg": Mark(ImageState.UNREVIEWED, frozenset({1}), "yard"),
    }
    write_marks(tmp_path, marks)
    written = json.loads((tmp_path / STATES_FILE).read_text(encoding="utf-8"))
    assert written == {
        "images": {
            "empty.jpg": {"state": "assumed_empty"},
            "ignored.jpg": {"ignore": [1, 8]},
            "ä.jpg": {"source": "yard"},
            "all.jpg": {"state": "unreviewed", "ignore": [1], "source": "yard"},
        }
    }
    problems: list[Problem] = []
    assert read_marks(tmp_path, tmp_path, problems) == {k: v for k, v in marks.items() if v}
    assert problems == []
    for _ in range(2):  # without marks there is no file, whether there was one or not
        write_marks(tmp_path, {"plain.jpg": NO_MARK})
        assert not (tmp_path / STATES_FILE).exists()
        assert read_marks(tmp_path, tmp_path, problems) == {}
    assert problems == []


def test_a_broken_entry_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    entries = {
        "a.jpg": {"state": "holiday"},
        "b.jpg": {"state": None, "ignore": ["1"]},
        "c.jpg": 7,
        "d.jpg": {"state": "ignored"},
        "e.jpg": {"ignore": 3},
    }
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / STATES_FILE).write_text(json.dumps({"images": entries}), encoding="utf-8")
    problems: list[Problem] = []
    assert read_marks(folder, tmp_path, problems) == {
        "b.jpg": Mark(None, frozenset({1})),
        "d.jpg": Mark(ImageState.IGNORED),
    }
    assert [(p.kind, p.file, p.index) for p in problems] == [
        (FindingKind.STATE_UNKNOWN, f"labels/{STATES_FILE}", index) for index in (0, 2, 4)
    ]
    assert problems[0].reason.startswith("a.jpg: 'holiday' is not a valid")


@pytest.mark.parametrize("text", ["{", "[]", '{"others": {}}', '{"images": 3}'])
def test_a_broken_file_is_one_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / STATES_FILE).write_text(text, encoding="utf-8")
    problems: list[Problem] = []
    assert read_marks(tmp_path, tmp_path, problems) == {}
    assert [(p.kind, p.file, p.index) for p in problems] == [
        (FindingKind.STATES_BROKEN, STATES_FILE, -1)
    ]


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("objects", [0, 1])
def test_only_what_a_label_file_does_not_say_is_marked(state: ImageState, objects: int) -> None:
    """A label file with objects says labelled, an empty one verified empty, none unreviewed."""
    boxes, labels = np.ones((objects, 4), np.float32), np.ones(objects, np.int64)
    record = ImageRecord(
        Path("a.jpg"), 9, 9, boxes, labels, np.zeros(objects, np.bool_), state, "yard"
    )
    trusted = state.is_trainable or objects == 1
    assert has_label_file(record) is trusted
    says = ImageState.UNREVIEWED
    if trusted:
        says = ImageState.LABELLED if objects else ImageState.VERIFIED_EMPTY
    wanted = None if state is says else state
    assert mark_of(record, frozenset({0})) == Mark(wanted, frozenset({0}), "yard")
    assert mark_of(record) == Mark(wanted, frozenset(), "yard")


def test_states_by_name() -> None:
    assert [parse_state(state.value) for state in ImageState] == list(ImageState)
    assert parse_state("holiday") is None
    assert parse_state(None) is None
