from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.detections import Detections
from hardmine.reports import lettering
from hardmine.reports.drawing import PALETTE, boxed, draw_boxes, titled


def found(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 0], table[:, 1].astype(np.int64))


def test_box_lies_where_it_should_and_the_input_is_untouched() -> None:
    image = Image.new("RGB", (260, 260), "white")
    drawn = draw_boxes(image, found((0.9, 1, 50, 100, 200, 220)), ("thing",))
    for edge in ((50, 160), (200, 160), (120, 100), (120, 220)):
        assert drawn.getpixel(edge) == PALETTE[0]
    assert drawn.getpixel((120, 160)) == (255, 255, 255)
    assert np.asarray(image).min() == 255


def test_label_stands_above_the_box_or_inside_its_top() -> None:
    image = Image.new("RGB", (260, 260), "white")
    above = draw_boxes(image, found((0.9, 1, 50, 100, 200, 220)), ("thing",))
    assert above.getpixel((51, 95)) == PALETTE[0]
    inside = draw_boxes(image, found((0.9, 1, 50, 0, 200, 220)), ("thing",))
    assert inside.getpixel((53, 4)) == PALETTE[0]


def test_classes_have_colours_and_the_best_is_on_top() -> None:
    image = Image.new("RGB", (260, 260), "white")
    two = found((0.9, 1, 50, 100, 200, 220), (0.3, 2, 50, 100, 200, 220))
    drawn = draw_boxes(image, two, ("a", "b"))
    assert drawn.getpixel((50, 200)) == PALETTE[0]
    only = draw_boxes(image, found((0.3, 2, 50, 100, 200, 220)), ("a", "b"))
    assert only.getpixel((50, 200)) == PALETTE[1]
    ninth = draw_boxes(image, found((0.3, 9, 50, 100, 200, 220)), tuple("abcdefghi"))
    assert ninth.getpixel((50, 200)) == PALETTE[0]


@pytest.mark.parametrize(
    "row",
    [
        (0.9, 1, -50, -50, 900, 900),
        (0.9, 1, 30, 30, 30, 30),
        (0.9, 1, 500, 500, 600, 600),
        (0.9, 1, 39, 29, 40, 30),
    ],
    ids=["larger than the image", "a point", "outside", "in the corner"],
)
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (300, 2)])
def test_any_box_on_any_image(row: tuple[float, ...], size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    assert draw_boxes(image, found(row), ("a long name of a class",)).size == size


def test_nothing_to_draw() -> None:
    image = Image.new("RGB", (20, 20), "red")
    assert np.array_equal(np.asarray(draw_boxes(image, found(), ("a",))), np.asarray(image))


def test_grey_becomes_colour() -> None:
    assert draw_boxes(Image.new("L", (50, 50)), found((0.9, 1, 5, 5, 20, 20)), ("a",)).mode == "RGB"


def test_a_thumbnail_shows_clear_boxes_only() -> None:
    from hardmine.reports.drawing import _best

    scores = np.array([0.2, 0.9, 0.5, 0.44, 0.9, 0.8, 0.7, 0.6], np.float32)
    found = Detections(np.zeros((8, 4), np.float32), scores, np.ones(8, np.int64))
    # Half of .9 is .45: .44 and .2 are clutter; of the six others the best five are drawn.
    assert _best(found, 5).scores.tolist() == pytest.approx([0.9, 0.9, 0.8, 0.7, 0.6])
    assert _best(found.at_least(0.85), 5).scores.tolist() == pytest.approx([0.9, 0.9])
    assert len(_best(Detections.none(), 5)) == 0


@pytest.mark.parametrize(("name", "other"), [("Bär", "Bör"), ("Ёж", "Уж")])
def test_letters_beyond_ascii_are_written(name: str, other: str) -> None:
    """A letter that a font lacks is an empty box: two names then look the same."""
    image = Image.new("RGB", (260, 260), "white")
    row = found((0.9, 1, 50, 100, 200, 220))
    one, two = (np.asarray(draw_boxes(image, row, (text,))) for text in (name, other))
    assert not np.array_equal(one[70:100], two[70:100])
    boxes = np.array([[50.0, 100, 200, 220]])
    one, two = (np.asarray(boxed(image, boxes, (text,), 260)) for text in (name, other))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("sign", ["\n", "\r\n", "\t", "\x00", "\ud800", "\u2028"])
@pytest.mark.parametrize("word", ["Bar", "Bär"])
def test_signs_that_no_font_draws_become_spaces(word: str, sign: str) -> None:
    """Such as the end of a line in the name of a class, or a byte that is no text in a file's name."""
    image, name = Image.new("RGB", (260, 260), "white"), f"{word}{sign}a"
    row, plain = found((0.9, 1, 50, 100, 200, 220)), f"{word}{' ' * len(sign)}a"
    boxes = np.array([[50.0, 100, 200, 220]])
    for one, two in (
        (draw_boxes(image, row, (name,)), draw_boxes(image, row, (plain,))),
        (boxed(image, boxes, (name,), 260), boxed(image, boxes, (plain,), 260)),
        (titled(image, name, name), titled(image, plain, plain)),
    ):
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_long_name_leaves_the_score_in_the_picture() -> None:
    image = Image.new("RGB", (260, 260), "white")
    rows = (found((score, 1, 50, 100, 200, 220)) for score in (0.91, 0.31))
    one, two = (
        np.asarray(draw_boxes(image, row, ("a long name of a class " * 4,))) for row in rows
    )
    assert not np.array_equal(one, two)


def test_tag_of_a_box_at_the_right_edge_stays_in_the_picture() -> None:
    image = Image.new("RGB", (360, 360), "white")
    boxes = np.array([[330.0, 100, 355, 220]])
    names = ("badger", "badge?")
    one, two = (np.asarray(boxed(image, boxes, (name,), 360)) for name in names)
    assert not np.array_equal(one, two)


def test_letters_are_sought_in_the_fonts_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The font with most of the letters is taken; files that are no fonts are passed over."""
    has = {"DejaVuSans.ttf": "a", "none.ttf": "", "some.ttf": "a犬", "all.ttf": "a犬猫"}
    monkeypatch.setattr(
        lettering, "_missing", lambda path, letters: len(letters - set(has[Path(path).name]))
    )
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: sorted(has)[1:])
    assert lettering._font_with.__wrapped__(frozenset("a犬猫")) == "all.ttf"
    assert lettering._font_with.__wrapped__(frozenset("a")).endswith("DejaVuSans.ttf")
