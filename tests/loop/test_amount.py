"""How many images a round adds: by hand."""

from __future__ import annotations

import pytest

from hardmine.errors import ConfigError
from hardmine.loop.loop_options import (
    Amount,
    LoopOptions,
    amount_for,
    choose_amount,
    read_add,
    steps_factor,
)


def test_a_share_or_a_number_pins_it() -> None:
    # .15 of 140 is 21
    assert amount_for(0.15, 140, added=0, threshold=0.3) == Amount(21)
    assert amount_for(1.0, 140, added=0, threshold=0.3) == Amount(140)
    assert amount_for(30.0, 140, added=0, threshold=0.3) == Amount(30)
    assert amount_for(0.001, 140, added=0, threshold=0.3) == Amount(1)
    assert amount_for(0.15, 33, added=0, threshold=0.3) == Amount(5)  # 4.95
    assert amount_for(2.0, 140, added=0, threshold=0.3) == Amount(2)  # images, no share
    pinned = choose_amount(Amount(30), [0.9] * 500)
    assert (pinned.count, pinned.why) == (30, "")


def test_the_least_is_the_usual_share_and_the_most_as_many_as_are_labelled() -> None:
    assert amount_for("auto", 100, added=0, threshold=0.3) == Amount(15, 100, 0.3)
    assert amount_for("auto", 100, added=60, threshold=0.3) == Amount(15, 40, 0.3)
    assert amount_for("auto", 100, added=95, threshold=0.3) == Amount(15, 15, 0.3)
    assert amount_for("auto", 33, added=0, threshold=0.3) == Amount(5, 33, 0.3)  # 4.95
    assert amount_for("auto", 3, added=0, threshold=0.3) == Amount(1, 3, 0.3)  # .45


def test_where_few_images_fire_the_usual_number_is_added() -> None:
    chosen = choose_amount(Amount(15, 100, 0.5), [0.9] * 10 + [0.4] * 300)
    assert chosen.count == 15
    assert chosen.why == (
        "15 images, the usual number: 10 images of the pool fire at score 0.50 (recall 0.8)"
    )


def test_half_of_what_scores_above_the_threshold_is_added() -> None:
    # 60 images, .25 above the threshold each: 15 in all, half of it after 30 images
    chosen = choose_amount(Amount(15, 100, 0.5), [0.75] * 60 + [0.4] * 300)
    assert chosen.count == 30
    assert chosen.why.startswith("30 images: 60 images of the pool fire")
    assert choose_amount(Amount(15, 30, 0.5), [0.75] * 60) == chosen  # as many as are allowed


def test_an_image_at_the_threshold_fires() -> None:
    why = choose_amount(Amount(15, 100, 0.5), [0.75, 0.5, 0.4375]).why
    assert why.endswith("2 images of the pool fire at score 0.50 (recall 0.8)")


def test_a_few_that_score_far_above_the_rest_are_enough() -> None:
    # 8 × .5 = 4 of 4 + 80 × .03125 = 6.5: half (3.25) is held by the first 7
    chosen = choose_amount(Amount(15, 100, 0.5), [1.0] * 8 + [0.53125] * 80)
    assert chosen.count == 15
    assert "half of what they score above it is in the hardest 7" in chosen.why


def test_negatives_never_outnumber_the_labelled_images() -> None:
    chosen = choose_amount(Amount(15, 40, 0.5), [0.75] * 500)
    assert chosen.count == 40
    assert "the images that were added would be more than the labelled ones" in chosen.why


def test_where_the_labelled_images_are_outnumbered_already_only_the_usual_number_is_added() -> None:
    # Of 40 labelled images 6 are the usual number; 40 were added before, so that 46 come together.
    chosen = choose_amount(amount_for("auto", 40, added=40, threshold=0.5), [0.75] * 44)
    assert chosen.count == 6
    assert chosen.why == (
        "6 images, the usual number: 44 images of the pool fire at score 0.50 (recall 0.8); more are "
        "not taken, since with these at least as many are added in all as are labelled"
    )


def test_without_an_operating_point_the_usual_number_is_added() -> None:
    assert choose_amount(Amount(15, 100, None), [0.9] * 500).count == 15


def test_one_image_is_said_as_one() -> None:
    assert choose_amount(Amount(1, 100, None), []).why.startswith("1 image, the usual number")
    assert "1 image of the pool fires" in choose_amount(Amount(2, 100, 0.5), [0.9]).why


def test_a_longer_round_shows_each_labelled_image_as_often() -> None:
    # of S steps of B images each a labelled one takes S·B / (100 + 15); with 55 added, f·S·B / 155
    assert steps_factor(100, 55, 1) == pytest.approx(155 / 115)
    assert steps_factor(100, 15, 1) == 1
    assert steps_factor(100, 5, 1) == 1
    assert steps_factor(100, 70, 2) == pytest.approx(170 / 130)


@pytest.mark.parametrize("text", ["much", "", "0.1.2"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted auto, a share or a number"):
        read_add(text)


@pytest.mark.parametrize("add", [0.0, -1.0, 1.5, 2.5, float("nan"), float("inf")])
def test_numbers_outside_the_limits_are_refused(add: float) -> None:
    with pytest.raises(ConfigError, match="add: got"):
        LoopOptions(add=add)


def test_the_option_takes_all_three_forms() -> None:
    assert [LoopOptions(add=read_add(text)).add for text in ("auto", "0.2", "40")] == [
        "auto",
        0.2,
        40.0,
    ]
