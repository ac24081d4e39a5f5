from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.data.quality.check_dataset import CheckReport, SplitCounts, size_mixture
from hardmine.data.quality.findings import Box, Finding
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.check_data import picture_of, render_check_page, write_check_page


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.new("RGB", (100, 50), (90, 90, 90)).save(path)
    return path


def report(*problems: Finding) -> CheckReport:
    counts = SplitCounts(1, {"labelled": 1}, 1, 0, {"<cat>": 1})
    return CheckReport("data", ("<cat>",), {"train": counts}, problems)


def finding(image: Path | None, *boxes: Box, kind: str = "box_outside") -> Finding:
    return Finding(kind, "a.xml", 3, "box <1>", "train", image, boxes)


def pixels(found: Finding) -> np.ndarray:
    thumbnail = picture_of(found)
    assert thumbnail is not None
    data = base64.b64decode(thumbnail.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)), np.int16)


def test_a_box_is_drawn_where_it_lies(image: Path) -> None:
    drawn = pixels(finding(image, (20, 10, 60, 40)))
    assert drawn.shape == (50, 100, 3)
    coloured = np.argwhere(np.abs(drawn - 90).max(axis=2) > 60)
    assert np.abs(coloured.min(axis=0) - [10, 20]).max() <= 2
    assert np.abs(coloured.max(axis=0) - [40, 60]).max() <= 2


def test_boxes_outside_get_a_margin_and_senseless_ones_no_line(image: Path) -> None:
    assert pixels(finding(image, (90, 10, 120, 40))).shape == (50, 123, 3)
    assert pixels(finding(image, (9000, 10, 9100, 40))).shape == (50, 130, 3)
    senseless = pixels(finding(image, (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)))
    assert np.abs(senseless - 90).max() <= 4
    inverted = pixels(finding(image, (60, 40, 20, 10)))
    assert np.abs(inverted - pixels(finding(image, (20, 10, 60, 40)))).max() == 0


def test_near_copies_stand_side_by_side(image: Path) -> None:
    found = Finding("split_leak", "a.png", -1, "copy", "train", image, (), (image, image))
    assert pixels(found).shape == (50, 100 * 3 + 2 * 4, 3)


def test_the_page_is_whole_and_escapes(image: Path, tmp_path: Path) -> None:
    gone = finding(tmp_path / "gone.png", (1, 2, 3, 4))
    rare = Finding("class_rare", "train", -1, "1 against 20", "train")
    page = tmp_path / "page.html"
    write_check_page(page, report(finding(image, (1, 2, 30, 40)), gone, rare), None, ("a note",))
    text = page.read_text(encoding="utf-8")
    assert "&lt;cat&gt;" in text
    assert "box &lt;1&gt;" in text
    assert text.count("<figure>") == 2
    assert "no such file" in text
    assert "a note" in text
    assert "1 against 20" in text
    assert not re.search(r"<script|https?://", text)
    assert "No problems" in render_check_page(report())


def test_one_size_is_said_as_one() -> None:
    one = ImageRecord.empty(Path("a.png"), 40, 30, ImageState.VERIFIED_EMPTY)
    mixture = size_mixture(Dataset(("cat",), (one,), Path()), 320, 320)
    assert mixture is not None
    page = render_check_page(replace(report(), mixtures={"train": mixture}))
    assert "train: 1 size, 100 % landscape" in page


def test_many_findings_of_a_kind_are_listed_not_pictured(image: Path) -> None:
    many = [finding(image, (1, 2, 30, 40)) for _ in range(600)]
    text = render_check_page(report(*many))
    assert text.count("<figure>") == 12
    assert text.count("<li>") == 500
    assert "100 more" in text
