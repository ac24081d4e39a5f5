"""Numbers in sentences."""

import pytest

from hardmine.plurals import counted, some_of


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 boxes are"), (1, "1 box is"), (2, "2 boxes are")]
)
def test_the_word_fits_the_number(number: int, said: str) -> None:
    assert counted(number, "box is", "boxes are") == said


def test_an_s_is_the_usual_ending() -> None:
    assert [counted(n, "image") for n in (0, 1, 12)] == ["0 images", "1 image", "12 images"]


def test_names_beyond_the_limit_are_counted() -> None:
    names = ["can", "jar", "cup", "pot"]
    assert [some_of(names, most) for most in (1, 3, 4, 5)] == [
        "can and 3 more",
        "can, jar, cup and 1 more",
        "can, jar, cup, pot",
        "can, jar, cup, pot",
    ]
    assert some_of([], 3) == ""
